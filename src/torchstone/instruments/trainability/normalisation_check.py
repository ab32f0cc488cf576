"""Do the running statistics of batch normalisation fit what the layers are given, and are batches large enough?"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from torchstone.details import Axis, Curve, Line, Marker, Scalar, Scalars, Table, numbers, thin
from torchstone.errors import NotApplicableError
from torchstone.reading import CostClass, Level, Meta, Need, Question, Reading, Remedy, Verdict
from torchstone.workbench import Workbench
from torchstone.workbench.batch_norm_inputs import ModeGap, NormInputs, batch_norm_inputs

SHIFT_ATTENTION, SHIFT_POOR = 0.25, 1.0
"""Root mean square distance of running from actual means, in deviations."""
SCALE_ATTENTION, SCALE_POOR = 1.5, 3.0
"""Factor between running and actual deviations."""
NOISE_ATTENTION = 0.25
"""Deviation of a batch's mean in deviations of its inputs: that of 16 independent numbers."""


@dataclass(frozen=True)
class NormalisationCheck:
    r"""Running against actual statistics of batch normalisation, and the noise of batch statistics.

    For each layer, over its channels, with the mean mu and variance sigma^2 of its inputs in evaluation:

        shift = rms (mu_running - mu) / sqrt(sigma^2 + eps),
        scale = exp rms log sqrt((sigma_running^2 + eps) / (sigma^2 + eps)),
        noise = rms sqrt(Var(an example's mean) / B) / sqrt(sigma^2 + eps) at the recipe's batch size B.

    For dense layers noise is 1/sqrt(B); positions of one map are not independent, so it lies between that and 1/sqrt(B positions)
    for convolutions.

    Cost: two forward passes over the training examples. Bias: none for these examples.
    Source: Ioffe & Szegedy 2015, section 3.1; Ioffe 2017, section 2 (noise); Wu & He 2018, figure 1 (batch sizes).
    """

    META: ClassVar[Meta] = Meta(
        id="normalisation_check",
        question=Question.TRAINABILITY,
        title="Batch normalisation",
        asks="Do running statistics fit, and are batches large enough?",
        cost=CostClass.SECONDS,
        needs=(Need.TRAIN,),
        unit="standard deviations",
        source="Ioffe & Szegedy 2015, section 3.1; Ioffe 2017, section 2; Wu & He 2018, figure 1",
    )

    def measure(self, bench: Workbench) -> Reading:
        """Compare the statistics of every layer's inputs on the training examples with the running ones."""
        inputs, gap = batch_norm_inputs(bench.specimen)
        if not inputs:
            raise NotApplicableError("needs batch-normalisation layers with running statistics")
        recipe = bench.specimen.recipe
        size = recipe.batch_size if recipe is not None else None
        layers = {name: Layer.of(one, size) for name, one in inputs.items()}
        worst = max(layers, key=lambda name: _order(layers[name].shift))
        shift = layers[worst].shift
        scale = max((one.scale for one in layers.values()), key=_order)
        noise = max((one.noise for one in layers.values()), key=_order) if size else math.nan
        verdict = judge(shift, scale, noise)
        notes = () if size else ("Noise of batches is not judged: the recipe does not say the batch size.",)
        return Reading.of(
            self.META,
            value=shift,
            verdict=verdict,
            headline=_headline(worst, shift, scale, noise, size),
            explanation=(
                "The mean and deviation of what enters each layer in evaluation, over all training examples, against its running "
                "statistics; by channel, root mean square over channels. The noise is that of a batch's mean in training."
            ),
            remedies=_remedies(verdict, shift, scale, noise),
            details=(*_curve(layers), *_gap(gap), _table(layers)),
            notes=notes,
        )


@dataclass(frozen=True)
class Layer:
    """One layer's channels in three numbers, and how many hardly vary.

    Args:
        channels: How many.
        shift: Running from actual means, in deviations.
        scale: Factor between running and actual deviations, at least 1.
        noise: Deviation of a batch's mean, in deviations; NaN where the batch size is unknown.
        still: Channels whose variance is below eps, which are not brought to variance one.
    """

    channels: int
    shift: float
    scale: float
    noise: float
    still: int

    @classmethod
    def of(cls, inputs: NormInputs, size: int | None) -> Layer:
        """Out of the statistics of a layer's inputs."""
        squared = inputs.variance + inputs.eps
        logs = ((inputs.running_variance + inputs.eps) / squared).log() / 2
        return cls(
            channels=len(squared),
            shift=_rms((inputs.running_mean - inputs.mean) / squared.sqrt()),
            scale=math.exp(min(_rms(logs), 700.0)),
            noise=_rms((inputs.spread / size / squared).sqrt()) if size else math.nan,
            still=int((inputs.variance < inputs.eps).sum()),
        )


def _rms(values: Tensor) -> float:
    return float(values.square().mean().sqrt())


def _order(value: float) -> float:
    """For finding the worst: what is not a number is."""
    return math.inf if math.isnan(value) else value


