"""How does the network take noise, lost features, low contrast and blur?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from torchstone import batches, robust
from torchstone.bounds.proportion import clopper_pearson
from torchstone.details import Axis, Curve, Line, Table, numbers
from torchstone.errors import NotApplicableError
from torchstone.instruments.settings import require_count
from torchstone.reading import CostClass, Level, Meta, Need, Question, Reading, Remedy, Uncertainty, Verdict
from torchstone.workbench import Workbench


@dataclass(frozen=True)
class NoiseCurve:
    """Accuracy (or loss, where there are no classes) under corruptions of rising severity.

    Kinds: Gaussian, uniform and impulse noise, lost features, low contrast, and blur for images; strengths in units of
    the data's own spread (see `torchstone.robust.corruptions`). One kind uses the same random numbers at every severity.
    The value is the mean accuracy over kinds at severity 1, the mildest.

    Cost: one forward pass over `examples` examples for each of up to 6 kinds x 5 severities. Bias: none; the error bar
    covers examples, with the noise drawn once.
    Source: Hendrycks & Dietterich 2019, adapted to inputs of any scale.
    """

    META: ClassVar[Meta] = Meta(
        id="noise_curve",
        question=Question.ROBUSTNESS,
        title="Noise curve",
        asks="How does it take noise and corruptions?",
        cost=CostClass.SECONDS,
        needs=(Need.TRAIN, Need.FLOAT_INPUTS),
        unit="accuracy at severity 1",
        source="Hendrycks & Dietterich 2019",
    )
    examples: int = 512

    def __post_init__(self) -> None:
        require_count(self, "examples", 2)

    def measure(self, bench: Workbench) -> Reading:
        """Corrupt a sample of held-out examples in every way that applies."""
        classes = not bench.lacks(Need.LABELS) and not bench.lacks(Need.SCORES)
        rows = _corrupted_rows(bench, self.examples, self.META.id, classes)
        if not rows.by_kind:
            raise NotApplicableError("no corruption applies to inputs of this shape")
        if len(rows.clean) < 2:
            raise NotApplicableError(f"needs at least two {rows.split} examples")
        mild = torch.stack([kind[1] for kind in rows.by_kind.values()]).mean(0)
        clean, value = float(rows.clean.mean()), float(mild.mean())
        error = float(mild.std() / len(mild) ** 0.5)
        verdict = judge(value, clean, classes)
        unit = "accuracy" if classes else "loss"
        show = (lambda number: f"{number:.1%}") if classes else (lambda number: f"{number:.3g}")
        return Reading.of(
            self.META,
            value=value,
            uncertainty=Uncertainty.from_standard_error(value, error, covers="examples"),
            verdict=verdict,
            headline=(
                f"The mildest corruptions take the {unit} from {show(clean)} to {show(value)} on average; worst is "
                f"{_worst(rows, classes)}."
            ),
            explanation=(
                f"{len(mild)} {rows.split} examples under {len(rows.by_kind)} kinds of corruption at severities 1 to 5, "
                "strengths in units of the data's spread. The value averages the kinds at severity 1; for tasks without "
                "classes it is the loss."
            ),
            remedies=_remedies(verdict),
            details=(_curve(rows, unit, classes), _table(rows, unit)),
            notes=(f"{len(mild)} {rows.split} examples.",),
        )


@dataclass(frozen=True)
class _Rows:
    """Per-example results: right or wrong, or the loss."""

    split: str
    clean: Tensor
    by_kind: dict[str, dict[int, Tensor]]


def judge(value: float, clean: float, classes: bool) -> Verdict:
    """Judge the mildest severity: attention where a tenth of the right answers is lost (the loss grows by half)."""
    source = "Hendrycks & Dietterich 2019 for severities; the shares are a convention of this report"
    if not classes:
        threshold = "loss at severity 1 at most 1.5 times the clean loss (poor: 3 times)"
        ratio = value / clean if clean > 0 else 1.0
        level = Level.POOR if ratio > 3 else Level.ATTENTION if ratio > 1.5 else Level.GOOD
        return Verdict(level, f"the loss becomes {ratio:.2g} times as large", threshold, source)
    threshold = "accuracy at severity 1 at least 90% of the clean one (poor: 70%)"
    share = value / clean if clean > 0 else 1.0
    level = Level.POOR if share < 0.7 else Level.ATTENTION if share < 0.9 else Level.GOOD
    return Verdict(level, f"{max(0.0, 1 - share):.0%} of the right answers are lost", threshold, source)


@torch.no_grad()
def _corrupted_rows(bench: Workbench, most: int, name: str, classes: bool) -> _Rows:
    specimen = bench.specimen
    split = "test" if specimen.has("test") else "train"
    chosen = bench.sample(split, most, name)
    parts = [
        batches.move(batch, specimen.device, specimen.dtype) for batch in specimen.split(split).take(chosen)
    ]
    inputs = [found for part in parts if (found := specimen.objective.inputs(part)) is not None]
    if len({one.shape[1:] for one in inputs}) != 1:
        raise NotApplicableError("examples differ in shape")
    together = torch.cat(inputs)
    scale = robust.InputScale.of(together)
    clip = (float(together.min()), float(together.max()))

    def evaluate(x: Tensor) -> Tensor:
        results, start = [], 0
        for part, old in zip(parts, inputs, strict=True):
            batch = specimen.objective.with_inputs(part, x[start : start + len(old)])
            start += len(old)
            outputs = specimen.forward(batch)
            results.append(_result(bench, outputs, batch, classes))
        return torch.cat(results)

    by_kind: dict[str, dict[int, Tensor]] = {}
    for corruption in robust.CORRUPTIONS:
        if clip[0] < clip[1] and corruption.applies_to(together):
            by_kind[corruption.name] = {
                severity: evaluate(
                    robust.corrupted(
                        corruption,
                        together,
                        severity,
                        scale,
                        bench.generator(f"{name} {corruption.name}"),
                        clip,
                    )
                )
                for severity in robust.SEVERITIES[1:]
            }
    return _Rows(split, evaluate(together), by_kind)


def _result(bench: Workbench, outputs: Tensor, batch: batches.Batch, classes: bool) -> Tensor:
    objective = bench.specimen.objective
    scores, labels = objective.scores(outputs), objective.labels(batch)
    if classes and scores is not None and labels is not None:
        return (scores.argmax(1) == labels).double().cpu()
    return bench.specimen.losses(outputs, batch).double().cpu()


def _worst(rows: _Rows, classes: bool) -> str:
    means = {name: float(kind[1].mean()) for name, kind in rows.by_kind.items()}
    name = (min if classes else max)(means, key=lambda key: means[key])
    return name.lower() if name.split()[0] != "Gaussian" else name


def _curve(rows: _Rows, unit: str, classes: bool) -> Curve:
    severities = numbers(robust.SEVERITIES)
    lines = []
    for name, kind in rows.by_kind.items():
        series = [rows.clean, *(kind[severity] for severity in robust.SEVERITIES[1:])]
        lines.append(Line(name, severities, numbers(values.mean() for values in series)))
    if classes:
        ends = [clopper_pearson(int(rows.clean.sum()), len(rows.clean))] * len(severities)
        level = float(rows.clean.mean())
        lines.append(
            Line(
                "clean",
                severities,
                (level,) * len(severities),
                numbers(end.low for end in ends),
                numbers(end.high for end in ends),
            )
        )
    return Curve(
        f"{unit.capitalize()} under corruption",
        Axis("severity (0 is clean)"),
        Axis(unit),
        tuple(lines),
        caption="The band is the clean accuracy's 95% interval: lines inside it have lost nothing beyond chance."
        if classes
        else "Higher is worse.",
    )


def _table(rows: _Rows, unit: str) -> Table:
    body = tuple(
        (name, *(float(kind[severity].mean()) for severity in robust.SEVERITIES[1:]))
        for name, kind in rows.by_kind.items()
    )
    columns = ("corruption", *(f"severity {severity}" for severity in robust.SEVERITIES[1:]))
    return Table(f"Mean {unit}", columns, body)


def _remedies(verdict: Verdict) -> tuple[Remedy, ...]:
    if verdict.level is Level.GOOD:
        return ()
    return (
        Remedy(
            "Augment the training data with the corruption that hurts most.", "torchstone.robust.corrupted"
        ),
        Remedy("Normalise inputs by statistics of the deployment data where contrast is what hurts."),
    )


INSTRUMENT = NoiseCurve
