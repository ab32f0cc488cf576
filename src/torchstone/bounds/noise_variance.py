r"""How much of a regression target is noise? An estimate from differences between neighbours."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from torchstone.bounds.interval import check_confidence
from torchstone.errors import SettingError
from torchstone.kernels.nearest import Neighbours, nearest_neighbours


@dataclass(frozen=True)
class NoiseVariance:
    """Noise variance of a target, from neighbours in input space.

    Args:
        value: Intercept of the Gamma test, at least 0, in the squared unit of the target.
        low: Lower end of its interval, at least 0.
        high: Half the mean squared difference to the nearest neighbour plus its sampling error: an upper end that the
            function's own variation can only raise.
        standard_error: Of the intercept.
        distances: Mean squared distance to the k-th neighbour, k = 1..K.
        halves: Half the mean squared target difference to the k-th neighbour.
    """

    value: float
    low: float
    high: float
    standard_error: float
    distances: tuple[float, ...]
    halves: tuple[float, ...]


def noise_variance(
    inputs: Tensor, targets: Tensor, neighbours: int = 10, confidence: float = 0.95
) -> NoiseVariance:
    r"""The Gamma test: y = f(x) + noise, with f smooth, gives the noise variance without a model.

    For the k-th neighbour, :math:`\gamma_k = \frac12 \overline{(y_i - y_{nn(i,k)})^2} = Var(noise) + A \delta_k + o(\delta_k)`,
    with :math:`\delta_k` the mean squared distance; a line through the points is continued to distance 0.

    Error bar: each pair of neighbours shares the noise of both, so pairs are not independent. An example's influence is
    the sum over all pairs it belongs to, on either side; the squares of the influences add up to the variance, a little
    too much of it (the product of the two noises counts twice).

    Bias: positive where even the nearest neighbours are far, as in high dimensions; then `low` may lie above the truth,
    never `high`. Examples copied whole, with their target, count as noise-free pairs: remove them first.

    Cost: one exact neighbour search, O(N^2 d).

    Args:
        inputs: (N, d), at least `neighbours` + 2 rows.
        targets: (N,) or (N, m); the variance is averaged over the m coordinates.
        neighbours: K, at least 2.
        confidence: Coverage of the sampling of examples.

    Returns:
        The estimate.

    Raises:
        SettingError: Too few examples or neighbours.
        NumericalError: Inputs or targets that are not finite.

    Example:
        >>> generator = torch.Generator().manual_seed(0)
        >>> x = torch.rand(2000, 2, generator=generator)
        >>> noisy = torch.sin(3 * x[:, 0]) + 0.5 * torch.randn(2000, generator=generator)
        >>> found = noise_variance(x, noisy)
        >>> found.low < 0.25 < found.high
        True

    Source: Evans & Jones 2002, Proc. R. Soc. A 458, eq. (2.2); Stefansson, Koncar & Jones 1997. The error bar is ours;
    the influence is that of a U-statistic (Hoeffding 1948, section 5).
    """
    from scipy.special import ndtri

    count = len(inputs)
    if neighbours < 2 or count < neighbours + 2:
        raise SettingError(
            f"The Gamma test needs at least 2 neighbours and {max(neighbours, 2) + 2} examples",
            f"{neighbours} neighbours and {count} examples",
            "Pass more examples.",
        )
    z = float(ndtri((1 + check_confidence(confidence)) / 2))
    targets = targets.detach().double().cpu().reshape(count, -1)
    found = _neighbours(inputs.detach().cpu().reshape(count, -1), neighbours)
    squared = found.distances.double().square()
    halves = (targets[:, None, :] - targets[found.indices]).square().mean(2) / 2
    line = _Line.through(squared.mean(0), halves.mean(0))
    error = _standard_error(halves - line.slope * squared, line.weights, found.indices)
    nearest = torch.eye(neighbours, dtype=torch.float64)[0]
    value = max(0.0, float(line.weights @ halves.mean(0)))
    upper = float(halves[:, 0].mean()) + z * _standard_error(halves, nearest, found.indices)
    return NoiseVariance(
        value=value,
        low=max(0.0, value - z * error),
        high=max(upper, value),
        standard_error=error,
        distances=tuple(squared.mean(0).tolist()),
        halves=tuple(halves.mean(0).tolist()),
    )


def _neighbours(inputs: Tensor, k: int) -> Neighbours:
    """Nearest neighbours; among copies of one input they are spread evenly instead of going to the first copies."""
    wide = inputs.double()
    # Equal rows have equal sums; that other rows may have too costs nothing but an unneeded column.
    marks = torch.linspace(1, 2, wide.shape[1], dtype=torch.float64)
    if len((wide * marks).sum(1).unique()) < len(wide):
        spread = float((wide - wide.mean(0)).square().mean().sqrt()) or 1.0
        ties = torch.rand(len(wide), 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        inputs = torch.cat([wide, 1e-6 * spread * ties], dim=1)
    return nearest_neighbours(inputs, None, k)


@dataclass(frozen=True)
class _Line:
    """The least-squares line over mean distances; its intercept is `weights @ halves`."""

    slope: float
    weights: Tensor

    @classmethod
    def through(cls, distances: Tensor, halves: Tensor) -> _Line:
        centred = distances - distances.mean()
        spread = float(centred.square().sum())
        even = torch.full_like(distances, 1 / len(distances))
        if spread == 0:
            return cls(0.0, even)
        return cls(float(centred @ halves) / spread, even - centred * distances.mean() / spread)


def _standard_error(pairs: Tensor, weights: Tensor, indices: Tensor) -> float:
    """Of `weights @ pairs.mean(0)` with pairs (N, K) of examples i and `indices[i, k]`."""
    shares = (pairs - pairs.mean(0)) * weights
    influence = shares.sum(1).index_add(0, indices.flatten(), shares.flatten())
    return float(influence.norm()) / len(pairs)
