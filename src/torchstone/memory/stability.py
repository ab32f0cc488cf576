r"""Whether a map pulls its neighbourhood in: spectral radii of Jacobians, Floquet multipliers of cycles."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Complex, Float
from torch import Tensor

from torchstone.errors import NumericalError, SettingError

Map = Callable[[Tensor], Tensor]
"""A map of states: from a batch (B, ...) to a batch of the same shape, each row on its own."""


@dataclass(frozen=True)
class SpectralRadius:
    """Largest absolute eigenvalue of one or several matrices, with ends that always hold.

    Attributes:
        values: As LAPACK gives it, float64 (...).
        low: No radius is below this, rounding included.
        high: No radius is above this, rounding included: where it is below 1, powers of the matrix vanish.
    """

    values: Float[Tensor, " *batch"]
    low: Float[Tensor, " *batch"]
    high: Float[Tensor, " *batch"]


def jacobians(function: Map, points: Tensor) -> Float[Tensor, "b d d"]:
    """The Jacobian of a map at each of several points, states flattened.

    Cost: d backward passes, batched; memory d times that of one.

    Args:
        function: Acts on each row of a batch (B, ...) on its own, and is made of operations that `torch.func` knows.
        points: (B, ...).

    Returns:
        (B, d, d), entry [b, i, j] the derivative of output i in input j, in the points' dtype.

    >>> jacobians(lambda x: x**2, torch.tensor([[1.0, 3.0]]))
    tensor([[[2., 0.],
             [0., 6.]]])
    """
    shape = points.shape[1:]
    one = lambda flat: function(flat.reshape(1, *shape)).reshape(-1)
    return torch.func.vmap(torch.func.jacrev(one))(points.detach().flatten(1)).detach()


def spectral_radius(matrices: Tensor, *, squarings: int = 16) -> SpectralRadius:
    r"""The largest absolute eigenvalue of square matrices that need not be symmetric, between two certain ends.

    For every k, :math:`(|\mathrm{tr} A^k| / d)^{1/k} \le \rho(A) \le \|A^k\|_F^{1/k}`; the powers :math:`k = 2^m` come by
    squaring, and a bound on the rounding errors of the squarings widens both ends. They close like
    :math:`\log(d) / k`; on matrices that are very far from normal, where residuals say nothing, later than that, until
    the bound on rounding takes over.

    Cost: an eigenvalue decomposition, and `squarings` products of d x d matrices.

    Args:
        matrices: (..., d, d), real.
        squarings: The largest power is 2^squarings.

    Returns:
        The radius and its ends, each (...).

    Raises:
        SettingError: Not square, or empty, or fewer than 0 squarings.
        NumericalError: An entry is NaN or infinite.

    >>> found = spectral_radius(torch.tensor([[0.5, 3.0], [0.0, 0.5]]))
    >>> round(float(found.values), 6), bool(found.high < 1)
    (0.5, True)

    Source: Gelfand 1941 (the upper end); Higham 2002, section 3.5 (rounding errors of products).
    """
    if matrices.ndim < 2 or matrices.shape[-1] != matrices.shape[-2] or matrices.numel() == 0:
        raise SettingError(
            "A spectral radius needs square matrices (..., d, d)",
            f"shape {tuple(matrices.shape)}",
            "Pass one square matrix a state.",
        )
    if squarings < 0:
        raise SettingError("squarings must be 0 or more", str(squarings), "Use 16.")
    A = matrices.detach().to(torch.float64)
    if not bool(A.isfinite().all()):
        raise NumericalError(
            "A spectral radius needs finite entries", "NaN or infinity", "Look where the map overflows."
        )
    values = torch.linalg.eigvals(A).abs().amax(-1)
    low, high = _gelfand(A, squarings)
    return SpectralRadius(values, low, high)


@dataclass(frozen=True)
class ArnoldiRadius:
    """Largest absolute Ritz values of several matrices known by their products.

    Attributes:
        values: (B,) float64. No certain end: what the start does not see is overlooked, like every search by products.
        residuals: |A u - theta u| of the Ritz pair, (B,): the distance to a matrix that has this eigenvalue.
    """

    values: Float[Tensor, " b"]
    residuals: Float[Tensor, " b"]


def arnoldi_radius(
    products: Callable[[Tensor], Tensor], start: Tensor, *, steps: int = 40, tolerance: float = 1e-4
) -> ArnoldiRadius:
    """Spectral radii of B matrices at once, from Krylov spaces, for matrices too large to be written down.

    Cost: at most `steps` products with each matrix; memory of steps + 1 vectors each.

    Args:
        products: From vectors (B, d) to A_b v_b, (B, d). The transposed matrices have the same radius.
        start: A vector for each matrix, (B, d), drawn at random.
        steps: Size of the largest Krylov space.
        tolerance: Residual, relative to the radius, at which all are done.

    Returns:
        Ritz values and residuals.

    Raises:
        NumericalError: A product is NaN or infinite.

    Source: Arnoldi 1951; Saad 2011, section 6.2.
    """
    b, d = start.shape
    steps = min(steps, d)
    Q = torch.zeros(b, steps + 1, d, dtype=torch.float64, device=start.device)
    H = torch.zeros(b, steps + 1, steps, dtype=torch.float64, device=start.device)
    Q[:, 0] = torch.nn.functional.normalize(start.double(), dim=1)
    found = ArnoldiRadius(H[:, 0, 0], H[:, 0, 0])
    for m in range(1, steps + 1):
        w = products(Q[:, m - 1]).double()
        if not bool(w.isfinite().all()):
            raise NumericalError(
                "Products must be finite", "NaN or infinity", "Look where the map overflows."
            )
        for _ in range(2):  # twice is enough
            overlaps = torch.einsum("bmd,bd->bm", Q[:, :m], w)
            H[:, :m, m - 1] += overlaps
            w = w - torch.einsum("bmd,bm->bd", Q[:, :m], overlaps)
        norm = torch.linalg.vector_norm(w, dim=1)
        H[:, m, m - 1] = norm
        tiny = norm <= 1e-14 * torch.linalg.matrix_norm(H[:, :m, :m])  # the space is invariant
        Q[:, m] = torch.where(tiny[:, None], 0.0, w / torch.where(tiny, 1.0, norm)[:, None])
        values, vectors = torch.linalg.eig(H[:, :m, :m])
        top = values.abs().argmax(1)
        last = vectors[torch.arange(b, device=start.device), m - 1, top].abs()
        found = ArnoldiRadius(values.abs().amax(1), norm * last)
        if bool((found.residuals <= tolerance * found.values).all()):
            break
    return found


def _gelfand(A: Tensor, squarings: int) -> tuple[Tensor, Tensor]:
    r"""Ends of the radius. Kept: :math:`A^k = e^{scale} (B + E)` with |B|_F = 1 and |E|_F <= error."""
    d, unit = A.shape[-1], torch.finfo(torch.float64).eps
    product_error = 1.01 * (d + 2) * unit  # |fl(B B) - B B|_F <= d u |B|_F^2, and the scaling
    largest = A.abs().amax((-2, -1))  # first, so that no square underflows or overflows
    zero = largest == 0
    B = A / torch.where(zero, 1.0, largest)[..., None, None]
    norm = torch.where(zero, 1.0, torch.linalg.matrix_norm(B))
    B = B / norm[..., None, None]
    scale = torch.where(zero, -math.inf, largest.log() + norm.log())
    error = torch.full_like(norm, 2 * unit)
    lows, highs = [], []
    for m in range(squarings + 1):
        k = 2.0**m
        size = torch.linalg.matrix_norm(B)
        trace = B.diagonal(dim1=-2, dim2=-1).sum(-1).abs() - math.sqrt(d) * (error + d * unit)
        highs.append(((size + error).log() + scale) / k)
        lows.append(((trace.clamp(min=0) / d).log() + scale) / k)
        B = B @ B
        norm = torch.linalg.matrix_norm(B)
        error = 2 * error + error.square() + product_error
        divisor = torch.where(norm == 0, 1.0, norm)
        B, error = B / divisor[..., None, None], error / divisor
        scale = torch.where(zero, -math.inf, 2 * scale + divisor.log())
    # The logarithms and exponentials add errors of a few units in the last place.
    slack = 64 * unit * (1 + scale.abs().nan_to_num(posinf=0) / 2.0 ** (squarings + 1))
    low = torch.stack(lows).amax(0).exp() * (1 - slack)
    high = torch.stack(highs).amin(0).exp() * (1 + slack)
    return torch.where(zero, 0.0, low), torch.where(zero, 0.0, high)


def floquet_multipliers(function: Map, cycle: Tensor) -> Complex[Tensor, " d"]:
    r"""Eigenvalues of the Jacobian of :math:`f^p` along a cycle :math:`x_1 \to \dots \to x_p \to x_1`, largest first.

    A disturbance of the cycle shrinks from round to round if all of them lie inside the unit circle. They do not depend
    on which point is called the first.

    Cost: p Jacobians and p - 1 products of d x d matrices.

    Args:
        function: The map.
        cycle: The points in their order, (p, ...); p = 1 for a fixed point.

    Returns:
        Complex multipliers (d,), in order of falling absolute value.

    Raises:
        SettingError: No point.

    Source: Strogatz 2015, sections 8.7 and 10.1.
    """
    if len(cycle) == 0:
        raise SettingError("A cycle has at least one point", "none", "Pass its points, (p, ...).")
    # The last point's Jacobian comes first: the order of the chain rule.
    product = functools.reduce(torch.matmul, jacobians(function, cycle).to(torch.float64).flip(0))
    multipliers = torch.linalg.eigvals(product)
    return multipliers[multipliers.abs().argsort(descending=True)]
