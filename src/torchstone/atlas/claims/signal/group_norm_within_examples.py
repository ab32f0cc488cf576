r"""Group normalisation partitions the channels of one example and never the batch: it is one partition among very many.

With blocks b of a partition of all numbers of a batch, y_i = (x_i - mean_b) / sqrt(var_b + eps). The derivative of y_i in x_j
is zero unless i and j share a block, so examples are independent of their batch mates exactly where no block holds numbers of
two examples. G groups of neighbouring channels are such a partition for every G that divides the C channels, with layer
normalisation at G = 1 and instance normalisation at G = C; that makes d(C) partitions, the number of divisors, where a set of
C channels alone has as many as the Bell number of C.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from torchstone.atlas import Claim, Erratum, Evidence, Scale, Theme
from torchstone.details import Table
from torchstone.layers.normalisation import group_blocks, partition_normalise

EXAMPLES, SIDE = 5, 3

Blocks = Callable[[tuple[int, ...], int], Tensor]
"""From the shape (N, C, ...) and a number of groups to the block of each number."""


def across_examples(shape: tuple[int, ...], groups: int) -> Tensor:
    """The same groups of channels, each over the whole batch; with a group a channel this is batch normalisation."""
    return (torch.arange(shape[1]) // (shape[1] // groups)).view(1, -1, *(1,) * (len(shape) - 2))


def run(scale: Scale, generator: torch.Generator) -> Evidence:
    """Groups within an example."""
    return experiment(scale, generator, group_blocks)


def counterexample(scale: Scale, generator: torch.Generator) -> Evidence:
    """Groups across the batch."""
    return experiment(scale, generator, across_examples)


def experiment(scale: Scale, generator: torch.Generator, blocks: Blocks) -> Evidence:
    """Every number of groups: derivatives between examples, other batch mates, PyTorch's own layer beside it."""
    channels = 12 if scale is Scale.QUICK else 60
    draw = lambda *shape: torch.randn(*shape, generator=generator, dtype=torch.float64)
    x = 2 + 3 * draw(EXAMPLES, channels, SIDE, SIDE)
    crowded = torch.cat([x[:1], 1e3 * draw(EXAMPLES - 1, channels, SIDE, SIDE)])
    rows, errors = [], []
    for groups in divisors(channels):
        normalised = lambda x, groups=groups: partition_normalise(x, blocks(tuple(x.shape), groups))
        change = (normalised(crowded)[0] - normalised(x)[0]).abs().max()
        rows.append((groups, coupling(normalised, x, draw), float(change)))
        errors.append(float((normalised(x) - functional.group_norm(x, groups)).abs().max()))
    derivatives, changes = [row[1] for row in rows], [row[2] for row in rows]
    return Evidence.all_of(
        Evidence.at_most("largest derivative in another example, any number of groups", max(derivatives), 0),
        Evidence.at_most("largest change of an example among other mates", max(changes), 0),
        Evidence.at_most("PyTorch's GroupNorm, largest difference", max(errors), 1e-6),
        Evidence.at_least(
            "partition of an example's channels in scattered pairs, distance to the nearest group normalisation",
            nearest(x, generator),
            0.1,
        ),
        figures=(
            Table(
                f"{channels} channels, {EXAMPLES} examples",
                ("groups", "derivative in another example", "change among other mates"),
                tuple(rows),
                "Largest of absolute values; the other mates are about 300 times as large.",
            ),
        ),
    )


def coupling(normalised: Callable[[Tensor], Tensor], x: Tensor, draw: Callable[..., Tensor]) -> float:
    """The largest derivative of a random combination of one example's outputs in an input of another example."""
    largest = 0.0
    for i in range(len(x)):
        inputs = x.clone().requires_grad_(True)
        outputs = normalised(inputs)[i]
        [slope] = torch.autograd.grad((draw(*outputs.shape) * outputs).sum(), inputs)
        others = torch.arange(len(x)) != i
        largest = max(largest, float(slope[others].abs().max()))
    return largest


def nearest(x: Tensor, generator: torch.Generator) -> float:
    """Pairs of channels drawn at random within each example, against group normalisation with any number of groups."""
    channels = x.shape[1]
    pairs = torch.randperm(channels, generator=generator) // 2
    blocks = pairs + channels * torch.arange(len(x))[:, None]
    found = partition_normalise(x, blocks[..., None, None])
    return min(float((found - functional.group_norm(x, groups)).abs().max()) for groups in divisors(channels))


def divisors(count: int) -> list[int]:
    """All of them, in order."""
    return [n for n in range(1, count + 1) if count % n == 0]


CLAIM = Claim(
    id="group_norm_within_examples",
    theme=Theme.SIGNAL,
    title="Group normalisation never mixes examples",
    statement=(
        "Whatever the number of groups, group normalisation's output for an example has no derivative in another example "
        "and does not change with its batch mates; it is a special partition, not the general one."
    ),
    source="Wu & He 2018, section 3, eqs. (1) to (7); Ren et al. 2017, section 3",
    assumptions=("Groups divide the channels.", "Layers between the normalisations treat examples apart."),
    refuted_by="a derivative or a change that is not exactly 0, or a GroupNorm that equals a scattered partition",
    run=run,
    counterexample=counterexample,
    rows=("S16", "S17"),
    errata=(
        Erratum(
            "E28",
            stated="group normalisation generalises to arbitrary partitions",
            correct=(
                "it groups neighbouring channels within one example and never the batch axis; any partition is what "
                "partition_normalise takes, and group normalisation is one"
            ),
        ),
    ),
)
