r"""The exponent of growth: a straight line through logarithms, with an interval over independent curves."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from torchstone.bounds.interval import Interval
from torchstone.bounds.mean import mean_interval
from torchstone.errors import NumericalError, SettingError


@dataclass(frozen=True)
class PowerLaw:
    r""":math:`y \approx a\, t^b` fitted to P curves.

    Args:
        exponent: b, the mean of the curves' own exponents.
        interval: Of the expected exponent over curves; None for a single curve.
        coefficient: a, the geometric mean.
        exponents: One a curve.
        residual: Root mean square distance of log y from the curves' lines.
    """

    exponent: float
    interval: Interval | None
    coefficient: float
    exponents: tuple[float, ...]
    residual: float


def fit_power_law(times: Tensor, values: Tensor, confidence: float = 0.95) -> PowerLaw:
    r"""Least squares of :math:`\log y` on :math:`\log t` for each curve, averaged over the curves.

    Points of one curve depend on each other, so the usual interval of a regression would be far too narrow. The curves are
    independent: the interval is Student's over their exponents, which is exact where those are normal. (Resampling five
    curves, as the bootstrap would, covers about P(|t_4| < 1.96 sqrt(4/5)) = 85% where 95% is asked for.)

    Bias: none for an exact power law; for others b is the average slope over the range of log t.

    Args:
        times: t, positive, (T,), at least two different ones.
        values: y, positive, (P, T).
        confidence: Of the interval.

    Returns:
        The fit.

    Raises:
        SettingError: Shapes that do not fit, or fewer than two different times.
        NumericalError: Times or values that are not positive and finite.

    Example:
        >>> import torch
        >>> law = fit_power_law(torch.arange(1, 9), torch.arange(1, 9).sqrt() * torch.tensor([[1.0], [4.0]]))
        >>> round(law.exponent, 6), round(law.coefficient, 6)
        (0.5, 2.0)
    """
    if times.ndim != 1 or values.ndim != 2 or values.shape[1:] != times.shape or len(values) == 0:
        raise SettingError(
            "A power law needs times (T,) and one or more curves (P, T)",
            f"shapes {tuple(times.shape)} and {tuple(values.shape)}",
            "Pass one curve a row.",
        )
    if len(times.unique()) < 2:
        raise SettingError("A power law needs two different times", f"{len(times)} points", "Measure longer.")
    for name, numbers in (("times", times), ("values", values)):
        if not bool((torch.isfinite(numbers) & (numbers > 0)).all()):
            raise NumericalError(
                f"A power law needs {name} that are positive and finite",
                f"{int((~(torch.isfinite(numbers) & (numbers > 0))).sum())} that are not",
                "Leave out the time before the curves depart from 0.",
            )
    log_t, log_y = times.double().log(), values.detach().double().log()
    centred = log_t - log_t.mean()
    slopes = log_y @ centred / centred.square().sum()
    levels = log_y.mean(1) - slopes * log_t.mean()
    residual = log_y - levels[:, None] - slopes[:, None] * log_t
    return PowerLaw(
        float(slopes.mean()),
        mean_interval(slopes, confidence) if len(slopes) > 1 else None,
        float(levels.mean().exp()),
        tuple(slopes.tolist()),
        float(residual.square().mean().sqrt()),
    )
