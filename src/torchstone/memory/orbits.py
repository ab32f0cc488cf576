"""Applying a map again and again: where orbits go, and when they rest."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from torchstone.errors import SettingError
from torchstone.memory.stability import Map


@dataclass(frozen=True)
class Orbits:
    """Where orbits stand after some steps of a map.

    Attributes:
        ends: Last states (B, ...); of an orbit that left, its last finite one.
        moved: Length of the last step (B,), float64.
        steps: Steps made until the step length first fell to the tolerance, (B,); the budget where it never did.
        resting: Whether the last step was within the tolerance, (B,).
        left: Whether the orbit became infinite or left the ball of radius `bound`, (B,).
    """

    ends: Tensor
    moved: Float[Tensor, " b"]
    steps: Int[Tensor, " b"]
    resting: Bool[Tensor, " b"]
    left: Bool[Tensor, " b"]


@torch.no_grad()
def follow(function: Map, starts: Tensor, steps: int, tolerance: float, *, bound: float = math.inf) -> Orbits:
    """Iterate x -> f(x) from each start until all orbits rest or have left, at most `steps` times.

    A short step does not prove that a fixed point is near: with contraction q it lies at most step / (1 - q) away. Look
    at the spectral radius there.

    Cost: at most `steps` evaluations of the map on the starts. Memory: two copies of them.

    Args:
        function: Acts on each row of a batch on its own.
        starts: (B, ...).
        steps: Most steps, at least 1.
        tolerance: Euclidean length of a step at which an orbit rests, in the unit of the states.
        bound: Euclidean norm beyond which an orbit has left.

    Returns:
        Ends, step lengths and outcomes.

    Raises:
        SettingError: No start, no step, a negative tolerance, or a map that changes the shape.

    >>> found = follow(torch.cos, torch.tensor([[0.0], [3.0]]), 200, 1e-6)
    >>> found.ends.flatten(), found.resting.tolist()
    (tensor([0.7391, 0.7391]), [True, True])
    """
    _check(starts, steps, tolerance)
    states, count = starts.detach().clone(), len(starts)
    moved = torch.full((count,), math.inf, dtype=torch.float64, device=states.device)
    left = torch.zeros(count, dtype=torch.bool, device=states.device)
    first = torch.full((count,), steps, device=states.device)
    for step in range(1, steps + 1):
        following = applied(function, states)
        away = lengths(following)
        left |= ~(away <= bound) | ~away.isfinite()
        keep = left.reshape(-1, *(1,) * (states.ndim - 1))
        following = torch.where(keep, states, following)
        moved = torch.where(left, math.inf, lengths(following - states))
        states = following
        resting = moved <= tolerance
        first = torch.where(resting, first.clamp(max=step), steps)
        if bool((resting | left).all()):
            break
    return Orbits(states, moved, first, moved <= tolerance, left)


def applied(function: Map, states: Tensor) -> Tensor:
    """f(states), after checking that the shape is kept.

    Raises:
        SettingError: It is not.
    """
    following = function(states)
    if following.shape != states.shape:
        raise SettingError(
            f"A map that is iterated must keep the shape {tuple(states.shape)}",
            f"outputs of shape {tuple(following.shape)}",
            "Iterate an autoencoder, or another map of a space into itself.",
        )
    return following.detach().to(states.dtype)


def lengths(states: Tensor) -> Float[Tensor, " b"]:
    """Euclidean norm of each row in float64."""
    return torch.linalg.vector_norm(states.double().flatten(1), dim=1)


def distances(states: Tensor, others: Tensor) -> Float[Tensor, "b n"]:
    """Euclidean distance of each state (B, ...) to each of others (N, ...), float64, also where it is near rounding."""
    exactly = "donot_use_mm_for_euclid_dist"  # the fast way has errors of 1e-8 times the norms
    return torch.cdist(states.double().flatten(1), others.double().flatten(1), compute_mode=exactly)


def _check(starts: Tensor, steps: int, tolerance: float) -> None:
    if starts.ndim < 2 or len(starts) == 0 or steps < 1 or not tolerance >= 0:
        raise SettingError(
            "Iterating needs starts (B, ...), at least one step and a tolerance of 0 or more",
            f"shape {tuple(starts.shape)}, {steps} steps, tolerance {tolerance}",
            "Pass a batch of states.",
        )
