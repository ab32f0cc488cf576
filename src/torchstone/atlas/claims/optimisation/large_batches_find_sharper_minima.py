r"""Large batches end where the loss is sharper, and most of that is the number of updates.

The same networks are trained with B = 16 and with all n examples a step, for as many epochs (n / 16 times fewer updates) and
for as many updates. The ratio of the largest Hessian eigenvalues is taken seed by seed,

    ratio = exp( mean_s log lambda_max(large, s) / lambda_max(small, s) ),          with Student's interval of the logarithms.

lambda_max itself is no property of the function: rescaling two layers of a ReLU network by (a, 1/a) changes it at will, so the
largest rise for relative changes of the weights, which such a rescaling leaves alone, stands beside it.
"""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from torchstone.atlas import Claim, Evidence, Scale, Theme
from torchstone.bounds.mean import mean_interval
from torchstone.data.digits import digits
from torchstone.details import Axis, Curve, Line, Marker, Table, numbers
from torchstone.linalg import top_eigenpairs
from torchstone.objectives import Classification
from torchstone.operators.hessian import Hessian
from torchstone.operators.sharpness import RiskAround, ball_sharpness
from torchstone.specimen import Specimen
from torchstone.specimens.networks import mlp
from torchstone.training.evaluation import cross_entropy, misclassified
from torchstone.training.fit_many import TrainedMany, fit_many

SMALL, WIDTH, RATE, EPOCHS, RADIUS = 16, 32, 0.1, 30, 0.5
RESCALING = 32.0  # a power of 2, so that rescaling is exact
MEASURES = ("largest eigenvalue", "largest rise for relative changes", "training loss", "test error")


@dataclass(frozen=True)
class Data:
    """Training and test examples, flattened."""

    x: Tensor
    y: Tensor
    test_x: Tensor
    test_y: Tensor


@dataclass(frozen=True)
class Arm:
    """One way of training: what was measured of each seed's network, by measure (S,)."""

    name: str
    updates: int
    measured: dict[str, Tensor]
    run: TrainedMany


def run(scale: Scale, generator: torch.Generator) -> Evidence:
    """Batches of 16 against all examples at once, in the scale in which training leaves the weights."""
    return experiment(scale, generator, by=1.0)


def counterexample(scale: Scale, generator: torch.Generator) -> Evidence:
    """The small-batch networks with two layers rescaled: the same functions, and now theirs are the sharper minima."""
    return experiment(scale, generator, by=RESCALING)


