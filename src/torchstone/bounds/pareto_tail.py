r"""Power laws in the tail of a sample: exponent by maximum likelihood, start of the tail by Kolmogorov-Smirnov distance."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from torchstone.bounds.interval import Interval, check_confidence
from torchstone.errors import NumericalError, SettingError

_ELEMENTS = 2**21  # logarithms that are held at a time


@dataclass(frozen=True)
class ParetoTail:
    r"""A tail with density proportional to :math:`x^{-\alpha}` from `start` on.

    Attributes:
        alpha: Exponent of the density, above 1; infinite where all of the tail is one value.
        interval: For alpha, given the start.
        start: :math:`x_{\min}`.
        size: Values from there on.
        distance: Kolmogorov-Smirnov distance of the tail from the fitted law.
    """

    alpha: float
    interval: Interval
    start: float
    size: int
    distance: float

    @property
    def standard_error(self) -> float:
        r"""Of alpha, to first order: :math:`(\alpha - 1)/\sqrt{n}`."""
        return (self.alpha - 1) / math.sqrt(self.size)


def fit_pareto_tail(
    values: Float[Tensor, " n"],
    *,
    start: float | None = None,
    least: int = 10,
    candidates: int = 2000,
    confidence: float = 0.95,
) -> ParetoTail:
    r"""Fit :math:`p(x) = \frac{\alpha-1}{x_{\min}} (x/x_{\min})^{-\alpha}` to the values from :math:`x_{\min}` on.

    :math:`\hat\alpha = 1 + n / \sum_i \ln(x_i / x_{\min})`, and :math:`x_{\min}` is the value at which the tail's
    Kolmogorov-Smirnov distance from its own fit, :math:`\max_i |\frac{i-1}{n} - F(x_i)|`, is smallest. The interval is
    exact for a given start, because :math:`2(\alpha-1)\sum_i \ln(x_i / x_{\min})` has a chi-squared law of 2n degrees of
    freedom; it does not know of the search for the start, which `pareto_tail_bootstrap` repeats (with a searched start the
    95% interval covers 85 to 94%).

    Bias: alpha - 1 is too large by a factor n / (n - 1); tails below 50 values are not to be trusted. A small distance does
    not show that the tail is a power law: any sample has a best one.

    Cost: O(n) a candidate.

    Args:
        values: Positive values (n,); zeros are left out.
        start: :math:`x_{\min}`, where it is known.
        least: Fewest values of a tail.
        candidates: Most starts that are tried; where there are more values, evenly chosen ones.
        confidence: Of the interval.

    Returns:
        The fit.

    Raises:
        SettingError: Fewer than `least` positive values at or above the start, or settings out of range.
        NumericalError: Negative, NaN or infinite values.

    Example:
        >>> import torch
        >>> u = torch.rand(5000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        >>> round(fit_pareto_tail(u ** (-1 / 1.5)).alpha, 1)
        2.5

    Source: Clauset, Shalizi & Newman 2009, equations (3.1), (3.2) and (3.9).
    """
    check_confidence(confidence)
    ordered = _checked(values, least, candidates)
    if start is None:
        start = float(ordered[_best_start(ordered.log(), least, candidates)])
    elif not 0 < start < math.inf or int((ordered >= start).sum()) < least:
        raise SettingError(
            f"start must be positive, with at least {least} values from there on", str(start), "Lower it."
        )
    tail = ordered[ordered >= start]
    logs = (tail / start).log()
    if float(logs.sum()) <= 0:
        ends = Interval(math.inf, math.inf, confidence, "chi-squared, given the start")
        return ParetoTail(math.inf, ends, start, len(tail), 0.0)
    alpha = 1 + len(tail) / float(logs.sum())
    distance = float(_distance(logs[None], logs.mean()[None]))
    return ParetoTail(alpha, _interval(logs, confidence), start, len(tail), distance)


def pareto_tail_bootstrap(
    values: Float[Tensor, " n"],
    generator: torch.Generator,
    *,
    resamples: int = 200,
    least: int = 10,
    candidates: int = 200,
    confidence: float = 0.95,
) -> Interval:
    """Percentile interval for alpha in which the start of the tail is searched again in every resample.

    Wider than the one given the start, because where the tail begins is uncertain too.

    Cost: `resamples` fits.

    Args:
        values: Positive values (n,).
        generator: On the CPU.
        resamples: Samples with replacement.
        least: Fewest values of a tail.
        candidates: Most starts tried a resample.
        confidence: Of the interval.

    Raises:
        SettingError: As `fit_pareto_tail`, or fewer than 40 resamples.
        NumericalError: As `fit_pareto_tail`.

    Source: Clauset, Shalizi & Newman 2009, section 3.3 (uncertainty of the fitted parameters).
    """
    check_confidence(confidence)
    found = resampled_exponents(values, generator, resamples=resamples, least=least, candidates=candidates)
    cut = math.floor((1 - confidence) / 2 * (resamples - 1))
    method = f"bootstrap with the start searched again, {resamples} resamples"
    ordered = found.sort().values
    return Interval(float(ordered[cut]), float(ordered[resamples - 1 - cut]), confidence, method)


def resampled_exponents(
    values: Float[Tensor, " n"],
    generator: torch.Generator,
    *,
    resamples: int = 100,
    least: int = 10,
    candidates: int = 20,
) -> Float[Tensor, " resamples"]:
    """Exponents of samples with replacement, the start of the tail searched in each.

    Their standard deviation is a standard error of alpha that knows of the search; infinite where all of a tail is one value.

    Cost: O(n) a resample and candidate, all resamples at once.

    Args:
        values: Positive values (n,).
        generator: On the CPU.
        resamples: How many, at least 40.
        least: Fewest values of a tail.
        candidates: Most starts tried, evenly chosen by rank.

    Raises:
        SettingError: As `fit_pareto_tail`, or fewer than 40 resamples.
        NumericalError: As `fit_pareto_tail`.
    """
    if resamples < 40:
        raise SettingError("A bootstrap of tails needs at least 40 resamples", str(resamples), "Use 200.")
    logs = _checked(values, least, candidates).log()
    last = len(logs) - least
    starts = torch.linspace(0, last, min(candidates, last + 1), dtype=torch.float64).round().long().tolist()
    together = max(1, _ELEMENTS // len(logs))
    found = []
    for first in range(0, resamples, together):
        rows = min(together, resamples - first)
        drawn = logs[torch.randint(len(logs), (rows, len(logs)), generator=generator)].sort(1).values
        found.append(1 + 1 / _searched(drawn, starts)[1])
    return torch.cat(found)


def _searched(logs: Tensor, starts: list[int]) -> tuple[Tensor, Tensor]:
    """Of each ordered row (B, n) of logarithms the start whose tail is closest to a power law, and that tail's mean."""
    smallest = logs.new_full((len(logs),), math.inf)
    best, mean = torch.full((len(logs),), starts[0]), logs.new_zeros(len(logs))
    for start in starts:
        tail = logs[:, start:] - logs[:, start, None]
        own = tail.mean(1)
        distance = _distance(tail, own).nan_to_num(math.inf)
        if start:  # only the first of equal values starts a tail that holds all of them
            distance = distance.where(logs[:, start] > logs[:, start - 1], math.inf)
        better = distance < smallest
        smallest, mean = distance.where(better, smallest), own.where(better, mean)
        best = best.masked_fill(better, start)
    return best, mean


def _best_start(logs: Tensor, least: int, candidates: int) -> int:
    """Index of the ordered value from which on the tail is closest to a power law."""
    fresh = torch.cat([torch.ones(1, dtype=torch.bool), logs[1:] > logs[:-1]])
    indices = fresh[: len(logs) - least + 1].nonzero().squeeze(1)
    if len(indices) > candidates:
        chosen = torch.linspace(0, len(indices) - 1, candidates, dtype=torch.float64).round().long()
        indices = indices[chosen]
    return int(_searched(logs[None], indices.tolist())[0])


def _distance(logs: Tensor, mean: Tensor) -> Tensor:
    """Kolmogorov-Smirnov distances of ordered rows of logarithms from exponential laws of those means, at the values."""
    # The share of values strictly below each one, as in the published programs of the method: with both sides of each step
    # the distance would grow by up to 1/n and favour long tails, also where they bend.
    below = torch.arange(logs.shape[1], dtype=logs.dtype) / logs.shape[1]
    return (below + torch.expm1(-logs / mean[:, None])).abs().amax(1)


def _interval(logs: Tensor, confidence: float) -> Interval:
    from scipy.special import gammaincinv

    count, total, cut = len(logs), float(logs.sum()), (1 - confidence) / 2
    low, high = (1 + float(gammaincinv(count, level)) / total for level in (cut, 1 - cut))
    return Interval(low, high, confidence, "chi-squared, given the start")


def _checked(values: Tensor, least: int, candidates: int) -> Tensor:
    """The positive values in float64, ascending."""
    if least < 2 or candidates < 1:
        raise SettingError(
            "least must be at least 2 and candidates at least 1", f"{least} and {candidates}", "Use 10."
        )
    flat = values.detach().double().flatten()
    if not bool(torch.isfinite(flat).all()) or bool((flat < 0).any()):
        raise NumericalError(
            "A Pareto tail needs finite values that are not negative", "others", "Check where they came from."
        )
    positive = flat[flat > 0].sort().values
    if len(positive) < least:
        raise SettingError(
            f"A Pareto tail needs at least {least} positive values", str(len(positive)), "Pass more of them."
        )
    return positive
