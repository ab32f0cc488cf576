"""How a verdict looks: a word, a sign for text, and an icon and colour for the page."""

from __future__ import annotations

from dataclasses import dataclass

from torchstone.reading import Level


@dataclass(frozen=True)
class Mark:
    """The looks of one verdict level.

    Args:
        word: Shown on badges.
        sign: One character for text.
        style: Its style in a terminal.
        icon: Path of a 16 x 16 icon whose outline differs from all others'.
    """

    word: str
    sign: str
    style: str
    icon: str


MARKS: dict[Level, Mark] = {
    Level.POOR: Mark(
        "Poor",
        "✖",
        "bold red",
        "M5 1h6l4 4v6l-4 4H5l-4-4V5zm.6 3.5L4.5 5.6 6.9 8l-2.4 2.4 1.1 1.1L8 9.1l2.4 2.4"
        " 1.1-1.1L9.1 8l2.4-2.4-1.1-1.1L8 6.9z",
    ),
    Level.ATTENTION: Mark(
        "Attention",
        "▲",
        "bold yellow",
        "M8 1.2 15.6 14.6H.4zM7.2 6v4.4h1.6V6zm0 5.4V13h1.6v-1.6z",
    ),
    Level.GOOD: Mark(
        "Good",
        "✔",
        "green",
        "M8 .8a7.2 7.2 0 1 0 0 14.4A7.2 7.2 0 0 0 8 .8m-1 10.3L3.9 8l1.2-1.2L7 8.7l4-4 1.2 1.2z",
    ),
    Level.INFORMATIVE: Mark(
        "Informative",
        "●",
        "blue",
        "M2.5 1h11A1.5 1.5 0 0 1 15 2.5v11a1.5 1.5 0 0 1-1.5 1.5h-11A1.5 1.5 0 0 1 1 13.5v-11"
        "A1.5 1.5 0 0 1 2.5 1m4.7 2.5v1.7h1.7V3.5zM6.2 6.6v1.3h1v3.3h-1.2v1.3h4.2v-1.3H8.9V6.6z",
    ),
    Level.NOT_APPLICABLE: Mark("Not applicable", "–", "dim", "M2 7h12v2H2z"),
    Level.ERROR: Mark(
        "Not measured",
        "?",
        "magenta",
        "M8 .8a7.2 7.2 0 1 0 0 14.4A7.2 7.2 0 0 0 8 .8m0 1.8c1.1 0 2.1.3 3 .9L3.5 11A5.4 5.4 0 0 1 8 2.6m0 10.8"
        "c-1.1 0-2.1-.3-3-.9L12.5 5A5.4 5.4 0 0 1 8 13.4",
    ),
}

ORDER = tuple(MARKS)
"""Verdict levels from most to least urgent."""
