"""How much of a regression target is noise? An estimate from differences between neighbours."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from torchstone.errors import SettingError
from torchstone.kernels.nearest import nearest_neighbours


@dataclass(frozen=True)
class NoiseVariance:
    """Noise variance of a target, from neighbours in input space.

    Args:
        value: Intercept of the Gamma test, at least 0.
        low: Lower end of its 95% interval, at least 0.
        high: Half the mean squared difference to the nearest neighbour plus its sampling error: an upper end that the
            function's own variation can only raise.
        distances: Mean squared distance to the k-th neighbour, k = 1..K.
        halves: Half the mean squared target difference to the k-th neighbour.
    """

    value: float
    low: float
    high: float
    distances: tuple[float, ...]
    halves: tuple[float, ...]


def noise_variance(inputs: Tensor, targets: Tensor, neighbours: int = 10, blocks: int = 20) -> NoiseVariance:
    r"""The Gamma test: y = f(x) + noise, with f smooth, gives the noise variance without a model.

    For the k-th neighbour, gamma_k = 1/2 mean (y_i - y_{nn(i,k)})^2 = Var(noise) + A delta_k + o(delta_k), with
    delta_k the mean squared distance; a line through (delta_k, gamma_k) is continued to distance 0. The error bar is a
    delete-a-block jackknife over examples. Bias: positive in high dimensions, where even the nearest neighbours are far.

    Cost: one exact neighbour search, O(N^2 d).

    Args:
        inputs: (N, d), at least `neighbours` + 2 rows.
        targets: (N,) or (N, m); the variance is averaged over the m coordinates.
        neighbours: K, at least 2.
        blocks: Blocks of the jackknife.

    Raises:
        SettingError: Too few examples or neighbours.

    Source: Evans & Jones 2002, Proc. R. Soc. A 458, eq. (2.2); Stefansson, Koncar & Jones 1997.
    """
    count = len(inputs)
    if neighbours < 2 or count < max(neighbours + 2, 2 * blocks):
        raise SettingError(
            f"The Gamma test needs at least 2 neighbours and {max(neighbours + 2, 2 * blocks)} examples",
            f"{neighbours} neighbours and {count} examples",
            "Pass more examples.",
        )
    targets = targets.double().reshape(count, -1)
    found = nearest_neighbours(inputs, None, neighbours)
    squared = found.distances.double().square().cpu()
    halves = (targets[:, None, :] - targets[found.indices.cpu()]).square().mean(2) / 2
    # Points scaled apart identically duplicated inputs have distance 0 and are used as they are: pure noise.
    block = torch.arange(count) * blocks // count
    estimates = torch.tensor(
        [_intercept(squared[block != b].mean(0), halves[block != b].mean(0)) for b in range(blocks)],
        dtype=torch.float64,
    )
    value = _intercept(squared.mean(0), halves.mean(0))
    error = math.sqrt((blocks - 1) / blocks * float((estimates - estimates.mean()).square().sum()))
    nearest = halves[:, 0]
    high = float(nearest.mean() + 1.96 * nearest.std() / math.sqrt(count))
    value = max(0.0, value)
    return NoiseVariance(
        value=value,
        low=min(value, max(0.0, value - 1.96 * error)),
        high=max(high, value),
        distances=tuple(squared.mean(0).tolist()),
        halves=tuple(halves.mean(0).tolist()),
    )


def _intercept(distances: Tensor, halves: Tensor) -> float:
    centred = distances - distances.mean()
    spread = float(centred.square().sum())
    slope = float(centred @ halves) / spread if spread > 0 else 0.0
    return float(halves.mean()) - slope * float(distances.mean())
