"""What do the bounds of learning theory say of this network, beside the gap that was measured?"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from torchstone.bounds.proportion import newcombe_difference
from torchstone.details import Axis, Curve, Detail, Line, Marker, Table, thin
from torchstone.errors import NotApplicableError, NumericalError
from torchstone.instruments.settings import require_between, require_count
from torchstone.reading import CostClass, Level, Meta, Need, Question, Reading, Remedy, Uncertainty, Verdict
from torchstone.workbench import Workbench
from torchstone.workbench.error_bounds import ErrorBound, Skipped, error_bounds, layer_sizes

_LOWEST, _HIGHEST = 1e-4, 1e12  # what the plot shows
_LITTLE = 10**7  # weights times examples


@dataclass(frozen=True)
class BoundsTable:
    """Every bound on the error that this network admits: what it says, what it assumes, whether it is vacuous.

    Each bound holds with probability 1 - `delta` on its own, over the draw of the examples. From held-out examples:
    Clopper-Pearson and Hoeffding. From training examples: the number of bits, the number of weights (Warren), the l1
    size of the weights, the l1 path norm, the spectral margin with references zero, identity and the initial weights,
    and PAC-Bayes for the network with Gaussian noise on its weights. The value is the tightest of those from training
    examples alone; vacuous values are kept as they are.

    Cost: one pass over training and test data, the layers' spectral norms, and 7 + `draws` passes for PAC-Bayes.
    Bias: none; an upper bound is no estimate.
    Source: Jiang et al. 2020 (bounds beside gaps); each bound has its own in `torchstone.bounds`.
    """

    META: ClassVar[Meta] = Meta(
        id="bounds_table",
        question=Question.GENERALIZATION,
        title="Bounds on the error",
        asks="What do the bounds of learning theory say of this network?",
        cost=CostClass.MINUTES,
        needs=(Need.TRAIN, Need.LABELS, Need.SCORES, Need.PARAMETERS),
        unit="bound on the test error",
        source="Vapnik 1998; Bartlett, Foster & Telgarsky 2017; Dziugaite & Roy 2017; Jiang et al. 2020",
    )
    delta: float = 0.05
    draws: int = 10
    """Noisy networks drawn for the PAC-Bayes bound, ten times as many where they cost little; 0 leaves it out."""

    def __post_init__(self) -> None:
        require_between(self, "delta", 1e-12, 0.25)
        require_count(self, "draws", 0, 10**6)

    def measure(self, bench: Workbench) -> Reading:
        """Evaluate what can be evaluated and sort it."""
        draws = self.draws * (1 if _work(bench) > _LITTLE else 10)
        bounds, skipped = error_bounds(bench, self.delta, draws)
        bounds.sort(key=lambda one: one.value)
        train = float(bench.errors("train").double().mean())
        gap = _measured_gap(bench) if bench.specimen.has("test") else None
        own = [one for one in bounds if not one.held_out and not one.rate]
        best, guessing = own[0], _guessing(bench)
        useful = sum(one.value < guessing for one in own)
        verdict = judge(best.value, guessing)
        measured = "" if gap is None else f"; measured on test data it is {train + gap.value:.3g}"
        return Reading.of(
            self.META,
            value=best.value,
            uncertainty=Uncertainty(
                0.0, best.value, "examples", "upper bound on the test error", 1 - self.delta
            ),
            verdict=verdict,
            headline=(
                f"{useful} of {len(own)} bounds from training data say more than guessing; the tightest ({best.short}) "
                f"allows an error of {best.value:.3g}{measured}."
            ),
            explanation=HOW_TO_READ,
            remedies=_remedies(verdict),
            details=(
                _plot(bounds, train, guessing, gap),
                _table(bounds, train, guessing, gap),
                *_sizes(bench),
                *_left_out(skipped),
            ),
            notes=_notes(self.delta, draws, bench),
        )


HOW_TO_READ = (
    "How to read a vacuous bound: an error is never above 1, so a bound of 1 or more is true of every network and says "
    "nothing about this one; one above the error of guessing the most frequent class says no more than guessing. It is no sign of a bad network. It means that what the bound looks at (how many weights, how "
    "large they are) does not by itself explain why the network generalises. Its use is in comparisons: of networks by "
    "the same bound, and over training. A bound from held-out examples is tight because it needs no explanation."
)


def judge(tightest: float, guessing: float) -> Verdict:
    """Good where training data alone bound the error below that of guessing; a vacuous bound is no fault of the network."""
    threshold = (
        f"a bound from training data below {guessing:.3g}, the error of naming the most frequent class"
    )
    source = (
        "Dziugaite & Roy 2017, section 1 (vacuous bounds); the error of guessing is of the training labels"
    )
    if tightest < guessing:
        return Verdict(
            Level.GOOD, f"training data alone bound the error by {tightest:.3g}", threshold, source
        )
    return Verdict(
        Level.INFORMATIVE, "no bound from training data says more than guessing", threshold, source
    )


def _guessing(bench: Workbench) -> float:
    """Error of always naming the most frequent class, on the training labels."""
    labels = bench.labels("train")
    return 1 - float(labels.unique(return_counts=True)[1].max()) / len(labels)


@dataclass(frozen=True)
class Gap:
    """Test error minus training error with its 95% interval."""

    value: float
    low: float
    high: float


def _measured_gap(bench: Workbench) -> Gap:
    wrong = {split: bench.errors(split) for split in ("test", "train")}
    counts = [(int(one.sum()), len(one)) for one in wrong.values()]
    interval = newcombe_difference(*counts[0], *counts[1])
    value = counts[0][0] / counts[0][1] - counts[1][0] / counts[1][1]
    return Gap(value, interval.low, interval.high)


def _plot(bounds: list[ErrorBound], train: float, guessing: float, gap: Gap | None) -> Curve:
    shown = [one for one in bounds if math.isfinite(one.value)]
    heights = [min(max(one.value - train, _LOWEST), _HIGHEST) for one in shown]
    markers = [Marker("vacuous above: error 1", max(1 - train, _LOWEST))]
    if guessing > train:
        markers.append(Marker("guessing", guessing - train))
    if gap is not None and gap.value > 0:
        markers.append(Marker("measured gap", gap.value))
    elif gap is not None and gap.high > 0:
        markers.append(Marker("measured gap, upper end of its interval", gap.high))
    line = Line("bound on test error minus training error", tuple(range(1, len(shown) + 1)), tuple(heights))
    return Curve(
        "Bounds on the gap",
        Axis("bound, from the tightest"),
        Axis("test error minus training error", "share", log=True),
        (line,),
        tuple(markers),
        tuple(one.short for one in shown),
        caption=(
            "Each point is what a bound allows the gap to be. Between a point and the line of the measured gap lies what "
            "the bound does not know; above the line of error 1 it says nothing. W L ln W is a rate without its constant. "
            f"Values are drawn between {_LOWEST:g} and {_HIGHEST:g}; the table has them all."
        ),
    )


def _table(bounds: list[ErrorBound], train: float, guessing: float, gap: Gap | None) -> Table:
    rows = []
    for one in bounds:
        times = (one.value - train) / gap.value if gap is not None and gap.value > 0 else None
        says = "yes" if one.value < guessing else "less than guessing" if one.value < 1 else "vacuous"
        says = "no bound" if one.rate else says
        source = "held-out" if one.held_out else "training"
        rows.append((one.name, one.value, one.value - train, times, says, source, one.assumes))
    columns = (
        "bound",
        "error at most",
        "gap at most",
        "times the measured gap",
        "says anything",
        "examples",
        "assumes",
    )
    caption = "Sorted. All assume independent examples of one law; the column says what else."
    return Table("Bounds", columns, tuple(rows), caption)


def _sizes(bench: Workbench) -> tuple[Detail, ...]:
    """What the bounds by size are made of."""
    try:
        found = layer_sizes(bench)
    except (NotApplicableError, NumericalError):
        return ()
    rows = tuple(found[i] for i in thin(len(found), 60))
    caption = (
        "The bounds by size multiply a column, whatever the number of weights. Of the last layer the sum is over all its "
        "outputs; with biases a hidden layer counts as at least 1."
    )
    columns = ("layer", "weights", "largest sum of absolute incoming weights", "spectral norm")
    return (Table("Sizes of the layers", columns, rows, caption),)


def _left_out(skipped: list[Skipped]) -> tuple[Detail, ...]:
    if not skipped:
        return ()
    rows = tuple((one.name, one.reason) for one in skipped)
    return (Table("Bounds that do not apply here", ("bound", "reason"), rows),)


def _work(bench: Workbench) -> int:
    """Weights times examples: what a pass costs, roughly."""
    return sum(p.numel() for p in bench.specimen.model.parameters()) * bench.specimen.size("train")


def _notes(delta: float, draws: int, bench: Workbench) -> tuple[str, ...]:
    notes = [f"Each bound holds with probability {1 - delta:.0%} on its own, not all of them together."]
    if draws:
        notes.append(f"PAC-Bayes: {draws} noisy networks were drawn; the bound allows for their number.")
    if bench.specimen.recipe is None or not bench.specimen.recipe.initial_state:
        notes.append("With Recipe(initial_state=...) distances from initialisation serve as references too.")
    return tuple(notes)


def _remedies(verdict: Verdict) -> tuple[Remedy, ...]:
    if verdict.level is Level.GOOD:
        return ()
    return (
        Remedy("Trust held-out examples for a guarantee, and keep some that nothing is chosen by."),
        Remedy(
            "For a certificate from training data, train the bound itself (instrument pac_bayes_certificate).",
            "torchstone.training.certified.train_certified",
            "certificate_from_training_data",
        ),
        Remedy(
            "Compare networks by the bounds that see the size of the weights, not by those that count them.",
            "torchstone.bounds.weight_size",
            "size_of_weights",
        ),
    )


INSTRUMENT = BoundsTable
