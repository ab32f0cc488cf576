import json
import math
import re

import numpy as np
import plotly.graph_objects as go
import pytest

from torchstone.details import Axis, Bars, Curve, Histogram, Line, Marker, Scatter, Spectrum, Surface, thin
from torchstone.report.figures import figure
from torchstone.report.palette import SEQUENTIAL, dark_twins
from torchstone.report.resolution import FULL, STEPS, Resolution


def draw(detail, resolution=FULL):
    """The figure of a detail that has one."""
    made = figure(detail, resolution)
    assert made is not None
    return made


DRAWN = ("curve", "layers", "family", "histogram", "spectrum", "surface", "cells", "named rows", "scatter")


def test_every_figure_is_valid_plotly_and_valid_json(kinds, empties, hostile_details):
    drawn = [figure(detail) for detail in (*kinds.values(), *empties, *hostile_details)]
    assert sum(one is not None for one in drawn) >= len(DRAWN)
    for one in drawn:
        if one is not None:
            go.Figure(one)  # raises for any unknown or invalid property
            json.dumps(one, allow_nan=False)


def test_which_kinds_are_plotted(kinds):
    assert [name for name in kinds if figure(kinds[name]) is not None] == list(DRAWN)


def test_nothing_to_draw_is_no_figure(empties):
    drawn = [type(detail).__name__ for detail in empties if figure(detail) is not None]
    assert drawn == ["Curve", "Histogram", "Spectrum"]  # one point, one empty bin, two zeros


def test_no_label_is_markup(hostile_details):
    for detail in hostile_details:
        text = json.dumps(figure(detail), ensure_ascii=False)
        assert "<" not in text.replace("<br>", "").replace("<extra></extra>", "")
        assert "\x1b" not in text


def test_every_colour_has_a_dark_twin(kinds):
    twins = dark_twins()
    fixed = {*SEQUENTIAL, "rgba(0,0,0,0)", "rgba(255,255,255,0.55)"}
    for name in DRAWN:
        colours = set(re.findall(r"#[0-9a-f]{6}|rgba\([^)]*\)", json.dumps(figure(kinds[name]))))
        assert colours
        assert colours <= twins.keys() | fixed


def test_lines_keep_six_digits(kinds):
    detail = kinds["curve"]
    training = draw(detail)["data"][0]
    assert training["name"] == "training loss"
    assert training["y"] == pytest.approx(detail.lines[0].y, rel=5e-6)
    assert all(len(repr(value).replace(".", "").lstrip("0")) <= 6 for value in training["y"])


def test_bands_enclose_their_line(kinds):
    _, low, high, line = draw(kinds["curve"])["data"]
    assert all(a < y < b for a, y, b in zip(low["y"], line["y"], high["y"], strict=True))
    assert (high["fill"], low["showlegend"], high["showlegend"]) == ("tonexty", False, False)


def test_gaps_are_nulls_and_bands_skip_them():
    line = Line("a", (0, 1, 2), (1.0, math.nan, math.inf), (0.5, 1.0, 1.0), (1.5, math.nan, 2.0))
    low, high, drawn = draw(Curve("", Axis("x"), Axis("y"), (line,)))["data"]
    assert drawn["y"] == [1, None, None]
    assert (low["x"], high["y"]) == ([0, 2], [1.5, 2])


def test_a_logarithmic_axis_shows_only_what_is_positive():
    drawn = draw(Curve("", Axis("x"), Axis("y", log=True), (Line("a", (0, 1, 2), (0.0, -1.0, 3.0)),)))
    assert drawn["layout"]["yaxis"]["type"] == "log"
    assert drawn["data"][0]["y"] == [None, None, 3]


def test_a_logarithmic_axis_without_anything_positive_is_linear():
    drawn = draw(Curve("", Axis("x"), Axis("y", log=True), (Line("a", (0, 1), (0.0, -1.0)),)))
    assert drawn["layout"]["yaxis"]["type"] == "linear"


