r"""What a shortcut does to the Jacobian: identity plus something small, so that no direction is lost.

A residual block x + F(x) has the Jacobian I + J, J that of F, with singular values in [1 - |J|, 1 + |J|] (Weyl). With
branches scaled by 1/L and |J_l| <= eps, those of L blocks lie in

    [(1 - eps/L)^L, (1 + eps/L)^L],   which tends to [exp(-eps), exp(eps)] as L grows.

With the factor 1/sqrt(L) the upper end is (1 + eps/sqrt(L))^L ~ exp(eps sqrt(L)), and branches that point the same way
reach it; independent random ones do not. A plain ReLU network of the same layers loses whole directions.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from torchstone.atlas import Claim, Evidence, Scale, Theme
from torchstone.details import Axis, Curve, Line, Table, numbers
from torchstone.init import draw_weight, set_weight
from torchstone.layers.residual import Residual

DEPTH = 50
EPSILON = 1.0
DEPTHS = (10, 30, 100, 300, 1000)

Factor = Callable[[int], float]


def one_over(depth: int) -> float:
    """1/L."""
    return 1 / depth


def one_over_root(depth: int) -> float:
    """1/sqrt(L)."""
    return depth**-0.5


def run(scale: Scale, generator: torch.Generator) -> Evidence:
    """Branches scaled by 1/L."""
    return experiment(scale, generator, one_over)


def counterexample(scale: Scale, generator: torch.Generator) -> Evidence:
    """Branches scaled by 1/sqrt(L), against the bounds of 1/L."""
    return experiment(scale, generator, one_over_root)


@dataclass(frozen=True)
class Single:
    """What was seen of single blocks: the largest |J' - (I + J)|, singular values seen and those outside Weyl's bound."""

    error: float
    values: int
    violations: int


def experiment(scale: Scale, generator: torch.Generator, factor: Factor) -> Evidence:
    """Single blocks, stacks of 50 of them, and the worst stacks of growing depth."""
    networks, width = (100, 16) if scale is Scale.QUICK else (1000, 64)
    stacks = 5 if scale is Scale.QUICK else 50
    single = single_blocks(networks, width, generator)
    deep = [stack(width, DEPTH, factor(DEPTH), generator) for _ in range(stacks)]
    x = torch.randn(stacks, width, generator=generator, dtype=torch.float64)
    scaled = torch.stack([singular_values(model, one) for model, one in zip(deep, x, strict=True)])
    plain = torch.stack([singular_values(plain_network(width, generator), one) for one in x])
    low, high = interval(DEPTH)
    aligned = {name: aligned_growth(rule) for name, rule in (("1/L", factor), ("1/sqrt(L)", one_over_root))}
    return Evidence.all_of(
        Evidence.at_most("largest |J' - (I + J)|", single.error, 1e-10, f"over {networks} networks"),
        Evidence.at_most(
            "singular values of I + J outside [1 - |J|, 1 + |J|]", single.violations, 0, f"of {single.values}"
        ),
        Evidence.at_most(
            f"singular values of {DEPTH} scaled blocks outside [(1 - eps/L)^L, (1 + eps/L)^L]",
            outside(scaled, DEPTH),
            0,
            f"of {scaled.numel()}",
        ),
        Evidence.at_most(
            f"condition number of {DEPTH} scaled blocks", condition(scaled), high / low, "the quotient of the bounds"
        ),
        Evidence.at_least(f"condition number of {DEPTH} plain ReLU layers", condition(plain), 1e6),
        Evidence.at_most(
            f"largest singular value of {DEPTHS[-1]} aligned blocks, 1/L", aligned["1/L"][-1], math.exp(EPSILON), "e^eps"
        ),
        Evidence.at_least(
            f"largest singular value of {DEPTHS[-1]} aligned blocks, 1/sqrt(L)",
            aligned["1/sqrt(L)"][-1],
            math.exp(0.9 * EPSILON * DEPTHS[-1] ** 0.5),
            "grows like e^(eps sqrt(L))",
        ),
        figures=(spectra(scaled, plain), growth(aligned), table(scaled, plain)),
    )  # fmt: skip


def linear(width: int) -> nn.Linear:
    """A layer without bias whose weight is yet to be set."""
    layer = nn.utils.skip_init(nn.Linear, width, width, bias=False, dtype=torch.float64)
    assert isinstance(layer, nn.Linear)
    return layer


def branch(width: int, generator: torch.Generator, norm: float) -> nn.Module:
    """Linear, tanh, linear, with a product of spectral norms of `norm`: so is the bound on its Jacobian."""
    layers = [linear(width) for _ in range(2)]
    for layer in layers:
        weight = draw_weight(layer, "kaiming", 1.0, generator)
        set_weight(layer, weight * norm**0.5 / torch.linalg.matrix_norm(weight, 2))
    return nn.Sequential(layers[0], nn.Tanh(), layers[1])


def single_blocks(networks: int, width: int, generator: torch.Generator) -> Single:
    """Jacobians of blocks with branches of norms from 0 to 1, at random inputs, each differentiated as a whole."""
    error, values, violations = 0.0, 0, 0
    eye = torch.eye(width, dtype=torch.float64)
    for _ in range(networks):
        inner = branch(width, generator, float(torch.rand(1, generator=generator, dtype=torch.float64)))
        x = torch.randn(width, generator=generator, dtype=torch.float64)
        of_block, of_branch = jacobian(Residual(inner), x), jacobian(inner, x)
        error = max(error, float((of_block - eye - of_branch).abs().max()))
        size = float(torch.linalg.matrix_norm(of_branch, 2))
        distances = (torch.linalg.svdvals(of_block) - 1).abs()
        values, violations = values + width, violations + int((distances > size + 1e-12).sum())
    return Single(error, values, violations)


def stack(width: int, depth: int, scale: float, generator: torch.Generator) -> nn.Module:
    """Residual blocks one after another, their branches bounded by EPSILON before scaling."""
    return nn.Sequential(*(Residual(branch(width, generator, EPSILON), scale=scale) for _ in range(depth)))


def plain_network(width: int, generator: torch.Generator) -> nn.Module:
    """DEPTH linear layers with ReLU, initialised by Kaiming's rule."""
    layers: list[nn.Module] = []
    for _ in range(DEPTH):
        layer = linear(width)
        set_weight(layer, draw_weight(layer, "kaiming", 2**0.5, generator))
        layers += [layer, nn.ReLU()]
    return nn.Sequential(*layers)


