"""How smooth is the loss around the solution?"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from torchstone.details import Axis, Line, Scalar, Scalars, Surface, numbers
from torchstone.errors import NotApplicableError
from torchstone.instruments.settings import require_between, require_choice, require_count
from torchstone.landscape import (
    Basin,
    GridLosses,
    Plane,
    Point,
    Ray,
    basins,
    batch_norms,
    every_parameter,
    filter_normalised,
    grid_places,
    here,
    inclusive,
    on_rows,
    orthogonalised,
    random_direction,
    statistics_at,
    values_at,
)
from torchstone.operators import ParameterSpace
from torchstone.reading import CostClass, Level, Meta, Need, Question, Reading, Remedy, Uncertainty, Verdict
from torchstone.specimen import Specimen
from torchstone.workbench import Workbench

DEPTH = 0.01
"""Depth of a second basin that counts, as a share of the heights in the plane."""
_DRAWS = 30  # of a second direction; two filters of a weight each fail all of them once in 10^9


@dataclass(frozen=True)
class Landscape2D:
    """Training loss on a plane through the solution, along two random directions with the network's own filter norms.

    Each filter of a direction has the norm of the network's filter, so that planes of different networks can be compared
    and a rescaling of layers does not change them. The value is the mean rise of the loss at a fixed distance, half a
    filter norm by default, over further random directions, both ways each.

    Cost: `grid`^2 + 2 `directions` forward passes over a sample of the examples. Error: over the random directions.
    Source: Li, Xu, Taylor, Studer & Goldstein 2018, sections 4 to 6.
    """

    META: ClassVar[Meta] = Meta(
        id="landscape_2d",
        question=Question.TRAINABILITY,
        title="Loss landscape",
        asks="How smooth is the loss around the solution?",
        cost=CostClass.MINUTES,
        needs=(Need.TRAIN, Need.PARAMETERS),
        unit="loss",
        source="Li, Xu, Taylor, Studer & Goldstein 2018, sections 4 to 6",
    )
    grid: int = 21
    reach: float = 1.0
    """Distance of the plane's edges, in filter norms."""
    distance: float = 0.5
    """Where the rise is measured, in filter norms."""
    directions: int = 8
    """Random directions for the rise."""
    examples: int = 256
    batch_norm: str = "stored"
    """"stored" keeps the network's running statistics; "recomputed" makes them anew at each point."""

    def __post_init__(self) -> None:
        require_count(self, "grid", 5, 200)
        require_between(self, "reach", 1e-3, 100.0)
        require_between(self, "distance", 1e-3, 100.0)
        require_count(self, "directions", 2, 1000)
        require_count(self, "examples", 2)
        require_choice(self, "batch_norm", ("stored", "recomputed"))

    def measure(self, bench: Workbench) -> Reading:
        """Evaluate the plane, and the rise along further directions."""
        part = on_rows(bench.specimen, {"train": bench.sample("train", self.examples, self.META.id)})
        space = every_parameter(part)
        own, generator = here(part, space), bench.generator(self.META.id)
        draw = lambda: random_direction(space, generator, frozenset(part.trainable))
        first, second = _pair(space, draw, own.weights)
        ticks = inclusive(-self.reach, self.reach, self.grid, also=(0.0,) if self.grid % 2 else ())
        losses = self._losses(part, space, Plane(own, first, second), grid_places(ticks, ticks))
        grid = GridLosses.of(ticks, ticks, losses.mean(1), part.dtype or space.dtype)
        rises = self._rises(
            part, space, own, [_scaled(space, draw(), own.weights) for _ in range(self.directions)]
        )
        extra = _second_basin(grid, losses)
        mean, error = float(rises.mean()), float(rises.std()) / len(rises) ** 0.5
        uncertainty = _student(mean, error, len(rises))
        verdict = judge(extra, grid.convex_share)
        centre, edge = float(part.risk()), float(grid.maximum[2])
        return Reading.of(
            self.META,
            value=mean,
            uncertainty=uncertainty,
            verdict=verdict,
            headline=(
                f"{self.distance:g} filter norms from the solution the training loss is {'higher' if mean >= 0 else 'lower'} "
                f"by {abs(mean):.3g} on average; the plane has {'one basin' if extra is None else 'more than one basin'} and is convex in "
                f"{grid.convex_share:.0%} of its points."
            ),
            explanation=(
                "Two random directions whose filters have the norms of the network's own; biases and normalisation stay "
                "put. A distance of 1 changes each filter by its own length. Smooth convex contours belong to networks "
                "that are easy to train, ragged ones to networks that are not."
            ),
            remedies=_remedies(verdict),
            details=(_surface(grid, centre), _scalars(grid, centre, edge, rises, uncertainty)),
            notes=self._notes(bench, part),
        )

    def _losses(
        self, part: Specimen, space: ParameterSpace, plane: Plane, places: list[tuple[float, float]]
    ) -> Tensor:
        anew = self.batch_norm == "recomputed" and bool(batch_norms(part.model))
        statistics = statistics_at(part, space, plane, places) if anew else None
        return values_at(part, space, plane, places, statistics=statistics).losses

    def _rises(self, part: Specimen, space: ParameterSpace, own: Point, directions: list[Tensor]) -> Tensor:
        """Mean of both ways along each direction, above the solution."""
        anew = self.batch_norm == "recomputed" and bool(batch_norms(part.model))
        found = []
        for direction in directions:
            ray, places = Ray(own, direction), [-self.distance, 0.0, self.distance]
            statistics = statistics_at(part, space, ray, places) if anew else None
            low, middle, high = values_at(part, space, ray, places, statistics=statistics).risks
            found.append((low + high) / 2 - middle)
        return torch.stack(found)

    def _notes(self, bench: Workbench, part: Specimen) -> tuple[str, ...]:
        notes = []
        if part.size("train") < bench.specimen.size("train"):
            notes.append(f"{part.size('train'):,} of {bench.specimen.size('train'):,} training examples")
        if batch_norms(part.model) and self.batch_norm == "stored":
            notes.append(
                'Running statistics of batch normalisation are kept; batch_norm="recomputed" makes them anew.'
            )
        return tuple(notes)


