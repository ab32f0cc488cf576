r"""The condition number k = L / mu decides how fast gradient descent is.

On a quadratic with curvatures in [mu, L] a step eta multiplies the error along an eigenvector by 1 - eta lambda, so in the
worst direction by max(|1 - eta mu|, |1 - eta L|). That is least where both are equal, at eta = 2 / (L + mu), and is there

    (k - 1) / (k + 1) = 1 - 2/k + O(1/k^2):

log(1/e) / log((k + 1)/(k - 1)) ~ (k/2) log(1/e) steps to shrink the error by e. Slow where k is large. A change of variables
x = P z turns the Hessian into P^T H P: with P = H^(-1/2) one step suffices, and where the axes only have unequal units their
scaling by diag(H)^(-1/2) does the same.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from torchstone.atlas import Claim, Erratum, Evidence, Scale, Theme
from torchstone.details import Axis, Curve, Line, numbers, thin
from torchstone.linalg import condition_number

CONDITIONS = (2, 10, 100)
LEAST = 0.3  # smallest curvature: only the ratio may matter
TARGET = 1e-6

Step = Callable[[float, float], float]


def best_step(largest: float, least: float) -> float:
    """2 / (L + mu)."""
    return 2 / (largest + least)


def usual_step(largest: float, least: float) -> float:
    """1 / L, which needs no knowledge of mu."""
    del least
    return 1 / largest


def run(scale: Scale, generator: torch.Generator) -> Evidence:
    """With the best step."""
    return experiment(scale, generator, best_step)


def counterexample(scale: Scale, generator: torch.Generator) -> Evidence:
    """With the step 1/L the factor is 1 - 1/k: nearly twice as many steps."""
    return experiment(scale, generator, usual_step)


def experiment(scale: Scale, generator: torch.Generator, step: Step) -> Evidence:
    """Measured factors and step counts, other steps, and changes of variables."""
    dimension = 20 if scale is Scale.QUICK else 200
    parts, paths = [], {}
    for k in CONDITIONS:
        hessian = quadratic(k, dimension, generator)
        found = condition_number(hessian, generator=generator).value
        path = errors(hessian, step(k * LEAST, LEAST), limit(k, TARGET / 10))
        paths[k] = path
        factor = float(path[-1] / path[len(path) // 2]) ** (1 / (len(path) - 1 - len(path) // 2))
        parts += [
            Evidence.close(f"condition number found by Lanczos, k = {k}", found, float(k), relative=1e-6),
            Evidence.close(
                f"factor of the error a step, k = {k}",
                factor,
                (k - 1) / (k + 1),
                absolute=1e-6,
                note="(k - 1)/(k + 1)",
            ),
            Evidence.at_most(
                f"gain of 200 other steps over the best, k = {k}",
                max((k - 1) / (k + 1) - worst_factor(hessian, eta) for eta in other_steps(k)),
                1e-12,
                "no step contracts more",
            ),
        ]
    counts = {k: steps_to(paths[k], TARGET) for k in CONDITIONS}
    parts += [
        Evidence.close(
            f"steps to an error of {TARGET:g}, k = {k}",
            counts[k],
            limit(k, TARGET),
            absolute=1.0,
            note="log(1/e) / log((k + 1)/(k - 1))",
        )
        for k in CONDITIONS
    ]
    parts.append(
        Evidence.close(
            "steps with k = 100 over steps with k = 10",
            counts[100] / counts[10],
            10.0,
            relative=0.05,
            note="proportional to k",
        )
    )
    return Evidence.all_of(
        *parts, preconditioned(dimension, generator), figures=(path_curve(paths), count_curve())
    )


def preconditioned(dimension: int, generator: torch.Generator) -> Evidence:
    """Changes of variables: units undone by the diagonal, everything by the inverse root."""
    well = quadratic(2, dimension, generator)
    units = torch.logspace(-2, 2, dimension, dtype=torch.float64)
    hessian = units[:, None] * well * units
    scale = hessian.diagonal().rsqrt()
    equal = scale[:, None] * hessian * scale
    values, vectors = torch.linalg.eigh(quadratic(100, dimension, generator))
    root = vectors * values.rsqrt() @ vectors.T
    whitened = root @ (vectors * values @ vectors.T) @ root
    return Evidence.all_of(
        Evidence.at_least("condition number with units 1e4 apart", kappa(hessian), 1e6),
        Evidence.at_most(
            "condition number scaled by diag(H)^(-1/2)",
            kappa(equal),
            4.0,
            "k^2 = 4: with equal units the diagonal lies in [mu, 2 mu]",
        ),
        Evidence.at_most(
            "error after one step in whitened variables", errors(whitened, 1.0, 1)[-1], 1e-12, "P = H^(-1/2)"
        ),
    )


def quadratic(k: float, dimension: int, generator: torch.Generator) -> Tensor:
    """A Hessian with eigenvalues from LEAST to k LEAST, evenly spaced as logarithms, in a random basis."""
    values = LEAST * torch.logspace(0, math.log10(k), dimension, dtype=torch.float64)
    basis = torch.linalg.qr(torch.randn(dimension, dimension, generator=generator, dtype=torch.float64)).Q
    matrix = basis * values @ basis.T
    return (matrix + matrix.T) / 2


def errors(hessian: Tensor, step: float, steps: int) -> Tensor:
    """|x_t| / |x_0| of gradient descent on x'Hx/2, from the sum of the extreme eigenvectors: the worst start."""
    vectors = torch.linalg.eigh(hessian).eigenvectors
    x = (vectors[:, 0] + vectors[:, -1]) / 2**0.5
    path = [x.norm()]
    for _ in range(steps):
        x = x - step * (hessian @ x)
        path.append(x.norm())
    return torch.stack(path)


