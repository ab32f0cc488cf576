"""Losses and error rates of a network at many points of weight space, in one pass over the data."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor

from torchstone.batches import Batch
from torchstone.errors import SettingError
from torchstone.landscape.batch_statistics import recomputed_statistics
from torchstone.landscape.moving import moving
from torchstone.landscape.point import Point
from torchstone.operators import ParameterSpace
from torchstone.specimen import Specimen

Place = TypeVar("Place", contravariant=True)
Progress = Callable[[int, int], None]


class Family(Protocol[Place]):
    """Points by their coordinates: a line, a plane, a curve. Made one at a time, as each is as large as the network."""

    def at(self, place: Place) -> Point:
        """The point at these coordinates."""
        ...


@dataclass(frozen=True)
class Values:
    """What a network does at P points on N examples.

    Args:
        losses: Loss by point and example, float64 (P, N).
        wrong: 1 where the example is misclassified, 0 where not, NaN where it has no label, (P, N); None without classes.
    """

    losses: Tensor
    wrong: Tensor | None

    @property
    def risks(self) -> Tensor:
        """Mean loss at each point, (P,)."""
        return self.losses.mean(1)

    @property
    def error_rates(self) -> Tensor | None:
        """Share of misclassified examples at each point, (P,)."""
        return None if self.wrong is None else self.wrong.nanmean(1)


def on_rows(specimen: Specimen, rows: Mapping[str, Tensor]) -> Specimen:
    """The same specimen with only some examples of the named splits, at increasing indices; passes are counted on."""
    part = copy.copy(specimen)
    part.splits = dict(specimen.splits)
    for name, chosen in rows.items():
        if len(chosen) < specimen.size(name):
            part.splits[name] = specimen.split(name).take(chosen)
    return part


@torch.no_grad()
def values_at(
    specimen: Specimen,
    space: ParameterSpace,
    family: Family[Place],
    places: Sequence[Place],
    split: str = "train",
    *,
    statistics: Sequence[Mapping[str, Tensor]] | None = None,
    progress: Progress | None = None,
) -> Values:
    """Losses of every example at every point. The network is not changed, whatever happens.

    The data are read once: for each batch the network goes to all points in turn. Mapping a batch over stacked networks
    (`torch.func.vmap`) was slower on one core, for a small dense network by a third and for convolutions twofold.

    Cost: P forward passes. Memory: 8 P N bytes, and a copy of the parameters.

    Args:
        specimen: What is examined.
        space: The parameters that the points give values for.
        family: A line, plane or curve.
        places: Coordinates of the points, at least one.
        split: Part of the data.
        statistics: Buffers to use at each point instead of the point's own (see `statistics_at`).
        progress: Called with the number of evaluations done and their total, P a batch.

    Raises:
        SettingError: No places.
    """
    if not len(places):
        raise SettingError("A landscape needs at least one point", "no places", "Pass coordinates.")
    total, done = len(places) * _batches(specimen, split), 0

    def of_batch(batch: Batch) -> Tensor:
        nonlocal done
        columns = []
        for index, place in enumerate(places):
            put(_with(family.at(place), statistics, index))
            outputs = specimen.forward(batch)
            columns.append(specimen.losses(outputs, batch).double())
            wrong = _wrong(specimen, outputs, batch)
            if wrong is not None:
                columns.append(wrong)
            done += 1
            if progress is not None:
                progress(min(done, total), total)
        return torch.stack(columns, dim=1)

    with specimen.measuring(), moving(specimen, space) as put:
        rows = specimen.map_over(of_batch, split).T
    if len(rows) == len(places):
        return Values(rows, None)
    return Values(rows[::2], rows[1::2])


@torch.no_grad()
def statistics_at(
    specimen: Specimen,
    space: ParameterSpace,
    family: Family[Place],
    places: Sequence[Place],
    split: str = "train",
) -> list[dict[str, Tensor]]:
    """Statistics of batch normalisation made anew at each point (see `recomputed_statistics`).

    Cost: P forward passes.
    """
    with specimen.measuring(), moving(specimen, space) as put:
        found = []
        for place in places:
            put(family.at(place))
            found.append(recomputed_statistics(specimen, split))
        return found


def _with(point: Point, statistics: Sequence[Mapping[str, Tensor]] | None, index: int) -> Point:
    if statistics is None:
        return point
    return replace(point, buffers={**point.buffers, **statistics[index]})


def _wrong(specimen: Specimen, outputs: Tensor, batch: Batch) -> Tensor | None:
    objective: Any = specimen.objective
    labels, scores = objective.labels(batch), objective.scores(outputs)
    if labels is None or scores is None or scores.shape[:1] != labels.shape:
        return None
    wrong = (scores.argmax(1) != labels).double()
    return wrong.masked_fill(labels < 0, torch.nan)


def _batches(specimen: Specimen, split: str) -> int:
    part = specimen.split(split)
    if part.rows:
        return -(-part.size // part.batch_size)
    return len(part.source) if hasattr(part.source, "__len__") else 1
