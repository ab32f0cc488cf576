"""Traces of functions of a symmetric map, log-determinants among them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from torchstone.errors import NumericalError
from torchstone.linalg.as_linear_map import as_linear_map
from torchstone.linalg.eigen import Eigenpairs
from torchstone.linalg.function_trace import FunctionTrace
from torchstone.linalg.linear_map import LinearMap, require_symmetric
from torchstone.linalg.sampling import require_at_least
from torchstone.linalg.slq import LanczosQuadrature, exact_spectrum, lanczos_quadrature


def trace_of_function(
    A: LinearMap | Any,
    f: Callable[[Tensor], Tensor],
    *,
    probes: int = 30,
    steps: int = 30,
    generator: torch.Generator,
    known: Eigenpairs | None = None,
) -> FunctionTrace:
    """The trace of f(A) by stochastic Lanczos quadrature; exact where n products are no more than probes * steps.

    Accuracy: sampling error sqrt(2 / probes) (||f(A)||_F^2 - (tr f(A))^2 / n)^(1/2), less where f(A) is near a
    multiple of the identity; quadrature error falling geometrically with the steps where f is analytic on the spectrum
    (twice as fast as polynomials of degree k approximate f), and said in the result.

    Cost: at most probes * steps products; memory steps + 3 vectors, or n^2 numbers if exact.

    Args:
        A: A symmetric map, or what `as_linear_map` takes.
        f: Elementwise function of a float64 tensor, finite on the spectrum.
        probes: Number of random vectors, at least 1; the error bars need 2.
        steps: Lanczos steps a vector, at least 2.
        generator: Draws the vectors.
        known: Eigenpairs that are treated exactly, such as outliers.

    Raises:
        SettingError: Not symmetric, or a setting out of range.
        NumericalError: Products with NaN or Inf, or f not finite on the spectrum.

    >>> A = torch.diag(torch.arange(1.0, 51))
    >>> round(trace_of_function(A, torch.sqrt, generator=torch.Generator()).value, 3)
    239.036

    Source: Ubaru, Chen & Saad 2017, SIAM J. Matrix Anal. Appl. 38(4), theorem 4.1.
    """
    return _quadrature(A, "trace_of_function", probes, steps, generator, known).trace_of(f)


def log_determinant(
    A: LinearMap | Any,
    *,
    probes: int = 30,
    steps: int = 30,
    generator: torch.Generator,
    known: Eigenpairs | None = None,
) -> FunctionTrace:
    """The log-determinant tr ln A of a symmetric positive definite map, as `trace_of_function` computes it.

    Gauss rules overestimate it: the derivatives of even order of the logarithm are negative. For a condition number
    kappa the quadrature error falls like ((sqrt(kappa) - 1) / (sqrt(kappa) + 1))^(2 steps).

    Every node lies within the spectrum, so one that is not positive refutes definiteness; that all are positive does not
    prove it.

    Cost: at most probes * steps products; memory steps + 3 vectors, or n^2 numbers if exact.

    Args:
        A: A symmetric positive definite map, or what `as_linear_map` takes.
        probes: Number of random vectors, at least 1; the error bars need 2.
        steps: Lanczos steps a vector, at least 2.
        generator: Draws the vectors.
        known: Eigenpairs that are treated exactly, such as the largest or smallest ones.

    Raises:
        SettingError: Not symmetric, or a setting out of range.
        NumericalError: Products with NaN or Inf, or an eigenvalue estimate that is not positive beyond rounding.

    >>> A = torch.diag(torch.arange(1.0, 51))
    >>> round(log_determinant(A, generator=torch.Generator()).value, 3)  # ln 50!
    148.478

    Source: Ubaru, Chen & Saad 2017, SIAM J. Matrix Anal. Appl. 38(4), section 4.
    """
    rules = _quadrature(A, "log_determinant", probes, steps, generator, known)
    low, high = rules.support
    if low <= 10 * rules.rounding * max(abs(low), abs(high)):
        raise NumericalError(
            "The logarithm needs a positive definite map",
            f"an eigenvalue estimate of {low:.3g}, the largest being {high:.3g}",
            "Add a damping: A + c I, with c above that; or use trace_of_function with a function defined there.",
        )
    return rules.trace_of(torch.log)


def _quadrature(
    A: LinearMap | Any,
    routine: str,
    probes: int,
    steps: int,
    generator: torch.Generator,
    known: Eigenpairs | None,
) -> LanczosQuadrature:
    A = as_linear_map(A)
    require_symmetric(A, routine)
    require_at_least("probes", probes, 1)
    require_at_least("steps", steps, 2)
    if A.shape[0] <= probes * steps:
        return exact_spectrum(A, steps, seed=0)
    return lanczos_quadrature(A, probes=probes, steps=steps, generator=generator, known=known)
