"""How much of the test result is luck of the seed?"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from torchstone.bounds.churn import churn
from torchstone.bounds.crossed import CrossedError, crossed_mean
from torchstone.bounds.detectable_difference import minimal_detectable_difference
from torchstone.bounds.interval import Interval
from torchstone.details import Axis, Detail, Marker, Scalar, Scalars, Scatter, Table, numbers
from torchstone.errors import NotApplicableError
from torchstone.instruments.settings import require_between, require_count
from torchstone.reading import CostClass, Level, Meta, Need, Question, Reading, Remedy, Uncertainty, Verdict
from torchstone.workbench import Workbench
from torchstone.workbench.ensembles import seed_ensemble
from torchstone.workbench.siblings import Siblings

LISTED = 10  # examples in the table


@dataclass(frozen=True)
class SeedVariance:
    """Mean test error over seeds, its spread, and where the examined network lies among its siblings.

    Networks are trained again as the recipe says from other seeds (weights and order). The interval of the mean covers
    further seeds and further test examples together (two-way random effects). The spread says which differences between
    runs are noise: see `torchstone.bounds.compare_seeds` for comparing two recipes. Beside it stands the churn, how often
    two trainings disagree.

    Cost: `members` trainings, shared with other instruments that ask for so many. Bias: none for networks that the recipe
    makes; augmentation that only the original training had is missing.
    Source: Bouthillier et al. 2021; Milani Fard et al. 2016 (churn); Searle, Casella & McCulloch 1992, section 4.4.
    """

    META: ClassVar[Meta] = Meta(
        id="seed_variance",
        question=Question.GENERALIZATION,
        title="Luck of the seed",
        asks="How much of the test result is luck of the seed?",
        cost=CostClass.RETRAINING,
        needs=(Need.TRAIN, Need.TEST, Need.PARAMETERS, Need.RETRAINING),
        unit="test error",
        source="Bouthillier et al. 2021; Milani Fard et al. 2016; Searle, Casella & McCulloch 1992, section 4.4",
    )
    members: int = 10
    """Networks to train."""
    confidence: float = 0.95
    """Of all intervals."""

    def __post_init__(self) -> None:
        require_count(self, "members", 2, 10_000)
        require_between(self, "confidence", 0.5, 0.9999)

    def measure(self, bench: Workbench) -> Reading:
        """Train the siblings and compare the examined network with them."""
        classes = not bench.lacks(Need.SCORES) and not bench.lacks(Need.LABELS)
        own = (bench.errors("test").double() if classes else bench.losses("test")).cpu()
        if len(own) < 2:
            raise NotApplicableError("needs at least 2 test examples")
        siblings = seed_ensemble(bench, self.members)
        values = siblings.errors("test") if classes else siblings.losses("test")
        interval, error = crossed_mean(values, self.confidence)
        of_seed = values.mean(1)
        found = _Found(
            of_seed, float(own.mean()), predicted(of_seed, self.confidence), interval, error, classes
        )
        verdict = judge(found.own, found.expected, self.confidence)
        return Reading.of(
            self.META,
            value=float(of_seed.mean()),
            uncertainty=Uncertainty(
                interval.low, interval.high, "seeds and examples", interval.method, self.confidence
            ),
            verdict=verdict,
            headline=_headline(found),
            explanation=(
                f"{len(siblings)} networks were trained as the recipe says from other seeds and tested on the same examples. "
                "The error bar covers further seeds and further test examples; the spread over seeds is what a single run "
                "may move by luck."
            ),
            remedies=_remedies(found, verdict),
            details=_details(bench, siblings, found),
            notes=_notes(siblings, self.members),
            unit="share of examples" if classes else "loss",
        )


@dataclass(frozen=True)
class _Found:
    of_seed: Tensor
    own: float
    expected: Interval
    interval: Interval
    error: CrossedError
    classes: bool

    @property
    def spread(self) -> float:
        return float(self.of_seed.std())

    def show(self, value: float) -> str:
        """A number in the unit of the reading."""
        return f"{value:.2%}" if self.classes else f"{value:.3g}"


def predicted(of_seed: Tensor, confidence: float) -> Interval:
    r"""Where one more run lies: :math:`\bar v \pm t_{K-1}\, s \sqrt{1 + 1/K}`, exact for normal values.

    Args:
        of_seed: Metric of each run, (K,), K >= 2.
        confidence: Coverage.
    """
    from scipy.special import stdtrit

    count, mean = len(of_seed), float(of_seed.mean())
    quantile = float(stdtrit(count - 1, (1 + confidence) / 2))
    half = quantile * float(of_seed.std()) * math.sqrt(1 + 1 / count)
    return Interval(mean - half, mean + half, confidence, "prediction of one more run, Student t")


def judge(own: float, expected: Interval, confidence: float) -> Verdict:
    """Attention where the examined network lies outside of what one more run would give."""
    threshold = f"test error inside the {confidence:.0%} prediction interval of one more run"
    source = "prediction interval of a normal sample; reporting one seed: Bouthillier et al. 2021"
    # Runs that all agree leave an interval of rounding errors.
    slack = 1e-9 * max(1.0, abs(own))
    if own < expected.low - slack:
        return Verdict(
            Level.ATTENTION, "better than other seeds make likely: it would not repeat", threshold, source
        )
    if own > expected.high + slack:
        return Verdict(
            Level.ATTENTION,
            "worse than other seeds make likely: unlucky, or another recipe",
            threshold,
            source,
        )
    return Verdict(Level.GOOD, "an ordinary seed", threshold, source)


def _headline(found: _Found) -> str:
    mean, count = float(found.of_seed.mean()), len(found.of_seed)
    better = int((found.of_seed < found.own - 1e-12).sum())
    what = "test error" if found.classes else "test loss"
    return (
        f"Over {count} other seeds the {what} is {found.show(mean)} with a standard deviation of "
        f"{found.show(found.spread)}; this network has {found.show(found.own)}, and {better} of {count} do better."
    )


def _details(bench: Workbench, siblings: Siblings, found: _Found) -> tuple[Detail, ...]:
    details: list[Detail] = [_numbers(found)]
    if not found.classes:
        train = siblings.losses("train").mean(1)
        return (*details, _scatter(found, train, "mean training loss"))
    predictions = siblings.scores("test").argmax(-1)
    own = bench.scores("test").argmax(1).cpu()
    apart = (predictions != own).double().mean(1)
    unsure = churn(predictions)
    shares = Scalars(
        "How often two trainings disagree",
        (
            Scalar("Two other seeds", float(unsure.mean()), "share of test examples"),
            Scalar("This network and another seed", float(apart.mean()), "share of test examples"),
        ),
        caption="Also where all are equally right: predictions that would change if the network were trained again.",
    )
    scatter = _scatter(found, apart, "share of examples on which it disagrees with this network")
    return (*details, shares, scatter, *_examples(bench, predictions, unsure))


def _numbers(found: _Found) -> Scalars:
    count, unit = len(found.of_seed), "error" if found.classes else "loss"
    detectable = minimal_detectable_difference(found.spread, count)
    one = 2.0 * math.sqrt(2) * found.spread
    items = (
        Scalar("Mean over seeds", float(found.of_seed.mean()), unit, found.interval.low, found.interval.high),
        Scalar("This network", found.own, unit),
        Scalar("One more run", float(found.of_seed.mean()), unit, found.expected.low, found.expected.high),
        Scalar("Standard deviation over seeds", found.spread, unit),
        Scalar("Standard error from the draw of test examples", found.error.examples, unit),
        Scalar("Difference of two single runs that is noise (2 standard deviations)", one, unit),
        Scalar(f"Difference that {count} against {count} runs show with power 0.8", detectable, unit),
    )
    return Scalars(
        "Runs and what they can show",
        items,
        caption="An improvement smaller than the last two numbers needs more runs, paired runs, or more test examples.",
    )


def _scatter(found: _Found, values: Tensor, label: str) -> Scatter:
    what = "test error" if found.classes else "test loss"
    return Scatter(
        "Siblings",
        Axis(what),
        Axis(label),
        numbers(found.of_seed),
        numbers(values),
        groups=("another seed",) * len(found.of_seed),
        texts=tuple(f"sibling {k + 1}" for k in range(len(found.of_seed))),
        markers=(Marker("this network", found.own, "x"), Marker("mean", float(found.of_seed.mean()), "x")),
        caption="Each point is the recipe trained from another seed.",
    )


def _examples(bench: Workbench, predictions: Tensor, unsure: Tensor) -> tuple[Table, ...]:
    """The examples that seeds decide differently."""
    labels, indices = bench.labels("test").cpu(), unsure.argsort(descending=True, stable=True)
    chosen = [int(i) for i in indices[:LISTED] if unsure[i] > 0]
    if not chosen:
        return ()
    rows = tuple(
        (i, int(labels[i]), float((predictions[:, i] == labels[i]).double().mean()), float(unsure[i]))
        for i in chosen
    )
    columns = ("test example", "label", "share of seeds that are right", "share of pairs that disagree")
    return (Table("Examples that the seed decides", columns, rows),)


def _notes(siblings: Siblings, members: int) -> tuple[str, ...]:
    notes = []
    if len(siblings) < members:
        notes.append(f"{members - len(siblings)} of {members} trainings diverged; left out.")
    if siblings.run is not None and siblings.run.reason:
        notes.append(f"Trained {siblings.run.way}: {siblings.run.reason}.")
    return tuple(notes)


def _remedies(found: _Found, verdict: Verdict) -> tuple[Remedy, ...]:
    if verdict.level is Level.GOOD:
        return ()
    return (
        Remedy(
            f"Report the mean over seeds, {found.show(float(found.of_seed.mean()))}, with its error bar, not this run.",
            "torchstone.bounds.crossed_mean",
        ),
        Remedy(
            "Compare recipes by several runs of each, paired where they share seeds.",
            "torchstone.bounds.compare_seeds",
        ),
    )


INSTRUMENT = SeedVariance
