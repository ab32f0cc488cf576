"""Paths over a map: drawn, told in words, written and read again."""

from __future__ import annotations

from torchstone.details import Axis, Line, Surface
from torchstone.report.alternatives import alternative
from torchstone.report.figures import figure
from torchstone.report.figures.frame import Figure
from torchstone.serialise import from_plain, to_plain

GRID = tuple(float(i) for i in range(13))


def map_with(*paths: Line) -> Surface:
    axis = Axis("x")
    return Surface("s", axis, axis, Axis("loss"), GRID, GRID, tuple(GRID for _ in GRID), paths=paths)


def draw(detail: Surface) -> Figure:
    made = figure(detail)
    assert made is not None
    return made


def test_a_path_is_a_line_with_its_end_marked() -> None:
    _, line, end = draw(map_with(Line("training", (1, 2, 3), (4, 5, 6))))["data"]
    assert (line["mode"], line["x"], line["y"]) == ("lines+markers", [1, 2, 3], [4, 5, 6])
    assert (end["x"], end["y"], end["marker"]["symbol"]) == ([3], [6], "star")
    assert len(draw(map_with())["data"]) == 1


def test_a_path_is_told_in_words_and_survives_json() -> None:
    detail = map_with(Line("training", (1, 2, 3), (4, 5, 6)))
    assert alternative(detail).endswith("Path training from (1, 4) to (3, 6).")
    assert from_plain(Surface, to_plain(detail)) == detail


def test_names_cannot_inject() -> None:
    _, line, _ = draw(map_with(Line("<b>%{x}", (1,), (4,))))["data"]
    assert "<b>" not in line["name"] + line["hovertemplate"].split(":")[0]
