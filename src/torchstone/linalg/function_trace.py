"""The result of a stochastic tr f(A): its sampling error and its quadrature error."""

from __future__ import annotations

from dataclasses import dataclass

from torchstone.linalg.trace import TraceEstimate


@dataclass(frozen=True)
class FunctionTrace:
    """tr f(A) with both its errors.

    Attributes:
        estimate: The trace, with the error that comes from the probes.
        quadrature_error: How much the value moved over the second half of the Lanczos steps. More than what is missing
            where the error falls like 1/steps or faster, far more where it falls geometrically; no bound beyond that. 0
            where the quadrature is exact.
    """

    estimate: TraceEstimate
    quadrature_error: float

    @property
    def value(self) -> float:
        """The estimate of tr f(A)."""
        return self.estimate.value

    @property
    def standard_error(self) -> float:
        """Of the probes alone; infinite for a single one, 0 for an exact trace."""
        return self.estimate.standard_error

    @property
    def products(self) -> int:
        """Matrix-vector products spent."""
        return self.estimate.products

    def interval(self, confidence: float = 0.95) -> tuple[float, float]:
        """Student's t interval for the probes, wider by the quadrature error on both sides."""
        low, high = self.estimate.interval(confidence)
        return low - self.quadrature_error, high + self.quadrature_error
