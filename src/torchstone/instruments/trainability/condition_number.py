"""How unequal are the curvatures, and does one layer hold the learning rate of all others down?"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from torchstone.details import Axis, Curve, Line, Marker, Scalar, Scalars, Table, numbers, thin
from torchstone.instruments.settings import require_between, require_count
from torchstone.linalg import ExtremeEigenpairs, LanczosQuadrature, top_eigenpairs
from torchstone.operators.hessian import Hessian
from torchstone.operators.parameter_space import ParameterSpace
from torchstone.operators.trace import TraceResult
from torchstone.reading import CostClass, Level, Meta, Need, Question, Reading, Remedy, Uncertainty, Verdict
from torchstone.workbench import Workbench
from torchstone.workbench.curvature import PRODUCTS, TOLERANCE, layers, rounding_floor
from torchstone.workbench.spectral_shares import count_where

SOURCE = "Nesterov 2018, theorem 2.1.15; Polyak 1964; LeCun, Bottou, Orr & Muller 1998, sections 4.6 and 5"

UNIT = "loss / weight²"


@dataclass(frozen=True)
class ConditionNumber:
    r"""lambda_max over the mean eigenvalue, n lambda_max / tr(H), and lambda_max of each layer's block.

    A step of 1/lambda_max shrinks the error along an eigenvector by 1 - lambda/lambda_max, so directions of mean
    curvature need kappa = n lambda_max / tr(H) steps to shrink by e; with the best heavy-ball momentum about
    sqrt(kappa)/2. The usual lambda_max / lambda_min is infinite or without meaning for most networks, which have flat and
    negative directions: where it is not, it is given too. One learning rate for all layers is held down by the sharpest:
    the others could take steps longer by the quotient of the blocks' lambda_max.

    Cost: the shared search of eigenpairs, density and trace, and up to 12 cheap products with the block of each of up to
    8 layers. Bias: eigenvalues err downwards by at most their residuals, those of blocks by about 5%.
    Source: Nesterov 2018, theorem 2.1.15 (rates); Polyak 1964 (momentum); LeCun et al. 1998, section 4.6 (a rate a layer).
    """

    META: ClassVar[Meta] = Meta(
        id="condition_number",
        question=Question.TRAINABILITY,
        title="Condition number",
        asks="How unequal are the curvatures, and does one layer slow the others down?",
        cost=CostClass.MINUTES,
        needs=(Need.TRAIN, Need.PARAMETERS),
        unit="largest over mean eigenvalue",
        source=SOURCE,
    )
    imbalance: float = 100.0
    """Quotient of the sharpest and the flattest layer's largest eigenvalue from which it deserves attention."""
    blocks: int = 8
    """At most this many layers, from the one with the largest trace to the one with the smallest."""
    tolerance: float = TOLERANCE
    """Residual to reach, relative to the largest eigenvalue."""
    products: int = PRODUCTS
    """Budget of Hessian products."""

    def __post_init__(self) -> None:
        require_between(self, "imbalance", 1.0, 1e12)
        require_count(self, "blocks", 2, 500)
        require_between(self, "tolerance", 1e-8, 0.5)
        require_count(self, "products", 50)

    def measure(self, bench: Workbench) -> Reading:
        """Put together the ends of the spectrum, its mean and the blocks."""
        ends = bench.extreme_eigenpairs(tolerance=self.tolerance, max_products=self.products)
        found = Conditioning.of(ends, bench.hessian_trace(), _floor(bench, ends))
        blocks = bench.memo(
            ("blocks", self.blocks), lambda: block_curvatures(bench, ends, bench.hessian_trace(), self.blocks)
        )
        spectrum = bench.spectral_density()
        verdict = judge(blocks, self.imbalance)
        return Reading.of(
            self.META,
            value=found.effective,
            uncertainty=found.uncertainty,
            verdict=verdict,
            headline=_headline(found, blocks),
            explanation=(
                "Largest eigenvalue of the Hessian of the mean training loss over the mean of all of them (their sum is "
                "the trace), and the largest eigenvalue of each layer's diagonal block. Rates are those of gradient "
                "descent on a quadratic with this spectrum. " + found.classical
            ),
            remedies=_remedies(verdict, blocks),
            details=(*_curves(blocks), _scalars(found, spectrum), _table(blocks)),
            notes=_notes(found, ends, blocks, bench, self.products),
        )


