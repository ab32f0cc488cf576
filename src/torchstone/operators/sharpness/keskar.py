r"""Keskar's sharpness: the largest relative rise of the risk in a box, in all weights or in a random subspace.

    phi = 100 max { f(theta + A y) - f(theta) : |y_i| <= eps (|A^+ theta|_i + 1) } / (1 + f(theta))

A is the identity, or has p random columns. It is a constrained maximum and not the largest eigenvalue of the Hessian: at a
minimum at 0 with a diagonal, positive semi-definite Hessian H the rise is eps^2 tr(H) / 2.
Source: Keskar, Mudigere, Nocedal, Smelyanskiy & Tang 2017, section 2.2.2, metric 2.1.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from torchstone.errors import SettingError
from torchstone.operators.sharpness.projected_ascent import Maximum, maximise
from torchstone.operators.sharpness.region import Box
from torchstone.operators.sharpness.risk_around import RiskAround

Lift = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class KeskarSharpness:
    """The largest relative rise found in a box, which the true maximum is not below.

    Args:
        phi: In percent of 1 + f(theta).
        rise: The rise itself, in the loss's unit.
        dimension: Of the box: all weights, or p.
        gap: First-order room for improvement, in the loss's unit; 0 at a local maximum.
        evaluations: Gradients that were computed.
        by_start: The largest rise met from each start.
    """

    phi: float
    rise: float
    dimension: int
    gap: float
    evaluations: int
    by_start: tuple[float, ...]


def keskar_sharpness(
    around: RiskAround,
    epsilon: float = 1e-3,
    *,
    subspace: int | None = None,
    evaluations: int = 10,
    restarts: int = 2,
    generator: torch.Generator,
) -> KeskarSharpness:
    """The largest relative rise in Keskar's box that projected ascent finds: a lower bound of the sharpness.

    It jumps from the gradient's corner and from random corners, and follows the gradient from random points near the
    middle. Finding the maximum of a convex function over a box is NP-hard in general, so no method of this cost finds it
    always.

    Cost: at most `evaluations` gradients for each of 1 + 2 restarts starts, and one more; for a subspace 2 n p^2 operations
    besides. Memory: n p numbers for a subspace. Bias: downwards.

    Args:
        around: The risk around a network's weights.
        epsilon: Half-width of the box, for each weight in units of its size plus 1.
        subspace: p, the number of random columns (standard normal, scaled to length 1); None for all weights.
        evaluations: Gradients for each start; Keskar et al. allow 10 iterations.
        restarts: Random starts of either kind.
        generator: Draws the columns and the starts.

    Returns:
        The sharpness found.

    Raises:
        SettingError: An epsilon that is not positive, or a subspace of no dimension or of more than all weights.
    """
    if not 0 < epsilon < float("inf"):
        raise SettingError("epsilon must be positive and finite", repr(epsilon), "Try 1e-3.")
    lift, drop, coordinates = _map(around, subspace, generator)
    box = Box(epsilon * (coordinates.abs() + 1))

    def rise(y: Tensor) -> tuple[float, Tensor]:
        value, gradient = around.rise_and_gradient(lift(y))
        return value, drop(gradient)

    _, gradient = rise(torch.zeros_like(coordinates))
    corners = [box.extreme(gradient), *(box.sample(coordinates, generator) for _ in range(restarts))]
    found = maximise(rise, box, corners, evaluations=evaluations)
    if restarts:
        inside = [_near_the_middle(box, generator) for _ in range(restarts)]
        found = _better(found, maximise(rise, box, inside, evaluations=evaluations, stride=2.0))
    largest = max(0.0, found.value)  # the box holds theta itself
    return KeskarSharpness(
        phi=100 * largest / (1 + around.risk),
        rise=largest,
        dimension=len(coordinates),
        gap=found.gap,
        evaluations=found.evaluations + 1,
        by_start=found.by_start,
    )


def _near_the_middle(box: Box, generator: torch.Generator) -> Tensor:
    noise = torch.randn(box.bounds.shape, generator=generator, dtype=torch.float64)
    return 0.01 * box.bounds * noise.to(box.bounds)


def _better(first: Maximum, second: Maximum) -> Maximum:
    best = first if first.value >= second.value else second
    spent = first.evaluations + second.evaluations
    return replace(best, evaluations=spent, by_start=first.by_start + second.by_start)


def _map(
    around: RiskAround, subspace: int | None, generator: torch.Generator
) -> tuple[Lift, Lift, Float[Tensor, " p"]]:
    """The functions y -> A y and g -> A' g, and A^+ theta."""
    here = around.here
    if subspace is None:
        return (lambda y: y), (lambda g: g), here
    if not 1 <= subspace <= len(here):
        raise SettingError(
            f"subspace must be from 1 to the number of weights, {len(here)}",
            repr(subspace),
            "Pass fewer columns.",
        )
    columns = torch.randn(len(here), subspace, generator=generator, dtype=torch.float64).to(here)
    columns /= columns.norm(dim=0)
    coordinates = _least_squares(columns, here)
    return (lambda y: columns @ y), (lambda g: columns.T @ g), coordinates


def _least_squares(columns: Float[Tensor, "n p"], here: Float[Tensor, " n"]) -> Float[Tensor, " p"]:
    """A^+ theta."""
    if len(here) < 4 * columns.shape[1]:
        return torch.linalg.lstsq(columns.double(), here.double()[:, None]).solution[:, 0].to(here)
    # So many more rows than columns leave random columns nearly orthogonal: the normal equations lose nothing.
    gram = (columns.T @ columns).double()
    return torch.linalg.solve(gram, (columns.T @ here).double()).to(here)
