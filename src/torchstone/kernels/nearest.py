"""Exact nearest neighbours in bounded memory, the same on every run."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from torchstone.errors import NumericalError, SettingError

Metric = Literal["euclidean", "cosine"]


@dataclass(frozen=True)
class Neighbours:
    """The k nearest points of each query, nearest first.

    Args:
        distances: (N, k), non-decreasing along each row, float64 (float32 where the device has no float64).
        indices: (N, k), rows of `points`.
    """

    distances: Tensor
    indices: Tensor


def nearest_neighbours(
    queries: Tensor,
    points: Tensor | None = None,
    k: int = 1,
    metric: Metric = "euclidean",
    memory_bytes: int = 2**28,
) -> Neighbours:
    r"""The k nearest points of each query, exactly; equal distances are ordered by index.

    Distances are Euclidean, or cosine :math:`1 - \cos(q, p) = \|\hat q - \hat p\|^2 / 2` of the normalised vectors.
    A matrix product in the inputs' own precision gives lower bounds
    :math:`\|q\|^2 - 2 q^\top p + \|p\|^2 - \epsilon (\|q\|^2 + \|p\|^2)` with :math:`\epsilon` the worst rounding error;
    the points with the least bounds are measured again as :math:`\|q - p\|` in float64. A row is
    done when its k-th distance is below every bound left out, else it is searched again among four times as many
    candidates. So duplicates are at distance exactly 0, and neither cancellation nor chunking changes an answer.

    Cost: one (N, d) x (d, M) product, in chunks; far more only where many points are nearly equidistant (identical rows).

    Args:
        queries: (N, d), finite, floating point. Higher-dimensional examples are flattened.
        points: (M, d); None takes the queries themselves and leaves each one out of its own neighbours (by its index,
            so that a duplicate still counts).
        k: Neighbours per query, 1 to M (M - 1 where each one is left out).
        metric: "euclidean" or "cosine".
        memory_bytes: Budget for the working arrays; at least one query's row is always held.

    Returns:
        Distances and indices, (N, k) each.

    Raises:
        SettingError: k or shapes out of range, or an unknown metric.
        NumericalError: NaN or infinite inputs, or a zero vector under the cosine metric.

    Example:
        >>> found = nearest_neighbours(torch.tensor([[0.0], [1.0], [1.0]]), k=2)
        >>> found.indices.tolist(), found.distances.tolist()
        ([[1, 2], [2, 0], [1, 0]], [[1.0, 1.0], [0.0, 1.0], [0.0, 1.0]])

    Source: the rounding bound follows Higham 2002, section 3.1.
    """
    alone = points is None
    queries = _matrix(queries, "queries")
    points = queries if points is None else _matrix(points, "points")
    available = len(points) - int(alone)
    if queries.shape[1] != points.shape[1]:
        raise SettingError(
            "queries and points must have the same number of features",
            f"{queries.shape[1]} and {points.shape[1]}",
            "Embed both with the same feature map.",
        )
    if not 1 <= k <= available:
        raise SettingError(
            f"k must lie between 1 and the {available} points", str(k), "Ask for fewer neighbours."
        )
    if metric == "cosine":
        queries = _normalised(queries)
        points = queries if alone else _normalised(points)
    elif metric != "euclidean":
        raise SettingError('metric must be "euclidean" or "cosine"', repr(metric), "Pick one of them.")
    search = _Search(queries, points, alone, memory_bytes)
    distances, indices = search.among(torch.arange(len(queries), device=queries.device), k, k + 16)
    return Neighbours(distances.square() / 2 if metric == "cosine" else distances, indices)


def majority_vote(labels: Tensor, classes: int) -> Tensor:
    """The most frequent label among neighbours; a tie goes to the tied label whose first neighbour is nearest.

    Args:
        labels: Labels of the neighbours (N, k), nearest first, in 0..classes-1.
        classes: Number of classes.

    Returns:
        (N,) labels.

    Example:
        >>> majority_vote(torch.tensor([[2, 0, 0], [1, 2, 0]]), classes=3).tolist()
        [0, 1]
    """
    counts = torch.zeros(len(labels), classes, dtype=torch.int64, device=labels.device)
    counts.scatter_add_(1, labels, torch.ones_like(labels))
    votes = counts.gather(1, labels)
    # argmax does not promise the first maximum, so the position is made part of the key.
    position = torch.arange(labels.shape[1], 0, -1, device=labels.device)
    winner = (votes * (labels.shape[1] + 1) + position).argmax(dim=1, keepdim=True)
    return labels.gather(1, winner).squeeze(1)


class _Search:
    """Candidates by matrix product, distances by subtraction."""

    def __init__(self, queries: Tensor, points: Tensor, alone: bool, memory_bytes: int) -> None:
        self.queries, self.points, self.alone, self.memory_bytes = queries, points, alone, memory_bytes
        # One power of two for all keeps squares in range without changing a digit.
        largest = max(float(queries.abs().max()), float(points.abs().max())) if queries.numel() else 0.0
        self.exponent = math.frexp(largest)[1]
        near = torch.float32 if queries.dtype == points.dtype == torch.float32 else torch.float64
        if near == torch.float32 and not _keeps_single_precision(queries.device):
            near = torch.float64
        centre = self._scaled(points).mean(dim=0)
        self.near_queries = (self._scaled(queries) - centre).to(near)
        self.near_points = self.near_queries if alone else (self._scaled(points) - centre).to(near)
        # 4 (d + 4) unit roundoffs bound the products, the norms, their sum and the centring; twice that is used.
        slack = 4 * (points.shape[1] + 4) * torch.finfo(self.near_points.dtype).eps
        self.query_norms = self.near_queries.square().sum(dim=1) * (1 - slack)
        self.point_norms = self.near_points.square().sum(dim=1) * (1 - slack)

    def _scaled(self, x: Tensor) -> Tensor:
        return _times_power(x, -self.exponent)

    def among(self, rows: Tensor, k: int, width: int) -> tuple[Tensor, Tensor]:
        """Neighbours of the given queries, searched among at least `width` candidates each."""
        width = min(width, len(self.points))
        item = torch.finfo(torch.float64).bits // 8
        per_row = 2 * item * (len(self.points) + width * (self.points.shape[1] + 4))
        chunks = rows.split(max(1, self.memory_bytes // per_row))
        found = [self._chunk(chunk, k, width) for chunk in chunks] or [self._chunk(rows, k, width)]
        distances, indices, certain = (torch.cat(parts) for parts in zip(*found, strict=True))
        if not bool(certain.all()):
            again = ~certain
            distances[again], indices[again] = self.among(rows[again], k, 4 * width)
        return distances, indices

    def _chunk(self, rows: Tensor, k: int, width: int) -> tuple[Tensor, Tensor, Tensor]:
        bounds = torch.addmm(self.point_norms, self.near_queries[rows], self.near_points.T, alpha=-2)
        bounds += self.query_norms[rows, None]
        if self.alone:
            bounds[torch.arange(len(rows), device=rows.device), rows] = math.inf
        least, candidates = bounds.topk(width, dim=1, largest=False)
        candidates = candidates.sort(dim=1).values
        gaps = self._wide(self.queries[rows])[:, None] - self._wide(self.points[candidates])
        distances = gaps.square_().sum(dim=2).sqrt()
        if self.alone:
            distances = distances.masked_fill(candidates == rows[:, None], math.inf)
        order = distances.argsort(dim=1, stable=True)[:, :k]
        distances, candidates = distances.gather(1, order), candidates.gather(1, order)
        # Every point left out is at least as far as the largest bound kept; a tie there could have a lower index.
        certain = distances[:, -1].square() < least[:, -1].to(distances.dtype)
        certain = certain | (width == len(self.points))
        return _times_power(distances, self.exponent), candidates, certain

    def _wide(self, x: Tensor) -> Tensor:
        return self._scaled(x if x.device.type == "mps" else x.double())


def _keeps_single_precision(device: torch.device) -> bool:
    """Whether float32 products are what they say: TF32 and bfloat16 modes would break the rounding bound."""
    probe = torch.full((256, 256), 1 + 2.0**-20, device=device)
    return device.type == "mps" or torch.equal(probe @ torch.eye(256, device=device), probe)


def _times_power(x: Tensor, exponent: int) -> Tensor:
    """Multiplies by a power of two in two halves, each of which is in range."""
    half = exponent // 2
    return x * 2.0**half * 2.0 ** (exponent - half)


def _matrix(x: Tensor, name: str) -> Tensor:
    if x.ndim < 2 or x.shape[0] == 0 or not x.is_floating_point():
        raise SettingError(
            f"{name} must be floating point features (N, d) with N >= 1",
            f"{x.dtype} of shape {tuple(x.shape)}",
            "Convert with .float() and flatten to one row an example.",
        )
    x = x.detach().flatten(1)
    if not bool(torch.isfinite(x).all()):
        raise NumericalError(
            f"{name} must be finite", "NaN or infinity", "Find the layer that produced them."
        )
    return x.float() if x.dtype.itemsize < 4 else x


def _normalised(x: Tensor) -> Tensor:
    wide = x if x.device.type == "mps" else x.double()
    # The largest entry is divided out first, so that the norm of huge or tiny vectors stays in range.
    largest = wide.abs().amax(dim=1, keepdim=True)
    if not bool((largest > 0).all()):
        raise NumericalError(
            "The cosine metric needs non-zero vectors",
            f"{int((largest == 0).sum())} zero rows",
            'Drop them (dead features) or use metric="euclidean".',
        )
    wide = wide / largest
    return wide / wide.norm(dim=1, keepdim=True)
