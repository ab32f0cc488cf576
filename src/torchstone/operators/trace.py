"""The trace of the Hessian: exact where the network allows it, a small estimated remainder where not."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from torchstone.errors import SettingError
from torchstone.linalg import draw_probes
from torchstone.operators.curvature_map import GRAPH_BYTES
from torchstone.operators.gauss_newton import GaussNewton
from torchstone.operators.gauss_newton_trace import GaussNewtonTrace, gauss_newton_trace, total_variance
from torchstone.operators.hessian import Hessian
from torchstone.specimen import Specimen


@dataclass(frozen=True)
class ParameterTrace:
    """The trace of one parameter's block of the Hessian.

    Attributes:
        value: The trace, or its estimate.
        standard_error: From the probes; 0 where exact.
        size: Entries of the parameter.
        exact: Whether the value is exact up to rounding.
        why: What made an estimate necessary, or an empty string.
    """

    value: float
    standard_error: float
    size: int
    exact: bool
    why: str = ""


@dataclass(frozen=True)
class TraceResult:
    """The trace of the Hessian of the empirical risk, with what its error bars cover.

    Attributes:
        value: tr(H), of the mean loss.
        per_parameter: The share of each trainable parameter, by name; they add up to the value.
        exact: Whether the value is exact up to rounding.
        why: One sentence: what made it exact, or what did not and what was done.
        standard_error: From random probes and sampled cotangents; 0 where exact, infinite for a single probe.
        probes: Probes of the remainder; 0 where there were none.
        columns: Cotangents back-propagated for each example.
        example_traces: Each example's share of the exact or sampled Gauss-Newton part (N,), on the CPU; empty where
            there is none. Their mean is that part.
        example_standard_error: Of the value as an estimate for the law the examples were drawn from: standard deviation
            of `example_traces` over sqrt(N). NaN where there are none.
        converged: False where `max_probes` came before the tolerance.
        how: How Hessian products were made, where there were any.
    """

    value: float
    per_parameter: dict[str, ParameterTrace]
    exact: bool
    why: str
    standard_error: float
    probes: int
    columns: int
    example_traces: Float[Tensor, " n"]
    example_standard_error: float
    converged: bool = True
    how: str = ""

    def interval(self, confidence: float = 0.95) -> tuple[float, float]:
        """Student's t interval for tr(H) of these examples, which covers probes only; a point where exact."""
        from scipy.special import stdtrit

        if self.standard_error == 0:
            return (self.value, self.value)
        draws = min(count for count in (self.probes, self.columns if not self.probes else 0) if count) or 2
        reach = float(stdtrit(max(1, draws - 1), (1 + confidence) / 2)) * self.standard_error
        return (self.value - reach, self.value + reach)


def hessian_trace(
    specimen: Specimen,
    split: str = "train",
    *,
    tolerance: float = 0.02,
    min_probes: int = 10,
    max_probes: int = 100,
    max_columns: int = 128,
    samples: int = 16,
    generator: torch.Generator,
    memory_bytes: int = GRAPH_BYTES,
) -> TraceResult:
    r"""tr(H) of the empirical risk in the trainable parameters.

    H = G + R with the Gauss-Newton matrix G. tr(G) is a sum of squared norms of per-example gradients and is computed
    exactly (`gauss_newton_trace`). tr(R) is exactly zero in each parameter that the outputs depend on piecewise
    linearly, which is read off the graph (`curved_parameters`): all of them in networks of linear, convolution and
    evaluation-mode batch normalisation layers with ReLU-like activations. For the other parameters tr(R) is estimated
    with Rademacher probes; R is small where the fit is good, so few are needed. Parameters without a Gauss-Newton part
    (coupled examples, unknown losses) have their whole trace estimated.

    Cost: see `gauss_newton_trace`; and for each probe a Hessian and a Gauss-Newton product.

    Args:
        specimen: What is examined.
        split: Part of the data.
        tolerance: Probes are added until the standard error is at most this share of the value.
        min_probes: At least this many probes where there are any, 2 or more.
        max_probes: At most this many.
        max_columns: Outputs an example up to which all cotangents are back-propagated.
        samples: Sampled cotangents beyond that, 2 or more.
        generator: Draws probes and samples.
        memory_bytes: For kept graphs and for the norms.

    Raises:
        SpecimenError: No trainable parameter.
        SettingError: A setting out of range.

    Source: Hutchinson 1990; Martens 2020, JMLR 21(146), section 8 (G = H for piecewise linear networks' diagonal
    blocks); Botev, Ritter & Barber 2017, ICML, section 3.2 (diagonal blocks under piecewise linear activations).
    """
    _require(tolerance, min_probes, max_probes, max_columns, samples)
    gauss_newton = gauss_newton_trace(
        specimen,
        split,
        max_columns=max_columns,
        samples=samples,
        generator=generator,
        memory_bytes=memory_bytes // 2,
    )
    names = [
        name for name in specimen.trainable if name in gauss_newton.curved or name in gauss_newton.missing
    ]
    known = sum(map(gauss_newton.value, gauss_newton.by_example))
    variance = total_variance(gauss_newton)
    remainder = _Remainder(specimen, split, names, gauss_newton, generator, memory_bytes) if names else None
    converged = variance**0.5 <= tolerance * abs(known) or not variance
    if remainder is not None:
        converged = remainder.estimate(known, variance, tolerance, min_probes, max_probes)
    return _result(specimen, gauss_newton, remainder, converged)


