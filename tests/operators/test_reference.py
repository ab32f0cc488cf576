"""The public surface of curvature is documented: every name on the page, every function with its cost and error."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import pytest

import torchstone.linalg
import torchstone.operators

PAGE = Path(__file__).parents[2] / "docs" / "curvature_reference.md"
ROOMS: tuple[Any, ...] = (torchstone.linalg, torchstone.operators)
PUBLIC = [
    thing
    for room in ROOMS
    for thing in (getattr(room, name) for name in room.__all__)
    if inspect.isfunction(thing) or inspect.isclass(thing)
]
WITHOUT_COST = {
    "require_square",
    "require_symmetric",
    "ParameterSpace",
}  # checks of settings, and bookkeeping
ERROR = ("error", "bias", "exact", "residual", "round", "bound", "true ", "accura")


@pytest.mark.parametrize("thing", PUBLIC, ids=lambda thing: thing.__name__)
def test_it_is_on_the_page_and_says_what_it_costs(thing: Any) -> None:
    assert f"::: {thing.__module__}.{thing.__name__}\n" in PAGE.read_text()
    text = (inspect.getdoc(thing) or "").lower()
    computes = inspect.isfunction(thing) or "args:" in text  # results of functions list attributes instead
    if computes and thing.__name__ not in WITHOUT_COST:
        assert "cost" in text
        assert any(word in text for word in ERROR)
