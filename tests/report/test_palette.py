import itertools
import math
import re
from importlib.resources import files

import pytest

from torchstone.reading import Level
from torchstone.report.marks import MARKS
from torchstone.report.palette import (
    FAMILY,
    INK_DARK,
    INK_LIGHT,
    MUTED_DARK,
    MUTED_LIGHT,
    PAPER_DARK,
    PAPER_LIGHT,
    SERIES_DARK,
    SERIES_LIGHT,
    contrast,
    dark_twins,
    family,
)

# Machado, Oliveira and Fernandes 2009, table 1, severity 1.0; on linear RGB.
CONES = {
    "protanopia": ((0.152286, 1.052583, -0.204868), (0.114503, 0.786281, 0.099216), (-0.003882, -0.048116, 1.051998)),
    "deuteranopia": ((0.367322, 0.860646, -0.227968), (0.280085, 0.672501, 0.047413), (-0.011820, 0.042940, 0.968881)),
    "tritanopia": ((1.255528, -0.076749, -0.178779), (-0.078411, 0.930809, 0.147602), (0.004733, 0.691367, 0.303900)),
}  # fmt: skip
STYLE = (files("torchstone.report") / "templates" / "style.css").read_text(encoding="utf-8")
LIGHT_RULES, DARK_RULES = STYLE.split("@media screen and (prefers-color-scheme: dark)")


def linear(colour):
    channels = [int(colour[k : k + 2], 16) / 255 for k in (1, 3, 5)]
    return [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]


def lab(rgb):
    """CIE L*a*b* of linear RGB."""
    matrix = ((0.4124, 0.3576, 0.1805), (0.2126, 0.7152, 0.0722), (0.0193, 0.1192, 0.9505))
    xyz = [sum(m * min(max(c, 0.0), 1.0) for m, c in zip(row, rgb, strict=True)) for row in matrix]
    bend = lambda t: t ** (1 / 3) if t > 216 / 24389 else (24389 / 27 * t + 16) / 116
    x, y, z = (bend(v / w) for v, w in zip(xyz, (0.9505, 1.0, 1.089), strict=True))
    return 116 * y - 16, 500 * (x - y), 200 * (y - z)


def seen(colour, deficiency):
    return lab([sum(m * c for m, c in zip(row, linear(colour), strict=True)) for row in CONES[deficiency]])


def variable(rules, name):
    found = re.search(rf"--{name}: (#[0-9a-f]{{6}})", rules)
    assert found, name
    return found[1]


def test_contrast_of_the_extremes():
    assert contrast("#000000", "#ffffff") == pytest.approx(21)
    assert contrast("#777777", "#777777") == 1


@pytest.mark.parametrize(("series", "paper"), [(SERIES_LIGHT, PAPER_LIGHT), (SERIES_DARK, PAPER_DARK)])
def test_series_stand_out_from_their_paper(series, paper):
    assert all(contrast(colour, paper) >= 3 for colour in series)


@pytest.mark.parametrize("deficiency", list(CONES))
@pytest.mark.parametrize("series", [SERIES_LIGHT, SERIES_DARK])
def test_series_stay_apart_without_some_cones(series, deficiency):
    distances = [
        math.dist(seen(a, deficiency), seen(b, deficiency)) for a, b in itertools.combinations(series, 2)
    ]
    assert min(distances) > 10  # a just noticeable difference is about 2.3


@pytest.mark.parametrize(
    ("ink", "paper"),
    [(INK_LIGHT, PAPER_LIGHT), (MUTED_LIGHT, PAPER_LIGHT), (INK_DARK, PAPER_DARK), (MUTED_DARK, PAPER_DARK)],
)
def test_plots_texts_are_readable(ink, paper):
    assert contrast(ink, paper) >= 4.5


def test_families_of_lines_stand_out_in_both_themes():
    twins = dark_twins()
    colours = [family(i, 40) for i in range(40)]
    assert len(set(colours)) == FAMILY
    assert all(
        contrast(colour, PAPER_LIGHT) >= 3 and contrast(twins[colour], PAPER_DARK) >= 3 for colour in colours
    )


def test_the_page_uses_the_colours_of_the_plots():
    for rules, series, paper, ink, muted in (
        (LIGHT_RULES, SERIES_LIGHT, PAPER_LIGHT, INK_LIGHT, MUTED_LIGHT),
        (DARK_RULES, SERIES_DARK, PAPER_DARK, INK_DARK, MUTED_DARK),
    ):
        assert tuple(variable(rules, f"s{k}") for k in range(len(series))) == series
        assert (variable(rules, "card"), variable(rules, "ink"), variable(rules, "muted")) == (
            paper,
            ink,
            muted,
        )


def test_the_chosen_dark_theme_is_the_preferred_dark_theme():
    preferred, chosen = DARK_RULES.split(':root[data-theme="dark"]')
    assert re.findall(r"--\w+: [^;]+", preferred) == re.findall(r"--\w+: [^;]+", chosen.split("}")[0])


@pytest.mark.parametrize("rules", [LIGHT_RULES, DARK_RULES])
def test_verdicts_and_links_are_readable_text(rules):
    for name in (*(level.value for level in Level), "link", "muted", "ink"):
        for ground in ("paper", "card"):
            assert contrast(variable(rules, name), variable(rules, ground)) >= 4.5, name
    for k in range(len(SERIES_LIGHT)):
        assert contrast(variable(rules, "on-series"), variable(rules, f"s{k}")) >= 4.5


def test_no_verdict_is_told_by_colour_alone():
    assert set(MARKS) == set(Level)
    for part in ("word", "sign", "icon"):
        assert len({getattr(mark, part) for mark in MARKS.values()}) == len(Level)
