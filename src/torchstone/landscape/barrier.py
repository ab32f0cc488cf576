r"""Barriers and rises along a path of losses, with intervals that hold although the worst point was searched for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from torchstone.errors import SettingError


@dataclass(frozen=True)
class Largest:
    """The largest of several means, 0 at least.

    Args:
        value: The largest mean over the examples, or 0 where none is positive.
        low: Lower end of a 95% interval for the largest of the true means.
        high: Upper end.
        index: Which contrast is the largest; -1 where none is positive.
    """

    value: float
    low: float
    high: float
    index: int


def largest_mean(contrasts: Tensor, confidence: float = 0.95) -> Largest:
    r"""The largest of M paired means with a simultaneous interval.

    Every mean gets an interval of m_j -+ z se_j with z Student's quantile at 1 - (1 - confidence) / (2 M) (Bonferroni),
    so that with at least that confidence all hold at once, and then the largest true mean lies between the largest of the
    lower and the largest of the upper ends. Points are searched on the same examples they are judged by; without the
    correction the interval would be too short.

    Bias: the value errs upwards where many contrasts tie, within the interval.

    Args:
        contrasts: One number by contrast and example, (M, N).
        confidence: Nominal coverage at least.

    Returns:
        The largest mean. Non-finite numbers make it infinite, with an interval from 0.
    """
    from scipy.stats import t as student

    if contrasts.ndim != 2 or not contrasts.numel():
        raise SettingError(
            "Contrasts must have shape (M, N) with at least one each",
            str(tuple(contrasts.shape)),
            "Add points.",
        )
    kept = (contrasts.mean(1) != -torch.inf).nonzero()[:, 0]  # the others are never the largest
    if not len(kept):
        return Largest(0.0, 0.0, 0.0, -1)
    contrasts = contrasts[kept]
    means = contrasts.mean(1)
    if not bool(means.isfinite().all()):
        return Largest(float("inf"), 0.0, float("inf"), int(kept[~means.isfinite()][0]))
    z = float(student.ppf(1 - (1 - confidence) / (2 * len(means)), max(1, contrasts.shape[1] - 1)))
    # One example says nothing about its spread.
    errors = (
        contrasts.std(1) / contrasts.shape[1] ** 0.5
        if contrasts.shape[1] > 1
        else torch.full_like(means, torch.inf)
    )
    index, value = int(kept[means.argmax()]), max(0.0, float(means.max()))
    low, high = float((means - z * errors).max()), float((means + z * errors).max())
    return Largest(value, max(0.0, low), max(0.0, high), index if float(means.max()) > 0 else -1)


@dataclass(frozen=True)
class Profile:
    r"""Losses of N examples at points along a path, parametrised from 0 at its start to 1 at its end.

    Args:
        places: Increasing parameters of the points, 0 and 1 among them; those beyond are for show.
        losses: Loss by point and example, (P, N).
    """

    places: tuple[float, ...]
    losses: Tensor

    def __post_init__(self) -> None:
        if 0.0 not in self.places or 1.0 not in self.places or list(self.places) != sorted(self.places):
            raise SettingError(
                "The places of a path must increase and hold 0 and 1", str(self.places), "Use inclusive()."
            )
        if self.losses.ndim != 2 or len(self.losses) != len(self.places):
            raise SettingError(
                f"losses must have one row for each of {len(self.places)} places",
                f"shape {tuple(self.losses.shape)}",
                "Pass losses by point and example.",
            )

    @property
    def risks(self) -> Tensor:
        """Mean loss at each point."""
        return self.losses.mean(1)

    @cached_property
    def _inside(self) -> slice:
        return slice(self.places.index(0.0), self.places.index(1.0) + 1)

    @cached_property
    def barrier(self) -> Largest:
        r"""Height above the ends' chord, max over t in [0, 1] of L(t) - ((1 - t) L(0) + t L(1)).

        Source: Frankle, Dziugaite, Roy & Carbin 2020, section 2, with the chord of Entezari et al. 2022, definition 2.1.
        """
        losses = self.losses[self._inside]
        t = torch.tensor(self.places[self._inside], dtype=losses.dtype)[:, None]
        return largest_mean((losses - ((1 - t) * losses[0] + t * losses[-1]))[1:-1])

    @cached_property
    def barrier_place(self) -> float:
        """Where the barrier is highest; the middle where there is none."""
        return self.places[self._inside][self.barrier.index + 1] if self.barrier.index >= 0 else 0.5

    @cached_property
    def rise(self) -> Largest:
        r"""Largest rise, max over s < t in [0, 1] of L(t) - L(s): 0 where the loss falls monotonically from start to end."""
        losses = self.losses[self._inside]
        earlier, later = torch.triu_indices(len(losses), len(losses), offset=1)
        return largest_mean(losses[later] - losses[earlier])

    @property
    def monotone(self) -> bool:
        """Whether no rise from start to end is beyond the sampling error.

        Source: Goodfellow, Vinyals & Saxe 2015, section 3 (that it holds); Lucas et al. 2021, definition 1.
        """
        return self.rise.low <= 0


def barrier_height(places: Sequence[float], values: Sequence[float] | Tensor) -> float:
    """The barrier of a path of exact values, without an interval.

    >>> barrier_height((0.0, 0.5, 1.0), (1.0, 4.0, 3.0))
    2.0
    """
    losses = torch.as_tensor(values, dtype=torch.float64)[:, None]
    return Profile(tuple(places), losses).barrier.value
