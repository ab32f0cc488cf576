"""What running a claim yields: checks that can fail, and figures to look at."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from torchstone.atlas.check import Check, Kind
from torchstone.details import Detail
from torchstone.errors import SettingError

Number = float | Tensor


@dataclass(frozen=True)
class Evidence:
    """Checks and the figures behind them; holds when every check does.

    >>> Evidence.all_of(Evidence.close("pi", 3.1416, 3.14159, absolute=1e-4), Evidence.at_most("e", 2.7, 3)).holds
    True

    Raises:
        SettingError: No check at all: nothing could refute it.
    """

    checks: tuple[Check, ...]
    figures: tuple[Detail, ...] = ()

    def __post_init__(self) -> None:
        if not self.checks:
            raise SettingError("Evidence needs at least one check", "none", "Compare something measured.")

    @property
    def holds(self) -> bool:
        """Whether every check holds."""
        return all(check.holds for check in self.checks)

    @property
    def refuted(self) -> tuple[Check, ...]:
        """The checks that do not hold."""
        return tuple(check for check in self.checks if not check.holds)

    @classmethod
    def close(
        cls,
        name: str,
        measured: Number,
        expected: Number,
        *,
        relative: float | None = None,
        absolute: float | None = None,
        standard_error: float | None = None,
        note: str = "",
    ) -> Evidence:
        """`measured` equals `expected` up to exactly one of the tolerances.

        Tensors of several numbers are compared by the Euclidean norm of their difference (divided by that of
        `expected` where the tolerance is relative), which becomes the measured number. `standard_error` is shown and
        does not widen the tolerance.

        Raises:
            SettingError: Not exactly one tolerance, or tensors of different shapes.
        """
        tolerances = [(Kind.RELATIVE, relative), (Kind.ABSOLUTE, absolute)]
        given = [(kind, tolerance) for kind, tolerance in tolerances if tolerance is not None]
        if len(given) != 1:
            raise SettingError(
                f"{name}: close() takes one of relative= and absolute=", f"{len(given)}", "Pass one of them."
            )
        [(kind, tolerance)] = given
        if _single(measured) and _single(expected):
            return cls(
                (Check(name, float(measured), float(expected), tolerance, kind, standard_error, note),)
            )
        distance = _distance(name, measured, expected, kind is Kind.RELATIVE)
        what = "relative distance" if kind is Kind.RELATIVE else "distance"
        return cls((Check(f"{name}: {what}", distance, tolerance, 0.0, Kind.AT_MOST, note=note),))

    @classmethod
    def at_most(cls, name: str, measured: Number, bound: Number, note: str = "") -> Evidence:
        """`measured` is `bound` or less."""
        return cls((Check(name, float(measured), float(bound), 0.0, Kind.AT_MOST, note=note),))

    @classmethod
    def at_least(cls, name: str, measured: Number, bound: Number, note: str = "") -> Evidence:
        """`measured` is `bound` or more."""
        return cls((Check(name, float(measured), float(bound), 0.0, Kind.AT_LEAST, note=note),))

    @classmethod
    def within_errors(
        cls, name: str, draws: Tensor, expected: Number, *, errors: float = 3.0, note: str = ""
    ) -> Evidence:
        """The mean of independent `draws` (n,) is `expected` up to `errors` standard errors.

        Raises:
            SettingError: Fewer than two draws.
        """
        if draws.ndim != 1 or len(draws) < 2:
            raise SettingError(
                f"{name}: a standard error needs a vector of two draws or more",
                f"shape {tuple(draws.shape)}",
                "Pass draws.",
            )
        mean, error = float(draws.mean()), float(draws.std()) / len(draws) ** 0.5
        return cls((Check(name, mean, float(expected), errors, Kind.STANDARD_ERRORS, error, note),))

    @classmethod
    def all_of(cls, *parts: Evidence, figures: Iterable[Detail] = ()) -> Evidence:
        """The checks and figures of all parts, in order, then `figures`."""
        checks = tuple(check for part in parts for check in part.checks)
        return cls(checks, (*(figure for part in parts for figure in part.figures), *figures))


def _single(value: Any) -> bool:
    return not isinstance(value, Tensor) or value.numel() == 1


def _distance(name: str, measured: Number, expected: Number, relative: bool) -> float:
    if (
        not isinstance(measured, Tensor)
        or not isinstance(expected, Tensor)
        or measured.shape != expected.shape
    ):
        shapes = [str(tuple(x.shape)) if isinstance(x, Tensor) else "a number" for x in (measured, expected)]
        raise SettingError(
            f"{name}: both sides have one shape", " and ".join(shapes), "Compare like with like."
        )
    difference = float(torch.linalg.vector_norm((measured - expected).double()))
    size = float(torch.linalg.vector_norm(expected.double()))
    return difference if not relative else difference / size if size else difference * float("inf")
