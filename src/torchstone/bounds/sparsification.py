r"""A point of a convex hull is close to the average of a few corners: Maurey's lemma, made constructive.

Let :math:`U = \sum_i w_i V_i` with :math:`w \ge 0`, :math:`\alpha = \sum_i w_i`. Some k atoms, repeats allowed, satisfy

.. math:: \Big\| U - \frac{\alpha}{k} \sum_{j=1}^k V_{i_j} \Big\|^2 \le \frac{\alpha \sum_i w_i \|V_i\|^2 - \|U\|^2}{k}.

The usual proof draws them with probabilities :math:`w_i / \alpha` and takes the mean. Here each is chosen to make the
expected error of finishing at random least (the method of conditional expectations), so the promise is kept every time.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from torchstone.bounds.risk_bound import check_count
from torchstone.errors import NumericalError, SettingError


@dataclass(frozen=True)
class Sparsification:
    """A sum of few atoms in place of a sum of many.

    Args:
        weights: Weights of the atoms in the approximation, the shape of the original's; at most k are not zero.
        error: Distance from the original sum.
        bound: What Maurey's lemma promises for the distance.
    """

    weights: Tensor
    error: float
    bound: float


def maurey_sparsification(atoms: Tensor, weights: Tensor, terms: int) -> Sparsification:
    r"""The sum :math:`\sum_i w_i V_i` by `terms` of its atoms, with equal shares of the total weight.

    Cost: one product with the atoms a term.

    Args:
        atoms: :math:`V_i`, (D, ...), in a Euclidean space.
        weights: :math:`w_i \ge 0`, (D,).
        terms: k, at least 1.

    Returns:
        The new weights, multiples of :math:`\alpha / k`, with the error and its bound.

    Raises:
        SettingError: Negative weights, or not one an atom.
        NumericalError: Atoms or weights that are not finite.

    Example:
        >>> import torch
        >>> found = maurey_sparsification(torch.eye(100), torch.full((100,), 0.01), terms=25)
        >>> int((found.weights > 0).sum()), found.error <= found.bound < 0.2
        (25, True)

    Source: Pisier 1981 (Maurey's lemma); Zhang 2002, lemma 1; conditional expectations: Alon & Spencer 2016, chapter 16.
    """
    vectors, w = atoms.detach().double().flatten(1), weights.detach().double()
    if w.shape != (len(vectors),) or len(w) == 0 or not bool((w >= 0).all()):
        raise SettingError(
            "Sparsification needs a non-negative weight for each atom",
            f"{len(vectors)} atoms and weights of shape {tuple(weights.shape)}",
            "Take signs into the atoms.",
        )
    _check_finite(vectors, w)
    squares = vectors.square().sum(dim=1)
    counts, error = _choose(
        w, squares, w @ vectors, lambda r: vectors @ r, lambda i: vectors[i], check_count("terms", terms)
    )
    total = float(w.sum())
    bound = _promise(total, float(w @ squares), float((w @ vectors).square().sum()), terms)
    return Sparsification(counts * (total / terms), error, bound)


def sparsify_linear(x: Tensor, weight: Tensor, terms: int) -> Sparsification:
    r"""A weight matrix with at most `terms` entries whose outputs :math:`X W^T` are close on the sample.

    The atoms are the signed columns of X, scaled to length 1, placed in one output. Their total weight is
    :math:`\sum_{ij} |W_{ij}| \|X_{:j}\| \le \|W\|_{2,1} \|X\|_F`, hence an error of at most that over :math:`\sqrt k`, whatever the size of the layer.

    Cost: one (d, n) x (n, m) product a term.

    Args:
        x: Inputs (n, d).
        weight: W (m, d), as in `torch.nn.Linear`.
        terms: k, at least 1.

    Returns:
        The sparse weight (m, d), the error in the Frobenius norm of the outputs, and Maurey's bound on it.

    Raises:
        SettingError: Shapes that do not match.
        NumericalError: Entries that are not finite.

    Example:
        >>> import torch
        >>> x, weight = torch.randn(50, 30, generator=torch.Generator().manual_seed(0)), torch.eye(30)
        >>> found = sparsify_linear(x, weight, terms=200)
        >>> found.error <= found.bound, found.weights.shape
        (True, torch.Size([30, 30]))

    Source: Bartlett, Foster & Telgarsky 2017, lemma 3.2 and its proof; Zhang 2002, theorem 3.
    """
    if x.ndim != 2 or weight.ndim != 2 or x.shape[1] != weight.shape[1] or 0 in (*x.shape, *weight.shape):
        raise SettingError(
            "sparsify_linear needs inputs (n, d) and a weight (m, d)",
            f"shapes {tuple(x.shape)} and {tuple(weight.shape)}",
            "Pass the inputs that the layer sees, one a row.",
        )
    rows, w = x.detach().double(), weight.detach().double()
    _check_finite(rows, w)
    lengths = rows.norm(dim=0)
    unit = torch.where(lengths > 0, rows / lengths, 0.0)
    mass, signs = w.abs() * lengths, w.sign()
    outputs = rows @ w.T

    def scores(residual: Tensor) -> Tensor:
        return (signs * (residual.view(outputs.shape).T @ unit)).flatten()

    def atom(index: int) -> Tensor:
        output, column = divmod(index, w.shape[1])
        placed = torch.zeros_like(outputs)
        placed[:, output] = signs[output, column] * unit[:, column]
        return placed.flatten()

    flat = mass.flatten()
    counts, error = _choose(
        flat, torch.ones_like(flat), outputs.flatten(), scores, atom, check_count("terms", terms)
    )
    total = float(flat.sum())
    share = torch.where(lengths > 0, total / (terms * lengths), 0.0)
    bound = _promise(total, total, float(outputs.square().sum()), terms)
    return Sparsification(counts.view(w.shape) * signs * share, error, bound)


def _choose(
    weights: Tensor,
    squares: Tensor,
    target: Tensor,
    scores: Callable[[Tensor], Tensor],
    atom: Callable[[int], Tensor],
    terms: int,
) -> tuple[Tensor, float]:
    """How often each atom is taken, and the distance of their average from the target."""
    total = float(weights.sum())
    counts = torch.zeros_like(weights)
    residual = torch.zeros_like(target)  # j times the target minus the atoms taken, each times the total
    if total == 0:
        return counts, 0.0
    for _ in range(terms):
        wanted = residual + target
        # Finishing at random adds the same variance whatever is taken now, so the next residual alone counts.
        value = total * squares - 2 * scores(wanted)
        best = int(torch.where(weights > 0, value, math.inf).argmin())
        counts[best] += 1
        residual = wanted - total * atom(best)
    return counts, float(residual.norm()) / terms


def _promise(total: float, second_moment: float, square: float, terms: int) -> float:
    return math.sqrt(max(0.0, total * second_moment - square) / terms)


def _check_finite(*tensors: Tensor) -> None:
    if not all(bool(torch.isfinite(t).all()) for t in tensors):
        raise NumericalError(
            "Sparsification needs finite numbers", "NaN or infinity", "Check the inputs and weights."
        )
