"""Is the network a chain of dense and convolution layers with simple maps between them? Then here are its layers.

Read off the autograd graph, so that functional activations and reshapes count as well as modules. Anything that is not
understood makes the network "not a chain", with the reason: a norm bound for the wrong formula would be worse than none.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from torchstone.bounds.convolution import ConvolutionLayer
from torchstone.bounds.dense import DenseLayer
from torchstone.errors import NotApplicableError
from torchstone.specimen import Specimen

Layer = DenseLayer | ConvolutionLayer

_RESHAPES = {
    "ViewBackward0", "UnsafeViewBackward0", "ReshapeAliasBackward0", "SqueezeBackward0", "SqueezeBackward1",
    "UnsqueezeBackward0", "PermuteBackward0", "TransposeBackward0", "CloneBackward0", "ToCopyBackward0",
    "AliasBackward0", "ConstantPadNdBackward0",
}  # fmt: skip
# Lipschitz constants of activations with phi(0) = 0, from what the graph's node saved: max |phi'|.
_ACTIVATIONS: dict[str, Callable[[Any], float]] = {
    "ReluBackward0": lambda _: 1.0,
    "LeakyReluBackward0": lambda node: max(1.0, abs(node._saved_negative_slope)),
    "HardtanhBackward0": lambda _: 1.0,
    "TanhBackward0": lambda _: 1.0,
    # ELU, and SELU with its scale of 1.05 and slope of 1.67.
    "EluBackward0": lambda node: node._saved_scale * max(1.0, node._saved_alpha * node._saved_input_scale),
    "GeluBackward0": lambda _: 1.1290,
    "SiluBackward0": lambda _: 1.0999,
    "MeanBackward1": lambda _: 1.0,
}


@dataclass(frozen=True)
class ChainLayer:
    """One layer of a chain: its name, its map, and the Lipschitz constant of what follows up to the next layer."""

    name: str
    layer: Layer
    lipschitz: float


def chain(specimen: Specimen, state: dict[str, Tensor] | None = None) -> list[ChainLayer]:
    """The layers from input to output, with batch normalisation in eval mode folded in.

    Args:
        specimen: What to look at.
        state: Other weights for the same layers (those at initialisation, say), by parameter name.

    Raises:
        NotApplicableError: The network is not such a chain; the reason names the first obstacle.
    """
    sizes: dict[str, tuple[int, ...]] = {}
    batch = next(specimen.batches("train"))
    modules = {name: module for name, module in specimen.model.named_modules() if _has_weight(module)}
    handles = [
        module.register_forward_hook(
            lambda _module, inputs, _output, name=name: sizes.update({name: inputs[0].shape})
        )
        for name, module in modules.items()
    ]
    try:
        with specimen.measuring(), torch.enable_grad():
            for parameter in specimen.model.parameters():
                if parameter.is_floating_point():
                    parameter.requires_grad_(
                        True
                    )  # frozen layers belong to the chain too; restored on leaving
            # Followed down to the input, so that what happens before the first layer is seen too.
            inputs = specimen.objective.inputs(batch)
            if inputs is not None:
                inputs = inputs.detach().requires_grad_(True)
                batch = specimen.objective.with_inputs(batch, inputs)
            found = _walk(specimen.forward(batch).grad_fn, modules, inputs)
    finally:
        for handle in handles:
            handle.remove()
    return [_layer(one, modules, sizes, state or {}) for one in reversed(found)]


@dataclass
class _Found:
    name: str
    lipschitz: float
    norms: list[Any]


def _has_weight(module: nn.Module) -> bool:
    return isinstance(getattr(module, "weight", None), Tensor)


def _walk(node: Any, modules: dict[str, nn.Module], inputs: Tensor | None) -> list[_Found]:
    """Weight layers from output to input."""
    owners = {id(module.weight): name for name, module in modules.items()}
    found: list[_Found] = []
    above = _Above()
    while node is not None:
        inner = [
            following
            for following, _ in node.next_functions
            if following is not None
            and (inputs is None or getattr(following, "variable", None) is not inputs)
        ]
        onward = [following for following in inner if not _is_parameter(following)]
        weights = [_variable(following) for following in inner if _is_parameter(following)]
        owned = [owners[id(weight)] for weight in weights if id(weight) in owners]
        if len(onward) > 1:
            raise NotApplicableError(
                f"the network is not a chain: two paths meet in {node.name()} (a residual connection?)"
            )
        if node.name() in ("AddmmBackward0", "MmBackward0", "ConvolutionBackward0"):
            if len(owned) != 1 or any(owned[0] == other.name for other in found):
                raise NotApplicableError(
                    f"the network is not a chain: {node.name()} without a weight of its own"
                )
            found.append(_Found(owned[0], above.lipschitz, above.norms))
            above = _Above()
        else:
            above.pass_through(node, [modules[name] for name in owned], bool(weights))
        node = onward[0] if onward else None
    if not found or above.changes:
        raise NotApplicableError("the network does not begin with a dense or convolution layer")
    return found


@dataclass
class _Above:
    """What lies between a layer and the next one towards the output."""

    lipschitz: float = 1.0
    norms: list[Any] = field(default_factory=list)
    changes: bool = False
    """Whether anything but reshapes lies between."""

    def pass_through(self, node: Any, owners: list[nn.Module], has_weights: bool) -> None:
        name = node.name()
        self.changes |= name not in _RESHAPES
        if name == "NativeBatchNormBackward0" and not node._saved_training and len(owners) == 1:
            self.norms.append(owners[0])
        elif name in _ACTIVATIONS and not has_weights:
            if self.norms:
                raise NotApplicableError("batch normalisation does not directly follow a layer")
            self.lipschitz *= _ACTIVATIONS[name](node)
        elif name.startswith("MaxPool") and not self.norms:
            self.lipschitz *= _overlap(node)
        elif name.startswith("AvgPool") and not self.norms and _averages_whole_windows(node):
            pass  # each output is a mean of K inputs and each input in at most K windows: norm at most 1
        elif name not in _RESHAPES or has_weights:
            raise NotApplicableError(
                f"the network is not a chain of dense and convolution layers: it holds {name}"
            )


def _is_parameter(node: Any) -> bool:
    return node.name() == "torch::autograd::AccumulateGrad" or (
        node.name() == "TBackward0" and node.next_functions[0][0].name() == "torch::autograd::AccumulateGrad"
    )


def _variable(node: Any) -> Tensor:
    return node.variable if hasattr(node, "variable") else node.next_functions[0][0].variable


def _overlap(node: Any) -> float:
    """Lipschitz constant of max pooling: an input is the maximum of at most prod ceil(k/s) windows (k if dilated)."""
    kernel, stride = node._saved_kernel_size, node._saved_stride or node._saved_kernel_size
    sizes = zip(kernel, stride, node._saved_dilation, strict=True)
    return math.sqrt(math.prod(k if d > 1 else math.ceil(k / s) for k, s, d in sizes))


def _averages_whole_windows(node: Any) -> bool:
    """Whether every window's sum is divided by at least its number of inputs, also at the borders."""
    whole = node._saved_count_include_pad or not any(node._saved_padding)
    return node._saved_divisor_override is None and whole and not node._saved_ceil_mode


