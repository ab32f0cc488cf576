r"""Chaining over scales bounds the Rademacher complexity where counting functions one by one fails.

    complexity <= inf_a { 4 a + 12/sqrt n  int_a^D sqrt(ln N(eps)) d eps },

N(eps) the covering number of the class in the empirical L2 distance. Massart's lemma counts all functions at the largest
scale, so refining a grid of functions raises it without limit; the integral sees that the new ones are close to old
ones. For the ball of d dimensions it is within a constant of the truth.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from torchstone.atlas import Claim, Evidence, Scale, Theme
from torchstone.bounds.chaining import chaining_bound
from torchstone.bounds.covering_bounds import ball_log_cover
from torchstone.bounds.dudley import dudley_bound, dudley_of_sample, log_entropy_integral
from torchstone.bounds.rademacher import rademacher_finite, rademacher_linear
from torchstone.bounds.rademacher_bounds import massart_bound
from torchstone.details import Axis, Curve, Line, Table, numbers

EXAMPLES = 12  # few enough for all sign vectors
GRIDS = (3, 10, 30, 100, 300, 1000)

Dudley = Callable[[Tensor], float]


def run(scale: Scale, generator: torch.Generator) -> Evidence:
    """The bound."""
    return experiment(scale, generator, lambda values: dudley_of_sample(values).value)


def counterexample(scale: Scale, generator: torch.Generator) -> Evidence:
    """Without 4 a, the price of not telling functions apart below the scale a: the best a is then D, and the bound 0."""
    return experiment(scale, generator, integral_alone)


def integral_alone(_: Tensor) -> float:
    """The least value over a of the integral's term, which is 0 from the diameter on."""
    return 0.0


def experiment(scale: Scale, generator: torch.Generator, dudley: Dudley) -> Evidence:
    """Ten finite classes, a grid that is refined, balls, and the integral in closed form."""
    parts, rows = [], []
    for name, values in finite_classes(200 if scale is Scale.QUICK else 1500, generator).items():
        truth = rademacher_finite(values, generator, draws=2**EXAMPLES).value
        bound, massart, chain = dudley(values), massart_bound(values), chaining_bound(values).value
        rows.append((name, len(values), truth, chain, massart, bound))
        parts += [
            Evidence.at_most(f"complexity below Dudley, {name}", truth, bound),
            Evidence.at_most(f"complexity below the best chain, {name}", truth, chain),
            Evidence.at_most(f"Dudley / Massart, {name}", bound / massart, 12.0, "12/sqrt 2 by the diameter"),
        ]
    for d in (2, 8, 20):
        truth, bound = ball(d, generator)
        parts.append(Evidence.at_most(f"complexity over Dudley, ball of {d} dimensions", truth / bound, 1.0))
    quadrature = integral_by_substitution(7.0)
    parts.append(
        Evidence.close(
            "integral of sqrt(7 ln(3/eps)) on [0, 1]",
            log_entropy_integral(7.0, 0.0, 1.0),
            quadrature,
            absolute=1e-8,
        )
    )
    table = Table(
        "Upper bounds on the complexity of finite classes on 12 examples",
        ("class", "members", "complexity (exact)", "best chain", "Massart", "Dudley"),
        tuple(rows),
        caption="All sign vectors for the complexity. The best chain is never above Massart; Dudley's constants cost a "
        "factor of about 10 on classes this small.",
    )
    return Evidence.all_of(*parts, figures=(table, refinement()))


def finite_classes(members: int, generator: torch.Generator) -> dict[str, Tensor]:
    """Ten classes on 12 examples, of every shape that matters to covers."""
    draw = lambda *shape: torch.randn(*shape, generator=generator, dtype=torch.float64)
    direction, unit = draw(EXAMPLES), torch.nn.functional.normalize
    clusters = draw(5, 1, EXAMPLES) + 0.05 * draw(5, members // 5, EXAMPLES)
    steps = torch.arange(EXAMPLES)
    return {
        "segment": torch.linspace(-1, 1, members, dtype=torch.float64)[:, None] * direction,
        "linear, 3 dimensions": unit(draw(members, 3)) @ draw(3, EXAMPLES),
        "clusters": clusters.flatten(0, 1),
        "random signs": draw(members, EXAMPLES).sign(),
        "thresholds": torch.stack([(steps >= t).double() * 2 - 1 for t in range(EXAMPLES + 1)]),
        "coordinates": torch.cat([torch.eye(EXAMPLES), -torch.eye(EXAMPLES)]).double(),
        "heavy tails": draw(members, EXAMPLES) ** 3,
        "a pair": torch.stack([direction, -direction]),
        "shrinking": draw(40, EXAMPLES) * 2.0 ** -torch.arange(40)[:, None],
        "far from zero": 100 + draw(members, EXAMPLES),
    }


def ball(dimensions: int, generator: torch.Generator) -> tuple[float, float]:
    """Complexity and Dudley's bound of linear functions of norm at most 1, on inputs with X'X = n I."""
    n = 2000
    x = torch.linalg.qr(torch.randn(n, dimensions, generator=generator, dtype=torch.float64)).Q * math.sqrt(n)
    truth = rademacher_linear(x, 1.0, generator, draws=200).value
    return truth, dudley_bound(lambda eps: ball_log_cover(dimensions, eps), 1.0, n).value


def integral_by_substitution(dimensions: float) -> float:
    """The same integral by Gauss-Laguerre: eps = 3 exp(-u), u = ln 3 + v, weight exp(-v)."""
    nodes, weights = gauss_laguerre(60)
    return math.sqrt(dimensions) * float((weights * (math.log(3) + nodes).sqrt()).sum())


def gauss_laguerre(points: int) -> tuple[Tensor, Tensor]:
    """Nodes and weights from the Jacobi matrix of the Laguerre polynomials (Golub & Welsch 1969)."""
    order = torch.arange(points, dtype=torch.float64)
    off = torch.diag(order[1:], 1)
    values, vectors = torch.linalg.eigh(torch.diag(2 * order + 1) + off + off.T)
    return values, vectors[0] ** 2


def refinement() -> Curve:
    """Bounds for a finer and finer grid of functions between 0 and 1."""
    bounds = {"Massart": massart_bound, "best chain": lambda v: chaining_bound(v).value}
    segment = lambda m: torch.linspace(0, 1, m, dtype=torch.float64)[:, None] * torch.ones(64)
    return Curve(
        "A constant function between 0 and 1, on a grid of heights",
        Axis("functions in the class", log=True),
        Axis("bound on the Rademacher complexity"),
        tuple(
            Line(name, numbers(GRIDS), numbers(b(segment(m)) for m in GRIDS)) for name, b in bounds.items()
        ),
        caption="The complexity is that of the two ends, 0.05. Chains stop where new functions are close to old ones; a count "
        "of functions goes on rising.",
    )


CLAIM = Claim(
    id="dudley_chaining",
    theme=Theme.RISK,
    title="Dudley's entropy integral and chaining",
    statement="The Rademacher complexity is at most inf_a 4a + 12/sqrt n times the integral of sqrt(ln N(eps)) from a to the "
    "diameter, and at most 12/sqrt 2 times Massart's bound; the best discrete chain is never above Massart's bound.",
    source="Dudley 1967; Talagrand 2014, section 2.2; constants as in Bartlett, Foster & Telgarsky 2017, lemma A.5",
    assumptions=("Covers are in the empirical L2 distance of the sample.",),
    refuted_by="a class with a larger complexity, or an integral off by more than 1e-8",
    run=run,
    counterexample=counterexample,
    rows=("R09",),
)
