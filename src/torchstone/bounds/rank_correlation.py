"""Does one quantity order things as another does? Kendall's tau, and its granulated mean over a table of settings."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from torchstone.bounds.interval import Interval, check_confidence
from torchstone.errors import NumericalError, SettingError

_LEAST = 4  # values, for a jackknife


def kendall_tau(x: Tensor, y: Tensor) -> float:
    r"""Kendall's rank correlation with ties, tau-b.

    .. math:: \tau = \frac{\sum_{i<j} \mathrm{sgn}(x_i - x_j)\, \mathrm{sgn}(y_i - y_j)}
        {\sqrt{\#\{x_i \ne x_j\}\; \#\{y_i \ne y_j\}}}

    1 where both order alike, -1 where they order oppositely. Infinite values are ordered like others.

    Cost: :math:`n^2` comparisons.

    Args:
        x: (n,), n at least 2.
        y: (n,).

    Returns:
        The correlation; NaN where one of them orders nothing.

    Raises:
        SettingError: Other shapes, or fewer than two values.
        NumericalError: A value is NaN.

    Example:
        >>> import torch
        >>> kendall_tau(torch.tensor([1.0, 2.0, 3.0]), torch.tensor([1.0, 3.0, 2.0]))
        0.3333333333333333

    Source: Kendall 1945, section 3.
    """
    a, b = _signs(*_checked(x, y))
    pairs = float(a.abs().sum() * b.abs().sum())
    return float((a * b).sum()) / math.sqrt(pairs) if pairs > 0 else math.nan


def tau_interval(x: Tensor, y: Tensor, confidence: float = 0.95) -> Interval:
    r"""Interval for Kendall's tau of the law that the n pairs were drawn from.

    The standard error is the jackknife's; the interval is a normal one for :math:`\mathrm{artanh}\,\tau`, carried back.
    Approximate: it covers about `confidence` for 20 pairs or more.

    Cost: :math:`n^2` comparisons.

    Args:
        x: (n,), n at least 4.
        y: (n,).
        confidence: Nominal coverage.

    Returns:
        The interval, inside [-1, 1]; all of it where one of them orders nothing.

    Raises:
        SettingError: Other shapes, fewer than four values, or a confidence outside (0, 1).
        NumericalError: A value is NaN.

    Source: Arvesen 1969 (jackknife of U-statistics); Fieller, Hartley & Pearson 1957 (the transformation).
    """
    check_confidence(confidence)
    a, b = _signs(*_checked(x, y))
    n = len(a)
    if n < _LEAST:
        raise SettingError(
            f"tau_interval needs at least {_LEAST} values", f"{n}", "Train more networks, or leave it out."
        )
    method = "jackknife of artanh tau"
    whole = _tau(*(float(part.sum()) for part in (a * b, a.abs(), b.abs())))
    # Leaving out i takes its row and its column, which are alike.
    sums = [(float(part.sum()), part.sum(1)) for part in (a * b, a.abs(), b.abs())]
    left_out = [_tau(*(total - 2 * float(rows[i]) for total, rows in sums)) for i in range(n)]
    if any(map(math.isnan, (whole, *left_out))):
        return Interval(-1.0, 1.0, confidence, method)
    if abs(whole) >= 1:  # no disorder to estimate an error from
        return _at_the_end(whole, n, confidence)
    turned = torch.tensor([math.atanh(min(max(tau, -1 + 1e-12), 1 - 1e-12)) for tau in left_out])
    error = math.sqrt((n - 1) * float(turned.double().var(correction=0)))
    half = math.sqrt(2) * float(torch.erfinv(torch.tensor(confidence, dtype=torch.float64))) * error
    centre = math.atanh(whole)
    return Interval(math.tanh(centre - half), math.tanh(centre + half), confidence, method)


@dataclass(frozen=True)
class GranulatedTau:
    """How a quantity orders, one setting at a time.

    Args:
        score: Mean of `axes`.
        axes: For each axis, the mean of tau along it, all other settings held fixed.
    """

    score: float
    axes: tuple[float, ...]


def granulated_tau(values: Tensor, targets: Tensor) -> GranulatedTau:
    r"""Granulated rank correlation over a full table of settings, :math:`\Psi = \frac1K \sum_k \psi_k`.

    :math:`\psi_k` is the mean of tau over all lines of the table along axis k. A quantity that is only large because a setting makes
    it and the target large scores high on that axis alone. In a line ties count 0 (tau-a), so that a quantity that
    orders nothing along an axis scores 0 there.

    Args:
        values: (m_1, ..., m_K), one value for each combination of settings; every m at least 2.
        targets: Of the same shape.

    Returns:
        The score and its parts, in [-1, 1].

    Raises:
        SettingError: Other shapes, or an axis of one setting.
        NumericalError: A value is NaN: the table must be complete.

    Example:
        >>> import torch
        >>> table = torch.arange(9.0).reshape(3, 3)
        >>> granulated_tau(table, table.T.contiguous()).axes
        (1.0, 1.0)

    Source: Jiang, Neyshabur, Mobahi, Krishnan & Bengio 2020, section 2.2.2, equations (4) and (5).
    """
    if values.shape != targets.shape or values.ndim < 1 or min(values.shape) < 2:
        raise SettingError(
            "granulated_tau needs two tables of one shape with at least two settings on every axis",
            f"{tuple(values.shape)} and {tuple(targets.shape)}",
            "Leave out axes of one setting.",
        )
    _refuse_nan(values, targets)
    axes = []
    for axis, settings in enumerate(values.shape):
        lines = zip(*(t.movedim(axis, -1).reshape(-1, settings) for t in (values, targets)), strict=True)
        found = [float((a * b).sum()) for a, b in (_signs(x, y) for x, y in lines)]
        axes.append(math.fsum(found) / (len(found) * settings * (settings - 1)))
    return GranulatedTau(math.fsum(axes) / len(axes), tuple(axes))


def _checked(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    if x.ndim != 1 or x.shape != y.shape or len(x) < 2:
        raise SettingError(
            "A rank correlation needs two series (n,) of at least two values",
            f"shapes {tuple(x.shape)} and {tuple(y.shape)}",
            "Pass one value of each for every network.",
        )
    _refuse_nan(x, y)
    return x, y


def _refuse_nan(*tensors: Tensor) -> None:
    if any(bool(torch.isnan(tensor.double()).any()) for tensor in tensors):
        raise NumericalError("Ranks need numbers", "NaN", "Leave out what was not measured.")


def _signs(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Which of each pair is larger, (n, n), float64; by comparing, so that infinities are ordered too."""
    a, b = (
        (t[:, None] > t[None, :]).double() - (t[:, None] < t[None, :]).double()
        for t in (x.detach(), y.detach())
    )
    return a, b


def _tau(agreement: float, first: float, second: float) -> float:
    return agreement / math.sqrt(first * second) if first > 0 and second > 0 else math.nan


def _at_the_end(tau: float, n: int, confidence: float) -> Interval:
    """All pairs agree: chance disorder of a share p of the pairs stays unseen up to the rule of three for n / 2 pairs."""
    reach = 2 * -math.log((1 - confidence) / 2) / (n // 2)
    method = "rule of three over disjoint pairs"
    return (
        Interval(max(-1.0, 1 - reach), 1.0, confidence, method)
        if tau > 0
        else Interval(-1.0, min(1.0, -1 + reach), confidence, method)
    )
