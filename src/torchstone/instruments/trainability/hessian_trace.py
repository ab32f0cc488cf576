"""How curved is the loss, in total and layer by layer?"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from torchstone.details import Axis, Curve, Line, Scalar, Scalars, Table, numbers, thin
from torchstone.instruments.settings import require_between, require_count
from torchstone.operators.curvature_map import DOUBLE_BACKWARD
from torchstone.operators.trace import TraceResult
from torchstone.reading import CostClass, Level, Meta, Need, Question, Reading, Uncertainty, Verdict
from torchstone.workbench import Workbench

UNIT = "loss / weight²"


@dataclass(frozen=True)
class HessianTrace:
    """Trace of the Hessian of the mean training loss, in total and for each parameter.

    Exact, without probes, where the outputs are piecewise linear in each parameter; otherwise the exact Gauss-Newton
    part plus an estimate of what it leaves (`torchstone.operators.hessian_trace`).

    Cost: as many backward passes as there are outputs; plus two curvature products a probe where an estimate is needed.
    Bias: none. The error bar covers examples, and probes where there are any.
    Source: Hutchinson 1990; Martens 2020, section 8; scale dependence: Dinh et al. 2017.
    """

    META: ClassVar[Meta] = Meta(
        id="hessian_trace",
        question=Question.TRAINABILITY,
        title="Hessian trace",
        asks="How curved is the loss around these weights?",
        cost=CostClass.SECONDS,
        needs=(Need.TRAIN, Need.PARAMETERS),
        unit=UNIT,
        source="Hutchinson 1990; Martens 2020, section 8; Dinh et al. 2017",
    )
    tolerance: float = 0.02
    """Relative standard error at which probing stops."""
    probes: int = 100
    """At most this many probes."""

    def __post_init__(self) -> None:
        require_between(self, "tolerance", 1e-6, 1.0)
        require_count(self, "probes", 10, 100_000)

    def measure(self, bench: Workbench) -> Reading:
        """Compute or estimate the trace."""
        found = bench.hessian_trace(self.tolerance, self.probes)
        size = sum(one.size for one in found.per_parameter.values())
        how = (
            "exactly" if found.exact else f"up to a standard error of {found.standard_error:.2g} from probes"
        )
        return Reading.of(
            self.META,
            value=found.value,
            uncertainty=_uncertainty(found),
            verdict=judge(found),
            headline=f"The trace of the Hessian is {found.value:.4g} ({how}), {found.value / size:.2g} a weight.",
            explanation=(
                f"{found.why} {_bar(found)} The trace depends on the scale of the weights: rescaling layers changes it "
                "without changing the function."
            ),
            details=(_scalars(found, size), _curve(found), _table(found)),
            notes=_notes(found),
        )


def judge(found: TraceResult) -> Verdict:
    """Informative: the trace depends on the weights' scale, so no threshold for it can be right."""
    kind = "exact" if found.exact else "estimated"
    return Verdict(
        Level.INFORMATIVE,
        f"{kind}; compare between checkpoints of one network, not between networks",
        "none: rescaling layers changes the trace and not the network",
        "Dinh et al. 2017, section 4",
    )


def _uncertainty(found: TraceResult) -> Uncertainty | None:
    examples = found.example_standard_error
    if math.isfinite(examples):
        covers = "examples" if found.standard_error == 0 else "examples and probes"
        return Uncertainty.from_standard_error(
            found.value, math.hypot(examples, found.standard_error), covers
        )
    if found.standard_error == 0:
        return None
    low, high = found.interval()
    return Uncertainty(low, high, "probes", "Student's t, 95%", 0.95, found.standard_error)


def _bar(found: TraceResult) -> str:
    """What the error bar covers, in a sentence."""
    if not math.isfinite(found.example_standard_error):
        return "The error bar covers the probes and not the draw of examples."
    if found.standard_error == 0:
        return "The error bar says how far it would move on other training examples."
    return (
        "The error bar says how far its Gauss-Newton part would move on other training examples, and what the probes "
        "leave open."
    )


def _notes(found: TraceResult) -> tuple[str, ...]:
    notes = []
    if found.how not in ("", DOUBLE_BACKWARD):
        notes.append(f"Hessian products by {found.how}.")
    if found.formed:
        names = ", ".join(found.formed[:3]) + (" and more" if len(found.formed) > 3 else "")
        notes.append(f"Gradients of single examples had to be formed for {names}.")
    if not found.converged:
        notes.append("The tolerance was not reached within the probes allowed.")
    return tuple(notes)


def _scalars(found: TraceResult, size: int) -> Scalars:
    ends = (None, None) if found.standard_error == 0 else found.interval()
    return Scalars(
        "Trace",
        (
            Scalar("trace on these examples", found.value, UNIT, *ends),
            Scalar("mean over the weights", found.value / size, UNIT),
            Scalar("standard error over the draw of examples", found.example_standard_error, UNIT),
            Scalar("random probes", found.probes),
        ),
    )


def _curve(found: TraceResult) -> Curve:
    names = [list(found.per_parameter)[i] for i in thin(len(found.per_parameter), 500)]
    parts = [found.per_parameter[name] for name in names]
    mean = [part.value / part.size for part in parts]
    error = [1.96 * part.standard_error / part.size for part in parts]
    line = Line(
        "mean curvature",
        numbers(range(1, len(names) + 1)),
        numbers(mean),
        numbers(m - e for m, e in zip(mean, error, strict=True)),
        numbers(m + e for m, e in zip(mean, error, strict=True)),
    )
    return Curve(
        "Mean curvature of each parameter",
        Axis("parameter, input to output"),
        Axis("trace / number of weights", UNIT, log=all(low > 0 for low in line.low)),
        (line,),
        ticks=tuple(names) if len(names) <= 40 else (),
        caption="Parameters high up limit the learning rate; those far below hardly matter for the loss.",
    )


def _table(found: TraceResult) -> Table:
    rows = []
    for index in thin(len(found.per_parameter), 200):
        name = list(found.per_parameter)[index]
        part = found.per_parameter[name]
        rows.append(
            (
                name,
                part.size,
                part.value,
                part.standard_error,
                "exact"
                if part.exact
                else f"probes, because of {part.why}"
                if part.why
                else "sampled outputs",
            )
        )
    columns = ("parameter", "weights", "trace", "standard error", "how")
    return Table(
        "Trace of each parameter's block", columns, tuple(rows), "The blocks' traces add up to the whole."
    )


INSTRUMENT = HessianTrace
