"""Do two trainings end in one valley?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from torchstone.details import Axis, Curve, Line, Scalar, Scalars, Table, numbers
from torchstone.errors import NotApplicableError, NumericalError
from torchstone.instruments.settings import require_between, require_count
from torchstone.landscape import (
    BendTraining,
    Bezier,
    Largest,
    Point,
    Profile,
    Segment,
    align,
    batch_norms,
    every_parameter,
    from_state,
    here,
    hidden_units,
    inclusive,
    on_rows,
    statistics_at,
    train_bend,
    values_at,
)
from torchstone.operators import ParameterSpace
from torchstone.reading import CostClass, Level, Meta, Need, Question, Reading, Remedy, Uncertainty, Verdict
from torchstone.specimen import Specimen
from torchstone.workbench import Workbench
from torchstone.workbench.retraining import train_again

LINE, ALIGNED, CURVE = "straight line", "line after alignment", "trained curve"


@dataclass(frozen=True)
class ModeConnectivity:
    """The height of the loss between this network and one trained again from another seed.

    On the straight line, on the line to the second network with its hidden units reordered to match, and on a quadratic
    Bezier curve whose bend is trained. A barrier is the largest height above the chord of the two ends' losses. The value
    is the training loss's barrier on the lower one of line and curve.

    Cost: one training, `epochs` more for the curve, and 3 `points` forward passes over training and test data. Error:
    over the examples; not over further seeds.
    Source: Garipov et al. 2018; Draxler et al. 2018; Ainsworth, Hayase & Srinivasa 2023 (alignment).
    """

    META: ClassVar[Meta] = Meta(
        id="mode_connectivity",
        question=Question.TRAINABILITY,
        title="Mode connectivity",
        asks="Do two trainings end in one valley?",
        cost=CostClass.RETRAINING,
        needs=(Need.TRAIN, Need.PARAMETERS, Need.RETRAINING),
        unit="loss",
        source="Garipov et al. 2018; Draxler et al. 2018; Ainsworth, Hayase & Srinivasa 2023, section 3.2",
    )
    points: int = 21
    examples: int = 5000
    """At most so many of each split for the barriers."""
    epochs: float = 20.0
    """Passes over the training data for the curve."""
    batch_size: int = 64
    lr: float = 3e-3
    """Adam's learning rate for the bend."""
    share: float = 0.1
    """Height of the curve that is tolerated, as a share of the straight line's barrier."""

    def __post_init__(self) -> None:
        require_count(self, "points", 5, 401)
        require_count(self, "examples", 2)
        require_between(self, "epochs", 0.01, 1e5)
        require_count(self, "batch_size", 1)
        require_between(self, "lr", 1e-9, 10.0)
        require_between(self, "share", 0.0, 1.0)

    def measure(self, bench: Workbench) -> Reading:
        """Train the second network and the curve, and walk all paths."""
        specimen, generator = bench.specimen, bench.generator(self.META.id)
        space = every_parameter(specimen)
        try:
            other, _ = train_again(specimen, self._seed(bench))
        except NumericalError as error:
            raise NotApplicableError(f"the second training diverged: {error}") from None
        own = here(specimen, space)
        its = from_state(specimen, space, {**dict(other.named_parameters()), **dict(other.named_buffers())})
        paths: dict[str, Any] = {LINE: Segment(own, its)}
        notes = [f"The second network was trained with seed {self._seed(bench)}."]
        target, why = self._aligned(specimen, space, own, its, bench)
        if why:
            notes.append(f"No alignment: {why}")
        else:
            paths[ALIGNED] = Segment(own, target)
        count = specimen.size("train")
        batch = min(self.batch_size, count)
        steps = max(1, round(self.epochs * count / batch))
        try:
            paths[CURVE], _ = train_bend(
                specimen, space, Bezier.straight(own, its), BendTraining(steps, batch, self.lr), generator
            )
        except NumericalError as error:
            notes.append(f"No curve: {error}")
        profiles, rates = self._walk(bench, space, paths)
        if batch_norms(specimen.model):
            notes.append("Statistics of batch normalisation are made anew at every point, also at the ends.")
        return self._reading(profiles, rates, tuple(notes))

    def _seed(self, bench: Workbench) -> int:
        """Another one than the network's."""
        recipe = bench.specimen.recipe
        return bench.seed + 1 + (recipe is not None and recipe.seed == bench.seed + 1)

    def _aligned(
        self, specimen: Specimen, space: ParameterSpace, own: Point, its: Point, bench: Workbench
    ) -> tuple[Point, str]:
        try:
            units = hidden_units(specimen, space)
        except NotApplicableError as answer:
            return its, f"{answer.reason}."
        return align(own, its, space, units, bench.generator(f"{self.META.id} alignment")).point, ""

    def _walk(
        self, bench: Workbench, space: ParameterSpace, paths: dict[str, Any]
    ) -> tuple[dict[tuple[str, str], Profile], dict[tuple[str, str], Tensor]]:
        """Losses and error rates by path and split."""
        splits = [split for split in ("train", "test") if bench.specimen.has(split)]
        part = on_rows(bench.specimen, {s: bench.sample(s, self.examples, self.META.id) for s in splits})
        places = inclusive(0.0, 1.0, self.points, also=(0.0, 1.0))
        profiles, rates = {}, {}
        for name, path in paths.items():
            statistics = statistics_at(part, space, path, places) if batch_norms(part.model) else None
            for split in splits:
                found = values_at(part, space, path, places, split, statistics=statistics)
                profiles[name, split] = Profile(tuple(places), found.losses)
                if (rate := found.error_rates) is not None:
                    rates[name, split] = rate
        return profiles, rates

    def _reading(
        self,
        profiles: dict[tuple[str, str], Profile],
        rates: dict[tuple[str, str], Tensor],
        notes: tuple[str, ...],
    ) -> Reading:
        barriers = {name: profile.barrier for (name, split), profile in profiles.items() if split == "train"}
        line, curve = barriers[LINE], barriers.get(CURVE)
        verdict = judge(line, curve, self.share)
        lowest = line if curve is None or line.value <= curve.value else curve
        told = [f"{barriers[name].value:.3g} {words}" for name, words in _WORDS.items() if name in barriers]
        return Reading.of(
            self.META,
            value=lowest.value,
            uncertainty=Uncertainty(
                lowest.low, lowest.high, "examples", "simultaneous Student intervals (Bonferroni)"
            ),
            verdict=verdict,
            headline=f"Between two trainings the training loss rises by {', '.join(told)}.",
            explanation=(
                "A second network was trained from another seed. Weights can only be averaged where the straight line is "
                "low; solutions that a low curve joins lie in one connected valley, and networks taken along it make a "
                "cheap ensemble. The number is the height of the lower one of line and curve."
            ),
            remedies=_remedies(line),
            details=(_curve(profiles), *_errors(profiles, rates), _table(profiles), _scalars(barriers)),
            notes=notes,
        )


