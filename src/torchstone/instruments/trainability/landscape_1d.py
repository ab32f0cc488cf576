"""What does the loss do on straight lines through weight space?"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from torchstone.details import Axis, Curve, Detail, Line, Marker, Scalar, Scalars, numbers
from torchstone.errors import SettingError
from torchstone.instruments.settings import require_between, require_choice, require_count
from torchstone.landscape import (
    Largest,
    Parabola,
    Point,
    Profile,
    Ray,
    Segment,
    Values,
    batch_norms,
    embedded,
    every_parameter,
    filter_normalised,
    from_state,
    here,
    inclusive,
    largest_mean,
    on_rows,
    parabola_along,
    random_direction,
    statistics_at,
    values_at,
)
from torchstone.operators import ParameterSpace
from torchstone.reading import CostClass, Level, Meta, Need, Question, Reading, Remedy, Uncertainty, Verdict
from torchstone.specimen import Specimen
from torchstone.workbench import Workbench

METHOD = "simultaneous Student intervals of paired differences (Bonferroni)"


@dataclass(frozen=True)
class Landscape1D:
    """The loss from the initial weights to the trained ones, on the straight line and a little beyond both ends.

    The value is the largest rise on the way, max over s < t of L(t) - L(s) with t in [0, 1]: 0 where the loss falls
    monotonically, as it does for most networks that are easy to train. Without initial weights in the recipe, the lines
    go through the trained ones, along a filter-normalised random direction and along the gradient, and the value is how
    far below the network's loss they get.

    Cost: `points` forward passes over training and test data, a gradient and a Hessian product. Error: of a rise, over
    the examples, with an interval that holds although the worst points were searched for.
    Source: Goodfellow, Vinyals & Saxe 2015, section 3; Im, Tao & Branson 2016; Li et al. 2018, section 4.
    """

    META: ClassVar[Meta] = Meta(
        id="landscape_1d",
        question=Question.TRAINABILITY,
        title="Loss along a line",
        asks="Is the way from the initial weights to the solution free of hills?",
        cost=CostClass.SECONDS,
        needs=(Need.TRAIN, Need.PARAMETERS),
        unit="loss",
        source="Goodfellow, Vinyals & Saxe 2015, section 3; Im, Tao & Branson 2016; Li et al. 2018, section 4",
    )
    points: int = 21
    examples: int = 2000
    """At most so many of each split."""
    batch_norm: str = "stored"
    """"stored" mixes the two ends' running statistics; "recomputed" makes them anew at each point."""
    tolerance: float = 0.05
    """Rise that is tolerated, as a share of the fall from start to end."""

    def __post_init__(self) -> None:
        require_count(self, "points", 5, 401)
        require_count(self, "examples", 2)
        require_choice(self, "batch_norm", ("stored", "recomputed"))
        require_between(self, "tolerance", 0.0, 1.0)

    def measure(self, bench: Workbench) -> Reading:
        """From start to end where both are known, else through the end."""
        rows = {split: bench.sample(split, self.examples, self.META.id) for split in _splits(bench.specimen)}
        part = on_rows(bench.specimen, rows)
        space = every_parameter(part)
        notes = tuple(
            f"{len(chosen):,} of {bench.specimen.size(split):,} {split} examples"
            for split, chosen in rows.items()
            if len(chosen) < bench.specimen.size(split)
        )
        state = part.recipe.initial_state if part.recipe is not None else None
        if state is None:
            return self._through(
                bench, part, space, (*notes, "The recipe holds no initial_state to start from.")
            )
        try:
            start = from_state(part, space, state)
        except SettingError as error:
            return self._through(
                bench, part, space, (*notes, f"The recipe's initial_state does not fit: {error}")
            )
        return self._from_start(part, space, start, notes)

    def _from_start(
        self, part: Specimen, space: ParameterSpace, start: Point, notes: tuple[str, ...]
    ) -> Reading:
        places = inclusive(-0.5, 1.5, self.points, also=(0.0, 1.0))
        end = here(part, space)
        line = Segment(start, end)
        anew = self.batch_norm == "recomputed" and bool(batch_norms(part.model))
        statistics = statistics_at(part, space, line, places) if anew else None
        found = {
            split: values_at(part, space, line, places, split, statistics=statistics)
            for split in _splits(part)
        }
        profile = Profile(tuple(places), found["train"].losses)
        parabola, more = _parabola(part, space, end.weights - start.weights)
        fall = float(profile.risks[places.index(0.0)] - profile.risks[places.index(1.0)])
        rise, barrier = profile.rise, profile.barrier
        verdict = judge(rise, fall, self.tolerance)
        return Reading.of(
            self.META,
            value=rise.value,
            uncertainty=Uncertainty(rise.low, rise.high, "examples", METHOD),
            verdict=verdict,
            headline=_headline(profile, rise, fall),
            explanation=(
                "Loss at (1 - a) initial weights + a trained weights. A smooth fall means that a straight path would "
                "have led there; a hill means that training went around one. The parabola is the Hessian's prediction "
                "at the solution."
            ),
            remedies=_remedies(verdict),
            details=(
                *_details("place a on the line", places, found, parabola, 1.0),
                _scalars(barrier, rise, parabola),
            ),
            notes=notes + more + _norm_note(part, self.batch_norm),
        )

    def _through(
        self, bench: Workbench, part: Specimen, space: ParameterSpace, notes: tuple[str, ...]
    ) -> Reading:
        places = inclusive(-1.0, 1.0, self.points, also=(0.0,))
        own = here(part, space)
        directions = _directions(bench, part, space, own)
        losses: dict[str, Tensor] = {}
        details: list[Detail] = []
        for name, direction in directions.items():
            found = {s: values_at(part, space, Ray(own, direction), places, s) for s in _splits(part)}
            parabola, more = _parabola(part, space, direction)
            notes += tuple(note for note in more if note not in notes)
            losses[name] = found["train"].losses
            details += _details(f"distance along {name}, in filter norms", places, found, parabola, 0.0)[:1]
        middle = places.index(0.0)
        gains = {
            name: largest_mean(values[middle] - values.nan_to_num(torch.inf))
            for name, values in losses.items()
        }
        best = max(gains, key=lambda name: gains[name].value)
        gain, loss = gains[best], float(losses[best][middle].mean())
        edge = float(losses["a random direction"][[0, -1]].mean())
        return Reading.of(
            self.META,
            value=gain.value,
            uncertainty=Uncertainty(gain.low, gain.high, "examples", METHOD),
            verdict=judge_solution(gain, loss),
            headline=(
                f"One filter norm along a random direction takes the loss from {loss:.3g} to {edge:.3g}; no point on "
                f"the lines is more than {gain.value:.2g} below the network."
            ),
            explanation=(
                "Lines through the network's weights: a random direction whose filters have the norms of the network's "
                "own, and the gradient at the same length. The value is how much lower than the network's the loss gets."
            ),
            details=tuple(details),
            notes=notes,
        )


