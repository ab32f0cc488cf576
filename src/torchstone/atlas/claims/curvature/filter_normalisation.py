r"""What a landscape looks like depends on the units of the weights, unless each filter is measured by its own norm.

A network of ReLU layers computes the same function when one layer is multiplied by c and the next by 1/c. Along a random
direction of fixed size it then looks flatter or sharper, as c says. With each filter of the direction scaled to the norm of
the network's own filter, the direction follows the rescaling and the landscape stays what it was.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor

from torchstone.atlas import Claim, Evidence, Scale, Theme
from torchstone.data.digits import digits
from torchstone.details import Axis, Curve, Line, numbers
from torchstone.landscape import (
    Plane,
    Ray,
    every_parameter,
    filter_normalised,
    grid_places,
    here,
    inclusive,
    orthogonalised,
    random_direction,
    values_at,
)
from torchstone.objectives import Classification
from torchstone.specimen import Specimen
from torchstone.specimens.networks import mlp
from torchstone.training.evaluation import cross_entropy
from torchstone.training.fit import fit

FACTORS = (0.1, 10.0)


def run(scale: Scale, generator: torch.Generator) -> Evidence:
    """Directions with the filters' norms."""
    return experiment(scale, generator, normalised=True)


def counterexample(scale: Scale, generator: torch.Generator) -> Evidence:
    """Directions as drawn, of the same length for every twin."""
    return experiment(scale, generator, normalised=False)


def experiment(scale: Scale, generator: torch.Generator, normalised: bool) -> Evidence:
    """Planes and lines of a trained network and of rescaled twins that compute the same function."""
    examples, ticks = (200, 9) if scale is Scale.QUICK else (1400, 21)
    data = digits(seed=0)
    x, y = data.train_x[:examples].double(), data.train_y[:examples]
    model = mlp([64, 32, 32, 10], generator=generator).double()
    sgd = lambda parameters: torch.optim.SGD(parameters, lr=0.1, momentum=0.9)
    fit(model, cross_entropy, x, y, optimizer=sgd, batch_size=50, epochs=20, generator=generator)
    seed = int(torch.randint(2**31, (), generator=generator))
    own = Landscape.of(model, (x, y), ticks, seed, normalised)
    checks, lines = [], [Line("the network", own.places, numbers(own.line))]
    for c in FACTORS:
        network = twin(model, c)
        same = (network(x) - model(x)).abs().max() / model(x).abs().max()
        other = Landscape.of(network, (x, y), ticks, seed, normalised)
        checks += [
            Evidence.at_most(
                f"difference of the outputs, c = {c:g}", same.detach(), 1e-10, "relative to the largest"
            ),
            Evidence.at_most(
                f"difference of the planes, c = {c:g}",
                ((other.plane - own.plane) / own.plane).abs().max(),
                1e-6,
                "relative",
            ),
        ]
        lines.append(Line(f"twin, layers times {c:g} and {1 / c:g}", other.places, numbers(other.line)))
    return Evidence.all_of(*checks, figures=(curve(tuple(lines), normalised),))


class Landscape:
    """Mean loss on a grid and along a line."""

    def __init__(self, plane: Tensor, places: tuple[float, ...], line: Tensor) -> None:
        self.plane, self.places, self.line = plane, places, line

    @classmethod
    def of(
        cls, model: Any, data: tuple[Tensor, Tensor], ticks: int, seed: int, normalised: bool
    ) -> Landscape:
        """Along directions from the same draws for every network."""
        specimen = Specimen(model, Classification(), data)
        space = every_parameter(specimen)
        origin, generator = here(specimen, space), torch.Generator().manual_seed(seed)
        first, second = (random_direction(space, generator) for _ in range(2))
        if normalised:
            second = orthogonalised(space, second, first)
            first, second = (filter_normalised(space, d, origin.weights) for d in (first, second))
        else:
            first, second = (d * 5 / d.norm() for d in (first, second))
        marks = inclusive(-1.0, 1.0, ticks)
        plane = values_at(specimen, space, Plane(origin, first, second), grid_places(marks, marks)).risks
        places = inclusive(-1.0, 1.0, 41)
        return cls(plane, tuple(places), values_at(specimen, space, Ray(origin, first), places).risks)


def twin(model: Any, c: float) -> Any:
    """The same function with the first layer times c and the second by c less."""
    made = copy.deepcopy(model)
    with torch.no_grad():
        made[1].weight *= c
        made[1].bias *= c
        made[3].weight /= c
    return made


def curve(lines: tuple[Line, ...], normalised: bool) -> Curve:
    """The line through each network."""
    how = "a filter-normalised direction" if normalised else "a direction of one length for all"
    return Curve(
        f"Three networks that compute the same function, along {how}",
        Axis("place on the line"),
        Axis("mean loss", log=True),
        lines,
        caption="Where the lines coincide the picture belongs to the function; where they differ, to the weights' units.",
    )


CLAIM = Claim(
    id="filter_normalisation",
    theme=Theme.CURVATURE,
    title="Landscapes without the units of the weights",
    statement=(
        "Along directions whose filters have the norms of the network's filters, the loss landscape of a ReLU network does "
        "not change when its layers are rescaled without changing the function; along raw directions it does."
    ),
    source="Li, Xu, Taylor, Studer & Goldstein 2018, sections 3 and 4; Dinh et al. 2017 (rescaling and sharpness)",
    assumptions=(
        "Layers are rescaled by one factor each; factors of their own for single units are not taken out.",
        "Activations are positively homogeneous, and both networks get the same random draws.",
    ),
    refuted_by="a loss on the plane of a rescaled twin more than 1e-6 off",
    run=run,
    counterexample=counterexample,
    rows=("H10",),
)
