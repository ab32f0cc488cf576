"""A bootstrap band for the mean of a few independent curves."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor

from torchstone.errors import SettingError


def bootstrap_band(
    curves: Float[Tensor, "p g"], confidence: float, generator: torch.Generator, resamples: int = 1000
) -> tuple[Float[Tensor, " g"], Float[Tensor, " g"]]:
    """Pointwise limits of the mean of p independent curves that are nowhere negative.

    The wider, on each side, of two intervals: quantiles of the means of curves drawn with replacement, which follow the
    skewness of a density's tail, at levels moved outwards to Phi(-+ sqrt(p / (p - 1)) t), t the quantile of Student's
    distribution; and Student's t interval, because resampled means never leave the range of a few curves. Cut off at 0.
    With one curve the limits are 0 and infinite.

    Cost: `resamples` p g flops; memory `resamples` g numbers.

    Args:
        curves: One a row (p, g), in float64.
        confidence: Coverage aimed at, between 0 and 1.
        generator: Draws the resamples; on the CPU.
        resamples: How many.

    Returns:
        Lower and upper limits (g,).

    Raises:
        SettingError: A confidence not between 0 and 1.

    Source: Efron 1979; Hesterberg 2015, American Statistician 69(4), section 5 (expanded percentiles).
    """
    from scipy.special import ndtr, stdtrit

    if not 0 < confidence < 1:
        raise SettingError("confidence must lie between 0 and 1", f"{confidence}", "0.95 is usual.")
    p = curves.shape[0]
    if p == 1:
        return torch.zeros_like(curves[0]), torch.full_like(curves[0], math.inf)
    drawn = torch.randint(p, (resamples, p), generator=generator)
    shares = torch.nn.functional.one_hot(drawn, p).sum(dim=1).double() / p
    means = (shares @ curves).sort(dim=0).values
    t = float(stdtrit(p - 1, (1 + confidence) / 2))
    last = math.floor(float(ndtr(-math.sqrt(p / (p - 1)) * t)) * (resamples - 1))
    reach = t * curves.std(dim=0) / math.sqrt(p)
    low = torch.minimum(means[last], curves.mean(dim=0) - reach).clamp_min(0)
    return low, torch.maximum(means[resamples - 1 - last], curves.mean(dim=0) + reach)
