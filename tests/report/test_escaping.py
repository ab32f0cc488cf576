import html
import json

import pytest
from markdown_it import MarkdownIt

from torchstone.report.escaping import (
    clean,
    code_for_markdown,
    for_markdown,
    for_plot,
    for_script,
    one_line,
    shorten,
)


def test_nothing_that_acts_on_its_surroundings_survives(hostile_texts):
    for text in hostile_texts:
        cleaned = clean(text)
        cleaned.encode("utf-8")  # a lone surrogate could not be
        assert not any(ord(sign) < 32 and sign not in "\t\n" for sign in cleaned)
        assert not any(sign in cleaned for sign in "\x7f\x9b\u202e\u2028\u2029\u2066")


def test_clean_keeps_other_scripts_and_paragraphs():
    assert clean("名前 🧪 é العربية\n\nnext") == "名前 🧪 é العربية\n\nnext"


def test_shorten():
    assert shorten("abc", 3) == "abc"
    assert shorten("abcd", 3) == "ab…"
    assert shorten("ab  cd", 4) == "ab…"


def test_plot_labels_are_text(hostile_texts):
    for text in hostile_texts:
        label = for_plot(text, 1000)
        assert "<" not in label
        assert "%{" not in label
        assert "$" not in label
        assert html.unescape(label).replace("\u200b", "") == one_line(text)


def test_script_data_round_trips_and_cannot_end_the_script(hostile_texts):
    data = {"texts": [clean(text) for text in hostile_texts], "raw": "\u2028</SCRIPT><!--&"}
    embedded = for_script(data)
    assert not any(sign in embedded for sign in "<>&\u2028\u2029")
    assert json.loads(embedded) == data


def test_script_data_refuses_what_is_not_json():
    with pytest.raises(ValueError, match="Out of range"):
        for_script([float("nan")])


def rendered(markdown) -> list:
    return MarkdownIt("commonmark").enable(["table", "strikethrough"]).parse(markdown)


def shown(token):
    return "".join(child.content for child in token.children)


EXTRA = (
    "# heading",
    "- item",
    "+ item",
    "1. item",
    "12) item",
    "---",
    "===",
    "    code",
    "> quote",
    "| a |",
    "0.080 ± 0.013",
    "a_b_c",
    "~~x~~",
    "&lt;",
    "#1",
    "-1",
    "",
)


def test_markdown_shows_the_text_as_it_is(hostile_texts):
    for text in (*hostile_texts, *EXTRA):
        tokens = rendered(for_markdown(text))
        if not one_line(text):
            assert tokens == []
            continue
        assert [token.type for token in tokens] == ["paragraph_open", "inline", "paragraph_close"], text
        assert {child.type for child in tokens[1].children or ()} <= {"text", "text_special"}, text
        assert shown(tokens[1]) == one_line(text)


def test_markdown_keeps_plain_numbers_readable():
    assert for_markdown("0.080 ± 0.013") == "0.080 ± 0.013"
    assert for_markdown("-1.5 and #3") == "-1.5 and #3"


@pytest.mark.parametrize("text", ["a`b", "``", "`x`", "plain", "a|b", "<b>", "\\"])
def test_code_spans_hold_any_text(text):
    (_, inline, _) = rendered(code_for_markdown(text))
    (code,) = inline.children
    assert code.type == "code_inline"
    assert code.content.strip() == text.replace("|", "\u2223")


def test_an_empty_code_span_is_nothing():
    assert code_for_markdown("") == ""
