r"""Real data are learned by patterns, noise example by example.

The same dense network meets handwritten digits (real), the same images with labels drawn anew (randY), and noise of the same
mean and deviation with the true labels (randX). On real data some examples are easy whatever the seed, so that the
probability of being right after one epoch varies between examples much more than on noise; real data are fitted in fewer
epochs; a few examples carry the loss sensitivity; and more examples can be fitted.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from torchstone.atlas import Claim, Evidence, Scale, Theme
from torchstone.data.digits import digits
from torchstone.data.split import DataSplit
from torchstone.details import Axis, Curve, Line, Table, numbers
from torchstone.specimens.networks import mlp
from torchstone.training.evaluation import cross_entropy, misclassified
from torchstone.training.fit_many import MembersEpoch, OnMembersEpoch, TrainedMany, fit_many
from torchstone.training.patterns_and_noise import (
    corrupt_inputs,
    corrupt_labels,
    easy_example_variance,
    effective_capacity,
    epochs_to_fit,
    gini,
    loss_sensitivity,
)

REAL, RAND_Y, RAND_X = "real", "randY", "randX"
KINDS = (REAL, RAND_Y, RAND_X)
EXAMPLES, WIDTH, NARROW = 300, 128, 8
FIRST, SLOW = 600, 0.01  # examples and learning rate of the one epoch: noise must not be memorised yet
SIZES = (25, 50, 100, 200)
REGULARISERS = ("none", "weight decay 0.01", "dropout 0.5")
Kind = tuple[Tensor, Tensor]  # inputs and labels


@dataclass(frozen=True)
class Effort:
    """How large the experiment is."""

    one_epoch: int
    trainings: int
    epochs: int
    updates: int


def run(scale: Scale, generator: torch.Generator) -> Evidence:
    """Real data against noise."""
    return experiment(scale, generator, 0.0)


def counterexample(scale: Scale, generator: torch.Generator) -> Evidence:
    """All labels drawn anew where the real data should be: noise against noise."""
    return experiment(scale, generator, 1.0)


def experiment(scale: Scale, generator: torch.Generator, corrupted: float) -> Evidence:
    """Fit three kinds of data and compare how."""
    effort = Effort(30, 3, 30, 400) if scale is Scale.QUICK else Effort(100, 8, 60, 800)
    data = digits(seed=int(torch.randint(2**31, (), generator=generator)))
    kinds = three_kinds(data, corrupted, generator)
    early = first_epoch([kinds[name] for name in KINDS], effort, generator)
    variance = {name: easy_example_variance(right) for name, right in zip(KINDS, early, strict=True)}
    noise = max(variance[RAND_Y], variance[RAND_X])
    fewer = [(x[:EXAMPLES], y[:EXAMPLES]) for x, y in (kinds[name] for name in KINDS)]
    errors, values = course(fewer, effort, generator)
    epochs = epochs_to_fit(errors).clamp(max=effort.epochs + 1)
    fitted, sensitive = (dict(zip(KINDS, found, strict=True)) for found in (epochs, gini(values)))
    held = capacity(fewer[:2], effort, generator)
    table = regularised(data, fewer[:2], effort, generator)
    ones = torch.ones(EXAMPLES, dtype=torch.float64)
    single = torch.zeros(EXAMPLES, dtype=torch.float64).index_fill(0, torch.tensor([3]), 2.0)
    return Evidence.all_of(
        Evidence.close("Gini of equal values", gini(ones), 0.0, absolute=1e-12),
        Evidence.close("Gini of a single value", gini(single), (EXAMPLES - 1) / EXAMPLES, absolute=1e-12),
        Evidence.at_least(
            "variance of the chance to be right after one epoch: real over noise",
            variance[REAL] / noise,
            2.0,
            f"{variance[REAL]:.3f} against {variance[RAND_Y]:.4f} (randY) and {variance[RAND_X]:.4f} (randX)",
        ),
        Evidence.at_least(
            "epochs to fit: least of randY less most of real",
            fitted[RAND_Y].min() - fitted[REAL].max(),
            1.0,
            f"means {fitted[REAL].mean():.1f} (real), {fitted[RAND_Y].mean():.1f} (randY), {fitted[RAND_X].mean():.1f} (randX)",
        ),
        Evidence.at_least(
            "Gini of the loss sensitivity: least of real less most of randY",
            sensitive[REAL].min() - sensitive[RAND_Y].max(),
            0.0,
            f"means {sensitive[REAL].mean():.2f} and {sensitive[RAND_Y].mean():.2f}",
        ),
        Evidence.at_least(
            f"examples that {NARROW} hidden units fit: real over randY",
            held[0] / held[1].clamp(min=1),
            2.0,
            f"means {held[0]:.0f} and {held[1]:.0f} in {effort.updates} updates",
        ),
        figures=(_curve(errors), _spread(early.mean(1)), table),
    )


def three_kinds(
    data: DataSplit, corrupted: float, generator: torch.Generator
) -> dict[str, tuple[Tensor, Tensor]]:
    """Inputs and labels of each kind; `corrupted` is the share of labels drawn anew in what is called real."""
    x, y = data.train_x[:FIRST].flatten(1), data.train_y[:FIRST]
    return {
        REAL: (x, corrupt_labels(y, corrupted, 10, generator)),
        RAND_Y: (x, corrupt_labels(y, 1.0, 10, generator)),
        RAND_X: (corrupt_inputs(x, 1.0, generator), y),
    }


def first_epoch(kinds: list[Kind], effort: Effort, generator: torch.Generator) -> Tensor:
    """What each training gets right after one epoch, (kinds, K, N)."""
    trained = train(kinds, effort.one_epoch, generator, epochs=1, lr=SLOW)
    return 1 - wrong(trained, kinds)


def course(kinds: list[Kind], effort: Effort, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Training error by epoch (kinds, K, E), and each example's loss sensitivity averaged over epochs (kinds, K, N)."""
    total = torch.zeros(len(kinds) * effort.trainings, EXAMPLES, dtype=torch.float64)

    def follow(epoch: MembersEpoch) -> dict[str, Tensor]:
        error = torch.zeros(len(epoch.members), dtype=torch.float64)
        for place, member in enumerate(epoch.members.tolist()):
            x, y = kinds[member // effort.trainings]
            one = epoch.ensemble.subset([place])
            error[place] = one.evaluate(misclassified, x, y).mean()
            total[member] += loss_sensitivity(cross_entropy, one, x, y)[0] / effort.epochs
        return {"error": error}

    trained = train(kinds, effort.trainings, generator, epochs=effort.epochs, on_epoch=follow)
    shape = (len(kinds), effort.trainings, -1)
    return trained.series["error"].reshape(shape), total.reshape(shape)


def capacity(kinds: list[Kind], effort: Effort, generator: torch.Generator) -> Tensor:
    """Mean number of examples of each kind that a narrow network fits in a fixed number of updates."""
    fitted = []
    for size in SIZES:
        fewer = [(x[:size], y[:size]) for x, y in kinds]
        trained = train(fewer, effort.trainings, generator, steps=effort.updates, width=NARROW)
        fitted.append(wrong(trained, fewer).mean(2) <= 0.01)
    return effective_capacity(torch.stack(fitted, dim=2), torch.tensor(SIZES)).double().mean(1)


def wrong(trained: TrainedMany, kinds: list[Kind]) -> Tensor:
    """Errors of each training on its own data, (kinds, K, N)."""
    found = []
    for members, (x, y) in zip(torch.arange(len(trained)).chunk(len(kinds)), kinds, strict=True):
        found.append(trained.ensemble.subset(members).evaluate(misclassified, x, y))
    return torch.stack(found)


def train(
    kinds: list[Kind],
    trainings: int,
    generator: torch.Generator,
    *,
    epochs: int | None = None,
    steps: int | None = None,
    width: int = WIDTH,
    regulariser: str = "none",
    lr: float = 0.05,
    on_epoch: OnMembersEpoch | None = None,
) -> TrainedMany:
    """Several seeds of one network on each kind of data."""
    seeds = torch.randint(2**31, (len(kinds) * trainings,), generator=generator).tolist()
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    models: list[nn.Module] = []
    for own in generators:
        layers = list(mlp([64, width, 10], generator=own).children())
        if regulariser.startswith("dropout"):
            layers.insert(-1, nn.Dropout(0.5))
        models.append(nn.Sequential(*layers))
    inputs, targets = (torch.stack(part).repeat_interleave(trainings, 0) for part in zip(*kinds, strict=True))
    return fit_many(
        models,
        cross_entropy,
        inputs[0],
        targets[0],
        optimizer=lambda parameters: torch.optim.SGD(parameters, lr=lr, momentum=0.9),
        batch_size=32,
        epochs=epochs,
        steps=steps,
        generators=generators,
        inputs=inputs,
        targets=targets,
        weight_decay=[0.01] * len(models) if regulariser.startswith("weight") else None,
        on_epoch=on_epoch,
        memory_budget=2**31,
    )


def regularised(data: DataSplit, kinds: list[Kind], effort: Effort, generator: torch.Generator) -> Table:
    """How much each regulariser hinders memorising noise, and what it costs on real data."""
    rows = []
    for name in REGULARISERS:
        trained = train(kinds, effort.trainings, generator, steps=effort.updates, regulariser=name)
        memorised = 1 - wrong(trained, kinds)[1].mean()
        real = trained.ensemble.subset(list(range(effort.trainings)))
        error = real.evaluate(misclassified, data.test_x.flatten(1), data.test_y).mean()
        rows.append((name, 100 * float(memorised), 100 * float(error)))
    columns = ("regulariser", "random labels fitted (%)", "test error on real data (%)")
    caption = f"After {effort.updates} updates. A good regulariser lowers the first and leaves the second."
    return Table("Regularisers against memorising", columns, tuple(rows), caption)


def _curve(errors: Tensor) -> Curve:
    x = tuple(range(1, errors.shape[2] + 1))
    lines = [
        Line(name, x, numbers(found.mean(0)), numbers(found.amin(0)), numbers(found.amax(0)))
        for name, found in zip(KINDS, 100 * errors, strict=True)
    ]
    return Curve(
        "Fitting real data and noise",
        Axis("epochs"),
        Axis("training error", "%"),
        tuple(lines),
        caption="Mean and range over seeds. Patterns that many examples share make real data quick to fit.",
    )


def _spread(shares: Tensor) -> Curve:
    rank = numbers(torch.linspace(0, 100, FIRST))
    return Curve(
        "Chance to be right after one epoch, example by example",
        Axis("examples, hardest first", "%"),
        Axis("share of trainings that get it right"),
        tuple(
            Line(name, rank, numbers(some.sort().values)) for name, some in zip(KINDS, shares, strict=True)
        ),
        caption="A steep line: some examples are easy and others hard whatever the seed. A flat one: no example is special.",
    )


CLAIM = Claim(
    id="patterns_before_noise",
    theme=Theme.MEMORISATION,
    title="Real data are learned by patterns, noise example by example",
    statement=(
        "Real data have easy examples, are fitted in fewer epochs than the same inputs with random labels, concentrate the "
        "loss sensitivity on fewer examples, and more of them can be fitted."
    ),
    source="Arpit et al. 2017 (easy examples, loss sensitivity, effective capacity, regularisation)",
    assumptions=(
        "Network, optimiser and number of examples are the same for all kinds of data.",
        "The chance to be right is over initialisation and order of examples, and is taken while noise is not yet "
        "memorised: a fast epoch on noise of few dimensions already has its own easy examples.",
    ),
    refuted_by="a variance of the chance to be right on real data below twice that on noise, random labels that are fitted as "
    "fast, or a Gini coefficient of the loss sensitivity on random labels that reaches that on real ones",
    run=run,
    counterexample=counterexample,
    rows=("M05",),
)
