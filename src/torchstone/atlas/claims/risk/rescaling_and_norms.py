r"""Rescaling two layers by (c, 1/c) keeps a network of ReLUs and changes its Euclidean norm as much as one likes.

relu(c z) = c relu(z) for c > 0, so multiplying one layer by c and dividing the next by c is the same function, with the same
margins. Its Euclidean norm grows with c without limit: it cannot bound an error by itself. Path norms and products of the
layers' norms do not change.
"""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Callable

import torch
from torch import nn

from torchstone.atlas import Claim, Evidence, Scale, Theme
from torchstone.bounds.margin import margins, product_norm
from torchstone.bounds.network_path_norm import network_path_norm
from torchstone.details import Axis, Curve, Line, Table

FACTORS = (0.01, 0.1, 0.3, 1.0, 3.0, 10.0, 100.0)
WIDTHS = (20, 64, 48, 10)


def run(scale: Scale, generator: torch.Generator) -> Evidence:
    """A network of ReLUs."""
    return experiment(scale, generator, nn.ReLU)


def counterexample(scale: Scale, generator: torch.Generator) -> Evidence:
    """The same with tanh, which is not positively homogeneous: rescaling changes the function."""
    return experiment(scale, generator, nn.Tanh)


def experiment(scale: Scale, generator: torch.Generator, activation: Callable[[], nn.Module]) -> Evidence:
    """Rescale the first layer against the second, and compare functions, margins and norms."""
    examples = 500 if scale is Scale.QUICK else 20_000
    net = network(activation, generator)
    x = torch.randn(examples, WIDTHS[0], generator=generator, dtype=torch.float64)
    labels = torch.randint(WIDTHS[-1], (examples,), generator=generator)
    scaled = {c: rescaled(net, c) for c in FACTORS}
    norms = {c: all_norms(one) for c, one in scaled.items()}
    start = all_norms(net)
    with torch.no_grad():
        outputs = net(x)
        change = float((scaled[100.0](x) - outputs).abs().max())
        moved = margins(scaled[100.0](x), labels) - margins(outputs, labels)
        single = float((copy.deepcopy(scaled[100.0]).float()(x.float()) - outputs).abs().max())
    invariant = [name for name in start if "Euclidean" not in name]
    return Evidence.all_of(
        Evidence.at_most("c = 100: largest change of an output, float64", change, 1e-10),
        Evidence.at_most("c = 100: largest change of an output, float32", single, 1e-5),
        Evidence.at_most("c = 100: largest change of a margin", float(moved.abs().max()), 1e-10),
        Evidence.at_least(
            "c = 100: Euclidean norm over what it was", norms[100.0]["Euclidean"] / start["Euclidean"], 10.0
        ),
        *(
            Evidence.at_most(
                f"c = 100: relative change of the {name}", abs(norms[100.0][name] / start[name] - 1), 1e-10
            )
            for name in invariant
        ),
        figures=(norms_curve(norms, start), norms_table(norms)),
    )


def network(activation: Callable[[], nn.Module], generator: torch.Generator) -> nn.Sequential:
    """Three layers with biases, of small Gaussian weights, in float64."""
    with torch.device("meta"):
        parts: list[nn.Module] = []
        for inputs, outputs in itertools.pairwise(WIDTHS):
            parts += [nn.Linear(inputs, outputs).double(), activation()]
        net = nn.Sequential(*parts[:-1])
    net = net.to_empty(device="cpu")
    with torch.no_grad():
        for parameter in net.parameters():
            scale = parameter.shape[-1] ** -0.5 if parameter.ndim == 2 else 0.1
            parameter.copy_(scale * torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
    return net


def dense(net: nn.Sequential) -> list[nn.Linear]:
    """Its linear layers."""
    return [one for one in net if isinstance(one, nn.Linear)]


def rescaled(net: nn.Sequential, c: float) -> nn.Sequential:
    """The first layer and its bias times c, the second layer's weights divided by c."""
    twin = copy.deepcopy(net)
    first, second = dense(twin)[:2]
    with torch.no_grad():
        first.weight.mul_(c)
        if first.bias is not None:
            first.bias.mul_(c)
        second.weight.div_(c)
    return twin


def all_norms(net: nn.Sequential) -> dict[str, float]:
    """The Euclidean norm of all weights and norms that rescaling leaves alone."""
    weights = [one.weight.detach() for one in dense(net)]
    example = torch.zeros(1, WIDTHS[0], dtype=torch.float64)
    return {
        "Euclidean": math.sqrt(sum(float(w.square().sum()) for w in weights)),
        "path norm, order 1": network_path_norm(net, example, 1.0),
        "path norm, order 2": network_path_norm(net, example, 2.0),
        "product of spectral norms": product_norm(weights, 2),
        "product of Frobenius norms": product_norm(weights),
    }


def norms_curve(norms: dict[float, dict[str, float]], start: dict[str, float]) -> Curve:
    """Norms against c, relative to c = 1."""
    lines = tuple(
        Line(name, FACTORS, tuple(norms[c][name] / start[name] for c in FACTORS))
        for name in ("Euclidean", "path norm, order 2", "product of Frobenius norms")
    )
    return Curve(
        "Norms of one function written with other weights",
        Axis("factor c of the first layer", log=True),
        Axis("norm, relative to c = 1", log=True),
        lines,
        caption="All points are the same network function. A measure of complexity that moves here measures how it is written.",
    )


def norms_table(norms: dict[float, dict[str, float]]) -> Table:
    """All norms."""
    names = tuple(norms[1.0])
    rows = tuple((c, *(norms[c][name] for name in names)) for c in FACTORS)
    return Table("Norms", ("c", *names), rows)


CLAIM = Claim(
    id="rescaling_and_norms",
    theme=Theme.RISK,
    title="Euclidean norms see how a network is written",
    statement=(
        "Rescaling two layers of a network of ReLUs by (c, 1/c) keeps its outputs and margins and changes its Euclidean norm "
        "without limit; path norms and products of the layers' norms stay."
    ),
    source="Neyshabur, Tomioka & Srebro 2015 (norm-based capacity control), section 4; Dinh, Pascanu, Bengio & Bengio 2017, section 3",
    assumptions=("Activations are positively homogeneous, as ReLU and leaky ReLU are.", "c is positive."),
    refuted_by="an output that changes by 1e-10 in float64, or a path norm that changes by 1e-10 of itself",
    run=run,
    counterexample=counterexample,
    rows=("R13",),
)
