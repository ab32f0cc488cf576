"""Curves between two solutions with one bend that is trained to keep the loss low all along."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Protocol, Self

import torch
from torch import Tensor

from torchstone.batches import Batch
from torchstone.errors import NumericalError, SettingError
from torchstone.landscape.batch_statistics import using_batch_statistics
from torchstone.landscape.directions import embedded
from torchstone.landscape.evaluate import Progress, on_rows
from torchstone.landscape.moving import moving
from torchstone.landscape.point import Point, between
from torchstone.operators import ParameterSpace
from torchstone.specimen import Specimen


class Bent(Protocol):
    """A curve from start to end with a bend; `weight_of_bend(t)` is the bend's share in the point at t."""

    def at(self, place: float) -> Point:
        """The point at t in [0, 1]."""
        ...

    def weight_of_bend(self, place: float) -> float:
        """d(point) / d(bend)."""
        ...

    def with_bend(self, bend: Tensor) -> Self:
        """The same curve bent elsewhere."""
        ...

    @property
    def bend(self) -> Tensor:
        """The bend's weights (D,)."""
        ...


@dataclass(frozen=True)
class Bezier:
    """(1 - t)^2 start + 2 t (1 - t) bend + t^2 end."""

    start: Point
    bend: Tensor
    end: Point

    @classmethod
    def straight(cls, start: Point, end: Point) -> Self:
        """With its bend in the middle: a straight line."""
        return cls(start, (start.weights + end.weights) / 2, end)

    def at(self, place: float) -> Point:
        """The point at t in [0, 1]."""
        ends = (1 - place) ** 2 * self.start.weights + place**2 * self.end.weights
        weights = ends + self.weight_of_bend(place) * self.bend
        return Point(weights, between(self.start.buffers, self.end.buffers, place))

    def weight_of_bend(self, place: float) -> float:
        """2 t (1 - t)."""
        return 2 * place * (1 - place)

    def with_bend(self, bend: Tensor) -> Self:
        """The same curve bent elsewhere."""
        return replace(self, bend=bend)


@dataclass(frozen=True)
class PolygonalChain:
    """Straight from the start to the bend, reached at t = 1/2, and straight on to the end."""

    start: Point
    bend: Tensor
    end: Point

    @classmethod
    def straight(cls, start: Point, end: Point) -> Self:
        """With its bend in the middle: a straight line."""
        return cls(start, (start.weights + end.weights) / 2, end)

    def at(self, place: float) -> Point:
        """The point at t in [0, 1]."""
        ends = max(0.0, 1 - 2 * place) * self.start.weights + max(0.0, 2 * place - 1) * self.end.weights
        weights = ends + self.weight_of_bend(place) * self.bend
        return Point(weights, between(self.start.buffers, self.end.buffers, place))

    def weight_of_bend(self, place: float) -> float:
        """1 - |2 t - 1|."""
        return 1 - abs(2 * place - 1)

    def with_bend(self, bend: Tensor) -> Self:
        """The same curve bent elsewhere."""
        return replace(self, bend=bend)


@dataclass(frozen=True)
class BendTraining:
    """How a bend is trained.

    Args:
        steps: Updates.
        batch_size: Examples a step, at most all.
        lr: Learning rate at the start; it falls to 0 along a cosine.
        optimizer: Makes an optimiser of one vector, elementwise like Adam or SGD; Adam(lr) by default.
    """

    steps: int = 400
    batch_size: int = 64
    lr: float = 1e-3
    optimizer: Callable[[list[Tensor]], torch.optim.Optimizer] | None = None

    def __post_init__(self) -> None:
        if self.steps < 1 or self.batch_size < 1 or not self.lr > 0:
            raise SettingError(
                "A bend is trained with positive steps, batch_size and lr",
                f"{self.steps}, {self.batch_size}, {self.lr}",
                "Raise them.",
            )

    def make(self, bend: Tensor) -> torch.optim.Optimizer:
        """The optimiser."""
        return torch.optim.Adam([bend], lr=self.lr) if self.optimizer is None else self.optimizer([bend])


def train_bend(
    specimen: Specimen,
    space: ParameterSpace,
    curve: Bent,
    training: BendTraining,
    generator: torch.Generator,
    split: str = "train",
    *,
    progress: Progress | None = None,
) -> tuple[Any, tuple[float, ...]]:
    r"""Minimise E_{t ~ U(0, 1)} L(curve(t)) over the bend, by steps on minibatches at random places.

    The gradient in the bend is that in the weights at curve(t), times `weight_of_bend(t)`. Batch normalisation uses the
    statistics of the minibatch; dropout is off. Frozen parameters stay on the straight line.

    Cost: `steps` gradients on `batch_size` examples. Memory: a few copies of the parameters.

    Args:
        specimen: What is examined; never changed.
        space: The parameters that points give values for.
        curve: Where to begin, for example `Bezier.straight(start, end)`.
        training: Steps, batch size, learning rate.
        generator: On the CPU: order of examples and places.
        split: Part of the data.
        progress: Called with the number of steps done and their total.

    Returns:
        The curve with its trained bend, and the loss of each step's minibatch.

    Raises:
        NumericalError: The loss or the bend did not stay finite.

    Source: Garipov, Izmailov, Podoprikhin, Vetrov & Wilson 2018, equations 1 to 3 and section 3.2.
    """
    bend = curve.bend.detach().clone()
    optimizer, losses = training.make(bend), []
    base = [float(group["lr"]) for group in optimizer.param_groups]
    order: list[Tensor] = []
    with specimen.measuring(), moving(specimen, space) as put:
        for step in range(training.steps):
            if not order:
                rows = torch.randperm(specimen.size(split), generator=generator)
                order = list(rows.split(min(training.batch_size, len(rows))))
            part = on_rows(specimen, {split: order.pop().sort().values})
            place = float(torch.rand((), generator=generator, dtype=torch.float64))
            put(curve.with_bend(bend).at(place))
            loss, gradient = _loss_and_gradient(part, space, split)
            if not math.isfinite(loss) or not bool(bend.isfinite().all()):
                raise NumericalError(
                    f"The loss along the curve must stay finite; it did not at step {step + 1}",
                    f"{loss} at t = {place:.2f}",
                    "Lower the bend's learning rate.",
                )
            losses.append(loss)
            for group, start in zip(optimizer.param_groups, base, strict=True):
                group["lr"] = start * (1 + math.cos(math.pi * step / training.steps)) / 2
            bend.grad = curve.weight_of_bend(place) * gradient
            optimizer.step()
            if progress is not None:
                progress(step + 1, training.steps)
    return curve.with_bend(bend), tuple(losses)


def _loss_and_gradient(specimen: Specimen, space: ParameterSpace, split: str) -> tuple[float, Tensor]:
    """Mean loss of a minibatch and its gradient (D,), zero in frozen parameters."""
    trainable = specimen.trainable

    def of_batch(batch: Batch) -> tuple[Tensor, ...]:
        with torch.enable_grad(), using_batch_statistics(specimen.model):
            total = specimen.losses(specimen.forward(batch), batch).sum()
            return total, *specimen.grad(total, tuple(trainable.values()), batch)

    loss, *parts = specimen.mean_over(of_batch, split)
    return float(loss), embedded(space, dict(zip(trainable, parts, strict=True)))
