"""Text of unknown origin, made safe for the place it goes to: HTML, a plot, Markdown, a terminal.

Class names, file names and error messages come from outside. None of them may become markup, move the cursor, reverse
the reading direction of the page or end a script element.
"""

from __future__ import annotations

import json
import re
from typing import Any

# Control characters (they move cursors and end strings), marks that override the direction of text, and halves of
# surrogate pairs (no encoding can write them). Tab and newline are kept.
_UNSAFE = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028\u2029\u202a-\u202e\u2066-\u2069\ufeff\ud800-\udfff]"
)
_SPACE = re.compile(r"[ \t\n]+")
# Signs that start markup anywhere, and those that do at the start of a line.
_MARKDOWN = re.compile(r"[\\`*_\[\]|~<>&$]|^(?:#(?=[# ])|[+\-](?=[ +\-])|=(?==)|\d+(?=[.)](?: |$)))")
_SCRIPT = {"<": "\\u003c", ">": "\\u003e", "&": "\\u0026", "\u2028": "\\u2028", "\u2029": "\\u2029"}


def clean(text: str) -> str:
    """The text with a replacement sign for every character that could act on its surroundings.

    >>> clean("safe" + chr(27) + "[2J")
    'safe�[2J'
    """
    return _UNSAFE.sub("\ufffd", text.replace("\r\n", "\n"))


def one_line(text: str) -> str:
    """Cleaned, with every run of white space as one blank.

    >>> one_line(" two" + chr(10) + "lines ")
    'two lines'
    """
    return _SPACE.sub(" ", clean(text)).strip()


def shorten(text: str, most: int) -> str:
    """One line of at most `most` characters; what is left out is marked by an ellipsis.

    >>> shorten("a long name", 6)
    'a lon…'
    """
    line = one_line(text)
    return line if len(line) <= most else line[: most - 1].rstrip() + "…"


def both_ends(text: str, most: int) -> str:
    """One line of at most `most` characters without what is in the middle: names of layers differ at their ends.

    >>> both_ends("encoder.layers.0.attention.query.weight", 18)
    'encod…query.weight'
    """
    line = one_line(text)
    first = (most - 1) // 3
    return line if len(line) <= most else f"{line[:first]}…{line[first + 1 - most :]}"


def for_plot(text: str, most: int = 60) -> str:
    """A label for Plotly, which reads a few HTML tags and entities, and `%{...}` in templates.

    >>> for_plot("<b>bold</b> & co")
    '&lt;b&gt;bold&lt;/b&gt; &amp; co'
    """
    line = shorten(text, most)
    # A pair of dollars would ask for a formula.
    for sign, entity in (("&", "&amp;"), ("<", "&lt;"), (">", "&gt;"), ("$", "&#36;")):
        line = line.replace(sign, entity)
    return line.replace("%{", "%\u200b{")


def for_markdown(text: str) -> str:
    r"""One line of Markdown that shows the text as it is, in tables too.

    >>> for_markdown("a|b *c*")
    'a\\|b \\*c\\*'
    """
    entities = {"<": "&lt;", ">": "&gt;", "&": "&amp;"}
    return _MARKDOWN.sub(lambda found: entities.get(found[0], _with_backslash(found[0])), one_line(text))


def _with_backslash(sign: str) -> str:
    # "1." starts a list; a backslash before the dot keeps it a number, one before the digit would show.
    return f"{sign}\\" if sign.isdigit() else f"\\{sign}"


def code_for_markdown(text: str) -> str:
    """A code span that holds the text, whatever back-ticks it contains.

    >>> code_for_markdown("a`b")
    '`` a`b ``'
    """
    line = one_line(text).replace("|", "\u2223")  # a table cell ends at a pipe, inside code spans too
    if not line:
        return ""
    longest = max((len(run) for run in re.findall("`+", line)), default=0)
    fence = "`" * (longest + 1)
    return f"{fence} {line} {fence}" if longest else f"{fence}{line}{fence}"


def for_script(data: Any) -> str:
    r"""Compact JSON that no HTML parser can take for the end of the script element that holds it.

    >>> for_script({"name": "</script>"})
    '{"name":"\\u003c/script\\u003e"}'
    """
    text = json.dumps(data, separators=(",", ":"), allow_nan=False, ensure_ascii=False)
    return "".join(_SCRIPT.get(sign, sign) for sign in text) if any(s in text for s in _SCRIPT) else text
