r"""Networks that memorised random labels need more non-negative parts of a class's activations than those that learned.

The activations A of one class's training examples in the deepest convolution layer, (examples x positions) by channels, are
replaced by U V with U, V >= 0 of rank k, and the dense layer behind answers. The area under the training accuracy over log2 k
tells the two kinds of networks apart, although both have training error 0.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from torchstone.atlas import Claim, Evidence, Scale, Theme
from torchstone.bounds.mean import mean_interval
from torchstone.data.digits import digits
from torchstone.details import Axis, Curve, Line, Table, numbers
from torchstone.training.evaluation import cross_entropy, misclassified
from torchstone.training.fit_many import TrainedMany, fit_many
from torchstone.workbench.rank_curve import RankCurve, nonnegative_parts, principal_parts, rank_curve
from torchstone.workbench.replacing import Activations

CHANNELS, CLASSES, LARGEST = 32, 10, 16
EXAMPLES_OF_A_CLASS = 16  # that are replaced


def run(scale: Scale, generator: torch.Generator) -> Evidence:
    """Labels drawn anew for every example."""
    return experiment(scale, generator, renamed=False)


def counterexample(scale: Scale, generator: torch.Generator) -> Evidence:
    """Labels that are wrong, but as simple: the names of the classes exchanged."""
    return experiment(scale, generator, renamed=True)


def experiment(scale: Scale, generator: torch.Generator, renamed: bool) -> Evidence:
    """Train pairs of networks from the same initial weights on true and on other labels, and compare areas."""
    seeds, examples, epochs = (5, 120, 50) if scale is Scale.QUICK else (10, 1000, 150)
    data = digits()
    x, y = data.train_x[:examples], data.train_y[:examples]
    others = [
        torch.randperm(CLASSES, generator=generator)[y]
        if renamed
        else torch.randint(CLASSES, (examples,), generator=generator)
        for _ in range(seeds)
    ]
    labels = torch.stack([y] * seeds + others)
    trained = train(x, labels, epochs, generator)
    errors = torch.stack(
        [trained.ensemble.evaluate(misclassified, x, some)[k].mean() for k, some in enumerate(labels)]
    )
    curves = [curve_of(trained.ensemble.member(k), x, labels[k]) for k in range(2 * seeds)]
    areas = torch.stack([curve.areas.mean() for curve in curves])
    differences = areas[:seeds] - areas[seeds:]
    interval = mean_interval(differences)
    return Evidence.all_of(
        Evidence.at_most("largest training error", errors.max(), 0.0, "every network fits its labels"),
        Evidence.at_least(
            "smallest difference of the area, true minus random labels",
            differences.min(),
            1e-9,
            f"deepest convolution layer, {seeds} seeds",
        ),
        Evidence.at_least("lower end of the 95% interval of the mean difference", interval.low, 1e-9),
        figures=(accuracies(curves, seeds), table(areas, errors, seeds)),
    )


def network(generator: torch.Generator) -> nn.Sequential:
    """Two convolutions and a dense layer for images (N, 1, 8, 8)."""
    with torch.device("meta"):
        trunk = nn.Sequential(
            nn.Conv2d(1, CHANNELS // 2, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(CHANNELS // 2, CHANNELS, 3, padding=1),
            nn.ReLU(),
        )
        model = nn.Sequential(trunk, nn.Sequential(nn.Flatten(), nn.Linear(16 * CHANNELS, CLASSES)))
    model.to_empty(device="cpu")
    for parameter in model.parameters():
        if parameter.ndim > 1:
            nn.init.normal_(parameter, 0.0, (2 / parameter[0].numel()) ** 0.5, generator=generator)
        else:
            nn.init.zeros_(parameter)
    return model


def train(x: Tensor, labels: Tensor, epochs: int, generator: torch.Generator) -> TrainedMany:
    """A network for each row of labels; the first half and the second start from the same weights and orders."""
    seeds = torch.randint(2**31, (len(labels) // 2,), generator=generator).tolist() * 2
    return fit_many(
        [network(torch.Generator().manual_seed(seed)) for seed in seeds],
        cross_entropy,
        x,
        labels[0],
        targets=labels,
        optimizer=lambda parameters: torch.optim.Adam(parameters, lr=3e-3),
        batch_size=60,
        epochs=epochs,
        generators=[torch.Generator().manual_seed(seed) for seed in seeds],
    )


@torch.no_grad()
def curve_of(model: nn.Module, x: Tensor, labels: Tensor, principal: bool = False) -> RankCurve:
    """Accuracy over the rank at the deepest convolution layer, for some examples of every class."""
    rows = torch.cat([(labels == c).nonzero().squeeze(1)[:EXAMPLES_OF_A_CLASS] for c in labels.unique()])
    trunk, head = model.children()
    layer = Activations("deepest convolution", trunk(x[rows]), 1)
    reduce = principal_parts if principal else nonnegative_parts
    return rank_curve(layer, labels[rows], head, reduce, largest=LARGEST)


def accuracies(curves: list[RankCurve], seeds: int) -> Curve:
    """Mean accuracy over the rank for both kinds of labels."""
    lines = []
    for name, some in (("true labels", curves[:seeds]), ("other labels", curves[seeds:])):
        found = torch.stack([curve.accuracy.mean(0) for curve in some])
        lines.append(
            Line(
                name,
                numbers(some[0].ranks),
                numbers(found.mean(0)),
                numbers(found.amin(0)),
                numbers(found.amax(0)),
            )
        )
    return Curve(
        "Training accuracy with the deepest convolution layer replaced",
        Axis("non-negative parts of a class", log=True),
        Axis("training accuracy"),
        tuple(lines),
        caption="Means and ranges over seeds. All networks fit their labels; those that memorised lose more when a class's "
        "activations are reduced to few parts.",
    )


def table(areas: Tensor, errors: Tensor, seeds: int) -> Table:
    """Areas of every pair."""
    rows = tuple(
        (k, float(areas[k]), float(areas[seeds + k]), float(errors[k]), float(errors[seeds + k]))
        for k in range(seeds)
    )
    columns = ("pair", "area, true labels", "area, other labels", "error, true labels", "error, other labels")
    return Table("Area under accuracy over log2 of the rank", columns, rows)


CLAIM = Claim(
    id="random_labels_need_more_parts",
    theme=Theme.MEMORISATION,
    title="Memorised classes need more parts",
    statement=(
        "Of two networks that both fit their training labels, the one with random labels needs more non-negative parts of a "
        "class's activations in its deepest convolution layer to keep its answers."
    ),
    source="Collins, Bigdeli & Susstrunk 2018, section 4",
    assumptions=(
        "Activations are not negative (ReLU), and the networks differ in their labels only.",
        "Both have training error 0.",
        "The layer has positions: a dense layer right before the outputs is near one direction a class in both.",
    ),
    refuted_by="a pair in which random labels have the larger area, or a mean difference whose interval holds 0",
    run=run,
    counterexample=counterexample,
    rows=("M07",),
)
