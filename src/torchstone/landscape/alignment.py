"""Reordering one network's hidden units so that they lie closest to another network's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from torchstone.landscape.hidden_units import HiddenUnits, by_unit, permuted
from torchstone.landscape.point import Point
from torchstone.operators import ParameterSpace


@dataclass(frozen=True)
class Alignment:
    """A network whose units were reordered.

    Args:
        point: The reordered weights and buffers; the same function as before.
        permutations: For each hidden layer, which unit was put in each place.
        before: Distance to the reference before.
        after: Distance to the reference after.
        sweeps: Passes over the layers until nothing changed.
        converged: Whether nothing changed in the last of them.
    """

    point: Point
    permutations: tuple[Tensor, ...]
    before: float
    after: float
    sweeps: int
    converged: bool


def align(
    reference: Point,
    other: Point,
    space: ParameterSpace,
    units: Sequence[HiddenUnits],
    generator: torch.Generator,
    *,
    starts: int = 5,
    sweeps: int = 50,
) -> Alignment:
    r"""Permute the hidden units of `other` to maximise the inner product of its weights with the reference's.

    Coordinate ascent: for one hidden layer at a time, all others held, the best permutation solves a linear assignment
    problem with the similarities C_ij = sum over the weights that make or read a unit of <reference's unit i, other's
    unit j>. The distance falls with every change, so the ascent ends; at a local optimum, as the joint problem is
    NP-hard. Which one is found depends on the order of the layers, so the best of several is taken.

    Cost: `starts` times a few sweeps of O(n^2 d + n^3) for each layer of n units with d weights each.

    Args:
        reference: The network to lie close to.
        other: The network to reorder.
        space: Where the parameters lie.
        units: The hidden layers (`hidden_units`).
        generator: Order of the layers within a sweep.
        starts: Orders of the layers to try.
        sweeps: At most so many passes over the layers for each.

    Returns:
        The reordered network.

    Source: Ainsworth, Hayase & Srinivasa 2023, section 3.2 and algorithm 1 (weight matching).
    """
    found = [_ascend(reference, other, space, units, generator, sweeps) for _ in range(max(1, starts))]
    return min(found, key=lambda one: one.after)


def _ascend(
    reference: Point,
    other: Point,
    space: ParameterSpace,
    units: Sequence[HiddenUnits],
    generator: torch.Generator,
    sweeps: int,
) -> Alignment:
    from scipy.optimize import linear_sum_assignment

    point = other
    orders = [torch.arange(layer.count) for layer in units]
    done, changed = 0, True
    while changed and done < sweeps:
        changed = False
        for index in torch.randperm(len(units), generator=generator).tolist():
            similarity = _similarity(reference.weights, point.weights, space, units[index])
            _, best = linear_sum_assignment(similarity.cpu().numpy(), maximize=True)
            order = torch.from_numpy(best)
            gain = float(similarity.cpu()[torch.arange(len(order)), order].sum() - similarity.trace())
            if gain > 1e-12 * float(similarity.abs().sum()):
                point = permuted(point, space, [units[index]], [order])
                orders[index] = orders[index][order]
                changed = True
        done += 1
    distance = lambda weights: float((weights - reference.weights).norm())
    return Alignment(
        point, tuple(orders), distance(other.weights), distance(point.weights), done, not changed
    )


def _similarity(reference: Tensor, other: Tensor, space: ParameterSpace, layer: HiddenUnits) -> Tensor:
    """Inner products of units, reference's by other's, (count, count)."""
    shapes = dict(zip(space.names, (parameter.shape for parameter in space.parameters), strict=True))
    total = torch.zeros(layer.count, layer.count, dtype=torch.float64, device=reference.device)
    for name in layer.made_by:
        if name in space.slices:  # running statistics follow from the weights and the data
            mine, theirs = (vector[space.slices[name]].view(layer.count, -1) for vector in (reference, other))
            total += mine @ theirs.T
    part, shape = space.slices[layer.read_by], shapes[layer.read_by]
    rows = lambda vector: by_unit(vector[part].view(shape), layer).transpose(0, 1).flatten(1)
    return total + rows(reference) @ rows(other).T
