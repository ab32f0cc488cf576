r"""A gradient costs a few times its function, however many inputs there are.

Reverse mode: operations of f and its whole gradient at most 5 times those of f, and linear in the number of steps.
Forward mode: one sweep for each of the n inputs. Differentiating the formula instead repeats common parts: the derivative
of a product of n factors, written out, has n (n - 1) multiplications where f has n - 1.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.utils import skip_init

from torchstone.atlas import Claim, Evidence, Scale, Theme
from torchstone.autodiff import (
    Affine,
    GradientCost,
    Operation,
    backpropagation,
    forward_mode_gradient,
    gradient_cost,
)
from torchstone.autodiff.operation import RELU
from torchstone.details import Axis, Curve, Line, Table, numbers

DEPTHS = (2, 4, 8, 16, 32)
INPUTS = (4, 16, 64)


def run(scale: Scale, generator: torch.Generator) -> Evidence:
    """Reverse mode."""
    return experiment(scale, generator, reverse=True)


def counterexample(scale: Scale, generator: torch.Generator) -> Evidence:
    """Forward mode, one sweep an input, taken for reverse mode."""
    return experiment(scale, generator, reverse=False)


def experiment(scale: Scale, generator: torch.Generator, reverse: bool) -> Evidence:
    """Count operations of networks of many kinds, depths and input sizes."""
    depths = DEPTHS if scale is Scale.QUICK else (*DEPTHS, 64, 128, 256)
    costs = {name: gradient_cost(*model) for name, model in models(generator).items()}
    ratios = {name: cost.ratio for name, cost in costs.items()}
    if (
        not reverse
    ):  # what n forward sweeps would cost: each is a function and its tangent, twice the function
        ratios = {name: 2.0 * model[1][0].numel() for name, model in models(generator).items()}
    counted = torch.tensor([chain_cost(depth) for depth in depths], dtype=torch.float64)
    line = torch.stack([torch.tensor(depths, dtype=torch.float64), counted])
    fit = float(torch.corrcoef(line)[0, 1] ** 2)
    sweeps = {n: agreeing_sweeps(n, generator) for n in INPUTS}
    return Evidence.all_of(
        Evidence.at_most(
            "largest cost of function and gradient over function, ten networks", max(ratios.values()), 5.0
        ),
        Evidence.at_least("R^2 of cost against depth, a straight line", fit, 0.999),
        *(
            Evidence.close(f"forward sweeps for {n} inputs", float(count), float(n), absolute=0)
            for n, count in sweeps.items()
        ),
        figures=(ratio_table(costs), depth_curve(depths, counted), swell_curve()),
    )


def models(generator: torch.Generator) -> dict[str, tuple[nn.Module, Tensor]]:
    """Ten networks and their inputs. Weights have no values, as only operations are counted."""
    kinds: dict[str, tuple[nn.Module, tuple[int, ...]]] = {
        "linear": (skip_init(nn.Linear, 20, 3), (8, 20)),
        "2 layers": (dense(2), (8, 32)),
        "8 layers": (dense(8), (8, 32)),
        "32 layers": (dense(32), (8, 32)),
        "wide": (
            nn.Sequential(skip_init(nn.Linear, 10, 500), nn.Tanh(), skip_init(nn.Linear, 500, 1)),
            (4, 10),
        ),
        "narrow": (
            nn.Sequential(skip_init(nn.Linear, 500, 2), nn.Tanh(), skip_init(nn.Linear, 2, 500)),
            (4, 500),
        ),
        "convolution": (skip_init(nn.Conv2d, 3, 8, 3), (2, 3, 9, 9)),
        "strided": (
            nn.Sequential(skip_init(nn.Conv2d, 3, 8, 3, 2), nn.ReLU(), skip_init(nn.Conv2d, 8, 4, 3)),
            (2, 3, 17, 17),
        ),
        "dilated": (skip_init(nn.Conv1d, 8, 8, 5, dilation=2), (2, 8, 30)),
        "transposed": (skip_init(nn.ConvTranspose2d, 4, 3, 3), (2, 4, 6, 6)),
    }
    return {
        name: (model, torch.randn(shape, generator=generator).requires_grad_(True))
        for name, (model, shape) in kinds.items()
    }


def dense(depth: int, width: int = 32) -> nn.Module:
    """Layers of one width."""
    return nn.Sequential(
        *(layer for _ in range(depth) for layer in (skip_init(nn.Linear, width, width), nn.ReLU()))
    )


def chain_cost(depth: int) -> int:
    """Operations of both passes through our own chain, one output."""
    layer: list[Operation] = [Affine(torch.eye(9)), RELU]
    found = backpropagation(layer * depth, torch.ones(9), torch.ones(1, 9))
    return found.forward_operations + found.backward_operations


def agreeing_sweeps(n: int, generator: torch.Generator) -> int:
    """Sweeps of forward mode for a function of n inputs; its gradient is that of reverse mode."""
    matrix = torch.randn(n, n, generator=generator, dtype=torch.float64)
    function = lambda x: torch.tanh(matrix @ x).sum()
    x = torch.randn(n, generator=generator, dtype=torch.float64)
    gradient, sweeps = forward_mode_gradient(function, x)
    return sweeps if torch.allclose(gradient, torch.func.grad(function)(x), rtol=1e-10) else -1


def ratio_table(costs: dict[str, GradientCost]) -> Table:
    """Costs of the networks."""
    rows = tuple((name, cost.function, cost.gradient, cost.ratio) for name, cost in costs.items())
    columns = ("network", "operations of f", "of f and its gradient", "ratio")
    return Table(
        "What a gradient costs", columns, rows, "A layer is used once forward and twice backward: at most 3."
    )


def depth_curve(depths: tuple[int, ...], counted: Tensor) -> Curve:
    """Cost against depth."""
    return Curve(
        "Backpropagation is linear in the depth",
        Axis("steps L"),
        Axis("operations"),
        (Line("both passes", numbers(depths), numbers(counted)),),
    )


def swell_curve() -> Curve:
    """Multiplications for all derivatives of a product of n factors."""
    n = torch.arange(2, 65)
    return Curve(
        "Expression swell: all derivatives of a product of n factors",
        Axis("factors n", log=True),
        Axis("multiplications", log=True),
        (
            Line("each derivative written out", numbers(n), numbers(n * (n - 2) + 1)),
            Line("reverse mode", numbers(n), numbers(3 * (n - 1))),
        ),
        caption="Reverse mode shares what the formulas have in common.",
    )


CLAIM = Claim(
    id="cheap_gradient",
    theme=Theme.AUTODIFF,
    title="Gradients are cheap",
    statement=(
        "A function and its whole gradient by reverse mode cost at most five times the function, whatever the number "
        "of inputs, and linearly in the depth; forward mode needs one sweep an input."
    ),
    source="Baur & Strassen 1983; Griewank & Walther 2008, section 3.3; Hardt & Recht 2022, chapter 7",
    assumptions=("A scalar output.", "Intermediate values are stored, or cost no memory traffic."),
    refuted_by="a network whose gradient takes more than five times its operations",
    run=run,
    counterexample=counterexample,
    rows=("A03",),
)
