"""Batch normalisation that uses running statistics in training too, up to a limit."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from torchstone.errors import SettingError


class BatchRenorm(nn.Module):
    r"""Batch renormalisation: the same function in training and evaluation, whatever the batch.

    x_hat = (x - mu_B) / sigma_B * r + d,  r = clip(sigma_B / sigma, 1/r_max, r_max),  d = clip((mu_B - mu) / sigma, +-d_max),

    with the batch's mu_B, sigma_B and running mu, sigma; no gradient flows through r and d. Without clipping this is
    (x - mu) / sigma, what evaluation computes; with r_max = 1 and d_max = 0 it is batch normalisation, whose mean has
    the noise Var(mu_B) = sigma^2 / B. For batches that are small or sorted, where that noise is the signal.

    Args:
        features: Channels C of inputs (N, C, ...).
        r_max: Limit of the scale correction, at least 1.
        d_max: Limit of the shift correction, at least 0.
        momentum: Weight of the newest batch in the running statistics, in (0, 1].
        eps: Added to the variance.
        affine: Whether a scale and a shift are learned.

    Shape: (N, C, ...) to the same; at least two numbers a channel in training mode.

    Raises:
        SettingError: A setting out of range; in the forward pass, a wrong number of channels or a single number.

    Source: Ioffe 2017, NeurIPS, section 3 and algorithm 1; there r_max and d_max grow from 1 and 0 to 3 and 5
    (`limits_at` gives them by step).
    """

    running_mean: Tensor
    running_deviation: Tensor
    batches: Tensor

    def __init__(
        self,
        features: int,
        r_max: float = 3.0,
        d_max: float = 5.0,
        momentum: float = 0.01,
        eps: float = 1e-5,
        affine: bool = True,
    ) -> None:
        super().__init__()
        if not r_max >= 1 or not d_max >= 0 or not 0 < momentum <= 1 or not eps >= 0 or features < 1:
            raise SettingError(
                "BatchRenorm needs features >= 1, r_max >= 1, d_max >= 0, 0 < momentum <= 1 and eps >= 0",
                f"features={features}, r_max={r_max}, d_max={d_max}, momentum={momentum}, eps={eps}",
                "Correct the setting.",
            )
        self.features, self.r_max, self.d_max = features, float(r_max), float(d_max)
        self.momentum, self.eps = momentum, eps
        self.weight = nn.Parameter(torch.ones(features)) if affine else None
        self.bias = nn.Parameter(torch.zeros(features)) if affine else None
        self.register_buffer("running_mean", torch.zeros(features))
        self.register_buffer("running_deviation", torch.ones(features))
        self.register_buffer("batches", torch.zeros((), dtype=torch.long))

    def forward(self, x: Tensor) -> Tensor:
        """Normalise (N, C, ...)."""
        if x.ndim < 2 or x.shape[1] != self.features:
            raise SettingError(
                f"BatchRenorm({self.features}) takes (N, {self.features}, ...)",
                f"shape {tuple(x.shape)}",
                "Reshape it.",
            )
        shape = (1, self.features) + (1,) * (x.ndim - 2)
        wide = x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
        mean, deviation = self.running_mean.to(wide.dtype), self.running_deviation.to(wide.dtype)
        if self.training:
            if x.numel() // self.features < 2:
                raise SettingError(
                    "Batch statistics need at least two numbers a channel",
                    f"shape {tuple(x.shape)}",
                    "Use eval().",
                )
            axes = [0, *range(2, x.ndim)]
            batch_mean = wide.mean(axes)
            batch_deviation = (wide.var(axes, unbiased=False) + self.eps).sqrt()
            r = (batch_deviation.detach() / deviation).clamp(1 / self.r_max, self.r_max)
            d = ((batch_mean.detach() - mean) / deviation).clamp(-self.d_max, self.d_max)
            normal = (wide - batch_mean.view(shape)) / batch_deviation.view(shape) * r.view(shape) + d.view(
                shape
            )
            self._update(batch_mean.detach(), batch_deviation.detach())
        else:
            normal = (wide - mean.view(shape)) / deviation.view(shape)
        if self.weight is not None and self.bias is not None:
            normal = normal * self.weight.to(wide.dtype).view(shape) + self.bias.to(wide.dtype).view(shape)
        return normal.to(x.dtype)

    def _update(self, mean: Tensor, deviation: Tensor) -> None:
        with torch.no_grad():
            self.running_mean.lerp_(mean.to(self.running_mean.dtype), self.momentum)
            self.running_deviation.lerp_(deviation.to(self.running_deviation.dtype), self.momentum)
            self.batches.add_(1)

    def extra_repr(self) -> str:
        """Settings, for print(model)."""
        return f"{self.features}, r_max={self.r_max:g}, d_max={self.d_max:g}, momentum={self.momentum:g}"


def limits_at(
    step: int,
    *,
    start: int = 5_000,
    r_end: int = 40_000,
    d_end: int = 25_000,
    r_max: float = 3.0,
    d_max: float = 5.0,
) -> tuple[float, float]:
    """r_max and d_max at a training step: batch normalisation until `start`, then linearly to their final values.

    Args:
        step: Training step.
        start: Until here r_max = 1 and d_max = 0.
        r_end: From here on r_max is final.
        d_end: From here on d_max is final.
        r_max: Final value.
        d_max: Final value.

    >>> limits_at(0), limits_at(100_000)
    ((1.0, 0.0), (3.0, 5.0))

    Source: Ioffe 2017, section 4.1.
    """
    share = lambda end: min(1.0, max(0.0, (step - start) / (end - start)))
    return 1.0 + share(r_end) * (r_max - 1.0), share(d_end) * d_max
