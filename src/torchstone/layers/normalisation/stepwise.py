"""Batch normalisation for recurrent networks: statistics of their own for every time step."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from torchstone.errors import SettingError


class StepwiseBatchNorm(nn.Module):
    """Batch normalisation whose running statistics belong to a time step; scale and shift are shared by all.

    The first steps of a recurrent network have other means and variances than the later ones, and averages over all
    steps fit none of them. Steps beyond `steps` use the last one's statistics, so sequences may be longer than those
    trained on. Layer normalisation has no such problem and is the usual choice.

    Args:
        features: Size of a step's vector.
        steps: Time steps with statistics of their own.
        eps: Added to the variance.
        momentum: Weight of the newest batch.
        affine: Whether a scale and a shift are learned; the scale starts at 0.1, so that tanh units start unsaturated.

    Raises:
        SettingError: A setting out of range; in the forward pass, a wrong shape, a negative step, or a single example in
            training mode.

    Source: Cooijmans et al. 2017, ICLR, sections 3 and 4.
    """

    running_mean: Tensor
    running_variance: Tensor

    def __init__(
        self, features: int, steps: int, eps: float = 1e-5, momentum: float = 0.1, affine: bool = True
    ) -> None:
        super().__init__()
        if features < 1 or steps < 1 or not 0 < momentum <= 1 or not eps >= 0:
            raise SettingError(
                "StepwiseBatchNorm needs features >= 1, steps >= 1, 0 < momentum <= 1 and eps >= 0",
                f"features={features}, steps={steps}, momentum={momentum}, eps={eps}",
                "Correct the setting.",
            )
        self.features, self.steps, self.eps, self.momentum = features, steps, eps, momentum
        self.weight = nn.Parameter(torch.full((features,), 0.1)) if affine else None
        self.bias = nn.Parameter(torch.zeros(features)) if affine else None
        self.register_buffer("running_mean", torch.zeros(steps, features))
        self.register_buffer("running_variance", torch.ones(steps, features))

    def forward(self, x: Tensor, step: int) -> Tensor:
        """Normalise the vectors (N, features) of a time step, counted from 0."""
        if x.ndim != 2 or x.shape[1] != self.features or step < 0:
            raise SettingError(
                f"StepwiseBatchNorm takes (N, {self.features}) and a step of at least 0",
                f"shape {tuple(x.shape)}, step {step}",
                "Call it once a time step.",
            )
        if self.training and len(x) < 2:
            raise SettingError("Batch statistics need at least two examples", f"{len(x)}", "Use eval().")
        row = min(int(step), self.steps - 1)
        return nn.functional.batch_norm(
            x,
            self.running_mean[row],
            self.running_variance[row],
            self.weight,
            self.bias,
            self.training,
            self.momentum,
            self.eps,
        )

    def extra_repr(self) -> str:
        """Settings, for print(model)."""
        return f"{self.features}, steps={self.steps}, momentum={self.momentum:g}"
