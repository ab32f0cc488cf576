"""Divergence between Gaussian laws with independent coordinates."""

from __future__ import annotations

import torch
from torch import Tensor

from torchstone.errors import SettingError


def gaussian_kl(mean: Tensor, std: Tensor, prior_mean: Tensor, prior_std: Tensor) -> Tensor:
    r"""Relative entropy of Gaussians with independent coordinates, in nats.

    .. math:: \mathrm{KL}(N(\mu, \sigma^2) \| N(\mu_0, s^2)) =
        \frac12 \sum_i \Big(\frac{\sigma_i^2}{s_i^2} - 1 - \ln \frac{\sigma_i^2}{s_i^2} + \frac{(\mu_i - \mu_{0i})^2}{s_i^2}\Big)

    Cost: one pass over the coordinates, in float64; differentiable in all arguments.

    Args:
        mean: :math:`\mu`, any shape that broadcasts with the others.
        std: :math:`\sigma`, positive.
        prior_mean: :math:`\mu_0`.
        prior_std: s, positive.

    Returns:
        A scalar, float64.

    Raises:
        SettingError: A standard deviation that is not positive and finite.

    Example:
        >>> import torch
        >>> zero, one = torch.zeros(3), torch.ones(3)
        >>> float(gaussian_kl(one, one, zero, one))
        1.5

    Source: Dziugaite & Roy 2017, equation (4).
    """
    for name, scale in (("std", std), ("prior_std", prior_std)):
        if not bool((torch.isfinite(scale) & (scale > 0)).all()):
            raise SettingError(
                f"{name} must be positive and finite everywhere",
                f"values from {float(scale.min()):.3g} to {float(scale.max()):.3g}",
                "Pass standard deviations, not their logarithms.",
            )
    mean, std, prior_mean, prior_std = (one.double() for one in (mean, std, prior_mean, prior_std))
    log_ratio = 2 * (std.log() - prior_std.log())
    moved = ((mean - prior_mean) / prior_std).square()
    return 0.5 * (torch.expm1(log_ratio) - log_ratio + moved).sum()
