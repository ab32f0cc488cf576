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
from torch.nn.utils import parametrize
from torch.utils._python_dispatch import TorchDispatchMode

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
    """One layer of a chain: its name, its map, and the Lipschitz constant of what follows up to the next layer.

    Args:
        name: Of its module.
        layer: The map, with batch normalisation folded in.
        lipschitz: Of everything up to the next layer.
        activation: Of the activations alone, without the overlap of pooling windows.
        maximum: Window size of pooling by maximum, 1 without.
        between: What follows, by the name of its derivative; reshapes are left out.
    """

    name: str
    layer: Layer
    lipschitz: float
    activation: float = 1.0
    maximum: int = 1
    between: tuple[str, ...] = ()


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
    padding = _PaddingWatch()
    try:
        # One evaluation of each parametrised weight (spectral norm, say), so that it can be found in the graph.
        with specimen.measuring(), torch.enable_grad(), parametrize.cached():
            for parameter in specimen.model.parameters():
                if parameter.is_floating_point():
                    # Frozen layers belong to the chain too; restored on leaving.
                    parameter.requires_grad_(True)
            # Followed down to the input, so that what happens before the first layer is seen too.
            inputs = specimen.objective.inputs(batch)
            if inputs is not None:
                inputs = inputs.detach().requires_grad_(True)
                batch = specimen.objective.with_inputs(batch, inputs)
            with padding:
                outputs = specimen.forward(batch)
            found = _walk(outputs.grad_fn, _Owners(modules), inputs)
            if padding.nonzero:
                raise NotApplicableError("the network is not a chain: it pads with a value other than 0")
            return [_layer(one, modules, sizes, state or {}) for one in reversed(found)]
    finally:
        for handle in handles:
            handle.remove()


class _PaddingWatch(TorchDispatchMode):
    """Notes padding by anything but zeros, which the graph does not tell."""

    nonzero = False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.overloadpacket.__name__ == "constant_pad_nd" and len(args) > 2 and args[2] != 0:
            self.nonzero = True
        return func(*args, **(kwargs or {}))


class _Owners:
    """Which module a node of the graph is a weight or bias of."""

    def __init__(self, modules: dict[str, nn.Module]) -> None:
        self.modules = modules
        self._variables: dict[int, str | None] = {}
        self._nodes: dict[Any, str | None] = {}
        for name, module in modules.items():
            for kind in ("weight", "bias"):
                tensor = getattr(module, kind, None)
                owner = name if kind == "weight" else None
                if isinstance(tensor, Tensor) and tensor.grad_fn is not None:
                    self._nodes[tensor.grad_fn] = owner  # made from other parameters on every pass
                elif isinstance(tensor, Tensor):
                    self._variables[id(tensor)] = owner

    def is_parameter(self, node: Any) -> bool:
        """Whether a node is a parameter, or its transpose."""
        node = _untransposed(node)
        return node in self._nodes or node.name() == _LEAF

    def weight_of(self, node: Any) -> str | None:
        """Name of the module that a parameter's node is the weight of."""
        node = _untransposed(node)
        return self._nodes[node] if node in self._nodes else self._variables.get(id(node.variable))


_LEAF = "torch::autograd::AccumulateGrad"


def _untransposed(node: Any) -> Any:
    return node.next_functions[0][0] if node.name() == "TBackward0" else node


@dataclass
class _Found:
    name: str
    above: _Above


def _has_weight(module: nn.Module) -> bool:
    return isinstance(getattr(module, "weight", None), Tensor)


def _walk(node: Any, owners: _Owners, inputs: Tensor | None) -> list[_Found]:
    """Weight layers from output to input."""
    found: list[_Found] = []
    above = _Above()
    while node is not None:
        inner = [
            following
            for following, _ in node.next_functions
            if following is not None
            and (inputs is None or getattr(following, "variable", None) is not inputs)
        ]
        onward = [following for following in inner if not owners.is_parameter(following)]
        parameters = [following for following in inner if owners.is_parameter(following)]
        owned = [name for following in parameters if (name := owners.weight_of(following)) is not None]
        if len(onward) > 1:
            raise NotApplicableError(
                f"the network is not a chain: two paths meet in {node.name()} (a residual connection?)"
            )
        if node.name() in ("AddmmBackward0", "MmBackward0", "ConvolutionBackward0"):
            if len(owned) != 1 or any(owned[0] == other.name for other in found):
                raise NotApplicableError(
                    f"the network is not a chain: {node.name()} without a weight of its own"
                )
            if above.reshaped:
                raise NotApplicableError("batch normalisation does not directly follow a layer")
            found.append(_Found(owned[0], above))
            above = _Above()
        else:
            above.pass_through(node, [owners.modules[name] for name in owned], bool(parameters))
        node = onward[0] if onward else None
    if not found or above.changes:
        raise NotApplicableError("the network does not begin with a dense or convolution layer")
    return found


