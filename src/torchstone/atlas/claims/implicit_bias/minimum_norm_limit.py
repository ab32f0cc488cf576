r"""Gradient descent on an underdetermined least-squares problem finds the interpolating solution nearest to its start.

Every gradient X'(...) lies in the row space of X, so the component of w orthogonal to it never moves. If the loss
vanishes in the limit, X w = y fixes the component inside, and

    w_inf = w_0 + pinv(X) (y - X w_0),

which is the minimum-norm solution pinv(X) y exactly when w_0 lies in the row space, for example at 0.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from torchstone.atlas import Claim, Erratum, Evidence, Scale, Theme
from torchstone.details import Axis, Curve, Line, Marker, Table, numbers, thin

EXAMPLES, PARAMETERS = 20, 60

# The derivative of one example's loss in its residual r; each loss has its only minimum at r = 0.
Slope = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Path:
    """Where an optimiser ended, and on the way there the distance to a target and the drift out of w_0 + row space."""

    end: Tensor
    distances: list[float]
    drift: float


def run(scale: Scale, generator: torch.Generator) -> Evidence:
    """From 0, and from elsewhere with the shifted formula."""
    return experiment(scale, generator, shifted=True)


def counterexample(scale: Scale, generator: torch.Generator) -> Evidence:
    """The minimum-norm solution expected from any start."""
    return experiment(scale, generator, shifted=False)


def experiment(scale: Scale, generator: torch.Generator, shifted: bool) -> Evidence:
    """Full and single-example gradient descent, from 0 and from a random start."""
    more = 1 if scale is Scale.QUICK else 5
    x = torch.randn(EXAMPLES * more, PARAMETERS * more, generator=generator, dtype=torch.float64)
    y = torch.randn(EXAMPLES * more, generator=generator, dtype=torch.float64)
    zero = torch.zeros(x.shape[1], dtype=x.dtype)
    elsewhere = torch.randn(x.shape[1], generator=generator, dtype=x.dtype)
    minimum = torch.linalg.pinv(x) @ y
    away = elsewhere + torch.linalg.pinv(x) @ (y - x @ elsewhere) if shifted else minimum

    passes = 600
    paths = {
        "gradient descent from 0": descend(x, y, zero, minimum, passes),
        "gradient descent from elsewhere": descend(x, y, elsewhere, away, passes),
        "one example a step from 0": descend_on_single_examples(x, y, zero, minimum, passes, generator),
        "one example a step from elsewhere": descend_on_single_examples(
            x, y, elsewhere, away, passes, generator
        ),
        "log-cosh loss from 0": descend(x, y, zero, minimum, 10 * passes, torch.tanh),
    }
    targets = {name: away if "elsewhere" in name else minimum for name in paths}
    limits = [
        Evidence.close(f"limit of {name}", path.end, targets[name], relative=1e-6)
        for name, path in paths.items()
    ]
    drifts = [
        Evidence.at_most(f"component outside the row space, every step of {name}", path.drift, 1e-12)
        for name, path in paths.items()
    ]
    excess = float(away.norm() / minimum.norm())
    return Evidence.all_of(
        *limits,
        *drifts,
        Evidence.at_least(
            "norm of the limit from elsewhere over the minimum norm", excess, 1.1, "not every limit is small"
        ),
        figures=(distance_curve(paths), norm_table(paths, minimum)),
    )


def descend(
    x: Tensor, y: Tensor, start: Tensor, target: Tensor, passes: int, slope: Slope = lambda r: r
) -> Path:
    """Gradient descent on the sum of losses with step 1/smoothness (all slopes here have derivative at most 1)."""
    rate = 1 / torch.linalg.matrix_norm(x, 2).square()
    basis = row_space(x)
    w, distances, drift = start.clone(), [], 0.0
    for _ in range(passes):
        distances.append(relative_distance(w, target))
        w = w - rate * (x.T @ slope(x @ w - y))
        drift = max(drift, outside(w - start, basis))
    return Path(w, distances, drift)


def descend_on_single_examples(
    x: Tensor, y: Tensor, start: Tensor, target: Tensor, passes: int, generator: torch.Generator
) -> Path:
    """Stochastic gradient descent, one random example a step, with step 1/smoothness of that example's loss."""
    basis = row_space(x)
    rates = 1 / x.square().sum(1)
    order = torch.randint(len(x), (passes * len(x),), generator=generator).tolist()
    w, distances, drift = start.clone(), [], 0.0
    for step, i in enumerate(order):
        if step % len(x) == 0:
            distances.append(relative_distance(w, target))
        w = w - (rates[i] * (x[i] @ w - y[i])) * x[i]
        drift = max(drift, outside(w - start, basis))
    return Path(w, distances, drift)


def row_space(x: Tensor) -> Tensor:
    """Orthonormal basis (p, n) of the span of the rows of x."""
    return torch.linalg.qr(x.T).Q


def outside(moved: Tensor, basis: Tensor) -> float:
    """Size of the component of `moved` orthogonal to the basis."""
    return float((moved - basis @ (basis.T @ moved)).norm())


def relative_distance(w: Tensor, target: Tensor) -> float:
    """|w - target| / |target|."""
    return float((w - target).norm() / target.norm())


def distance_curve(paths: dict[str, Path]) -> Curve:
    """Distance to the predicted limit over the steps."""
    lines = []
    for name, path in paths.items():
        kept = thin(len(path.distances), 400)
        positive = [i for i in kept if i > 0 and path.distances[i] > 0]
        lines.append(Line(name, numbers(positive), numbers(path.distances[i] for i in positive)))
    return Curve(
        "Distance to the predicted limit",
        Axis("passes over the data", log=True),
        Axis("relative distance", log=True),
        tuple(lines),
        (Marker("tolerance of the check", 1e-6),),
        caption="Each path reaches the interpolating solution nearest to its start, up to rounding.",
    )


def norm_table(paths: dict[str, Path], minimum: Tensor) -> Table:
    """How long each limit is."""
    rows = tuple((name, float(path.end.norm() / minimum.norm()), path.drift) for name, path in paths.items())
    columns = ("path", "norm of the limit / minimum norm", "largest component outside the row space")
    return Table("Limits and their norms", columns, rows)


CLAIM = Claim(
    id="minimum_norm_limit",
    theme=Theme.IMPLICIT_BIAS,
    title="The minimum-norm limit",
    statement=(
        "On underdetermined linear regression, gradient descent and its single-example version converge to the "
        "interpolating solution nearest to their start; from 0 that is the minimum-norm solution."
    ),
    source="Zhang, Bengio, Hardt, Recht & Vinyals 2017, section 5; Gunasekar, Lee, Soudry & Srebro 2018, section 2",
    assumptions=(
        "The model is linear in its parameters and can fit every example.",
        "Each example's loss has one finite minimum, at residual 0.",
        "Steps are below twice the inverse smoothness, without weight decay.",
    ),
    refuted_by="a limit away from w_0 + pinv(X)(y - X w_0), or a step that leaves w_0 plus the row space of X",
    run=run,
    counterexample=counterexample,
    rows=("I01",),
    errata=(
        Erratum(
            "E08",
            stated="Stochastic gradient descent on linear models always converges to a solution of small norm",
            correct="only from a start in the row space, such as 0; from w_0 the limit keeps the whole component of w_0 "
            "outside the row space",
        ),
    ),
)
