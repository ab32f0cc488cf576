import io
from dataclasses import replace

import pytest
from rich.cells import cell_len
from rich.console import Console

from torchstone.details import Scalar, Scalars
from torchstone.reading import Level, Question, Verdict
from torchstone.report.terminal import MOST_LINES, render, to_text


def printed(examination, width=100, encoding="utf-8", **settings):
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding=encoding)
    render(examination, Console(file=stream, width=width, **settings), "report.html")
    stream.flush()
    return raw.getvalue().decode(encoding)


def crowd(read, amount):
    levels = list(Level)
    return [
        read(
            f"r{i}",
            levels[i % 6],
            title=f"Instrument {i}",
            question=list(Question)[i % 5],
            value=None if i % 6 > 3 else 1.0,
            verdict=Verdict(levels[i % 6], "why"),
        )
        for i in range(amount)
    ]


def test_one_screen_says_what_matters(rich):
    text = printed(rich)
    for words in (
        "digits", "50,890 parameters", "Where its error comes from  0.080 (0.055 to 0.113) error rate",
        "█ label noise 0.021", "1 ✖ Edge of stability  1.097 ± 0.007 of the limit",
        "    → Lower the learning rate to 0.08 or less", "Trainability   ✖ poor", "✔ good           Gradient flow",
        "– not applicable Certified radius: needs continuous", "1 poor, 2 attention, 3 good", "Report: report.html",
    ):  # fmt: skip
        assert words in text


@pytest.mark.parametrize(("width", "shown"), [(100, True), (60, True), (40, False)])
def test_a_remedy_that_can_be_tried_says_how(rich, width, shown):
    readings = dict(rich.readings)
    (name, reading), *_ = [
        (n, r) for n, r in readings.items() if r.remedies and r.verdict.level is Level.POOR
    ]
    first = replace(
        reading.remedies[0], action="Start with orthogonal weights. " * 5, trial="init=orthogonal"
    )
    readings[name] = replace(reading, remedies=(first,))
    text = printed(replace(rich, readings=readings), width)
    assert ("--try init=orthogonal" in text) is shown
    assert "→ Start with orthogonal" in text


@pytest.mark.parametrize("amount", [0, 1, 12, 23, 24, 60])
def test_forty_lines_of_a_hundred_columns(rich, read, amount):
    more = {reading.id: reading for reading in crowd(read, amount)}
    lines = printed(replace(rich, readings=rich.readings | more)).splitlines()
    assert len(lines) <= MOST_LINES
    assert max(map(cell_len, lines)) <= 100


@pytest.mark.parametrize("width", [20, 40, 60, 79, 80, 100, 200])
def test_no_line_is_wider_than_the_terminal(rich, hostile, width):
    for examination in (rich, hostile):
        lines = printed(examination, width).splitlines()
        assert max(map(cell_len, lines)) <= width
        assert len(lines) <= MOST_LINES + 6


def test_a_crowd_keeps_the_urgent_and_counts_the_rest(examined, read):
    text = printed(examined(*crowd(read, 90)))
    table = [line for line in text.splitlines() if "Instrument" in line and line[0] not in "12345"]
    assert sum("✖ poor" in line for line in table) == 15  # all of them; then as many as fit of the next level
    assert {line[15:].split()[1] for line in table} == {"poor", "attention"}
    rest = next(line for line in text.splitlines() if line.strip().startswith("and "))
    assert f"and {90 - len(table)} more: " in rest
    assert "15 good, 15 informative, 15 not applicable, 15 not measured" in rest


def test_a_line_a_reading_in_the_order_of_the_questions(rich):
    text = to_text(rich)
    places = [text.rindex(reading.title) for group in rich.by_question().values() for reading in group]
    assert places == sorted(places)


def test_hostile_text_cannot_move_the_cursor(hostile):
    text = printed(hostile, force_terminal=False)
    assert not any(ord(sign) < 32 and sign != "\n" for sign in text)
    assert "\u202e" not in text
    coloured = printed(hostile, force_terminal=True, color_system="standard")
    assert "\x1b[2J" not in coloured
    assert "\x1b]0" not in coloured


def test_rich_markup_in_names_is_text(examined, read):
    text = printed(examined(read(title="[bold red]x[/] :smile:")))
    assert "[bold red]x[/] :smile:" in text


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "latin-1"])
def test_terminals_without_the_signs(rich, hostile, encoding):
    text = printed(rich, encoding=encoding)
    assert "1 x Edge of stability  1.097 +/- 0.007 of the limit" in text
    assert "####" in text
    assert max(map(len, text.splitlines())) <= 100
    printed(hostile, encoding=encoding)


def test_the_bar_is_as_wide_as_the_terminal_and_in_proportion(examined, read):
    parts = Scalars("", (Scalar("a", 1), Scalar("b", 3)), stacked=True)
    for width in (33, 100):
        bar = next(
            line
            for line in printed(examined(read("error_budget", details=(parts,))), width).splitlines()
            if line.startswith("██")
        )
        assert len(bar) == width
        assert bar.count("█") == pytest.approx(width / 4, abs=0.5)
        assert set(bar) == set("█▓")


def test_no_budget_no_bar(examined, read):
    assert "Where its error" not in to_text(examined(read()))
    nothing = Scalars("", (Scalar("a", 0.0),), stacked=True)
    text = to_text(examined(read("error_budget", details=(nothing,))))
    assert "█ a 0" in text


def test_empty_faultless_and_interrupted(examined, read):
    assert "No instrument ran." in to_text(examined())
    assert "Nothing stands out" in to_text(examined(read()))
    assert "Interrupted" in to_text(examined(complete=False))


def test_plain_text_has_no_escapes(rich):
    assert "\x1b" not in to_text(rich)
    assert rich.to_text() == to_text(rich)
