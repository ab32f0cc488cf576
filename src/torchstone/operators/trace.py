"""The trace of the Hessian: exact where the network allows it, a small estimated remainder where not."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from torchstone.errors import SettingError
from torchstone.operators.curvature_map import GRAPH_BYTES
from torchstone.operators.gauss_newton_trace import GaussNewtonTrace, gauss_newton_trace, total_variance
from torchstone.operators.parameter_space import ParameterSpace
from torchstone.operators.remainder import Remainder
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
        probes: Random probes of the remainder; 0 where there were none.
        columns: Cotangents back-propagated for each example.
        sampled_columns: How many of them were drawn at random: all or none.
        example_traces: Each example's share of the exact or sampled Gauss-Newton part (N,), on the CPU; empty where
            there is none. Their mean is that part.
        example_standard_error: Of the value as an estimate for the law the examples were drawn from: standard deviation
            of `example_traces` over sqrt(N). NaN where there are none.
        converged: False where `max_probes` came before the tolerance.
        how: How Hessian products were made, where there were any.
        formed: Parameters whose per-example gradients had to be formed one by one.
    """

    value: float
    per_parameter: dict[str, ParameterTrace]
    exact: bool
    why: str
    standard_error: float
    probes: int
    columns: int
    sampled_columns: int
    example_traces: Float[Tensor, " n"]
    example_standard_error: float
    converged: bool = True
    how: str = ""
    formed: tuple[str, ...] = ()

    def interval(self, confidence: float = 0.95) -> tuple[float, float]:
        """Student's t interval for tr(H) of these examples, which covers probes only; a point where exact."""
        from scipy.special import stdtrit

        if self.standard_error == 0:
            return (self.value, self.value)
        # Where both were drawn, the fewer degrees of freedom of the two.
        draws = min(count for count in (self.probes, self.sampled_columns) if count)
        reach = float(stdtrit(draws - 1, (1 + confidence) / 2)) * self.standard_error
        return (self.value - reach, self.value + reach)


def hessian_trace(
    specimen: Specimen,
    split: str = "train",
    *,
    tolerance: float = 0.02,
    min_probes: int = 20,
    max_probes: int = 100,
    max_columns: int = 128,
    samples: int = 16,
    generator: torch.Generator,
    memory_bytes: int = GRAPH_BYTES,
    checkpoint: str | os.PathLike[str] | None = None,
) -> TraceResult:
    r"""tr(H) of the empirical risk in the trainable parameters.

    H = G + R with the Gauss-Newton matrix G. tr(G) is a sum of squared norms of per-example gradients and is computed
    exactly (`gauss_newton_trace`). tr(R) is exactly zero in each parameter that the outputs depend on piecewise
    linearly, which is read off the graph (`curved_parameters`): all of them in networks of linear, convolution and
    evaluation-mode batch normalisation layers with ReLU-like activations. For the other parameters tr(R) is estimated
    with Rademacher probes, or computed where they have no more than `max_probes` entries; R is small where the fit is
    good, so few probes are needed. Parameters without a Gauss-Newton part (coupled examples, unknown losses) have their
    whole trace estimated.

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
        checkpoint: A file that keeps the finished probes of a long run. A run with the same arguments and generator goes
            on from it to the same bits; it is deleted at the end.

    Raises:
        SpecimenError: No trainable parameter.
        SettingError: A setting out of range, or a checkpoint of another run.
        FormatError: A damaged checkpoint.
        OutputError: A checkpoint that cannot be written.

    Source: Hutchinson 1990; Martens 2020, JMLR 21(146), section 8 (G = H for piecewise linear networks' diagonal
    blocks); Botev, Ritter & Barber 2017, ICML, section 3.2 (diagonal blocks under piecewise linear activations).
    """
    _require(tolerance, min_probes, max_probes, max_columns, samples)
    ParameterSpace.of(specimen)  # refuses networks without parameters
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
    known = math.fsum(map(gauss_newton.value, gauss_newton.by_example))
    variance = total_variance(gauss_newton)
    if not names:
        converged = variance**0.5 <= tolerance * abs(known)
        return _result(specimen, gauss_newton, None, converged)
    remainder = Remainder(specimen, split, names, gauss_newton.missing, memory_bytes)
    if remainder.size <= max_probes:
        remainder.compute(checkpoint)
        converged = variance**0.5 <= tolerance * abs(known + remainder.total)
    else:
        converged = remainder.estimate(
            known, variance, tolerance, min_probes, max_probes, generator, checkpoint
        )
    return _result(specimen, gauss_newton, remainder, converged)


