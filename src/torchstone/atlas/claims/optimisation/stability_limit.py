r"""Gradient descent on a quadratic diverges exactly when the learning rate exceeds 2 / lambda_max.

Along an eigenvector of the Hessian a step multiplies the distance to the minimum by 1 - eta lambda. So x_t converges for
eta < 2/lambda, jumps between x_0 and -x_0 for ever at eta = 2/lambda = 2 eta_opt, and diverges beyond; in several
dimensions the largest lambda decides. With heavy-ball momentum beta the multipliers are the roots of

    z^2 - (1 + beta - eta lambda) z + beta = 0,

of which one leaves the unit circle at z = -1, that is at eta = 2 (1 + beta) / lambda.
"""

from __future__ import annotations

import cmath
import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from torchstone.atlas import Claim, Erratum, Evidence, Scale, Theme
from torchstone.details import Axis, Curve, Line, Marker, numbers, thin

CURVATURE = 3.0
MARGINS = {Scale.QUICK: 1e-3, Scale.FULL: 1e-4}  # how far below and beyond the limit
MOMENTA = (0.0, 0.5, 0.9)
STEPS = {Scale.QUICK: 8_000, Scale.FULL: 80_000}

# Losses of one coordinate with curvature CURVATURE at their minimum 0.
Loss = Callable[[Tensor], Tensor]


def quadratic(x: Tensor) -> Tensor:
    """Curvature the same everywhere."""
    return CURVATURE * x**2 / 2


def flattening(x: Tensor) -> Tensor:
    """Curvature that falls away from the minimum: sqrt(1 + x^2), scaled."""
    return CURVATURE * (torch.sqrt(1 + x**2) - 1)


def run(scale: Scale, generator: torch.Generator) -> Evidence:
    """On a quadratic."""
    return experiment(scale, generator, quadratic)


def counterexample(scale: Scale, generator: torch.Generator) -> Evidence:
    """On a loss that flattens away from its minimum: beyond the limit it bounces, and stays bounded."""
    return experiment(scale, generator, flattening)


def experiment(scale: Scale, generator: torch.Generator, loss: Loss) -> Evidence:
    """Just below, at and just beyond the limit, in one and in several dimensions."""
    steps, margin = STEPS[scale], MARGINS[scale]
    below, at, beyond = descend(
        loss, [2 * f / CURVATURE for f in (1 - margin, 1, 1 + margin)], [0.0] * 3, steps
    ).T
    sizes = at[:1001].abs()
    return Evidence.all_of(
        Evidence.at_most(
            f"|x_t / x_0| at eta = 2 eta_opt (1 - {margin:g})", below[-1].abs(), 1e-6, "converges"
        ),
        Evidence.at_most(
            "largest change of |x_t| over 1000 steps at eta = 2 eta_opt",
            (sizes - sizes[0]).abs().max(),
            1e-12,
            "neither converges nor diverges",
        ),
        Evidence.at_least(
            f"|x_t / x_0| at eta = 2 eta_opt (1 + {margin:g})", beyond[-1].abs(), 1e6, "diverges"
        ),
        Evidence.close(
            "sign after an odd number of steps at eta = 2 eta_opt", at[1001].sign(), -1.0, absolute=0.0
        ),
        Evidence.close("log growth a step beyond", growth(beyond), math.log(1 + 2 * margin), relative=1e-6),
        momentum_checks(loss, steps, margin),
        dimension_checks(steps, margin, generator),
        figures=(path_curve(loss), multiplier_curve(loss)),
    )


def momentum_checks(loss: Loss, steps: int, margin: float) -> Evidence:
    """The limit with momentum, from both sides."""
    cases = [(beta, factor) for beta in MOMENTA[1:] for factor in (1 - margin, 1 + margin)]
    rates = [2 * (1 + beta) / CURVATURE * factor for beta, factor in cases]
    ends = descend(loss, rates, [beta for beta, _ in cases], steps)[-1].abs()
    checks = []
    for (beta, factor), end in zip(cases, ends, strict=True):
        name = f"|x_t / x_0|, momentum {beta}, eta = {factor:g} x 2(1 + beta)/lambda"
        inside = factor < 1
        checks.append(
            Evidence.at_most(name, end, 1e-6, "converges")
            if inside
            else Evidence.at_least(name, end, 1e6, "diverges")
        )
    return Evidence.all_of(*checks)


def dimension_checks(steps: int, margin: float, generator: torch.Generator) -> Evidence:
    """The limit in ten dimensions, from both sides."""
    # Curvatures spread over two orders of magnitude, the others at least 5% below the largest.
    others = 0.95 * 10 ** (-2 * torch.rand(9, generator=generator, dtype=torch.float64))
    spectrum = CURVATURE * torch.cat([others, torch.ones(1, dtype=torch.float64)])
    basis = torch.linalg.qr(torch.randn(10, 10, generator=generator, dtype=torch.float64)).Q
    hessian = basis @ torch.diag(spectrum) @ basis.T
    start = basis @ torch.ones(10, dtype=torch.float64)
    least = float((2 / spectrum).min())
    bowl = lambda x: ((x @ hessian) * x).sum(-1) / 2
    path = descend(bowl, [least * (1 - margin), least * (1 + margin)], [0.0, 0.0], steps, start)
    inside, outside = path[-1].norm(dim=-1) / start.norm()
    return Evidence.all_of(
        Evidence.at_most(
            f"ten dimensions, eta = (1 - {margin:g}) min_i 2/lambda_i", inside, 1e-6, "converges"
        ),
        Evidence.at_least(
            f"ten dimensions, eta = (1 + {margin:g}) min_i 2/lambda_i", outside, 1e6, "diverges"
        ),
    )


