"""Does the network interpolate its training data, and did it go on improving after it did?"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from torchstone.bounds.proportion import clopper_pearson
from torchstone.details import Axis, Curve, Detail, Line, Marker, Scalar, Scalars, thin
from torchstone.reading import CostClass, Level, Meta, Need, Question, Reading, Remedy, Uncertainty, Verdict
from torchstone.workbench import Workbench

SERIES = {
    "train_error": "training error",
    "test_error": "test error",
    "train_loss": "training loss",
    "test_loss": "test loss",
    "margin": "normalised margin",
    "norm": "norm of the weights",
}


@dataclass(frozen=True)
class Interpolation:
    """Whether the training error is zero, since which epoch, and what the test error did from there.

    Past the first epoch without training errors the classical picture says that further training overfits; on separable
    data gradient descent instead goes on growing the margin, and the test error may still fall (or pass through a second
    descent). With `Recipe(history=...)` the epoch is marked and what followed is judged; without, only the present state
    is reported.

    Cost: one forward pass. Bias: none; epochs are as coarse as the history.
    Source: Soudry et al. 2018, section 2 (margin grows after separation); Belkin et al. 2018; Nakkiran et al. 2020.
    """

    META: ClassVar[Meta] = Meta(
        id="interpolation",
        question=Question.FIT,
        title="Interpolation",
        asks="Does it fit its training data perfectly, and did going on help?",
        cost=CostClass.INSTANT,
        needs=(Need.TRAIN, Need.LABELS, Need.SCORES),
        unit="share of training examples fitted",
        source="Soudry et al. 2018; Belkin, Ma & Mandal 2018; Nakkiran et al. 2020",
    )

    def measure(self, bench: Workbench) -> Reading:
        """Count training errors, and read the history where there is one."""
        wrong = bench.errors("train")
        errors, count = int(wrong.sum()), len(wrong)
        history = dict(bench.specimen.recipe.history) if bench.specimen.recipe is not None else {}
        epoch = interpolation_epoch(history.get("train_error", ()))
        since = errors_since(history.get("test_error", ()), epoch)
        # The history was logged on the whole test set, also where a sample of it is examined.
        tests = bench.specimen.split("test").total if bench.specimen.has("test") else 0
        verdict = judge(errors, epoch, since, tests)
        interval = clopper_pearson(count - errors, count)
        return Reading.of(
            self.META,
            value=1 - errors / count,
            uncertainty=Uncertainty(interval.low, interval.high, "examples", "Clopper-Pearson"),
            verdict=verdict,
            headline=_headline(errors, count, epoch, since),
            explanation=(
                "Training examples whose highest score is their label, counted in evaluation mode. The interpolation "
                "epoch is the first after which the logged training error is zero."
            ),
            remedies=_remedies(verdict),
            details=_details(errors, count, history, epoch),
            notes=()
            if history
            else ("No history in the recipe: what happened after interpolation is unknown.",),
        )


def interpolation_epoch(train_error: Sequence[float]) -> int | None:
    """Index of the first epoch with zero training error, or None."""
    return next((epoch for epoch, error in enumerate(train_error) if error == 0), None)


def errors_since(test_error: Sequence[float], epoch: int | None) -> tuple[float, float] | None:
    """Test errors at the interpolation epoch and at the end; None where either is unknown."""
    if epoch is None or epoch >= len(test_error):
        return None
    found = float(test_error[epoch]), float(test_error[-1])
    return found if all(map(math.isfinite, found)) else None


def judge(errors: int, epoch: int | None, since: tuple[float, float] | None, tests: int) -> Verdict:
    """Attention where the test error rose after interpolation by more than two standard errors of the change.

    Args:
        errors: Training examples missed now.
        epoch: Index of the interpolation epoch.
        since: Test error there and at the end.
        tests: Number of test examples; 0 where unknown.

    Returns:
        Informative where what followed is unknown.
    """
    threshold = "test error after the interpolation epoch does not rise by more than two standard errors"
    source = (
        "Nakkiran et al. 2020 (epoch-wise double descent); two errors a and b on the same n examples differ with a "
        "standard error of at most sqrt((a + b)/n)"
    )
    if epoch is None or since is None or not tests:
        state = "interpolates its training data" if errors == 0 else "does not interpolate its training data"
        return Verdict(Level.INFORMATIVE, state, threshold, source)
    first, last = since
    # Only examples that one of the two errors counts can differ, and they are at most a share a + b.
    if last - first > 2 * math.sqrt((first + last) / tests):
        reason = f"test error rose by {last - first:.2%} since epoch {epoch + 1}"
        return Verdict(Level.ATTENTION, reason, threshold, source)
    return Verdict(Level.GOOD, "training past interpolation did not cost test error", threshold, source)


def _headline(errors: int, count: int, epoch: int | None, since: tuple[float, float] | None) -> str:
    fit = (
        "Every training example is fitted"
        if errors == 0
        else f"{errors:,} of {count:,} training examples are missed"
    )
    if epoch is None:
        return fit + "."
    if since is None:
        return f"{fit}; the training error was first zero at epoch {epoch + 1}."
    after = since[1] - since[0]
    went = "rose" if after > 0 else "fell" if after < 0 else "stayed the same"
    by = f" by {abs(after):.2%}" if after else ""
    return f"{fit}; since the training error reached zero at epoch {epoch + 1}, the test error {went}{by}."


def _details(
    errors: int, count: int, history: Mapping[str, Sequence[float]], epoch: int | None
) -> tuple[Detail, ...]:
    details: list[Detail] = [
        Scalars("Training examples", (Scalar("fitted", count - errors), Scalar("missed", errors))),
    ]
    for unit, names in (("error", ("train_error", "test_error")), ("loss", ("train_loss", "test_loss"))):
        details += _curve(history, names, unit, epoch)
    for name in ("margin", "norm"):
        details += _curve(history, (name,), SERIES[name], epoch)
    return tuple(details)


def _curve(
    history: Mapping[str, Sequence[float]], names: tuple[str, ...], unit: str, epoch: int | None
) -> list[Detail]:
    known = [name for name in names if history.get(name)]
    if not known:
        return []
    lines = []
    for name in known:
        kept = thin(len(history[name]), 500)
        lines.append(
            Line(SERIES[name], tuple(i + 1.0 for i in kept), tuple(float(history[name][i]) for i in kept))
        )
    markers = () if epoch is None else (Marker("training error zero", epoch + 1, "x"),)
    caption = (
        "Right of the mark the training error is zero; what still changes there is not fitting but its bias."
    )
    title = f"{unit.capitalize()} over training"
    return [
        Curve(title, Axis("epoch"), Axis(unit), tuple(lines), markers, caption=caption if markers else "")
    ]


def _remedies(verdict: Verdict) -> tuple[Remedy, ...]:
    if verdict.level is not Level.ATTENTION:
        return ()
    return (
        Remedy("Stop early: keep the weights of the epoch with the lowest held-out error."),
        Remedy(
            "Look for wrong labels: memorising them is what makes late training harmful (see suspect_labels)."
        ),
    )


INSTRUMENT = Interpolation
