r"""A network trained on x_t -> x_{t+1} stores the sequence as a stable limit cycle.

Interpolating the transitions of a closed sequence makes it a cycle of the iterated network. Whether it is an attractor is
told by its Floquet multipliers, the eigenvalues of the product of the Jacobians around the cycle.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from torchstone.atlas import Claim, Evidence, Scale, Theme
from torchstone.atlas.claims.memorisation._fitting import interpolate, relu_map
from torchstone.details import Axis, Curve, Line, Scatter, numbers
from torchstone.memory import distances, floquet_multipliers, follow

UNITS, HIDDEN, STARTS, DISTURBANCE = 128, 6, 60, 0.2
ROUNDS = 100


def run(scale: Scale, generator: torch.Generator) -> Evidence:
    """Small initial weights."""
    return experiment(scale, generator, gain=0.6)


def counterexample(scale: Scale, generator: torch.Generator) -> Evidence:
    """Initial weights above the critical size: the cycle is learnt just as well, and repels."""
    return experiment(scale, generator, gain=3.0)


def experiment(scale: Scale, generator: torch.Generator, gain: float) -> Evidence:
    """Cycles of several lengths: train, disturb, iterate, compare in phase."""
    parts, figures = [], []
    for period in (3,) if scale is Scale.QUICK else (2, 3, 5, 8):
        cycle = circle(period)
        model = relu_map(2, UNITS, HIDDEN, gain, generator)
        loss = interpolate(model, cycle, cycle.roll(-1, 0), generator)
        multiplier = float(floquet_multipliers(model, cycle)[0].abs())
        noise = torch.randn(STARTS, 2, generator=generator, dtype=torch.float64)
        starts = cycle.repeat(STARTS, 1)[:STARTS] + DISTURBANCE * noise
        errors = errors_by_round(model, starts, cycle)
        parts += [
            Evidence.at_most(f"mean squared error of the transitions, period {period}", loss, 1e-10),
            Evidence.at_most(f"largest Floquet multiplier, period {period}", multiplier, 0.999),
            Evidence.at_most(
                f"largest distance to the cycle after {ROUNDS} rounds, period {period}", errors[-1], 1e-3
            ),
        ]
        figures += [returning(errors, period), orbit(model, starts[:20], cycle)]
    return Evidence.all_of(*parts, figures=figures)


def circle(period: int) -> Tensor:
    """Points of a regular polygon in their order, (period, 2)."""
    angle = 2 * math.pi * torch.arange(period, dtype=torch.float64) / period
    return torch.stack([angle.cos(), angle.sin()], 1)


def errors_by_round(model: nn.Module, starts: Tensor, cycle: Tensor) -> list[float]:
    """Largest distance of the orbits to the nearest point of the cycle before and after each round."""
    states, errors = starts, []
    for _ in range(ROUNDS + 1):
        errors.append(float(distances(states, cycle).amin(1).max()))
        states = follow(model, states, len(cycle), 0.0, bound=1e6).ends
    return errors


def returning(errors: list[float], period: int) -> Curve:
    """Distance to the cycle over the rounds."""
    line = Line(
        "largest of all starts", numbers(range(len(errors))), numbers(max(one, 1e-17) for one in errors)
    )
    return Curve(
        f"Back to a cycle of {period}",
        Axis("rounds"),
        Axis("distance to the cycle", log=True),
        (line,),
        caption="A straight fall: the disturbance shrinks by the largest Floquet multiplier each round.",
    )


def orbit(model: nn.Module, starts: Tensor, cycle: Tensor) -> Scatter:
    """Where some orbits pass on their first rounds."""
    states, points = starts, [starts]
    for _ in range(3 * len(cycle)):
        states = follow(model, states, 1, 0.0, bound=1e6).ends
        points.append(states)
    visited = torch.cat(points)
    groups = ("orbit",) * len(visited) + ("stored",) * len(cycle)
    both = torch.cat([visited, cycle]).clamp(-3, 3)
    return Scatter(
        "Orbits in the plane",
        Axis("first coordinate"),
        Axis("second coordinate"),
        numbers(both[:, 0]),
        numbers(both[:, 1]),
        groups,
        caption="Disturbed starts fall onto the stored points (beyond 3 drawn at 3).",
    )


CLAIM = Claim(
    id="sequence_memory",
    theme=Theme.MEMORISATION,
    title="Sequences stored as limit cycles",
    statement=(
        "A wide ReLU network trained on the transitions of a closed sequence from small initial weights has that sequence as "
        "a stable limit cycle: its Floquet multipliers lie inside the unit circle and disturbed starts return to it."
    ),
    source="Radhakrishnan, Belkin & Uhler 2020, section 3 (sequence encoders)",
    assumptions=(
        "The transitions are interpolated (mean squared error below 1e-10).",
        "Initial weights are small: variance 0.36 / fan-in.",
    ),
    refuted_by="a Floquet multiplier of 1 or more, or a disturbed start that is 1e-3 off the cycle after 100 rounds",
    run=run,
    counterexample=counterexample,
    rows=("M11",),
)
