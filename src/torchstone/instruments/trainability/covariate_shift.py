"""Does a step of the earlier layers change what the later layers should do?"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from torchstone.details import Axis, Curve, Detail, Line, Marker, Table, numbers
from torchstone.errors import NotApplicableError
from torchstone.instruments.settings import require_count
from torchstone.reading import CostClass, Level, Meta, Need, Question, Reading, Remedy, Verdict
from torchstone.workbench import Workbench
from torchstone.workbench.gradient_shift import GradientShift, gradient_shifts, stepping
from torchstone.workbench.input_moments import Moments, input_moments


@dataclass(frozen=True)
class CovariateShift:
    r"""Relative change of the later layers' gradients by one gradient step of the layers before them.

    With G_i the gradient of the mean training loss in the weights of layer i and G'_i the same after layers 1, ..., i - 1
    have stepped by -lr G_j, the value is sqrt(sum |G_i - G'_i|^2 / sum |G_i|^2) over the layers after the first. Beside it the
    cosine of G and G' and, for dense, convolution and recurrent layers, how far the moments of their inputs drift when all
    layers step: root mean square over features of the mean's change over the deviation, and of the relative change of the
    deviation.

    Cost: one forward and backward pass for each of at most `layers` layers, and one more; four forward passes for moments.
    Bias: none; it is a property of these examples. The step is plain gradient descent on all of them at the recipe's rate.
    Source: Santurkar, Tsipras, Ilyas & Madry 2018, definition 2.1; Ioffe & Szegedy 2015, section 2.
    """

    META: ClassVar[Meta] = Meta(
        id="covariate_shift",
        question=Question.TRAINABILITY,
        title="Internal covariate shift",
        asks="Does a step of the earlier layers change what the later ones should do?",
        cost=CostClass.MINUTES,
        needs=(Need.TRAIN, Need.PARAMETERS, Need.LEARNING_RATE),
        unit="relative change of the gradient",
        source="Santurkar, Tsipras, Ilyas & Madry 2018, definition 2.1",
    )
    layers: int = 6
    """Measure at most this many layers after the first, evenly chosen."""
    features: int = 64
    """Moments of at most this many input features of a layer."""

    def __post_init__(self) -> None:
        require_count(self, "layers", 2, 1000)
        require_count(self, "features", 1, 10_000)

    def measure(self, bench: Workbench) -> Reading:
        """Step layer by layer on the training set, then all at once."""
        recipe = bench.specimen.recipe
        assert recipe is not None  # Need.LEARNING_RATE
        lr = recipe.learning_rates[0]
        if not lr > 0:
            raise NotApplicableError("the recipe's learning rate is 0 by now: pass Recipe(lr=...)")
        later = gradient_shifts(bench.specimen, lr, layers=self.layers)[1:]
        if not later:
            raise NotApplicableError("needs at least two layers with trainable weights that gradients reach")
        size = math.hypot(*(one.size for one in later))
        change = math.hypot(*(one.change for one in later)) / size
        inner, after = sum(one.inner for one in later), math.hypot(*(one.after for one in later))
        cosine = inner / (size * after) if after > 0 else 0.0
        verdict = judge(change, cosine)
        return Reading.of(
            self.META,
            value=change if math.isfinite(change) else math.inf,
            verdict=verdict,
            headline=_headline(change, cosine, lr),
            explanation=(
                "Each layer's gradient before and after the layers in front of it have made one gradient step on the whole "
                "training set. The value is the size of the difference over the size of the gradient, all layers after "
                "the first together; the cosine says whether the step that a layer was about to make still descends."
            ),
            remedies=_remedies(verdict),
            details=(_curve(later), *self._drift(bench, lr)),
            notes=_notes(bench, lr),
        )

    def _drift(self, bench: Workbench, lr: float) -> tuple[Detail, ...]:
        """Moments of the layers' inputs before and after all layers have stepped."""
        moments = lambda: input_moments(
            bench.specimen,
            layers=self.layers + 1,
            columns=self.features,
            generator=bench.generator(self.META.id),
        )
        before = moments()
        with stepping(bench.specimen, lr):
            after = moments()
        rows = [(name, *drift(before[name], after[name])) for name in before if name in after]
        if not rows:
            return ()
        return (
            Table(
                "Drift of the layers' inputs in one step of all layers",
                ("layer", "change of the mean over the deviation", "relative change of the deviation"),
                tuple(rows),
                caption="Root mean square over input features. The first layer sees the data, which do not move.",
            ),
        )


def drift(before: Moments, after: Moments) -> tuple[float, float]:
    """Root mean square over features of |mean' - mean| / deviation and of |deviation' / deviation - 1|.

    Features without any spread before the step are left out; 0 where none is left.
    """
    deviation, moved = (one.covariance.diagonal().clamp(min=0).sqrt() for one in (before, after))
    spread = deviation > 1e-6 * (before.mean.abs() + deviation.max())
    if not bool(spread.any()):
        return 0.0, 0.0
    square: Tensor = ((after.mean - before.mean) / deviation)[spread].square().mean()
    return float(square.sqrt()), float((moved / deviation - 1)[spread].square().mean().sqrt())


def judge(change: float, cosine: float) -> Verdict:
    """Attention where the gradient has turned by more than a right angle, poor where it is not finite any more."""
    threshold = "cosine of the gradients before and after above 0"
    source = "first-order expansion: after the earlier layers' step, a later layer's step changes the loss by -lr <G, G'>"
    if not (math.isfinite(change) and math.isfinite(cosine)):
        return Verdict(Level.POOR, "the step makes gradients overflow", threshold, source, 0.9)
    if cosine < 0:
        reason = "all later layers together step uphill once the earlier ones have moved"
        return Verdict(Level.ATTENTION, reason, threshold, source)
    return Verdict(Level.GOOD, "all later layers together still step downhill", threshold, source)


def _headline(change: float, cosine: float, lr: float) -> str:
    if not math.isfinite(change):
        return (
            f"A gradient step of the earlier layers at learning rate {lr:.3g} makes later gradients overflow."
        )
    return (
        f"A gradient step of the earlier layers at learning rate {lr:.3g} changes the gradient of the later ones by "
        f"{change:.3g} of its size (cosine {cosine:.2f})."
    )


def _curve(later: list[GradientShift]) -> Curve:
    """Relative change and cosine of each layer."""
    known = [one for one in later if one.size > 0 and math.isfinite(one.change)]
    at = numbers(range(1, len(known) + 1))
    cosines = torch.tensor([one.cosine for one in known]).nan_to_num(0.0)
    return Curve(
        "Change of each layer's gradient when the layers before it step",
        Axis("layer, input to output"),
        Axis("relative change; cosine"),
        (
            Line("|G - G'| / |G|", at, numbers(one.change / one.size for one in known)),
            Line("cosine of G and G'", at, numbers(cosines)),
        ),
        (Marker("right angle", 0.0),),
        ticks=tuple(one.layer for one in known),
        caption="At 0 the layers before it do not matter for a layer's step. A cosine below 0 means that its step goes uphill.",
    )


def _remedies(verdict: Verdict) -> tuple[Remedy, ...]:
    if verdict.level in (Level.GOOD, Level.INFORMATIVE):
        return ()
    return (
        Remedy("Lower the learning rate: the change is proportional to it while it is small."),
        Remedy(
            "Warm the learning rate up: gradients change fastest early in training.",
            "torch.optim.lr_scheduler.LinearLR",
        ),
    )


def _notes(bench: Workbench, lr: float) -> tuple[str, ...]:
    recipe = bench.specimen.recipe
    name = recipe.optimizer_name if recipe is not None else ""
    notes = [f"Steps are plain gradient descent at learning rate {lr:.3g}."]
    if name and name != "SGD":
        notes.append(f"{name} makes steps of another size, which this does not follow.")
    if not bench.specimen.coupled and any(
        "BatchNorm" in type(module).__name__ for module in bench.specimen.model.modules()
    ):
        notes.append(
            "Batch normalisation is measured with its running statistics; Specimen(mode='as_is') with the "
            "model in train mode measures with those of batches."
        )
    return tuple(notes)


INSTRUMENT = CovariateShift
