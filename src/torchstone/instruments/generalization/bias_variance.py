"""Is the error bias, luck of the training set, or luck of the seed?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from torchstone.bounds.bias_variance import (
    BiasVariance,
    Part,
    cross_entropy_bias_variance,
    squared_bias_variance,
    zero_one_bias_variance,
)
from torchstone.details import Axis, Scalar, Scalars, Scatter, Table, numbers, thin
from torchstone.errors import NotApplicableError
from torchstone.instruments.settings import require_between, require_count
from torchstone.objectives import Regression
from torchstone.reading import CostClass, Level, Meta, Need, Question, Reading, Remedy, Uncertainty, Verdict
from torchstone.workbench import Workbench
from torchstone.workbench.retraining import train_many
from torchstone.workbench.siblings import Siblings

SOURCE = "Geman, Bienenstock & Doursat 1992; Domingos 2000; Neal et al. 2018; Yang et al. 2020"
NAMES = {"bias": "bias and noise", "data": "variance: training set", "initialisation": "variance: seed"}
POINTS = 600  # drawn of the scatter


@dataclass(frozen=True)
class BiasVarianceSplit:
    """Expected test error of the recipe split into bias, variance over training sets and variance over seeds.

    The training examples are dealt into `parts` disjoint sets, which are independent draws of so many examples, and on
    each `seeds` networks are trained with seeds of their own. The squared error (of the class probabilities; of the
    outputs for regression) splits into unbiased estimates; the misclassification rate and the cross-entropy beside it.
    See `torchstone.bounds.bias_variance` for the arithmetic. The value is the variance's share of the squared error.

    Nothing is assumed of networks in general: whether variance or bias dominates depends on width, data and noise.

    Cost: parts * seeds trainings with as many updates as the recipe's. Bias: none for networks trained on 1/parts of the
    examples; for the whole set the variance is, as a rule, smaller.
    Source: Geman, Bienenstock & Doursat 1992; Domingos 2000; Neal et al. 2018, section 3.3; Yang et al. 2020, section 2.
    """

    META: ClassVar[Meta] = Meta(
        id="bias_variance",
        question=Question.GENERALIZATION,
        title="Bias and variance",
        asks="Is the error bias, luck of the training set, or luck of the seed?",
        cost=CostClass.RETRAINING,
        needs=(Need.TRAIN, Need.TEST, Need.PARAMETERS, Need.RETRAINING),
        unit="share of the squared error",
        source=SOURCE,
    )
    parts: int = 4
    """Disjoint training sets."""
    seeds: int = 2
    """Networks trained on each."""
    share: float = 0.5
    """Share of the error that the variance may take before it deserves attention."""

    def __post_init__(self) -> None:
        require_count(self, "parts", 3, 1000)
        require_count(self, "seeds", 1, 1000)
        require_between(self, "share", 0.0, 1.0)

    def measure(self, bench: Workbench) -> Reading:
        """Deal the examples, train, and split each loss."""
        _check_task(bench)
        siblings, size, notes = self._trained(bench)
        losses = _decompositions(bench, siblings, self.parts, self.seeds)
        squared = next(iter(losses.values()))
        draws = squared.draws
        if draws < self.parts:
            notes.append(
                f"Trainings on {self.parts - draws} of {self.parts} training sets diverged; left out."
            )
        verdict = judge(squared, self.share)
        return Reading.of(
            self.META,
            value=squared.share.value if squared.risk.value else None,
            uncertainty=_uncertainty(squared.share) if squared.risk.value else None,
            verdict=verdict,
            headline=_headline(squared, size),
            explanation=(
                f"{draws} x {self.seeds} networks were trained as the recipe says on {draws} disjoint sets of {size:,} "
                "training examples. Bias is the error of their average prediction, noise in the labels included; variance "
                "is what the draw of the training set and of the seed (weights and order) adds. It is measured, not "
                "assumed: networks may have either."
            ),
            remedies=_remedies(squared, verdict),
            details=(_bar(squared), _table(losses), _scatter(squared)),
            notes=tuple(notes),
        )

    def _trained(self, bench: Workbench) -> tuple[Siblings, int, list[str]]:
        """The networks, training set by training set, and the size of a training set."""
        specimen, generator = bench.specimen, bench.generator(self.META.id)
        count = specimen.size("train")
        size = count // self.parts
        if size < 2 or specimen.size("test") < 2:
            raise NotApplicableError(f"needs at least {2 * self.parts} training and 2 test examples")
        dealt = torch.randperm(count, generator=generator)[: size * self.parts].reshape(self.parts, size)
        seeds = torch.randint(2**31, (self.parts * self.seeds,), generator=generator).tolist()
        recipe = specimen.recipe
        if recipe is None or not recipe.epochs:
            raise NotApplicableError("needs a recipe that says epochs to train again")
        batch = min(recipe.batch_size or 1, count)
        updates = recipe.epochs * -(-count // batch)
        epochs = max(1, round(updates / -(-size // batch)))
        siblings = train_many(specimen, seeds, rows=dealt.repeat_interleave(self.seeds, 0), epochs=epochs)
        notes = [
            f"About networks trained on {size:,} of {count:,} examples, with as many updates as the recipe makes: "
            "disjoint sets are what makes the estimates unbiased."
        ]
        return siblings, size, notes


def judge(squared: BiasVariance, share: float) -> Verdict:
    """Attention where the variance takes most of the error beyond doubt: averaging networks would remove it."""
    threshold = f"variance not above {share:.0%} of the expected squared error, beyond its error bar"
    source = "convention of this report; the parts after Geman et al. 1992 and Neal et al. 2018"
    if not squared.risk.value:
        return Verdict(Level.GOOD, "no error to split", threshold, source)
    interval = squared.share.error.interval(squared.share.value)
    reason = f"variance is {squared.share.value:.0%} of the expected squared error"
    if interval.low > share:
        return Verdict(Level.ATTENTION, reason, threshold, source)
    if interval.high <= share:
        return Verdict(Level.GOOD, reason, threshold, source)
    return Verdict(Level.INFORMATIVE, f"{reason}, with an error bar across the threshold", threshold, source)


def _uncertainty(part: Part) -> Uncertainty:
    interval = part.error.interval(part.value)
    return Uncertainty(interval.low, interval.high, "training sets, seeds and examples", interval.method)


def _check_task(bench: Workbench) -> None:
    """Refuse before anything is trained."""
    if isinstance(bench.specimen.objective, Regression):
        return
    for need in (Need.LABELS, Need.SCORES):
        if bench.lacks(need):
            raise NotApplicableError(f"needs {need}, or regression")
    for read in (bench.scores, bench.labels):  # they say why, where there is no row or label an example
        read("test")


def _decompositions(bench: Workbench, siblings: Siblings, parts: int, seeds: int) -> dict[str, BiasVariance]:
    """The squared error first, and for classification the two other losses."""
    kept = _finite_sets(siblings, parts, seeds)

    def nested(values: Tensor) -> Tensor:
        return values.reshape(parts, seeds, *values.shape[1:])[kept]

    if isinstance(bench.specimen.objective, Regression):
        outputs = siblings.outputs("test")
        outputs = nested(outputs.reshape(*outputs.shape[:2], -1))
        return {"squared error": squared_bias_variance(outputs, _targets(bench))}
    scores, labels = nested(siblings.scores("test")), bench.labels("test")
    classes = scores.shape[-1]
    # The sum over classes (Brier's), where the function averages.
    scale = classes**0.5
    truth = one_hot(labels, classes).double()
    return {
        "squared error of the probabilities": squared_bias_variance(
            scores.softmax(-1) * scale, truth * scale
        ),
        "misclassification": zero_one_bias_variance(scores.argmax(-1), labels),
        "cross-entropy": cross_entropy_bias_variance(scores, labels),
    }


def _finite_sets(siblings: Siblings, parts: int, seeds: int) -> Tensor:
    """The training sets on which every training stayed finite."""
    kept = torch.ones(parts, dtype=torch.bool)
    for member in siblings.run.diverged if siblings.run is not None else ():
        kept[member // seeds] = False
    if int(kept.sum()) < 3:
        raise NotApplicableError(
            f"needs trainings that stay finite; on {int((~kept).sum())} of {parts} training sets some diverged"
        )
    return kept


def _targets(bench: Workbench) -> Tensor:
    objective: Any = bench.specimen.objective

    def of_batch(batch: Any) -> Tensor:
        return objective.target(batch).reshape(objective.size(batch), -1).double()

    return bench.memo(("targets", "test"), lambda: bench.specimen.map_over(of_batch, "test"))


def _headline(squared: BiasVariance, size: int) -> str:
    if not squared.risk.value:
        return f"Trained on {size:,} examples, the recipe makes no error to split."
    parts = [f"{squared.bias.value / squared.risk.value:.0%} bias and noise"]
    for name, part in (("training set", squared.data), ("seed", squared.initialisation)):
        if part is not None:
            parts.append(f"{part.value / squared.risk.value:.0%} luck of the {name}")
    if squared.data is None:
        parts.append(f"{squared.share.value:.0%} variance")
    listed = f"{', '.join(parts[:-1])} and {parts[-1]}" if len(parts) > 2 else ", ".join(parts)
    return f"Trained on {size:,} examples, the expected squared error is {listed}."


def _bar(found: BiasVariance) -> Scalars:
    items = tuple(_scalar(NAMES.get(name, name), part) for name, part in found.parts.items())
    return Scalars(
        "Where the expected squared error comes from",
        items,
        stacked=True,
        caption=(
            "The parts add up to the mean squared error. Averaging networks of several seeds removes the seed's part; more "
            "data shrinks the training set's; a larger or longer-trained network, or cleaner labels, the bias. Estimates are "
            "unbiased, so a part that is nothing may come out below 0."
        ),
    )


def _scalar(name: str, part: Part) -> Scalar:
    interval = part.error.interval(part.value)
    return Scalar(name.capitalize(), part.value, "squared error", interval.low, interval.high)


def _table(losses: dict[str, BiasVariance]) -> Table:
    rows = []
    for loss, found in losses.items():
        for name, part in {"all": found.risk, **found.parts}.items():
            rows.append((loss, NAMES.get(name, name), part.value, part.error.groups, part.error.examples))
    columns = (
        "loss",
        "part",
        "value",
        "standard error (training sets and seeds)",
        "standard error (examples)",
    )
    return Table(
        "Three losses, split alike",
        columns,
        tuple(rows),
        caption=(
            "Misclassification: the bias is the error of the most frequent prediction, the variance what deviating from it "
            "costs net of what it gains (Domingos 2000); with fewer than three seeds it is not told which part the training set "
            "has in it. Cross-entropy (nats): the bias is the loss of the normalised geometric mean of the predictions (Yang "
            "et al. 2020)."
        ),
    )


def _scatter(found: BiasVariance) -> Scatter:
    kept = thin(found.examples, POINTS)
    bias, variance = found.per_example["bias"][kept], found.per_example["variance"][kept]
    return Scatter(
        "Test examples by bias and variance",
        Axis("bias and noise", "squared error"),
        Axis("variance", "squared error"),
        numbers(bias),
        numbers(variance),
        texts=tuple(f"test example {i}" for i in kept),
        caption=(
            "Right: examples that the recipe gets wrong whatever the draw (hard, or mislabelled). Top: examples on which "
            "networks disagree, and on which an ensemble would help."
        ),
    )


def _remedies(found: BiasVariance, verdict: Verdict) -> tuple[Remedy, ...]:
    if not found.risk.value or verdict.level is Level.GOOD:
        return ()
    remedies = {
        "initialisation": Remedy(
            "Average the predictions of several networks: it removes the part of the seed.",
            "torchstone.training.fit_many.fit_many",
            claim="variance_over_width",
        ),
        "data": Remedy(
            "More data, augmentation or stronger regularisation: the draw of the training set matters."
        ),
        "variance": Remedy(
            "Average several networks, or regularise: the draw of training set and seed matters.",
            "torchstone.training.bagging.bag",
        ),
        "bias": Remedy("A larger network, longer training or cleaner labels: all trainings err alike."),
    }
    ranked = sorted(found.parts.items(), key=lambda item: -item[1].value)
    return tuple(remedies[name] for name, part in ranked[:2] if part.value > 0)


INSTRUMENT = BiasVarianceSplit
