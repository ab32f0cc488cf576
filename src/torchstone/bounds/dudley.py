r"""From covering numbers to Rademacher complexity: Dudley's entropy integral with its best truncation.

For a class whose covers in the empirical "l2" distance have at most :math:`N(\epsilon)` centres (anywhere), and whose functions lie
within D of one of them,

.. math:: \hat{\mathfrak R}(H) \le \inf_{0 \le \alpha \le D} \Big\{ 4 \alpha + \frac{12}{\sqrt n} \int_\alpha^D \sqrt{\ln N(\epsilon)}\, d\epsilon \Big\}.

The bracket is convex in :math:`\alpha`, because N falls, with slope :math:`4 - 12 \sqrt{\ln N(\alpha) / n}`: the best truncation is where
:math:`\ln N(\alpha) = n / 9`, and needs no search over values of the integral.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from torchstone.bounds.covering import cover_of_distances, function_distances
from torchstone.bounds.rademacher import class_values
from torchstone.bounds.risk_bound import check_at_least, check_count
from torchstone.errors import NumericalError


@dataclass(frozen=True)
class DudleyBound:
    r"""An upper bound on an empirical Rademacher complexity.

    Args:
        truncation: :math:`\alpha`, the scale below which functions are not told apart.
        integral: :math:`\int_\alpha^D \sqrt{\ln N(\epsilon)} d\epsilon`.
        n: Number of examples.
    """

    truncation: float
    integral: float
    n: int

    @property
    def value(self) -> float:
        """The bound, in the unit of the functions."""
        return 4 * self.truncation + 12 * self.integral / math.sqrt(self.n)


def dudley_bound(log_cover: Callable[[float], float], diameter: float, n: int) -> DudleyBound:
    r"""Dudley's bound from a formula for the covering number.

    Cost: some hundred evaluations of the formula (bisection, then adaptive quadrature of relative error about 1e-10).

    Args:
        log_cover: :math:`\ln N(\epsilon)` in nats, or a bound on it, for :math:`0 < \epsilon < D`; continuous and not increasing in :math:`\epsilon`.
        diameter: D, the largest distance of a function from some fixed one, in the empirical "l2" distance.
        n: Number of examples.

    Returns:
        The bound with its truncation; 0 for D = 0.

    Raises:
        SettingError: A negative D or no example.
        NumericalError: A covering number below 1, NaN or increasing, or an integral that does not converge.

    Example:
        >>> from torchstone.bounds.covering_bounds import ball_log_cover
        >>> round(dudley_bound(lambda e: ball_log_cover(5, e), diameter=1.0, n=10_000).value, 4)
        0.3629

    Source: Dudley 1967; with these constants Bartlett, Foster & Telgarsky 2017, lemma A.5; Srebro & Sridharan 2010.
    """
    from scipy.integrate import quad

    diameter, n = check_at_least("diameter", diameter), check_count("n", n)
    if diameter == 0:
        return DudleyBound(0.0, 0.0, n)

    def entropy(scale: float) -> float:
        value = float(log_cover(scale))
        if not value >= 0:
            raise NumericalError(
                "dudley_bound needs logarithms of covering numbers, at least 0",
                f"{value} at scale {scale:g}",
                "Return ln N(epsilon) in nats.",
            )
        return value

    truncation = _best_truncation(entropy, diameter, n)
    # In the logarithm of the scale the usual singularity at 0 is an exponential tail.
    start = -math.log(truncation / diameter) if truncation else math.inf
    found, error = quad(
        lambda t: diameter * math.exp(-t) * math.sqrt(entropy(diameter * math.exp(-t))) if t < 700 else 0.0,
        0,
        start,
        limit=400,
        epsabs=0,
        epsrel=1e-10,
    )[:2]
    if not error <= 1e-6 * max(found, diameter):
        raise NumericalError(
            "Dudley's integral converges for covering numbers like exp(1/epsilon^p), p < 2, or with a truncation",
            f"an error estimate of {error:g}",
            "Give a continuous formula.",
        )
    return DudleyBound(truncation, float(found), n)


def _best_truncation(entropy: Callable[[float], float], diameter: float, n: int) -> float:
    """Where the logarithm of the covering number falls below n / 9; 0 where it never exceeds it."""
    if entropy(diameter * (1 - 1e-12)) >= n / 9:
        return diameter
    high = diameter
    while entropy(low := high / 4) <= n / 9:
        high = low
        if high < 1e-200 * diameter:
            return 0.0
    while high - low > 1e-13 * high:
        middle = (low + high) / 2
        low, high = (middle, high) if entropy(middle) > n / 9 else (low, middle)
    return high


def log_entropy_integral(dimensions: float, start: float, end: float, scale: float = 3.0) -> float:
    r"""Closed form of :math:`\int_a^b \sqrt{d \ln(c / \epsilon)}\, d\epsilon = \sqrt d\, c\, [\Gamma(\tfrac32, \ln \tfrac cb) - \Gamma(\tfrac32, \ln \tfrac ca)]`.

    Args:
        dimensions: d, not negative.
        start: a, not negative.
        end: b, between a and c.
        scale: c, positive.

    Returns:
        The integral.

    Raises:
        SettingError: Limits out of order.

    Example:
        >>> round(log_entropy_integral(1, 0.0, 1.0), 10)
        1.4157348842

    Source: Substitute epsilon = c exp(-u); Abramowitz & Stegun 1964, section 6.5.
    """
    from scipy.special import gammaincc

    check_at_least("dimensions", dimensions)
    check_at_least("end", end, least=check_at_least("start", start))
    check_at_least("scale", scale, least=end)
    gamma = lambda limit: float(gammaincc(1.5, math.log(scale / limit))) if limit > 0 else 0.0
    return math.sqrt(dimensions) * scale * math.gamma(1.5) * (gamma(end) - gamma(start))


def dudley_of_sample(values: Tensor, scales: int = 40) -> DudleyBound:
    r"""Dudley's bound for a finite class from covers that are found, not assumed.

    Greedy covers at geometric scales bound N from above; between scales N is replaced by its value at the smaller one, so
    the sum is above the integral. The truncation is the best among the scales and 0.

    Cost: distances between all members, (H, H), and a greedy cover a scale.

    Args:
        values: :math:`h(x_i)`, one member a row, (H, n).
        scales: Number of scales, factor :math:`2^{1/4}` apart.

    Returns:
        The bound; at most :math:`12 / \sqrt 2` times Massart's.

    Raises:
        SettingError: No member or no example, or too many members.
        NumericalError: Values that are not finite.

    Source: Dudley 1967; Bartlett, Foster & Telgarsky 2017, lemma A.5.
    """
    rows = torch.unique(class_values(values), dim=0)
    n = rows.shape[1]
    diameter = centred_radius(rows)
    if diameter == 0 or len(rows) == 1:
        return DudleyBound(0.0, 0.0, n)
    distances = function_distances(rows)
    ends = [diameter * 2 ** (-k / 4) for k in range(check_count("scales", scales) + 1)]
    entropies = _entropies(distances, ends[1:])
    best, integral = DudleyBound(diameter, 0.0, n), 0.0
    for upper, lower, entropy in zip(ends, ends[1:], entropies, strict=False):
        integral += (upper - lower) * entropy
        best = min(best, DudleyBound(lower, integral, n), key=lambda bound: bound.value)
    whole = DudleyBound(0.0, integral + ends[-1] * math.sqrt(math.log(len(rows))), n)
    return min(best, whole, key=lambda bound: bound.value)


def _entropies(distances: Tensor, scales: list[float]) -> list[float]:
    """Roots of the logarithms of the sizes of covers, at scales from coarse to fine."""
    sizes = [len(distances)] * len(scales)
    for k, scale in enumerate(scales):
        sizes[k] = len(cover_of_distances(distances, scale).centres)
        if sizes[k] > len(distances) / 2:
            break  # finer covers are hardly smaller than the class, which stands for them
    # A cover at a finer scale is one at any coarser scale.
    least = list(itertools.accumulate(reversed(sizes), min))
    return [math.sqrt(math.log(size)) for size in reversed(least)]


def centred_radius(rows: Tensor) -> float:
    """Largest "l2" distance of a member from a centre, the better of zero and the mean: a first cover of one function."""
    size = lambda each: float(each.norm(dim=1).max()) / rows.shape[1] ** 0.5
    return min(size(rows), size(rows - rows.mean(dim=0)))
