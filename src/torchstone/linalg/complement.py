"""What a symmetric map still hides in the complement of vectors already found: a short Lanczos run and its certificate."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor

from torchstone.linalg.block_lanczos import BlockLanczos
from torchstone.linalg.linear_map import LinearMap
from torchstone.linalg.probes import draw_probes

_DELTA = 0.0125  # sqrt(2 / pi) of it is the chance of a wrong bound: 1%


class DeflatedMap(LinearMap):
    """B = (I - Y Y^T) A (I - Y Y^T) for a symmetric A and orthonormal columns Y (n, k).

    By Courant and Fischer its largest eigenvalue is at least the (k + 1)-th of A, whatever Y is.
    """

    def __init__(self, A: LinearMap, known: Float[Tensor, "n k"]) -> None:
        super().__init__(A.shape, A.dtype, A.device, symmetric=True)
        self.A, self.known = A, known

    def project(self, X: Tensor) -> Tensor:
        """The part of X, a vector or columns, that is orthogonal to Y."""
        return X - self.known @ (self.known.T @ X)

    def _matvec(self, x: Tensor) -> Tensor:
        return self.project(self.A.matvec(self.project(x)).detach())

    def _matmat(self, X: Tensor) -> Tensor:
        return self.project(self.A.matmat(self.project(X)).detach())


class ComplementChain:
    """Lanczos from a random unit vector w in the complement of Y, with bounds on what it may have overlooked.

    An eigenvector z of B with eigenvalue mu beyond the Ritz values holds at most the share 1 / sum_j p_j(mu)^2 of w,
    where p_j are the orthonormal polynomials of the run (the Christoffel function of w's spectral measure). A random w
    in d dimensions has a share below delta^2 / d of any fixed z with probability at most sqrt(2 / pi) delta. So beyond
    the mu where the first falls below the second there is no eigenvalue, with probability 99%.

    Cost: one product a step; memory `steps` + 1 vectors.

    Args:
        A: Declared symmetric.
        known: Y, orthonormal columns (n, k), k < n.
        generator: Draws w.
        steps: At most this many.
        scale: |A|, of which rounding errors are a part even where little is left of A in the complement.

    Source: Christoffel functions: Akhiezer 1965, The Classical Moment Problem, section 2.5; random starts: Kuczynski &
    Wozniakowski 1992, SIAM J. Matrix Anal. Appl. 13(4).
    """

    def __init__(
        self,
        A: LinearMap,
        known: Float[Tensor, "n k"],
        generator: torch.Generator,
        steps: int,
        scale: float,
    ) -> None:
        self.map = DeflatedMap(A, known)
        self.dimension, self.steps = A.shape[0] - known.shape[1], min(steps, A.shape[0] - known.shape[1])
        start = self.map.project(self.map.project(draw_probes(A, 1, generator)))
        self.process = BlockLanczos(self.map, start, capacity=self.steps + 1)
        self.process.scale = scale

    @property
    def finished(self) -> bool:
        """Whether all steps are done, or the whole Krylov space is known."""
        return self.process.exhausted or self.process.size >= self.steps

    def step(self) -> None:
        """One product more."""
        self.process.expand(1)

    def above(self, level: float) -> Float[Tensor, "n r"]:
        """Ritz vectors with values above a level: each shows an eigenvalue of A above it that Y leaves out."""
        ritz = self.process.ritz()
        return self.process.basis @ ritz.coefficients[:, ritz.values > level].to(self.map.dtype)

    def below(self, level: float) -> Float[Tensor, "n r"]:
        """Ritz vectors with values below a level."""
        ritz = self.process.ritz()
        return self.process.basis @ ritz.coefficients[:, ritz.values < level].to(self.map.dtype)

    def upper(self) -> float:
        """A bound on the eigenvalues of B in the complement of Y; 99% sure."""
        return self._bound(1.0)

    def lower(self) -> float:
        """A bound on the eigenvalues of B in the complement of Y from below; 99% sure."""
        return -self._bound(-1.0)

    def _bound(self, sign: float) -> float:
        T = sign * self.process.projected
        low = float(torch.linalg.eigvalsh(T)[-1])
        if self.process.exhausted:
            return low + self.process.floor
        diagonal = torch.diagonal(T).tolist()
        beside = [*torch.diagonal(T, 1).abs().tolist(), float(self.process.coupling[0, -1].abs())]
        wanted = self.dimension / _DELTA**2
        reach = self.process.scale
        while _christoffel_sum(low + reach, diagonal, beside, wanted) < wanted:
            reach *= 2
        high = low + reach
        for _ in range(40):
            middle = (low + high) / 2
            if _christoffel_sum(middle, diagonal, beside, wanted) < wanted:
                low = middle
            else:
                high = middle
        return high


def _christoffel_sum(at: float, diagonal: list[float], beside: list[float], enough: float) -> float:
    """sum_j p_j(at)^2 over the orthonormal polynomials of a Jacobi matrix; infinite once it is enough."""
    before, now, total, link = 0.0, 1.0, 1.0, 0.0
    for alpha, beta in zip(diagonal, beside, strict=True):
        before, now = now, ((at - alpha) * now - link * before) / beta
        link = beta
        total += now * now
        if total >= enough:
            return math.inf
    return total