@dataclass(frozen=True)
class Conditioning:
    """Ends and mean of a spectrum of n eigenvalues; `trace_reach` is half of the trace's 95% interval."""

    n: int
    largest: float
    residual: float
    smallest: float
    smallest_residual: float
    trace: float
    trace_reach: float
    floor: float

    @classmethod
    def of(cls, ends: ExtremeEigenpairs, trace: TraceResult, floor: float) -> Conditioning:
        """From what the bench found; floor is what rounding leaves open."""
        top, bottom = ends.largest, ends.smallest
        return cls(
            len(top.vectors),
            float(top.values[0]),
            float(top.residuals[0]),
            float(bottom.values[0]),
            float(bottom.residuals[0]),
            trace.value,
            (trace.interval()[1] - trace.interval()[0]) / 2,
            floor,
        )

    @property
    def effective(self) -> float:
        """lambda_max over tr(H) / n; NaN where the mean eigenvalue is not positive."""
        return self.n * self.largest / self.trace if self.trace > 0 and self.largest > 0 else math.nan

    @property
    def uncertainty(self) -> Uncertainty | None:
        """What the residual and the trace's error leave open; None where the mean eigenvalue may be 0."""
        reach = self.trace_reach
        if math.isnan(self.effective) or self.trace <= reach or not math.isfinite(reach):
            return None
        low = self.n * self.largest / (self.trace + reach)
        high = self.n * (self.largest + self.residual) / (self.trace - reach)
        covers, confidence = ("probes and residual", 0.95) if reach else ("residual", 1.0)
        return Uncertainty(
            low,
            high,
            covers,
            "residual of the eigenpair" + (", error of the trace" if reach else ""),
            confidence,
        )

    @property
    def positive_definite(self) -> bool:
        """Whether the smallest eigenvalue is above zero beyond its residual and rounding."""
        return self.smallest - self.smallest_residual > self.floor

    @property
    def condition(self) -> float:
        """lambda_max / lambda_min; infinite where the Hessian is singular or indefinite up to rounding."""
        return self.largest / self.smallest if self.positive_definite else math.inf

    @property
    def classical(self) -> str:
        """What the condition number in the strict sense is, in a sentence."""
        if self.positive_definite:
            return f"The condition number in the strict sense, largest over smallest eigenvalue, is {self.condition:.3g}."
        if self.smallest < -self.floor:
            return (
                f"The Hessian has negative eigenvalues (down to {self.smallest:.2g}), so a condition number in the strict "
                "sense does not exist; gradient descent moves away along those directions."
            )
        return (
            "The Hessian is singular up to rounding, so the condition number in the strict sense is infinite: along "
            "those directions the loss does not change and nothing has to converge."
        )


@dataclass(frozen=True)
class Block:
    """Curvature of one layer: its number of weights, the largest eigenvalue of its block, its residual, its trace."""

    name: str
    size: int
    largest: float
    residual: float
    trace: float

    @property
    def effective(self) -> float:
        """Largest over mean eigenvalue of the block."""
        return self.size * self.largest / self.trace if self.trace > 0 else math.nan


