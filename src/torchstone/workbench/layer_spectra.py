r"""The spectrum of one weight matrix: its bulk, its outliers, its tail, and the same of its entries in random order."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from torchstone.bounds.interval import Interval
from torchstone.bounds.pareto_tail import ParetoTail, fit_pareto_tail, resampled_exponents
from torchstone.errors import NumericalError
from torchstone.kernels.spectrum import stable_rank
from torchstone.linalg.marchenko_pastur import BulkFit, fit_marchenko_pastur


@dataclass(frozen=True)
class LayerSpectrum:
    r"""What the eigenvalues of :math:`W^\top W / \max(n, p)` of an n x p matrix say.

    Attributes:
        name: Of the weight.
        rows: n.
        columns: p.
        eigenvalues: Of the smaller side, ascending, float64.
        bulk: The fitted Marchenko-Pastur law and what stands above it.
        tail: The fitted power law; None where there are too few eigenvalues for one.
        stable_rank: Sum of the eigenvalues over the largest.
        error: Standard error of the tail's exponent, the search for its start included; NaN without a tail.
    """

    name: str
    rows: int
    columns: int
    eigenvalues: Tensor
    bulk: BulkFit
    tail: ParetoTail | None
    stable_rank: float
    error: float = math.nan

    @property
    def exponent(self) -> Interval | None:
        """The 95% interval of the tail's exponent; None without a tail."""
        if self.tail is None:
            return None
        half = 1.96 * self.error if math.isfinite(self.tail.alpha) else 0.0
        low, high = max(1.0, self.tail.alpha - half), self.tail.alpha + half
        return Interval(low, high, 0.95, "normal, standard error by bootstrap with the start searched again")

    @property
    def is_random_like(self) -> bool:
        """Whether no eigenvalue is larger than independent entries make by chance."""
        return self.bulk.outliers == 0


def layer_spectrum(
    name: str, matrix: Tensor, *, level: float, least: int, generator: torch.Generator
) -> LayerSpectrum | None:
    """The spectrum of a matrix; None where it is not finite, or has no bulk because its rank is too low.

    Cost: O(n p min(n, p)), in float64.

    Args:
        name: Of the weight.
        matrix: (n, p), both at least 2.
        level: Chance that independent entries show an outlier.
        least: Fewest positive eigenvalues for a power law.
        generator: Draws the resamples of the eigenvalues.
    """
    values = _eigenvalues(matrix)
    if values is None:
        return None
    rows, columns = matrix.shape
    try:
        bulk = fit_marchenko_pastur(values, rows, columns, level=level)
    except NumericalError:
        return None
    # Below rounding there is nothing but rounding.
    positive = values[values > 1e-12 * values[-1]]
    tail = fit_pareto_tail(positive, least=10) if len(positive) >= least else None
    error = math.nan
    if tail is not None:
        again = resampled_exponents(positive, generator)
        finite = again[again.isfinite()]
        error = float(finite.std()) if len(finite) > 1 else tail.standard_error
    return LayerSpectrum(name, rows, columns, values, bulk, tail, stable_rank(values), error)


def shuffled(matrix: Tensor, generator: torch.Generator) -> Tensor:
    """The same entries in random order: their distribution stays, every correlation goes."""
    order = torch.randperm(matrix.numel(), generator=generator)
    return matrix.detach().cpu().flatten()[order].view(matrix.shape)


def _eigenvalues(matrix: Tensor) -> Tensor | None:
    wide = matrix.detach().cpu().double()
    if not bool(torch.isfinite(wide).all()) or not bool(wide.any()):
        return None
    wide = wide / wide.abs().max()  # squares of tiny or huge entries stay in range
    narrow = wide if wide.shape[0] >= wide.shape[1] else wide.T
    values = torch.linalg.eigvalsh(narrow.T @ narrow).clamp(min=0) / len(narrow)
    scaled = values * float(matrix.detach().abs().max().double()) ** 2
    return scaled if bool(torch.isfinite(scaled).all()) and float(scaled[-1]) > 0 else None