def _result(
    specimen: Specimen, gauss_newton: GaussNewtonTrace, remainder: Remainder | None, converged: bool
) -> TraceResult:
    traces = _per_parameter(specimen, gauss_newton, remainder)
    variance = total_variance(gauss_newton) + (remainder.variances()[-1] if remainder is not None else 0.0)
    by_example = list(gauss_newton.by_example.values())
    examples = torch.stack(by_example).sum(0) if by_example else torch.zeros(0, dtype=torch.float64)
    return TraceResult(
        value=math.fsum(one.value for one in traces.values()),
        per_parameter=traces,
        exact=all(one.exact for one in traces.values()),
        why=_why(gauss_newton, remainder),
        standard_error=math.sqrt(variance),
        probes=remainder.probes if remainder is not None else 0,
        columns=gauss_newton.columns,
        sampled_columns=gauss_newton.columns if gauss_newton.by_sample else 0,
        example_traces=examples,
        example_standard_error=float(examples.std()) / math.sqrt(len(examples))
        if len(examples) > 1
        else math.nan,
        converged=converged,
        how=remainder.hessian.how if remainder is not None else "",
        formed=tuple(name for name in specimen.trainable if name in gauss_newton.formed),
    )


def _per_parameter(
    specimen: Specimen, gauss_newton: GaussNewtonTrace, remainder: Remainder | None
) -> dict[str, ParameterTrace]:
    traces = {}
    rests = remainder.samples.mean(0).tolist() if remainder is not None else []
    variances = remainder.variances() if remainder is not None else []
    for name, parameter in specimen.trainable.items():
        value, variance, exact = 0.0, 0.0, not gauss_newton.by_sample
        why = gauss_newton.missing.get(name) or gauss_newton.curved.get(name, "")
        if name in gauss_newton.by_example:
            value, variance = gauss_newton.value(name), gauss_newton.variance(name)
        if remainder is not None and name in remainder.names:
            position = remainder.names.index(name)
            value, variance = value + rests[position], variance + variances[position]
            exact = exact and remainder.exact
        traces[name] = ParameterTrace(value, math.sqrt(variance), parameter.numel(), exact, why)
    return traces


def _why(gauss_newton: GaussNewtonTrace, remainder: Remainder | None) -> str:
    if remainder is None and not gauss_newton.by_sample:
        return (
            "The outputs are piecewise linear in each parameter, so the trace is that of the Gauss-Newton matrix: "
            "a sum of squared gradient norms, computed without probes."
        )
    parts = []
    how = (
        "estimated with random probes" if remainder is None or remainder.probes else "computed entry by entry"
    )
    bent = [name for name in gauss_newton.curved if name not in gauss_newton.missing]
    if bent:
        operations = sorted({gauss_newton.curved[name] for name in bent})
        listed = ", ".join(operations[:4]) + (" and others" if len(operations) > 4 else "")
        parts.append(
            f"The outputs may be curved in {len(bent)} parameter tensors (by {listed}): there the difference to the "
            f"Gauss-Newton matrix was {how}."
        )
    if gauss_newton.missing:
        reason = next(iter(gauss_newton.missing.values()))
        parts.append(
            f"{len(gauss_newton.missing)} parameter tensors have no Gauss-Newton trace by examples ({reason}): their "
            f"trace was {how}."
        )
    if gauss_newton.by_sample:
        parts.append("An example has too many outputs to go through, so that they were sampled.")
    return " ".join(parts)


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
