import pytest
from markdown_it import MarkdownIt

from torchstone.details import Table
from torchstone.reading import Level
from torchstone.report.escaping import one_line
from torchstone.report.markdown import to_markdown


def parse(markdown):
    return MarkdownIt("commonmark").enable("table").parse(markdown)


def headings(tokens):
    return [(t.tag, tokens[i + 1]) for i, t in enumerate(tokens) if t.type == "heading_open"]


def text_of(token):
    return "".join(child.content for child in token.children)


def rows(tokens):
    """Cells in each row of each table."""
    tables, row = [], 0
    for token in tokens:
        if token.type == "table_open":
            tables.append([])
        elif token.type == "tr_open":
            row = 0
        elif token.type in ("th_open", "td_open"):
            row += 1
        elif token.type == "tr_close":
            tables[-1].append(row)
    return tables


def test_sections_are_in_order(rich):
    found = [(tag, text_of(inline)) for tag, inline in headings(parse(to_markdown(rich)))]
    assert found[:5] == [
        ("h1", "digits"),
        ("h2", "Where its error comes from"),
        ("h2", "What to change first"),
        ("h2", "Noticed before measuring"),
        ("h2", "Where does its error come from?"),
    ]
    assert found[-1] == ("h2", "How to get these numbers again")
    assert [name for tag, name in found if tag == "h3"] == [
        r.title for r in rich.readings.values() if r.measured
    ]


def test_the_essentials_are_said(rich):
    said = to_markdown(rich).replace("\u00a0", " ")
    for words in (
        "50,890 parameters", "**0.080 (0.055 to 0.113) error rate**", "1. **Edge of stability** (✖ poor, 1.097 ± 0.007 of the limit)",
        "| label noise | 0.021 (0.015 to 0.028) error rate |", "| ▲ Attention | Calibration | 0.061 ± 0.012 |",
        "out of memory: 3.2 GiB asked for", "`torchstone examine digits --plan standard --seed 0`",
        "Spectrum of 59 values", "Evidence: `edge_of_stability` in the atlas.", "| 8 | 1 | 4 | 0.1429 |",
    ):  # fmt: skip
        assert words in said


@pytest.mark.parametrize("name", ["rich", "hostile"])
def test_tables_are_rectangular(name, request):
    tables = rows(parse(to_markdown(request.getfixturevalue(name))))
    assert len(tables) >= 6
    assert all(len(set(table)) == 1 for table in tables)


def test_hostile_text_stays_text(hostile, hostile_texts):
    tokens = parse(to_markdown(hostile))
    kinds = {t.type for t in tokens} | {c.type for t in tokens for c in t.children or ()}
    assert not kinds & {"html_block", "html_inline", "image", "link_open", "fence", "code_block"}
    titles = {text_of(inline) for tag, inline in headings(tokens) if tag == "h3"}
    assert titles <= {one_line(text) for text in hostile_texts}
    assert "\x1b" not in to_markdown(hostile)


def test_empty_and_faultless_examinations(examined, read, empties):
    assert "No instrument ran" in to_markdown(examined(findings=(), complete=False))
    assert "**Interrupted**" in to_markdown(examined(complete=False))
    assert "Nothing stands out" in to_markdown(examined(read(details=empties)))


def test_long_tables_are_cut(examined, read):
    said = to_markdown(examined(read(details=(Table("", ("a",), tuple((i,) for i in range(80))),))))
    assert "30 more rows are in the JSON file." in said
    assert "| 49 |" in said
    assert "| 50 |" not in said


def test_what_was_not_measured_says_why_in_the_overview(rich):
    said = to_markdown(rich)
    assert "| – Not applicable | Certified radius |  | needs continuous inputs" in said
    assert "### Certified radius" not in said


def test_method_of_the_examination(rich):
    assert rich.to_markdown() == to_markdown(rich)


def test_a_budget_that_failed(examined, read):
    said = to_markdown(examined(read("error_budget", Level.ERROR, value=None, headline="Not measured: boom")))
    assert "## Where its error comes from\n\nNot measured: boom" in said
