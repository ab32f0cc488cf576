"""What a reading may show, and what is refused before it could spoil a report."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

from torchstone.details import (
    MAX_CELLS,
    MAX_PIXELS,
    MAX_POINTS,
    Axis,
    Bars,
    Histogram,
    Line,
    Marker,
    Picture,
    Scalar,
    Scatter,
    Spectrum,
    Surface,
    Table,
    number,
    numbers,
    thin,
)
from torchstone.errors import SettingError

X, Y = Axis("x"), Axis("y")
NOTHING: Any = object()
LIST: Any = [1]
MANY = tuple(range(MAX_POINTS + 1))


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Line("l", (1.0,), ()), r"Line 'l' needs series of one length; got lengths \[0, 1\]"),
        (lambda: Line("l", (1.0,), (1.0,), (1.0, 2.0), ()), "one length"),
        (lambda: Line("l", MANY, MANY), "at most 2,000 points; got 2,001. Thin the series"),
        (lambda: Scatter("s", X, Y, (1.0, 2.0), (1.0,)), "one length"),
        (lambda: Scatter("s", X, Y, (1.0,), (1.0,), ("a", "b")), "one length"),
        (lambda: Scatter("s", X, Y, MANY, MANY), "at most"),
        (lambda: Spectrum("s", (1.0,), (1.0, 2.0)), "one length"),
        (lambda: Spectrum("s", MANY), "at most"),
        (lambda: Histogram("h", X, (0.0, 1.0), (Bars("b", ()),)), "one more edge than counts"),
        (lambda: Histogram("h", X, MANY, (Bars("b", MANY[1:]),)), "at most"),
        (lambda: Table("t", ("a",), tuple((1,) for _ in MANY)), "at most"),
        (lambda: Table("t", ("a",), ((NOTHING,),)), "cells of table 't' must be text, numbers.*got object"),
        (lambda: Table("t", ("a",), ((LIST,),)), "got list"),
        (lambda: Surface("s", X, Y, X, (0.0,), (0.0, 1.0), ((1.0,),)), "z of 2 rows of 1 values"),
        (lambda: Surface("s", X, Y, X, (0.0,), (0.0,), ((1.0, 2.0),)), "z of 1 rows of 1 values"),
        (lambda: Surface("s", X, Y, X, (0.0,), (0.0,), ((1.0,),), rows=("a", "b")), "has 1 rows; got 2 names"),
        (lambda: Surface("s", X, Y, X, MANY[:201], MANY[:201], (MANY[:201],) * 201), f"at most {MAX_CELLS:,}"),
        (lambda: Picture("p", 2, 2, (0.0,) * 8), "1 or 3 values a pixel; got 8 values"),
        (lambda: Picture("p", 1, MAX_PIXELS + 1, (0.0,) * (MAX_PIXELS + 1)), "at most"),
        (lambda: Marker("m", 0.0, "z"), 'must be "x" or "y"'),
        (lambda: thin(10, 1), "first and the last"),
    ],
)  # fmt: skip
def test_what_cannot_be_drawn_is_refused(make: Any, words: str) -> None:
    with pytest.raises(SettingError, match=words):
        make()


def test_what_may_be_empty() -> None:
    assert Line("l", (), ()).y == ()
    assert Spectrum("s", ()).values == ()
    assert Table("t", ("a",), ()).rows == ()
    assert Scatter("s", X, Y, (), ()).x == ()


@pytest.mark.parametrize("values", [[1, 2], (1.0, 2.0), np.array([1, 2]), torch.tensor([1, 2]), iter([1, 2])])
def test_numbers_of_any_library(values: Any) -> None:
    found = numbers(values)
    assert found == (1.0, 2.0)
    assert {type(one) for one in found} == {float}


def test_cells_of_any_library() -> None:
    cells: Any = (np.int64(3), np.float32(0.5), torch.tensor(2), np.bool_(True), None, "x", float("nan"))
    table = Table("t", tuple("abcdefg"), (cells,))
    assert table.rows[0][:6] == (3, 0.5, 2, True, None, "x")
    assert [type(cell) for cell in table.rows[0][:4]] == [int, float, int, bool]
    assert table == Table("t", tuple("abcdefg"), (cells,))


def test_every_nan_is_the_same() -> None:
    """NaN differs from itself, so records that hold one compare equal only if it is the same object."""
    assert number(np.float64("nan")) is number(-math.nan)
    assert Scalar("s", float("nan"), low=float("nan")) == Scalar("s", math.nan, low=math.nan)
    assert Marker("m", float("nan")) == Marker("m", float("nan"))
    assert Line("l", (0.0,), (float("nan"),)) == Line("l", (0.0,), (np.float32("nan"),))  # pyright: ignore[reportArgumentType]
