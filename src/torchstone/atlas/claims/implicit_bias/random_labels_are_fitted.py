r"""A network that generalizes has the capacity to fit random labels, and to fit its training data and fail.

One architecture, one optimiser, the same inputs: on true labels the network fits and generalizes, on random labels it fits as
fully and is at chance on new data, so that no property of the class of networks alone explains the first. Nor does fitting
the training data: a network that is made to be wrong on further images fits it too, and fails on new ones. Gradient descent on
the training data alone finds the good minimum among them.

What does tell the networks apart is the margin over the spectral complexity.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.optim.lr_scheduler import CosineAnnealingLR

from torchstone.atlas import Claim, Evidence, Scale, Theme
from torchstone.bounds.dense import DenseLayer
from torchstone.bounds.margin import margins, normalised_margins
from torchstone.bounds.spectral import spectral_complexity
from torchstone.data.digits import digits
from torchstone.data.split import DataSplit
from torchstone.details import Axis, Bars, Curve, Histogram, Line, Table, numbers
from torchstone.specimens.networks import mlp
from torchstone.training.evaluation import cross_entropy, misclassified
from torchstone.training.fit_many import TrainedMany, fit_many
from torchstone.training.random_labels import random_labels

WIDTH, BATCH, FEW = 256, 100, 400
TRUE, RANDOM, POISONED, ORDINARY = "true labels", "random labels", "poisoned", "few true labels"


def run(scale: Scale, generator: torch.Generator) -> Evidence:
    """A network with two wide hidden layers."""
    return experiment(scale, generator, [64, WIDTH, WIDTH, 10])


def counterexample(scale: Scale, generator: torch.Generator) -> Evidence:
    """A linear classifier: it lacks the capacity."""
    return experiment(scale, generator, [64, 10])


@dataclass(frozen=True)
class Effort:
    """How large the experiment is: trainings on random labels, images, epochs."""

    copies: int
    examples: int
    epochs: int


@dataclass(frozen=True)
class Outcome:
    """Accuracies of K networks by kind, at the end and along the way, and margins over spectral complexity."""

    kinds: tuple[str, ...]
    train: Tensor
    test: Tensor
    course: Tensor
    margins: Tensor

    def of(self, kind: str, values: Tensor) -> Tensor:
        """The values of the networks of a kind."""
        return values[[k for k, own in enumerate(self.kinds) if own == kind]]


def experiment(scale: Scale, generator: torch.Generator, widths: list[int]) -> Evidence:
    """Train on four kinds of labels and compare."""
    effort = Effort(2, 1000, 75) if scale is Scale.QUICK else Effort(10, 1400, 120)
    found = trained(effort, widths, generator)
    fitted = [
        Evidence.close(f"training accuracy, {kind}", found.of(kind, found.train).min(), 1.0, absolute=0.0)
        for kind in (TRUE, RANDOM, POISONED)
    ]
    true, random = (found.of(kind, found.margins) for kind in (TRUE, RANDOM))
    above = (true.flatten()[:, None] > random.flatten()).double().mean()
    first = lambda kind: float((found.of(kind, found.course) > 0.99).double().argmax(1).min()) + 1
    return Evidence.all_of(
        *fitted,
        Evidence.at_least("test accuracy, true labels", found.of(TRUE, found.test).mean(), 0.95),
        Evidence.close("test accuracy, random labels", found.of(RANDOM, found.test).mean(), 0.1, absolute=0.04),
        Evidence.at_most("test accuracy, poisoned", found.of(POISONED, found.test).mean(), 0.6),
        Evidence.at_least(
            "test accuracy, few true labels", found.of(ORDINARY, found.test).mean(), 0.85, "same training data as poisoned"
        ),
        Evidence.at_least("epochs to 99%, random over true labels", first(RANDOM) / first(TRUE), 2.0),
        Evidence.at_least(
            "share of pairs in which a true label has the larger normalised margin", above, 0.95, "margins are over spectral complexity"
        ),
        figures=(course(found), histogram(found), table(found)),
    )  # fmt: skip


def trained(effort: Effort, widths: list[int], generator: torch.Generator) -> Outcome:
    """Networks on all true labels, on random ones, on 400 true with all others wrong, and on the 400 alone."""
    whole, count, copies, epochs = digits(), effort.examples, effort.copies, effort.epochs
    data = replace(whole, train_x=whole.train_x[:count], train_y=whole.train_y[:count])
    y = data.train_y
    wrong = torch.cat([y[:FEW], (y[FEW:] + 1) % 10])
    kinds = (TRUE, *copies * (RANDOM,), POISONED, ORDINARY)
    targets = torch.stack([y, *random_labels(count, 10, copies, generator), wrong, y])
    rows = [torch.arange(FEW if kind == ORDINARY else count) for kind in kinds]
    seeds = torch.randint(2**31, (len(kinds),), generator=generator).tolist()
    made = fit_many(
        [mlp(widths, generator=torch.Generator().manual_seed(seed)) for seed in seeds],
        cross_entropy,
        data.train_x,
        y,
        targets=targets,
        rows=rows,
        optimizer=lambda parameters: torch.optim.Adam(parameters, lr=3e-3),
        scheduler=lambda optimizer: CosineAnnealingLR(optimizer, epochs * -(-count // BATCH)),
        batch_size=BATCH,
        epochs=epochs,
        generators=[torch.Generator().manual_seed(seed) for seed in seeds],
        ledger=misclassified,
    )
    return outcome(kinds, made, targets, data)


def outcome(kinds: tuple[str, ...], made: TrainedMany, targets: Tensor, data: DataSplit) -> Outcome:
    """What became of them. The poisoned network is judged on its 400 true labels, as the one trained on them alone."""
    scores = made.ensemble.outputs(data.train_x)
    right = (scores.argmax(2) == targets).double()
    train = [
        own[:FEW].mean() if kind in (POISONED, ORDINARY) else own.mean()
        for kind, own in zip(kinds, right, strict=True)
    ]
    size = float(data.train_x.double().norm())
    found = []
    for k in range(len(kinds)):
        layers = [
            DenseLayer(module.weight.detach(), module.bias.detach())
            for module in made.ensemble.member(k).modules()
            if isinstance(module, torch.nn.Linear)
        ]
        own = margins(scores[k], targets[k])
        found.append(normalised_margins(own, spectral_complexity(layers).value, size, len(own)))
    assert made.ledger is not None
    test = 1 - made.ensemble.evaluate(misclassified, data.test_x, data.test_y).mean(1)
    return Outcome(kinds, torch.stack(train), test, 1 - made.ledger.double().nanmean(2), torch.stack(found))


def course(found: Outcome) -> Curve:
    """How fast labels of each kind are fitted."""
    epochs = tuple(range(1, found.course.shape[1] + 1))
    lines = tuple(
        Line(kind, epochs, numbers(100 * found.of(kind, found.course).mean(0))) for kind in (TRUE, RANDOM)
    )
    return Curve(
        "Fitting true and random labels",
        Axis("epoch"),
        Axis("training labels fitted", "%"),
        lines,
        caption="The same network, optimiser and images. Random labels take longer, and are fitted as fully.",
    )


def histogram(found: Outcome) -> Histogram:
    """Margins over spectral complexity."""
    both = torch.cat([found.of(kind, found.margins).flatten() for kind in (TRUE, RANDOM)])
    edges = torch.linspace(float(both.min()), float(both.max()), 41, dtype=torch.float64)
    bars = []
    for kind in (TRUE, RANDOM):
        values = found.of(kind, found.margins).flatten()
        counts = torch.histogram(values.clamp(float(edges[0]), float(edges[-1])), edges).hist
        bars.append(Bars(kind, numbers(100 * counts / len(values))))
    return Histogram(
        "Normalised margins",
        Axis("margin over spectral complexity and data norm"),
        numbers(edges),
        tuple(bars),
        caption="Both networks fit all their labels; the true ones with the larger margins for the network's size.",
        y=Axis("share of training examples", "%"),
    )


def table(found: Outcome) -> Table:
    """Accuracies of all networks."""
    rows = tuple(
        (kind, float(train), float(test))
        for kind, train, test in zip(found.kinds, found.train, found.test, strict=True)
    )
    return Table(
        "Accuracies",
        ("trained on", "training accuracy", "test accuracy"),
        rows,
        f"Poisoned: {FEW} true labels and a wrong class for all other images; its training accuracy is on the {FEW}.",
    )


CLAIM = Claim(
    id="random_labels_are_fitted",
    theme=Theme.IMPLICIT_BIAS,
    title="Random labels are fitted, and good minima found among bad ones",
    statement=(
        "A dense network that reaches 95% on new digits fits random labels as fully as the true ones, and has minima of perfect training "
        "and poor test accuracy; descent on the true data finds a good one. Margins over spectral complexity tell them apart."
    ),
    source="Zhang, Bengio, Hardt, Recht & Vinyals 2017, section 2; Neyshabur, Tomioka & Srebro 2015; Wu, Zhu & E 2017, section 3 (poisoned "
    "minima); Bartlett, Foster & Telgarsky 2017, figure 1 (margins)",
    assumptions=(
        "The network has more weights than training images have labels, and trains long enough.",
        "Poisoned minima are found by training on further images with wrong labels, not on the training data alone.",
    ),
    refuted_by="random labels left unfitted, or every network that fits the training data doing well on new data",
    run=run,
    counterexample=counterexample,
    rows=("I10",),
)
