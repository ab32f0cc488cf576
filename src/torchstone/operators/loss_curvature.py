"""The Hessian of each example's loss in its outputs, as cotangents whose outer products add up to it."""

from __future__ import annotations

import contextlib
import math
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from torchstone.batches import Batch
from torchstone.operators.double_backward import lacks_second_derivative
from torchstone.operators.example_gradients import draw_scales
from torchstone.operators.finite import require_losses
from torchstone.operators.graph import foreign_functions, nodes_of
from torchstone.specimen import Specimen

DENSE_OUTPUTS = 48
"""Up to this many outputs an example, the loss Hessian is formed and diagonalised."""
DOUBLE_NUMBERS = 2**24
"""Up to this many outputs a batch, the loss is differentiated in float64."""


@dataclass(frozen=True)
class LossCurvature:
    r"""d^2 l_n / df^2 = sum_k sign_nk s_nk s_nk^T for the examples of a batch.

    `dense`: eigenvectors times the root of the eigenvalues' size. `softmax`: w (diag(p) - p p^T) at each position,
    whose columns are sqrt(w p_c) (e_c - p). `diagonal`: one column an output.

    Attributes:
        kind: Structure that was found.
        count: Number K of columns of an exact decomposition.
        vectors: dense: columns (K, N, D). softmax: p (N, T, C). diagonal: the diagonal (N, D).
        signs: dense and diagonal: signs (K, N) or (N, D). softmax: weights w (N, T).
        shape: Shape of the outputs.
        class_dim: Where the classes lie in the outputs (softmax).
        dtype: Type of the outputs.
    """

    kind: Literal["dense", "softmax", "diagonal"]
    count: int
    vectors: Tensor
    signs: Tensor
    shape: tuple[int, ...]
    dtype: torch.dtype
    class_dim: int = 1

    def column(self, k: int) -> tuple[Float[Tensor, "n ..."], Float[Tensor, " n"]]:
        """Cotangents of the outputs' shape, and a sign an example."""
        examples = self.shape[0]
        if self.kind == "dense":
            return self.vectors[k].reshape(self.shape).to(self.dtype), self.signs[k]
        if self.kind == "diagonal":
            column = torch.zeros_like(self.vectors)
            column[:, k] = self.vectors[:, k].abs().sqrt()
            return column.reshape(self.shape).to(self.dtype), self.signs[:, k]
        position, chosen = divmod(k, self.vectors.shape[2])
        p = self.vectors[:, position]
        scale = (self.signs[:, position] * p[:, chosen]).sqrt()[:, None]
        column = torch.zeros_like(self.vectors)
        column[:, position] = -scale * p
        column[:, position, chosen] += scale[:, 0]
        return self.in_place(column), torch.ones(examples, dtype=torch.float64, device=p.device)

    @property
    def can_sample(self) -> bool:
        """Whether `sample` works: every sign must be positive."""
        return self.kind == "softmax" or bool((self.signs >= 0).all())

    @property
    def draws(self) -> int:
        """Random numbers an example that a sample takes."""
        return len(self.vectors) if self.kind == "dense" else self.vectors.shape[1]

    def sample(self, generator: torch.Generator) -> tuple[Float[Tensor, "n ..."], Float[Tensor, " n"]]:
        """A random s with E[s s^T] = d^2 l / df^2, independent over examples and positions."""
        uniforms = torch.rand(self.shape[0], self.draws, generator=generator, dtype=torch.float64)
        return self.sample_at(uniforms), torch.ones(
            self.shape[0], dtype=torch.float64, device=self.vectors.device
        )

    def sample_at(self, uniforms: Float[Tensor, "n draws"]) -> Float[Tensor, "n ..."]:
        """The same from given numbers, uniform on [0, 1).

        softmax: sqrt(w) (p - e_y) with y drawn from p, the gradient at a label that was drawn; else random signs times
        the exact columns.
        """
        uniforms = uniforms.to(self.vectors)
        if self.kind != "softmax":
            flips = torch.where(uniforms < 0.5, -1.0, 1.0).to(self.vectors)
            if self.kind == "diagonal":
                return (flips * self.vectors.sqrt()).reshape(self.shape).to(self.dtype)
            mixed = (flips.T[..., None] * self.vectors).sum(0)
            return mixed.reshape(self.shape).to(self.dtype)
        cumulative = self.vectors.cumsum(2)
        threshold = (uniforms * cumulative[..., -1])[..., None]
        drawn = torch.searchsorted(cumulative, threshold, right=True).clamp(max=self.vectors.shape[2] - 1)
        column = self.vectors.scatter_add(2, drawn, torch.full_like(threshold, -1.0))
        return self.in_place(column * self.signs.sqrt()[..., None])

    def in_place(self, column: Float[Tensor, "n t c"]) -> Tensor:
        """(N, T, C) as the outputs have it."""
        others = [size for dim, size in enumerate(self.shape) if dim not in (0, self.class_dim)]
        return column.reshape(self.shape[0], *others, -1).movedim(-1, self.class_dim).to(self.dtype)


