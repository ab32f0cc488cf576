"""How far does the loss rise when the weights are moved a little?"""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from torchstone.details import Axis, Cell, Curve, Line, Marker, Table, numbers
from torchstone.errors import NotApplicableError
from torchstone.instruments.settings import require_between, require_count
from torchstone.linalg import Eigenpairs
from torchstone.operators.sharpness import (
    AverageCase,
    KeskarSharpness,
    RiskAround,
    WorstCase,
    average_sharpness,
    ball_sharpness_curve,
    keskar_sharpness,
)
from torchstone.reading import CostClass, Level, Meta, Need, Question, Reading, Remedy, Uncertainty, Verdict
from torchstone.specimen import Specimen
from torchstone.workbench import Workbench

RADII = (0.25, 0.5, 1.0, 2.0)
NOISES = (1.0, 3.0, 10.0, 30.0)
REFERENCE = RADII.index(1.0)
TOLERATED = 0.1


@dataclass(frozen=True)
class Sharpness:
    """A panel of sharpness measures; the headline is one that rescaling layers cannot change.

    Worst case: the largest rise of the loss in a ball of relative changes of the weights (adaptive sharpness), in a ball of
    plain changes (SAM's), and in Keskar's box, in all weights and in a random subspace. Average: the expected rise under
    Gaussian noise, relative and plain. Curvature: the largest eigenvalue of the Hessian.

    Cost: about 100 gradients and 80 forward passes over `examples` examples, and the eigenvalue (shared with
    stability_edge). Bias: worst cases err downwards, because a search finds them; averages are unbiased.
    Source: Kwon et al. 2021, definitions 1 and 2; Foret et al. 2021; Keskar et al. 2017, metric 2.1; Neyshabur et al. 2017; scale
    dependence: Dinh et al. 2017.
    """

    META: ClassVar[Meta] = Meta(
        id="sharpness",
        question=Question.GENERALIZATION,
        title="Sharpness",
        asks="How far does the loss rise when the weights move a little?",
        cost=CostClass.MINUTES,
        needs=(Need.TRAIN, Need.PARAMETERS),
        unit="loss",
        source="Kwon et al. 2021, definitions 1 and 2; Foret et al. 2021; Keskar et al. 2017, metric 2.1; Dinh et al. 2017",
    )
    relative_radius: float = 0.5
    """Radius of the ball of relative changes; Kwon et al.'s choice for CIFAR-10."""
    radius: float = 0.05
    """Radius of the ball of plain changes; Foret et al.'s default."""
    epsilon: float = 1e-3
    """Half-width of Keskar's box."""
    subspace: int = 100
    """Dimension of the random subspace for Keskar's box; fewer where there are fewer weights or it would not fit."""
    noise: float = 0.01
    """Random relative change of each weight that the verdict is about."""
    pairs: int = 5
    """Antithetic pairs of random changes."""
    examples: int = 512
    """At most this many training examples."""

    def __post_init__(self) -> None:
        require_between(self, "relative_radius", 1e-6, 1e3)
        require_between(self, "radius", 1e-9, 1e6)
        require_between(self, "epsilon", 1e-9, 1.0)
        require_count(self, "subspace", 1, 10_000)
        require_between(self, "noise", 1e-6, 0.1)
        require_count(self, "pairs", 2, 10_000)
        require_count(self, "examples", 2)

    def measure(self, bench: Workbench) -> Reading:
        """Search the worst cases and sample the averages."""
        specimen = _sampled(bench, self.examples, self.META.id)
        around = RiskAround(specimen)
        panel = _panel(self, bench, around)
        worst, random = panel.adaptive[REFERENCE], panel.relative[1]
        verdict = judge(random.interval()[0], random.rise, around.risk, self.noise)
        share = self.relative_radius / max(1, panel.moving) ** 0.5
        return Reading.of(
            self.META,
            value=worst.rise,
            uncertainty=_over_examples(around, worst),
            verdict=verdict,
            headline=(
                f"The worst relative change of the weights, {_percent(share)} a weight, takes the training loss from "
                f"{around.risk:.3g} to {around.risk + worst.rise:.3g}; random changes of {_percent(self.noise)} add "
                f"{random.rise:.2g}."
            ),
            explanation=(
                f"Largest rise of the loss over changes of relative l2 length {self.relative_radius:g} (root of the sum of "
                "each weight's squared share), by projected gradient ascent: a lower bound of the largest there is. The "
                "bar says how the rise under this very change varies with the examples. Rescaling layers without "
                "changing the function leaves relative measures alone and moves the plain ones at will, so that plain "
                "sharpness says nothing about generalization by itself (Dinh et al. 2017); relative sharpness orders "
                "networks only within one way of training (Andriushchenko et al. 2023)."
            ),
            remedies=_remedies(verdict),
            details=(
                _table(self, panel, around),
                _curve("relative", panel.adaptive, panel.relative, 0.0),
                _curve("plain", panel.plain, panel.absolute, float(panel.top.values[0])),
            ),
            notes=_notes(panel, around),
        )


