r"""A single sigmoid neuron with square loss can have 2^d local minima in d dimensions; with its matching loss it has one.

Each axis has two examples: x = 10 e_i with target 0.1 and x = e_i / 2 with target 0.99. The square loss of the first is flat
where w_i is large and that of the second where it is small, so that along each axis

    E_1(w) = (sigma(10 w) - 0.1)^2 + (sigma(w / 2) - 0.99)^2

has two minima, w = -0.17 and w = 9.19. Examples on different axes share no weight, so E(w) = sum_i E_1(w_i), whose minima
are all combinations. The matching loss of the sigmoid, the relative entropy of target and output, has the gradient
(output - target) x and is convex in w: one minimum.
Source: Auer, Herbster & Warmuth 1996: floor(n / d)^d minima from n examples for losses that stay bounded in w, and none but
global ones for matching losses.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from torchstone.atlas import Claim, Evidence, Scale, Theme
from torchstone.details import Axis, Curve, Line, Marker, Surface, Table, numbers

INPUTS, TARGETS = (10.0, 0.5), (0.1, 0.99)
DIMENSIONS = range(1, 7)
LOW, HIGH = -3.0, 6.0
EXPECTED = (-0.17, 9.19)

Derivatives = Callable[[Tensor, Tensor], tuple[Tensor, Tensor, Tensor]]


def run(scale: Scale, generator: torch.Generator) -> Evidence:
    """The square loss has 2^d minima."""
    return experiment(scale, generator, square)


def counterexample(scale: Scale, generator: torch.Generator) -> Evidence:
    """The same count expected of the matching loss."""
    return experiment(scale, generator, matching)


def experiment(scale: Scale, generator: torch.Generator, loss: Derivatives) -> Evidence:
    """Descent from many random starts in every dimension, under both losses."""
    starts = 1500 if scale is Scale.QUICK else 20_000
    found = {d: minima(loss, d, starts, generator) for d in DIMENSIONS}
    convex = {d: minima(matching, d, starts // 10, generator) for d in DIMENSIONS}
    places = found[1][:, 0].sort().values
    ends = torch.stack([places[0], places[-1]])
    return Evidence.all_of(
        Evidence.close("the smaller minimum on one axis", ends[0], EXPECTED[0], absolute=0.01),
        Evidence.close("the larger minimum on one axis", ends[1], EXPECTED[1], absolute=0.01),
        *(
            Evidence.close(f"local minima, square loss, d = {d}", len(found[d]), 2**d, absolute=0.0)
            for d in DIMENSIONS
        ),
        Evidence.at_most(
            "largest distance of a minimum from a combination of the axis's two",
            max(float(from_product(found[d], ends)) for d in DIMENSIONS),
            1e-6,
        ),
        *(
            Evidence.close(f"local minima, matching loss, d = {d}", len(convex[d]), 1, absolute=0.0)
            for d in DIMENSIONS
        ),
        figures=(axis_curve(), plane(), counts(found, convex)),
    )


def square(scores: Tensor, targets: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(sigma(z) - y)^2 with its first two derivatives in z."""
    output = torch.sigmoid(scores)
    slope = output * (1 - output)
    rest = output - targets
    return rest.square(), 2 * rest * slope, 2 * slope.square() + 2 * rest * slope * (1 - 2 * output)