class _Remainder:
    """Probes of what the Gauss-Newton part leaves of the Hessian, in the parameters where it leaves something."""

    def __init__(
        self,
        specimen: Specimen,
        split: str,
        names: list[str],
        gauss_newton: GaussNewtonTrace,
        generator: torch.Generator,
        memory_bytes: int,
    ) -> None:
        self.names, self.generator = names, generator
        self.subtracted = [name for name in names if name not in gauss_newton.missing]
        share = memory_bytes // (2 if self.subtracted else 1)
        self.hessian = Hessian(specimen, split, names, memory_bytes=share)
        self.gauss_newton = (
            GaussNewton(specimen, split, names, memory_bytes=share) if self.subtracted else None
        )
        self.samples = torch.zeros(0, len(names), dtype=torch.float64)

    def estimate(
        self,
        known: float,
        variance: float,
        tolerance: float,
        min_probes: int,
        max_probes: int,
        block: int = 5,
    ) -> bool:
        """Add probes until the whole trace is precise enough, or there are too many; whether it is."""
        while True:
            target = min_probes if len(self.samples) < min_probes else max_probes
            self._probe(min(block, target - len(self.samples)))
            totals = self.samples.sum(1)
            error = math.sqrt(variance + float(totals.var()) / len(totals)) if len(totals) > 1 else math.inf
            precise = error <= tolerance * abs(known + float(totals.mean()))
            if len(totals) >= min_probes and (precise or len(totals) >= max_probes):
                return precise

    def _probe(self, count: int) -> None:
        X = draw_probes(self.hessian, count, self.generator, "rademacher")
        curved = self.hessian.matmat(X)
        flat = self.gauss_newton.matmat(X) if self.gauss_newton is not None else None
        rows = []
        for name, part in self.hessian.space.slices.items():
            product = curved[part].double()
            if flat is not None and name in self.subtracted:
                product = product - flat[part].double()
            rows.append((X[part].double() * product).sum(0))
        self.samples = torch.cat([self.samples, torch.stack(rows, dim=1).cpu()])


def _result(
    specimen: Specimen, gauss_newton: GaussNewtonTrace, remainder: _Remainder | None, converged: bool
) -> TraceResult:
    per_parameter = {}
    for name, parameter in specimen.trainable.items():
        value, variance = 0.0, 0.0
        why = gauss_newton.missing.get(name) or gauss_newton.curved.get(name, "")
        if name in gauss_newton.by_example:
            value, variance = gauss_newton.value(name), gauss_newton.variance(name)
        if remainder is not None and name in remainder.names:
            column = remainder.samples[:, remainder.names.index(name)]
            value, variance = value + float(column.mean()), variance + float(column.var()) / len(column)
        exact = not why and not gauss_newton.by_sample
        per_parameter[name] = ParameterTrace(value, math.sqrt(variance), parameter.numel(), exact, why)
    variance = total_variance(gauss_newton)
    if remainder is not None:
        totals = remainder.samples.sum(1)
        variance += float(totals.var()) / len(totals)
    by_example = list(gauss_newton.by_example.values())
    examples = torch.stack(by_example).sum(0) if by_example else torch.zeros(0, dtype=torch.float64)
    exact = all(one.exact for one in per_parameter.values())
    return TraceResult(
        value=math.fsum(one.value for one in per_parameter.values()),
        per_parameter=per_parameter,
        exact=exact,
        why=_why(gauss_newton, exact),
        standard_error=math.sqrt(variance),
        probes=len(remainder.samples) if remainder is not None else 0,
        columns=gauss_newton.columns,
        example_traces=examples,
        example_standard_error=float(examples.std()) / math.sqrt(len(examples))
        if len(examples) > 1
        else math.nan,
        converged=converged,
        how=remainder.hessian.how if remainder is not None else "",
    )


def _why(gauss_newton: GaussNewtonTrace, exact: bool) -> str:
    if exact:
        return (
            "The outputs are piecewise linear in each parameter, so the trace is that of the Gauss-Newton matrix: "
            "a sum of squared gradient norms, computed without probes."
        )
    reasons = []
    if gauss_newton.curved:
        operations = sorted(set(gauss_newton.curved.values()))
        reasons.append(
            f"the outputs may be curved in {len(gauss_newton.curved)} parameters (by {', '.join(operations[:4])}), where "
            "the difference to the Gauss-Newton part was estimated with probes"
        )
    if gauss_newton.missing:
        reason = next(iter(gauss_newton.missing.values()))
        reasons.append(
            f"{len(gauss_newton.missing)} parameters have no Gauss-Newton part by examples ({reason}), so that their "
            "trace was estimated with probes"
        )
    if gauss_newton.by_sample:
        reasons.append("there are too many outputs to go through, so that they were sampled")
    return f"Estimated: {'; '.join(reasons)}."


def _require(tolerance: float, min_probes: int, max_probes: int, max_columns: int, samples: int) -> None:
    if not 0 < tolerance < math.inf:
        raise SettingError("tolerance must be positive", f"{tolerance}", "0.02 asks for 2%.")
    for name, value, least in (
        ("min_probes", min_probes, 2),
        ("max_probes", max_probes, min_probes),
        ("max_columns", max_columns, 0),
        ("samples", samples, 2),
    ):
        if value < least:
            raise SettingError(f"{name} must be at least {least}", f"{value}", "Raise it.")
