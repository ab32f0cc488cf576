"""The set an attack may move in: a norm ball around each input, cut by the box of valid inputs."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from torchstone.errors import NumericalError, SettingError
from torchstone.robust.norms import Norm, flat, lengths, per_example, require_norm, steepest, wide

Bounds = tuple[float | Tensor, float | Tensor]


@dataclass(frozen=True, eq=False)
class Ball:
    r"""Perturbations :math:`\{\delta : \|\delta\| \le \epsilon,\ l \le x + \delta \le u\}`, one such set per example.

    Perturbations are float64 whatever the inputs' dtype, so that small steps add up; `place` turns them into inputs.
    Build it with `Ball.around`.

    Args:
        origin: The inputs (N, ...).
        eps: Radius of each example (N,), in the unit of the inputs.
        norm: "linf" or "l2".
        bounds: Lowest and highest valid input, each broadcastable to the inputs; None where there is no box.
    """

    origin: Tensor
    eps: Tensor
    norm: Norm
    bounds: tuple[Tensor, Tensor] | None = None

    @staticmethod
    def around(
        inputs: Tensor, eps: float | Tensor, norm: Norm = "linf", bounds: Bounds | None = None
    ) -> Ball:
        """The ball around checked inputs.

        Args:
            inputs: (N, ...), floating point and finite, inside the bounds.
            eps: One radius, or one per example (N,); zero and infinity are allowed.
            norm: "linf" or "l2".
            bounds: (low, high) in the unit that the model sees, numbers or tensors (per channel, say); None for no box.

        Raises:
            SettingError: Inputs that are not floating point, a radius or norm out of range, or bounds that do not
                contain the inputs.
            NumericalError: NaN or infinite inputs.
        """
        require_norm(norm)
        _check_inputs(inputs)
        with torch.inference_mode(False):
            # A copy: tensors born under inference_mode cannot be differentiated.
            origin = inputs.detach().clone()
        return Ball(origin, _radii(eps, origin), norm, _box(bounds, origin))

    def with_eps(self, eps: Tensor) -> Ball:
        """The same inputs with other radii (N,)."""
        return replace(self, eps=_radii(eps, self.origin))

    def zero(self) -> Tensor:
        """The perturbation that changes nothing."""
        return torch.zeros_like(wide(self.origin))

    def project(self, perturbation: Tensor) -> Tensor:
        r"""The nearest perturbation (in Euclidean distance) inside ball and box, exactly.

        For linf both constraints are intervals. For l2 the nearest point is the clamped ray
        :math:`\min(t |\delta_i|, r_i)`, r the room to the box, with the largest :math:`t \le 1` that fits the ball:
        the optimality conditions of the projection decouple over coordinates once the ball's multiplier is known.

        Args:
            perturbation: (N, ...).

        Returns:
            (N, ...) in float64.
        """
        perturbation = wide(perturbation)
        size = torch.minimum(perturbation.abs(), self._room(perturbation))
        if self.norm == "linf":
            size = torch.minimum(size, per_example(self.eps, size))
        elif bool((lengths(size, "l2") > self.eps).any()):
            size = self._along(perturbation, longest=1.0)
        return size * perturbation.sign()

    def furthest(self, gradient: Tensor) -> Tensor:
        r"""The maximiser of :math:`\langle g, \delta \rangle` over ball and box: the exact attack on a linear loss.

        Coordinates with a zero gradient stay.

        Args:
            gradient: (N, ...).

        Returns:
            Perturbation (N, ...) in float64.
        """
        direction = steepest(gradient, self.norm)
        if self.norm == "linf":
            reach = per_example(self.eps, direction).expand_as(direction)
            return torch.minimum(reach, self._room(direction)) * direction
        return self._along(direction, longest=math.inf) * direction.sign()

    def free(self, gradient: Tensor, perturbation: Tensor) -> Tensor:
        """The gradient where the box leaves room to follow it from a perturbation, zero elsewhere; (N, ...) in float64."""
        gradient = wide(gradient)
        if self.bounds is None:
            return gradient
        room = self._room(gradient) - perturbation * gradient.sign()
        return torch.where(room > 0, gradient, torch.zeros_like(gradient))

    def random(self, generator: torch.Generator) -> Tensor:
        """A random perturbation, uniform in the ball, then projected into the box.

        Args:
            generator: The source of randomness.

        Returns:
            (N, ...) in float64. The same seed gives the same perturbations for the same batch.
        """
        where = {"generator": generator, "device": generator.device, "dtype": torch.float64}
        shape = self.origin.shape
        if self.norm == "linf":
            draw = 2 * torch.rand(shape, **where) - 1
        else:
            draw = torch.randn(shape, **where)
            features = max(1, draw[0].numel()) if len(draw) else 1
            radius = torch.rand(len(draw), **where) ** (1 / features) / lengths(draw, "l2")
            draw = draw * per_example(radius, draw)
        draw = draw.to(self.origin.device, wide(self.origin).dtype)
        return self.project(draw * per_example(self.eps, draw))

    def place(self, perturbation: Tensor) -> Tensor:
        """The perturbed inputs, in the inputs' own dtype.

        Rounded to the nearest number, or towards the origin where the nearest would leave the ball or the box: what
        comes back is inside, bfloat16 included.

        Args:
            perturbation: (N, ...), inside ball and box.

        Returns:
            Inputs (N, ...).
        """
        origin = wide(self.origin)
        nearest = (origin + perturbation).to(self.origin.dtype)
        moved = wide(nearest) - origin
        outside = lengths(moved, self.norm) > self.eps
        if self.bounds is not None:
            outside = outside | flat((wide(nearest) < self.bounds[0]) | (wide(nearest) > self.bounds[1])).any(
                dim=1
            )
        if not bool(outside.any()):
            return nearest
        back = torch.where(moved.abs() > perturbation.abs(), torch.nextafter(nearest, self.origin), nearest)
        return torch.where(per_example(outside, nearest), back, nearest)

    def _room(self, direction: Tensor) -> Tensor:
        """How far each coordinate can move along its direction before it meets the box."""
        if self.bounds is None:
            return torch.full_like(direction, math.inf)
        low, high = self.bounds
        origin = wide(self.origin)
        return torch.where(direction > 0, high - origin, origin - low)

    def _along(self, direction: Tensor, longest: float) -> Tensor:
        r"""Sizes :math:`\min(t |v_i|, r_i)` of Euclidean norm eps, with t at most `longest`.

        Coordinates that meet the box give the length they do not use to the others, so t only grows from one round
        to the next and the set of stopped coordinates with it: the rounds end at the exact t.
        """
        size, room = flat(direction.abs()), flat(self._room(direction))
        stopped = torch.zeros_like(size, dtype=torch.bool)
        while True:
            used = torch.where(stopped, room, torch.zeros_like(room)).square().sum(dim=1)
            moving = torch.where(stopped, torch.zeros_like(size), size).square().sum(dim=1)
            left = (self.eps.square() - used).clamp(min=0)
            t = torch.where(moving > 0, left / moving, torch.zeros_like(moving)).sqrt().clamp(max=longest)
            reach = t[:, None] * size
            more = (reach > room) & ~stopped
            if not bool(more.any()):
                return torch.where(stopped, room, reach).reshape(direction.shape)
            stopped |= more


def _check_inputs(inputs: Tensor) -> None:
    if not inputs.is_floating_point():
        raise SettingError(
            "An attack needs floating point inputs (N, ...)",
            f"{inputs.dtype} of shape {tuple(inputs.shape)}",
            "Attack the embeddings of tokens, or scale integer pixels to floats first.",
        )
    if inputs.ndim == 0 or (len(inputs) > 0 and inputs.numel() == 0):
        raise SettingError(
            "An attack needs inputs (N, ...) with at least one feature",
            f"shape {tuple(inputs.shape)}",
            "Put the examples first.",
        )
    if not bool(torch.isfinite(inputs).all()):
        raise NumericalError(
            "An attack needs finite inputs",
            f"{int((~torch.isfinite(inputs)).sum())} NaN or infinite values",
            "Clean the data, or find the preprocessing step that produced them.",
        )


def _radii(eps: float | Tensor, origin: Tensor) -> Tensor:
    dtype = wide(origin).dtype
    radii = eps.detach() if isinstance(eps, Tensor) else torch.tensor(float(eps), dtype=torch.float64)
    radii = radii.to(origin.device, dtype)
    if radii.ndim > 1 or (radii.ndim == 1 and len(radii) != len(origin)):
        raise SettingError(
            f"eps must be one radius or one per example, shape ({len(origin)},)",
            f"shape {tuple(radii.shape)}",
            "Pass a number.",
        )
    if not bool((radii >= 0).all()):  # false for NaN, too
        raise SettingError("eps must be at least 0", str(radii.min().item()), "Pass a radius.")
    return radii.expand(len(origin))


def _box(bounds: Bounds | None, origin: Tensor) -> tuple[Tensor, Tensor] | None:
    if bounds is None:
        return None
    dtype = wide(origin).dtype
    low, high = (torch.as_tensor(end, dtype=dtype, device=origin.device) for end in bounds)
    if not bool((low <= high).all()):
        raise SettingError("bounds must be (low, high) with low <= high", f"{bounds}", "Swap them.")
    values = wide(origin)
    if not bool(((values >= low) & (values <= high)).all()):
        raise SettingError(
            "bounds must contain the inputs",
            f"inputs from {float(values.min()):.4g} to {float(values.max()):.4g} and bounds {bounds}",
            "Give bounds in the unit that the model sees (after normalisation), or None.",
        )
    return low, high
