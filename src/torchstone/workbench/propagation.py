"""Signals and gradients through the layers of one network, measured and as mean-field theory predicts them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import torch
from torch import Tensor

from torchstone.errors import NumericalError, SettingError
from torchstone.init import correlation_map, gradient_factor, variance_map
from torchstone.specimen import Specimen
from torchstone.workbench.layer_signals import LayerSignal, layer_signals
from torchstone.workbench.signals import backward_signals

# 1 - correlation is known to about so much in float32.
_FLOOR = 1e-7
_SAME = 1e-6
KINDS = ("variance", "gradient", "difference")


@dataclass(frozen=True)
class Propagation:
    """Layer by layer, in order of execution.

    Args:
        layers: What was seen of each.
        gradients: Mean squared norm of the gradient of an example's loss at each layer's output; NaN where none comes.
    """

    layers: tuple[LayerSignal, ...]
    gradients: tuple[float, ...]

    @classmethod
    def of(cls, specimen: Specimen, rows: Tensor, split: str = "train") -> Propagation:
        """Measure it. Cost: four forward passes and a backward pass over those examples."""
        layers = tuple(layer_signals(specimen, rows, split))
        squared = backward_signals(specimen, rows, split).layers if specimen.trainable and layers else {}
        gradients = tuple(
            float(squared[one.name].mean()) if one.name in squared else math.nan for one in layers
        )
        return cls(layers, gradients)

    @cached_property
    def predicted(self) -> tuple[tuple[float, ...], tuple[float, ...], tuple[float, ...]]:
        """Mean-field predictions of variance, correlation and gradient.

        Each from the nearest measured layer that a chain of plain layers leads from (to, for gradients); NaN where there
        is no such chain.
        """
        return (*_forward(self.layers), _backward(self.factors, self.gradients))

    @cached_property
    def factors(self) -> tuple[float, ...]:
        """Chi of each layer that is plain: factor of the squared gradient from the next layer to it; else NaN."""
        following = (*self.layers[1:], None)
        return tuple(
            _factor(one, then) if one.plain and then is not None else math.nan
            for one, then in zip(self.layers, following, strict=True)
        )

    @property
    def names(self) -> tuple[str, ...]:
        """Of the layers."""
        return tuple(one.name for one in self.layers)

    def measured(self, kind: str) -> list[float]:
        """One of `KINDS`, layer by layer: variance, squared gradient, or one minus the correlation."""
        if kind == "variance":
            return [one.variance for one in self.layers]
        if kind == "gradient":
            return list(self.gradients)
        return [1 - one.correlation for one in self.layers]

    def expected(self, kind: str) -> list[float]:
        """The prediction of the same."""
        found = self.predicted[("variance", "difference", "gradient").index(kind)]
        return [1 - c for c in found] if kind == "difference" else list(found)

    def change(self, kind: str) -> float:
        """E-folds from one end of the hidden layers to the other, in the direction of the signal; NaN where unknown.

        Of variances and gradients that of a line fitted to the logarithms, of differences between examples that
        from the first to the last. The output layer counts only where there are fewer than three.
        """
        values = self.measured(kind)[: -1 if len(self.layers) > 2 else None]
        if len(values) < 2:
            return math.nan
        if kind == "difference":
            first, last = values[0], values[-1]
            if not first > _SAME or math.isnan(last):
                return math.nan
            return math.log(max(last, _FLOOR) / first)
        if any(value == math.inf for value in values):
            return math.inf if kind == "variance" else -math.inf
        change = _fitted([(i, math.log(value)) for i, value in enumerate(values) if value > 0])
        if math.isnan(change) and values[0] > 0 and values[-1] == 0:
            return -math.inf
        return change

    @property
    def depth_scale(self) -> float:
        """Xi = 1 / |mean log chi| over the plain layers; NaN where there are none."""
        logs = [math.log(chi) for chi in self.factors if chi > 0]
        if not logs:
            return math.nan
        mean = abs(math.fsum(logs) / len(logs))
        return 1 / mean if mean > 0 else math.inf


def _factor(layer: LayerSignal, following: LayerSignal) -> float:
    try:
        return gradient_factor(layer.function, layer.variance, following.weight_variance)
    except (SettingError, NumericalError, RuntimeError):  # as below
        return math.nan


def _forward(layers: tuple[LayerSignal, ...]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Variance and correlation: one step of the maps a plain layer, from the first measured ones of each chain."""
    variances, correlations = [math.nan] * len(layers), [math.nan] * len(layers)
    for i, (layer, following) in enumerate(pairwise(layers)):
        if not layer.plain:
            continue
        q, c = variances[i], correlations[i]
        if math.isnan(q):
            q, c = layer.variance, layer.correlation
            variances[i], correlations[i] = q, c
        try:
            weight, bias = following.weight_variance, following.bias_variance
            then = variance_map(layer.function, q, weight, bias)
            joint = correlation_map(layer.function, c, q, weight, bias) * q if not math.isnan(c) else math.nan
        # A variance of 0 or infinity, an activation on its own terms.
        except (SettingError, NumericalError, RuntimeError):
            continue
        variances[i + 1] = then
        correlations[i + 1] = min(1.0, max(-1.0, joint / then)) if then > 0 else math.nan
    return tuple(variances), tuple(correlations)


def _backward(factors: tuple[float, ...], measured: tuple[float, ...]) -> tuple[float, ...]:
    """Squared gradients: times chi a plain layer, from the measured one at the end of each chain."""
    found = [math.nan] * len(factors)
    for i in range(len(factors) - 2, -1, -1):
        if math.isnan(factors[i]):
            continue
        if math.isnan(found[i + 1]):
            found[i + 1] = measured[i + 1]
        found[i] = found[i + 1] * factors[i]
    return tuple(found)


def _fitted(points: list[tuple[int, float]]) -> float:
    """Change of the least-squares line from the first point to the last; NaN for fewer than two."""
    if len(points) < 2:
        return math.nan
    x, y = torch.tensor(points, dtype=torch.float64).T
    centred = x - x.mean()
    return float(centred @ y / centred.square().sum() * (x[-1] - x[0]))
