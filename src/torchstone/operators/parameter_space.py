"""The trainable parameters of a network as one vector."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float
from torch import Tensor, nn

from torchstone.errors import SettingError, SpecimenError
from torchstone.specimen import Specimen


@dataclass(frozen=True)
class ParameterSpace:
    """Where each parameter lies in the vector that holds them all, one after another in the model's order.

    Shared parameters occur once; frozen ones do not occur.

    Args:
        names: Name of each parameter.
        parameters: The parameters themselves.
    """

    names: tuple[str, ...]
    parameters: tuple[nn.Parameter, ...]

    @classmethod
    def of(cls, specimen: Specimen, names: Iterable[str] | None = None) -> ParameterSpace:
        """The trainable parameters of a specimen, or those of them that `names` lists, in the model's order.

        Raises:
            SpecimenError: There is no trainable parameter, a complex one, or no gradient in any of them.
            SettingError: A name that is none of them.
        """
        trainable = specimen.trainable
        if not trainable:
            raise SpecimenError(
                "Curvature needs at least one trainable parameter",
                "none",
                "Call requires_grad_(True) on those that were trained.",
            )
        wanted = set(trainable if names is None else names)
        if unknown := wanted - set(trainable):
            raise SettingError(
                "names must be those of trainable parameters",
                ", ".join(sorted(unknown)[:3]),
                f"Choose from {', '.join(list(trainable)[:5])}, ...",
            )
        if not wanted:
            raise SettingError("names must hold at least one parameter", "none", "Pass None for all of them.")
        chosen = {name: parameter for name, parameter in trainable.items() if name in wanted}
        if imaginary := [name for name, parameter in chosen.items() if parameter.is_complex()]:
            raise SpecimenError(
                "Curvature is defined for real parameters",
                f"complex {', '.join(imaginary[:3])}",
                "Store real and imaginary parts as two parameters.",
            )
        specimen.require_gradient()
        return cls(tuple(chosen), tuple(chosen.values()))

    @cached_property
    def sizes(self) -> tuple[int, ...]:
        """Number of entries of each parameter."""
        return tuple(parameter.numel() for parameter in self.parameters)

    @property
    def size(self) -> int:
        """Length of the vector."""
        return sum(self.sizes)

    @property
    def dtype(self) -> torch.dtype:
        """Type of the vector: float64 where any parameter is, else float32 (also for half-precision networks)."""
        double = any(parameter.dtype == torch.float64 for parameter in self.parameters)
        return torch.float64 if double else torch.float32

    @property
    def device(self) -> torch.device:
        """Where the parameters lie."""
        return self.parameters[0].device

    @cached_property
    def slices(self) -> dict[str, slice]:
        """Part of the vector that holds each parameter, by name."""
        found, start = {}, 0
        for name, size in zip(self.names, self.sizes, strict=True):
            found[name] = slice(start, start + size)
            start += size
        return found

    def part(self, names: Iterable[str]) -> ParameterSpace:
        """Those of these parameters that `names` lists, in this order."""
        wanted = set(names)
        chosen = [pair for pair in zip(self.names, self.parameters, strict=True) if pair[0] in wanted]
        return ParameterSpace(tuple(name for name, _ in chosen), tuple(one for _, one in chosen))

    def indices(self, names: Iterable[str]) -> Tensor:
        """Where the entries of some parameters lie in the vector, in the order of `names`."""
        return torch.cat([torch.arange(self.slices[name].start, self.slices[name].stop) for name in names])

    def flatten(
        self, tensors: Sequence[Tensor], dtype: torch.dtype = torch.float64
    ) -> Float[Tensor, " size"]:
        """One tensor a parameter, of its shape, as one vector."""
        return torch.cat([part.reshape(-1).to(dtype) for part in tensors])

    def unflatten(self, vector: Float[Tensor, " size"]) -> tuple[Tensor, ...]:
        """One tensor a parameter, of its shape and type."""
        parts = torch.split(vector, list(self.sizes))
        pairs = zip(parts, self.parameters, strict=True)
        return tuple(part.reshape(parameter.shape).to(parameter.dtype) for part, parameter in pairs)

    def flatten_columns(self, tensors: Sequence[Float[Tensor, "k ..."]]) -> Float[Tensor, "size k"]:
        """One tensor a parameter, (k, *shape), as k columns of this space's type, which holds each exactly."""
        rows = torch.empty(tensors[0].shape[0], self.size, dtype=self.dtype, device=self.device)
        for part, place in zip(tensors, rows.split(list(self.sizes), dim=1), strict=True):
            place.copy_(part.reshape(place.shape))
        return rows.T

    def unflatten_columns(self, X: Float[Tensor, "size k"]) -> tuple[Float[Tensor, "k ..."], ...]:
        """One tensor a parameter, (k, *shape), of its type."""
        rows = X.T.contiguous().split(list(self.sizes), dim=1)
        pairs = zip(rows, self.parameters, strict=True)
        return tuple(part.reshape(-1, *parameter.shape).to(parameter.dtype) for part, parameter in pairs)

    def values(self) -> Float[Tensor, " size"]:
        """The parameters' present values as a vector of this space's type."""
        return self.flatten([parameter.detach() for parameter in self.parameters], self.dtype)

    @property
    def bytes(self) -> int:
        """Memory of the parameters."""
        return math.fsum(p.numel() * p.element_size() for p in self.parameters).__trunc__()
