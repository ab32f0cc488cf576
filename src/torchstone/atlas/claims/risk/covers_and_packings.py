r"""Covers and packings interlace, balls need (1 + 2/eps)^d centres at most, and matrix products need few columns.

For the largest packing P and the least internal cover N of any finite set, P(2 eps) <= N(eps) <= P(eps). A ball of radius 1 in
d dimensions has a cover of (1 + 2/eps)^d centres. A product X W' with sum_j |W_j|_2 <= a is within eps of a sum of
k = ceil(a^2 |X|_F^2 / eps^2) signed columns of X, equal shares of the weight each (Maurey), so that class has a cover of
(2dm)^k points, whatever the dimensions.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from torchstone.atlas import Claim, Evidence, Scale, Theme
from torchstone.bounds.covering import (
    function_distances,
    greedy_cover,
    largest_packing,
    least_cover,
)
from torchstone.bounds.covering_bounds import ball_log_cover, ball_log_cover_from_below, matrix_log_cover
from torchstone.bounds.sparsification import sparsify_linear
from torchstone.details import Axis, Curve, Line, numbers

SETS, POINTS = 20, 22
RADII = (1.0, 0.7, 0.5, 0.35)
WIDTHS = (8, 32, 128)


def run(scale: Scale, generator: torch.Generator) -> Evidence:
    """Twice the radius for the packing, the terms of the lemma for the product."""
    return experiment(scale, generator, factor=2.0, share=1.0)


def counterexample(scale: Scale, generator: torch.Generator) -> Evidence:
    """A packing of 1.2 times the radius below the cover, and a hundredth of the terms."""
    return experiment(scale, generator, factor=1.2, share=0.01)


def experiment(scale: Scale, generator: torch.Generator, factor: float, share: float) -> Evidence:
    """Exact numbers on small sets, greedy covers of a ball, and sparse products."""
    sets = SETS if scale is Scale.QUICK else 20 * SETS
    below = above = 0
    for k in range(sets):
        points = point_set(k, generator)
        radius = float(function_distances(points).flatten().quantile(0.2))
        least = least_cover(points, radius)
        below += largest_packing(points, factor * radius) > least
        above += least > largest_packing(points, radius)
    parts = [
        Evidence.at_most(
            f"sets with P({factor:g} eps) > N(eps)", below, 0, f"{sets} sets, integer programmes"
        ),
        Evidence.at_most("sets with N(eps) > P(eps)", above, 0),
    ]
    sizes = ball_covers(1500 if scale is Scale.QUICK else 6000, generator)
    parts += [
        Evidence.at_most(f"greedy cover of the ball, eps = {eps}", size, (1 + 2 / eps) ** 3)
        for eps, size in sizes.items()
    ]
    for width in WIDTHS:
        error, epsilon = sparse_product(width, share, generator)
        parts.append(
            Evidence.at_most(f"error of the sparse product / eps, width {width}", error / epsilon, 1.0)
        )
    return Evidence.all_of(*parts, figures=(figure(sizes),))


def point_set(kind: int, generator: torch.Generator) -> Tensor:
    """Normal points, clusters, grids and heavy tails by turns, (22, 3)."""
    points = torch.randn(POINTS, 3, generator=generator, dtype=torch.float64)
    match kind % 4:
        case 1:
            return points * 0.1 + points[torch.randint(4, (POINTS,), generator=generator)]
        case 2:
            return points.round()
        case 3:
            return points / torch.rand(POINTS, 1, generator=generator, dtype=torch.float64)
        case _:
            return points


def ball_covers(count: int, generator: torch.Generator) -> dict[float, int]:
    """Sizes of greedy covers of points that fill the unit ball of 3 dimensions."""
    points = torch.nn.functional.normalize(torch.randn(count, 3, generator=generator, dtype=torch.float64))
    points = points * torch.rand(count, 1, generator=generator, dtype=torch.float64) ** (1 / 3)
    # The empirical distance divides by the root of the number of coordinates.
    return {eps: len(greedy_cover(points * math.sqrt(3), eps).centres) for eps in RADII}


def sparse_product(width: int, share: float, generator: torch.Generator) -> tuple[float, float]:
    """Error of the product with a share of the lemma's terms, and the error that the lemma promises for all."""
    x = torch.randn(40, width, generator=generator, dtype=torch.float64)
    weight = torch.randn(width, width, generator=generator, dtype=torch.float64)
    a, b = float(weight.norm(dim=1).sum()), float(x.norm())
    epsilon = a * b / 20
    terms = matrix_log_cover(b, a, epsilon, width, width) / math.log(2 * width * width)
    return sparsify_linear(x, weight, max(1, round(share * terms))).error, epsilon


def figure(sizes: dict[float, int]) -> Curve:
    """Covers of the ball between the volume bounds."""
    line = lambda name, value: Line(name, numbers(RADII), numbers(value(eps) for eps in RADII))
    return Curve(
        "Covers of a ball in 3 dimensions",
        Axis("radius eps of the cover", log=True),
        Axis("centres", log=True),
        (
            line("greedy cover of points in the ball", lambda eps: sizes[eps]),
            line("(1 + 2/eps)^3", lambda eps: (1 + 2 / eps) ** 3),
            line("(1/eps)^3", lambda eps: math.exp(ball_log_cover_from_below(3, eps))),
        ),
        caption="Both bounds follow from volumes. They have the same slope, the dimension, and differ by a constant: "
        f"at eps = {RADII[-1]} the upper one is {math.exp(ball_log_cover(3, RADII[-1])):.0f}.",
    )


CLAIM = Claim(
    id="covers_and_packings",
    theme=Theme.RISK,
    title="Covers, packings and Maurey's sparsification",
    statement="P(2 eps) <= N(eps) <= P(eps) for packings and internal covers of any set; the unit ball of R^d has a cover of "
    "(1 + 2/eps)^d centres; a product X W' is within eps of ceil(|W|_{2,1}^2 |X|_F^2 / eps^2) scaled columns of X.",
    source="Kolmogorov & Tikhomirov 1959, theorem IV; Vershynin 2018, proposition 4.2.12; Pisier 1981; Bartlett, Foster & "
    "Telgarsky 2017, lemma 3.2",
    assumptions=(
        "Centres of covers are members of the set.",
        "Points of a packing are strictly more than its radius apart.",
    ),
    refuted_by="one set out of order, a greedy cover above the volume bound, or a product that needs more columns",
    run=run,
    counterexample=counterexample,
    rows=("R08",),
)
