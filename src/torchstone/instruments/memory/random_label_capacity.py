"""How much of random labels does the recipe fit?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from torchstone.bounds.margin import margins, normalised_margins
from torchstone.bounds.spectral import spectral_complexity
from torchstone.details import Axis, Bars, Curve, Detail, Histogram, Line, Table, numbers, thin
from torchstone.errors import NotApplicableError, TorchstoneError
from torchstone.instruments.settings import require_count
from torchstone.reading import CostClass, Level, Meta, Need, Question, Reading, Uncertainty, Verdict
from torchstone.training.random_labels import epochs_to_fit, fitted_random_labels, random_labels
from torchstone.workbench import Workbench
from torchstone.workbench.chain import chain
from torchstone.workbench.retraining import train_many
from torchstone.workbench.siblings import Siblings, wrong

LEVELS = (0.5, 0.9, 1.0)
TRUE, RANDOM = "true labels", "random labels"


@dataclass(frozen=True)
class RandomLabelCapacity:
    """Trains by the recipe on labels drawn at random, beside the true ones, and sees how much is fitted.

    The capacity is (C a - 1) / (C - 1) with a the accuracy on the random labels: 0 for a network that ignores them, 1 for one that
    fits them all; for two classes it bounds the Rademacher complexity of what the recipe can reach from below.

    Cost: 2 `draws` trainings of `stretch` times the recipe's epochs, as one where the network can be mapped. Bias: low by
    what longer training would fit.
    Source: Zhang et al. 2017, section 2; Bartlett & Mendelson 2002; Bartlett, Foster & Telgarsky 2017, figure 1 (margins).
    """

    META: ClassVar[Meta] = Meta(
        id="random_label_capacity",
        question=Question.MEMORY,
        title="Random labels",
        asks="How much of random labels does the recipe fit?",
        cost=CostClass.RETRAINING,
        needs=(Need.TRAIN, Need.LABELS, Need.SCORES, Need.PARAMETERS, Need.RETRAINING),
        unit="share of random labels beyond chance",
        source="Zhang et al. 2017, section 2",
    )
    draws: int = 3
    """Sets of random labels; as many networks are trained on the true ones."""
    stretch: int = 2
    """Times the recipe's epochs; 1 where the recipe has a schedule."""

    def __post_init__(self) -> None:
        require_count(self, "draws", 1, 1000)
        require_count(self, "stretch", 1, 1000)

    def measure(self, bench: Workbench) -> Reading:
        """Train on both kinds of labels in one call and compare."""
        runs = _train(bench, self.draws, self.stretch)
        fitted = fitted_random_labels(runs.accuracy[runs.random], runs.labels.shape[1], runs.classes)
        verdict = judge(fitted.lower)
        mean = float(runs.accuracy[runs.random].mean())
        true = float(runs.accuracy[~runs.random].mean())
        return Reading.of(
            self.META,
            value=fitted.value,
            uncertainty=Uncertainty(
                fitted.lower, 1.0, "labels", "McDiarmid, one-sided: training longer may fit more", fitted.confidence
            ),
            verdict=verdict,
            headline=(
                f"The recipe fits {mean:.1%} of random labels in {runs.course.shape[1]} epochs (chance is "
                f"{1 / runs.classes:.1%}), and {true:.1%} of the true ones."
            ),
            explanation=(
                f"{int(runs.random.sum())} networks were trained on uniformly random labels and {int((~runs.random).sum())} on the true ones, "
                "from the same seeds. A recipe that fits random labels can fit anything: no bound that holds for all networks "
                "it can reach explains why this one generalizes. What differs is how fast it fits, and with which margin. The "
                "value counts from chance: 0% is guessing, 100% is every random label."
            ),
            details=(_course(runs), _epochs(runs), *_margins(bench, runs)),
            notes=runs.notes,
        )  # fmt: skip


def judge(lower: float) -> Verdict:
    """No level is better; the clause says what the capacity rules out."""
    threshold = "capacity 1/2: from there a Rademacher bound for two classes is no better than guessing"
    source = "Zhang et al. 2017, section 2.2; Mohri, Rostamizadeh & Talwalkar 2018, theorem 3.5"
    if lower >= 0.5:
        return Verdict(
            Level.INFORMATIVE,
            "enough capacity to make bounds over all reachable networks vacuous",
            threshold,
            source,
        )
    return Verdict(
        Level.INFORMATIVE, "random labels are not mostly fitted within these epochs", threshold, source
    )


@dataclass(frozen=True)
class _Runs:
    """Trainings that stayed finite.

    Args:
        siblings: All networks, also those that diverged.
        kept: Which stayed finite, (K,).
        labels: That each was trained on, (K, N).
        random: Whether those were random, (K,) of bool.
        accuracy: On them at the end, (K,).
        course: On each epoch's presentations, before the updates, (K, E).
        test: Test accuracy (K,), or None.
        classes: C.
        notes: The effort.
    """

    siblings: Siblings
    kept: Tensor
    labels: Tensor
    random: Tensor
    accuracy: Tensor
    course: Tensor
    test: Tensor | None
    classes: int
    notes: tuple[str, ...]

    def of(self, kind: str) -> Tensor:
        """Which networks were trained on labels of a kind."""
        return self.random if kind == RANDOM else ~self.random


