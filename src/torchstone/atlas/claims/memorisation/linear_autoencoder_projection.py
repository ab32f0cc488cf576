r"""A linear autoencoder trained from zero becomes the projection onto the span of its examples.

Every gradient of sum |W x_i - x_i|^2 has rows in the span, so W (I - P) stays what it was: 0 from a start at 0, and the limit
is P = X X^+. From a random start the limit P + W_0 (I - P) passes noise on, however long one trains.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from torchstone.atlas import Claim, Erratum, Evidence, Scale, Theme
from torchstone.details import Axis, Curve, Line, Marker, numbers
from torchstone.memory import linear_autoencoder_limit, span_projection
from torchstone.training.evaluation import squared_error

EXAMPLES, WIDTH = 5, 20


def run(scale: Scale, generator: torch.Generator) -> Evidence:
    """From 0 the projection, from elsewhere the shifted formula."""
    return experiment(scale, generator, shifted=True)


def counterexample(scale: Scale, generator: torch.Generator) -> Evidence:
    """The projection expected from any start."""
    return experiment(scale, generator, shifted=False)


def experiment(scale: Scale, generator: torch.Generator, shifted: bool) -> Evidence:
    """Gradient descent on a linear layer from 0, from random weights and on two layers."""
    more = 1 if scale is Scale.QUICK else 5
    x = torch.randn(EXAMPLES * more, WIDTH * more, generator=generator, dtype=torch.float64)
    projection = span_projection(x)
    start = torch.randn(x.shape[1], x.shape[1], generator=generator, dtype=torch.float64) / x.shape[1] ** 0.5
    elsewhere = linear_autoencoder_limit(x, start) if shifted else projection
    steps = 2000
    zero, from_zero = descended(x, torch.zeros_like(start), projection, steps)
    away, from_elsewhere = descended(x, start, elsewhere, steps)
    return Evidence.all_of(
        Evidence.close("weights trained from 0", zero, projection, absolute=1e-6),
        Evidence.close("weights trained from a random start", away, elsewhere, absolute=1e-6),
        Evidence.at_most("training error from 0", largest_error(zero, x), 1e-9),
        Evidence.at_most("training error from a random start", largest_error(away, x), 1e-9),
        Evidence.close("one application more changes nothing", zero @ zero, zero, absolute=1e-6),
        Evidence.close("rank", torch.linalg.matrix_rank(zero, atol=1e-6).double(), len(x), absolute=0.5),
        figures=(distances({"from 0": from_zero, "from a random start": from_elsewhere}),),
    )


def descended(x: Tensor, start: Tensor, target: Tensor, steps: int) -> tuple[Tensor, dict[int, float]]:
    """The weight of a linear layer after gradient descent, and its distance to a target on the way."""
    layer: Any = nn.utils.skip_init(nn.Linear, x.shape[1], x.shape[1], bias=False, dtype=torch.float64)
    with torch.no_grad():
        layer.weight.copy_(start)
    smoothness = float(2 * torch.linalg.matrix_norm(x, 2).square() / x.numel())
    optimizer = torch.optim.SGD(layer.parameters(), lr=1 / smoothness)
    path = {}
    for step in range(1, steps + 1):
        optimizer.zero_grad()
        squared_error(layer, x, x).mean().backward()
        optimizer.step()
        if step % max(1, steps // 200) == 0:
            path[step] = float((layer.weight.detach() - target).norm())
    return layer.weight.detach().clone(), path


def largest_error(weight: Tensor, x: Tensor) -> float:
    """Largest coordinate of W x_i - x_i."""
    return float((x @ weight.T - x).abs().max())


def distances(paths: dict[str, dict[int, float]]) -> Curve:
    """Distance of the weights to their predicted limit."""
    lines = tuple(
        Line(name, numbers(path), numbers(max(value, 1e-17) for value in path.values()))
        for name, path in paths.items()
    )
    return Curve(
        "Linear autoencoders reach their predicted limit",
        Axis("gradient steps"),
        Axis("Frobenius distance to the predicted limit", log=True),
        lines,
        (Marker("tolerance of the check", 1e-6),),
        caption="From 0 the limit is the projection on the span; from a random start it keeps W_0 outside the span.",
    )


CLAIM = Claim(
    id="linear_autoencoder_projection",
    theme=Theme.MEMORISATION,
    title="Linear autoencoders project onto the span",
    statement=(
        "Gradient descent from zero on a linear autoencoder converges to the projection onto the span of the examples; "
        "from W_0 it converges to P + W_0 (I - P)."
    ),
    source="Radhakrishnan, Yang, Belkin & Uhler 2019, section 3",
    assumptions=(
        "One linear layer, squared error, steps below twice the inverse smoothness, no weight decay.",
    ),
    refuted_by="a limit more than 1e-6 from the predicted one",
    run=run,
    counterexample=counterexample,
    rows=("M10",),
    errata=(
        Erratum(
            "M10",
            stated="A linear autoencoder learns the projection onto the span of its training examples",
            correct="only from a start that vanishes outside the span, such as 0; a random start keeps its part W_0 (I - P)",
        ),
    ),
)
