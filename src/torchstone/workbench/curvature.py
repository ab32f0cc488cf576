"""The ends of the Hessian's spectrum, searched once for all instruments that need some of it."""

from __future__ import annotations

import math
from dataclasses import replace

import torch

from torchstone.linalg import (
    Eigenpairs,
    ExtremeEigenpairs,
    LanczosQuadrature,
    extreme_eigenpairs,
    lanczos_quadrature,
)
from torchstone.operators.hessian import Hessian
from torchstone.specimen import Specimen

PAIRS = 16
TOLERANCE = 1e-3
PRODUCTS = 200
PROBES = 3
STEPS = 20
EXACT_UP_TO = 256  # weights for which all eigenvalues are computed instead of estimated
_VECTORS = 32  # that a search needs besides five a pair


def ends_of_spectrum(
    specimen: Specimen,
    split: str,
    largest: int,
    tolerance: float,
    products: int,
    memory_bytes: int,
    generator: torch.Generator,
) -> ExtremeEigenpairs:
    """The `largest` largest eigenpairs and the smallest one, fewer where their vectors would not fit the memory."""
    hessian = Hessian(specimen, split, memory_bytes=memory_bytes // 2)
    n = hessian.shape[0]
    vector = n * torch.finfo(hessian.dtype).bits // 8
    affordable = (memory_bytes // vector - _VECTORS) // 5 - 1
    largest = max(1, min(largest, affordable, n))
    return extreme_eigenpairs(
        hessian,
        largest=largest,
        smallest=1,
        tolerance=tolerance,
        max_products=max(products, 2 * (largest + 1) + 5),
        generator=generator,
        memory_bytes=memory_bytes if affordable >= largest else None,
    )


def first(pairs: ExtremeEigenpairs, k: int, tolerance: float) -> Eigenpairs:
    """The k largest of the pairs, converged by a tolerance of their own."""
    top = pairs.largest
    scale = float(torch.cat([top.values[:1].abs(), pairs.smallest.values[:1].abs()]).max())
    converged = bool((top.residuals[:k] <= tolerance * scale).all())
    return replace(
        top,
        values=top.values[:k],
        vectors=top.vectors[:, :k],
        residuals=top.residuals[:k],
        converged=converged,
        others=top.others if k >= len(top.values) else math.nan,
    )


def density_of_spectrum(
    specimen: Specimen,
    split: str,
    ends: ExtremeEigenpairs,
    probes: int,
    steps: int,
    memory_bytes: int,
    generator: torch.Generator,
) -> LanczosQuadrature:
    """All eigenvalues of a small Hessian; of a larger one Gauss rules, with the converged largest pairs as exact atoms."""
    hessian = Hessian(specimen, split, memory_bytes=memory_bytes // 2)
    n = hessian.shape[0]
    if n <= EXACT_UP_TO:
        return lanczos_quadrature(hessian, probes=n, steps=steps, generator=generator)
    scale = float(torch.cat([ends.largest.values, ends.smallest.values]).abs().max())
    good = int((ends.largest.residuals <= TOLERANCE * scale).long().cumprod(0).sum())
    known = first(ends, good, TOLERANCE) if good else None
    return lanczos_quadrature(hessian, probes=probes, steps=steps, generator=generator, known=known)


def layers(names: tuple[str, ...]) -> dict[str, tuple[str, ...]]:
    """Parameters by the module that holds them, in order: weight and bias of a layer belong together.

    >>> layers(("0.weight", "0.bias", "scale"))
    {'0': ('0.weight', '0.bias'), 'scale': ('scale',)}
    """
    found: dict[str, tuple[str, ...]] = {}
    for name in names:
        owner = name.rpartition(".")[0] or name
        found[owner] = (*found.get(owner, ()), name)
    return found


def rounding_floor(specimen: Specimen, scale: float) -> float:
    """How far a Rayleigh quotient may be off by rounding: 10 eps |H|, with eps of the parameters' coarsest type.

    Args:
        specimen: Whose Hessian it is.
        scale: |H|, its largest eigenvalue in magnitude.
    """
    return 10 * scale * max(torch.finfo(p.dtype).eps for p in specimen.trainable.values())
