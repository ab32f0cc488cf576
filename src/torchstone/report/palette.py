"""The report's colours, in a light and a dark set.

The series colours are darkened and lightened relatives of those of Okabe and Ito (2008): each stands out from its
background by 3:1 or more, and they stay apart for readers without long-, middle- or short-wave cones. No colour ever
carries a meaning alone: verdicts have a shape and a word, lines a dash, groups a symbol.
"""

from __future__ import annotations

SERIES_LIGHT = ("#0b68b0", "#c8500a", "#0a8064", "#8f3a80", "#5f4a00", "#343b45")
SERIES_DARK = ("#4fa6e8", "#ee7f45", "#3ecda2", "#e3b0da", "#f2dd8c", "#878e99")
INK_LIGHT, INK_DARK = "#23262b", "#e7e5e0"
MUTED_LIGHT, MUTED_DARK = "#5d626b", "#a5aab3"
GRID_LIGHT, GRID_DARK = "#e6e3dc", "#33373d"
PAPER_LIGHT, PAPER_DARK = "#fffefb", "#1d2025"

BAND_OPACITY = 0.18
# Dark to light in even steps of lightness, readable without colour vision; its ends stay off both papers.
SEQUENTIAL = ("#1f3a68", "#2c5c8f", "#3f7f9f", "#63a09c", "#98bd92", "#d8d58c")

# The same for a family of lines, for each paper: the faint end of a map would be lost as a line.
_FAMILY_LIGHT = ("#14284b", "#1f5a94", "#1f8a9c")
_FAMILY_DARK = ("#5a7fd0", "#5fb4bf", "#e6e29a")
FAMILY = 16  # colours of a family


def mixed(scale: tuple[str, ...], place: float) -> str:
    """The colour at `place` in [0, 1] of a scale.

    >>> mixed(("#000000", "#ffffff"), 0.5)
    '#808080'
    """
    at = place * (len(scale) - 1)
    left = min(int(at), len(scale) - 2)
    weight = at - left
    ends = [(int(scale[left][k : k + 2], 16), int(scale[left + 1][k : k + 2], 16)) for k in (1, 3, 5)]
    return "#" + "".join(f"{round((1 - weight) * a + weight * b):02x}" for a, b in ends)


def family(index: int, amount: int) -> str:
    """The colour of line `index` among `amount` ordered lines, on the light page."""
    step = round(index / max(1, amount - 1) * (FAMILY - 1))
    return mixed(_FAMILY_LIGHT, step / (FAMILY - 1))


def translucent(colour: str, opacity: float = BAND_OPACITY) -> str:
    """A `#rrggbb` colour as `rgba(...)`.

    >>> translucent("#ff0080", 0.5)
    'rgba(255,0,128,0.5)'
    """
    red, green, blue = (int(colour[start : start + 2], 16) for start in (1, 3, 5))
    return f"rgba({red},{green},{blue},{opacity:g})"


def dark_twins() -> dict[str, str]:
    """For each colour a figure may use on the light page, the one to draw instead on the dark page."""
    solid = dict(zip(SERIES_LIGHT, SERIES_DARK, strict=True))
    bands = {translucent(light): translucent(dark) for light, dark in solid.items()}
    plain = {
        INK_LIGHT: INK_DARK,
        MUTED_LIGHT: MUTED_DARK,
        GRID_LIGHT: GRID_DARK,
        PAPER_LIGHT: PAPER_DARK,
    }
    steps = [step / (FAMILY - 1) for step in range(FAMILY)]
    families = {mixed(_FAMILY_LIGHT, step): mixed(_FAMILY_DARK, step) for step in steps}
    return {**families, **solid, **bands, **plain}


def luminance(colour: str) -> float:
    """Relative luminance of a `#rrggbb` colour (WCAG 2.2).

    >>> luminance("#ffffff")
    1.0
    """
    channels = [int(colour[start : start + 2], 16) / 255 for start in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    """Contrast ratio of two colours (WCAG 2.2), from 1 to 21."""
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)
