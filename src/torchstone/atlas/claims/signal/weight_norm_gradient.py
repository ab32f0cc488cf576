r"""Weight normalisation w = g v / |v|: the gradient in v is orthogonal to v, so v never becomes shorter.

As w does not depend on |v|, <v, grad_v L> = 0 and a step of gradient descent gives

    |v - eta grad_v L|^2 = |v|^2 + eta^2 |grad_v L|^2.

It is the weights that are normalised, not the inputs: outputs still grow with them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

from torchstone.atlas import Claim, Erratum, Evidence, Scale, Theme
from torchstone.details import Axis, Curve, Line, numbers, thin
from torchstone.layers.normalisation import weight_norm_data_init

RATE = 0.1
INPUTS, UNITS, EXAMPLES = 8, 6, 64

Weights = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Descent:
    """Gradient descent in g and v, step by step.

    Args:
        norms: |v| of every unit, (steps + 1, UNITS).
        cosines: Largest |<v, grad_v>| over |v| |grad_v| of each step.
        excess: Relative error of |v|^2 + eta^2 |grad_v|^2 as the next |v|^2, the largest over units, of each step.
        weights: w at the end.
    """

    norms: Tensor
    cosines: Tensor
    excess: Tensor
    weights: Tensor


def normalised(g: Tensor, v: Tensor) -> Tensor:
    """Weights g v / |v|, one g a row."""
    return g * v / v.norm(dim=1, keepdim=True)


def scaled(g: Tensor, v: Tensor) -> Tensor:
    """Weights g v, which is what is left if the weights are not normalised."""
    return g * v


def run(scale: Scale, generator: torch.Generator) -> Evidence:
    """With weight normalisation."""
    return experiment(scale, generator, normalised)


def counterexample(scale: Scale, generator: torch.Generator) -> Evidence:
    """Without the division by |v|."""
    return experiment(scale, generator, scaled)


def experiment(scale: Scale, generator: torch.Generator, weights: Weights) -> Evidence:
    """Descent on a least-squares problem in double precision, beside PyTorch's own parametrisation."""
    steps = 300 if scale is Scale.QUICK else 10_000
    gaussian = lambda *shape: torch.randn(*shape, generator=generator, dtype=torch.float64)
    x, y = gaussian(EXAMPLES, INPUTS), gaussian(EXAMPLES, UNITS)
    g, v = gaussian(UNITS, 1).abs() + 0.5, gaussian(UNITS, INPUTS)
    found, reference = descend(weights, g, v, x, y, steps), torchs(g, v, x, y, steps)
    changes = found.norms.diff(dim=0)
    layer = torch_layer(g, v, bias=True)
    weight_norm_data_init(layer, 3 + 2 * x)
    start = layer(3 + 2 * x).detach()
    plain = torch_layer(g, v, bias=False)
    ratio = float(plain(10 * x).detach().norm() / plain(x).detach().norm())
    return Evidence.all_of(
        Evidence.at_most("largest |cos(v, grad_v)| over all steps and units", found.cosines.max(), 1e-10),
        Evidence.at_least("smallest change of |v| in a step", changes.min(), -1e-12),
        Evidence.at_most(
            "|v|^2 + eta^2 |grad_v|^2 as the next |v|^2, relative error", found.excess.max(), 1e-10
        ),
        Evidence.close("weights, beside PyTorch's parametrisation", found.weights, reference, relative=1e-7),
        Evidence.at_most("|mean| of a unit after the data-dependent start", start.mean(0).abs().max(), 1e-10),
        Evidence.close(
            "variance of a unit after it", start.var(0, unbiased=False).max(), 1.0, absolute=1e-10
        ),
        Evidence.close("outputs for ten times the inputs, ratio of norms", ratio, 10.0, relative=1e-12),
        figures=(curve(found),),
    )


def descend(weights: Weights, g: Tensor, v: Tensor, x: Tensor, y: Tensor, steps: int) -> Descent:
    """Gradient descent on the mean squared error."""
    norms, cosines, excess = [v.norm(dim=1)], [], []
    for _ in range(steps):
        g, v = g.detach().requires_grad_(True), v.detach().requires_grad_(True)
        loss = (x @ weights(g, v).T - y).square().mean()
        by_g, by_v = torch.autograd.grad(loss, (g, v))
        size, length = by_v.norm(dim=1), v.detach().norm(dim=1)
        inner = (v.detach() * by_v).sum(1).abs()
        # Where the gradient has vanished its direction is rounding alone.
        cosines.append((inner / (length * size.clamp(min=1e-3))).max())
        expected = length.square() + RATE**2 * size.square()
        g, v = (g - RATE * by_g).detach(), (v - RATE * by_v).detach()
        norms.append(v.norm(dim=1))
        excess.append((norms[-1].square() / expected - 1).abs().max())
    return Descent(torch.stack(norms), torch.stack(cosines), torch.stack(excess), weights(g, v))


def torch_layer(g: Tensor, v: Tensor, bias: bool) -> nn.Module:
    """PyTorch's parametrisation with the same g and v, and a bias of zero or none."""
    layer = weight_norm(nn.utils.skip_init(nn.Linear, INPUTS, UNITS, bias=bias, dtype=torch.float64))
    state = {"parametrizations.weight.original0": g, "parametrizations.weight.original1": v}
    layer.load_state_dict(state | ({"bias": torch.zeros(UNITS, dtype=torch.float64)} if bias else {}))
    return layer


def torchs(g: Tensor, v: Tensor, x: Tensor, y: Tensor, steps: int) -> Tensor:
    """Weights after the same descent by PyTorch's parametrisation and optimiser."""
    layer = torch_layer(g, v, bias=False)
    optimizer = torch.optim.SGD(layer.parameters(), lr=RATE)
    for _ in range(steps):
        optimizer.zero_grad()
        (layer(x) - y).square().mean().backward()
        optimizer.step()
    weight = layer.weight
    assert isinstance(weight, Tensor)
    return weight.detach()


def curve(found: Descent) -> Curve:
    """|v| of each unit over its start."""
    kept = thin(len(found.norms), 300)
    ratio = found.norms / found.norms[0]
    lines = [
        Line(f"unit {unit}", numbers(kept), numbers(ratio[kept, unit])) for unit in range(ratio.shape[1])
    ]
    return Curve(
        "Length of v during gradient descent",
        Axis("step"),
        Axis("|v| over its start"),
        tuple(lines),
        caption="Weight normalisation: no line ever falls, and each levels off as the gradient vanishes.",
    )


CLAIM = Claim(
    id="weight_norm_gradient",
    theme=Theme.SIGNAL,
    title="Weight normalisation: v never becomes shorter",
    statement=(
        "With w = g v / |v| the gradient in v is orthogonal to v, so gradient descent never makes v shorter: its squared "
        "length grows by eta^2 |grad_v|^2 in a step."
    ),
    source="Salimans & Kingma 2016, section 2.1, eqs. (2) to (4); section 3, eqs. (5) and (6)",
    assumptions=(
        "Plain gradient descent: momentum and weight decay move v along itself.",
        "v is not zero.",
    ),
    refuted_by="a cosine of v and its gradient above 1e-10, or a step that shortens v",
    run=run,
    counterexample=counterexample,
    rows=("S18",),
    errata=(
        Erratum(
            "E29",
            stated="weight normalisation normalises the inputs with the L2 norm of the weights",
            correct="it writes the weights as w = g v / |v|; outputs still grow with the inputs",
        ),
    ),
)
