"""Parameters whose gradient is a sum of outer products: matrices, convolution kernels, embeddings.

The gradient of one example in such a parameter is sum_t u_t v_t^T over positions t, with u back-propagated signals and
v activations. Its squared norm is sum_{t,t'} (u_t . u_t') (v_t . v_t'), so the gradient itself is never needed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from torchstone.operators.example_gradients.uses import Use, signed


@dataclass(frozen=True)
class OuterUse:
    """A use whose gradient is, for each group, sum over positions of signal row times activation row.

    Args:
        use: The use.
        rows: Turns the signal at the node's output into rows (groups, positions..., width of u).
        activations: Rows (groups, positions..., width of v), or indices (1, positions...) of one-hot rows.
        axes: Dimensions of the signal that may hold the examples, with the dimension of the rows that each becomes.
        activation_first: Whether the tensor taken is v u^T rather than u v^T.
        one_hot: Number of rows of an embedding, where activations are indices; else 0.
    """

    use: Use
    rows: Callable[[Tensor], Tensor]
    activations: Tensor
    axes: dict[int, int]
    activation_first: bool = False
    one_hot: int = 0


def outer_use(use: Use) -> OuterUse | None:
    """The use as outer products, or None where it is of another kind."""
    maker = _MAKERS.get((use.node.name(), use.position))
    return maker(use) if maker is not None else None


def _right_factor(use: Use, left: Tensor, scale: float = 1.0) -> OuterUse:
    """Out = left @ parameter, both (R, .) or (G, R, .)."""
    grouped = left.ndim == 3
    rows = (lambda signal: signal * scale) if grouped else (lambda signal: signal[None] * scale)
    axes = {1: 1} if grouped else {0: 1}
    return OuterUse(use, rows, left if grouped else left[None], axes, activation_first=True)


def _left_factor(use: Use, right: Tensor, scale: float = 1.0) -> OuterUse:
    """Out = parameter @ right: the columns are the positions."""
    grouped = right.ndim == 3
    rows = lambda signal: (signal if grouped else signal[None]).mT * scale
    return OuterUse(use, rows, (right if grouped else right[None]).mT, {2: 1} if grouped else {1: 1})


def _linear(use: Use) -> OuterUse:
    """Out = input @ weight^T with any number of leading dimensions."""
    activations = use.node._saved_input[None]
    axes = {axis: axis + 1 for axis in range(activations.ndim - 2)}
    return OuterUse(use, lambda signal: signal[None], activations, axes)


def _matrix_vector(use: Use) -> OuterUse:
    """Out (R,) = matrix (R, b) @ parameter (b,)."""
    return OuterUse(use, lambda signal: signal[None, :, None], use.node._saved_self[None], {0: 1}, True)


def _embedding(use: Use) -> OuterUse | None:
    node = use.node
    if node._saved_scale_grad_by_freq or use.chain:
        return None
    indices = node._saved_indices
    padding = indices == signed(node._saved_padding_idx)
    rows = lambda signal: signal.masked_fill(padding[..., None], 0.0)[None]
    axes = {axis: axis + 1 for axis in range(indices.ndim)}
    return OuterUse(use, rows, indices[None], axes, activation_first=True, one_hot=use.shape[0])


def _convolution(use: Use) -> OuterUse | None:
    node, groups = use.node, use.node._saved_groups
    if node._saved_transposed:
        return None
    patches = _patches(
        node._saved_input,
        use.shape[2:],
        tuple(node._saved_stride),
        tuple(node._saved_padding),
        tuple(node._saved_dilation),
    )

    def grouped(rows: Tensor) -> Tensor:
        """(N, L, groups * width) -> (groups, N, L, width)."""
        return rows.unflatten(2, (groups, -1)).movedim(2, 0)

    return OuterUse(use, lambda signal: grouped(signal.flatten(2).mT), grouped(patches), {0: 1})


def _patches(
    inputs: Tensor,
    kernel: tuple[int, ...],
    stride: tuple[int, ...],
    padding: tuple[int, ...],
    dilation: tuple[int, ...],
) -> Tensor:
    """The patch that each output position sees: (N, C, *sizes) -> (N, positions, C * kernel), any number of dimensions."""
    dims = len(kernel)
    pads = [side for one in reversed(padding) for side in (one, one)]
    windows = F.pad(inputs, pads)
    for dim in range(dims):
        reach = dilation[dim] * (kernel[dim] - 1) + 1
        windows = windows.unfold(2 + dim, reach, stride[dim])[..., :: dilation[dim]]
    # (N, C, positions..., kernel...) -> (N, positions..., C, kernel...)
    order = (0, *range(2, 2 + dims), 1, *range(2 + dims, 2 + 2 * dims))
    return windows.permute(order).flatten(1 + dims).flatten(1, dims)


_MAKERS: dict[tuple[str, int], Callable[[Use], OuterUse | None]] = {
    ("MmBackward0", 1): lambda use: _right_factor(use, use.node._saved_self),
    ("MmBackward0", 0): lambda use: _left_factor(use, use.node._saved_mat2),
    ("BmmBackward0", 1): lambda use: _right_factor(use, use.node._saved_self),
    ("BmmBackward0", 0): lambda use: _left_factor(use, use.node._saved_mat2),
    ("AddmmBackward0", 2): lambda use: _right_factor(use, use.node._saved_mat1, float(use.node._saved_alpha)),
    ("AddmmBackward0", 1): lambda use: _left_factor(use, use.node._saved_mat2, float(use.node._saved_alpha)),
    ("MvBackward0", 1): _matrix_vector,
    ("LinearBackward0", 1): _linear,
    ("EmbeddingBackward0", 0): _embedding,
    ("ConvolutionBackward0", 1): _convolution,
}


def explicit(outer: OuterUse, signal: Tensor, activation: Tensor) -> Tensor:
    """Per-example gradients (N, *shape of the tensor taken) from rows by example, (N, groups, T, width).

    Args:
        outer: The use.
        signal: u by example.
        activation: v by example, or indices (N, 1, T).
    """
    if outer.one_hot:
        made = signal.new_zeros(signal.shape[0], outer.one_hot, signal.shape[-1])
        index = activation[:, 0, :, None].expand(-1, -1, signal.shape[-1])
        return made.scatter_add(1, index, signal[:, 0])
    product = activation.mT @ signal if outer.activation_first else signal.mT @ activation
    return product.reshape(product.shape[0], *outer.use.shape)


def activation_gram(outer: OuterUse, activation: Tensor) -> Tensor:
    """v_t . v_t' for every pair of positions, (N, groups, T, T)."""
    if outer.one_hot:
        return (activation[..., :, None] == activation[..., None, :]).to(outer.use.parameter.dtype)
    return activation @ activation.mT


def squared_lengths(outer: OuterUse, activation: Tensor) -> Tensor:
    """v_t . v_t for every position, (N, groups, T)."""
    if outer.one_hot:
        return torch.ones(activation.shape, dtype=outer.use.parameter.dtype, device=activation.device)
    return activation.square().sum(-1)
