"""Gradients that only exist inside the step: an optimiser given a closure computes them there."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


def after_closure(
    look: Callable[[], None], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
    """The arguments of `step`, with its closure changed so that `look` is called after its first evaluation.

    Lightning always steps with a closure, as does L-BFGS, which evaluates it many times.

    Args:
        look: Called once, when the gradients are there and the parameters are still as before the step.
        args: Of `step`, the optimiser first.
        kwargs: Of `step`.

    Returns:
        The arguments to step with; None where there is no closure.

    >>> calls = []
    >>> args, kwargs = after_closure(lambda: calls.append("look"), ("optimizer", lambda: calls.append("backward")), {})
    >>> args[1](), args[1](), calls
    (None, None, ['backward', 'look', 'backward'])
    """
    closure = kwargs.get("closure", args[1] if len(args) > 1 else None)
    if not callable(closure):
        return None
    looked = False

    def evaluate() -> Any:
        nonlocal looked
        result = closure()
        if not looked:
            looked = True
            look()
        return result

    if "closure" in kwargs:
        return args, {**kwargs, "closure": evaluate}
    return (*args[:1], evaluate, *args[2:]), kwargs
