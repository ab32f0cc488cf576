"""Are the inputs, and what enters each layer, centred and scaled so that gradient descent can move fast?"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.modules.conv import _ConvNd

from torchstone.details import Axis, Curve, Line, Marker, Table, numbers, thin
from torchstone.errors import NotApplicableError
from torchstone.instruments.settings import require_between, require_count
from torchstone.reading import CostClass, Level, Meta, Need, Question, Reading, Remedy, Verdict
from torchstone.workbench import Workbench
from torchstone.workbench.input_moments import Moments, chosen_columns, input_moments

INPUTS = "inputs"
ATTENTION, POOR = 10.0, 100.0
"""Factors that centring and scaling the inputs would save."""
LAYER_ATTENTION = 100.0
"""The same factor for what enters a layer: after ReLU means are positive, and some of it is usual."""


@dataclass(frozen=True)
class Conditioning:
    r"""Steps that gradient descent would save if the features entering each layer were centred, scaled or whitened.

    The weights of a layer see the Hessian E[x x'] (times the curvature of what follows) of its inputs x. Its largest
    eigenvalue limits the step. Of the directions, m must be learned: as many as carry a `share` of the variance of the
    standardised features, a number that does not depend on units. So the condition number is

        k = lambda_max(E[x x']) / lambda_m(Cov x),   and with x centred, or standardised, that of Cov x, or of the correlations.

    Gradient descent takes about k/2 log(1/e) steps: ratios of k are its speed-ups, and whitening has k = 1. The mean's
    spike has the share |E x|^2 / tr E[x x'] of the trace. Features that never vary are left out of scaling. Features are
    channels where convolutions take them.

    Cost: two forward passes over the training examples. Bias: none for these examples; where only some of the features were
    drawn, condition numbers are lower bounds.
    Source: LeCun, Bottou, Orr & Mueller 1998, sections 4.3 and 5.
    """

    META: ClassVar[Meta] = Meta(
        id="conditioning",
        question=Question.TRAINABILITY,
        title="Scaling of inputs and features",
        asks="Are inputs and features centred and scaled well?",
        cost=CostClass.SECONDS,
        needs=(Need.TRAIN,),
        unit="times the steps",
        source="LeCun, Bottou, Orr & Mueller 1998, sections 4.3 and 5",
    )
    share: float = 0.9
    """Share of the standardised features' variance whose directions must be learned."""
    columns: int = 512
    """At most this many features of a layer."""
    layers: int = 24
    """At most this many layers."""

    def __post_init__(self) -> None:
        require_between(self, "share", 0.5, 1.0)
        require_count(self, "columns", 2, 4096)
        require_count(self, "layers", 2, 200)

    def measure(self, bench: Workbench) -> Reading:
        """Moments of the inputs and of what enters each layer, and their spectra."""
        moments = self._moments(bench)
        found = {name: scaling_of(one, self.share, _resolution(bench, name)) for name, one in moments.items()}
        places = {name: one for name, one in found.items() if one is not None}
        if not places:
            raise NotApplicableError("needs continuous inputs or layers whose inputs vary")
        inputs = places.get(INPUTS)
        layers = {name: one for name, one in places.items() if name != INPUTS}
        worst = max(layers, key=lambda name: layers[name].standardising, default="")
        verdict = judge(
            inputs.standardising if inputs else math.nan, layers[worst].standardising if worst else math.nan
        )
        shown = inputs or layers[worst]
        return Reading.of(
            self.META,
            value=shown.standardising,
            verdict=verdict,
            headline=_headline(inputs, worst, layers),
            explanation=(
                "The largest eigenvalue of the second moment limits the learning rate; the smallest among as many directions "
                f"as carry {self.share:.0%} of the standardised features' variance is the slowest to learn. Their ratio is the "
                "condition number, and gradient descent needs steps in proportion to it. Compared with centred, standardised and whitened "
                "features. Adaptive optimisers rescale coordinates, but do not centre."
            ),
            remedies=_remedies(verdict, inputs, worst),
            details=(*_curves(places, INPUTS if inputs else worst), _table(places)),
            notes=_notes(moments, self.columns),
        )

    def _moments(self, bench: Workbench) -> dict[str, Moments]:
        generator = bench.generator(self.META.id)
        layers = input_moments(bench.specimen, layers=self.layers, columns=self.columns, generator=generator)
        found = {}
        try:
            inputs = bench.inputs("train")
            if _takes_images(bench, next(iter(layers), "")):
                # All pixels of a channel share its weights, so they are scaled together.
                found[INPUTS] = layers.pop(next(iter(layers)))
            else:
                columns = chosen_columns(inputs.shape[1], self.columns, generator)
                found[INPUTS] = Moments.of_rows(inputs, columns)
        except NotApplicableError:
            pass  # token ids, or examples of several shapes: the layers are what remains
        for name, one in layers.items():
            if not _same(one, found.get(INPUTS)):
                found[f"into {name or 'model'}"] = one
        return found


def _takes_images(bench: Workbench, first: str) -> bool:
    """Whether the first weight layer is a convolution over the inputs as they are."""
    module, shape = bench.specimen.model.get_submodule(first), bench.input_shape()
    return (
        isinstance(module, _ConvNd)
        and len(shape) == len(module.kernel_size) + 1
        and shape[0] == module.in_channels
    )


def _same(one: Moments, other: Moments | None) -> bool:
    """Whether a first dense layer takes the inputs themselves."""
    return other is not None and one.mean.shape == other.mean.shape and torch.allclose(one.mean, other.mean)


@dataclass(frozen=True)
class Scaling:
    """Condition numbers of one place's features, as they are and changed.

    Args:
        features: How many vary.
        still: How many never vary.
        largest_shift: Largest |mean| in deviations of its feature.
        spread: Ratio of the largest deviation to the smallest.
        spike: Share of the second moment's trace in the mean.
        raw: k of the features as they are.
        centred: k with means subtracted.
        standard: k with means subtracted and deviations 1.
        spectra: Eigenvalues of the three matrices, descending.
    """

    features: int
    still: int
    largest_shift: float
    spread: float
    spike: float
    raw: float
    centred: float
    standard: float
    spectra: tuple[Tensor, Tensor, Tensor]

    @property
    def centring(self) -> float:
        """Speed-up by centring: lambda_max(E[x x']) / lambda_max(Cov x)."""
        return self.raw / self.centred

    @property
    def standardising(self) -> float:
        """Speed-up by centring and scaling."""
        return self.raw / self.standard


def scaling_of(moments: Moments, share: float, resolution: float) -> Scaling | None:
    """Condition numbers out of two moments; None where nothing varies or something is not finite.

    Args:
        moments: Of the features.
        share: Of the variance, whose directions count.
        resolution: A feature whose deviation is below this share of its root mean square counts as still.
    """
    mean, covariance = moments.mean, moments.covariance
    variance = covariance.diagonal()
    if not bool(mean.isfinite().all() and covariance.isfinite().all()):
        return None
    varies = variance > resolution**2 * (variance + mean.square())
    if not bool(varies.any()):
        return None
    deviation = variance[varies].sqrt()
    centred = covariance[varies][:, varies]
    shift = mean[varies]
    correlations = centred / deviation / deviation[:, None]
    # Still features add to the spike: their weights move with the mean.
    raw = covariance + mean.outer(mean)
    spectra = (_descending(raw), _descending(centred), _descending(correlations))
    count = _carrying(spectra[2], share)
    slowest = float(spectra[1][count - 1])
    return Scaling(
        features=len(deviation),
        still=len(mean) - len(deviation),
        largest_shift=float((shift.abs() / deviation).max()),
        spread=float(deviation.max() / deviation.min()),
        spike=float(mean.square().sum() / (mean.square().sum() + variance.sum())),
        raw=float(spectra[0][0]) / slowest,
        centred=float(spectra[1][0]) / slowest,
        standard=float(spectra[2][0] / spectra[2][count - 1]),
        spectra=spectra,
    )


def _descending(matrix: Tensor) -> Tensor:
    return torch.linalg.eigvalsh((matrix + matrix.T) / 2).flip(0).clamp(min=0)


def _carrying(spectrum: Tensor, share: float) -> int:
    """How many of the leading eigenvalues carry a share of their sum."""
    carried = spectrum.cumsum(0) / spectrum.sum()
    # Just below the share counts as reaching it, so that equal eigenvalues are not told apart by rounding.
    return min(int((carried < share * (1 - 1e-6)).sum()) + 1, len(spectrum))


def _resolution(bench: Workbench, name: str) -> float:
    """Rounding of a feature: the data are float32, features come in the model's type."""
    if name == INPUTS or bench.specimen.dtype is None:
        return 1e-7
    return 8 * torch.finfo(bench.specimen.dtype).eps


def judge(inputs: float, layers: float) -> Verdict:
    """Judge the factors that centring and scaling would save, at the inputs and at the worst layer.

    Args:
        inputs: Factor for the inputs; NaN where they are not continuous.
        layers: Largest factor of what enters a layer; NaN where there is none.
    """
    threshold = (
        f"centring and scaling would save less than a factor {ATTENTION:g} of gradient descent's steps at the inputs "
        f"(poor: {POOR:g}) and {LAYER_ATTENTION:g} at a layer"
    )
    source = (
        "LeCun, Bottou, Orr & Mueller 1998, section 4.3 (means near 0, equal variances) and section 5 (steps in proportion "
        "to the condition number); the factors are a convention"
    )
    if inputs >= POOR:
        return Verdict(
            Level.POOR, f"standardised inputs would take {inputs:.3g} times fewer steps", threshold, source
        )
    if inputs >= ATTENTION:
        return Verdict(
            Level.ATTENTION,
            f"standardised inputs would take {inputs:.3g} times fewer steps",
            threshold,
            source,
        )
    if layers >= LAYER_ATTENTION:
        return Verdict(
            Level.ATTENTION,
            f"a normalised layer would take {layers:.3g} times fewer steps",
            threshold,
            source,
        )
    return Verdict(Level.GOOD, "means and scales cost little", threshold, source)


def _headline(inputs: Scaling | None, worst: str, layers: dict[str, Scaling]) -> str:
    parts = []
    if inputs:
        parts.append(
            f"standardising the inputs would {_saves(inputs.standardising)} (condition number {inputs.raw:.3g}, "
            f"{inputs.standard:.3g} standardised)"
        )
    if worst:
        parts.append(f"normalising what goes {worst} would {_saves(layers[worst].standardising)}")
    sentence = "; ".join(parts)
    return sentence[0].upper() + sentence[1:] + "."


def _notes(moments: dict[str, Moments], columns: int) -> tuple[str, ...]:
    notes = []
    drawn = [name for name, one in moments.items() if len(one.mean) < one.of]
    if drawn:
        notes.append(
            f"{columns} features drawn of {_listed(drawn)}: their condition numbers are lower bounds."
        )
    few = [name for name, one in moments.items() if one.rows < 2 * len(one.mean)]
    if few:
        notes.append(
            f"Fewer than two rows a feature at {_listed(few)}: directions of small variance are known badly."
        )
    return tuple(notes)


def _listed(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if names[3:] else "")


def _saves(factor: float) -> str:
    if factor >= 1.05:
        return f"make gradient descent {factor:.3g} times faster"
    return "gain nothing" if factor > 0.95 else f"make gradient descent {1 / factor:.3g} times slower"


def _curves(places: dict[str, Scaling], shown: str) -> tuple[Curve, ...]:
    one = places[shown]
    lines = []
    for name, spectrum in zip(("as given", "centred", "standardised"), one.spectra, strict=True):
        kept = [i for i in thin(len(spectrum), 300) if spectrum[i] > 1e-12 * spectrum[0]]
        lines.append(Line(name, numbers(i + 1 for i in kept), numbers(spectrum[kept] / spectrum[0])))
    spectra = Curve(
        f"Second moments: {shown}",
        Axis("direction, largest first"),
        Axis("eigenvalue over the largest", log=True),
        tuple(lines),
        caption="A level line is quick to learn. A first point far above the rest is the mean; a long way down are directions of "
        "small variance.",
    )
    names = [name for name in places if name != INPUTS]
    if len(names) < 2:
        return (spectra,)
    position = numbers(range(1, len(names) + 1))
    layers = Curve(
        "Condition number of what enters each layer",
        Axis("layer, input to output"),
        Axis("condition number", log=True),
        tuple(
            Line(label, position, numbers(getattr(places[name], field) for name in names))
            for label, field in (("as given", "raw"), ("centred", "centred"), ("standardised", "standard"))
        ),
        (Marker("whitened", 1.0),),
        tuple(name.removeprefix("into ") for name in names),
        caption="Gradient descent needs steps in proportion. The gap between the lines is what normalisation would save.",
    )
    return (spectra, layers)


def _table(places: dict[str, Scaling]) -> Table:
    columns = (
        "where", "features", "never vary", "largest mean (deviations)", "largest / smallest deviation",
        "mean's share of the trace", "condition number", "speed-up: centred", "standardised", "whitened",
    )  # fmt: skip
    rows = tuple(
        (
            name, one.features, one.still, one.largest_shift, one.spread, one.spike, one.raw, one.centring,
            one.standardising, one.raw,
        )
        for name, one in places.items()
    )  # fmt: skip
    return Table(
        "Means and scales",
        columns,
        rows,
        "Speed-ups are factors in the steps of gradient descent. Below 1: scaling would lift directions of small variance.",
    )


def _remedies(verdict: Verdict, inputs: Scaling | None, worst: str) -> tuple[Remedy, ...]:
    if verdict.level is Level.GOOD:
        return ()
    if inputs and inputs.standardising >= ATTENTION:
        return (
            Remedy(
                "Standardise the inputs: subtract each feature's mean and divide by its deviation, both taken from the "
                "training set.",
                "sklearn.preprocessing.StandardScaler",
                "centring_mends_conditioning",
            ),
            Remedy("Or let the first layer do it.", "torch.nn.BatchNorm1d", "centring_mends_conditioning"),
        )
    return (
        Remedy(
            f"Put a normalisation layer before the weights: {worst.removeprefix('into ')}.",
            "torch.nn.BatchNorm1d",
            "centring_mends_conditioning",
            "norm=batch",
        ),
    )


INSTRUMENT = Conditioning