def _train(bench: Workbench, draws: int, stretch: int) -> _Runs:
    specimen, generator = bench.specimen, bench.generator(RandomLabelCapacity.META.id)
    labels = bench.labels("train").cpu()
    values = labels.unique()
    if labels.ndim != 1 or len(values) < 2:
        raise NotApplicableError("needs one label an example, of two or more classes")
    drawn = values[random_labels(len(labels), len(values), draws, generator)]
    given = torch.cat([labels.expand(draws, -1), drawn])
    seeds = torch.randint(2**31, (draws,), generator=generator).tolist()
    recipe = specimen.recipe
    if recipe is not None and recipe.schedule is not None:
        stretch = 1
    epochs = None if recipe is None or recipe.epochs is None else stretch * recipe.epochs
    siblings = train_many(specimen, 2 * seeds, labels=given, epochs=epochs, ledger=wrong(specimen.objective))
    run = siblings.run
    assert run is not None
    assert run.ledger is not None
    kept = run.finite.nonzero()[:, 0]
    random = kept >= draws
    if random.all() or not random.any():
        raise NotApplicableError("every training on true, or on random, labels diverged")
    given = given[kept]
    right = siblings.scores("train").argmax(2)[kept] == given
    notes = [
        f"{2 * draws} trainings of {run.ledger.shape[1]} epochs, {run.way}{f' ({run.reason})' if run.reason else ''}."
    ]
    notes += [f"{len(run.diverged)} of them diverged and are left out."] if run.diverged else []
    return _Runs(
        siblings,
        kept,
        given,
        random,
        right.double().mean(1),
        1 - run.ledger[kept].double().nanmean(2),
        1 - siblings.errors("test")[kept].mean(1) if specimen.has("test") else None,
        len(values),
        tuple(notes),
    )  # fmt: skip


def _course(runs: _Runs) -> Curve:
    epochs = thin(runs.course.shape[1])
    lines = []
    for kind in (TRUE, RANDOM):
        share = 100 * runs.course[runs.of(kind)][:, epochs]
        low, high = share.amin(0), share.amax(0)
        lines.append(
            Line(kind, tuple(e + 1 for e in epochs), numbers(share.mean(0)), numbers(low), numbers(high))
        )
    return Curve(
        "Fitting true and random labels",
        Axis("epoch"),
        Axis("training labels fitted", "%"),
        tuple(lines),
        caption="Accuracy on the labels that each network is trained on, at their presentation before the update; mean and range. True "
        "labels agree with the inputs' structure and are fitted first; random ones one by one.",
    )  # fmt: skip


def _epochs(runs: _Runs) -> Table:
    def mean(values: Tensor) -> float | None:
        return float(values.mean()) if bool(values.isfinite().all()) else None

    rows = []
    for kind in (TRUE, RANDOM):
        chosen = runs.of(kind)
        reached = [mean(epochs_to_fit(runs.course[chosen], level)) for level in LEVELS]
        test = float(runs.test[chosen].mean()) if runs.test is not None else None
        rows.append((kind, float(runs.accuracy[chosen].mean()), test, *reached))
    return Table(
        "Epochs until labels are fitted",
        ("labels", "training accuracy at the end", "test accuracy", *(f"epochs to {level:.0%}" for level in LEVELS)),
        tuple(rows),
        "Mean over networks; empty where one never got there. Test accuracy after random labels is chance.",
    )  # fmt: skip


def _margins(bench: Workbench, runs: _Runs) -> tuple[Detail, ...]:
    """Margins on the fitted labels, over spectral complexity where the network is a chain, else over the scores' spread."""
    scores = runs.siblings.scores("train")[runs.kept]
    values, unit = _normalised(bench, runs, scores)
    groups = {kind: values[runs.of(kind)].flatten() for kind in (TRUE, RANDOM)}
    if not all(bool(group.isfinite().all()) for group in groups.values()):
        return ()
    both = torch.cat(list(groups.values()))
    low, high = float(both.quantile(0.005)), float(both.quantile(0.995))
    edges = torch.linspace(low, high if high > low else low + 1, 41, dtype=torch.float64)
    bars = tuple(
        Bars(
            kind, numbers(100 * torch.histogram(group.clamp(low, float(edges[-1])), edges).hist / len(group))
        )
        for kind, group in groups.items()
    )
    return (
        Histogram(
            "Normalised margins of true and random labels",
            Axis(unit),
            numbers(edges),
            bars,
            caption="Training examples of all networks. Both kinds may be fitted fully; the margin, in the unit in which the network's "
            "size is taken out, tells them apart.",
            y=Axis("share of training examples", "%"),
        ),
    )  # fmt: skip


def _normalised(bench: Workbench, runs: _Runs, scores: Tensor) -> tuple[Tensor, str]:
    found = margins(scores, runs.labels)
    try:
        inputs = bench.inputs("train").double()
        states = [dict(runs.siblings.member(int(k)).state_dict()) for k in runs.kept]
        sizes = [
            spectral_complexity([one.layer for one in chain(bench.specimen, state)]).value for state in states
        ]
        rows = [
            normalised_margins(m, size, float(inputs.norm()), len(inputs))
            for m, size in zip(found, sizes, strict=True)
        ]
        return torch.stack(rows), "margin over spectral complexity and data norm"
    except (NotApplicableError, TorchstoneError):
        spread = scores.var(2, correction=0).mean(1).sqrt()
        return found / spread[:, None], "margin over the spread of the scores"


INSTRUMENT = RandomLabelCapacity