@dataclass
class _Above:
    """What lies between a layer and the next one towards the output."""

    overlap: float = 1.0
    activation: float = 1.0
    maximum: int = 1
    between: list[str] = field(default_factory=list)
    norms: list[Any] = field(default_factory=list)
    changes: bool = False
    """Whether anything but reshapes lies between."""
    reshaped: bool = False
    """Whether batch normalisation gets the layer's outputs in another shape."""

    def pass_through(self, node: Any, owners: list[nn.Module], has_weights: bool) -> None:
        name = node.name()
        if name not in _RESHAPES:
            self.changes = True
            self.between.insert(0, name)
        if name == "NativeBatchNormBackward0" and not node._saved_training and len(owners) == 1:
            self.norms.append(owners[0])
        elif name in _ACTIVATIONS and not has_weights:
            if self.norms:
                raise NotApplicableError("batch normalisation does not directly follow a layer")
            self.activation *= _ACTIVATIONS[name](node)
        elif name.startswith("MaxPool") and not self.norms:
            self.overlap *= _overlap(node)
            self.maximum *= math.prod(node._saved_kernel_size)
        elif name.startswith("AvgPool") and not self.norms and _averages_whole_windows(node):
            pass  # each output is a mean of K inputs and each input in at most K windows: norm at most 1
        elif name in _RESHAPES and not has_weights:
            self.reshaped |= bool(self.norms)  # its channels may not be the layer's
        else:
            raise NotApplicableError(
                f"the network is not a chain of dense and convolution layers: it holds {name}"
            )


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
    above = found.above
    for norm in reversed(above.norms):
        layer = _folded(layer, _Statistics.at_start(norm, modules, state) if state else _Statistics.of(norm))
    lipschitz = above.activation * above.overlap
    return ChainLayer(found.name, layer, lipschitz, above.activation, above.maximum, tuple(above.between))


def _detached(tensor: Tensor | None) -> Tensor | None:
    return None if tensor is None else tensor.detach()


@dataclass(frozen=True)
class _Statistics:
    """Batch normalisation in eval mode: scale * (x - mean) / sqrt(variance) + shift."""

    scale: Tensor
    shift: Tensor
    mean: Tensor
    variance: Tensor

    @classmethod
    def of(cls, norm: Any) -> _Statistics:
        scale, shift, mean = (one.detach().double() for one in (norm.weight, norm.bias, norm.running_mean))
        return cls(scale, shift, mean, norm.running_var.double() + norm.eps)

    @classmethod
    def at_start(cls, norm: Any, modules: dict[str, nn.Module], state: dict[str, Tensor]) -> _Statistics:
        """As before training: a reference must not depend on the data, which running statistics do."""
        name = next(name for name, module in modules.items() if module is norm)
        fresh = {"weight": 1.0, "bias": 0.0, "running_mean": 0.0, "running_var": 1.0}
        found = [
            state.get(f"{name}.{key}", torch.full_like(norm.weight, value)).to(norm.weight.device).double()
            for key, value in fresh.items()
        ]
        return cls(found[0], found[1], found[2], found[3] + norm.eps)


def _folded(layer: Layer, norm: _Statistics) -> Layer:
    """The layer followed by batch normalisation in eval mode, as one layer."""
    scale = norm.scale / norm.variance.sqrt()
    shift = norm.shift - norm.mean * scale
    weight = layer.weight.double() * scale.reshape(-1, *[1] * (layer.weight.ndim - 1))
    bias = shift if layer.bias is None else layer.bias.double() * scale + shift
    return replace(layer, weight=weight, bias=bias)
