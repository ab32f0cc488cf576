"""A chain of known layers over the stacked weights of many networks: one kernel a layer, without a transform's overhead."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from torchstone.training.dense_run import DenseRun

Own = Callable[[str], Any]
"""A layer's stacked parameter or buffer (K, ...) by its name in the layer; None where it has none."""
Kernel = Callable[[Any, Tensor, Own], Tensor]
"""From a layer, activations (K, B, ...) and the layer's stacked tensors to the next activations (K, B, ...)."""


class Batched:
    """K networks that are called like one, on the examples of all members one after the other: (K B, ...) to (K B, ...).

    It has no parameters, submodules or other attributes of a network, so that a function that looks at more than the
    outputs fails instead of seeing something else.

    Args:
        layers: The chain, see `chain`.
        tensors: Stacked parameters and buffers by name.
    """

    def __init__(self, layers: Sequence[Link | DenseRun], tensors: Mapping[str, Tensor]) -> None:
        self._layers, self._tensors = layers, tensors
        self._last: tuple[Tensor, Tensor] | None = None

    def __call__(self, x: Tensor) -> Tensor:
        """See `forward`, which objectives look for."""
        return self.forward(x)

    def forward(self, x: Tensor) -> Tensor:
        """Outputs; the last call is remembered, so that a note costs no second pass and moves no statistics."""
        if self._last is None or self._last[0] is not x:
            members = len(next(iter(self._tensors.values())))
            h = x.unflatten(0, (members, -1))
            for layer in self._layers:
                h = layer(h, self._tensors)
            self._last = x, h.flatten(0, 1)
        return self._last[1]


class Link:
    """A layer, its kernel, and under which names the network knows its tensors: a function of activations and tensors."""

    def __init__(self, layer: nn.Module, kernel: Kernel, names: Mapping[str, str]) -> None:
        self._layer, self._kernel, self._names = layer, kernel, names

    def __call__(self, h: Tensor, tensors: Mapping[str, Tensor]) -> Tensor:
        """The next activations."""
        return self._kernel(
            self._layer, h, lambda name: tensors[self._names[name]] if name in self._names else None
        )


def chain(model: nn.Module) -> list[Link | DenseRun] | None:
    """The layers of nested `nn.Sequential`s, or None where there is another module, a hook, or a setting without a kernel.

    Args:
        model: Its layers keep their modes: what `model.train()` does is seen.
    """
    if any(
        module._forward_hooks or module._forward_pre_hooks or module._backward_hooks
        or module._backward_pre_hooks or "forward" in vars(module)
        for module in model.modules()
    ):  # fmt: skip
        return None
    known = {id(t): name for name, t in [*model.named_parameters(), *model.named_buffers()]}
    found: list[Link | DenseRun] = []
    for layer in _leaves(model):
        kernel, last = KERNELS.get(type(layer)), found[-1] if found else None
        if not (kernel or type(layer) is nn.Linear) or not _plain(layer):
            return None
        own = {**layer._parameters, **layer._buffers}
        names = {name: known[id(t)] for name, t in own.items() if t is not None}
        if kernel is None:
            run = last if isinstance(last, DenseRun) else DenseRun()
            run.add(names)
            found += [run] if run is not last else []
        elif type(layer) is nn.ReLU and isinstance(last, DenseRun):
            last.rectify()
        else:
            found.append(Link(layer, kernel, names))
    return found


def _leaves(module: nn.Module) -> Iterator[nn.Module]:
    if type(module) is nn.Sequential:
        for child in module:
            yield from _leaves(child)
    else:
        yield module


def _plain(layer: Any) -> bool:
    """Whether the layer's settings are among those that its kernel knows."""
    if isinstance(layer, nn.Flatten):
        return layer.start_dim >= 1
    if isinstance(layer, nn.modules.batchnorm._BatchNorm):
        return layer.momentum is not None
    if isinstance(layer, nn.modules.conv._ConvNd):
        return layer.padding_mode == "zeros"
    return not getattr(layer, "return_indices", False)


def _convolution(layer: Any, h: Tensor, own: Own) -> Tensor:
    """One convolution whose groups are the members' own."""
    bias = own("bias")
    function = (functional.conv1d, functional.conv2d, functional.conv3d)[h.ndim - 4]
    return _apart(
        function(
            _beside(h),
            own("weight").flatten(0, 1),
            None if bias is None else bias.flatten(),
            layer.stride,
            layer.padding,
            layer.dilation,
            layer.groups * len(h),
        ),
        len(h),
    )


def _batch_norm(layer: Any, h: Tensor, own: Own) -> Tensor:
    """Every member's channels are channels of their own; running statistics move in place."""
    if layer.training and (count := own("num_batches_tracked")) is not None:
        count.add_(1)
    mean, variance, weight, bias = (
        None if (stack := own(name)) is None else stack.view(-1)
        for name in ("running_mean", "running_var", "weight", "bias")
    )
    return _apart(
        functional.batch_norm(
            _beside(h),
            mean,
            variance,
            weight,
            bias,
            layer.training or mean is None,
            layer.momentum,
            layer.eps,
        ),
        len(h),
    )


def _layer_norm(layer: Any, h: Tensor, own: Own) -> Tensor:
    h = functional.layer_norm(h, layer.normalized_shape, eps=layer.eps)
    for name, combine in (("weight", torch.mul), ("bias", torch.add)):
        if (stack := own(name)) is not None:
            h = combine(h, stack.view(len(h), *[1] * (h.ndim - stack.ndim), *stack.shape[1:]))
    return h


def _pooling(layer: Any, h: Tensor, _: Own) -> Tensor:
    return _apart(layer(_beside(h)), len(h))


def _elementwise(layer: Any, h: Tensor, _: Own) -> Tensor:
    return layer(h)


def _flatten(layer: Any, h: Tensor, _: Own) -> Tensor:
    return h.flatten(layer.start_dim + 1, layer.end_dim + 1 if layer.end_dim >= 0 else layer.end_dim)


def _beside(h: Tensor) -> Tensor:
    """(K, B, C, ...) as (B, K C, ...); a view of what `_apart` made, so that a chain of convolutions copies nothing."""
    return h.transpose(0, 1).flatten(1, 2)


def _apart(h: Tensor, members: int) -> Tensor:
    return h.unflatten(1, (members, -1)).transpose(0, 1)


_ELEMENTWISE = (
    *(nn.Identity, nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.ELU, nn.SELU, nn.CELU, nn.GELU, nn.SiLU, nn.Mish),
    *(nn.Sigmoid, nn.Tanh, nn.Softplus, nn.Softsign, nn.Hardtanh, nn.Hardswish, nn.Hardsigmoid, nn.LogSigmoid),
    nn.Dropout,
)  # fmt: skip
_POOLING = (
    *(nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d, nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d),
    *(nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d, nn.AdaptiveMaxPool1d, nn.AdaptiveMaxPool2d),
)  # fmt: skip
KERNELS: dict[type[nn.Module], Kernel] = {
    nn.Flatten: _flatten,
    nn.LayerNorm: _layer_norm,
    **dict.fromkeys((nn.Conv1d, nn.Conv2d, nn.Conv3d), _convolution),
    **dict.fromkeys((nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d), _batch_norm),
    **dict.fromkeys(_POOLING, _pooling),
    **dict.fromkeys(_ELEMENTWISE, _elementwise),
}