def worst_factor(hessian: Tensor, step: float) -> float:
    """|I - eta H|, the largest factor of any error in one step."""
    identity = torch.eye(len(hessian), dtype=hessian.dtype)
    return float(torch.linalg.matrix_norm(identity - step * hessian, 2))


def other_steps(k: float) -> list[float]:
    """Between 0 and the stability limit 2/L."""
    return [2 / (k * LEAST) * i / 200 for i in range(1, 201)]


def limit(k: float, target: float) -> int:
    """Steps that the theory needs, rounded up."""
    return math.ceil(math.log(1 / target) / math.log((k + 1) / (k - 1)))


def steps_to(path: Tensor, target: float) -> int:
    """First step at which the error is at most the target; the path's length where it never is."""
    below = (path <= target).nonzero()
    return int(below[0]) if len(below) else len(path)


def kappa(matrix: Tensor) -> float:
    """Ratio of the extreme eigenvalues."""
    values = torch.linalg.eigvalsh(matrix)
    return float(values[-1] / values[0])


def path_curve(paths: dict[int, Tensor]) -> Curve:
    """Errors over the steps."""
    lines = []
    for k, path in paths.items():
        kept = thin(len(path), 400)
        lines.append(Line(f"k = {k}", numbers(kept), numbers(path[kept])))
    return Curve(
        "Error of gradient descent with the best step",
        Axis("step"),
        Axis("distance to the minimum, of the first", log=True),
        tuple(lines),
        caption="Straight lines: each step multiplies the error by (k - 1)/(k + 1). Ten times the condition number, a tenth of the slope.",
    )


def count_curve() -> Curve:
    """Steps that the theory needs over k."""
    grid = [10 ** (0.1 + i / 20) for i in range(80)]
    steps = [math.log(1 / TARGET) / math.log((k + 1) / (k - 1)) for k in grid]
    return Curve(
        f"Steps to shrink the error by {TARGET:g}",
        Axis("condition number k", log=True),
        Axis("steps", log=True),
        (Line("best step", numbers(grid), numbers(steps)),),
        caption="Proportional to k: (k/2) log(1/e). Slow where k is large.",
    )


CLAIM = Claim(
    id="condition_number_rate",
    theme=Theme.OPTIMISATION,
    title="The condition number decides the rate",
    statement=(
        "On a quadratic with curvatures between mu and L = k mu, gradient descent with its best step 2/(L + mu) shrinks the "
        "error by (k - 1)/(k + 1) a step, and no step does better: it takes about (k/2) log(1/e) steps. Scaling axes of "
        "unequal units, or whitening, changes k and so the rate."
    ),
    source="Nesterov 2004, theorem 2.1.15; LeCun, Bottou, Orr & Mueller 1998, section 5",
    assumptions=(
        "The loss is quadratic and gradients are of the full loss.",
        "The step is the best one, which needs both ends of the spectrum.",
        "The start has components along both extreme eigenvectors.",
    ),
    refuted_by="a factor 1e-6 from (k - 1)/(k + 1), a step that contracts more, or step counts not proportional to k",
    run=run,
    counterexample=counterexample,
    rows=("O30",),
    errata=(
        Erratum(
            "E21",
            stated="Gradient descent is slow when the condition number is small",
            correct="it is slow when the condition number is large: the factor a step is (k - 1)/(k + 1)",
        ),
    ),
)
