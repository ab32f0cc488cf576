r"""A random walk's principal components explain 61% and 15% of it, in any number of dimensions.

For T points with independent steps, in so many dimensions that the steps are nearly orthogonal, the centred Gram matrix is
proportional to the pseudo-inverse of a path graph's Laplacian. Component k then has the share

    3 / (2 (T^2 - 1) sin^2(pi k / 2T))  ->  6 / (pi^2 k^2),

and the path's coordinates are cosines. So a training run whose first two components hold three quarters of its variance has
shown nothing yet.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from torchstone.atlas import Claim, Evidence, Scale, Theme
from torchstone.details import Axis, Curve, Line, numbers
from torchstone.landscape import gram_of_path, random_walk_shares, trajectory_pca

POINTS, DIMENSIONS = 500, 4000


def run(scale: Scale, generator: torch.Generator) -> Evidence:
    """Independent steps."""
    return experiment(scale, generator, reversion=0.0)


def counterexample(scale: Scale, generator: torch.Generator) -> Evidence:
    """Steps that pull back to the start, as near a minimum: an Ornstein-Uhlenbeck path."""
    return experiment(scale, generator, reversion=0.02)


def experiment(scale: Scale, generator: torch.Generator, reversion: float) -> Evidence:
    """Shares of paths with equal and with very unequal variances of the coordinates."""
    dimensions = DIMENSIONS if scale is Scale.QUICK else 10 * DIMENSIONS
    equal = path(dimensions, torch.ones(dimensions, dtype=torch.float64), reversion, generator)
    # Variances k^-1/2, a factor of 63 apart: the effective dimension is still well over a thousand.
    decaying = torch.arange(1, dimensions + 1, dtype=torch.float64) ** -0.25
    unequal = path(dimensions, decaying, reversion, generator)
    found = {"equal variances": equal, "unequal variances": unequal}
    pca = {name: trajectory_pca(gram_of_path(one), 3) for name, one in found.items()}
    limit = 6 / math.pi**2
    checks = [
        check
        for name, one in pca.items()
        for check in (
            Evidence.close(f"share of component 1, {name}", one.shares[0], limit, absolute=0.015),
            Evidence.close(f"share of component 2, {name}", one.shares[1], limit / 4, absolute=0.008),
        )
    ]
    formula = random_walk_shares(POINTS, 10)
    off = (pca["equal variances"].shares[:10] / formula - 1).abs().max()
    k = torch.arange(1, POINTS + 1, dtype=torch.float64)
    cosine = ((k - 0.5) * math.pi / POINTS).cos()
    first = pca["equal variances"].path[:, 0]
    correlation = torch.corrcoef(torch.stack([first, cosine]))[0, 1].abs()
    return Evidence.all_of(
        *checks,
        Evidence.at_most("largest relative error of the first ten shares", off, 0.1, "formula for T points"),
        Evidence.at_least("correlation of the first coordinate with half a cosine", correlation, 0.99),
        figures=(
            shares_curve({name: one.shares for name, one in pca.items()}),
            coordinates(pca["equal variances"].path, k),
        ),
    )


def path(dimensions: int, deviations: Tensor, reversion: float, generator: torch.Generator) -> Tensor:
    """theta_{t+1} = (1 - reversion) theta_t + independent normal steps, (T, D)."""
    theta, points = torch.zeros(dimensions, dtype=torch.float64), []
    for _ in range(POINTS):
        points.append(theta)
        step = torch.randn(dimensions, generator=generator, dtype=torch.float64)
        theta = (1 - reversion) * theta + deviations * step
    return torch.stack(points)


def shares_curve(shares: dict[str, Tensor]) -> Curve:
    """Measured shares beside the formula and its limit."""
    k = torch.arange(1, 21, dtype=torch.float64)
    lines = [Line(name, numbers(k), numbers(found[:20])) for name, found in shares.items()]
    lines += [
        Line("formula for T points", numbers(k), numbers(random_walk_shares(POINTS, 20))),
        Line("6 / (pi k)^2", numbers(k), numbers(6 / (math.pi * k).square())),
    ]
    return Curve(
        "Explained variance of a random walk",
        Axis("component k", log=True),
        Axis("share of the variance", log=True),
        tuple(lines),
        caption="The shares fall like 1/k^2 whatever the dimension and the steps' variances.",
    )


def coordinates(walk: Tensor, k: Tensor) -> Curve:
    """The first three coordinates over time."""
    return Curve(
        "Coordinates of the walk along its components",
        Axis("step"),
        Axis("coordinate"),
        tuple(Line(f"component {i + 1}", numbers(k[::5]), numbers(walk[::5, i])) for i in range(3)),
        caption="Cosines of half a wave, one wave, and one and a half.",
    )


CLAIM = Claim(
    id="random_walk_pca",
    theme=Theme.CURVATURE,
    title="Principal components of a random walk",
    statement=(
        "The principal components of a high-dimensional random walk explain shares 6/(pi^2 k^2) of its variance, 61% and "
        "15% for the first two, whatever the dimension and the covariance of its steps."
    ),
    source="Antognini & Sohl-Dickstein 2018, sections 2 and 3; Li et al. 2018, section 7 (trajectories of training)",
    assumptions=(
        "Steps are independent and of one distribution.",
        "Their effective dimension is large beside the number of components looked at.",
    ),
    refuted_by="a first share more than 0.015 from 6/pi^2 for 500 points in 4,000 dimensions",
    run=run,
    counterexample=counterexample,
    rows=("H11",),
)
