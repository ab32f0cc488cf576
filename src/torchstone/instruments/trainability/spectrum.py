"""What does the whole spectrum of the Hessian look like?"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch

from torchstone.details import Axis, Curve, Line, Marker, Scalar, Scalars, Spectrum, numbers
from torchstone.instruments.settings import require_between, require_count
from torchstone.linalg import Eigenpairs, LanczosQuadrature, OutlierCount, count_outliers
from torchstone.linalg.outliers import EDGE_VALUES
from torchstone.reading import CostClass, Level, Meta, Need, Question, Reading, Verdict
from torchstone.workbench import Workbench
from torchstone.workbench.curvature import PAIRS, PROBES, STEPS
from torchstone.workbench.spectral_shares import Shares, shares_by_sign

SOURCE = "Ghorbani, Krishnan & Xiao 2019; Sagun et al. 2018; Papyan 2019; Onatski 2010, section III"
UNIT = "loss / weight²"
_MOST_PAIRS = 40
_VAGUE = 0.2  # width of an interval for a share from which only the interval is told


@dataclass(frozen=True)
class SpectrumOfHessian:
    r"""Density of the Hessian's eigenvalues, its outliers against the number of classes, and its negative part.

    Density by stochastic Lanczos quadrature, (1/n) sum_i delta(lambda_i), smoothed; outliers are the exact largest
    eigenvalues that a gap parts from the bulk (`torchstone.linalg.count_outliers`). Networks that classify K classes have
    K - 1 or K of them where training has come to rest at a loss that has not vanished.

    Cost: the shared search of eigenpairs, and probes * steps Hessian products; all eigenvalues where there are no more
    than 256 weights. Bias: none over the probes for moments; what Gauss rules of different lengths disagree about widens the
    intervals of the shares, which are wide where many eigenvalues lie near the edge of what counts as zero.
    Source: Ghorbani, Krishnan & Xiao 2019, section 2; Sagun et al. 2018; Papyan 2019; gap test: Onatski 2010.
    """

    META: ClassVar[Meta] = Meta(
        id="spectrum",
        question=Question.TRAINABILITY,
        title="Spectrum of the Hessian",
        asks="How are the curvatures spread, and how many stand apart?",
        cost=CostClass.MINUTES,
        needs=(Need.TRAIN, Need.PARAMETERS),
        unit="outliers",
        source=SOURCE,
    )
    probes: int = PROBES
    """Random vectors."""
    steps: int = STEPS
    """Lanczos steps for each."""
    resolution: float = 1e-3
    """Eigenvalues up to this share of the largest count as zero."""

    def __post_init__(self) -> None:
        require_count(self, "probes", 2, 10_000)
        require_count(self, "steps", 4, 10_000)
        require_between(self, "resolution", 1e-9, 0.5)

    def measure(self, bench: Workbench) -> Reading:
        """Estimate the density and count what stands apart."""
        classes = bench.class_count()
        pairs = _pairs(bench, classes)
        quadrature = bench.spectral_density(self.probes, self.steps)
        found = outliers_of(pairs, classes)
        shares = shares_by_sign(quadrature, self.resolution)
        verdict = judge(found, classes)
        return Reading.of(
            self.META,
            value=None if found is None else float(found.count),
            verdict=verdict,
            headline=_headline(found, classes, shares),
            explanation=(
                f"{_how(quadrature)} Outliers are eigenvalues that a gap parts from those behind it, twice as wide as what "
                "the edge of the bulk makes by itself. Networks at rest have about as many as classes; where the loss "
                "goes to 0 the spectrum falls off gradually instead. Most eigenvalues of a large network are near 0: "
                "directions that do not change the loss."
            ),
            details=(
                _density(quadrature, found, pairs),
                *_largest(pairs, found, classes),
                _scalars(quadrature, found, pairs, shares),
            ),
            notes=_notes(found, classes, pairs),
        )


def _pairs(bench: Workbench, classes: int | None) -> Eigenpairs:
    """The shared search, or one of its own where there are too many classes for it."""
    wanted = PAIRS if classes is None else classes + 1 + EDGE_VALUES
    ends = bench.extreme_eigenpairs(max(PAIRS, wanted) if wanted <= _MOST_PAIRS else PAIRS)
    return ends.largest


def outliers_of(pairs: Eigenpairs, classes: int | None) -> OutlierCount | None:
    """The gap test among at most 3K eigenvalues; None where there are too few to find K and the edge of a bulk."""
    most = len(pairs.values) - EDGE_VALUES
    if classes is not None:
        most = min(most, 3 * classes)
    if most < max(1, classes or 1):
        return None
    order = pairs.values.argsort(descending=True, stable=True)
    return count_outliers(pairs.values[order], most, resolution=2 * float(pairs.residuals[: most + 1].max()))


def judge(found: OutlierCount | None, classes: int | None) -> Verdict:
    """Informative: what stands apart tells of classes and of the stage of training, not of good or bad."""
    threshold = "none: K - 1 or K outliers are expected at rest, and none where the loss vanishes"
    source = "Sagun et al. 2018, section 3; Papyan 2019; gap test: Onatski 2010"
    apart = "" if found is None else _apart(found.count)
    if found is None:
        reason = "too few eigenvalues to tell outliers from a bulk"
    elif found.count == 0:
        reason = "no eigenvalue stands apart: the spectrum falls off gradually"
    elif classes is None:
        reason = apart
    elif found.count in (classes - 1, classes):
        reason = f"{apart}, as expected for {classes} classes"
    else:
        reason = f"{apart}, not {classes - 1} or {classes} as for {classes} classes at rest"
    return Verdict(Level.INFORMATIVE, reason, threshold, source)


def _apart(count: int) -> str:
    return "one eigenvalue stands apart" if count == 1 else f"{count} eigenvalues stand apart"


def _headline(found: OutlierCount | None, classes: int | None, shares: Shares) -> str:
    if found is None:
        first = "The spectrum is too short to tell outliers from a bulk"
    else:
        many = {0: "No eigenvalue stands", 1: "One of the largest eigenvalues stands"}.get(
            found.count, f"{found.count} of the largest eigenvalues stand"
        )
        beside = "" if classes is None else f" ({classes} classes)"
        first = f"{many} apart from the bulk{beside}"
    return (
        f"{first}; {_percent(shares.zero)} of all eigenvalues are zero up to {100 * shares.resolution:g}% of the largest, "
        f"{_percent(shares.negative)} are negative."
    )


def _percent(item: Scalar) -> str:
    """A share; only its ends where they lie too far apart for the estimate between them to mean much."""
    if item.low is None or item.high is None or item.low == item.high:
        return f"{item.value:.2%}"
    if item.high - item.low > _VAGUE:
        return f"{item.low:.0%} to {item.high:.0%}"
    return f"{item.value:.1%} ({item.low:.1%} to {item.high:.1%})"


def _how(quadrature: LanczosQuadrature) -> str:
    if quadrature.exact:
        return f"All eigenvalues of the Hessian of the mean training loss ({quadrature.size:,}), computed exactly."
    return (
        f"Density of the {quadrature.size:,} eigenvalues of the Hessian of the mean training loss by stochastic Lanczos "
        f"quadrature with {quadrature.probes} random vectors; the {len(quadrature.known)} largest are exact."
    )


def _density(quadrature: LanczosQuadrature, found: OutlierCount | None, pairs: Eigenpairs) -> Curve:
    curve = quadrature.density()
    single = 1 / (quadrature.size * curve.width * math.sqrt(2 * math.pi))  # height of one eigenvalue
    floor = single / 100
    grid, values, low, high = (
        torch.nan_to_num(part, nan=floor).clamp(min=floor) if i else part
        for i, part in enumerate((curve.grid, curve.values, curve.low, curve.high))
    )
    bands = () if quadrature.probes == 0 else (numbers(low), numbers(torch.maximum(high, values)))
    lines = [Line("density", numbers(grid), numbers(values), *bands)]
    if found is not None and found.count:
        # Gaps between the points, which no line must join.
        apart = pairs.values[: found.count].repeat_interleave(2)[:-1]
        heights = ([single, math.nan] * found.count)[:-1]
        lines.append(Line("outliers (exact)", numbers(apart), numbers(heights)))
    caption = (
        "Single peaks are single eigenvalues. The curve is cut at a hundredth of one eigenvalue's height."
    )
    if bands:
        caption += " Band: 95% over the random vectors, at each point."
    return Curve(
        "Density of the Hessian's eigenvalues",
        Axis("eigenvalue", UNIT),
        Axis("density", "share of the eigenvalues per unit", log=True),
        tuple(lines),
        (Marker("zero", 0.0, "x"),),
        caption=caption,
    )


def _largest(pairs: Eigenpairs, found: OutlierCount | None, classes: int | None) -> tuple[Spectrum, ...]:
    markers = []
    if found is not None:
        markers.append(Marker("edge of the bulk", found.edge))
    if classes is not None and classes < len(pairs.values):
        markers.append(Marker(f"{classes} classes", classes + 0.5, "x"))
    return (
        Spectrum(
            "Largest eigenvalues",
            numbers(pairs.values),
            numbers(pairs.residuals),
            unit=UNIT,
            markers=tuple(markers),
            caption="What lies above the edge of the bulk stands apart from it. Error bars are residuals.",
        ),
    )


def _scalars(
    quadrature: LanczosQuadrature, found: OutlierCount | None, pairs: Eigenpairs, shares: Shares
) -> Scalars:
    items = [shares.negative, shares.zero, shares.positive]
    if found is not None:
        apart = pairs.values[: found.count]
        squares = quadrature.trace_of(torch.square)
        left = quadrature.size - found.count
        rest = lambda total: math.sqrt(max(0.0, total - float(apart.square().sum())) / max(1, left))
        low, high = squares.interval()
        items += [
            Scalar("outliers", found.count),
            Scalar("widest gap behind them over what would count", found.margin),
            Scalar("edge of the bulk", found.edge, UNIT),
            Scalar("width of the bulk (root mean square)", rest(squares.value), UNIT, rest(low), rest(high)),
        ]
    trace = quadrature.trace_of(lambda x: x)
    items.append(Scalar("trace by quadrature", trace.value, UNIT, *trace.interval()))
    return Scalars(
        "Parts of the spectrum",
        tuple(items),
        caption=f"Zero: up to {100 * shares.resolution:g}% of the largest eigenvalue in size. Intervals: 95% over the random "
        "vectors, wider by what Gauss rules of fewer steps disagree about.",
    )


def _notes(found: OutlierCount | None, classes: int | None, pairs: Eigenpairs) -> tuple[str, ...]:
    notes = []
    if found is None and classes is not None:
        notes.append(
            f"Outliers are not counted: for {classes} classes {classes + EDGE_VALUES} eigenvalues would be needed, "
            f"{len(pairs.values)} were computed."
        )
    if not pairs.converged:
        notes.append(
            "Some of the largest eigenvalues have not converged; gaps within their residuals do not count."
        )
    return tuple(notes)


INSTRUMENT = SpectrumOfHessian
