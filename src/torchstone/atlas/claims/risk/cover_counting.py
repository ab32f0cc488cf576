r"""How many labellings hyperplanes give, counted two ways; ReLU networks on the line change sign at most N + 1 times.

n points in general position in d dimensions have C(n, d) = 2 sum_{k < d} binomial(n - 1, k) labellings by hyperplanes through
the origin. A random labelling is separable with probability C(n, d) / 2^n: surely up to n = d, half the time at n = 2d. No
class of VC dimension v gives more than sum_{k <= v} binomial(n, k) (Sauer). A ReLU network on the line with N hidden units
in one layer has at most N + 1 linear pieces, each with at most one change of sign.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from torchstone.atlas import Claim, Evidence, Scale, Theme
from torchstone.bounds.dichotomies import linear_dichotomies, linear_separator
from torchstone.bounds.growth import cover_count, sauer_sum, separable_fraction
from torchstone.bounds.shattering import vc_dimension
from torchstone.bounds.sign_changes import count_sign_changes, piece_bound
from torchstone.details import Axis, Curve, Line, Marker, numbers

POINTS, DIMENSIONS = 12, 5

Points = Callable[[int, int, torch.Generator], Tensor]


def run(scale: Scale, generator: torch.Generator) -> Evidence:
    """Points in general position."""
    return experiment(scale, generator, normal_points)


def counterexample(scale: Scale, generator: torch.Generator) -> Evidence:
    """Points in a space of one dimension less."""
    return experiment(scale, generator, flat_points)


def experiment(scale: Scale, generator: torch.Generator, points: Points) -> Evidence:
    """Shares of separable labellings by linear programmes, full lists, VC dimensions and sign changes."""
    draws = 400 if scale is Scale.QUICK else 6000
    hits = torch.tensor([separable(POINTS, DIMENSIONS, points, generator) for _ in range(draws)]).double()
    parts = [
        Evidence.within_errors(
            "share of separable labellings, n = 12, d = 5",
            hits,
            separable_fraction(POINTS, DIMENSIONS),
            note="562/2048",
        )
    ]
    for n, d in ((7, 3), (9, 2), (6, 4)):
        rows = linear_dichotomies(points(n, d, generator), bias=False)
        found = vc_dimension(rows)
        parts += [
            Evidence.close(f"labellings, n = {n}, d = {d}", len(rows), cover_count(n, d), absolute=0),
            Evidence.close(f"VC dimension, n = {n}, d = {d}", found.dimension, d, absolute=0),
            Evidence.at_most(
                f"labellings against Sauer, n = {n}, d = {d}", found.labellings, sauer_sum(n, found.dimension)
            ),
        ]
    changes, lines = sign_changes(100 if scale is Scale.QUICK else 1000, generator)
    parts.append(Evidence.at_most("sign changes beyond N + 1, 1-D ReLU networks", float(changes), 0))
    return Evidence.all_of(*parts, figures=(capacity(draws // 10, points, generator), lines))


def normal_points(n: int, d: int, generator: torch.Generator) -> Tensor:
    """In general position with probability 1."""
    return torch.randn(n, d, generator=generator, dtype=torch.float64)


def flat_points(n: int, d: int, generator: torch.Generator) -> Tensor:
    """On a hyperplane through the origin."""
    points = normal_points(n, d, generator)
    return torch.cat([points[:, :-1], points[:, :1]], dim=1)


def separable(n: int, d: int, points: Points, generator: torch.Generator) -> bool:
    """Whether a random labelling of random points has a separator through the origin."""
    x = points(n, d, generator)
    y = 2.0 * torch.randint(2, (n,), generator=generator) - 1
    return linear_separator(x, y, bias=False) is not None


def sign_changes(networks: int, generator: torch.Generator) -> tuple[int, Curve]:
    """By how much random networks exceed N + 1 changes, at most; and the most that were seen."""
    widths, seen = (1, 2, 3, 5, 8), []
    for width in widths:
        most = 0
        for _ in range(networks):
            draw = lambda *shape: torch.randn(*shape, generator=generator, dtype=torch.float64)
            weights: list[Tensor] = [draw(width, 1), draw(1, width)]
            biases: list[Tensor | None] = [draw(width), draw(1)]
            most = max(most, count_sign_changes(weights, biases))
        seen.append(most)
    beyond = max(0, *(m - piece_bound([w]) for w, m in zip(widths, seen, strict=True)))
    return beyond, Curve(
        "Sign changes of random ReLU networks on the line",
        Axis("hidden units N"),
        Axis("sign changes"),
        (
            Line("most seen", numbers(widths), numbers(seen)),
            Line("N + 1", numbers(widths), numbers(w + 1 for w in widths)),
        ),
        caption="Random networks change sign far less often than they could; built by hand, N + 1 is reached from N = 3 on.",
    )


def capacity(draws: int, points: Points, generator: torch.Generator) -> Curve:
    """The share of separable labellings against n/d."""
    sizes = (5, 7, 8, 9, 10, 11, 12, 14, 16)
    shares = [sum(separable(n, DIMENSIONS, points, generator) for _ in range(draws)) / draws for n in sizes]
    return Curve(
        "Which share of random labellings can a hyperplane in 5 dimensions separate?",
        Axis("points over dimensions, n/d"),
        Axis("share of separable labellings"),
        (
            Line("linear programmes", numbers(n / DIMENSIONS for n in sizes), numbers(shares)),
            Line(
                "Cover's count",
                numbers(n / DIMENSIONS for n in sizes),
                numbers(separable_fraction(n, DIMENSIONS) for n in sizes),
            ),
        ),
        markers=(Marker("capacity n = 2d", 2.0, axis="x"),),
        caption=f"{draws} labellings a point: an error of about {0.5 / draws**0.5:.2f}. All are separable up to n = d, half "
        "at n = 2d. The larger d, the sharper the fall.",
    )


CLAIM = Claim(
    id="cover_counting",
    theme=Theme.RISK,
    title="Counting labellings: Cover, Sauer and sign changes",
    statement="Hyperplanes through the origin give n points in general position in R^d exactly 2 sum_{k<d} binomial(n-1, k) "
    "labellings and have VC dimension d; a ReLU network on the line with N hidden units changes sign at most N + 1 times.",
    source="Schläfli 1901; Cover 1965, theorem 1; Vapnik & Chervonenkis 1971; Sauer 1972",
    assumptions=("Points are in general position: every d of them are linearly independent.",),
    refuted_by="a share of separable labellings more than three standard errors from C(n, d)/2^n, another count of the full "
    "list, or a network with more sign changes",
    run=run,
    counterexample=counterexample,
    rows=("R07",),
)
