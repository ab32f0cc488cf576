"""A recipe trained at several sizes: on fewer examples, and in other widths."""

from __future__ import annotations

import functools
import inspect
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from torchstone.bounds.crossed import crossed_mean
from torchstone.bounds.interval import Interval
from torchstone.errors import NotApplicableError
from torchstone.reading import Need
from torchstone.workbench.retraining import train_many
from torchstone.workbench.siblings import Siblings
from torchstone.workbench.workbench import Workbench

FITTED = 1e-3  # training error, or share of the first epoch's training loss, up to which data count as fitted


@dataclass(frozen=True)
class Metric:
    """What is compared: an error rate, or the loss."""

    name: str
    of: Callable[[Siblings, str], Tensor]
    classes: bool

    def show(self, value: float) -> str:
        """A number in its unit."""
        return f"{value:.2%}" if self.classes else f"{value:.3g}"


@dataclass(frozen=True)
class Size:
    """Networks of one size: how they do on each test example, (K, N), and on the data they were trained on, (K,)."""

    size: float
    test: Tensor
    train: Tensor
    fitted: bool


@dataclass(frozen=True)
class Step:
    """From one size to the next larger one."""

    low: float
    high: float
    differences: Tensor

    @property
    def change(self) -> float:
        """Of the mean test metric."""
        return float(self.differences.mean())

    def interval(self, confidence: float) -> Interval:
        """Of the change, over seeds and test examples."""
        return crossed_mean(self.differences, confidence)[0]


def compared(sizes: Sequence[Size]) -> list[Step]:
    """Differences of neighbouring sizes, larger minus smaller, by seed and example."""
    return [Step(a.size, b.size, b.test - a.test) for a, b in pairwise(sizes)]


def metric_of(bench: Workbench) -> Metric:
    """The misclassification rate where there are classes, else the loss.

    Raises:
        NotApplicableError: There are classes, but not one label an example.
    """
    if bench.lacks(Need.SCORES) or bench.lacks(Need.LABELS):
        return Metric("loss", lambda siblings, split: siblings.losses(split), False)
    bench.errors("test")  # says why, where there is no label an example
    return Metric("error", lambda siblings, split: siblings.errors(split), True)


def over_examples(
    bench: Workbench, metric: Metric, sizes: list[int], seeds: list[int]
) -> tuple[list[Size], dict[str, Tensor]]:
    """Train on nested random subsets, each with as many updates as the recipe makes.

    Cost: len(sizes) * len(seeds) trainings.

    Args:
        bench: Whose specimen.
        metric: What to measure.
        sizes: Numbers of examples.
        seeds: Of the networks of each size.

    Returns:
        Results by size, and the series by epoch of the networks on all examples.

    Raises:
        NotApplicableError: The recipe does not say how to train, or a training diverged.
    """
    specimen = bench.specimen
    recipe, count = specimen.recipe, specimen.size("train")
    if recipe is None or not recipe.epochs:
        raise NotApplicableError("needs a recipe that says epochs to train again")
    order = torch.randperm(count, generator=bench.generator("double_descent rows"))
    batch = min(recipe.batch_size or 1, count)
    updates = recipe.epochs * -(-count // batch)
    found: list[Size] = []
    watched: dict[str, Tensor] = {}
    for size in sizes:
        rows = order[:size].sort().values.repeat(len(seeds), 1)
        whole = size == count
        siblings = train_many(
            specimen,
            seeds,
            rows=rows,
            epochs=max(1, round(updates / -(-size // batch))),
            on_epoch=_watching(metric) if whole else None,
        )
        found.append(_size(size, metric, siblings, rows[0]))
        if whole and siblings.run is not None:
            watched = dict(siblings.run.series)
    return found, watched


def over_width(
    bench: Workbench, metric: Metric, factors: Sequence[float], seeds: list[int], own: Size
) -> list[Size]:
    """Train other widths on all examples, where `recipe.build` takes a `width` with a default; nothing otherwise.

    Cost: len(factors) * len(seeds) trainings, wider ones longer.

    Args:
        bench: Whose specimen.
        metric: What to measure.
        factors: Of the usual width.
        seeds: Of the networks of each width.
        own: Results of the usual width.

    Raises:
        NotApplicableError: A training diverged.
    """
    build = bench.specimen.recipe.build if bench.specimen.recipe is not None else None
    usual = usual_width(build)
    if build is None or usual is None:
        return []
    found = [Size(usual, own.test, own.train, own.fitted)]
    for width in sorted({max(1, round(factor * usual)) for factor in factors} - {usual}):
        siblings = train_many(bench.specimen, seeds, build=functools.partial(build, width=width))
        found.append(_size(width, metric, siblings, None))
    return sorted(found, key=lambda one: one.size)


def usual_width(build: Any) -> int | None:
    """Default of a `width` argument; None where there is none."""
    if build is None:
        return None
    try:
        parameter = inspect.signature(build).parameters.get("width")
    except (TypeError, ValueError):
        return None
    usual = parameter.default if parameter is not None else None
    return usual if isinstance(usual, int) and not isinstance(usual, bool) and usual >= 1 else None


def _watching(metric: Metric) -> Any:
    def on_epoch(_epoch: Any, siblings: Siblings) -> dict[str, Tensor]:
        return {split: metric.of(siblings, split).mean(1) for split in ("train", "test")}

    return on_epoch


def _size(size: float, metric: Metric, siblings: Siblings, rows: Tensor | None) -> Size:
    diverged = len(siblings.run.diverged) if siblings.run is not None else 0
    if diverged:
        raise NotApplicableError(f"needs trainings that stay finite; {diverged} diverged at size {size:g}")
    train = metric.of(siblings, "train")
    train = (train if rows is None else train[:, rows]).mean(1)
    first = float(siblings.run.series["train_loss"][:, 0].mean()) if siblings.run is not None else math.inf
    limit = FITTED if metric.classes else FITTED * first
    return Size(float(size), metric.of(siblings, "test"), train, float(train.mean()) <= limit)
