r"""A wide autoencoder that interpolates its examples from small initial weights stores them as attractors.

Interpolation makes every training example a fixed point, f(x_i) = x_i. Nothing in the loss asks for more; yet the
spectral radius of the Jacobian at the examples comes out below 1, so iterating f from elsewhere runs into one of them.
It is a bias of training, not of interpolation: from large initial weights the same network fits the same examples just as
well, with fixed points that repel.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from torchstone.atlas import Claim, Evidence, Scale, Theme
from torchstone.atlas.claims.memorisation._fitting import interpolate, relu_map
from torchstone.details import Axis, Curve, Line, Marker, Table, numbers
from torchstone.memory import SpectralRadius, follow, jacobians, nearest_stored, spectral_radius
from torchstone.memory import distances as distances_between

EXAMPLES, WIDTH, UNITS, HIDDEN = 5, 32, 128, 6
STARTS, TOLERANCE = 200, 1e-2


@dataclass(frozen=True)
class Stored:
    """One trained autoencoder.

    Args:
        loss: Mean squared error left by training.
        radii: Of the Jacobian at each training example.
        share: Of the random starts that end within the tolerance of a training example.
        distances: Median over the starts of the distance to the nearest example, after each power of 2 of steps.
        basins: Share of the starts that ends at each example.
    """

    loss: float
    radii: SpectralRadius
    share: float
    distances: dict[int, float]
    basins: tuple[float, ...]


def run(scale: Scale, generator: torch.Generator) -> Evidence:
    """Small initial weights."""
    return experiment(scale, generator, gain=0.6)


def counterexample(scale: Scale, generator: torch.Generator) -> Evidence:
    """Initial weights above the critical size 2 / fan-in: signals grow on their way."""
    return experiment(scale, generator, gain=2.0)


def experiment(scale: Scale, generator: torch.Generator, gain: float) -> Evidence:
    """Train, and look at the Jacobians and at where random starts end."""
    networks = [trained(gain, generator) for _ in range(1 if scale is Scale.QUICK else 10)]
    highest = max(float(one.radii.high.max()) for one in networks)
    return Evidence.all_of(
        Evidence.at_most("largest mean squared error left", max(one.loss for one in networks), 1e-8),
        Evidence.at_most(
            "largest spectral radius at a training example", highest, 1 - 1e-9, "upper end, rounding included"
        ),
        Evidence.at_least(
            "least share of random starts that end at an example", min(one.share for one in networks), 0.9
        ),
        figures=(convergence(networks), table(networks)),
    )


def trained(gain: float, generator: torch.Generator) -> Stored:
    """One network on fresh examples."""
    x = torch.randn(EXAMPLES, WIDTH, generator=generator, dtype=torch.float64)
    model = relu_map(WIDTH, UNITS, HIDDEN, gain, generator)
    loss = interpolate(model, x, x, generator)
    radii = spectral_radius(jacobians(model, x))
    states = torch.randn(STARTS, WIDTH, generator=generator, dtype=torch.float64)
    done, distances = 0, {}
    for reached in [2**k for k in range(11)]:
        states = follow(model, states, reached - done, 0.0, bound=1e6).ends
        done = reached
        distances[reached] = median_distance(states, x)
    reached_examples = nearest_stored(states, x, TOLERANCE)
    share = float((reached_examples >= 0).double().mean())
    basins = tuple(float((reached_examples == i).double().mean()) for i in range(EXAMPLES))
    return Stored(loss, radii, share, distances, basins)


def convergence(networks: list[Stored]) -> Curve:
    """How far from an example the orbits still are."""
    floor = 1e-16
    lines = tuple(
        Line(
            f"network {i + 1}", numbers(one.distances), numbers(max(v, floor) for v in one.distances.values())
        )
        for i, one in enumerate(networks)
    )
    return Curve(
        "Iterating an autoencoder from random inputs",
        Axis("applications of the network", log=True),
        Axis("median distance to the nearest training example", log=True),
        lines,
        (Marker("counted as reached", TOLERANCE),),
        caption="The distances fall to rounding: random inputs turn into training examples.",
    )


def table(networks: list[Stored]) -> Table:
    """Radii and basins of each example."""
    rows = tuple(
        (f"network {i + 1}", j + 1, float(one.radii.values[j]), float(one.radii.high[j]), one.basins[j])
        for i, one in enumerate(networks)
        for j in range(EXAMPLES)
    )
    columns = ("network", "example", "spectral radius", "its certain upper end", "share of random starts")
    return Table("Training examples as attractors", columns, rows)


def median_distance(states: Tensor, x: Tensor) -> float:
    """Median over states of the distance to the nearest row of x."""
    return float(distances_between(states, x).amin(1).median())


CLAIM = Claim(
    id="autoencoder_attractors",
    theme=Theme.MEMORISATION,
    title="Training examples become attractors",
    statement=(
        "A wide, deep ReLU autoencoder that interpolates a few examples from small initial weights has a Jacobian of "
        "spectral radius below 1 at each of them, and iterating it from random inputs ends at a training example."
    ),
    source="Radhakrishnan, Yang, Belkin & Uhler 2019; Radhakrishnan, Belkin & Uhler 2020, section 2",
    assumptions=(
        "The training loss is driven to zero (here below 1e-8 by Adam and L-BFGS in float64).",
        "Initial weights are small: variance 0.36 / fan-in. Above the critical 2 / fan-in the examples repel.",
        "Few examples against the width; two-dimensional or crowded examples often repel.",
    ),
    refuted_by="a spectral radius of 1 or more at an example, or more than a tenth of random starts that end elsewhere",
    run=run,
    counterexample=counterexample,
    rows=("M10",),
)