@torch.enable_grad()
def loss_curvature(
    specimen: Specimen, outputs: Tensor, batch: Batch, *, structured: bool = False
) -> LossCurvature | str:
    """The loss Hessians of a batch, in float64.

    Small outputs are handled for any loss. For large ones the structure (softmax over some dimension, or diagonal) is
    guessed and checked by products with random vectors.

    Cost: as many backward passes through the loss alone as an example has outputs, or five.

    Args:
        specimen: Holds the objective.
        outputs: Of the batch.
        batch: The examples.
        structured: Whether to look for a structure in small outputs too, so that samples are labels drawn.

    Returns:
        The decomposition; or, where there is none, why.

    Raises:
        NumericalError: Losses, or their gradient, are NaN or infinite.
    """
    try:
        return _decomposed(specimen, outputs, batch, structured)
    except RuntimeError as error:
        if not lacks_second_derivative(error):
            raise
        return "the loss cannot be differentiated twice"


def _decomposed(specimen: Specimen, outputs: Tensor, batch: Batch, structured: bool) -> LossCurvature | str:
    leaf, losses = _losses_at(specimen, outputs, batch)
    if not losses.requires_grad:
        return "the losses have no gradient in the outputs"
    if foreign_functions(nodes_of(losses)):
        return "the loss is a custom autograd function"
    (gradient,) = torch.autograd.grad(losses.sum(), leaf, create_graph=True)
    require_losses(losses, gradient)
    if not losses_are_independent(losses, leaf, gradient.detach()):
        return "the losses of a batch depend on each other"
    shape, size = tuple(outputs.shape), outputs[0].numel()
    if not gradient.requires_grad:
        nothing = torch.zeros(0, shape[0], size, dtype=torch.float64, device=outputs.device)
        return LossCurvature("dense", 0, nothing, nothing[..., 0], shape, outputs.dtype)
    if size <= DENSE_OUTPUTS and not structured:
        return _dense(gradient, leaf, outputs.dtype)
    found = _diagonal(gradient, leaf, outputs.dtype)
    if found is None:
        # Weights of positions do not depend on the outputs, and are seen best where no probability is near 0 or 1.
        level, its_losses = _losses_at(specimen, torch.zeros_like(outputs), batch)
        (flat,) = torch.autograd.grad(its_losses.sum(), level, create_graph=True)
        for class_dim in dict.fromkeys((1, outputs.ndim - 1)):
            found = found or _softmax((gradient, leaf), (flat, level), class_dim, outputs.dtype)
    if found is None and size <= DENSE_OUTPUTS:
        return _dense(gradient, leaf, outputs.dtype)
    return found or f"the loss Hessian of {size:,} outputs has no structure that is known"


