"""The empirical risk of a network whose weights are moved."""

from __future__ import annotations

from functools import cached_property

import torch
from jaxtyping import Float
from torch import Tensor

from torchstone.batches import Batch
from torchstone.operators.finite_differences import shifted
from torchstone.operators.parameter_space import ParameterSpace
from torchstone.specimen import Specimen


class RiskAround:
    r"""The rise f(theta + e) - f(theta) of the mean loss and its gradient, as functions of the change e.

    A snapshot: the risk at theta is measured once. The parameters are moved in place and put back, bit for bit, also when the computation is interrupted; buffers, such
    as running statistics, keep their values. Losses are summed in float64. In half precision theta + e is rounded:
    `rounding` says by how much.

    Cost: one forward pass a rise, one forward and backward pass a gradient. Memory: two copies of the parameters.

    Args:
        specimen: What is examined.
        split: Part of the data.

    Raises:
        SpecimenError: No trainable parameter, or a complex one.
    """

    def __init__(self, specimen: Specimen, split: str = "train") -> None:
        self.specimen, self.split = specimen, split
        self.space = ParameterSpace.of(specimen)

    @cached_property
    def here(self) -> Float[Tensor, " n"]:
        """The parameters as a vector."""
        return self.space.values()

    @cached_property
    def example_losses(self) -> Float[Tensor, " examples"]:
        """Loss of every example at the unmoved weights, float64."""
        return self.specimen.example_losses(self.split)

    @cached_property
    def risk(self) -> float:
        """The mean loss at the unmoved weights."""
        return self._mean_loss()

    @torch.no_grad()
    def _mean_loss(self) -> float:
        def of_batch(batch: Batch) -> Tensor:
            return self.specimen.losses(self.specimen.forward(batch), batch).double().sum()

        return float(self.specimen.mean_over(of_batch, self.split))

    def rise(self, change: Float[Tensor, " n"]) -> float:
        """f(theta + change) - f(theta)."""
        risk = self.risk
        with self.specimen.measuring(), shifted(self.space, change):
            return self._mean_loss() - risk

    def rise_and_gradient(self, change: Float[Tensor, " n"]) -> tuple[float, Float[Tensor, " n"]]:
        """f(theta + change) - f(theta) and the gradient of f at theta + change."""

        def of_batch(batch: Batch) -> tuple[Tensor, Tensor]:
            with torch.enable_grad():
                total = self.specimen.losses(self.specimen.forward(batch), batch).double().sum()
                gradient = self.specimen.grad(total, self.space.parameters, batch)
            return total.detach(), self.space.flatten(gradient)

        risk = self.risk
        with self.specimen.measuring(), shifted(self.space, change):
            total, gradient = self.specimen.mean_over(of_batch, self.split)
        return float(total) - risk, gradient.to(self.space.dtype)

    def rises(self, change: Float[Tensor, " n"]) -> Float[Tensor, " examples"]:
        """The rise of every example's loss, float64."""
        before = self.example_losses
        with self.specimen.measuring(), shifted(self.space, change):
            return self.specimen.example_losses(self.split) - before

    def rounding(self, change: Float[Tensor, " n"]) -> float:
        """||realised change - change|| / ||change||: what the parameters' type leaves of a small change."""
        before = self.space.flatten([parameter.detach() for parameter in self.space.parameters])
        with self.specimen.measuring(), shifted(self.space, change):
            moved = self.space.flatten([parameter.detach() for parameter in self.space.parameters])
        wanted = change.double()
        return float((moved - before - wanted).norm() / wanted.norm())
