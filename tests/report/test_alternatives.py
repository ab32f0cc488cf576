import math

from torchstone.details import Axis, Bars, Curve, Histogram, Line, Marker, Scatter, Spectrum, Surface
from torchstone.report.alternatives import alternative
from torchstone.report.data_table import ROWS, data_table


def test_every_kind_is_told_in_sentences(kinds, empties, hostile_details):
    for detail in (*kinds.values(), *empties, *hostile_details):
        told = alternative(detail)
        assert told.endswith(".")
        assert "\n" not in told
        assert len(told) < 2000


def test_a_curve_tells_ends_and_extremes():
    line = Line("loss", (1, 2, 3, 4), (2.0, 0.5, math.nan, 1.0))
    told = alternative(Curve("", Axis("epoch"), Axis("loss", "nats"), (line,), (Marker("chance", 2.3),)))
    assert told == (
        "Line chart of loss in nats against epoch, 1 line. loss: from 2 at 1 to 1 at 4; lowest 0.5 at 2, highest 2 at 1. "
        "1 value is not finite and not drawn. Reference lines: chance at y = 2.3."
    )


def test_a_curve_over_named_places_says_their_names():
    line = Line("norm", (0, 1), (3.0, 1.0))
    assert "from 3 at first to 1 at last" in alternative(
        Curve("", Axis("layer"), Axis("norm"), (line,), ticks=("first", "last"))
    )


def test_a_histogram_tells_total_peak_and_median():
    told = alternative(Histogram("", Axis("margin"), (0, 1, 2, 3), (Bars("test", (1, 5, 4)),)))
    assert "test: total 10, most (5) between 1 and 2, median in the bin from 1." in told


def test_a_spectrum_tells_its_ends_and_signs():
    told = alternative(Spectrum("", (5.0, 1.0, -2.0), (0.1, 0.3, 0.2)))
    assert told == "Spectrum of 3 values: largest 5, smallest −2, 1 negative. Largest residual 0.3."


def test_a_surface_with_named_rows_tells_their_names(kinds):
    told = alternative(kinds["named rows"])
    assert "highest 1 at (1, 0.weight)" in told
    assert "at (40, 13.weight)" in told


def test_a_surface_tells_where_its_extremes_are():
    axis = Axis("a")
    told = alternative(Surface("", axis, axis, Axis("loss"), (0, 1), (10, 20), ((4, 3), (2, math.inf))))
    assert "Lowest 2 at (0, 20), highest 4 at (0, 10). 1 value is not finite" in told


def test_a_scatter_tells_its_correlation():
    told = alternative(Scatter("", Axis("a"), Axis("b"), (1, 2, 3), (2, 4, 6), ("x", "y", "x")))
    assert "Linear correlation 1." in told
    assert "Groups: x 2 and y 1." in told


def test_correlation_of_huge_and_constant_values():
    huge = Scatter("", Axis("a"), Axis("b"), (1e300, 2e300, 3e300), (3, 2, 1))
    assert "Linear correlation −1." in alternative(huge)
    constant = Scatter("", Axis("a"), Axis("b"), (1, 1, 1), (3, 2, 1))
    assert "correlation" not in alternative(constant)


def test_data_tables_are_short_and_true(kinds, empties, hostile_details):
    for detail in (*kinds.values(), *empties, *hostile_details):
        table = data_table(detail)
        if table is not None:
            assert len(table.rows) <= 3 * ROWS
            assert all(len(row) == len(table.columns) for row in table.rows)


def test_lines_over_the_same_places_share_a_table(kinds):
    table = data_table(kinds["layers"])
    assert table is not None
    assert table.columns == ("layer", "at start", "now")
    assert table.rows[0] == ("features.0", 1.1, 0.3)


def test_bands_are_in_the_table(kinds):
    table = data_table(kinds["curve"])
    assert table is not None
    assert table.columns == ("line", "epoch", "cross-entropy (nats)", "low", "high")
    assert "of 120 points" in table.caption


def test_histogram_table_keeps_the_total(kinds):
    detail = kinds["histogram"]
    table = data_table(detail)
    assert table is not None
    assert [sum(float(row[2 + k] or 0) for row in table.rows) for k in (0, 1)] == [
        sum(g.counts) for g in detail.groups
    ]


def test_long_data_tables_keep_their_ends():
    table = data_table(Spectrum("", tuple(range(500, 0, -1))))
    assert table is not None
    assert (table.rows[0], table.rows[-1]) == ((1, 500.0), (500, 1.0))
    assert table.caption == "12 of 500 points; all of them are in the JSON file."


def test_names_belong_to_the_positions_of_the_lines_wherever_they_start() -> None:
    curve = Curve(
        "t", Axis("layer"), Axis("y"), (Line("l", (1, 2, 3), (5, 6, 7)),), ticks=("conv", "relu", "head")
    )
    assert curve.tick_names() == {1.0: "conv", 2.0: "relu", 3.0: "head"}
    text = alternative(curve)
    assert "from 5 at conv to 7 at head" in text
