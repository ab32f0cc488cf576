r"""What batch normalisation takes away from the gradient, exactly, and how much less the gradient changes along a step.

y^ = (y - mu) / sigma over the m examples of a batch, z = gamma y^ + beta, g = dL/dz. With sigma and mu depending on y,

    |dL/dy|^2 = (gamma^2 / sigma^2) (|g|^2 - <1, g>^2 / m - <g, y^>^2 / m):

the gradient's mean and its component along y^ are gone, and the rest is scaled. This holds for each unit, each loss and every
batch. That gradients then change less along a step of gradient descent is an observation, which depends on the network.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from torchstone.atlas import Claim, Erratum, Evidence, Scale, Theme
from torchstone.atlas.claims.signal._normalised import Kind, batch, dense, move, slope
from torchstone.details import Axis, Curve, Line, Table, numbers
from torchstone.layers.normalisation import batch_norm, squared_gradient_norm

SEEDS = 5
DEPTH, WIDTH = 6, 64
RATE, BATCH = 0.1, 256
STEPS_ALONG = (0.01, 0.03, 0.1, 0.3)  # learning rates of the steps along which gradients are compared
KINDS = (Kind.PLAIN, Kind.BATCH)
SMALL = 1 / 3  # variance of a weight times fan_in, as PyTorch's linear layers start: gradients vanish


def run(scale: Scale, generator: torch.Generator) -> Evidence:
    """Statistics of the batch, and networks that start with gradients of one size at all layers."""
    return experiment(scale, generator, of_batch=True, gain=2.0)


def counterexample(scale: Scale, generator: torch.Generator) -> Evidence:
    """Fixed statistics, as in evaluation mode; and a plain network whose gradients vanish, so that they hardly change."""
    return experiment(scale, generator, of_batch=False, gain=SMALL)


def experiment(scale: Scale, generator: torch.Generator, of_batch: bool, gain: float) -> Evidence:
    """The identity at every normalisation of a network, and gradients along steps during training."""
    updates = 40 if scale is Scale.QUICK else 300
    pairs = [identity(generator, of_batch) for _ in range(SEEDS)]
    actual, formula = (torch.cat([pair[side] for pair in pairs]) for side in (0, 1))
    checks = [
        Evidence.at_most(
            "largest relative error of the identity, every unit of five hidden layers",
            ((formula - actual).abs() / actual.clamp(min=1e-300)).max(),  # dead units have 0 on both sides
            1e-10,
            "|dL/dy|^2 by automatic differentiation",
        )
    ]
    changes = torch.stack(
        [
            torch.stack([along_training(kind, updates, gain, generator) for kind in KINDS])
            for _ in range(SEEDS)
        ]
    )  # seeds, kinds, points, steps along, (change, change over distance)
    largest = changes.amax((2, 3))
    ratios = largest[:, 0] / largest[:, 1]
    checks.append(
        Evidence.at_least(
            "largest change of the gradient along a step, plain over normalised, median of five seeds",
            ratios[:, 0].median(),
            1.0,
            "smaller with batch normalisation",
        )
    )
    return Evidence.all_of(*checks, figures=(curve(changes, updates), table(largest)))


def identity(generator: torch.Generator, of_batch: bool) -> tuple[Tensor, Tensor]:
    """|dL/dy|^2 of every unit before a normalisation, by automatic differentiation and by the formula; eps = 0."""
    model = dense(Kind.BATCH, DEPTH, WIDTH, generator).double()
    x, labels = batch(BATCH, generator)
    h, kept = x.double(), []
    for layer in model:
        if not isinstance(layer, nn.BatchNorm1d):
            h = layer(h)
            continue
        y = h
        scale, shift = 1 + torch.randn(2, WIDTH, generator=generator, dtype=torch.float64) / 2
        forward = batch_norm(y, scale, shift, eps=0.0)
        h = forward.output
        if not of_batch:
            h = scale * (y - forward.mean.detach()) / forward.deviation.detach() + shift
        kept.append((forward, y, h))
    loss = cross_entropy(h, labels)
    before = torch.autograd.grad(loss, [y for _, y, _ in kept], retain_graph=True)
    after = torch.autograd.grad(loss, [z for _, _, z in kept])
    formula = [squared_gradient_norm(forward, g) for (forward, _, _), g in zip(kept, after, strict=True)]
    return torch.cat([one.square().sum(0) for one in before]), torch.cat(formula).detach()


def along_training(kind: Kind, updates: int, gain: float, generator: torch.Generator) -> Tensor:
    """Train, and every few updates compare the gradient with those further along it on the same batch.

    Returns:
        (points, steps along, 2): |g(w) - g(w - eta g)|, and the same over the distance moved.
    """
    model = dense(kind, DEPTH, WIDTH, generator, gain=gain)
    found = []
    for update in range(updates):
        x, y = batch(BATCH, generator)
        _, g = slope(model, x, y)
        if update % 5 == 0:
            found.append(torch.stack([_change(model, x, y, g, eta) for eta in STEPS_ALONG]))
        move(model, -RATE * g)
    return torch.stack(found)


def _change(model: nn.Module, x: Tensor, y: Tensor, g: Tensor, eta: float) -> Tensor:
    before = torch.cat([parameter.detach().flatten() for parameter in model.parameters()])
    move(model, -eta * g)
    change = (slope(model, x, y)[1] - g).norm().double()
    nn.utils.vector_to_parameters(before, model.parameters())
    return torch.stack([change, change / (eta * g.norm().double())])


def curve(changes: Tensor, updates: int) -> Curve:
    """The largest change over the steps along, over the training: median and range of seeds."""
    at = numbers(range(0, updates, 5))
    lines = []
    for position, kind in enumerate(KINDS):
        seen = changes[:, position, :, :, 0].amax(-1).sort(0).values
        lines.append(Line(kind.value, at, numbers(seen[SEEDS // 2]), numbers(seen[0]), numbers(seen[-1])))
    return Curve(
        "How much the gradient changes along a step",
        Axis("update"),
        Axis("largest |g(w) - g(w - eta g)|, eta up to 0.3", log=True),
        tuple(lines),
        caption="Median of five seeds; bands are the smallest and the largest. Low: the gradient still holds further along.",
    )


def table(largest: Tensor) -> Table:
    """Every seed."""
    rows = tuple((seed + 1, *(float(value) for value in one.T.flatten())) for seed, one in enumerate(largest))
    columns = (
        "seed",
        *(f"largest gradient change, {kind}" for kind in KINDS),
        *(f"largest change over distance, {kind}" for kind in KINDS),
    )
    return Table(
        "Every seed",
        columns,
        rows,
        caption="Over the distance moved, the change is an effective Lipschitz constant of the gradient (beta-smoothness).",
    )


CLAIM = Claim(
    id="batch_norm_gradient_identity",
    theme=Theme.SIGNAL,
    title="Batch normalisation and the size of gradients",
    statement=(
        "Before batch normalisation each unit's gradient has the squared norm (gamma^2/sigma^2)(|g|^2 - <1,g>^2/m - "
        "<g,y^>^2/m), g the gradient behind it. On digits, the median over seeds of the largest change of the gradient along "
        "a step is smaller with batch normalisation than without."
    ),
    source="Santurkar, Tsipras, Ilyas & Madry 2018, theorem 4.1 and figure 4; Ioffe & Szegedy 2015, section 3",
    assumptions=(
        "Mean and deviation are those of the batch, and eps = 0.",
        "For the second part, an observation and no theorem: both networks start from Kaiming's weights and train with one "
        "learning rate. A plain network whose gradients vanish has gradients that hardly change.",
    ),
    refuted_by="a relative error of the identity above 1e-10, or a median ratio of gradient changes below 1",
    run=run,
    counterexample=counterexample,
    rows=("S10",),
    errata=(
        Erratum(
            "E27",
            stated="Batch normalisation computes eta (x - mu)/(sigma + eps) + beta, in images for each pixel",
            correct="it computes gamma (x - mu)/sqrt(sigma^2 + eps) + beta, in images with one mu and sigma for each channel, "
            "over examples and positions",
        ),
    ),
)
