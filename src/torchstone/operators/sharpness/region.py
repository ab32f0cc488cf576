"""The sets of perturbations over which a worst case is sought: balls and boxes around 0."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from torchstone.errors import SettingError


class Region(ABC):
    """A convex, compact set around 0 that is easy to project onto and to maximise linear functions over."""

    @abstractmethod
    def project(self, point: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
        """The nearest point of the set."""

    @abstractmethod
    def extreme(self, gradient: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
        """The point of the set with the largest inner product with `gradient`."""

    @abstractmethod
    def sample(self, like: Float[Tensor, " n"], generator: torch.Generator) -> Float[Tensor, " n"]:
        """A random point on the boundary, drawn in float64 on the CPU and cast to the type of `like`."""


@dataclass(frozen=True)
class Ball(Region):
    """{u: ||u||_2 <= radius}.

    Raises:
        SettingError: A radius that is not positive.
    """

    radius: float

    def __post_init__(self) -> None:
        if not 0 < self.radius < float("inf"):
            raise SettingError(
                "The radius of a ball must be positive and finite", repr(self.radius), "Enlarge it."
            )

    def project(self, point: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
        """Shorten what is too long."""
        length = float(point.norm())
        return point * (self.radius / length) if length > self.radius else point

    def extreme(self, gradient: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
        """Along the gradient; 0 where that is 0."""
        length = float(gradient.norm())
        return gradient * (self.radius / length) if length > 0 else torch.zeros_like(gradient)

    def sample(self, like: Float[Tensor, " n"], generator: torch.Generator) -> Float[Tensor, " n"]:
        """Uniform on the sphere."""
        return self.extreme(torch.randn(like.shape, generator=generator, dtype=torch.float64).to(like))


@dataclass(frozen=True)
class Box(Region):
    """{u: |u_i| <= bounds_i}; a bound of 0 keeps a coordinate where it is."""

    bounds: Tensor

    def project(self, point: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
        """Clip every coordinate."""
        return torch.maximum(torch.minimum(point, self.bounds), -self.bounds)

    def extreme(self, gradient: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
        """The corner on the gradient's side; the middle of a side where the gradient has a 0."""
        return self.bounds * gradient.sign()

    def sample(self, like: Float[Tensor, " n"], generator: torch.Generator) -> Float[Tensor, " n"]:
        """A random corner."""
        signs = 2 * torch.randint(2, like.shape, generator=generator) - 1
        return self.bounds * signs.to(like)