@pytest.mark.parametrize(
    ("low", "high", "names"),
    [
        (0.06, 2.2, ["0.05", "0.1", "0.2", "0.5", "1", "2"]),
        (1e-3, 1e3, ["0.001", "0.01", "0.1", "1", "10", "100", "1000"]),
        (1e-9, 1e12, ["10⁻⁹", "10⁻⁶", "0.001", "1", "1000", "10⁶", "10⁹", "10¹²"]),
    ],
)
def test_logarithmic_ticks_are_few_and_round(low, high, names):
    drawn = draw(Curve("", Axis("x"), Axis("y", log=True), (Line("a", (0, 1), (low, high)),)))
    axis = drawn["layout"]["yaxis"]
    assert axis["ticktext"] == names
    assert len(axis["tickvals"]) == len(names)


def test_named_ticks_stay_few():
    places = tuple(float(i) for i in range(100))
    drawn = draw(
        Curve(
            "",
            Axis("layer"),
            Axis("y"),
            (Line("a", places, places),),
            ticks=tuple(f"layer{i}" for i in range(100)),
        )
    )
    axis = drawn["layout"]["xaxis"]
    assert axis["tickvals"][:3] == [0, 5, 10]
    assert axis["ticktext"][:3] == ["layer0", "layer5", "layer10"]
    assert len(axis["tickvals"]) <= 24


def test_reference_lines_lie_on_their_axes():
    markers = (Marker("limit", 2.0), Marker("start", 1.0, "x"), Marker("nowhere", math.nan))
    drawn = draw(Curve("", Axis("x"), Axis("y"), (Line("a", (0, 1), (1, 2)),), markers))
    down, across = drawn["layout"]["shapes"]
    assert (down["x0"], down["x1"], down["yref"], down["name"]) == (1, 1, "paper", "start")
    assert (across["y0"], across["y1"], across["xref"], across["name"]) == (2, 2, "paper", "limit")
    assert down["line"]["dash"] != across["line"]["dash"]


def test_reference_lines_that_a_logarithmic_axis_cannot_show_are_left_out():
    drawn = draw(
        Curve("", Axis("x"), Axis("y", log=True), (Line("a", (0, 1), (1, 2)),), (Marker("zero", 0.0),))
    )
    assert drawn["layout"]["shapes"] == []


def test_many_lines_become_a_family_of_shades():
    drawn = draw(Curve("", Axis("x"), Axis("y"), tuple(Line(str(k), (0, 1), (0, k)) for k in range(12))))
    assert len({trace["line"]["color"] for trace in drawn["data"]}) == 12
    assert {trace["line"]["dash"] for trace in drawn["data"]} == {"solid"}


def test_lines_differ_by_dash_where_colours_repeat():
    drawn = draw(Curve("", Axis("x"), Axis("y"), tuple(Line(str(k), (0, 1), (0, k)) for k in range(8))))
    looks = {(trace["line"]["color"], trace["line"]["dash"]) for trace in drawn["data"]}
    assert len(looks) == 8


def test_a_histogram_outline_holds_its_counts():
    detail = Histogram("", Axis("x"), (0, 1, 3, 4), (Bars("a", (2, 5, 1)),))
    (outline,) = draw(detail)["data"]
    assert outline["line"]["shape"] == "hv"
    xs, ys = np.array(outline["x"], float), np.array(outline["y"], float)
    # A step holds each height up to the next place: its area is the sum of counts times widths.
    assert np.sum(np.diff(xs) * ys[:-1]) == 2 * 1 + 5 * 2 + 1 * 1
    assert (ys[0], ys[-1]) == (0, 0)


def test_histogram_bins_are_added_up_when_thinned():
    edges = tuple(float(i) for i in range(1001))
    detail = Histogram("", Axis("x"), edges, (Bars("a", tuple([1.0] * 1000)),))
    (outline,) = draw(detail, Resolution(points=101))["data"]
    assert sum(outline["y"]) == 1000
    assert len(outline["x"]) <= 103


def test_a_histogram_from_zero_is_not_logarithmic():
    drawn = draw(Histogram("", Axis("x", log=True), (0, 1, 10), (Bars("a", (1, 2)),)))
    assert drawn["layout"]["xaxis"]["type"] == "linear"


