r"""The Marchenko-Pastur law, fitted to the bulk of a matrix's singular values, and what stands out of it.

For an n x p matrix W with independent entries of mean 0 and variance :math:`\sigma^2`, p <= n, the eigenvalues of
:math:`W^\top W / n` fill :math:`\sigma^2 (1 \pm \sqrt{p/n})^2` with a known density, and the largest one follows the
Tracy-Widom law around the upper edge.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from torchstone.errors import NumericalError, SettingError
from torchstone.linalg.tracy_widom import tracy_widom_quantile

_TRIM = (
    0.1  # share at both ends of the bulk that the fit leaves out: edges are where outliers and rounding are
)
_BISECTIONS = 60
_ROUNDS = 50  # counting and averaging settle after two or three


@dataclass(frozen=True)
class MarchenkoPastur:
    r"""The limit law of the eigenvalues of :math:`W^\top W / n` for independent entries.

    Args:
        ratio: p / n, in (0, 1].
        variance: :math:`\sigma^2` of the entries, positive.

    Raises:
        SettingError: A ratio or variance out of range.

    Example:
        >>> law = MarchenkoPastur(0.25, 1.0)
        >>> law.low, law.high
        (0.25, 2.25)

    Source: Marchenko & Pastur 1967.
    """

    ratio: float
    variance: float = 1.0

    def __post_init__(self) -> None:
        if not (0 < self.ratio <= 1 and 0 < self.variance < math.inf):
            raise SettingError(
                "MarchenkoPastur needs a ratio p/n in (0, 1] and a positive variance",
                f"ratio {self.ratio}, variance {self.variance}",
                "Let p be the smaller side of the matrix.",
            )

    @property
    def low(self) -> float:
        r"""Lower edge :math:`\sigma^2 (1 - \sqrt{p/n})^2`."""
        return self.variance * (1 - math.sqrt(self.ratio)) ** 2

    @property
    def high(self) -> float:
        r"""Upper edge :math:`\sigma^2 (1 + \sqrt{p/n})^2`."""
        return self.variance * (1 + math.sqrt(self.ratio)) ** 2

    def density(self, x: Float[Tensor, " k"]) -> Float[Tensor, " k"]:
        r"""Density :math:`\sqrt{(b - x)(x - a)} / (2 \pi \sigma^2 \gamma x)` between the edges a and b, else 0."""
        x = x.double()
        inside = (x > self.low) & (x < self.high)
        safe = torch.where(inside, x, torch.full_like(x, self.variance))
        root = ((self.high - safe) * (safe - self.low)).clamp(min=0).sqrt()
        return torch.where(inside, root / (2 * math.pi * self.variance * self.ratio * safe), 0.0)

    def cdf(self, x: Float[Tensor, " k"]) -> Float[Tensor, " k"]:
        """Distribution function in closed form, float64."""
        a, b = self.low / self.variance, self.high / self.variance
        scaled = x.double() / self.variance
        inside = (scaled > a) & (scaled < b)
        t = torch.where(inside, scaled, torch.full_like(scaled, (a + b) / 2))
        gamma, r = self.ratio, ((b - t) / (t - a)).sqrt()
        value = math.pi * gamma + ((b - t) * (t - a)).sqrt() - (1 + gamma) * torch.atan((r**2 - 1) / (2 * r))
        if gamma < 1:
            value = value + (1 - gamma) * torch.atan((a * r**2 - b) / (2 * (1 - gamma) * r))
        return torch.where(inside, value / (2 * math.pi * gamma), (scaled >= b).double())

    def quantile(self, probabilities: Float[Tensor, " k"]) -> Float[Tensor, " k"]:
        """Inverse of the distribution function, by bisection to the last bits."""
        wanted = probabilities.double()
        low, high = torch.full_like(wanted, self.low), torch.full_like(wanted, self.high)
        for _ in range(_BISECTIONS):
            middle = (low + high) / 2
            below = self.cdf(middle) < wanted
            low, high = torch.where(below, middle, low), torch.where(below, high, middle)
        return (low + high) / 2


@dataclass(frozen=True)
class BulkFit:
    """A Marchenko-Pastur law fitted to the bulk of a spectrum, and what stands out of it.

    Attributes:
        law: The fitted law; its edges are the bulk's.
        variance: Of the independent entries of the noise.
        threshold: Where an eigenvalue counts as an outlier: the Tracy-Widom quantile of the largest one of pure noise.
        outliers: Eigenvalues above it.
        share: Their share of the sum of all eigenvalues.
        distance: Kolmogorov-Smirnov distance of the remaining eigenvalues from the law; of order 1/p for pure noise,
            larger where the bulk itself is not that of independent entries.
    """

    law: MarchenkoPastur
    variance: float
    threshold: float
    outliers: int
    share: float
    distance: float


def largest_eigenvalue_of_noise(rows: int, columns: int, probability: float) -> float:
    r"""Quantile of the largest eigenvalue of :math:`W^\top W / \max(n, p)` for independent entries of variance 1.

    Centred at :math:`(\sqrt{n-\frac12} + \sqrt{p-\frac12})^2` and scaled by
    :math:`(\sqrt{n-\frac12} + \sqrt{p-\frac12})(1/\sqrt{n-\frac12} + 1/\sqrt{p-\frac12})^{1/3}`, which leaves an error of
    order :math:`\min(n, p)^{-2/3}` in the distribution function. The entries need four finite moments.

    Args:
        rows: n.
        columns: p.
        probability: Share of noise matrices whose largest eigenvalue is below.

    Returns:
        The quantile, in units of the entries' variance.

    Raises:
        SettingError: An empty matrix, or a probability out of range.

    Source: Johnstone 2001, theorem 1.1; Ma 2012, theorem 2 (the halves); Pillai & Yin 2014 (universality).
    """
    if rows < 1 or columns < 1:
        raise SettingError("The matrix must have rows and columns", f"{rows} x {columns}", "Pass its shape.")
    n, p = math.sqrt(rows - 0.5), math.sqrt(columns - 0.5)
    spread = (n + p) * (1 / n + 1 / p) ** (1 / 3)
    return ((n + p) ** 2 + tracy_widom_quantile(probability) * spread) / max(rows, columns)


def fit_marchenko_pastur(
    eigenvalues: Float[Tensor, " p"], rows: int, columns: int, *, level: float = 0.01
) -> BulkFit:
    r"""Fit the variance of independent entries to the bulk of a spectrum, leaving out what stands above it.

    A first variance comes from the middle 80% of the ordered eigenvalues, regressed through the origin on the law's
    quantiles, :math:`\sigma^2 = \sum \lambda_i q_i / \sum q_i^2`, which outliers hardly touch. Then m outliers
    are set aside with the m rows and columns of noise that they take with them, so that the bulk is that of an
    (n - m) x (p - m) matrix and :math:`\sigma^2 = n \sum_{bulk} \lambda_i / ((n - m)(p - m))`; the outliers are counted
    again until their number stays. It never takes more than half of the eigenvalues for outliers.

    Bias: of higher order in m / p for independent entries with m outliers; where the bulk itself is not that of
    independent entries the law is only the nearest one, which `distance` shows. Cost: a bisection for p quantiles.

    Args:
        eigenvalues: All min(n, p) eigenvalues of :math:`W^\top W / \max(n, p)`, any order.
        rows: n.
        columns: p.
        level: Chance that pure noise shows an outlier.

    Returns:
        The fit.

    Raises:
        SettingError: Fewer than 2 eigenvalues, or not min(n, p) of them.
        NumericalError: NaN, infinite or negative eigenvalues, or a bulk that is zero.

    Example:
        >>> import torch
        >>> w = torch.randn(400, 100, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        >>> found = fit_marchenko_pastur(torch.linalg.svdvals(w).square() / 400, 400, 100)
        >>> found.outliers, round(found.law.high, 1)
        (0, 2.3)

    Source: Gavish & Donoho 2014 (scale from the bulk's quantiles); Kritchman & Nadler 2009 (the test).
    """
    values = _checked(eigenvalues, rows, columns)
    size, ratio = len(values), min(rows, columns) / max(rows, columns)
    edge = largest_eigenvalue_of_noise(rows, columns, 1 - level)
    unit = MarchenkoPastur(ratio)
    above = lambda variance: min(int((values > variance * edge).sum()), size // 2)
    outliers = above(_scale(values, unit))
    longest = max(rows, columns)
    for _ in range(_ROUNDS):
        variance = _bulk_variance(values, outliers, longest)
        before, outliers = outliers, above(variance)
        if outliers == before:
            break
    variance = _bulk_variance(values, outliers, longest)
    if not variance > 0:
        raise NumericalError("The bulk of the spectrum must not be 0", "a matrix of low rank", "Skip it.")
    law = MarchenkoPastur((size - outliers) / (longest - outliers), variance * (longest - outliers) / longest)
    total = float(values.sum())
    return BulkFit(
        law=law,
        variance=variance,
        threshold=variance * edge,
        outliers=outliers,
        share=float(values[size - outliers :].sum()) / total,
        distance=_distance(values[: size - outliers], law),
    )


def _checked(eigenvalues: Tensor, rows: int, columns: int) -> Tensor:
    """The eigenvalues in float64, ascending."""
    if eigenvalues.ndim != 1 or len(eigenvalues) != min(rows, columns) or len(eigenvalues) < 2:
        raise SettingError(
            f"A {rows} x {columns} matrix needs all its min(n, p) eigenvalues, at least 2",
            f"shape {tuple(eigenvalues.shape)}",
            "Pass svdvals(w).square() / max(w.shape).",
        )
    values = eigenvalues.detach().double().sort().values
    if not bool(torch.isfinite(values).all()) or float(values[0]) < 0:
        raise NumericalError("Eigenvalues must be finite and not negative", "others", "Use singular values.")
    return values


def _bulk_variance(values: Tensor, outliers: int, longest: int) -> float:
    """Variance of the entries of the noise matrix that is left when the outliers are set aside."""
    return float(values[: len(values) - outliers].mean()) * longest / (longest - outliers)


def _scale(bulk: Tensor, unit: MarchenkoPastur) -> float:
    """The variance whose quantiles the middle of the ordered bulk follows best."""
    size = len(bulk)
    cut = int(_TRIM * size)
    kept = torch.arange(cut, size - cut, dtype=torch.float64)
    quantiles = unit.quantile((kept + 0.5) / size)
    return float((bulk[cut : size - cut] * quantiles).sum() / quantiles.square().sum())


def _distance(ordered: Tensor, law: MarchenkoPastur) -> float:
    """Largest distance of the empirical distribution function from the law's."""
    expected, steps = law.cdf(ordered), torch.arange(len(ordered) + 1, dtype=torch.float64) / len(ordered)
    return float(torch.maximum((steps[1:] - expected).abs(), (expected - steps[:-1]).abs()).max())