def jacobian(model: nn.Module, x: Tensor) -> Tensor:
    """The Jacobian of the model at x, by reverse mode."""
    found = torch.func.jacrev(model)(x)
    assert isinstance(found, Tensor)
    return found.detach()


def singular_values(model: nn.Module, x: Tensor) -> Tensor:
    """Of the whole model's Jacobian, descending."""
    return torch.linalg.svdvals(jacobian(model, x))


def interval(depth: int) -> tuple[float, float]:
    """The interval promised for branches scaled by 1/depth."""
    return (1 - EPSILON / depth) ** depth, (1 + EPSILON / depth) ** depth


def outside(values: Tensor, depth: int) -> int:
    """How many singular values lie outside the interval, beyond rounding."""
    low, high = interval(depth)
    return int(((values < low * (1 - 1e-12)) | (values > high * (1 + 1e-12))).sum())


def condition(values: Tensor) -> float:
    """The largest quotient of the ends over the networks; 1e300 for singular Jacobians."""
    return float((values[:, 0] / values[:, -1].clamp(min=1e-300)).max().clamp(max=1e300))


def aligned_growth(factor: Factor) -> list[float]:
    """Largest singular value of L blocks whose branches all are EPSILON times the identity, for each of DEPTHS."""
    found = []
    for depth in DEPTHS:
        inner = linear(1)
        set_weight(inner, torch.full((1, 1), EPSILON, dtype=torch.float64))
        block = Residual(inner, scale=factor(depth))
        model = nn.Sequential(*(block for _ in range(depth)))
        found.append(float(jacobian(model, torch.ones(1, dtype=torch.float64)).abs()))
    return found


def spectra(scaled: Tensor, plain: Tensor) -> Curve:
    """Singular values of the deep networks, largest first."""
    ranks = numbers(range(1, scaled.shape[1] + 1))
    lines = [
        Line(name, ranks, numbers(values.clamp(min=1e-18).log().mean(0).exp()))
        for name, values in (("residual, scaled", scaled), ("plain ReLU", plain))
    ]
    low, high = interval(DEPTH)
    lines += [
        Line("bounds of the scaled network", ranks, numbers([high] * len(ranks))),
        Line("lower bound", ranks, numbers([low] * len(ranks))),
    ]
    return Curve(
        f"Singular values of {DEPTH} layers",
        Axis("rank"),
        Axis("singular value, geometric mean over networks (below 1e-18 shown as 1e-18)", log=True),
        tuple(lines),
        caption="Scaled residual blocks keep every direction; a plain network of the same depth keeps one or two.",
    )


def growth(aligned: dict[str, list[float]]) -> Curve:
    """The worst case over depth."""
    lines = [Line(f"factor {name}", numbers(DEPTHS), numbers(found)) for name, found in aligned.items()]
    lines.append(Line("e^eps", numbers(DEPTHS), numbers([math.exp(EPSILON)] * len(DEPTHS))))
    return Curve(
        "Blocks that point the same way",
        Axis("blocks L", log=True),
        Axis("largest singular value", log=True),
        tuple(lines),
        caption="With 1/L the largest singular value stays below e^eps at every depth; with 1/sqrt(L) it explodes.",
    )


def table(scaled: Tensor, plain: Tensor) -> Table:
    """Ends and condition numbers."""
    rows = tuple(
        (name, float(values.amax()), float(values.amin()), condition(values))
        for name, values in (("residual, scaled", scaled), ("plain ReLU", plain))
    )
    columns = ("network", "largest singular value", "smallest", "condition number (largest of the networks)")
    return Table(f"Jacobians of {DEPTH} layers", columns, rows)


CLAIM = Claim(
    id="residual_jacobian",
    theme=Theme.SIGNAL,
    title="The Jacobian of residual networks",
    statement=(
        "A residual block has the Jacobian I + J, with singular values within |J| of 1. L blocks with branches scaled by "
        "1/L keep every singular value in [(1 - eps/L)^L, (1 + eps/L)^L], eps a bound on the branches' Jacobians; with "
        "1/sqrt(L) nothing of the kind holds."
    ),
    source="He et al. 2016b, eq. (5); Hardt & Ma 2017, section 2; Hardt & Recht 2022, chapter 7; Weyl's inequality: Horn & "
    "Johnson, Topics in Matrix Analysis, theorem 3.3.16",
    assumptions=(
        "The shortcut is the identity.",
        "Each branch is differentiable where it is evaluated, with a Jacobian of spectral norm at most eps <= L.",
    ),
    refuted_by="|J' - (I + J)| above 1e-10, or one singular value outside its interval",
    run=run,
    counterexample=counterexample,
    rows=("S21", "N08"),
)