def descend(
    loss: Loss, rates: Sequence[float], momenta: Sequence[float], steps: int, start: Tensor | None = None
) -> Tensor:
    """Iterates (steps + 1, K, ...) of heavy-ball gradient descent for K learning rates at once, from 1 or `start`.

    Momentum is that of `torch.optim.SGD`: v = beta v + gradient, x = x - eta v.
    """
    start = torch.ones((), dtype=torch.float64) if start is None else start
    column = lambda values: torch.tensor(values, dtype=torch.float64).view(-1, *[1] * start.ndim)
    eta, beta = column(rates), column(momenta)
    x = start.expand(len(rates), *start.shape).clone()
    v, path = torch.zeros_like(x), torch.empty(steps + 1, *x.shape, dtype=x.dtype)
    path[0] = x
    for step in range(1, steps + 1):
        x.requires_grad_(True)
        [gradient] = torch.autograd.grad(loss(x).sum(), x)
        v = beta * v + gradient
        x = x.detach() - eta * v
        path[step] = x
    return path


def growth(path: Tensor) -> float:
    """Mean of log |x_{t+1} / x_t|."""
    return float((path[-1].abs() / path[0].abs()).log()) / (len(path) - 1)


def multiplier(scaled_rate: float, beta: float) -> float:
    """Largest modulus of the roots, at eta lambda = `scaled_rate`."""
    b = 1 + beta - scaled_rate
    root = cmath.sqrt(b * b - 4 * beta)
    return max(abs(b + root), abs(b - root)) / 2


def path_curve(loss: Loss) -> Curve:
    """The three regimes."""
    names = {0.5: "optimal", 0.9: "below", 1.0: "at the limit", 1.01: "beyond"}
    paths = descend(loss, [2 * factor / CURVATURE for factor in names], [0.0] * len(names), 60).T
    lines = [
        Line(f"eta = {2 * factor:g} eta_opt ({name})", numbers(range(61)), numbers(path))
        for (factor, name), path in zip(names.items(), paths, strict=True)
    ]
    return Curve(
        "Gradient descent on x^2 from 1",
        Axis("step"),
        Axis("x_t"),
        tuple(lines),
        caption="One step at eta_opt; slower and slower oscillation up to the limit; for ever at it; growing beyond.",
    )


def multiplier_curve(loss: Loss) -> Curve:
    """Theoretical growth a step over the learning rate, and measured points."""
    lines, markers = [], []
    for beta in MOMENTA:
        grid = [4.2 * i / 200 for i in range(1, 201)]
        lines.append(
            Line(f"theory, momentum {beta}", numbers(grid), numbers(multiplier(z, beta) for z in grid))
        )
        kept = [grid[i] for i in thin(len(grid), 15)]
        path = descend(loss, [scaled / CURVATURE for scaled in kept], [beta] * len(kept), 120).abs()
        # The envelope of an oscillation: its maxima over two windows of 30 steps.
        found = (path[91:].amax(0) / path[31:61].amax(0)) ** (1 / 60)
        lines.append(Line(f"measured, momentum {beta}", numbers(kept), numbers(found)))
        markers.append(Marker(f"2(1 + {beta})", 2 * (1 + beta), "x"))
    return Curve(
        "Factor of |x| a step",
        Axis("learning rate times curvature, eta lambda"),
        Axis("factor a step"),
        tuple(lines),
        (*markers, Marker("stable below", 1.0)),
        caption="Above 1 the iterates diverge. Momentum moves the limit from 2 to 2(1 + beta).",
    )


CLAIM = Claim(
    id="stability_limit",
    theme=Theme.OPTIMISATION,
    title="The largest stable learning rate",
    statement=(
        "Gradient descent on a quadratic converges for learning rates below 2/lambda_max, oscillates with constant size "
        "at it and diverges beyond; heavy-ball momentum beta moves the limit to 2(1 + beta)/lambda_max."
    ),
    source="LeCun, Bottou, Orr & Mueller 1998, section 5; Polyak 1964 (momentum); "
    "Cohen, Kaur, Li, Kolter & Talwalkar 2021, section 2",
    assumptions=(
        "The loss is quadratic: its curvature is the same everywhere.",
        "Gradients are of the full loss, without noise.",
        "The start has a component along the eigenvector of lambda_max.",
    ),
    refuted_by="convergence beyond 2 eta_opt, divergence below it, or a change of |x_t| at it",
    run=run,
    counterexample=counterexample,
    rows=("O29",),
    errata=(
        Erratum(
            "E19",
            stated="Training diverges if eta >= 2 eta_opt",
            correct="at eta = 2 eta_opt a quadratic oscillates for ever; it diverges exactly for eta > 2/lambda_max, in "
            "several dimensions for eta above the least 2/lambda_i",
        ),
    ),
)
