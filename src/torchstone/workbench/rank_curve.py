"""How many parts of a class's activations a network needs to keep its answer."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from torchstone.errors import SettingError
from torchstone.kernels.nmf import nmf, truncated_svd
from torchstone.workbench.replacing import Activations

Reduce = Callable[[Tensor, int], Tensor]
"""From a matrix (n, d) and a rank to a matrix (n, d) of that rank."""


@dataclass(frozen=True)
class RankCurve:
    """Accuracy of a network whose activations are replaced, class by class, by matrices of low rank.

    Attributes:
        ranks: Powers of two, and the full rank, at which nothing is replaced.
        accuracy: Of each class at each rank, (classes, R).
        errors: Mean relative distance of the replaced matrices from the true ones at each rank, (R,).
    """

    ranks: tuple[int, ...]
    accuracy: Tensor
    errors: Tensor

    @property
    def areas(self) -> Tensor:
        """Area under each class's curve over log2 of the rank, as a share of the whole width, (classes,)."""
        if len(self.ranks) < 2:
            return self.accuracy[:, 0]
        x = torch.tensor([math.log2(rank) for rank in self.ranks], dtype=torch.float64)
        return torch.trapezoid(self.accuracy, x, dim=1) / float(x[-1])


def rank_curve(
    activations: Activations,
    labels: Tensor,
    answer: Callable[[Tensor], Tensor],
    reduce: Reduce,
    *,
    largest: int = 16,
    cells: int = 4096,
) -> RankCurve:
    """Replace the activations of each class by a matrix of rank k, and ask the rest of the network.

    A class's activations are one matrix of (examples x positions) rows and one column a unit, and all classes are replaced
    at once. Where a class has more rows than `cells`, its first examples are taken.

    Cost: a forward pass and one reduction a class for each rank.

    Args:
        activations: Of one layer, for N examples.
        labels: (N,); each class with at least one example.
        answer: Class scores (N, C) of the network for activations (N, ...) in place of its own.
        reduce: Makes the matrices of rank k.
        largest: Largest rank that is tried.
        cells: Most rows of a class's matrix.

    Raises:
        SettingError: Labels that do not match the activations.
    """
    if labels.shape != activations.values.shape[:1] or len(labels) == 0:
        raise SettingError(
            "rank_curve needs one label for each row of the activations",
            f"{tuple(labels.shape)} for {tuple(activations.values.shape)}",
            "Pass the labels of the same examples.",
        )
    positions = max(1, len(activations.matrix(torch.tensor([0]))))
    most = max(1, cells // positions)
    groups = [(labels == c).nonzero().squeeze(1)[:most] for c in labels.unique()]
    full = min(min(activations.matrix(group).shape) for group in groups)
    ranks = tuple(2**i for i in range(full.bit_length()) if 2**i < full and 2**i <= largest)
    columns, errors = [], []
    for rank in (*ranks, full):
        values, distances = activations.values.clone(), []
        for group in groups if rank < full else ():
            matrix = activations.matrix(group)
            reduced = reduce(matrix, rank)
            distances.append(
                float((matrix.double() - reduced).norm() / matrix.double().norm().clamp(min=1e-300))
            )
            values[group] = activations.with_matrix(group, reduced)
        right = answer(values).argmax(1) == labels
        columns.append(torch.stack([right[group].double().mean() for group in groups]))
        errors.append(math.fsum(distances) / len(distances) if distances else 0.0)
    return RankCurve((*ranks, full), torch.stack(columns, 1), torch.tensor(errors, dtype=torch.float64))


def nonnegative_parts(matrix: Tensor, rank: int) -> Tensor:
    """The product of a non-negative matrix factorisation; a rough one, because hundreds are needed."""
    return nmf(matrix, rank, iterations=100, tolerance=1e-3).product


def principal_parts(matrix: Tensor, rank: int) -> Tensor:
    """The nearest matrix of that rank."""
    return truncated_svd(matrix, rank)


def random_units(generator: torch.Generator) -> Reduce:
    """Keep so many units, drawn anew each time, as large a share of them as the rank is of the full rank."""

    def keep(matrix: Tensor, rank: int) -> Tensor:
        units = matrix.shape[1]
        kept = max(1, round(units * rank / min(matrix.shape)))
        mask = torch.zeros(units, dtype=torch.float64)
        mask[torch.randperm(units, generator=generator)[:kept]] = 1
        return matrix.double() * mask

    return keep
