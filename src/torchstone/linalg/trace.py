"""Stochastic estimates of the trace of a linear map, with their errors."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from torchstone.errors import SettingError
from torchstone.linalg.as_linear_map import as_linear_map
from torchstone.linalg.finished_work import FinishedWork
from torchstone.linalg.linear_map import LinearMap, require_square
from torchstone.linalg.probes import Distribution, draw_probes
from torchstone.linalg.sampling import Precision, draw_until, require_at_least, standard_error


@dataclass(frozen=True)
class TraceEstimate:
    """A trace as the mean of unbiased samples, or exactly.

    Attributes:
        value: The estimate.
        standard_error: Of the value: sample standard deviation over sqrt(probes) where samples are independent, more
            where they are correlated. Infinite for a single probe; 0 for an exact trace.
        probes: Number of samples; 0 for an exact trace.
        samples: The samples themselves (probes,), in float64.
        products: Matrix-vector products spent.
        converged: False where the largest number of probes or products came before the tolerance asked for.
        method: What it was computed with.
    """

    value: float
    standard_error: float
    probes: int
    samples: Float[Tensor, " probes"]
    products: int
    converged: bool = True
    method: str = "Hutchinson"

    def interval(self, confidence: float = 0.95) -> tuple[float, float]:
        """Student's t interval for the trace, which covers the error of the probes and nothing else.

        Exact for normal samples. Quadratic forms are skewed where few eigenvalues carry the trace, and then a few
        probes cover less than they say.

        Args:
            confidence: Coverage aimed at, between 0 and 1.
        """
        from scipy.special import stdtrit

        if not 0 < confidence < 1:
            raise SettingError("confidence must lie between 0 and 1", f"{confidence}", "0.95 is usual.")
        if self.standard_error == 0:
            return (self.value, self.value)
        if self.probes < 2:
            return (-math.inf, math.inf)
        reach = float(stdtrit(self.probes - 1, (1 + confidence) / 2)) * self.standard_error
        return (self.value - reach, self.value + reach)

    @classmethod
    def of(cls, samples: Float[Tensor, " probes"], products: int, converged: bool = True) -> TraceEstimate:
        """The estimate that samples give."""
        value = float(samples[0] + (samples - samples[0]).mean())
        return cls(value, standard_error(samples), samples.shape[0], samples, products, converged)

    @classmethod
    def exactly(cls, value: float, products: int) -> TraceEstimate:
        """A trace without sampling error."""
        return cls(value, 0.0, 0, torch.empty(0, dtype=torch.float64), products, method="exact")


def hutchinson_trace(
    A: LinearMap | Any,
    *,
    probes: int | None = None,
    tolerance: float | None = None,
    absolute: float = 0.0,
    distribution: Distribution = "rademacher",
    generator: torch.Generator,
    min_probes: int = 20,
    max_probes: int = 10_000,
    block: int = 10,
    checkpoint: str | os.PathLike[str] | None = None,
) -> TraceEstimate:
    """Girard-Hutchinson estimate of a trace.

    tr(A) = E[x^T A x], estimated by (1/m) sum_{j=1}^m x_j^T A x_j with independent random x_j in R^n of uncorrelated
    entries of variance 1. Unbiased for a fixed number of probes. Variance of a probe: `rademacher_variance`,
    `gaussian_variance`; Rademacher probes never have the larger one. A need not be symmetric.

    With a tolerance, probes are added a block at a time until the standard error is at most
    max(tolerance |estimate|, absolute); stopping on an estimated error makes the interval cover a little less than it
    says, which `min_probes` limits.

    With as many probes as rows it stays an estimate; `exact_trace` costs no more then, and is what `trace` and `xtrace`
    turn to.

    Cost: one product a probe, `block` at a time; memory 2 block vectors.

    Args:
        A: A square map, or what `as_linear_map` takes.
        probes: This many probes, at least 1; or
        tolerance: stop at this relative standard error,
        absolute: or at this standard error, for traces that may be near zero.
        distribution: Of the probes' entries: "rademacher" or "gaussian".
        generator: Draws the probes.
        min_probes: With a tolerance, at least this many, 2 or more.
        max_probes: With a tolerance, at most this many.
        block: Columns of a product.
        checkpoint: A file that keeps the finished probes of a long run. A run with the same arguments and generator goes
            on from it to the same bits; it is deleted at the end.

    Returns:
        The estimate; with a tolerance, whether it was reached.

    Raises:
        SettingError: Not square, neither or both of probes and tolerance, a setting out of range, or a checkpoint of
            another run.
        FormatError: A damaged checkpoint.
        OutputError: A checkpoint that cannot be written.
        NumericalError: Products with NaN or Inf.

    >>> hutchinson_trace(torch.diag(torch.tensor([1.0, 2.0])), probes=3, generator=torch.Generator()).value
    3.0

    Source: Girard 1987; Hutchinson 1990, Communications in Statistics 19(2), section 2.
    """
    A = as_linear_map(A)
    require_square(A, "hutchinson_trace")
    precision = _precision(probes, tolerance, absolute)
    require_at_least("block", block, 1)
    if probes is not None:
        require_at_least("probes", probes, 1)
        least, most = probes, probes
    else:
        require_at_least("min_probes", min_probes, 2)
        require_at_least("max_probes", max_probes, min_probes)
        least, most = min_probes, max_probes
    settings = {"least": least, "most": most, "block": block, "distribution": distribution}
    forms = lambda X: quadratic_forms(A, X)
    with FinishedWork.of(checkpoint, "hutchinson_trace", A, generator, **settings) as finished:
        draw = lambda count: finished(draw_probes(A, count, generator, distribution), forms)
        samples, precise = draw_until(draw, precision, least, most, block)
    return TraceEstimate.of(samples, len(samples), precise)


def quadratic_forms(A: LinearMap, X: Float[Tensor, "n k"]) -> Float[Tensor, " k"]:
    """x^T A x of every column x, in float64 on the CPU. Cost: k products."""
    return (X * A.matmat(X).detach()).sum(dim=0, dtype=torch.float64).cpu()


def exact_trace(
    A: LinearMap | Any, *, block: int = 64, checkpoint: str | os.PathLike[str] | None = None
) -> float:
    """The trace from n products: sum_i e_i^T A e_i.

    Cost: n products, `block` at a time; memory 2 block vectors. Bias: none beyond rounding.

    Args:
        A: A square map, or what `as_linear_map` takes.
        block: Columns of a product.
        checkpoint: A file that keeps the finished entries of a long run, 8 bytes each. A run with the same arguments goes
            on from it to the same bits; it is deleted at the end.

    Raises:
        SettingError: Not square, block < 1, or a checkpoint of another run.
        FormatError: A damaged checkpoint.
        OutputError: A checkpoint that cannot be written.
        NumericalError: Products with NaN or Inf.

    >>> exact_trace(torch.tensor([[1.0, 5.0], [7.0, 2.0]]))
    3.0
    """
    A = as_linear_map(A)
    require_square(A, "exact_trace")
    require_at_least("block", block, 1)
    with FinishedWork.of(checkpoint, "exact_trace", A, None, block=block) as finished:
        return sum_of_diagonal(A, block, finished)


def sum_of_diagonal(A: LinearMap, block: int, finished: FinishedWork) -> float:
    """The exact trace, with the entries among a run's finished work. Cost: n products."""
    total = 0.0
    for start in range(0, A.shape[0], block):
        X = torch.zeros(A.shape[0], min(block, A.shape[0] - start), dtype=A.dtype, device=A.device)
        X[start : start + X.shape[1]].fill_diagonal_(1)
        total += float(finished(X, lambda X: quadratic_forms(A, X)).sum())
    return total


def _precision(probes: int | None, tolerance: float | None, absolute: float) -> Precision | None:
    if (probes is None) == (tolerance is None):
        raise SettingError(
            "hutchinson_trace needs either probes or a tolerance",
            "neither" if probes is None else "both",
            "Pass probes=100, or tolerance=0.01.",
        )
    return None if tolerance is None else Precision(tolerance, absolute)