def judge(low: float, rise: float, loss: float, noise: float) -> Verdict:
    """Attention where random relative changes of `noise` raise the loss by a tenth of 1 + loss; otherwise informative."""
    threshold = f"random changes of {_percent(noise)} of each weight raise the loss by less than {TOLERATED:g} (1 + loss)"
    source = (
        "normaliser of Keskar et al. 2017; the share is a convention of this report; no threshold on sharpness itself "
        "can be right across networks (Andriushchenko et al. 2023)"
    )
    if not low <= TOLERATED * (1 + max(0.0, loss)):  # also where the loss is no longer finite
        return Verdict(
            Level.ATTENTION,
            f"rounding weights by {_percent(noise)} of their size would cost {rise:.2g}",
            threshold,
            source,
        )
    return Verdict(Level.INFORMATIVE, "compare between checkpoints of one training run", threshold, source)


@dataclass(frozen=True)
class _Panel:
    adaptive: tuple[WorstCase, ...]
    plain: tuple[WorstCase, ...]
    relative: tuple[AverageCase, ...]
    absolute: tuple[AverageCase, ...]
    box: KeskarSharpness
    subspace: KeskarSharpness
    top: Eigenpairs
    moving: int


def _sampled(bench: Workbench, most: int, name: str) -> Specimen:
    """The specimen with at most `most` training examples."""
    specimen = bench.specimen
    rows = bench.sample("train", most, name)
    if len(rows) == specimen.size("train"):
        return specimen
    part = copy.copy(specimen)
    part.splits = {**specimen.splits, "train": specimen.split("train").take(rows)}
    return part


