"""Stacked parameters and buffers of networks that are trained as one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from torchstone.training.ensemble import Ensemble


@dataclass(frozen=True)
class Stack:
    """Stacked parameters, which are leaves of autograd where they are trained, and stacked buffers."""

    parameters: dict[str, Tensor]
    buffers: dict[str, Tensor]

    @classmethod
    def of(cls, models: Sequence[nn.Module]) -> Stack:
        """Copies of the networks' own."""
        ensemble = Ensemble.of(models)
        trained = {name: p.requires_grad for name, p in models[0].named_parameters()}
        parameters = {name: p.requires_grad_(trained[name]) for name, p in ensemble.parameters.items()}
        return cls(parameters, dict(ensemble.buffers))

    @property
    def leaves(self) -> list[Tensor]:
        """The parameters."""
        return list(self.parameters.values())

    def settle(self) -> None:
        """Plain tensors again."""
        for p in self.parameters.values():
            p.grad = None
            p.requires_grad_(False)
