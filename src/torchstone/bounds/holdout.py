r"""What does a held-out set say of a network, and how much less once it has been asked before?

A fresh test set gives an interval for one network chosen without it. Every further look spends some of it:

- k networks fixed *beforehand*: each interval at confidence :math:`1 - \alpha/k` (Bonferroni).
- k looks where each network may depend on the answers to the looks before (*adaptive reuse*: tuning on the test set). An analyst
  who gets one of r answers at each look can end at no more than :math:`\sum_{j<k} r^j` networks, and the interval must hold for all:
  :math:`\ln(1/\alpha)` becomes :math:`\ln(1/\alpha) + \ln \sum_{j<k} r^j`, growing like :math:`k \ln r`. It is the description-length
  bound of Dwork et al.; answers given to few digits (small r) spend less.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from torchstone.bounds.interval import Interval, check_confidence
from torchstone.bounds.mean import checked_sample
from torchstone.bounds.proportion import clopper_pearson, hoeffding
from torchstone.bounds.risk_bound import check_count
from torchstone.errors import SettingError


@dataclass(frozen=True)
class HoldoutEstimate:
    """A risk from a held-out sample, and what its reuse leaves of the certainty.

    Args:
        risk: Mean loss on the held-out examples.
        interval: Interval for the true risk that accounts for the looks.
        fresh: The interval had this been the only look.
        looks: How often the set was looked at, this time included.
        adaptive: Whether later looks may depend on earlier answers.
        warning: What the reader must know; empty for a first look.
    """

    risk: float
    interval: Interval
    fresh: Interval
    looks: int
    adaptive: bool
    warning: str


def holdout_estimate(
    losses: Tensor,
    confidence: float = 0.95,
    looks: int = 1,
    adaptive: bool = True,
    answers: int | None = None,
    largest_loss: float = 1.0,
) -> HoldoutEstimate:
    r"""Interval for the risk from a held-out sample that was looked at `looks` times.

    Clopper-Pearson for 0-1 losses, Hoeffding for others; see the module for what looks cost.

    Args:
        losses: Losses of independent held-out examples (n,), in [0, `largest_loss`].
        confidence: Least coverage, for all looks together.
        looks: k.
        adaptive: Whether networks or settings were chosen by earlier answers; False for networks fixed beforehand.
        answers: r, distinct answers a look can give; None for the mean of n losses of 0 and 1, which has n + 1.
        largest_loss: M.

    Returns:
        The estimate with both intervals and a warning where the set was reused.

    Raises:
        SettingError: No losses, losses out of range, or a count below 1.
        NumericalError: Losses that are not finite.

    Example:
        >>> import torch
        >>> errors = torch.zeros(1000); errors[:100] = 1
        >>> first, tenth = holdout_estimate(errors), holdout_estimate(errors, looks=10)
        >>> round(first.interval.high, 3), round(tenth.interval.high, 3)
        (0.12, 0.281)

    Source: Dwork, Feldman, Hardt, Pitassi, Reingold & Roth 2015 (Generalization in adaptive data analysis and holdout reuse), section 3.1;
    Blum & Hardt 2015; Hoeffding 1963.
    """
    values = checked_sample(losses, least=1)
    check_confidence(confidence)
    looks = check_count("looks", looks)
    n, risk = len(values), float(values.mean())
    if float(values.min()) < 0 or float(values.max()) > largest_loss:
        raise SettingError(
            "holdout_estimate needs losses in [0, largest_loss]",
            f"[{float(values.min()):g}, {float(values.max()):g}] with largest_loss={largest_loss:g}",
            "Clip the loss, or pass the largest value it can take.",
        )
    binary = bool(((values == 0) | (values == 1)).all()) and largest_loss == 1
    answers = check_count("answers", n + 1 if answers is None else answers, least=2)
    fresh = _single(values, confidence, binary, largest_loss)
    log_networks = _log_geometric(answers, looks) if adaptive else math.log(looks)
    if log_networks == 0:
        interval = fresh
    elif log_networks < 20:
        interval = _single(values, 1 - (1 - confidence) * math.exp(-log_networks), binary, largest_loss)
    else:
        # Such confidences are 1 to rounding, so the logarithm goes into Hoeffding's formula itself.
        half = largest_loss * math.sqrt((math.log(2 / (1 - confidence)) + log_networks) / (2 * n))
        wide = Interval(risk - half, risk + half, confidence, "Hoeffding")
        interval = wide.clipped(0.0, largest_loss)
    interval = Interval(interval.low, interval.high, confidence, interval.method)
    return HoldoutEstimate(risk, interval, fresh, looks, adaptive, _warning(interval, fresh, looks, adaptive))


def looks_that_fit(n: int, half_width: float, confidence: float = 0.95, answers: int | None = None) -> int:
    r"""How many adaptive looks a held-out set of n examples supports at a given half width (losses in [0, 1]).

    Args:
        n: Held-out examples.
        half_width: Half width of the interval that is still of use.
        confidence: Coverage for all looks together.
        answers: r; None for n + 1.

    Returns:
        The largest k; 0 where not even one look has such an interval.

    Raises:
        SettingError: An argument out of range.

    Example:
        >>> looks_that_fit(10_000, half_width=0.05), looks_that_fit(10_000, half_width=0.05, answers=10)
        (6, 21)
    """
    check_count("n", n)
    if not 0 < half_width < 1:
        raise SettingError("half_width must lie in (0, 1)", str(half_width), "Use 0.01.")
    answers = check_count("answers", n + 1 if answers is None else answers, least=2)
    budget = 2 * n * half_width**2 - math.log(2 / (1 - check_confidence(confidence)))
    if budget < 0:
        return 0
    looks = max(1, math.floor(budget / math.log(answers)))
    while _log_geometric(answers, looks + 1) <= budget:
        looks += 1
    while looks > 1 and _log_geometric(answers, looks) > budget:
        looks -= 1
    return looks


def _single(values: Tensor, confidence: float, binary: bool, largest_loss: float) -> Interval:
    if binary:
        return clopper_pearson(int(torch.count_nonzero(values)), len(values), confidence)
    mean = min(max(float(values.mean()), 0.0), largest_loss)
    return hoeffding(mean, len(values), confidence, (0.0, largest_loss))


def _log_geometric(r: int, k: int) -> float:
    r""":math:`\ln (1 + r + \dots + r^{k-1})`, without overflow."""
    return (k - 1) * math.log(r) + math.log(-math.expm1(-k * math.log(r))) - math.log1p(-1 / r)


def _warning(interval: Interval, fresh: Interval, looks: int, adaptive: bool) -> str:
    if looks == 1:
        return ""
    how = "each of which could be chosen by the answers before" if adaptive else "all fixed beforehand"
    return (
        f"The set was looked at {looks} times, {how}: its interval is {interval.width:.3g} wide instead of "
        f"{fresh.width:.3g}. Report on examples that nothing was chosen by."
    )