def judge(rise: Largest, fall: float, tolerance: float) -> Verdict:
    """Attention where a rise is beyond sampling error and more than a share of the fall; the share is a convention."""
    threshold = f"no rise above {tolerance:.0%} of the fall from start to end, beyond sampling error"
    source = (
        "Goodfellow, Vinyals & Saxe 2015, section 3 (monotone for most networks); the share is a convention"
    )
    if not fall > 0:
        return Verdict(
            Level.ATTENTION, "the trained network's loss is not below that of its start", threshold, source
        )
    if rise.low > 0 and rise.value > tolerance * fall:
        return Verdict(Level.ATTENTION, f"a hill of {rise.value / fall:.0%} of the fall", threshold, source)
    if rise.low > 0:
        return Verdict(Level.GOOD, f"a hill of only {rise.value / fall:.1%} of the fall", threshold, source)
    return Verdict(Level.GOOD, "no rise beyond sampling error", threshold, source)


def judge_solution(gain: Largest, loss: float) -> Verdict:
    """Informative: a network on its way down has lower points nearby, and how much lower is no fault by itself."""
    reason = (
        f"lower points nearby, by {gain.value / loss:.0%} of the loss"
        if gain.low > 0 and loss > 0
        else "no lower point on these lines"
    )
    return Verdict(Level.INFORMATIVE, reason, "none", "Li et al. 2018, section 4")


def _splits(specimen: Specimen) -> list[str]:
    return [split for split in ("train", "test") if specimen.has(split)]


