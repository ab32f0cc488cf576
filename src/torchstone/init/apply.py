"""Initialise a whole model by one scheme, layer by layer, and say what was set and why."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from torchstone.errors import SettingError
from torchstone.init.activations import activations_behind
from torchstone.init.fans import WEIGHTED, fans
from torchstone.init.forward import Call, plain_call
from torchstone.init.mean_field import Activation, elementwise, gain
from torchstone.init.schemes import (
    Scheme,
    draw_weight,
    fitting_scheme,
    require_generator,
    require_scheme,
    standard_deviation,
)
from torchstone.init.weights import parameters_behind, set_weight

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
    call: Call = plain_call,
) -> InitTable:
    """Give every linear and convolution layer of a model new weights, biases of 0, and normalisations scale 1, shift 0.

    Each layer's gain is what the activation behind it asks for, computed by quadrature (`init.gain`): sqrt(2) for
    ReLU, 1 where none follows, 1.59 for tanh. LeCun's schemes take no gain, orthogonal weights with tanh take 1 (only
    there isometry is reached). Recurrent layers get orthogonal recurrent and Xavier input matrices, gate by gate, and
    an LSTM a forget bias of 1. Attention's queries, keys and values are linear layers without an activation. Where no
    delta-orthogonal kernel exists a layer gets orthogonal weights. Embeddings and parameters of other layers are left. All
    that is said.

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
        SettingError: An unknown scheme, no CPU generator, an activation that is not elementwise, a batch that the model
            does not take, no layer to initialise, or layers without values (lazy or on the meta device).

    >>> model = nn.Sequential(nn.Linear(50, 100), nn.ReLU(), nn.Linear(100, 1))
    >>> print(apply(model, "kaiming", generator=torch.Generator()))
    parameter  shape   scheme   activation  gain   std  why
    0.weight   100x50  kaiming  relu        1.414  0.2  keeps the variance through relu
    0.bias     100     zero     -           -      -    biases start at 0
    2.weight   1x100   kaiming  none        1      0.1  no activation behind it
    2.bias     1       zero     -           -      -    biases start at 0
    """
    require_scheme(scheme)
    require_generator(generator)
    _require_values(model)
    given = None if activation is None else elementwise(activation)
    behind = activations_behind(model, batch, call)
    work = _Work(scheme, generator)
    layers = [(name, module) for name, module in model.named_modules()]
    last = next((module for _, module in reversed(layers) if isinstance(module, WEIGHTED)), None)
    for name, module in layers:
        if isinstance(module, WEIGHTED):
            found = behind.get(module)
            if given is not None and module is not last:
                found = (getattr(activation, "__name__", type(activation).__name__), given)
            work.weighted(name, module, found)
        elif isinstance(module, nn.RNNBase | nn.RNNCellBase):
            work.recurrent(name, module)
        elif isinstance(module, nn.MultiheadAttention):
            work.attention(name, module)
        elif isinstance(module, _NORMALISATIONS):
            work.normalisation(name, module)
        else:
            work.other(name, module)
    if not any(row.scheme for row in work.rows):
        raise SettingError("The model must have layers to initialise", "none", "Pass the network itself.")
    return InitTable(tuple(work.rows))


def _require_values(model: nn.Module) -> None:
    for name, parameter in model.named_parameters():
        if isinstance(parameter, nn.parameter.UninitializedParameter):
            raise SettingError(
                "Layers must have their shapes", f"lazy {name}", "Run the model on a batch first."
            )
        if parameter.is_meta:
            raise SettingError(
                "Layers must have values",
                f"{name} on the meta device",
                'Call model.to_empty(device="cpu") first.',
            )


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
        full = f"{name}.weight" if name else "weight"
        first, *others = parameters_behind(layer)
        if self._first(full, first):
            self.done |= {id(other): full for other in others}
            sigma, why = self._gain(behind)
            scheme, other = fitting_scheme(layer, self.scheme)
            drawn = draw_weight(layer, scheme, sigma, self.generator)
            set_weight(layer, drawn)
            weight = layer.weight
            assert isinstance(weight, Tensor)
            deviation = standard_deviation(layer, scheme, sigma)
            if min(fans(layer)) == 0:
                why = "the layer has no inputs or no outputs"
            elif not torch.allclose(weight, drawn, rtol=1e-2, atol=1e-2 * deviation):
                deviation = float(weight.double().square().mean().sqrt())
                why = "as near as its parametrisation allows"
            why = f"{why}; {other}" if other else why
            shown = behind[0] if behind else "none"
            self.rows.append(Initialised(full, tuple(weight.shape), scheme, shown, sigma, deviation, why))
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

    def recurrent(self, name: str, layer: nn.RNNBase | nn.RNNCellBase) -> None:
        long = isinstance(layer, nn.LSTM | nn.LSTMCell)
        gates = 4 if long else 3 if isinstance(layer, nn.GRU | nn.GRUCell) else 1
        for field, parameter in list(layer.named_parameters(recurse=False)):
            full = f"{name}.{field}" if name else field
            if not self._first(full, parameter):
                continue
            if field.startswith("bias"):
                values, scheme, why = torch.zeros_like(parameter), "zero", "biases start at 0"
                if long and field.startswith("bias_ih"):
                    hidden = parameter.numel() // 4
                    values[hidden : 2 * hidden] = 1.0
                    scheme, why = "zero, forget 1", "a forget gate that starts open remembers"
            else:
                projection = field.startswith("weight_hr")  # of an LSTM's outputs: no gates
                parts = [torch.empty(part.shape) for part in parameter.chunk(1 if projection else gates)]
                recurrent = field.startswith("weight_hh")
                for part in parts:
                    if recurrent:
                        nn.init.orthogonal_(part, generator=self.generator)
                    else:
                        nn.init.xavier_uniform_(part, generator=self.generator)
                values = torch.cat(parts)
                scheme = "orthogonal" if recurrent else "xavier_uniform"
                why = (
                    "keeps norms over time"
                    if recurrent
                    else "output projection"
                    if projection
                    else "gate by gate"
                )
            parameter.copy_(values)
            self.rows.append(Initialised(full, tuple(parameter.shape), scheme, "", 0.0, 0.0, why))

    def attention(self, name: str, layer: nn.MultiheadAttention) -> None:
        for field, parameter in list(layer.named_parameters(recurse=False)):
            full = f"{name}.{field}" if name else field
            if not field.endswith("proj_weight"):
                self._set(layer, name, field, 0.0, "biases start at 0")
            elif self._first(full, parameter):
                rows, columns = (
                    parameter.shape[0] // (3 if field == "in_proj_weight" else 1),
                    parameter.shape[1],
                )
                linear = nn.utils.skip_init(nn.Linear, columns, rows, bias=False, dtype=parameter.dtype)
                scheme, _ = fitting_scheme(linear, self.scheme)
                for part in parameter.split(rows):
                    part.copy_(draw_weight(linear, scheme, 1.0, self.generator))
                deviation, shape = standard_deviation(linear, scheme), tuple(parameter.shape)
                why = "queries, keys and values, no activation behind them"
                self.rows.append(Initialised(full, shape, scheme, "none", 1.0, deviation, why))

    def normalisation(self, name: str, layer: nn.Module) -> None:
        self._set(layer, name, "weight", 1.0, "normalised signals pass as they are")
        self._set(layer, name, "bias", 0.0, "normalised signals pass as they are")

    def other(self, name: str, layer: nn.Module) -> None:
        for field, parameter in layer.named_parameters(recurse=False):
            if isinstance(layer, parametrize.ParametrizationList) and id(parameter) in self.done:
                continue  # what a weight that was set is made of
            full = f"{name}.{field}" if name else field
            if self._first(full, parameter):
                why = f"no rule for {type(layer).__name__}"
                self.rows.append(Initialised(full, tuple(parameter.shape), "", "", 0.0, 0.0, why))