def _losses_at(specimen: Specimen, outputs: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
    """The outputs as a leaf, in float64 where that is affordable and the loss takes it, and their losses."""
    if outputs.numel() <= DOUBLE_NUMBERS and outputs.device.type != "mps":
        leaf = outputs.detach().double().requires_grad_(True)
        with contextlib.suppress(RuntimeError, TypeError):
            return leaf, specimen.losses(leaf, batch)
    leaf = outputs.detach()
    leaf = (leaf.float() if leaf.dtype.itemsize < 4 else leaf.clone()).requires_grad_(True)
    return leaf, specimen.losses(leaf, batch)


def losses_are_independent(losses: Tensor, leaf: Tensor, gradient: Tensor) -> bool:
    """Whether each loss depends on its own example's outputs only."""
    scales = draw_scales(losses.shape[0], losses.device).to(losses.dtype)
    (scaled,) = torch.autograd.grad((scales * losses).sum(), leaf, retain_graph=True)
    expected = gradient * scales.reshape(-1, *(1,) * (gradient.ndim - 1))
    return _agrees(scaled, expected)


def _dense(gradient: Tensor, leaf: Tensor, dtype: torch.dtype) -> LossCurvature:
    examples = leaf.shape[0]
    rows = []
    for entries in gradient.flatten(1).T:
        (row,) = torch.autograd.grad(entries.sum(), leaf, retain_graph=True, materialize_grads=True)
        rows.append(row.flatten(1))
    hessian = torch.stack(rows, dim=1).double()
    values, vectors = torch.linalg.eigh((hessian + hessian.mT) / 2)
    # Rounding makes the zero eigenvalues of softmax tiny instead; a column of them would cost a backward pass.
    floor = 1e-14 * values.abs().amax(1, keepdim=True).clamp(min=0.1 * values.abs().max())
    kept = (values.abs() > floor).any(0)
    columns = (vectors * values.abs().sqrt()[:, None])[:, :, kept].permute(2, 0, 1)
    signs = values[:, kept].sign().T
    assert columns.shape[1] == examples
    return LossCurvature("dense", columns.shape[0], columns, signs, tuple(leaf.shape), dtype)


def _products(gradient: Tensor, leaf: Tensor, count: int) -> list[tuple[Tensor, Tensor]]:
    """Random vectors and the loss Hessian's products with them."""
    generator = torch.Generator().manual_seed(0)
    pairs = []
    for _ in range(count):
        vector = torch.randn(leaf.shape, generator=generator, dtype=torch.float64).to(leaf)
        (product,) = torch.autograd.grad(gradient, leaf, vector, retain_graph=True, materialize_grads=True)
        pairs.append((vector, product))
    return pairs


def _agrees(product: Tensor, expected: Tensor, scale: float = 0.0) -> bool:
    """Equal up to roundings of numbers as large as `scale`, or as the product itself."""
    slack = 1e4 * torch.finfo(product.dtype).eps * max(scale, float(product.abs().max()))
    return bool((product - expected).abs().max() <= slack)


def _diagonal(gradient: Tensor, leaf: Tensor, dtype: torch.dtype) -> LossCurvature | None:
    (first, its_product), (second, other_product) = _products(gradient, leaf, 2)
    diagonal = its_product / first
    if not _agrees(other_product, diagonal * second):
        return None
    flat = diagonal.flatten(1)
    signs = torch.where(flat < 0, -1.0, 1.0)
    return LossCurvature("diagonal", flat.shape[1], flat, signs, tuple(leaf.shape), dtype)


def _softmax(
    here: tuple[Tensor, Tensor], level: tuple[Tensor, Tensor], class_dim: int, dtype: torch.dtype
) -> LossCurvature | None:
    """W (diag(p) - p p^T) with p the softmax over a dimension and a weight w >= 0 for each position.

    Args:
        here: Loss gradient and the outputs it is a function of.
        level: The same where all outputs are equal.
        class_dim: The dimension.
        dtype: Type of the outputs.
    """
    gradient, leaf = here
    (vector, product), *_ = _products(*level, 1)
    centred = (vector - vector.mean(class_dim, keepdim=True)) / leaf.shape[class_dim]
    weights = (centred * product).sum(class_dim, keepdim=True) / centred.square().sum(class_dim, keepdim=True)
    if not _agrees(product, weights * centred) or bool((weights < 0).any()):
        return None
    p = leaf.detach().softmax(class_dim)
    for vector, product in _products(gradient, leaf, 2):
        expected = weights * p * (vector - (p * vector).sum(class_dim, keepdim=True))
        if not _agrees(product, expected, scale=float(weights.max())):
            return None
    rows = lambda tensor: tensor.movedim(class_dim, -1).flatten(1, -2) if leaf.ndim > 2 else tensor[:, None]
    by_position, weight = rows(p), rows(weights)[..., 0]
    count = math.prod(by_position.shape[1:])
    return LossCurvature("softmax", count, by_position, weight, tuple(leaf.shape), dtype, class_dim)
