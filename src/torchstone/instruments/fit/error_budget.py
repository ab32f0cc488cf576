"""Where does the error come from: the data, the fit, the sample, or the shift?"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from torchstone.bounds.bayes_error import NeighbourError, cover_hart_bracket, tightest_bracket
from torchstone.bounds.budget import Budget, Estimate, budget
from torchstone.bounds.mean import mean_interval
from torchstone.bounds.noise_variance import noise_variance
from torchstone.bounds.proportion import clopper_pearson
from torchstone.details import Scalar, Scalars, Table
from torchstone.errors import NotApplicableError
from torchstone.instruments.settings import require_between
from torchstone.kernels.nearest import majority_vote, nearest_neighbours
from torchstone.objectives import Regression
from torchstone.reading import CostClass, Level, Meta, Need, Question, Reading, Remedy, Uncertainty, Verdict
from torchstone.workbench import Workbench

# Shares of the trivial classifier's error (always the most frequent class) that the avoidable error may take.
POOR_SHARE = 0.25
NEIGHBOURS = 10  # of the rule that forgives wrong labels, and of the Gamma test


@dataclass(frozen=True)
class ErrorBudget:
    """Test error split into irreducible, fitting and estimation parts that add up to it, and a shift on top.

    The irreducible part is bracketed by nearest neighbours (Cover & Hart 1967) on the inputs and on the network's last
    hidden layer; for squared errors, by the Gamma test. Elsewhere it is unknown and counted with fitting. See
    `torchstone.bounds.budget` for the arithmetic. Fitting holds approximation and optimisation error together: telling
    them apart needs other networks, which `fitting_error` trains.

    Cost: one forward pass over all data and a neighbour search, O(N M d) for N training and M test examples of d
    numbers. Bias: the Bayes error is a bracket; its lower end is a limit for infinite data, so the irreducible part is,
    if anything, too large.
    Source: Cover & Hart 1967, theorem 2; Bottou & Bousquet 2008, section 2.2; Clopper & Pearson 1934.
    """

    META: ClassVar[Meta] = Meta(
        id="error_budget",
        question=Question.FIT,
        title="Error budget",
        asks="Where does the error come from?",
        cost=CostClass.SECONDS,
        needs=(Need.TRAIN, Need.TEST),
        unit="error",
        source="Cover & Hart 1967, theorem 2; Bottou & Bousquet 2008, section 2.2; Clopper & Pearson 1934",
    )
    confidence: float = 0.95
    """Joint confidence of all parts."""

    def __post_init__(self) -> None:
        require_between(self, "confidence", 0.5, 0.9999)

    def measure(self, bench: Workbench) -> Reading:
        """Measure errors on each part of the data, bracket the irreducible error and split."""
        if not bench.lacks(Need.SCORES) and not bench.lacks(Need.LABELS):
            found = _classification(bench, self.confidence)
        elif isinstance(bench.specimen.objective, Regression):
            found = _regression(bench, self.confidence)
        else:
            found = _losses(bench, self.confidence)
        verdict = judge(found.budget, found.test, found.trivial, found.bracketed)
        return Reading.of(
            self.META,
            value=found.test.value,
            uncertainty=Uncertainty(
                found.test.low, found.test.high, "examples", found.method, self.confidence
            ),
            verdict=verdict,
            headline=_headline(found),
            explanation=found.explanation,
            remedies=_remedies(found.budget, verdict),
            details=(_bar(found), _table(found)),
            notes=found.notes,
            unit=found.unit,
        )


@dataclass(frozen=True)
class _Found:
    budget: Budget
    errors: dict[str, Estimate]
    trivial: float | None
    unit: str
    method: str
    explanation: str
    notes: tuple[str, ...] = ()
    bracketed: bool = True

    @property
    def test(self) -> Estimate:
        return self.errors["test"]

    @property
    def parts(self) -> dict[str, Estimate]:
        """The parts as they are shown."""
        parts = self.budget.parts
        if self.bracketed:
            return parts
        return {
            name if name != "fitting" else _UNSPLIT: parts[name] for name in parts if name != "irreducible"
        }


_UNSPLIT = "fitting and irreducible"
# Where the irreducible error is unknown it stays in the fitting part.
_UNKNOWN = Estimate(0.0, 0.0, 0.0)


def judge(parts: Budget, test: Estimate, trivial: float | None, bracketed: bool = True) -> Verdict:
    """Judge the avoidable error: the test error's lower end minus the irreducible error's upper end, and the shift's.

    Args:
        parts: The budget.
        test: Test error with its interval.
        trivial: Error of the best constant prediction; None where unknown.
        bracketed: Whether the irreducible error is known to lie in an interval.

    Returns:
        Good without avoidable error beyond doubt, poor where it exceeds a quarter of the trivial error; informative where
        no avoidable error can be told from an irreducible one, or more than that quarter might be avoidable.
    """
    threshold = (
        f"avoidable error, beyond sampling error, below {POOR_SHARE:.0%} of the best constant prediction's"
    )
    source = "convention of this report; the parts after Bottou & Bousquet 2008, the bracket after Cover & Hart 1967"
    avoidable = max(0.0, test.low - parts.irreducible.high) if bracketed else 0.0
    if parts.shift is not None:
        avoidable += parts.shift.low
    if avoidable <= 0:
        if not bracketed:
            reason = "how much of the error is irreducible is unknown"
            return Verdict(Level.INFORMATIVE, reason, threshold, source)
        most = test.high - parts.irreducible.low
        if trivial and most > POOR_SHARE * trivial:
            reason = (
                f"not to be told on these data: between none and {most:.3g} of the error could be avoided"
            )
            return Verdict(Level.INFORMATIVE, reason, threshold, source)
        return Verdict(Level.GOOD, "no avoidable error beyond doubt", threshold, source)
    named = ("fitting", "estimation", "shift") if bracketed else ("shift",)
    largest = max(named, key=lambda name: _value(parts, name))
    reason = f"at least {avoidable:.3g} could be avoided, most of it {largest}"
    share = avoidable / (trivial if trivial else max(test.value, 1e-12))
    if trivial and share > POOR_SHARE:
        return Verdict(Level.POOR, reason, threshold, source, severity=min(1.0, 0.8 + 0.2 * share))
    return Verdict(Level.ATTENTION, reason, threshold, source, severity=min(0.79, 0.4 + share))


def _value(parts: Budget, name: str) -> float:
    part = parts.parts.get(name)
    return part.value if part is not None else 0.0


def _classification(bench: Workbench, confidence: float) -> _Found:
    splits = [name for name in ("train", "test", "shifted") if bench.specimen.has(name)]
    each = 1 - (1 - confidence) / (len(splits) + 1)
    errors = {}
    for name in splits:
        wrong = bench.errors(name)
        interval = clopper_pearson(int(wrong.sum()), len(wrong), each)
        errors[name] = Estimate(float(wrong.double().mean()), interval.low, interval.high)
    labels, classes = bench.labels("test"), bench.scores("test").shape[1]
    rules, notes = _neighbour_rules(bench)
    if rules:
        bracket = tightest_bracket(rules, classes, each)
        best = min((rule for rule in rules if rule.neighbours == 1), key=lambda rule: rule.errors)
        low, high = bracket.interval.low, bracket.interval.high
        limit = cover_hart_bracket(best.errors / best.trials, classes)[0]
        irreducible = Estimate(min(max(limit, low), high), low, high)
        names = ", ".join(sorted({rule.name for rule in rules}))
        how = (
            f"The irreducible part is bracketed by nearest-neighbour rules on {names}: it lies between Cover and Hart's "
            "limit and the error of any actual classifier."
        )
    else:
        irreducible, how = (
            _UNKNOWN,
            "Without features to find neighbours in, the irreducible part is unknown.",
        )
    counts = torch.bincount(labels)
    return _Found(
        budget=budget(irreducible, errors["train"], errors["test"], errors.get("shifted")),
        errors=errors,
        trivial=1 - float(counts.max()) / len(labels),
        unit="share of examples",
        method="Clopper-Pearson",
        explanation=(
            f"Error rates with exact binomial intervals. {how} All intervals hold together at the stated confidence."
        ),
        notes=notes,
        bracketed=bool(rules),
    )


def _neighbour_rules(bench: Workbench) -> tuple[list[NeighbourError], tuple[str, ...]]:
    """1-NN and 10-NN errors on the inputs and on the last hidden layer, with why one is missing."""
    train_y, test_y = bench.labels("train"), bench.labels("test")
    rules, notes = [], []
    for name, features in (("the inputs", bench.inputs), ("the last hidden layer", _last_hidden_of(bench))):
        try:
            train_x, test_x = features("train"), features("test")
        except NotApplicableError as answer:
            notes.append(f"No neighbours in {name}: {answer.reason}.")
            continue
        if not bool(train_x.isfinite().all() and test_x.isfinite().all()):
            notes.append(f"No neighbours in {name}: values that are not finite.")
            continue
        found = nearest_neighbours(test_x, train_x, min(NEIGHBOURS, len(train_x)))
        votes = train_y[found.indices.cpu()]
        # One neighbour gives the bracket; ten forgive wrong labels and may give the better upper end.
        nearest = int((votes[:, 0] != test_y).sum())
        rules.append(NeighbourError(name, nearest, len(test_y)))
        if votes.shape[1] > 1:
            majority = majority_vote(votes, int(train_y.max()) + 1)
            rules.append(NeighbourError(name, int((majority != test_y).sum()), len(test_y), votes.shape[1]))
    return rules, tuple(notes)


def _last_hidden_of(bench: Workbench) -> Callable[[str], Tensor]:
    """Features of the last recorded layer before the outputs, by split."""

    def features(split: str) -> Tensor:
        found = bench.features(split)
        if len(found) < 2:
            raise NotApplicableError("the network has no hidden layer")
        return found[list(found)[-2]]

    return features


def _regression(bench: Workbench, confidence: float) -> _Found:
    errors, each = _loss_estimates(bench, confidence)
    notes: tuple[str, ...] = ()
    irreducible, how, bracketed = _UNKNOWN, "The irreducible part is unknown.", False
    try:
        inputs = bench.inputs("train")
        if len(inputs) < NEIGHBOURS + 2:
            raise NotApplicableError(f"needs at least {NEIGHBOURS + 2} training examples")
        noise = noise_variance(inputs, _targets(bench), NEIGHBOURS, each)
        irreducible, bracketed = Estimate(noise.value, noise.low, noise.high), True
        how = (
            "The irreducible part is the noise variance, estimated by the Gamma test on differences between neighbouring "
            "inputs; in many dimensions it is, if anything, too large."
        )
    except NotApplicableError as answer:
        notes = (f"No neighbours to estimate the noise from: {answer.reason}.",)
    targets = _targets(bench, "test")
    return _Found(
        budget=budget(irreducible, errors["train"], errors["test"], errors.get("shifted")),
        errors=errors,
        trivial=float((targets - targets.mean(0)).square().mean()),
        unit="squared error",
        method="t interval",
        explanation=f"Mean squared errors with t intervals. {how}",
        notes=notes,
        bracketed=bracketed,
    )


def _targets(bench: Workbench, split: str = "train") -> Tensor:
    objective = bench.specimen.objective

    def of_batch(batch: Any) -> Tensor:
        target = objective.target(batch)
        assert target is not None  # of a Regression
        return target.reshape(objective.size(batch), -1).double()

    return bench.memo(("targets", split), lambda: bench.specimen.map_over(of_batch, split))


def _losses(bench: Workbench, confidence: float) -> _Found:
    errors, _ = _loss_estimates(bench, confidence)
    if any(float(bench.losses(name).min()) < 0 for name in errors):
        raise NotApplicableError("the loss can be negative, so it has no zero to count parts from")
    return _Found(
        budget=budget(_UNKNOWN, errors["train"], errors["test"], errors.get("shifted")),
        errors=errors,
        trivial=None,
        unit="loss",
        method="t interval",
        explanation=(
            "Mean losses with t intervals. For this task the irreducible part cannot be bracketed by neighbours, so it "
            "is counted with fitting."
        ),
        notes=("Fitting holds the irreducible part: the entropy of the data is unknown.",),
        bracketed=False,
    )


def _loss_estimates(bench: Workbench, confidence: float) -> tuple[dict[str, Estimate], float]:
    """Mean losses by split, and the confidence of each."""
    splits = [name for name in ("train", "test", "shifted") if bench.specimen.has(name)]
    each = 1 - (1 - confidence) / (len(splits) + 1)
    errors = {}
    for name in splits:
        losses = bench.losses(name)
        mean = float(losses.mean())
        interval = mean_interval(losses, each) if len(losses) > 1 else None
        low, high = (interval.low, interval.high) if interval is not None else (0.0, math.inf)
        errors[name] = Estimate(mean, min(max(0.0, low), mean), high)
    return errors, each


def _headline(found: _Found) -> str:
    parts = found.parts
    percent = found.unit == "share of examples"
    show = (lambda value: f"{value:.2%}") if percent else (lambda value: f"{value:.3g}")
    worst = max(parts, key=lambda name: parts[name].value)
    if found.test.value == 0 and parts[worst].value == 0:
        return (
            f"No error on {'test data' if percent else 'the test examples'}; at most {show(found.test.high)}."
        )
    return (
        f"Test error is {show(found.test.value)}; the largest part, {show(parts[worst].value)}, is {worst}."
    )


def _bar(found: _Found) -> Scalars:
    items = tuple(
        Scalar(name.capitalize(), part.value, found.unit, part.low, part.high)
        for name, part in found.parts.items()
    )
    return Scalars(
        "Where the error comes from",
        items,
        stacked=True,
        caption=(
            "Irreducible: no model could avoid it on these inputs. Fitting: left on the training data beyond that. "
            "Estimation: worse on new data than on training data. These add up to the test error; shift comes on top. A "
            "part whose interval reaches 0 may be nothing."
        ),
    )


def _table(found: _Found) -> Table:
    rows = tuple((name, error.value, error.low, error.high) for name, error in found.errors.items())
    return Table(f"Errors ({found.unit})", ("data", "error", "lower end", "upper end"), rows)


def _remedies(parts: Budget, verdict: Verdict) -> tuple[Remedy, ...]:
    if verdict.level is Level.GOOD:
        return ()
    advice = {
        "irreducible": Remedy(
            "Better inputs or cleaner labels: no model does better on these; see suspect_labels."
        ),
        "fitting": Remedy(
            "A larger network, longer training or a better-tuned optimiser: it does not fit its own data (fitting_error, in "
            "the deep plan, says which)."
        ),
        "estimation": Remedy(
            "More data, augmentation or regularisation: it fits its data better than new data."
        ),
        "shift": Remedy("Train on data from where it will be used, or reweight towards it."),
    }
    ranked = sorted(parts.parts.items(), key=lambda item: -item[1].value)
    return tuple(advice[name] for name, part in ranked[:2] if part.value > 0)


INSTRUMENT = ErrorBudget
