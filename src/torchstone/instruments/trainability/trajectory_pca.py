"""Did training go somewhere, or wander?"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from torchstone.details import Axis, Curve, Line, Marker, Scalar, Scalars, Surface, numbers
from torchstone.errors import NotApplicableError, SettingError
from torchstone.instruments.settings import require_between, require_count
from torchstone.landscape import (
    Plane,
    Point,
    TrajectoryPCA,
    every_parameter,
    from_state,
    gram_of_path,
    grid_places,
    heading,
    inclusive,
    on_rows,
    random_sign_headings,
    random_sign_shares,
    random_walk_shares,
    read_state,
    trajectory_pca,
    values_at,
)
from torchstone.operators import ParameterSpace
from torchstone.reading import CostClass, Level, Meta, Need, Question, Reading, Remedy, Verdict
from torchstone.specimen import Specimen
from torchstone.workbench import Workbench

MARGIN = 0.3
"""How far the map reaches beyond the path, as a share of the path's extent."""


@dataclass(frozen=True)
class TrajectoryPrincipalComponents:
    """Principal components of the checkpoints of a training run, against those of a random walk.

    A random walk has a share of 6/pi^2 = 61% along its first component and 15% along its second, in any number of
    dimensions, so a high share alone means nothing. The walk that is compared with takes the very steps of the training,
    each forward or backward at random: it knows how long the steps were and how few directions they took. The value is
    the share of the first component.

    Cost: O(T^2 D) for T checkpoints of D weights, and `grid`^2 forward passes over a sample. Error: none in the share;
    the null's spread is shown.
    Source: Li et al. 2018, section 7; Antognini & Sohl-Dickstein 2018 (the null).
    """

    META: ClassVar[Meta] = Meta(
        id="trajectory_pca",
        question=Question.TRAINABILITY,
        title="Path of the training",
        asks="Did training head somewhere, or wander?",
        cost=CostClass.SECONDS,
        needs=(Need.TRAIN, Need.PARAMETERS),
        unit="share of the variance",
        source="Li et al. 2018, section 7; Antognini & Sohl-Dickstein 2018, section 3",
    )
    level: float = 0.05
    """Share of random walks that may lead as far as the training."""
    walks: int = 999
    states: int = 60
    """At most so many checkpoints, evenly spaced."""
    grid: int = 13
    examples: int = 128
    """Training examples for the map; the components need none."""

    def __post_init__(self) -> None:
        require_between(self, "level", 1e-4, 0.5)
        require_count(self, "walks", 19, 100_000)
        require_count(self, "states", 4, 1000)
        require_count(self, "grid", 5, 200)
        require_count(self, "examples", 2)

    def measure(self, bench: Workbench) -> Reading:
        """Components of the path, the null's, and a map of the loss in the plane of the first two."""
        specimen = bench.specimen
        space = every_parameter(specimen)
        points, steps, last = self._path(specimen, space)
        gram = gram_of_path(points)
        found = trajectory_pca(gram, min(4, len(points) - 1))
        if not bool(found.shares.any()):
            raise NotApplicableError("the checkpoints of the recipe's trajectory do not differ")
        null = Null.of(gram, self.walks, bench.generator(self.META.id))
        share, straight = float(found.shares[0]), heading(gram)
        verdict = judge(share, null.exceeding_shares(share), null.exceeding_headings(straight), self.level)
        ideal = random_walk_shares(len(points), 2)
        return Reading.of(
            self.META,
            value=share,
            verdict=verdict,
            headline=(
                f"Two principal components hold {found.shares[:2].sum():.0%} of the path's variance, the first alone "
                f"{share:.0%}, where random walks with the same steps have {null.shares.mean():.0%}; the squared distance from "
                f"start to end is {straight:.2g} times that of a random walk."
            ),
            explanation=(
                f"Components of {len(points)} checkpoints. An ideal random walk has {ideal[0]:.0%} and {ideal[1]:.0%}, "
                "and one whose steps shrink, as training's do, has more: so high shares alone show nothing. The walks "
                "that are compared with take the training's own steps, each forward or backward at random. Whether "
                "training kept a heading is seen by how far the steps lead together."
            ),
            remedies=_remedies(verdict),
            details=(
                self._map(bench, space, last, points, found),
                _components(found.path, steps, bool(specimen.recipe and specimen.recipe.trajectory_steps)),
                *_shares(found.shares, straight, null, ideal),
            ),
            notes=_notes(len(points), specimen),
        )

    def _path(self, specimen: Specimen, space: ParameterSpace) -> tuple[list[Tensor], list[float], Point]:
        """The weights at each checkpoint in the network's own precision, their positions, and the last with buffers."""
        recipe = specimen.recipe
        if recipe is None or len(recipe.trajectory) < 4:
            raise NotApplicableError(
                "needs at least four checkpoints of the training (Recipe(trajectory=...))"
            )
        count = len(recipe.trajectory)
        chosen = [
            round(i * (count - 1) / (min(count, self.states) - 1)) for i in range(min(count, self.states))
        ]
        points, last = [], None
        for index in chosen:
            try:
                last = from_state(specimen, space, read_state(recipe.trajectory[index]))
            except SettingError as error:
                raise NotApplicableError(
                    f"checkpoint {index} of the trajectory does not fit: {error}"
                ) from None
            if not bool(last.weights.isfinite().all()):
                raise NotApplicableError(f"checkpoint {index} of the trajectory is not finite")
            points.append(last.weights.to(space.dtype))
        assert last is not None
        steps = recipe.trajectory_steps or range(count)
        return points, [float(steps[index]) for index in chosen], last

    def _map(
        self,
        bench: Workbench,
        space: ParameterSpace,
        last: Point,
        points: Sequence[Tensor],
        found: TrajectoryPCA,
    ) -> Surface:
        part = on_rows(bench.specimen, {"train": bench.sample("train", self.examples, self.META.id)})
        axes = torch.zeros(2, space.size, dtype=torch.float64, device=space.device)
        for weights, point in zip(found.mixture[:2].T, points, strict=True):
            axes += weights.to(axes)[:, None] * (point.double() - last.weights)
        path = found.path[:, :2].cpu()
        ticks = []
        for column in path.T:
            low, high = float(column.min()), float(column.max())
            reach = MARGIN * max(high - low, 1e-3 * float(path.abs().max()), 1e-12)
            ticks.append(inclusive(low - reach, high + reach, self.grid))
        risks = values_at(part, space, Plane(last, axes[0], axes[1]), grid_places(ticks[0], ticks[1])).risks
        heights = risks.reshape(self.grid, self.grid).tolist()
        return Surface(
            "Training loss in the plane of the path",
            Axis("first component", "weight units"),
            Axis("second component", "weight units"),
            Axis("mean loss", log=all(z > 0 for row in heights for z in row if math.isfinite(z))),
            tuple(ticks[0]),
            tuple(ticks[1]),
            tuple(numbers(row) for row in heights),
            caption="White: the checkpoints, projected on the plane through the last one (star). The map is the loss in "
            "that plane; the path itself lies outside it except at the star.",
            paths=(Line("training", numbers(path[:, 0]), numbers(path[:, 1])),),
        )


