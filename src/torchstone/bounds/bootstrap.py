"""Bootstrap intervals for a statistic without a closed-form error bar."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from torchstone.bounds.interval import Interval, check_confidence
from torchstone.errors import NumericalError, SettingError

_ENTRIES = 2**22  # of a block of resamples: 32 MB in float64


def bootstrap_interval(
    values: Tensor,
    statistic: Callable[[Tensor], Tensor],
    generator: torch.Generator,
    confidence: float = 0.95,
    resamples: int = 2000,
    method: Literal["bca", "percentile"] = "bca",
) -> Interval:
    r"""Bootstrap interval for a statistic of independent examples.

    Examples are drawn with replacement; the interval's ends are quantiles of the resampled statistics, at levels
    :math:`\alpha/2, 1-\alpha/2` (percentile) or, corrected for median bias :math:`z_0` and acceleration a, at
    :math:`\Phi(z_0 + (z_0 + z)/(1 - a (z_0 + z)))` (BCa).

    Cost: `resamples` evaluations, and n more for BCa's jackknife; memory of 4 million entries of resamples, at least one of them.
    Bias: the coverage error is of order :math:`n^{-1/2}` (percentile) or :math:`n^{-1}` (BCa); with few examples
    (n < 30) both are too short. Not valid for statistics that duplicates bias (nearest neighbours, kernel alignments,
    U-statistics near degeneracy) nor for extremes.

    Args:
        values: Examples (n, ...), n >= 2; rows are drawn together.
        statistic: Maps examples (m, ...) to a scalar tensor, for any m.
        generator: The source of randomness, on the CPU.
        confidence: Nominal coverage.
        resamples: Number of resamples.
        method: "bca" or "percentile".

    Returns:
        The interval, in the unit of the statistic.

    Raises:
        SettingError: Too few examples or resamples, or an unknown method.
        NumericalError: The statistic is not finite on the sample or on a resample.

    Source: Efron 1987 (better bootstrap confidence intervals), section 3; Efron & Tibshirani 1993, chapter 14.
    """
    _check(len(values), resamples, confidence, method)
    n = len(values)
    block = max(1, _ENTRIES // max(1, values.numel()))
    parts = []
    for start in range(0, resamples, block):
        rows = torch.randint(n, (min(block, resamples - start), n), generator=generator).to(values.device)
        parts.append(torch.stack([statistic(one).detach() for one in values[rows]]))
    draws = torch.cat(parts).double().cpu()
    observed = float(statistic(values))
    if not (math.isfinite(observed) and bool(torch.isfinite(draws).all())):
        raise NumericalError(
            "bootstrap_interval needs a statistic that is finite on every resample",
            f"{observed} on the sample, {int((~torch.isfinite(draws)).sum())} bad resamples",
            "Use a statistic that is defined when examples repeat.",
        )
    tails = ((1 - confidence) / 2, (1 + confidence) / 2)
    if method == "bca":
        tails = _bca_levels(draws, observed, values, statistic, tails)
    low, high = torch.quantile(draws, torch.tensor(tails, dtype=torch.float64)).tolist()
    return Interval(low, high, confidence, f"bootstrap ({method}, {resamples} resamples)")


def _bca_levels(
    draws: Tensor,
    observed: float,
    values: Tensor,
    statistic: Callable[[Tensor], Tensor],
    tails: tuple[float, float],
) -> tuple[float, float]:
    """Levels of the two quantiles after the corrections for bias and acceleration."""
    from scipy.special import ndtr, ndtri

    # Ties count half, so that a discrete statistic is not taken for a biased one.
    below = float((draws < observed).double().mean() + 0.5 * (draws == observed).double().mean())
    half = 0.5 / len(draws)
    shift = float(ndtri(min(max(below, half), 1 - half)))
    keep = ~torch.eye(len(values), dtype=torch.bool, device=values.device)
    left_out = torch.stack([statistic(values[row]).detach().double() for row in keep]).cpu()
    away = left_out.mean() - left_out
    spread = float((away**2).sum())
    acceleration = 0.0 if spread == 0 else float((away**3).sum()) / (6 * spread**1.5)
    levels = []
    for tail in tails:
        moved = shift + float(ndtri(tail))
        # Past the pole the adjusted level is the extreme one on that side.
        room = 1 - acceleration * moved
        levels.append(float(ndtr(shift + moved / room)) if room > 0 else float(moved > 0))
    return levels[0], levels[1]


def _check(n: int, resamples: int, confidence: float, method: str) -> None:
    check_confidence(confidence)
    if n < 2:
        raise SettingError("bootstrap_interval needs at least 2 examples", str(n), "Measure more examples.")
    if resamples * (1 - confidence) / 2 < 1:
        raise SettingError(
            "bootstrap_interval needs at least one resample in each tail",
            f"{resamples} resamples at confidence {confidence}",
            f"Use at least {math.ceil(2 / (1 - confidence))} resamples.",
        )
    if method not in ("bca", "percentile"):
        raise SettingError('method must be "bca" or "percentile"', repr(method), "Pick one of them.")
