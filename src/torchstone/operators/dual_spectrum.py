"""Exact non-zero eigenvalues of a curvature matrix through the Gram matrix of its factors, where there are few."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from torchstone.batches import Batch
from torchstone.errors import SettingError
from torchstone.operators.cotangents import Cotangents, OfCurvature, OfLoss
from torchstone.operators.double_backward import twice_differentiable
from torchstone.operators.fisher import fisher_cotangents
from torchstone.operators.paired_rows import PairedRows
from torchstone.operators.parameter_space import ParameterSpace
from torchstone.operators.predictive import require_predictive
from torchstone.specimen import Specimen

DualKind = Literal["gauss_newton", "fisher", "sampled_fisher", "empirical_fisher", "gradient_covariance"]
MOST_ROWS = 4096
GRAM_BYTES = 2**29


@dataclass(frozen=True)
class DualSpectrum:
    """Eigenvalues of a P x P matrix A^T S A / N from the R x R matrix A A^T.

    Attributes:
        values: The min(R, P) eigenvalues that may differ from zero, largest first, float64, on the CPU; all others are
            zero. Those of a loss that is not convex in the outputs may be negative and come last.
        vectors: Unit eigenvectors of the first k as columns (P, k), float64, on the network's device.
        rank: Number of eigenvalues that differ from zero by more than rounding.
        trace: Their sum.
        rows: R: examples times factors an example.
        size: P.
        formed: Parameters without a rule, whose gradients were formed.
    """

    values: Float[Tensor, " r"]
    vectors: Float[Tensor, "p k"]
    rank: int
    trace: float
    rows: int
    size: int
    formed: tuple[str, ...]


def dual_eigenpairs(
    specimen: Specimen,
    kind: DualKind = "gauss_newton",
    k: int = 0,
    *,
    split: str = "train",
    names: Iterable[str] | None = None,
    samples: int = 1,
    generator: torch.Generator | None = None,
    most_rows: int = MOST_ROWS,
    memory_bytes: int = GRAM_BYTES,
) -> DualSpectrum:
    r"""All eigenvalues of a curvature matrix of rank R, exactly, without ever holding a vector of parameters per row.

    Each of the matrices is A^T S A / N, with a row J_n^T s_nc of A for every factor of every example and signs S. Its non-zero
    eigenvalues are those of S A A^T / N, which is R x R:

    - "gauss_newton": s_nc are columns of a root of the loss Hessian in the outputs, R = N (C - 1) for softmax over C
      classes, N D for squared error over D outputs;
    - "fisher": the same, for objectives with a predictive distribution (see `Fisher`);
    - "sampled_fisher": R = N samples;
    - "empirical_fisher": s_n is the gradient of the loss in the outputs, R = N;
    - "gradient_covariance": the same with the mean subtracted.

    Cost: a forward and R / N + 2 backward passes, the Gram matrix (see `gradient_gram`) and R^3 operations; k further
    backward passes for k eigenvectors. Memory: some R^2 numbers. Error: rounding of the network's type relative to the
    largest eigenvalue, so that eigenvalues below 1e-6 of it mean little for a float32 network.

    Args:
        specimen: What is examined.
        kind: Which matrix.
        k: Eigenvectors wanted, of the eigenvalues largest in size; no more than the rank are given.
        split: Part of the data.
        names: Only these parameters: the corresponding block. None for all trainable ones.
        samples: Labels drawn an example, for "sampled_fisher".
        generator: Draws them.
        most_rows: Refuse larger R.
        memory_bytes: For rows that are kept.

    Raises:
        SettingError: R too large; another kind; an objective or loss for which the matrix is not defined.
        SpecimenError: No trainable parameter; examples that influence each other.

    Source: Papyan 2019, ICML, section 3; Dangel, Tatzel & Hennig 2022, TMLR, "ViViT", section 2.2; for the Gram matrix
    Novak, Sohl-Dickstein & Schoenholz 2022, ICML.
    """
    space = ParameterSpace.of(specimen, names)
    _require(k, most_rows)
    cotangents = _cotangents(specimen, kind, samples, generator)
    paired = PairedRows(specimen, space, cotangents, memory_bytes, most_rows)
    gram = paired.gram(split)
    count = specimen.size(split)
    if kind == "gradient_covariance":
        gram = gram - gram.mean(0) - gram.mean(1, keepdim=True) + gram.mean()
    values, weights = _eigenpairs(gram, paired.signs, k)
    eps = torch.finfo(space.dtype if space.dtype == torch.float64 else torch.float32).eps
    floor = float(values.abs().max()) * eps * max(1, len(values)) if len(values) else 0.0
    rank = int((values.abs() > floor).sum())
    possible = min(len(values), space.size)
    # What rounding leaves beyond the size of the matrix is the smallest in size.
    kept = values[values.abs().argsort(descending=True)[:possible].sort().values] / count
    chosen = weights[:, : min(k, rank, possible)]
    vectors = _pulled_back(specimen, space, split, cotangents, chosen, paired.counts)
    vectors = vectors / vectors.norm(dim=0).clamp(min=torch.finfo(torch.float64).tiny)
    formed = tuple(name for name in space.names if name in paired.formed)
    return DualSpectrum(kept, vectors, min(rank, possible), float(kept.sum()), len(gram), space.size, formed)


def _cotangents(specimen: Specimen, kind: str, samples: int, generator: torch.Generator | None) -> Cotangents:
    if kind not in get_args(DualKind):
        raise SettingError(
            "kind must be one of " + ", ".join(map(repr, get_args(DualKind))),
            repr(kind),
            'Pass "gauss_newton".',
        )
    if kind in ("empirical_fisher", "gradient_covariance"):
        return OfLoss()
    if kind == "sampled_fisher":
        drawn = fisher_cotangents(specimen, "sampled", samples, generator)
        assert drawn is not None
        return drawn
    if kind == "fisher":
        require_predictive(specimen.objective, "true")
    return OfCurvature()


def _eigenpairs(gram: Tensor, signs: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Eigenvalues of S K, largest first, and the first k (by size) of its eigenvectors as columns."""
    if not len(gram):
        return gram.new_zeros(0), gram.new_zeros(0, 0)
    if bool((signs > 0).all()):
        if not k:
            return torch.linalg.eigvalsh(gram).flip(0), gram.new_zeros(len(gram), 0)
        values, vectors = torch.linalg.eigh(gram)
        return values.flip(0), vectors.flip(1)[:, :k]
    # S K has the eigenvalues of the symmetric R S R with R = K^(1/2), and the eigenvectors S R y.
    squares, basis = torch.linalg.eigh(gram)
    root = (basis * squares.clamp(min=0).sqrt()) @ basis.T
    values, vectors = torch.linalg.eigh(root @ (signs[:, None] * root))
    largest = values.abs().argsort(descending=True)[:k]
    return values.flip(0), signs[:, None] * (root @ vectors[:, largest])


