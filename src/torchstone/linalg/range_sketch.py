"""The range of a map as random vectors show it, with every vector left out in turn at no further product."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from torchstone.linalg.linear_map import LinearMap
from torchstone.linalg.orthonormalise import column_norms, orthonormalise
from torchstone.linalg.probes import Distribution, draw_probes


class RangeSketch:
    """An orthonormal basis Q of the range of Y = A W for random W, and of the same without one column.

    Y = Q R, and the range of Y without column i is Q (I - s_i s_i^T) where s_i, of length 1, is orthogonal to every
    column of R but the i-th: a column of R^-T. That is what makes leave-one-out estimates cheap. Where the rank of A is
    met, so that Q has fewer columns than Y, leaving one out changes nothing, and s_i is zero.

    Directions no longer than 10 eps max_i ||y_i|| are rounding error and no part of Q: what they hold stays in the
    complement.

    Cost: one product a vector; memory 3 n m.

    Args:
        A: A square map.
        distribution: Of the entries of W.
        generator: Draws W.

    Source: Epperly, Tropp & Webber 2024, SIAM J. Matrix Anal. Appl. 45(1), section 3.
    """

    def __init__(self, A: LinearMap, distribution: Distribution, generator: torch.Generator) -> None:
        self.A, self.generator = A, generator
        self.distribution: Distribution = distribution
        nothing = torch.zeros(A.shape[0], 0, dtype=A.dtype, device=A.device)
        self.vectors = self.images = self.basis = nothing
        self.triangle = torch.zeros(0, 0, dtype=torch.float64, device=A.device)

    @property
    def size(self) -> int:
        """Number m of random vectors."""
        return self.vectors.shape[1]

    @property
    def rank(self) -> int:
        """Number of columns of Q, at most m."""
        return self.basis.shape[1]

    def extend(self, count: int) -> Float[Tensor, "n r"]:
        """Add `count` random vectors. Cost: one product each. Returns the new columns of Q."""
        fresh = draw_probes(self.A, count, self.generator, self.distribution)
        images = self.A.matmat(fresh).detach()
        floor = 10 * torch.finfo(self.A.dtype).eps * float(column_norms(images).max())
        split = orthonormalise(images, self.basis, floor)
        below = torch.zeros(split.fresh.shape[1], self.size, dtype=torch.float64, device=self.A.device)
        self.triangle = torch.cat(
            [torch.cat([self.triangle, split.overlap], dim=1), torch.cat([below, split.coupling], dim=1)]
        )
        self.vectors = torch.cat([self.vectors, fresh], dim=1)
        self.images = torch.cat([self.images, images], dim=1)
        self.basis = torch.cat([self.basis, split.fresh], dim=1)
        return split.fresh

    def left_out(self) -> Float[Tensor, "r m"]:
        """The directions s_i, in the coordinates of Q, in float64."""
        if self.rank < self.size:
            return torch.zeros_like(self.triangle)
        identity = torch.eye(self.size, dtype=torch.float64, device=self.triangle.device)
        directions = torch.linalg.solve(self.triangle.T, identity)
        return directions / column_norms(directions)


def pair_directions(directions: Float[Tensor, "r m"]) -> tuple[Float[Tensor, "m m"], Float[Tensor, "m m"]]:
    """Cosines c_ij between the s_i, and the lengths sqrt(1 - c_ij^2) of what s_i has beyond s_j.

    Leaving out i besides j takes from the basis also s_ij = (s_i - c_ij s_j) / sqrt(1 - c_ij^2). The lengths are 1 on
    the diagonal and wherever there is nothing to divide.
    """
    cosines = directions.T @ directions
    lengths = (1 - cosines.square()).clamp_min(0).sqrt()
    lengths = torch.where(lengths > torch.finfo(torch.float64).eps ** 0.5, lengths, torch.ones_like(lengths))
    return cosines, lengths.fill_diagonal_(1.0)
