r"""Principal components of a path through weight space, and what a random walk's would be."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from torchstone.errors import SettingError

_CHUNK = 2**22


@dataclass(frozen=True)
class TrajectoryPCA:
    """Principal components of the T points of a path.

    Args:
        shares: Explained variance by component as a share of the total, falling, (T - 1,); zeros where nothing moved.
        path: Coordinates of theta_t - theta_T along the leading components, (T, K); the last point is the origin, the
            first has coordinates of at least 0.
        mixture: The leading components as combinations of theta_t - theta_T, (K, T), which make unit vectors.
    """

    shares: Tensor
    path: Tensor
    mixture: Tensor


def gram_of_path(points: Sequence[Tensor] | Tensor) -> Tensor:
    """Inner products of theta_s - theta_T and theta_t - theta_T, float64 (T, T), a part of the entries at a time.

    Args:
        points: The path's T points (D,), in order.

    Raises:
        SettingError: Fewer than three points, or of different lengths.
    """
    if len(points) < 3 or len({tuple(point.shape) for point in points}) > 1:
        raise SettingError(
            "A path needs at least three points of one shape",
            f"{len(points)} points",
            "Keep more checkpoints.",
        )
    last, size = points[-1], points[-1].numel()
    gram = torch.zeros(len(points), len(points), dtype=torch.float64, device=last.device)
    width = max(1, _CHUNK // len(points))
    for start in range(0, size, width):
        part = torch.stack(
            [(point[start : start + width].double() - last[start : start + width]) for point in points]
        )
        gram += part @ part.T
    return gram


def trajectory_pca(gram: Tensor, components: int = 2) -> TrajectoryPCA:
    r"""Principal components by the eigenvectors of the centred Gram matrix: D does not enter the cost.

    With X the path's points as rows and J = I - 11'/T, the shares are the eigenvalues of J X X' J over their sum.

    Cost: O(T^3).

    Args:
        gram: `gram_of_path(points)`, (T, T).
        components: How many components the path is projected on.

    Raises:
        SettingError: As many components as points.

    Source: Li, Xu, Taylor, Studer & Goldstein 2018, section 7; Lorch 2016.

    Example:
        >>> straight = torch.arange(5.0)[:, None] * torch.ones(3)
        >>> trajectory_pca(gram_of_path(straight), 1).shares.round(decimals=6).abs()
        tensor([1., 0., 0., 0.], dtype=torch.float64)
    """
    count = len(gram)
    if not 1 <= components < count:
        raise SettingError(
            f"components must lie between 1 and {count - 1}, one less than the points",
            str(components),
            "Lower it.",
        )
    centring = torch.eye(count, dtype=gram.dtype, device=gram.device) - 1 / count
    values, vectors = torch.linalg.eigh(centring @ gram @ centring)
    values, vectors = values.flip(0).clamp(min=0), vectors.flip(1)
    total = values.sum()
    shares = values[: count - 1] / total if float(total) > 0 else torch.zeros_like(values[: count - 1])
    top, deviations = vectors[:, :components], values[:components].sqrt()
    mixture = torch.where(deviations > 0, centring @ top / deviations.clamp(min=1e-300), 0.0)
    path = gram @ mixture
    signs = torch.where(path[0] < 0, -1.0, 1.0)
    return TrajectoryPCA(shares, path * signs, (mixture * signs).T)


def random_walk_shares(points: int, components: int) -> Tensor:
    r"""Explained variances of a random walk of T points in so many dimensions that its steps are orthogonal.

    The centred Gram matrix is the pseudo-inverse of the Laplacian of a path graph, with eigenvalues
    1 / (4 sin^2(pi k / 2T)) that add up to (T^2 - 1) / 6, so that component k has the share

        3 / (2 (T^2 - 1) sin^2(pi k / 2T))  ->  6 / (pi^2 k^2)  for T -> infinity.

    Any covariance of the steps gives the same shares as long as its effective dimension is large.

    Args:
        points: T.
        components: How many shares.

    Returns:
        Shares, float64 (components,).

    Source: Antognini & Sohl-Dickstein 2018, section 3 (the limit); the finite sum follows as above.

    Example:
        >>> random_walk_shares(100_000, 2)
        tensor([0.6079, 0.1520], dtype=torch.float64)
    """
    k = torch.arange(1, components + 1, dtype=torch.float64)
    return 1.5 / ((points**2 - 1) * (math.pi * k / (2 * points)).sin().square())


def ornstein_uhlenbeck_shares(points: int, components: int, reversion: float) -> Tensor:
    r"""Explained variances of theta_{t+1} = (1 - reversion) theta_t + noise, started at its mean, in many dimensions.

    With reversion 0 this is the random walk; near a minimum, gradient descent with noise behaves so, with the learning
    rate times the curvature as reversion. The shares are the eigenvalues of the centred covariance over time.

    Cost: O(T^3).

    Args:
        points: T.
        components: How many shares.
        reversion: In [0, 1].

    Source: Antognini & Sohl-Dickstein 2018, section 4.
    """
    if not 0 <= reversion <= 1:
        raise SettingError(
            "reversion must lie in [0, 1]", str(reversion), "Pass learning rate times curvature."
        )
    times = torch.arange(points)
    lags = (times[:, None] - times[None]).clamp(min=0)
    response = torch.where(times[:, None] >= times[None], (1.0 - reversion) ** lags.double(), 0.0)
    response[:, 0] = 0  # the start is given
    return trajectory_pca(response @ response.T, 1).shares[:components]


def heading(gram: Tensor) -> float:
    r"""Squared distance from start to end over the sum of the steps' squares: about 1 for a random walk.

    T - 1 for T - 1 equal steps in one direction, 0 for a path that returns. Unlike the explained variances, which a few
    long steps make high in whatever directions they go, it asks whether the steps agree.

    Args:
        gram: `gram_of_path(points)`, (T, T).

    Returns:
        The ratio; 0 where nothing moved.
    """
    squares = float(_steps(gram).trace())
    return float(gram[0, 0]) / squares if squares > 0 else 0.0


def random_sign_headings(gram: Tensor, draws: int, generator: torch.Generator) -> Tensor:
    """Headings of paths with the same steps, each taken forward or backward at random, (draws,); their mean is 1."""
    steps = _steps(gram)
    signs = _signs(draws, steps, generator)
    return ((signs @ steps) * signs).sum(1) / steps.trace().clamp(min=1e-300)


def _steps(gram: Tensor) -> Tensor:
    """Inner products of the path's steps, (T - 1, T - 1)."""
    return gram.diff(dim=0).diff(dim=1)