def judge(shift: float, scale: float, noise: float) -> Verdict:
    """Judge the worst layer's shift and scale, and the noise of batch means.

    Args:
        shift: In deviations; NaN counts as poor.
        scale: A factor of at least 1; NaN counts as poor.
        noise: In deviations; NaN where unknown.
    """
    threshold = (
        f"running means within {SHIFT_ATTENTION:g} deviations and deviations within a factor {SCALE_ATTENTION:g} (poor: "
        f"{SHIFT_POOR:g} and {SCALE_POOR:g}); noise of batch means below {NOISE_ATTENTION:g} deviations"
    )
    source = (
        "noise: Wu & He 2018, figure 1 (errors rise below 16 examples a batch); the others are a convention"
    )
    words = f"running means are off by {shift:.3g} standard deviations, running deviations by a factor of {scale:.3g}"
    if not (shift < SHIFT_POOR and scale < SCALE_POOR):
        return Verdict(Level.POOR, words, threshold, source)
    if shift >= SHIFT_ATTENTION or scale >= SCALE_ATTENTION:
        return Verdict(Level.ATTENTION, words, threshold, source)
    if noise >= NOISE_ATTENTION:
        return Verdict(
            Level.ATTENTION, f"batch means have a noise of {noise:.3g} standard deviations", threshold, source
        )
    return Verdict(Level.GOOD, "running statistics fit", threshold, source)


def _headline(worst: str, shift: float, scale: float, noise: float, size: int | None) -> str:
    sentence = (
        f"In {f'layer {worst}' if worst else 'the model'} running means lie {shift:.3g} standard deviations from the training "
        f"data's; running deviations are off by up to a factor of {scale:.3g}"
    )
    said = f", and means of batches of {size} have a noise of up to {noise:.3g} standard deviations"
    return sentence + (f"{said}." if size else ".")


def _curve(layers: dict[str, Layer]) -> tuple[Curve, ...]:
    if len(layers) < 2:
        return ()
    names = [list(layers)[i] for i in thin(len(layers), 500)]
    position = numbers(range(1, len(names) + 1))
    lines = [Line("running mean off by", position, numbers(layers[name].shift for name in names))]
    if not any(math.isnan(layers[name].noise) for name in names):
        lines.append(Line("noise of a batch's mean", position, numbers(layers[name].noise for name in names)))
    return (
        Curve(
            "Statistics by layer",
            Axis("layer, input to output"),
            Axis("root mean square over channels", "deviations"),
            tuple(lines),
            (Marker("attention", SHIFT_ATTENTION),),
            tuple(names) if len(names) <= 40 else (),
            caption="Above the line evaluation is not the network that was trained, or batches are too small to tell the mean.",
        ),
    )


def _gap(gap: ModeGap | None) -> tuple[Scalars, ...]:
    if gap is None:
        return ()
    items = (
        Scalar("loss, running statistics", gap.running, "loss"),
        Scalar("loss, batch statistics", gap.batch, "loss"),
        Scalar("difference of outputs", gap.outputs, "of their standard deviation"),
    )
    caption = "The same weights and batches, normalised as in evaluation and as in training. A large difference: two networks."
    return (Scalars("Training mode against evaluation", items, caption=caption),)


def _table(layers: dict[str, Layer]) -> Table:
    shown = [list(layers)[i] for i in thin(len(layers), 100)]
    rows = tuple(
        (
            name or "model",
            one.channels,
            one.shift,
            one.scale,
            None if math.isnan(one.noise) else one.noise,
            one.still,
        )
        for name, one in ((name, layers[name]) for name in shown)
    )
    return Table(
        "Layers",
        (
            "layer",
            "channels",
            "mean off by (deviations)",
            "deviation off by (factor)",
            "batch noise (deviations)",
            "variance below eps",
        ),
        rows,
        "Channels with a variance below eps hardly vary: they are not brought to variance one, and what little is there is noise.",
    )


def _remedies(verdict: Verdict, shift: float, scale: float, noise: float) -> tuple[Remedy, ...]:
    if verdict.level is Level.GOOD:
        return ()
    remedies = []
    if not (shift < SHIFT_ATTENTION and scale < SCALE_ATTENTION):
        remedies.append(
            Remedy(
                "Recompute the running statistics on the training data at the final weights, or lower the layers' momentum.",
                "torch.optim.swa_utils.update_bn",
            )
        )
    claim = "batch_renormalisation_small_batches"
    remedies.append(
        Remedy(
            "Train with batch renormalisation, which ties training to the running statistics.",
            "torchstone.layers.normalisation.BatchRenorm",
            claim,
        )
    )
    if noise >= NOISE_ATTENTION:
        remedies.append(
            Remedy("Normalise each example by itself.", "torch.nn.GroupNorm", claim, "norm=group")
        )
    return tuple(remedies)


INSTRUMENT = NormalisationCheck
