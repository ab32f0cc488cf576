"""How many inputs have another decision close by, and did that grow during training?"""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from torchstone.bounds.proportion import Interval, clopper_pearson
from torchstone.details import Axis, Curve, Detail, Line, Marker, Scalar, Scalars, thin
from torchstone.errors import NotApplicableError, TorchstoneError
from torchstone.instruments.settings import require_between, require_count
from torchstone.landscape.checkpoints import read_state
from torchstone.reading import CostClass, Level, Meta, Need, Question, Reading, Remedy, Uncertainty, Verdict
from torchstone.robust import langevin_search
from torchstone.specimen import Specimen
from torchstone.workbench import Workbench
from torchstone.workbench.initial_state import at_initialisation
from torchstone.workbench.perturbed import Perturbed

SOURCE = "Arpit et al. 2017 (critical sample ratio, Langevin adversarial sample search)"


@dataclass(frozen=True)
class CriticalSamples:
    """Critical sample ratio: share of inputs with another decision in a box of radius r around them.

    The radius is in standard deviations of the inputs; perturbed inputs stay in the data's range. The decision is the
    network's own, right or wrong, so that no label enters. Where the recipe holds checkpoints, the ratio is followed
    along the training: networks that fit labels which the inputs do not explain draw finer decision surfaces, and the
    ratio climbs while they do.

    Cost: at most `steps` gradients over `examples` examples of each split and of each of `checkpoints` states. Bias: a
    search finds too few, never too many. Error bar: over the examples.
    Source: Arpit et al. 2017 (critical sample ratio).
    """

    META: ClassVar[Meta] = Meta(
        id="critical_samples",
        question=Question.MEMORY,
        title="Critical samples",
        asks="How many inputs have another decision close by?",
        cost=CostClass.MINUTES,
        needs=(Need.TRAIN, Need.SCORES, Need.FLOAT_INPUTS, Need.INDEPENDENT_EXAMPLES),
        unit="share of examples",
        source=SOURCE,
    )
    radius: float = 0.25
    """Of the box, in standard deviations of the inputs."""
    examples: int = 200
    steps: int = 12
    checkpoints: int = 6
    """At most so many states of the recipe's trajectory."""

    def __post_init__(self) -> None:
        require_between(self, "radius", 1e-9, 1e9)
        require_count(self, "examples", 1)
        require_count(self, "steps", 1, 10_000)
        require_count(self, "checkpoints", 0, 1000)

    def measure(self, bench: Workbench) -> Reading:
        """Search around held-out examples (training examples where there are none), then along the training."""
        ratios = {
            split: self._ratio(bench, split) for split in ("test", "train") if bench.specimen.has(split)
        }
        split, found = next(iter(ratios.items()))
        count = len(found)
        value, interval = float(found.double().mean()), _interval(found)
        course, notes = self._course(bench, split)
        verdict = judge(interval, lowest(course))
        where = "test" if split == "test" else "training"
        return Reading.of(
            self.META,
            value=value,
            uncertainty=Uncertainty(interval.low, interval.high, "examples", "Clopper-Pearson"),
            verdict=verdict,
            headline=(
                f"{value:.1%} of {where} inputs get another class by changes of at most {self.radius:g} standard "
                "deviations a coordinate."
            ),
            explanation=(
                f"A search of {self.steps} noisy sign-ascent steps around each of {count} {where} examples looks for an "
                "input with another decision; labels play no part. Compare networks on the same data at the same radius: "
                "those that memorise labels have more critical samples."
            ),
            remedies=_remedies(verdict),
            details=(_scalars(ratios), *_curve(course, where)),
            notes=(f"Searched around {count} {where} examples.", *notes),
        )

    def _ratio(
        self, bench: Workbench, split: str, examples: int | None = None, specimen: Specimen | None = None
    ) -> Tensor:
        """Which examples are critical, (N,) of bool."""
        rows = bench.sample(split, examples or self.examples, self.META.id)
        chosen = specimen or bench.specimen
        with chosen.measuring():
            around = Perturbed.of(bench, split, rows, chosen)
            if not bool(torch.isfinite(around.inputs).all()):
                raise NotApplicableError("needs inputs that are finite")
            result = langevin_search(
                around.logits,
                around.inputs,
                self.radius * around.scale,
                generator=bench.generator(f"{self.META.id} {split}"),
                bounds=around.bounds,
                steps=self.steps,
            )
        chosen.passes.backward += result.gradient_evaluations * len(rows)
        return result.success.cpu()

    def _course(self, bench: Workbench, split: str) -> tuple[list[tuple[float, Tensor]], tuple[str, ...]]:
        """Updates made and critical samples at each checkpoint, and what to note."""
        recipe = bench.specimen.recipe
        if recipe is None or len(recipe.trajectory) < 2 or not self.checkpoints:
            return [], ()
        steps = recipe.trajectory_steps or range(len(recipe.trajectory))
        found: list[tuple[float, Tensor]] = []
        for index in thin(len(recipe.trajectory), max(2, self.checkpoints)):
            there = copy.copy(bench.specimen)
            try:
                there.recipe = replace(recipe, initial_state=read_state(recipe.trajectory[index]))
                then, why = at_initialisation(there)
            except TorchstoneError as error:
                return [], (f"Not followed along the training: {error}",)
            if then is None:
                return [], (f"Not followed along the training: checkpoint {index} does not fit. {why[0]}",)
            half = max(1, self.examples // 2)
            found.append((float(steps[index]), self._ratio(bench, split, half, then)))
        note = (
            f"Along the training {len(found[0][1])} examples are searched around at {len(found)} checkpoints."
        )
        return found, (note,)


def _interval(critical: Tensor) -> Interval:
    return clopper_pearson(int(critical.sum()), len(critical))


def lowest(course: list[tuple[float, Tensor]]) -> Interval | None:
    """The interval at the checkpoint with the fewest critical samples after the first; None where there is none.

    Before training, decisions have no meaning: a network that says one class everywhere has no critical sample.
    """
    later = [critical for _, critical in course[1:]]
    return _interval(min(later, key=lambda critical: float(critical.double().mean()))) if later else None


def judge(now: Interval, least: Interval | None) -> Verdict:
    """Attention where the ratio has climbed during training beyond sampling error; no threshold for its size."""
    threshold = "no rise since the checkpoint with the fewest critical samples (95% intervals apart)"
    source = "Arpit et al. 2017: the ratio climbs where labels are memorised; its size depends on the radius"
    if least is None:
        return Verdict(Level.INFORMATIVE, "no checkpoints to compare with", threshold, source)
    if now.low > least.high:
        reason = f"the ratio has climbed from below {least.high:.1%} to above {now.low:.1%}"
        return Verdict(Level.ATTENTION, reason, threshold, source)
    return Verdict(Level.GOOD, "the ratio has not climbed during training", threshold, source)


def _scalars(ratios: dict[str, Tensor]) -> Scalars:
    items = []
    for split, critical in ratios.items():
        interval = _interval(critical)
        name = f"{'test' if split == 'test' else 'training'} examples"
        items.append(
            Scalar(name, float(critical.double().mean()), "share critical", interval.low, interval.high)
        )
    return Scalars("Critical samples", tuple(items), caption="With 95% intervals over the examples.")


def _curve(course: list[tuple[float, Tensor]], where: str) -> tuple[Detail, ...]:
    if not course:
        return ()
    intervals = [_interval(critical) for _, critical in course]
    line = Line(
        f"{where} examples",
        tuple(step for step, _ in course),
        tuple(float(critical.double().mean()) for _, critical in course),
        tuple(interval.low for interval in intervals),
        tuple(interval.high for interval in intervals),
    )
    least = min(line.y[1:])
    return (
        Curve(
            "Critical samples along the training",
            Axis("updates"),
            Axis("critical samples", "share of examples"),
            (line,),
            (Marker("fewest after the start", least),),
            caption="Bands are 95% intervals over the examples. A climb late in training says that the decision surface "
            "grows finer than the data ask for: look for wrong labels, or stop earlier.",
        ),
    )


def _remedies(verdict: Verdict) -> tuple[Remedy, ...]:
    if verdict.level is not Level.ATTENTION:
        return ()
    return (
        Remedy(
            "Look for wrong labels: fitting them needs a finer decision surface.",
            "torchstone.instruments.memory.suspect_labels",
            "random_labels_need_finer_decisions",
        ),
        Remedy(
            "Stop earlier or regularise (dropout, weight decay), and compare this ratio and the test error."
        ),
    )


INSTRUMENT = CriticalSamples