def _layer(
    found: _Found,
    modules: dict[str, nn.Module],
    sizes: dict[str, tuple[int, ...]],
    state: dict[str, Tensor],
) -> ChainLayer:
    module: Any = modules[found.name]
    if found.name not in sizes:
        raise NotApplicableError(f"{found.name} is used without being called as a module")
    shape = sizes[found.name]
    if isinstance(module, nn.Linear) and len(shape) == 2:
        layer: Layer = DenseLayer(module.weight.detach(), _detached(module.bias))
    elif isinstance(module, nn.Conv1d | nn.Conv2d | nn.Conv3d):
        layer = ConvolutionLayer.of(module, tuple(shape[2:]))
        layer = replace(layer, weight=layer.weight.detach(), bias=_detached(layer.bias))
    else:
        raise NotApplicableError(
            f"{found.name} is a {type(module).__name__} on inputs of {len(shape)} dimensions"
        )
    if state:
        device = module.weight.device
        weight, bias = state.get(f"{found.name}.weight"), state.get(f"{found.name}.bias")
        if weight is None or weight.shape != layer.weight.shape:
            raise NotApplicableError(f"the initial state holds no weight for {found.name}")
        layer = replace(
            layer, weight=weight.detach().to(device), bias=None if bias is None else bias.detach().to(device)
        )
    for norm in reversed(found.norms):
        layer = _folded(layer, norm)
    return ChainLayer(found.name, layer, found.lipschitz)


def _detached(tensor: Tensor | None) -> Tensor | None:
    return None if tensor is None else tensor.detach()


def _folded(layer: Layer, norm: Any) -> Layer:
    """The layer followed by batch normalisation in eval mode, as one layer."""
    scale = norm.weight.detach().double() / (norm.running_var.double() + norm.eps).sqrt()
    shift = norm.bias.detach().double() - norm.running_mean.double() * scale
    weight = layer.weight.double() * scale.reshape(-1, *[1] * (layer.weight.ndim - 1))
    bias = shift if layer.bias is None else layer.bias.double() * scale + shift
    return replace(layer, weight=weight, bias=bias)
