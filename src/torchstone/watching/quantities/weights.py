"""What can be read off the weights alone: stable ranks, and what gradient flow would conserve."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor, nn

from torchstone.watching.quantities.base import Quantity
from torchstone.watching.record import Series
from torchstone.watching.state import Measured, State

_Layer = nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d
_LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
_HOMOGENEOUS = (
    *(nn.ReLU, nn.LeakyReLU, nn.PReLU, nn.Identity, nn.Flatten, nn.Dropout, nn.MaxPool1d, nn.MaxPool2d),
    *(nn.AvgPool1d, nn.AvgPool2d, nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d),
)


class StableRanks(Quantity):
    """Spectral norm |W|_2 and stable rank |W|_F^2 / |W|_2^2 of each layer's weight as a matrix.

    The stable rank says how many directions carry a weight.

    Cost: one singular value a layer, by power iteration from the last one's vector. Bias: upwards, by the iteration's
    error, which falls below 1% after a few measurements.
    Source: Rudelson & Vershynin 2007; Martin & Mahoney 2021 (falling ranks as a sign of learning).
    """

    name = "stable_rank"
    series: ClassVar[Mapping[str, Series]] = {
        "stable_rank": Series("Smallest stable rank of a layer", "directions", "|W|_F^2 / |W|_2^2"),
        "spectral_norm": Series("Largest spectral norm of a layer", "", "|W|_2", log=True),
    }
    cost = 1.0

    def __init__(self) -> None:
        self._vectors: dict[str, Tensor] = {}

    @torch.no_grad()
    def measure(self, state: State) -> Measured:
        """Power iteration, warm."""
        ranks, sizes = {}, {}
        for name, parameter in zip(state.names, state.parameters, strict=True):
            if parameter.ndim < 2 or min(parameter.shape[0], parameter[0].numel()) < 2:
                continue
            matrix = parameter.detach().flatten(1).float()
            vector = self._vectors.get(name)
            steps = 2 if vector is not None else 10
            if vector is None:
                vector = matrix.square().sum(0).sqrt()
            for _ in range(steps):
                vector = matrix.T @ (matrix @ (vector / vector.norm().clamp(min=1e-30)))
            self._vectors[name] = vector
            largest = (matrix @ (vector / vector.norm().clamp(min=1e-30))).square().sum()
            if float(largest) > 0:
                ranks[name], sizes[name] = float(matrix.square().sum() / largest), float(largest.sqrt())
        if not ranks:
            return Measured()
        values = {"stable_rank": min(ranks.values()), "spectral_norm": max(sizes.values())}
        return Measured(values, {"stable_rank": ranks, "spectral_norm": sizes})


class Balance(Quantity):
    """Drift of |W_l|^2 - |W_{l+1}|^2 between layers joined by a homogeneous activation, which gradient flow conserves.

    Relative to |W_l|^2 + |W_{l+1}|^2. Small steps keep it; large learning rates, weight decay, momentum and adaptive steps
    move it. Looked for in `nn.Sequential`s of linear and convolution layers with ReLU-like activations between them; biases
    of the first of two layers count with it.

    Source: Du, Hu & Lee 2018, NeurIPS, theorem 2.1 and corollary 2.1.
    """

    name = "balance"
    series: ClassVar[Mapping[str, Series]] = {
        "balance_drift": Series(
            "Drift from what gradient flow conserves", "share", "|W_l|^2 - |W_{l+1}|^2, Du, Hu & Lee 2018"
        )
    }
    cost = 0.2

    def __init__(self, model: nn.Module) -> None:
        self._pairs = homogeneous_pairs(model)
        self._start: dict[str, float] = {}

    @torch.no_grad()
    def measure(self, state: State) -> Measured:
        """Squared norms only."""
        weights = dict(zip(state.parameters, state.weight_norms, strict=True))
        drifts = {}
        for name, first, second in self._pairs:
            if first.weight not in weights or second.weight not in weights:
                self._start.pop(name, None)  # where one of two layers is frozen, nothing is conserved
                continue
            a, b = _square(first, weights, bias=True), _square(second, weights, bias=False)
            drifts[name] = (a - b - self._start.setdefault(name, a - b)) / (a + b) if a + b else 0.0
        if not drifts:
            return Measured()
        return Measured({"balance_drift": max(map(abs, drifts.values()))}, {"balance_drift": drifts})


def homogeneous_pairs(model: nn.Module) -> list[tuple[str, _Layer, _Layer]]:
    """Neighbouring weighted layers with nothing but homogeneous modules between them, in `nn.Sequential`s."""
    names = {module: name for name, module in model.named_modules()}
    pairs = []
    for sequence in model.modules():
        if not isinstance(sequence, nn.Sequential):
            continue
        last: _Layer | None = None
        for part in sequence:
            if isinstance(part, _LAYERS):
                if last is not None:
                    pairs.append((f"{names[last]} to {names[part]}", last, part))
                last = part
            elif not isinstance(part, _HOMOGENEOUS):
                last = None
    return pairs


def _square(layer: nn.Module, norms: Mapping[nn.Parameter, float], bias: bool) -> float:
    own = layer._parameters.items()  # at every step; named_parameters() takes ten times as long
    return math.fsum(norms.get(p, 0.0) ** 2 for name, p in own if p is not None and (bias or name != "bias"))
