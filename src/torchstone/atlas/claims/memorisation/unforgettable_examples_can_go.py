r"""Examples that are never forgotten teach little: leaving them out costs less than leaving out as many at random.

A forgetting event is an example that was right at one presentation and wrong at its next. Rank the training examples by
their events over a few trainings, leave out the 30% least forgotten, and train new networks on the rest for as many
updates. On handwritten digits nearly all examples are never forgotten, so that what is left out is redundant; where most
examples are forgotten, the least forgotten are the prototypes, and leaving them out is worse than chance.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from torchstone.atlas import Claim, Evidence, Scale, Theme
from torchstone.data.digits import digits
from torchstone.data.mnist1d import mnist1d
from torchstone.data.split import DataSplit
from torchstone.details import Axis, Curve, Line, Table, numbers
from torchstone.specimens.networks import mlp
from torchstone.training.evaluation import cross_entropy, misclassified
from torchstone.training.fit_many import TrainedMany, fit_many
from torchstone.training.forgetting import Forgetting, count_forgetting, separation

SHARE, NOISE = 0.3, 0.1
EPOCHS, BATCH, RATE, WIDTH = 20, 128, 0.1, 32
LEDGERS = 5  # trainings whose events are counted
Data = Callable[[int, float], DataSplit]  # of a seed and a share of wrong labels
LEAST, RANDOM = "least forgotten", "at random"


@dataclass(frozen=True)
class Effort:
    """How large the experiment is: splits of the data, networks a split and arm, shares left out."""

    splits: int
    networks: int
    shares: tuple[float, ...]


def effort(scale: Scale) -> Effort:
    """Seconds or minutes."""
    if scale is Scale.QUICK:
        return Effort(3, 14, (SHARE,))
    return Effort(10, 32, (0.1, 0.2, SHARE, 0.4, 0.5, 0.6, 0.7))


def run(scale: Scale, generator: torch.Generator) -> Evidence:
    """Handwritten digits."""
    return experiment(scale, generator, lambda seed, noise: digits(label_noise=noise, seed=seed))


def counterexample(scale: Scale, generator: torch.Generator) -> Evidence:
    """One-dimensional digits, which a dense network hardly holds: few examples are never forgotten."""

    def fewer(seed: int, noise: float) -> DataSplit:
        data = mnist1d(label_noise=noise, seed=seed)
        return replace(
            data,
            train_x=data.train_x[:1400],
            train_y=data.train_y[:1400],
            flipped=data.flipped[data.flipped < 1400],
        )

    return experiment(scale, generator, fewer)


def experiment(scale: Scale, generator: torch.Generator, data: Data) -> Evidence:
    """Rank, leave out, train anew, and compare test errors."""
    size = effort(scale)
    differences, kept, spare, full = (
        [],
        {(arm, s): [] for arm in (LEAST, RANDOM) for s in size.shares},
        [],
        [],
    )
    for _ in range(size.splits):
        split = data(_seed(generator), 0.0)
        found = ledger(split, generator)
        spare.append(found.unforgettable.double().mean())
        rows = [torch.arange(len(split.train_x))] * size.networks
        for arm, share in kept:
            remaining = len(split.train_x) - round(share * len(split.train_x))
            rows += [_left(found, remaining, arm, generator) for _ in range(size.networks)]
        whole, *parts = errors(split, rows, generator).split(size.networks)
        full.append(whole)
        for wrongs, part in zip(kept.values(), parts, strict=True):
            wrongs.append(part)
        differences.append(kept[RANDOM, SHARE][-1] - kept[LEAST, SHARE][-1])
    gap = torch.cat(differences)
    error = float(gap.std()) / len(gap) ** 0.5
    noisy = data(_seed(generator), NOISE)
    planted = torch.isin(torch.arange(len(noisy.train_x)), noisy.flipped)
    return Evidence.all_of(
        Evidence.at_least(
            "test error: random less least forgotten, less two standard errors",
            float(gap.mean()) - 2 * error,
            0.0,
            f"{gap.mean():.2%} more error by leaving out {SHARE:.0%} at random, standard error {error:.2%}",
        ),
        Evidence.at_least(
            "share never forgotten", torch.stack(spare).mean(), SHARE, "what is left out must be among them"
        ),
        Evidence.at_least(
            f"area under the ROC curve for {NOISE:.0%} planted wrong labels",
            separation(ledger(noisy, generator).score, planted),
            0.9,
        ),
        figures=(
            _curve(size, torch.cat(full), {key: torch.cat(v) for key, v in kept.items()}),
            _table(full, kept),
        ),
    )


def ledger(split: DataSplit, generator: torch.Generator) -> Forgetting:
    """Forgetting events over a few trainings."""
    trained = train(split, [torch.arange(len(split.train_x))] * LEDGERS, generator, noted=True)
    assert trained.ledger is not None
    return count_forgetting(1 - trained.ledger)


def errors(split: DataSplit, rows: list[Tensor], generator: torch.Generator) -> Tensor:
    """Test error of a network trained on each set of rows."""
    trained = train(split, rows, generator)
    return trained.ensemble.evaluate(misclassified, split.test_x, split.test_y).mean(1)


def train(
    split: DataSplit, rows: list[Tensor], generator: torch.Generator, noted: bool = False
) -> TrainedMany:
    """One network for each set of rows, as many updates whatever the number of rows."""
    generators = [torch.Generator().manual_seed(_seed(generator)) for _ in rows]
    inputs = split.train_x[0].numel()
    return fit_many(
        [mlp([inputs, WIDTH, 10], generator=own) for own in generators],
        cross_entropy,
        *split.train,
        optimizer=lambda parameters: torch.optim.SGD(parameters, lr=RATE, momentum=0.9),
        batch_size=BATCH,
        steps=EPOCHS * -(-len(split.train_x) // BATCH),
        generators=generators,
        rows=rows,
        ledger=misclassified if noted else None,
    )


def _left(found: Forgetting, remaining: int, arm: str, generator: torch.Generator) -> Tensor:
    if arm == LEAST:
        return found.ranking(generator)[-remaining:].sort().values
    return torch.randperm(found.events.shape[1], generator=generator)[:remaining].sort().values


def _seed(generator: torch.Generator) -> int:
    return int(torch.randint(2**31, (), generator=generator))


def _curve(size: Effort, full: Tensor, kept: dict[tuple[str, float], Tensor]) -> Curve:
    lines = []
    for arm in (LEAST, RANDOM):
        found = [full, *(kept[arm, share] for share in size.shares)]
        mean = 100 * torch.stack([one.mean() for one in found])
        half = 200 * torch.stack([one.std() / len(one) ** 0.5 for one in found])
        x = (0.0, *(100 * share for share in size.shares))
        lines.append(Line(f"{arm} left out", x, numbers(mean), numbers(mean - half), numbers(mean + half)))
    return Curve(
        "Test error of networks trained on what is left",
        Axis("training examples left out", "%"),
        Axis("test error", "%"),
        tuple(lines),
        caption="Mean and two standard errors over splits and networks; all take as many updates. The lower line is "
        "what one would rather leave out.",
    )


def _table(full: list[Tensor], kept: dict[tuple[str, float], list[Tensor]]) -> Table:
    def row(name: str, found: list[Tensor]) -> tuple[str, float, float]:
        each = torch.cat(found)
        return name, 100 * float(each.mean()), 100 * float(each.std()) / len(each) ** 0.5

    rows = [row("nothing", full)]
    rows += [row(f"{share:.0%} {arm}", found) for (arm, share), found in kept.items()]
    return Table(
        "Test error by what is left out", ("left out", "test error (%)", "standard error (%)"), tuple(rows)
    )


CLAIM = Claim(
    id="unforgettable_examples_can_go",
    theme=Theme.MEMORISATION,
    title="Examples that are never forgotten can be left out",
    statement=(
        "Leaving the 30% least forgotten examples out of training costs less test error than leaving out as many at "
        "random, where most examples are never forgotten; and wrong labels are forgotten most."
    ),
    source="Toneva et al. 2019, sections 4.1 and 5 (figure 5)",
    assumptions=(
        "More examples are never forgotten than are left out: else the least forgotten are the prototypes.",
        "Forgetting is counted over several trainings, and new networks take as many updates as on all examples.",
    ),
    refuted_by="test error that is no higher, beyond two standard errors, after leaving out random examples; or an area "
    "under the ROC curve below 0.9 for planted wrong labels",
    run=run,
    counterexample=counterexample,
    rows=("M08",),
)
