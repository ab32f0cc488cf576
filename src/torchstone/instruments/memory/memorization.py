"""Which training examples are right only because they were trained on, and which test examples do they decide?"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from torchstone.details import Axis, Bars, Detail, Histogram, Images, Marker, Scalar, Scalars, Table, numbers
from torchstone.errors import NotApplicableError
from torchstone.instruments.memory.leakage import picture
from torchstone.instruments.settings import require_between, require_count
from torchstone.reading import CostClass, Level, Meta, Need, Question, Reading, Remedy, Uncertainty, Verdict
from torchstone.training.memorization import (
    ChanceOfPairs,
    LeaveOutScores,
    chance_of_pairs,
    influence,
    memorization,
)
from torchstone.workbench import Workbench
from torchstone.workbench.ensembles import SubsetEnsemble, subset_ensemble

SHOWN = 20
CONSIDERED = 1000
MEMORISED, INFLUENTIAL = 0.25, 0.15


@dataclass(frozen=True)
class Memorization:
    """Leave-out memorisation of every training example, and influence on test examples.

    Networks are trained as the recipe says on random subsets. An example's score is the share of networks that have it right
    among those that held it, minus the share among those that did not; likewise for its influence on a test example. The value
    is the mean score: the share of training labels that are fitted because they were seen.

    Cost: `members` trainings on `share` of the data, as one where the network can be mapped. Bias: none for training
    sets of that size; on all examples scores are somewhat smaller. Variance: over the networks, in every error bar.
    Source: Feldman & Zhang 2020; Feldman 2020.
    """

    META: ClassVar[Meta] = Meta(
        id="memorization",
        question=Question.MEMORY,
        title="Memorised examples",
        asks="Which training examples are right only because they were trained on?",
        cost=CostClass.RETRAINING,
        needs=(Need.TRAIN, Need.LABELS, Need.SCORES, Need.PARAMETERS, Need.RETRAINING),
        unit="share of training examples",
        source="Feldman & Zhang 2020, section 2",
    )
    members: int = 24
    share: float = 0.7
    """Of the training examples, in each subset."""

    def __post_init__(self) -> None:
        require_count(self, "members", 4, 10_000)
        require_between(self, "share", 0.05, 0.95)

    def measure(self, bench: Workbench) -> Reading:
        """Train on subsets and compare networks that held an example with those that did not."""
        labels = bench.labels("train")
        if round(self.share * len(labels)) in (0, len(labels)):
            raise NotApplicableError("needs enough training examples to leave some out")
        ensemble = subset_ensemble(bench, self.members, self.share)
        correct = 1 - ensemble.siblings.errors("train")
        found = memorization(correct, ensemble.included)
        value = float(found.score.nanmean())
        uncertainty = over_networks(correct, ensemble.included)
        verdict = judge(value, value if uncertainty is None else uncertainty.low)
        surely = int((found.score - 2 * found.standard_error > MEMORISED).sum())
        return Reading.of(
            self.META,
            value=value,
            uncertainty=uncertainty,
            verdict=verdict,
            headline=(
                f"{value:.1%} of the training labels are fitted only because they were trained on; {surely:,} of "
                f"{len(labels):,} examples are memorised beyond doubt."
            ),
            explanation=(
                f"{len(ensemble)} networks were trained by the recipe, each on a random {self.share:.0%} of the training data. An "
                "example's score is how much more often the networks that saw it have it right than those that did not. "
                f"Beyond doubt: two standard errors above {MEMORISED:g}. Wrong labels score highest; so do rare and "
                "ambiguous examples, which a network can get right in no other way (Feldman 2020)."
            ),
            remedies=_remedies(verdict),
            details=(_histogram(found), _table(bench, ensemble, found, labels), *_images(bench, found, labels), *_influences(bench, ensemble, found, labels)),
            notes=_notes(ensemble, self.share, len(labels)),
        )  # fmt: skip


def judge(share: float, low: float) -> Verdict:
    """Attention where clearly more is memorised than the label errors of common benchmarks would explain."""
    threshold = "at most 5% of the labels fitted only because they were seen, beyond the error bar"
    source = "convention of this report; common benchmarks hold 3.3% label errors (Northcutt, Athalye & Mueller 2021)"
    if low > 0.05:
        return Verdict(Level.ATTENTION, f"{share:.1%} of the labels are memorised", threshold, source)
    return Verdict(Level.INFORMATIVE, f"{share:.1%} of the labels are memorised", threshold, source)


def over_networks(correct: Tensor, included: Tensor) -> Uncertainty | None:
    """Student's interval for the mean score, by leaving out each network in turn.

    Args:
        correct: (K, N) of 0 and 1.
        included: (K, N) of bool.
    """
    from scipy.special import stdtrit

    count = len(correct)
    keep = ~torch.eye(count, dtype=torch.bool)
    left = torch.stack([memorization(correct[k], included[k]).score.nanmean() for k in keep])
    error = float(((count - 1) / count * (left - left.mean()).square().sum()).sqrt())
    if not torch.isfinite(left).all():
        return None
    value = float(memorization(correct, included).score.nanmean())
    half = float(stdtrit(count - 1, 0.975)) * error
    return Uncertainty(value - half, value + half, "networks", "jackknife over networks", 0.95, error)


def _notes(ensemble: SubsetEnsemble, share: float, count: int) -> tuple[str, ...]:
    run = ensemble.siblings.run
    way = f", {run.way}{f' ({run.reason})' if run.reason else ''}" if run is not None else ""
    notes = [f"{len(ensemble)} trainings by the recipe on {round(share * count):,} examples each{way}."]
    if ensemble.diverged:
        notes.append(f"{ensemble.diverged} more diverged and are left out.")
    return tuple(notes)


def _called(bench: Workbench, label: Tensor | int) -> str:
    names: Any = getattr(bench.specimen.objective, "class_names", ())
    return str(names[int(label)]) if int(label) < len(names) else str(int(label))


def _order(found: LeaveOutScores) -> Tensor:
    """Highest scores first, the surer ones first among equals."""
    surest = found.standard_error.argsort(stable=True)
    return surest[found.score[surest].nan_to_num(-2.0).argsort(descending=True, stable=True)]


def _histogram(found: LeaveOutScores) -> Histogram:
    edges = torch.arange(-20, 21, dtype=torch.float64) / 20
    counts = torch.histogram(found.score[found.score.isfinite()].clamp(-1, 1), edges).hist
    return Histogram(
        "Memorisation of single examples",
        Axis("share right when trained on, less share right when left out"),
        numbers(edges),
        (Bars("training examples", numbers(100 * counts / len(found.score))),),
        (Marker("memorised", MEMORISED, "x"),),
        caption="Near 0: right, or wrong, whether seen or not. Near 1: right only if seen. Values below 0 are chance.",
        y=Axis("share of examples", "%"),
    )


def _table(bench: Workbench, ensemble: SubsetEnsemble, found: LeaveOutScores, labels: Tensor) -> Table:
    """The most memorised examples, and what the networks that did not hold them say."""
    predictions = ensemble.siblings.scores("train").argmax(2)
    rows = []
    for row in _order(found)[:SHOWN].tolist():
        others = predictions[~ensemble.included[:, row], row]
        said = _called(bench, others.mode().values) if len(others) else ""
        rows.append(
            (
                row,
                _called(bench, labels[row]),
                float(found.score[row]),
                float(found.standard_error[row]),
                said,
            )
        )
    return Table(
        "Most memorised examples",
        ("training example", "label", "memorisation", "standard error", "others mostly say"),
        tuple(rows),
        "Positions in the training data as examined. Others: networks that did not see the example.",
    )  # fmt: skip


def _shape(bench: Workbench) -> tuple[int, ...] | None:
    """Of inputs that can be shown as small images."""
    with suppress(NotApplicableError):
        shape = bench.input_shape()
        if len(shape) == 3 and shape[0] in (1, 3) and shape[1] * shape[2] <= 64 * 64:
            return shape
    return None


def _images(bench: Workbench, found: LeaveOutScores, labels: Tensor) -> tuple[Images, ...]:
    shape = _shape(bench)
    if shape is None:
        return ()
    inputs = bench.inputs("train")
    pictures = tuple(
        picture(inputs[row].reshape(shape), f"{row}: labelled {_called(bench, labels[row])}, score {found.score[row]:.2f}")
        for row in _order(found)[:12].tolist()
    )  # fmt: skip
    return (
        Images("Most memorised examples", pictures, "Wrong labels first; then rare and ambiguous forms."),
    )


def _influences(
    bench: Workbench, ensemble: SubsetEnsemble, found: LeaveOutScores, labels: Tensor
) -> tuple[Detail, ...]:
    """The training examples that decide test examples, and how much of that is chance."""
    if bench.lacks(Need.TEST):
        return ()
    rows = _order(found)[:CONSIDERED]
    tests = bench.sample("test", CONSIDERED, Memorization.META.id)
    right, included = (1 - ensemble.siblings.errors("test"))[:, tests], ensemble.included[:, rows]
    scores = influence(right, included)
    best = scores.score.nan_to_num(-2.0).flatten().topk(min(SHOWN, scores.score.numel()))
    threshold = max(INFLUENTIAL, float(best.values[-1]))
    chance = chance_of_pairs(right, included, threshold, bench.generator(Memorization.META.id))
    pairs = [divmod(int(place), len(tests)) for place in best.indices]
    test_labels = bench.labels("test")
    lines = tuple(
        (int(rows[i]), _called(bench, labels[rows[i]]), int(tests[j]), _called(bench, test_labels[tests[j]]),
         float(scores.score[i, j]), float(scores.standard_error[i, j]))
        for i, j in pairs
    )  # fmt: skip
    table = Table(
        "Most influential pairs",
        ("training example", "training label", "test example", "test label", "influence", "standard error"),
        lines,
        f"How much more often the test example is right when the training example was seen; among the {len(rows):,} most "
        f"memorised training and {len(tests):,} test examples. {_by_chance(chance, threshold)}",
    )
    counts = Scalars(
        f"Pairs of influence {threshold:.2f} or more",
        (
            Scalar("found", chance.found, "pairs"),
            Scalar("expected by chance", chance.by_chance, "pairs", 0, chance.most_by_chance),
        ),
        caption="By chance: with the networks' subsets dealt out anew, ten times. More networks part the two.",
    )
    return (table, counts, *_pairs(bench, rows, tests, pairs, scores))


def _by_chance(chance: ChanceOfPairs, threshold: float) -> str:
    if not chance.found:
        return "No pair is influential."
    return (
        f"Of {chance.found:,} pairs of {threshold:.2f} or more about {chance.false_share:.0%} are there by chance: "
        "so many pairs are compared that single ones need more networks to be sure of."
    )


def _pairs(
    bench: Workbench, rows: Tensor, tests: Tensor, pairs: list[tuple[int, int]], scores: LeaveOutScores
) -> tuple[Images, ...]:
    shape = _shape(bench)
    if shape is None:
        return ()
    train, test, pictures = bench.inputs("train"), bench.inputs("test"), []
    for k, (i, j) in enumerate(pairs[:6], 1):
        row, other = int(rows[i]), int(tests[j])
        pictures.append(picture(train[row].reshape(shape), f"pair {k}: training {row}"))
        pictures.append(
            picture(test[other].reshape(shape), f"pair {k}: test {other}, {scores.score[i, j]:.2f}")
        )
    return (
        Images(
            "Most influential pairs",
            tuple(pictures),
            "Each training example is followed by the test example it decides most. True pairs look alike.",
        ),
    )


def _remedies(verdict: Verdict) -> tuple[Remedy, ...]:
    if verdict.level is not Level.ATTENTION:
        return ()
    return (
        Remedy(
            "Look at the most memorised examples: where the other networks agree on another class, correct the label.",
            claim="random_labels_are_fitted",
        ),
        Remedy("Use a loss that trusts labels less.", "torch.nn.CrossEntropyLoss(label_smoothing=0.1)"),
        Remedy("Collect more examples like the rare ones among them; leaving them out costs accuracy on their kind."),
    )  # fmt: skip


INSTRUMENT = Memorization