def test_negative_eigenvalues_are_hollow_on_a_logarithmic_axis():
    drawn = draw(Spectrum("", (10.0, 1.0, 0.0, -0.1), (0.1, 0.1, 0.1, math.nan), log=True))
    positive, negative = drawn["data"]
    assert (positive["x"], positive["y"]) == ([1, 2], [10, 1])
    assert (negative["x"], negative["y"], negative["marker"]["symbol"]) == ([4], [0.1], "circle-open")
    assert negative["error_y"]["array"] == [0]


def test_a_linear_spectrum_keeps_signs():
    (dots,) = draw(Spectrum("", (10.0, 0.0, -0.1)))["data"]
    assert dots["y"] == [10, 0, -0.1]


def test_named_rows_are_cells_from_the_top(kinds):
    drawn = draw(kinds["named rows"])
    (trace,) = drawn["data"]
    assert trace["type"] == "heatmap"  # nothing lies between two layers
    assert drawn["layout"]["yaxis"]["autorange"] == "reversed"
    assert drawn["layout"]["yaxis"]["ticktext"][:2] == ["0.weight", "1.weight"]
    assert trace["text"][13][0] == "13.weight"
    assert trace["z"][2][0] == -2


def test_very_many_named_rows_are_thinned_with_their_names():
    rows = tuple(f"{k}.w" for k in range(300))
    x = Axis("step")
    detail = Surface(
        "", x, x, x, (1, 2), tuple(range(300)), tuple((float(k), 1.0) for k in range(300)), rows=rows
    )
    drawn = draw(detail)
    (trace,) = drawn["data"]
    assert [text[0] for text in trace["text"]] == [f"{z[0]}.w" for z in trace["z"]]
    assert drawn["layout"]["height"] <= 640


def test_fine_surfaces_have_contours_and_coarse_ones_cells(kinds):
    drawn = draw(kinds["surface"])
    assert drawn["data"][0]["type"] == "contour"
    [menu] = drawn["layout"]["updatemenus"]
    flat, relief = (button["args"] for button in menu["buttons"])
    assert (flat[0]["type"][0], relief[0]["type"][0]) == ("contour", "surface")
    assert len(relief[0]["visible"]) == len(drawn["data"])
    assert relief[0]["visible"][1:] == [False] * (len(drawn["data"]) - 1)  # paths lie on the map
    assert "updatemenus" not in draw(kinds["cells"])["layout"]
    (cells,) = draw(kinds["cells"])["data"]
    assert cells["type"] == "heatmap"
    assert cells["z"] == [[50, 2, 1], [0, 47, 3], [4, 0, 44]]


def test_a_logarithmic_height_is_shown_as_its_logarithm():
    axis = Axis("a")
    (cells,) = draw(Surface("", axis, axis, Axis("loss", log=True), (0, 1), (0,), ((100.0, 0.0),)))["data"]
    assert cells["z"] == [[2, None]]
    assert cells["colorbar"]["title"]["text"] == "log₁₀ loss"


def test_groups_differ_by_symbol_and_keep_their_points(kinds):
    detail = kinds["scatter"]
    traces = draw(detail)["data"]
    assert {trace["name"]: len(trace["x"]) for trace in traces} == {
        g: detail.groups.count(g) for g in detail.groups
    }
    assert len({trace["marker"]["symbol"] for trace in traces}) == 3


def test_very_many_groups_share_a_last_one():
    names = tuple(f"class {i}" for i in range(40))
    traces = draw(Scatter("", Axis("a"), Axis("b"), tuple(range(40)), tuple(range(40)), names))["data"]
    assert len(traces) == 12
    assert (traces[-1]["name"], len(traces[-1]["x"])) == ("other", 29)


@pytest.mark.parametrize("resolution", STEPS)
def test_resolutions_bound_what_a_figure_holds(resolution):
    many = tuple(float(i) for i in range(2000))
    (line,) = draw(Curve("", Axis("x"), Axis("y"), (Line("a", many, many),)), resolution)["data"]
    assert line["x"] == thin(2000, resolution.points)
    grid = tuple(float(i) for i in range(150))
    axis = Axis("a")
    (map_,) = draw(Surface("", axis, axis, axis, grid, grid, (grid,) * 150), resolution)["data"]
    assert len(map_["z"]) == len(map_["x"]) == resolution.grid