def _signs(draws: int, steps: Tensor, generator: torch.Generator) -> Tensor:
    return torch.randint(0, 2, (draws, len(steps)), generator=generator).to(steps) * 2 - 1


def random_sign_shares(gram: Tensor, draws: int, generator: torch.Generator) -> Tensor:
    r"""Shares of paths with the same steps, each taken forward or backward at random.

    If the steps had no common direction, if each step and its opposite were equally likely whatever the others, then the
    path that was seen would be a draw from these. So the null is exact for steps of any lengths, in any few directions,
    where that of an ideal random walk need not hold: training's steps shrink, and stay within a small subspace.

    Cost: O(draws T^3).

    Args:
        gram: `gram_of_path(points)`, (T, T).
        draws: How many.
        generator: On the CPU.

    Returns:
        Shares of all components, (draws, T - 1).

    Source: Fisher 1935, section 21 (the test by random signs); Antognini & Sohl-Dickstein 2018 (why a null is needed).
    """
    steps = _steps(gram)
    signs = _signs(draws, steps, generator)
    flipped = signs[:, :, None] * steps * signs[:, None]
    count = len(gram)
    sums = torch.ones(count, len(steps), dtype=steps.dtype, device=steps.device).tril(-1)
    centred = sums - sums.mean(0)
    values = torch.linalg.eigvalsh(centred @ flipped @ centred.T).flip(1)[:, : count - 1].clamp(min=0)
    return values / values.sum(1, keepdim=True).clamp(min=1e-300)
