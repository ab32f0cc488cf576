"""Initialise a whole model by one scheme, layer by layer, and say what was set and why."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from torchstone.errors import SettingError
from torchstone.init.activations import activations_behind
from torchstone.init.fans import WEIGHTED, fans
from torchstone.init.mean_field import Activation, gain
from torchstone.init.schemes import Scheme, draw_weight, standard_deviation
from torchstone.init.weights import set_weight

_NORMALISATIONS = (
    nn.BatchNorm1d,
    nn.BatchNorm2d,
    nn.BatchNorm3d,
    nn.SyncBatchNorm,
    nn.LayerNorm,
    nn.GroupNorm,
    nn.InstanceNorm1d,
    nn.InstanceNorm2d,
    nn.InstanceNorm3d,
)


@dataclass(frozen=True)
class Initialised:
    """One parameter that was set, or left.

    Attributes:
        name: The parameter.
        shape: Its shape.
        scheme: What it was set to; "" where it was left.
        activation: The activation behind its layer.
        gain: sigma_w, what that activation asks for.
        deviation: Standard deviation aimed at.
        why: A reason in words.
    """

    name: str
    shape: tuple[int, ...]
    scheme: str
    activation: str
    gain: float
    deviation: float
    why: str


@dataclass(frozen=True)
class InitTable:
    """What `apply` did, parameter by parameter; prints as a table."""

    rows: tuple[Initialised, ...]

    def __str__(self) -> str:
        head = ("parameter", "shape", "scheme", "activation", "gain", "std", "why")
        cells = [head] + [
            (
                row.name,
                "x".join(map(str, row.shape)) or "scalar",
                row.scheme or "left",
                row.activation or "-",
                f"{row.gain:.4g}" if row.gain else "-",
                f"{row.deviation:.4g}" if row.deviation else "-",
                row.why,
            )
            for row in self.rows
        ]
        widths = [max(len(row[i]) for row in cells) for i in range(len(head))]
        lines = [
            "  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)) for row in cells
        ]
        return "\n".join(line.rstrip() for line in lines)


@torch.no_grad()
def apply(
    model: nn.Module,
    scheme: Scheme = "kaiming",
    *,
    generator: torch.Generator,
    activation: Activation | None = None,
    batch: Any = None,
    call: Callable[[nn.Module, Any], Any] = lambda model, batch: model(batch),
) -> InitTable:
    """Give every linear and convolution layer of a model new weights, biases of 0, and normalisations scale 1, shift 0.

    Each layer's gain is what the activation behind it asks for, computed by quadrature (`init.gain`): sqrt(2) for
    ReLU, 1 where none follows, 1.59 for tanh. LeCun's schemes take no gain, orthogonal weights with tanh take 1 (only
    there isometry is reached). Recurrent layers get orthogonal recurrent and Xavier input matrices, gate by gate, and
    an LSTM a forget bias of 1. Embeddings and parameters of other layers are left and said.

    Args:
        model: Changed in place.
        scheme: One of `init.SCHEMES`.
        generator: A CPU generator that draws everything.
        activation: phi behind every layer but the last; by default what is found behind it.
        batch: Data to run the model on, so that activations called as functions are found too; without, only modules
            in their order of registration are looked at.
        call: How the model takes a batch.

    Returns:
        What was set and why.

    Raises:
        SettingError: An unknown scheme, no layer to initialise, or lazy layers that have not run.

    >>> model = nn.Sequential(nn.Linear(50, 100), nn.ReLU(), nn.Linear(100, 1))
    >>> print(apply(model, "kaiming", generator=torch.Generator()))
    parameter  shape   scheme   activation  gain   std  why
    0.weight   100x50  kaiming  relu        1.414  0.2  keeps the variance through relu
    0.bias     100     zero     -           -      -    biases start at 0
    2.weight   1x100   kaiming  none        1      0.1  no activation behind it
    2.bias     1       zero     -           -      -    biases start at 0
    """
    lazy = [
        name for name, p in model.named_parameters() if isinstance(p, nn.parameter.UninitializedParameter)
    ]
    if lazy:
        raise SettingError(
            "Layers must have their shapes", f"lazy {lazy[0]}", "Run the model on a batch first."
        )
    behind = activations_behind(model, batch, call)
    work = _Work(scheme, generator)
    layers = [(name, module) for name, module in model.named_modules()]
    last = next((module for _, module in reversed(layers) if isinstance(module, WEIGHTED)), None)
    for name, module in layers:
        if isinstance(module, WEIGHTED):
            found = behind.get(module)
            if activation is not None and module is not last:
                found = (getattr(activation, "__name__", "given"), activation)
            work.weighted(name, module, found)
        elif isinstance(module, nn.RNNBase):
            work.recurrent(name, module)
        elif isinstance(module, _NORMALISATIONS):
            work.normalisation(name, module)
        else:
            work.other(name, module)
    if not any(row.scheme for row in work.rows):
        raise SettingError("The model must have layers to initialise", "none", "Pass the network itself.")
    return InitTable(tuple(work.rows))


class _Work:
    """Layer after layer; a shared parameter is set once."""

    def __init__(self, scheme: Scheme, generator: torch.Generator) -> None:
        self.scheme: Scheme = scheme
        self.generator = generator
        self.rows: list[Initialised] = []
        self.done: dict[int, str] = {}

    def _first(self, name: str, parameter: Tensor) -> bool:
        if id(parameter) in self.done:
            why = f"shared with {self.done[id(parameter)]}"
            self.rows.append(Initialised(name, tuple(parameter.shape), "", "", 0.0, 0.0, why))
            return False
        self.done[id(parameter)] = name
        return True

    def _set(self, layer: nn.Module, name: str, field: str, value: float, why: str) -> None:
        parameter = getattr(layer, field, None)
        full = f"{name}.{field}" if name else field
        if isinstance(parameter, Tensor) and self._first(full, parameter):
            set_weight(layer, torch.full_like(parameter, value), field)
            what = {0.0: "zero", 1.0: "one"}.get(value, f"{value:g}")
            self.rows.append(Initialised(full, tuple(parameter.shape), what, "", 0.0, 0.0, why))

    def weighted(self, name: str, layer: nn.Module, behind: tuple[str, Activation] | None) -> None:
        weight, full = layer.weight, f"{name}.weight" if name else "weight"
        assert isinstance(weight, Tensor)
        key = (
            weight if isinstance(weight, nn.Parameter) else layer
        )  # a parametrised weight is made anew at each look
        if self._first(full, key if isinstance(key, Tensor) else next(layer.parameters())):
            sigma, why = self._gain(behind)
            set_weight(layer, draw_weight(layer, self.scheme, sigma, self.generator))
            shown = behind[0] if behind else "none"
            deviation = standard_deviation(layer, self.scheme, sigma)
            if min(fans(layer)) == 0:
                why = "the layer has no inputs or no outputs"
            self.rows.append(
                Initialised(full, tuple(weight.shape), self.scheme, shown, sigma, deviation, why)
            )
        self._set(layer, name, "bias", 0.0, "biases start at 0")

    def _gain(self, behind: tuple[str, Activation] | None) -> tuple[float, str]:
        if self.scheme.startswith("lecun"):
            return 1.0, "1 / fan_in whatever follows"
        if behind is None:
            return 1.0, "no activation behind it"
        label, function = behind
        if "orthogonal" in self.scheme and label == "tanh":
            return 1.0, "isometry with tanh needs a gain of 1"
        return gain(function), f"keeps the variance through {label}"

    def recurrent(self, name: str, layer: nn.RNNBase) -> None:
        gates = {"LSTM": 4, "GRU": 3}.get(layer.mode, 1)
        for field, parameter in list(layer.named_parameters(recurse=False)):
            full = f"{name}.{field}" if name else field
            if not self._first(full, parameter):
                continue
            if field.startswith("bias"):
                values, scheme, why = torch.zeros_like(parameter), "zero", "biases start at 0"
                if layer.mode == "LSTM" and field.startswith("bias_ih"):
                    hidden = parameter.numel() // 4
                    values[hidden : 2 * hidden] = 1.0
                    scheme, why = "zero, forget 1", "a forget gate that starts open remembers"
            else:
                parts = [torch.empty(part.shape) for part in parameter.chunk(gates)]
                recurrent = field.startswith("weight_hh")
                for part in parts:
                    if recurrent:
                        nn.init.orthogonal_(part, generator=self.generator)
                    else:
                        nn.init.xavier_uniform_(part, generator=self.generator)
                values = torch.cat(parts)
                scheme = "orthogonal" if recurrent else "xavier_uniform"
                why = "keeps norms over time" if recurrent else "gate by gate"
            parameter.copy_(values)
            self.rows.append(Initialised(full, tuple(parameter.shape), scheme, "", 0.0, 0.0, why))

    def normalisation(self, name: str, layer: nn.Module) -> None:
        self._set(layer, name, "weight", 1.0, "normalised signals pass as they are")
        self._set(layer, name, "bias", 0.0, "normalised signals pass as they are")

    def other(self, name: str, layer: nn.Module) -> None:
        for field, parameter in layer.named_parameters(recurse=False):
            full = f"{name}.{field}" if name else field
            if self._first(full, parameter):
                why = f"no rule for {type(layer).__name__}"
                self.rows.append(Initialised(full, tuple(parameter.shape), "", "", 0.0, 0.0, why))