def judge(extra: Basin | None, convex_share: float) -> Verdict:
    """Attention where the plane holds a second basin that is beyond sampling error and deep enough to count."""
    threshold = f"no second basin deeper than {DEPTH:.0%} of the plane's heights, beyond sampling error"
    source = "Li et al. 2018, sections 5 and 6 (ragged landscapes go with poor training); the share is a convention"
    if extra is not None:
        return Verdict(Level.ATTENTION, f"a second basin, {extra.persistence:.2g} deep", threshold, source)
    return Verdict(Level.GOOD, f"one basin, convex in {convex_share:.0%} of the plane", threshold, source)


def _pair(space: ParameterSpace, draw: Callable[[], Tensor], weights: Tensor) -> tuple[Tensor, Tensor]:
    """Two directions that span a plane; filters of a single weight differ by sign only, so that it may take several draws.

    Raises:
        NotApplicableError: A single weight can move.
    """
    drawn = draw()
    first = _scaled(space, drawn, weights)
    for _ in range(_DRAWS):
        second = _scaled(space, orthogonalised(space, draw(), drawn), weights)
        if not _parallel(first, second):
            return first, second
    raise NotApplicableError("needs two weights that can move, to span a plane")


def _parallel(first: Tensor, second: Tensor) -> bool:
    """Whether two directions span a line at most, up to rounding; both zero (a network of zeros) do not count."""
    product = float(first.norm() * second.norm())
    return product > 0 and abs(float(first @ second)) > (1 - 1e-12) * product


def _scaled(space: ParameterSpace, direction: Tensor, weights: Tensor) -> Tensor:
    """Filter-normalised; where the network has nothing but vectors, entry by entry."""
    scaled = filter_normalised(space, direction, weights)
    return scaled if bool(scaled.any()) else filter_normalised(space, direction, weights, vectors="entries")


def _second_basin(grid: GridLosses, losses: Tensor) -> Basin | None:
    """The deepest further basin whose depth is above the threshold and, paired over the examples, above 0."""
    risks = grid.risks
    finite = risks[risks.isfinite()]
    if not finite.numel():
        return None
    for basin in basins(risks, at_least=DEPTH * float(finite.max() - finite.min()))[1:]:
        if not basin.saddle:
            continue
        columns = risks.shape[1]
        saddle, minimum = (losses[place[0] * columns + place[1]] for place in (basin.saddle, basin.minimum))
        depth = saddle - minimum
        # Four standard errors, as basins were searched for among hundreds of points.
        if len(depth) > 1 and float(depth.mean()) > 4 * float(depth.std()) / len(depth) ** 0.5:
            return basin
    return None


def _student(mean: float, error: float, count: int) -> Uncertainty:
    from scipy.stats import t

    half = float(t.ppf(0.975, count - 1)) * error
    if not math.isfinite(half):
        return Uncertainty(-math.inf, math.inf, "directions", "Student's t, 95%", 0.95, error)
    return Uncertainty(mean - half, mean + half, "directions", "Student's t, 95%", 0.95, error)


def _surface(grid: GridLosses, centre: float) -> Surface:
    heights = [z for row in grid.risks.tolist() for z in row]
    lowest = grid.minimum
    return Surface(
        "Training loss around the solution",
        Axis("first direction", "filter norms"),
        Axis("second direction", "filter norms"),
        Axis("mean loss", log=all(z > 0 for z in heights if math.isfinite(z))),
        grid.first,
        grid.second,
        tuple(numbers(row) for row in grid.risks),
        caption=f"The star is the lowest point of the grid, the dot at (0, 0) the network (loss {centre:.3g}). Round "
        "nested contours: one smooth basin. Islands: further basins.",
        paths=(Line("from the network to the lowest grid point", (0.0, lowest[0]), (0.0, lowest[1])),),
    )


def _scalars(
    grid: GridLosses, centre: float, edge: float, rises: Tensor, uncertainty: Uncertainty
) -> Scalars:
    worst = grid.curvature_ratio.nan_to_num(0.0, posinf=0.0)
    return Scalars(
        "The plane in numbers",
        (
            Scalar("loss at the solution", centre, "loss"),
            Scalar("lowest loss on the grid", grid.minimum[2], "loss"),
            Scalar("highest loss on the grid", edge, "loss"),
            Scalar(
                "mean rise along random directions",
                float(rises.mean()),
                "loss",
                uncertainty.low,
                uncertainty.high,
            ),
            Scalar("convex share of the plane", grid.convex_share),
            Scalar("largest |negative / positive| curvature in the plane", float(worst.max())),
        ),
        caption="Curvatures are second differences of the grid. The last number is 0 where the plane is convex.",
    )


def _remedies(verdict: Verdict) -> tuple[Remedy, ...]:
    if verdict.level is not Level.ATTENTION:
        return ()
    return (
        Remedy("Add skip connections: they turn ragged landscapes smooth.", ""),
        Remedy("Normalise, and lower the learning rate until the loss falls steadily.", "torch.nn.LayerNorm"),
    )


INSTRUMENT = Landscape2D