def _panel(settings: Sharpness, bench: Workbench, around: RiskAround) -> _Panel:
    here = around.here
    moving = int((here != 0).sum())
    if not moving:
        raise NotApplicableError("every weight is 0, so that none can change relative to its size")
    generator = bench.generator(settings.META.id)
    spread = float(here.double().square().mean().sqrt())
    noises = [settings.noise * factor for factor in NOISES]
    # Random changes as long as the worst ones of the headline stand beside them in the plots.
    relative_noises = [settings.relative_radius / moving**0.5, *noises]
    plain_noises = [settings.radius / len(here) ** 0.5, *(noise * spread for noise in noises)]
    fits = max(1, bench.plan.memory_bytes // (16 * len(here)))
    columns = min(settings.subspace, len(here), fits)
    radii = [settings.relative_radius * factor for factor in RADII]
    plain_radii = [settings.radius * factor for factor in RADII]
    curve = lambda lengths, adaptive: ball_sharpness_curve(
        around, lengths, adaptive=adaptive, evaluations=6, restarts=0, generator=generator
    )
    box = lambda dimension: keskar_sharpness(
        around, settings.epsilon, subspace=dimension, evaluations=6, restarts=1, generator=generator
    )
    average = lambda strengths, relative: average_sharpness(
        around, strengths, relative=relative, pairs=settings.pairs, generator=generator
    )
    return _Panel(
        adaptive=curve(radii, True),
        plain=curve(plain_radii, False),
        relative=average(relative_noises, True),
        absolute=average(plain_noises, False),
        box=box(None),
        subspace=box(columns),
        # The settings of stability_edge, so that the two share one search.
        top=bench.top_eigenpairs(1, tolerance=1e-2, max_products=200),
        moving=moving,
    )


def _over_examples(around: RiskAround, worst: WorstCase) -> Uncertainty | None:
    rises = around.rises(worst.change)
    error = float(rises.std()) / len(rises) ** 0.5 if len(rises) > 1 else math.nan
    if not math.isfinite(error):
        return None
    return Uncertainty.from_standard_error(worst.rise, error, covers="examples")


def _table(settings: Sharpness, panel: _Panel, around: RiskAround) -> Table:
    adaptive, plain = panel.adaptive[REFERENCE], panel.plain[REFERENCE]
    (alike, relative), absolute = panel.relative[:2], panel.absolute[1]
    top, error = float(panel.top.values[0]), float(panel.top.residuals[0])
    alone, moved = "leaves it alone", "changes it"
    rows: list[tuple[Cell, ...]] = [
        (f"worst case, relative, radius {settings.relative_radius:g}", adaptive.rise, None, "loss", alone, "Kwon et al. 2021"),
        (f"random, relative, of the same length ({_percent(alike.noise)})", alike.rise, alike.standard_error, "loss", alone, "Andriushchenko et al. 2023"),
        (f"random, relative, {_percent(relative.noise)} of each weight", relative.rise, relative.standard_error, "loss", alone, "Andriushchenko et al. 2023"),
        (f"random relative change that costs {TOLERATED:g} (1 + loss)", _width(panel.relative[1:], around.risk), None, "share", alone, "Hochreiter & Schmidhuber 1997"),
        (f"worst case, plain, radius {settings.radius:g}", plain.rise, None, "loss", moved, "Foret et al. 2021"),
        (f"one gradient step, plain, radius {settings.radius:g}", plain.one_step, None, "loss", moved, "Foret et al. 2021"),
        (f"random, plain, standard deviation {absolute.noise:.2g}", absolute.rise, absolute.standard_error, "loss", moved, "Neyshabur et al. 2017"),
        (f"worst case in a box, epsilon {settings.epsilon:g}", panel.box.phi, None, "% of 1 + loss", moved, "Keskar et al. 2017"),
        (f"the same in {panel.subspace.dimension} random directions", panel.subspace.phi, None, "% of 1 + loss", moved, "Keskar et al. 2017"),
        ("largest eigenvalue of the Hessian", top, error, "loss / weight²", moved, "Dinh et al. 2017"),
    ]  # fmt: skip
    columns = ("measure", "value", "standard error or residual", "unit", "rescaling layers", "source")
    caption = (
        "Measures that rescaling changes can be made as large as one likes without changing a single output: read them only "
        "against other checkpoints of the same run. Worst cases are lower bounds."
    )
    return Table("Sharpness, measured in several ways", columns, tuple(rows), caption)


def _width(averages: tuple[AverageCase, ...], risk: float) -> Cell:
    """The noise at which the average rise reaches the tolerated one, by log-log interpolation."""
    limit = TOLERATED * (1 + max(0.0, risk))
    before: AverageCase | None = None
    for one in averages:
        if not one.rise < limit:
            if before is None:
                return f"below {one.noise:.2g}"
            if not (before.rise > 0 and math.isfinite(one.rise)):
                return f"{before.noise:.2g} to {one.noise:.2g}"
            share = math.log(limit / before.rise) / math.log(one.rise / before.rise)
            return before.noise * (one.noise / before.noise) ** share
        before = one
    return f"above {averages[-1].noise:.2g}"


def _curve(kind: str, worst: tuple[WorstCase, ...], random: tuple[AverageCase, ...], top: float) -> Curve:
    """Rise over the length of the change, for worst and random changes."""
    length = {
        "relative": Axis("l2 length of the relative change", log=True),
        "plain": Axis("l2 length of the change of the weights", log=True),
    }[kind]
    drawn = [one for one in worst if _drawable(one.rise)]
    by_length = sorted(random, key=lambda one: one.length)
    sampled = [(one, one.interval()) for one in by_length if _drawable(one.rise)]
    heights = [one.rise for one in drawn] + [one.rise for one, _ in sampled]
    floor = min(heights, default=1.0) / 10
    lines = [
        Line("worst change found", numbers(one.radius for one in drawn), numbers(one.rise for one in drawn)),
        Line(
            "random change",
            numbers(one.length for one, _ in sampled),
            numbers(one.rise for one, _ in sampled),
            numbers(max(floor, low) for _, (low, _) in sampled),
            numbers(high for _, (_, high) in sampled),
        ),
    ]
    if kind == "plain" and top > 0:
        radii = numbers(one.radius for one in worst)
        parabola = numbers(radius**2 * top / 2 for radius in radii)
        lines.append(Line("largest eigenvalue x length² / 2", radii, parabola))
    markers = (Marker("headline", worst[REFERENCE].radius, "x"),) if kind == "relative" else ()
    caption = {
        "relative": "Steeper and higher is sharper. Random changes of the same length do far less: almost all directions "
        "are flat. Bands: 95% over the draws, cut at the bottom of the plot.",
        "plain": "Rescaling layers moves these lines without changing the network's outputs. The parabola is what "
        "curvature alone would do: above it the slope shows at small lengths, and higher orders at large ones.",
    }[kind]
    return Curve(
        f"Rise of the loss under {kind} changes",
        length,
        Axis("rise of the mean loss", log=True),
        tuple(line for line in lines if line.x),
        markers,
        caption=caption,
    )


def _percent(share: float) -> str:
    return f"{100 * share:.2g}%"


def _drawable(value: float) -> bool:
    return math.isfinite(value) and value > 0


def _notes(panel: _Panel, around: RiskAround) -> tuple[str, ...]:
    worst = (*panel.adaptive, *panel.plain)
    spent = sum(one.evaluations for one in (*worst, panel.box, panel.subspace))
    split = around.specimen.split("train")
    notes = [f"{spent} gradients over {split.size:,} training examples went into the searches."]
    if still := len(around.here) - panel.moving:
        notes.append(f"{still:,} of {len(around.here):,} weights are 0 and stay 0 under relative changes.")
    change: Tensor = panel.adaptive[REFERENCE].change
    if bool((change != 0).any()) and (lost := around.rounding(change)) > 0.01:
        kind = str(around.space.parameters[0].dtype).removeprefix("torch.")
        notes.append(f"{kind} rounds the moved weights, which distorts the worst change by {lost:.0%}.")
    if not panel.top.converged:
        notes.append("The largest eigenvalue did not reach its tolerance.")
    return tuple(notes)


def _remedies(verdict: Verdict) -> tuple[Remedy, ...]:
    if verdict.level is not Level.ATTENTION:
        return ()
    return (
        Remedy(
            "Train with sharpness-aware minimisation: take every gradient at the weights plus a small step along the "
            "normalised gradient, and apply it at the weights. A step costs two gradients (Foret et al. 2021).",
        ),
        Remedy(
            "Average the weights over the last epochs, which ends in flatter regions (Izmailov et al. 2018).",
            "torch.optim.swa_utils.AveragedModel",
        ),
        Remedy(
            "Compare networks by the measures that rescaling leaves alone.",
            claim="sharp_minima_can_generalise",
        ),
    )


INSTRUMENT = Sharpness