def matching(scores: Tensor, targets: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Relative entropy y log(y / sigma(z)) + (1 - y) log((1 - y) / (1 - sigma(z))) with its first two derivatives in z."""
    output = torch.sigmoid(scores)
    entropy = torch.special.entr(targets) + torch.special.entr(1 - targets)
    value = torch.nn.functional.softplus(scores) - targets * scores - entropy
    return value, output - targets, output * (1 - output)


def data(dimension: int) -> tuple[Tensor, Tensor]:
    """Two examples an axis: inputs (2d, d), targets (2d,)."""
    axes = torch.eye(dimension, dtype=torch.float64)
    x = torch.cat([scale * axes for scale in INPUTS])
    return x, torch.tensor(TARGETS, dtype=torch.float64).repeat_interleave(dimension)


def minima(loss: Derivatives, dimension: int, starts: int, generator: torch.Generator) -> Tensor:
    """The different local minima that descent from random starts ends in, (K, d).

    Only ends with a gradient below 1e-9 and a Hessian that is positive definite count, and all starts must end in one.
    """
    x, y = data(dimension)
    w = LOW + (HIGH - LOW) * torch.rand(starts, dimension, generator=generator, dtype=torch.float64)
    w, gradient, curvature = descend(loss, x, y, w)
    settled = (gradient.abs().amax(1) < 1e-9) & (torch.linalg.eigvalsh(curvature)[:, 0] > 0)
    if not bool(settled.all()):
        return w  # counted one by one, which refutes the claim
    return distinct(w)


def distinct(points: Tensor, tolerance: float = 1e-4) -> Tensor:
    """One of each group of points that agree up to the tolerance in every coordinate."""
    cells = torch.unique((points / tolerance).round(), dim=0, return_inverse=True)[1]
    first = torch.full((int(cells.max()) + 1,), len(points), dtype=torch.long)
    first.scatter_reduce_(0, cells, torch.arange(len(points)), "amin")
    kept: list[Tensor] = []
    for point in points[first]:  # neighbouring cells may hold one point
        if not any(bool((point - other).abs().max() < 2 * tolerance) for other in kept):
            kept.append(point)
    return torch.stack(kept)


def descend(loss: Derivatives, x: Tensor, y: Tensor, w: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Newton's method with absolute curvatures, steps of length 1 at most, never uphill: a descent method."""
    for _ in range(80):
        value, gradient, curvature = derivatives(loss, x, y, w)
        values, basis = torch.linalg.eigh(curvature)
        inner = (basis.mT @ gradient[..., None]) / values.abs().clamp(min=1e-12)[..., None]
        step = -(basis @ inner)[..., 0]
        step = step / step.norm(dim=1, keepdim=True).clamp(min=1.0)
        slope = (step * gradient).sum(1)
        share = torch.ones(len(w), dtype=w.dtype)
        for _ in range(30):
            trial = derivatives(loss, x, y, w + share[:, None] * step)[0]
            refused = trial > value + 1e-4 * share * slope + 1e-14 * value.clamp(min=1.0)
            if not bool(refused.any()):
                break
            share = torch.where(refused, share / 2, share)
        w = w + share[:, None] * step
    _, gradient, curvature = derivatives(loss, x, y, w)
    return w, gradient, curvature


def derivatives(loss: Derivatives, x: Tensor, y: Tensor, w: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Sum of the losses (S,), its gradient (S, d) and its Hessian (S, d, d) at each of S weight vectors."""
    value, first, second = loss(w @ x.T, y)
    return value.sum(1), first @ x, torch.einsum("sn,ni,nj->sij", second, x, x)


def from_product(points: Tensor, ends: Tensor) -> Tensor:
    """Largest distance of a coordinate from the nearer of two numbers."""
    return (points[..., None] - ends).abs().amin(-1).max()


def along_axis(loss: Derivatives, w: Tensor) -> Tensor:
    """The error on one axis."""
    x, y = data(1)
    return loss(w[:, None] @ x.T, y)[0].sum(1)


def axis_curve() -> Curve:
    """Both losses on one axis."""
    w = torch.linspace(-3, 14, 400, dtype=torch.float64)
    return Curve(
        "The error of one weight",
        Axis("w"),
        Axis("sum of the losses of two examples"),
        (
            Line("square loss", numbers(w), numbers(along_axis(square, w))),
            Line("matching loss, divided by 10", numbers(w), numbers(along_axis(matching, w) / 10)),
        ),
        tuple(Marker("minimum", place, "x") for place in EXPECTED),
        caption="The square loss of a saturated neuron is flat, which leaves room for a minimum for each example. The matching "
        "loss keeps growing where the neuron is wrong, and has one.",
    )


def plane() -> Surface:
    """The square loss in two dimensions."""
    w = torch.linspace(-3, 14, 80, dtype=torch.float64)
    one = along_axis(square, w)
    return Surface(
        "Two weights: four minima",
        Axis("first weight"),
        Axis("second weight"),
        Axis("sum of the square losses"),
        numbers(w),
        numbers(w),
        tuple(numbers(row) for row in one[:, None] + one[None]),
        caption="The error is a sum over axes, so minima multiply: two on each axis make 2^d.",
    )


def counts(found: dict[int, Tensor], convex: dict[int, Tensor]) -> Table:
    """Minima by dimension."""
    rows = tuple((d, 2**d, len(found[d]), len(convex[d])) for d in DIMENSIONS)
    columns = ("dimension d", "2^d", "minima found", "minima found, matching loss")
    return Table("Different local minima", columns, rows)


CLAIM = Claim(
    id="single_neuron_local_minima",
    theme=Theme.CURVATURE,
    title="Local minima of a single neuron",
    statement=(
        "With 2d examples on the axes a single sigmoid neuron with square loss has exactly 2^d local minima; with the "
        "matching loss, the relative entropy, it has one."
    ),
    source="Auer, Herbster & Warmuth 1996 (floor(n/d)^d minima from n examples; one minimum for the matching loss)",
    assumptions=(
        "The loss as a function of the weights is bounded, as the square loss of a sigmoid is.",
        "The targets cannot all be fitted; data that a neuron fits exactly can have fewer minima.",
    ),
    refuted_by="another number of minima than 2^d for some d from 1 to 6, or more than one for the matching loss",
    run=run,
    counterexample=counterexample,
    rows=("H15",),
)
