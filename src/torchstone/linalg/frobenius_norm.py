"""The Frobenius norm of a linear map from products with random vectors."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch

from torchstone.errors import SettingError
from torchstone.linalg.as_linear_map import as_linear_map
from torchstone.linalg.linear_map import LinearMap
from torchstone.linalg.orthonormalise import column_norms
from torchstone.linalg.probes import Distribution, draw_probes
from torchstone.linalg.sampling import Precision, draw_until, require_at_least
from torchstone.linalg.trace import TraceEstimate

_LEAST = 20  # probes that a standard error is trusted to


@dataclass(frozen=True)
class FrobeniusEstimate:
    """A Frobenius norm and its square.

    Attributes:
        squared: ||A||_F^2, unbiased, with its standard error and samples.
    """

    squared: TraceEstimate

    @property
    def value(self) -> float:
        """||A||_F; below the truth on average by about standard_error^2 / (2 value)."""
        return math.sqrt(self.squared.value)

    @property
    def standard_error(self) -> float:
        """Of the norm, to first order: that of the square over 2 ||A||_F."""
        return (
            self.squared.standard_error / (2 * self.value) if self.value > 0 else self.squared.standard_error
        )

    def interval(self, confidence: float = 0.95) -> tuple[float, float]:
        """The roots of the ends of Student's t interval for the square."""
        low, high = self.squared.interval(confidence)
        return math.sqrt(max(low, 0.0)), math.sqrt(high)


def frobenius_norm(
    A: LinearMap | Any,
    *,
    probes: int | None = None,
    tolerance: float | None = None,
    distribution: Distribution = "rademacher",
    generator: torch.Generator,
    max_probes: int = 10_000,
    block: int = 10,
) -> FrobeniusEstimate:
    """||A||_F from E ||A x||^2 = ||A||_F^2 for x of uncorrelated entries of variance 1.

    No transpose is needed, and A need not be square. The square is Hutchinson's estimate for A^T A: a probe's variance is
    at most 2 ||A^T A||_F^2 <= 2 ||A||_F^4, so m probes give the norm up to a relative error of at most sqrt(1 / (2m)),
    and far less where many singular values matter.

    Cost: one product a probe, `block` at a time; n products where that is no more (then exact); memory 2 block vectors.

    Args:
        A: A map (m, n), or what `as_linear_map` takes.
        probes: This many, at least 1; with neither this nor a tolerance, 100. Or
        tolerance: until the relative standard error of the norm is at most this, after 20 probes or more.
        distribution: Of the probes' entries: "rademacher" or "gaussian".
        generator: Draws the probes.
        max_probes: With a tolerance, at most this many.
        block: Columns of a product.

    Raises:
        SettingError: A setting out of range.
        NumericalError: Products with NaN or Inf.

    >>> frobenius_norm(torch.diag(torch.tensor([3.0, 4.0])), probes=1, generator=torch.Generator()).value
    5.0

    Source: Avron & Toledo 2011, J. ACM 58(2), on A^T A; Gratton & Titley-Peloquin 2018 for few probes.
    """
    A = as_linear_map(A)
    if probes is not None and tolerance is not None:
        raise SettingError("frobenius_norm takes probes or a tolerance", "both", "Drop one of them.")
    require_at_least("block", block, 1)
    n = A.shape[1]
    if tolerance is not None:
        require_at_least("max_probes", max_probes, _LEAST)
        _ = Precision(tolerance)  # names the value that was passed
        precision, least, most = Precision(2 * tolerance), _LEAST, max_probes
    else:
        precision, least = None, 100 if probes is None else probes
        require_at_least("probes", least, 1)
        most = least
        if least >= n:
            return FrobeniusEstimate(TraceEstimate.exactly(_exact(A, block), n))
    draw = lambda count: column_norms(A.matmat(draw_probes(A, count, generator, distribution)).detach()) ** 2
    samples, precise = draw_until(lambda count: draw(count).cpu(), precision, least, most, block)
    return FrobeniusEstimate(TraceEstimate.of(samples, len(samples), precise))


def _exact(A: LinearMap, block: int) -> float:
    """||A||_F^2 from n products."""
    n, total = A.shape[1], 0.0
    for start in range(0, n, block):
        X = torch.zeros(n, min(block, n - start), dtype=A.dtype, device=A.device)
        X[start : start + X.shape[1]].fill_diagonal_(1)
        total += float(column_norms(A.matmat(X).detach()).square().sum())
    return total