def _pulled_back(
    specimen: Specimen,
    space: ParameterSpace,
    split: str,
    cotangents: Cotangents,
    weights: Float[Tensor, "r k"],
    counts: list[int],
) -> Float[Tensor, "p k"]:
    """A^T w for every column w: one backward pass each."""
    if not weights.shape[1]:
        return torch.zeros(space.size, 0, dtype=torch.float64, device=space.device)
    parts = dict(enumerate(weights.split(counts)))
    firsts = [0]
    for size in (specimen.objective.size(batch) for batch in specimen.split(split)):
        firsts.append(firsts[-1] + size)
    numbers = iter(range(specimen.processes.rank, len(parts), specimen.processes.count))

    def of_batch(batch: Batch) -> Tensor:
        number = next(numbers)
        with torch.enable_grad():
            outputs = specimen.forward(batch)
            columns, _ = cotangents.of(specimen, outputs, batch, firsts[number])
            if not outputs.requires_grad or not len(columns):
                return torch.zeros(space.size, weights.shape[1], dtype=torch.float64, device=space.device)
            shares = parts[number].to(outputs.device).reshape(outputs.shape[0], len(columns), -1)
            combined = torch.einsum("ncw,cn...->wn...", shares.to(columns.dtype), columns)
            pulled = [
                specimen.grad(outputs, space.parameters, batch, grad_outputs=one, retain_graph=True)
                for one in combined
            ]
        return torch.stack([space.flatten(one) for one in pulled], dim=1)

    with twice_differentiable(specimen.model, specimen.device):
        return specimen.sum_over(of_batch, split)


def _require(k: int, most_rows: int) -> None:
    for name, value, least in (("k", k, 0), ("most_rows", most_rows, 1)):
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise SettingError(f"{name} must be a whole number of {least} or more", repr(value), "Pass 10.")
