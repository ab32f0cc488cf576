"""Interpolating nearest-neighbour rules: they fit every training example exactly and may still predict well.

Source: Belkin, Hsu & Mitra 2018, sections 3 (simplicial interpolation) and 4 (weighted interpolating neighbours).
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from torchstone.errors import SettingError
from torchstone.kernels.nearest import nearest_neighbours


def weighted_interpolation(
    train_x: Tensor, train_y: Tensor, test_x: Tensor, neighbours: int, exponent: float = 1.0
) -> Tensor:
    r"""wiNN: the mean of the k nearest targets with weights ||x - x_i||^{-exponent}, singular at the examples.

    At a training input the prediction is its target (the mean of the targets, where inputs coincide).

    Args:
        train_x: (N, d).
        train_y: (N,) or (N, m) numbers.
        test_x: (M, d).
        neighbours: k.
        exponent: delta, positive; consistent for delta < d/2.

    Returns:
        (M,) or (M, m), float64.

    Raises:
        SettingError: An exponent that is not positive.
    """
    if not 0 < exponent < float("inf"):
        raise SettingError(
            "exponent must be positive", repr(exponent), "Use 1, or less than half the dimension."
        )
    found = nearest_neighbours(test_x, train_x, neighbours)
    distances = found.distances.double()
    targets = train_y.double()[found.indices]
    exact = distances == 0
    # Scaled by the nearest distance first, so that tiny distances do not overflow.
    scaled = distances / distances[:, :1].clamp(min=torch.finfo(torch.float64).tiny)
    weights = torch.where(exact.any(1, keepdim=True), exact.double(), scaled.clamp(min=1e-300) ** -exponent)
    weights = weights / weights.sum(1, keepdim=True)
    return (weights if targets.ndim == 2 else weights[..., None]).mul(targets).sum(1)


def simplicial_interpolation(train_x: Tensor, train_y: Tensor, test_x: Tensor) -> Tensor:
    """Linear interpolation over the Delaunay triangulation of the inputs; the nearest target outside their hull.

    Cost: a triangulation in d dimensions, feasible up to about d = 6.

    Args:
        train_x: (N, d), N > d + 1, not all in a hyperplane.
        train_y: (N,) or (N, m) numbers.
        test_x: (M, d).

    Returns:
        (M,) or (M, m), float64.
    """
    from scipy.spatial import Delaunay

    triangulation = Delaunay(train_x.double().numpy())
    points = test_x.double().numpy()
    simplex = triangulation.find_simplex(points)
    inside = simplex >= 0
    dimension = points.shape[1]
    transform = triangulation.transform[simplex[inside]]
    partial = np.einsum("nij,nj->ni", transform[:, :dimension], points[inside] - transform[:, dimension])
    barycentric = torch.from_numpy(np.column_stack([partial, 1 - partial.sum(1)]))
    corners = torch.from_numpy(triangulation.simplices[simplex[inside]]).long()
    nearest = nearest_neighbours(test_x, train_x, 1)
    values = train_y.double()[nearest.indices[:, 0]]
    targets = train_y.double()[corners]
    mixed = (barycentric if targets.ndim == 2 else barycentric[..., None]).mul(targets).sum(1)
    exact = nearest.distances[:, 0] == 0
    chosen = torch.from_numpy(inside)
    values[chosen] = torch.where(
        (exact[chosen] if values.ndim == 1 else exact[chosen, None]), values[chosen], mixed
    )
    return values
