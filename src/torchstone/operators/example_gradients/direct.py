"""Parameters whose gradient is the signal itself, perhaps times something, summed over positions: biases and scales."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from torchstone.operators.example_gradients.layout import Layout
from torchstone.operators.example_gradients.uses import Use


@dataclass(frozen=True)
class DirectUse:
    """A use out = anything + factor * parameter, the parameter broadcast to the output's shape.

    Args:
        use: The use.
        factor: A number, or a tensor that broadcasts to the output; None for 1.
        aligned: The parameter's shape, aligned to the output's dimensions from the right.
    """

    use: Use
    factor: Tensor | float | None
    aligned: tuple[int, ...]

    def axes(self, signal: Tensor) -> list[int]:
        """Dimensions of the signal along which the parameter does not vary."""
        missing = signal.ndim - len(self.aligned)
        return [axis for axis in range(signal.ndim) if axis < missing or self.aligned[axis - missing] == 1]

    def gradients(self, signal: Tensor, layout: Layout, examples: int) -> Tensor:
        """Gradient of each example in the tensor taken, (N, *shape)."""
        weighted = signal if self.factor is None else signal * self.factor
        parts = layout.by_example(weighted, examples)
        missing = parts.ndim - 1 - len(self.aligned)
        wanted = (1,) * missing + self.aligned
        summed = [axis for axis, size in enumerate(wanted, start=1) if size == 1]
        total = parts.sum(summed, keepdim=True) if summed else parts
        return total.reshape(examples, *self.use.shape)


def direct_use(use: Use) -> DirectUse | None:
    """The use as a direct one, or None where it is of another kind."""
    maker = _MAKERS.get((use.node.name(), use.position))
    return maker(use) if maker is not None else None


def _plain(use: Use, factor: Tensor | float | None = None) -> DirectUse:
    return DirectUse(use, factor, use.shape)


def _by_channel(use: Use, dims: int, factor: Tensor | None = None) -> DirectUse:
    """A parameter (C,) along dimension 1 of an output with that many dimensions."""
    return DirectUse(use, factor, (*use.shape, *(1,) * (dims - 2)))


def _layer_norm(use: Use) -> DirectUse:
    node = use.node
    return _plain(use, (node._saved_input - node._saved_result1) * node._saved_result2)


def _group_norm(use: Use) -> DirectUse:
    node = use.node
    inputs, groups = node._saved_input, node._saved_group
    split = inputs.reshape(inputs.shape[0], groups, -1)
    mean, scale = (
        part.reshape(inputs.shape[0], groups, 1) for part in (node._saved_result1, node._saved_result2)
    )
    return _by_channel(use, inputs.ndim, ((split - mean) * scale).reshape(inputs.shape))


def _batch_norm(use: Use) -> DirectUse | None:
    node = use.node
    if node._saved_training:
        return None
    inputs = node._saved_input
    shape = (1, -1, *(1,) * (inputs.ndim - 2))
    mean, variance = (part.reshape(shape) for part in (node._saved_running_mean, node._saved_running_var))
    return _by_channel(use, inputs.ndim, (inputs - mean) * (variance + node._saved_eps).rsqrt())


def _norm_bias(use: Use) -> DirectUse | None:
    if use.node.name() == "NativeLayerNormBackward0":
        return _plain(use)
    if getattr(use.node, "_saved_training", False):
        return None
    return _by_channel(use, use.node._saved_input.ndim)


def _prelu(use: Use) -> DirectUse:
    return _plain(use, use.node._saved_self.clamp(max=0))


_MAKERS: dict[tuple[str, int], Callable[[Use], DirectUse | None]] = {
    ("AddmmBackward0", 0): lambda use: _plain(use, float(use.node._saved_beta)),
    ("LinearBackward0", 2): _plain,
    ("ConvolutionBackward0", 2): lambda use: _by_channel(use, use.node._saved_input.ndim),
    ("AddBackward0", 0): _plain,
    ("AddBackward0", 1): lambda use: _plain(use, float(use.node._saved_alpha)),
    ("SubBackward0", 0): _plain,
    ("SubBackward0", 1): lambda use: _plain(use, -float(use.node._saved_alpha)),
    ("MulBackward0", 0): lambda use: _plain(use, use.node._saved_other),
    ("MulBackward0", 1): lambda use: _plain(use, use.node._saved_self),
    ("ExpandBackward0", 0): _plain,
    ("PreluKernelBackward0", 1): _prelu,
    ("NativeLayerNormBackward0", 1): _layer_norm,
    ("NativeLayerNormBackward0", 2): _norm_bias,
    ("NativeGroupNormBackward0", 1): _group_norm,
    ("NativeGroupNormBackward0", 2): _norm_bias,
    ("NativeBatchNormBackward0", 1): _batch_norm,
    ("NativeBatchNormBackward0", 2): _norm_bias,
}
