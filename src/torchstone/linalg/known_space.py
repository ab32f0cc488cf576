"""A symmetric map beside eigenvectors that are known already."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from torchstone.errors import SettingError
from torchstone.linalg.eigen import Eigenpairs
from torchstone.linalg.linear_map import LinearMap


@dataclass(frozen=True)
class KnownSpace:
    """Eigenpairs of A, with orthonormal vectors.

    Attributes:
        map: A.
        values: Eigenvalues (d,).
        vectors: Columns (n, d).
    """

    map: LinearMap
    values: Float[Tensor, " d"]
    vectors: Float[Tensor, "n d"]

    @classmethod
    def of(cls, A: LinearMap, known: Eigenpairs) -> KnownSpace:
        """The space of known eigenpairs.

        Raises:
            SettingError: Vectors of another size, dtype or device, or not orthonormal.
        """
        values, vectors = known.values, known.vectors
        fits = (
            tuple(vectors.shape) == (A.shape[0], len(values))
            and (vectors.dtype, vectors.device) == (A.dtype, A.device)
            and len(values) > 0
        )
        if not fits:
            raise SettingError(
                f"known eigenvectors of {A} are columns ({A.shape[0]}, d)",
                f"shape {tuple(vectors.shape)}, {vectors.dtype}, on {vectors.device}, with {len(values)} values",
                "Pass what top_eigenpairs gave for this map.",
            )
        double = vectors.double()
        skew = (double.T @ double - torch.eye(len(values), dtype=torch.float64, device=A.device)).abs().max()
        if not float(skew) <= torch.finfo(A.dtype).eps ** 0.5:
            raise SettingError(
                "known eigenvectors are orthonormal", f"an error of {float(skew):.2g}", "Orthonormalise them."
            )
        return cls(A, values, vectors)

    def project(self, x: Tensor) -> Tensor:
        """The part of x (n,), or of columns (n, k), orthogonal to the known vectors."""
        return x - self.vectors @ (self.vectors.T @ x)

    def complement(self, x: Float[Tensor, " n"]) -> LinearMap:
        """A on the complement, and the Rayleigh quotient of x there on the known vectors. Cost: one product.

        Rounding lets a little of the known space into any Krylov space. There it meets a value from the middle of the
        complement's spectrum, at which every function of interest is defined, and not an outlier or zero.
        """
        quotient = float((x * self.map.matvec(x).detach()).sum() / (x * x).sum())
        return _Complement(self, quotient)


class _Complement(LinearMap):
    """P A P + c Y Y^T for P = I - Y Y^T."""

    def __init__(self, space: KnownSpace, filling: float) -> None:
        super().__init__(space.map.shape, space.map.dtype, space.map.device, symmetric=True)
        self.space, self.filling = space, filling

    def _matvec(self, x: Tensor) -> Tensor:
        outside = self.space.project(x)
        return self.space.project(self.space.map.matvec(outside).detach()) + self.filling * (x - outside)

    def _matmat(self, X: Tensor) -> Tensor:
        outside = self.space.project(X)
        return self.space.project(self.space.map.matmat(outside).detach()) + self.filling * (X - outside)