_WORDS = {
    LINE: "on the straight line",
    ALIGNED: "after the hidden units are matched",
    CURVE: "on a trained curve",
}


def judge(line: Largest, curve: Largest | None, share: float) -> Verdict:
    """Good where the line or a curve is low; attention where a barrier stays beyond sampling error."""
    threshold = f"a path no higher than {share:.0%} of the straight line's barrier, beyond sampling error"
    source = "Garipov et al. 2018 and Draxler et al. 2018 (low paths exist for wide networks); the share is a convention"
    if line.low <= 0:
        return Verdict(Level.GOOD, "no barrier on the straight line beyond sampling error", threshold, source)
    if curve is None:
        return Verdict(Level.ATTENTION, "no curve could be trained", threshold, source)
    if curve.low <= 0 or curve.value <= share * line.value:
        return Verdict(
            Level.GOOD,
            f"the curve keeps {curve.value / line.value:.1%} of the line's barrier",
            threshold,
            source,
        )
    return Verdict(
        Level.ATTENTION,
        f"the curve keeps {curve.value / line.value:.0%} of the line's barrier",
        threshold,
        source,
    )


def _curve(profiles: dict[tuple[str, str], Profile]) -> Curve:
    positive = all(bool((profile.risks > 0).all()) for profile in profiles.values())
    return Curve(
        "Loss between two trainings",
        Axis("place on the path"),
        Axis("mean loss", log=positive),
        tuple(
            Line(f"{name}, {split}", profile.places, numbers(profile.risks))
            for (name, split), profile in profiles.items()
        ),
        caption="Place 0 is this network, 1 the second one. A hump is a barrier. Reordering hidden units changes nothing about "
        "the second network but its place.",
    )


def _errors(
    profiles: dict[tuple[str, str], Profile], rates: dict[tuple[str, str], Tensor]
) -> tuple[Curve, ...]:
    if not rates:
        return ()
    lines = tuple(
        Line(f"{name}, {split}", profiles[name, split].places, numbers(100 * rate))
        for (name, split), rate in rates.items()
    )
    return (
        Curve(
            "Errors between two trainings",
            Axis("place on the path"),
            Axis("misclassified examples", "%"),
            lines,
            caption="Where a path's test errors dip below both ends, averaging or ensembling along it pays.",
        ),
    )


def _table(profiles: dict[tuple[str, str], Profile]) -> Table:
    rows = [
        (name, split, b.value, b.low, b.high, profile.barrier_place)
        for (name, split), profile in profiles.items()
        if (b := profile.barrier)
    ]
    return Table(
        "Barriers",
        ("path", "data", "barrier", "95% from", "95% to", "at"),
        tuple(rows),
        caption="Heights above the chord between the ends' losses. The intervals are over the examples.",
    )


def _scalars(barriers: dict[str, Largest]) -> Scalars:
    items = tuple(Scalar(f"barrier, {name}", b.value, "loss", b.low, b.high) for name, b in barriers.items())
    return Scalars("Barriers of the training loss", items)


def _remedies(line: Largest) -> tuple[Remedy, ...]:
    if line.low <= 0:
        return (
            Remedy(
                "Average the two networks' weights: no barrier is in the way.",
                "torch.optim.swa_utils.AveragedModel",
            ),
        )
    return (
        Remedy("Do not average the weights of separate trainings; average their predictions."),
        Remedy("Match hidden units before merging networks.", "torchstone.landscape.align"),
    )


INSTRUMENT = ModeConnectivity
