"""Exact non-zero eigenvalues of a curvature matrix through the Gram matrix of its factors, where there are few."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from torchstone.errors import SettingError
from torchstone.operators.cotangents import Cotangents, OfCurvature, OfLoss
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
    count = specimen.size(split)
    cotangents = _cotangents(specimen, kind, samples, generator, most_rows, count)
    paired = PairedRows(specimen, space, cotangents, memory_bytes)
    gram = paired.gram(split)
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
    vectors = torch.zeros(space.size, 0, dtype=torch.float64, device=space.device)
    if chosen.shape[1]:
        vectors = paired.combinations(split, chosen)
    vectors = vectors / vectors.norm(dim=0).clamp(min=torch.finfo(torch.float64).tiny)
    formed = tuple(name for name in space.names if name in paired.formed)
    return DualSpectrum(kept, vectors, min(rank, possible), float(kept.sum()), len(gram), space.size, formed)


def _cotangents(
    specimen: Specimen,
    kind: str,
    samples: int,
    generator: torch.Generator | None,
    most_rows: int,
    count: int,
) -> Cotangents:
    if kind not in get_args(DualKind):
        raise SettingError(
            "kind must be one of " + ", ".join(map(repr, get_args(DualKind))),
            repr(kind),
            'Pass "gauss_newton".',
        )
    if kind == "sampled_fisher":
        drawn = fisher_cotangents(specimen, "sampled", samples, generator)
        assert drawn is not None
        _require_few(count * samples, most_rows)
        return drawn
    _require_few(count, most_rows)
    if kind in ("empirical_fisher", "gradient_covariance"):
        return OfLoss()
    if kind == "fisher":
        require_predictive(specimen.objective, "true")
    return OfCurvature(most_rows // count)


def _require_few(rows: int, most: int) -> None:
    if rows > most:
        raise SettingError(
            f"The dual needs at most {most:,} rows (examples times factors an example)",
            f"{rows:,}",
            "Use top_eigenpairs on the map itself, fewer examples, or raise most_rows: time grows with its cube.",
        )


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


def _require(k: int, most_rows: int) -> None:
    for name, value, least in (("k", k, 0), ("most_rows", most_rows, 1)):
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise SettingError(f"{name} must be a whole number of {least} or more", repr(value), "Pass 10.")