def experiment(scale: Scale, generator: torch.Generator, by: float) -> Evidence:
    """Three arms from the same initial weights: small batches, large ones for equal epochs and for equal updates."""
    seeds, examples = (5, 256) if scale is Scale.QUICK else (10, 1000)
    data = flattened(examples)
    drawn = torch.randint(2**31, (seeds,), generator=generator).tolist()
    updates = EPOCHS * -(-examples // SMALL)
    small = arm(f"B = {SMALL}", data, drawn, SMALL, updates, by)
    epochs = arm(f"B = {examples}, equal epochs", data, drawn, examples, EPOCHS)
    equal = arm(f"B = {examples}, equal updates", data, drawn, examples, updates)
    ratio, low, high = ratio_of(epochs, small, MEASURES[0])
    controlled = ratio_of(equal, small, MEASURES[0])
    left = difference(equal, small) / difference(epochs, small) if difference(epochs, small) > 0 else math.inf
    moved, changed = after_rescaling(small, epochs, data)
    return Evidence.all_of(
        Evidence.at_least(
            "lower end of the ratio of largest eigenvalues at equal epochs",
            low,
            1.0,
            f"ratio {ratio:.2f}, 95% interval {low:.2f} to {high:.2f} over {seeds} seeds",
        ),
        Evidence.at_most(
            "ratio at equal updates over the ratio at equal epochs",
            controlled[0] / ratio,
            1.0,
            f"at equal updates {controlled[0]:.2f}, 95% interval {controlled[1]:.2f} to {controlled[2]:.2f}",
        ),
        Evidence.at_most(
            "share of the rise of the test error that is left at equal updates",
            left,
            0.5,
            "Hoffer et al. 2017",
        ),
        Evidence.at_least(
            "largest eigenvalue of a rescaled small-batch network over the large-batch one's",
            moved,
            2.0,
            "the same function: two layers rescaled by (a, 1/a)",
        ),
        Evidence.at_most("relative change of the largest rise for relative changes by it", changed, 1e-6),
        figures=(curve((small, epochs, equal)), table((small, epochs, equal)), ratios(small, epochs, equal)),
    )


def flattened(examples: int) -> Data:
    """Handwritten digits as vectors."""
    data = digits()
    return Data(
        data.train_x[:examples].flatten(1), data.train_y[:examples], data.test_x.flatten(1), data.test_y
    )


def arm(name: str, data: Data, seeds: list[int], batch: int, updates: int, by: float = 1.0) -> Arm:
    """Train a network a seed, and measure each; the initial weights depend on the seed alone."""
    made = fit_many(
        [
            mlp([data.x.shape[1], WIDTH, WIDTH, 10], generator=torch.Generator().manual_seed(seed))
            for seed in seeds
        ],
        cross_entropy,
        data.x,
        data.y,
        optimizer=lambda parameters: torch.optim.SGD(parameters, lr=RATE),
        batch_size=batch,
        steps=updates,
        generators=[torch.Generator().manual_seed(seed) for seed in seeds],
    )
    models = [rescaled(made.ensemble.member(k), by) for k in range(len(seeds))]
    found = {
        MEASURES[0]: torch.tensor([largest_eigenvalue(model, data) for model in models]),
        MEASURES[1]: torch.tensor([relative_rise(model, data) for model in models]),
        MEASURES[2]: made.ensemble.evaluate(cross_entropy, data.x, data.y).mean(1),
        MEASURES[3]: made.ensemble.evaluate(misclassified, data.test_x, data.test_y).mean(1),
    }
    return Arm(name, updates, {key: value.double() for key, value in found.items()}, made)


def specimen(model: nn.Module, data: Data) -> Specimen:
    """The network on its training data, in the type of its weights."""
    x = data.x.to(next(model.parameters()).dtype)
    return Specimen(model, Classification(), (x, data.y), batch_size=len(x))


def largest_eigenvalue(model: nn.Module, data: Data) -> float:
    """Of the Hessian of the mean training loss."""
    hessian = Hessian(specimen(model, data))
    found = top_eigenpairs(hessian, 1, tolerance=1e-3, generator=torch.Generator().manual_seed(0))
    return float(found.values[0])


def relative_rise(model: nn.Module, data: Data) -> float:
    """Adaptive sharpness: the largest rise of the loss for relative changes of the weights."""
    around = RiskAround(specimen(model, data))
    generator = torch.Generator().manual_seed(0)
    return ball_sharpness(around, RADIUS, adaptive=True, evaluations=8, restarts=1, generator=generator).rise


def ratio_of(arm: Arm, small: Arm, measure: str) -> tuple[float, float, float]:
    """Geometric mean over seeds of the ratio to small batches, and its 95% interval."""
    logs = (arm.measured[measure] / small.measured[measure]).log()
    interval = mean_interval(logs)
    return math.exp(float(logs.mean())), math.exp(interval.low), math.exp(interval.high)


def difference(arm: Arm, small: Arm) -> float:
    """Mean test error beyond that of small batches."""
    return float((arm.measured[MEASURES[3]] - small.measured[MEASURES[3]]).mean())


def rescaled(model: nn.Module, by: float) -> nn.Module:
    """A network that computes the same function with its first layer multiplied and its second divided."""
    other: Any = copy.deepcopy(model)
    first, second, _ = (layer for layer in other.modules() if isinstance(layer, nn.Linear))
    with torch.no_grad():
        first.weight.mul_(by)
        first.bias.mul_(by)
        second.weight.div_(by)
    return other


def after_rescaling(small: Arm, large: Arm, data: Data) -> tuple[float, float]:
    """A rescaled small-batch network's largest eigenvalue over the large-batch one's, and what changed by relative changes."""
    model = small.run.ensemble.member(0).double()
    other = rescaled(model, RESCALING)
    before, after = relative_rise(model, data), relative_rise(other, data)
    return largest_eigenvalue(other, data) / float(large.measured[MEASURES[0]][0]), abs(after / before - 1)


def curve(arms: tuple[Arm, ...]) -> Curve:
    """Largest eigenvalue of every seed in every arm."""
    x = numbers(range(1, len(arms) + 1))
    found = torch.stack([one.measured[MEASURES[0]] for one in arms])
    lines = tuple(Line(f"seed {k + 1}", x, numbers(found[:, k])) for k in range(found.shape[1]))
    return Curve(
        "Largest eigenvalue of the Hessian by way of training",
        Axis("way of training"),
        Axis("largest eigenvalue", log=True),
        lines,
        (Marker("stability limit 2 / learning rate", 2 / RATE),),
        tuple(one.name for one in arms),
        caption="A line a seed, from the same initial weights. At equal epochs large batches have made few updates and are "
        "far from the end of training; at equal updates a smaller difference is left.",
    )


def table(arms: tuple[Arm, ...]) -> Table:
    """Means over seeds."""
    rows = tuple(
        (one.name, one.updates, *(float(one.measured[measure].mean()) for measure in MEASURES))
        for one in arms
    )
    return Table("Means over seeds", ("way of training", "updates", *MEASURES), rows)


def ratios(small: Arm, *others: Arm) -> Table:
    """Both measures of sharpness relative to small batches, with intervals."""
    rows = tuple(
        (one.name, measure, *ratio_of(one, small, measure)) for one in others for measure in MEASURES[:2]
    )
    return Table(
        "Ratios to small batches, with 95% intervals over seeds",
        ("way of training", "measure", "ratio", "low", "high"),
        rows,
        "Only the second measure is the same for every network that computes the same function by rescaled layers.",
    )


CLAIM = Claim(
    id="large_batches_find_sharper_minima",
    theme=Theme.OPTIMISATION,
    title="Large batches and sharp minima",
    statement=(
        "For equal epochs, gradient descent on all examples ends at a larger largest eigenvalue of the Hessian than batches of "
        "16; equal updates close most of the difference in that eigenvalue, and in test error."
    ),
    source="Keskar et al. 2017, section 2; Hoffer et al. 2017, section 5 (updates); Dinh et al. 2017, section 4 (objection)",
    assumptions=(
        "The learning rate is the same, and small against the stability limit.",
        "Both ways of training get past their beginning: a network that has hardly moved need not be sharp.",
        "Networks are compared in the scale in which training leaves them: the largest eigenvalue changes when layers are "
        "rescaled, and says nothing of generalisation by itself.",
    ),
    refuted_by="a ratio at equal epochs whose interval over seeds holds 1, or one that equal updates do not lower",
    run=run,
    counterexample=counterexample,
    rows=("O22", "H08"),
)