def _directions(bench: Workbench, part: Specimen, space: ParameterSpace, own: Point) -> dict[str, Tensor]:
    """A random direction of filter norms, and the gradient's with the same length where there is one."""
    generator = bench.generator(Landscape1D.META.id)
    drawn = random_direction(space, generator, frozenset(part.trainable))
    random = filter_normalised(space, drawn, own.weights)
    if not bool(random.any()):  # nothing but vectors
        random = filter_normalised(space, drawn, own.weights, vectors="entries")
    found = {"a random direction": random}
    part.require_gradient()
    gradient = embedded(space, part.gradient())
    length = float(gradient.norm())
    if length > 0 and math.isfinite(length):
        found["the negative gradient"] = -gradient * float(random.norm()) / length
    return found


def _parabola(
    part: Specimen, space: ParameterSpace, direction: Tensor
) -> tuple[Parabola | None, tuple[str, ...]]:
    try:
        return parabola_along(part, space, direction), ()
    except SettingError as error:
        return None, (f"No parabola: {error}",)


def _details(
    axis: str, places: list[float], found: dict[str, Values], parabola: Parabola | None, origin: float
) -> tuple[Curve, ...]:
    lines = [Line(f"{split} loss", numbers(places), numbers(values.risks)) for split, values in found.items()]
    finite = [y for line in lines for y in line.y if math.isfinite(y)]
    if parabola is not None and finite:
        fine = torch.linspace(places[0], places[-1], 201, dtype=torch.float64).tolist()
        shown = [
            y if min(finite) / 2 <= (y := parabola(x - origin)) <= max(finite) else math.nan for x in fine
        ]
        lines.append(Line("parabola of slope and curvature", numbers(fine), numbers(shown)))
    marks = [Marker("trained weights", origin, "x")] + (
        [Marker("initial weights", 0.0, "x")] if origin else []
    )
    curves = [
        Curve(
            f"Loss along {'the line' if origin else axis.split(',')[0].removeprefix('distance along ')}",
            Axis(axis),
            Axis("mean loss", log=all(y > 0 for y in finite)),
            tuple(lines),
            tuple(marks),
            caption="The dips are solutions, a hill between the marks is a barrier. Where the curve leaves the parabola, "
            "curvature at the solution says nothing any more.",
        )
    ]
    rates = [(split, rate) for split, values in found.items() if (rate := values.error_rates) is not None]
    if rates:
        curves.append(
            Curve(
                "Errors along the line",
                Axis(axis),
                Axis("misclassified examples", "%"),
                tuple(Line(split, numbers(places), numbers(100 * rate)) for split, rate in rates),
                tuple(marks),
                caption="The share of errors can stay put where the loss moves.",
            )
        )
    return tuple(curves)


def _scalars(barrier: Largest, rise: Largest, parabola: Parabola | None) -> Scalars:
    items = [
        Scalar("largest rise from start to end", rise.value, "loss", rise.low, rise.high),
        Scalar("height above the chord of both ends", barrier.value, "loss", barrier.low, barrier.high),
    ]
    if parabola is not None:
        items += [
            Scalar("slope at the solution", parabola.slope, "loss / length"),
            Scalar("curvature at the solution", parabola.curvature, "loss / length²"),
        ]
    return Scalars(
        "The line in numbers", tuple(items), caption="The way from start to end is the unit of length."
    )


def _headline(profile: Profile, rise: Largest, fall: float) -> str:
    ends = [float(profile.risks[profile.places.index(place)]) for place in (0.0, 1.0)]
    way = f"from {ends[0]:.3g} to {ends[1]:.3g} on the straight line from initial to trained weights"
    if rise.low <= 0:
        return f"The training loss falls monotonically {way}."
    return f"The training loss goes {way}, over a rise of {rise.value:.3g}{f' ({rise.value / fall:.1%} of the fall)' if fall > 0 else ''}."


def _norm_note(part: Specimen, how: str) -> tuple[str, ...]:
    if not batch_norms(part.model):
        return ()
    if how == "recomputed":
        return ("Statistics of batch normalisation are made anew at each point, also at the ends.",)
    return (
        "Running statistics of batch normalisation are mixed like the weights, which can raise the middle of the line; "
        'batch_norm="recomputed" makes them anew.',
    )


def _remedies(verdict: Verdict) -> tuple[Remedy, ...]:
    if verdict.level is not Level.ATTENTION:
        return ()
    return (
        Remedy(
            "Warm the learning rate up: large early steps carry a network over hills.",
            "torch.optim.lr_scheduler.LinearLR",
        ),
        Remedy("Add normalisation or skip connections, which make the way smoother.", "torch.nn.LayerNorm"),
    )


INSTRUMENT = Landscape1D
