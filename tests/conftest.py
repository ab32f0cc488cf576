"""Every test runs with the shapes in the numerical rooms' signatures checked."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

import beartype
from jaxtyping import install_import_hook


def check_shapes(function: Callable[..., Any]) -> Callable[..., Any]:
    """Check the annotations that name shapes, and no others: tests pass wrong settings on purpose."""
    if isinstance(function, type):
        return function
    hints = function.__annotations__
    function.__annotations__ = {name: hint for name, hint in hints.items() if "[Tensor" in str(hint)}
    return beartype.beartype(function)


# The hook takes the checker by its path, and must be there before anything imports the rooms.
_checker = ModuleType("shape_checker")
_checker.__dict__["check_shapes"] = check_shapes
sys.modules["shape_checker"] = _checker
ROOMS = ["torchstone.linalg", "torchstone.bounds", "torchstone.kernels", "torchstone.operators"]
install_import_hook(ROOMS, "shape_checker.check_shapes")