def block_curvatures(
    bench: Workbench, ends: ExtremeEigenpairs, trace: TraceResult, most: int
) -> tuple[Block, ...]:
    """Largest eigenvalue of the diagonal blocks of at most `most` layers, in the network's order.

    The search of a block starts from its part of the sharpest direction of all, which is near the block's own.
    """
    space = ParameterSpace.of(bench.specimen)
    groups = layers(space.names)
    traces = {
        layer: math.fsum(trace.per_parameter[name].value for name in names) for layer, names in groups.items()
    }
    ranked = sorted(groups, key=lambda layer: traces[layer], reverse=True)
    chosen = {ranked[i] for i in thin(len(ranked), most)}
    generator, found = bench.generator("block_curvatures"), []
    for layer, names in groups.items():
        if layer not in chosen:
            continue
        block = Hessian(bench.specimen, names=names, memory_bytes=bench.plan.memory_bytes // 2)
        start = ends.largest.vectors[_rows(space, names), :1]
        top = top_eigenpairs(
            block,
            1,
            tolerance=0.05,
            max_products=12,
            generator=generator,
            start=start if bool(start.any()) else None,
            certify=False,
        )
        found.append(
            Block(layer, block.shape[0], float(top.values[0]), float(top.residuals[0]), traces[layer])
        )
    return tuple(found)


def _rows(space: ParameterSpace, names: tuple[str, ...]) -> list[int]:
    return [i for name in names for i in range(space.slices[name].start, space.slices[name].stop)]


def imbalance_of(blocks: tuple[Block, ...]) -> tuple[float, Block, Block] | None:
    """Quotient of the largest eigenvalues of the sharpest and the flattest layer, and both; None with fewer than two.

    Layers without positive curvature (unused ones, say) do not count.
    """
    positive = [block for block in blocks if block.largest > 0]
    if len(positive) < 2:
        return None
    sharpest = max(positive, key=lambda block: block.largest)
    flattest = min(positive, key=lambda block: block.largest)
    return sharpest.largest / flattest.largest, sharpest, flattest


def judge(blocks: tuple[Block, ...], most: float) -> Verdict:
    """Attention where one layer holds the learning rate of another down by more than `most`."""
    threshold = f"the layers' largest eigenvalues within a factor of {most:g}"
    source = (
        "LeCun et al. 1998, section 4.6: learning rates by layer should follow the curvature; the factor is a "
        "convention of this report"
    )
    found = imbalance_of(blocks)
    if found is None:
        return Verdict(Level.INFORMATIVE, "fewer than two layers with curvature", threshold, source)
    quotient, sharpest, flattest = found
    reason = f"layer {sharpest.name} is {quotient:.3g} times as sharp as layer {flattest.name}"
    if quotient > most:
        return Verdict(Level.ATTENTION, reason, threshold, source)
    return Verdict(Level.GOOD, reason, threshold, source)


def _floor(bench: Workbench, ends: ExtremeEigenpairs) -> float:
    scale = max(abs(float(ends.largest.values[0])), abs(float(ends.smallest.values[0])))
    return rounding_floor(bench.specimen, scale)


def _headline(found: Conditioning, blocks: tuple[Block, ...]) -> str:
    if math.isnan(found.effective):
        first = "The mean eigenvalue of the Hessian is not positive, so there is no condition number to give"
    else:
        first = f"The largest Hessian eigenvalue is {_round(found.effective)} times the mean of {found.n:,}"
    between = imbalance_of(blocks)
    if between is None:
        return first + "."
    quotient, sharpest, flattest = between
    return f"{first}; layer {sharpest.name}, the sharpest, is {quotient:.3g} times as sharp as layer {flattest.name}."


def _round(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _curves(blocks: tuple[Block, ...]) -> tuple[Curve, ...]:
    shown = [block for block in blocks if block.largest > 0]
    if len(shown) < 2:
        return ()
    across = numbers(range(1, len(shown) + 1))
    line = Line(
        "largest eigenvalue",
        across,
        numbers(block.largest for block in shown),
        numbers(block.largest for block in shown),
        numbers(block.largest + block.residual for block in shown),
    )
    mean = Line("mean eigenvalue", across, numbers(block.trace / block.size for block in shown))
    curve = Curve(
        "Curvature of each layer",
        Axis("layer, input to output"),
        Axis("eigenvalue of its block", UNIT, log=True),
        (line, *((mean,) if all(y > 0 for y in mean.y) else ())),
        (Marker("sharpest layer", max(line.y)),),
        ticks=tuple(block.name for block in shown),
        caption="The sharpest layer limits the common learning rate; one that lies k times lower could take steps k times "
        "as long.",
    )
    return (curve,)


def resolvable_condition(spectrum: LanczosQuadrature, found: Conditioning) -> float:
    """lambda_max over the smallest eigenvalue above rounding, at least; NaN where that is unknown.

    Between two neighbouring nodes of a Gauss rule lies an eigenvalue (Golub & Meurant 2010, section 3.3), so the second
    node above rounding is above the smallest such eigenvalue.
    """
    if found.largest <= found.floor:
        return math.nan
    smallest = math.inf
    for nodes in spectrum.nodes:
        above = nodes[nodes > found.floor].unique()
        place = 0 if spectrum.exact else 1
        if len(above) > place:
            smallest = min(smallest, float(above[place]))
    return found.largest / smallest if math.isfinite(smallest) else math.nan


def _scalars(found: Conditioning, spectrum: LanczosQuadrature) -> Scalars:
    kappa, bar = found.effective, found.uncertainty
    ends = (bar.low, bar.high) if bar is not None else (None, None)
    root = math.sqrt(kappa) if kappa >= 1 else math.nan
    concentrated = found.trace / found.largest if found.largest > 0 else math.nan
    many = count_where(spectrum, lambda x: x > 0.01 * found.largest)
    return Scalars(
        "Condition and predicted rates",
        (
            Scalar("largest over mean eigenvalue", kappa, "", *ends),
            Scalar("largest over smallest eigenvalue", found.condition),
            Scalar(
                "largest over smallest eigenvalue above rounding, at least",
                resolvable_condition(spectrum, found),
            ),
            Scalar("eigenvalues above 1% of the largest", many.value, "", many.low, many.high),
            Scalar("largest eigenvalue", found.largest, UNIT, found.largest, found.largest + found.residual),
            Scalar("mean eigenvalue", found.trace / found.n, UNIT),
            Scalar("smallest eigenvalue", found.smallest, UNIT),
            Scalar("directions as sharp as the sharpest that would make the trace", concentrated),
            Scalar("error removed by a step of gradient descent, mean direction", 1 / kappa),
            Scalar("steps to shrink it by a factor of e", kappa, "steps"),
            Scalar("error removed by a step with the best momentum", 2 / (root + 1)),
            Scalar("steps to shrink it by a factor of e, best momentum", root / 2, "steps"),
        ),
        caption="Gradient descent at 1/largest eigenvalue leaves 1 - 1/kappa of the error along a direction of mean curvature; "
        "momentum and rate tuned to both curvatures leave (sqrt(kappa) - 1)/(sqrt(kappa) + 1) (Polyak 1964).",
    )


def _table(blocks: tuple[Block, ...]) -> Table:
    rows = tuple(
        (block.name, block.size, block.largest, block.residual, block.trace, block.effective)
        for block in blocks[:500]
    )
    columns = (
        "layer",
        "weights",
        "largest eigenvalue of its block",
        "residual",
        "trace",
        "largest over mean eigenvalue",
    )
    return Table("Curvature of each layer", columns, rows)


def _remedies(verdict: Verdict, blocks: tuple[Block, ...]) -> tuple[Remedy, ...]:
    between = imbalance_of(blocks)
    if verdict.level is not Level.ATTENTION or between is None:
        return ()
    quotient, sharpest, flattest = between
    return (
        Remedy(
            f"Give layers learning rates of their own (parameter groups): layer {flattest.name} could take steps up to "
            f"{quotient:.2g} times as long as layer {sharpest.name}; an adaptive optimiser does so by itself.",
            "torch.optim.Adam",
        ),
        Remedy(
            "Normalise the inputs of each layer, which brings their curvatures together.",
            "torch.nn.LayerNorm",
        ),
    )


def _notes(
    found: Conditioning, ends: ExtremeEigenpairs, blocks: tuple[Block, ...], bench: Workbench, products: int
) -> tuple[str, ...]:
    notes = []
    count = len(layers(tuple(bench.specimen.trainable)))
    if len(blocks) < count:
        notes.append(f"{len(blocks)} of {count} layers, from the largest trace to the smallest.")
    if not ends.converged:
        notes.append(f"The tolerance was not reached within {products} products.")
    if found.trace_reach > 0:
        notes.append("The trace is estimated; the error bar says how well.")
    return tuple(notes)


INSTRUMENT = ConditionNumber