@dataclass(frozen=True)
class Null:
    """First shares and headings of random walks with the training's own steps."""

    shares: Tensor
    headings: Tensor

    @classmethod
    def of(cls, gram: Tensor, walks: int, generator: torch.Generator) -> Null:
        """Draw the walks."""
        shares = random_sign_shares(gram, walks, generator)[:, 0]
        return cls(shares, random_sign_headings(gram, walks, generator))

    def exceeding_shares(self, share: float) -> float:
        """Share of the walks, the training counted among them, with a first component as large: a p-value."""
        return _exceeding(self.shares, share)

    def exceeding_headings(self, straight: float) -> float:
        """The same for the heading."""
        return _exceeding(self.headings, straight)


def _exceeding(null: Tensor, value: float) -> float:
    return (1 + int((null >= value * (1 - 1e-9)).sum())) / (1 + len(null))


def judge(share: float, p_share: float, p_heading: float, level: float) -> Verdict:
    """Informative where the steps keep a heading, attention where they lead no further together than at random."""
    threshold = f"a share of at most {level:g} of random walks with the same steps leads as far"
    source = "Antognini & Sohl-Dickstein 2018 (why a null is needed); Fisher 1935, section 21 (random signs)"
    plain = (
        f"the first component's {share:.0%} are more than such walks have (p = {p_share:.2g})"
        if p_share <= level
        else f"the first component's {share:.0%} are no more than such walks have (p = {p_share:.2g})"
    )
    if p_heading <= level:
        return Verdict(
            Level.INFORMATIVE, f"training kept a heading (p = {p_heading:.2g}); {plain}", threshold, source
        )
    reason = f"the steps lead no further together than at random (p = {p_heading:.2g}); {plain}"
    return Verdict(Level.ATTENTION, reason, threshold, source, 0.2)


def _components(path: Tensor, steps: Sequence[float], updates: bool) -> Curve:
    return Curve(
        "The path's components over the training",
        Axis("updates" if updates else "checkpoint"),
        Axis("distance from the solution", "weight units"),
        tuple(
            Line(f"component {k + 1}", numbers(steps), numbers(column))
            for k, column in enumerate(path.T.cpu())
        ),
        (Marker("solution", 0.0),),
        caption="A random walk's components are cosines: half a wave for the first, one for the second, and so on. "
        "Training that heads somewhere falls fast and flattens.",
    )


def _shares(shares: Tensor, straight: float, null: Null, ideal: Tensor) -> tuple[Scalars, Scalars]:
    ends = lambda draws: draws.quantile(
        torch.tensor([0.025, 0.975], dtype=draws.dtype, device=draws.device)
    ).tolist()
    percent = lambda name, share, *ends: Scalar(name, 100 * float(share), "%", *(100 * end for end in ends))
    return (
        Scalars(
            "Variance along the components",
            (
                percent("first component", shares[0]),
                percent("first, random walks with the same steps", null.shares.mean(), *ends(null.shares)),
                percent("first, ideal random walk", ideal[0]),
                percent("second component", shares[1]),
                percent("second, ideal random walk", ideal[1]),
            ),
            caption="The interval holds 95% of the random walks.",
        ),
        Scalars(
            "Squared distance from start to end over the sum of the squared steps",
            (
                Scalar("training", straight),
                Scalar("random walks", float(null.headings.mean()), "", *ends(null.headings)),
            ),
            caption="1 on average where every step forgets the ones before. The interval holds 95% of the random walks.",
        ),
    )


def _notes(count: int, specimen: Specimen) -> tuple[str, ...]:
    recipe = specimen.recipe
    total = len(recipe.trajectory) if recipe is not None else count
    return (f"{count} of {total} checkpoints",) if count < total else ()


def _remedies(verdict: Verdict) -> tuple[Remedy, ...]:
    if verdict.level is not Level.ATTENTION:
        return ()
    return (
        Remedy(
            "Average the weights of the last checkpoints: where steps only wander, the mean lies lower than each.",
            "torch.optim.swa_utils.AveragedModel",
        ),
        Remedy(
            "Decay the learning rate, or raise the batch size, to let the gradient show over its noise.",
            "torch.optim.lr_scheduler.CosineAnnealingLR",
        ),
    )


INSTRUMENT = TrajectoryPrincipalComponents
