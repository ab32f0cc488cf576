r"""Uniform stability of stochastic gradient descent: how far one example can move what it learns.

Two runs on samples S and S' of n examples that differ in one, coupled by the same start and the same order, drift
apart only at steps that draw the differing example. For a loss that is G-Lipschitz in the weights for every example the
distance bounds the change of any loss, :math:`\varepsilon \le G\, E\|w_T - w'_T\|`, and the expected generalisation gap is at most
:math:`\varepsilon`. The examples of each step are drawn uniformly with replacement; for one shuffle an epoch the same bounds hold at
the ends of epochs in the convex case.

Bounds on distances are expectations over the draws. One run may be further apart than they say, for example right after
an early draw of the differing example; what holds in every run is `path_distance_bound`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from torchstone.bounds.risk_bound import check_at_least, check_count
from torchstone.errors import SettingError


@dataclass(frozen=True)
class StabilityBound:
    """A bound on uniform stability, and so on the expected generalisation gap.

    Args:
        value: Largest expected change of any example's loss when one training example is replaced, in the unit of the
            loss. Kept as it is where it exceeds the range of the loss.
        distance: Bound on the expected distance of the weights; NaN where the argument does not go through one.
        assumes: What has to hold, one sentence.
    """

    value: float
    distance: float
    assumes: str


def convex_stability(
    rates: Sequence[float] | Tensor, n: int, lipschitz: float, smoothness: float
) -> StabilityBound:
    r"""For convex losses: :math:`E\|w_T - w'_T\| \le \frac{2G}{n} \sum_t \alpha_t` and :math:`\varepsilon \le \frac{2G^2}{n} \sum_t \alpha_t`.

    A gradient step on a convex smooth loss with :math:`\alpha \le 2/\beta` does not expand distances, and a step on two different losses
    adds at most :math:`2 \alpha G`.

    Args:
        rates: Step sizes :math:`\alpha_1, \dots, \alpha_T`.
        n: Training examples.
        lipschitz: G, largest gradient norm of any example's loss.
        smoothness: :math:`\beta`, largest curvature of any example's loss.

    Returns:
        The bound.

    Raises:
        SettingError: A rate that is not in (0, 2/beta], or another argument out of its range.

    Example:
        >>> bound = convex_stability([0.1] * 200, n=1000, lipschitz=1.0, smoothness=4.0)
        >>> round(bound.distance, 6), round(bound.value, 6)
        (0.04, 0.04)

    Source: Hardt, Recht & Singer 2016, theorem 3.8.
    """
    steps = _rates(rates)
    _check_smooth(smoothness, float(steps.max()), 2.0)
    distance = 2 * check_at_least("lipschitz", lipschitz) / check_count("n", n) * float(steps.sum())
    return StabilityBound(
        lipschitz * distance,
        distance,
        "Every example's loss is convex, G-Lipschitz and beta-smooth in the weights; examples are drawn uniformly.",
    )


def strongly_convex_stability(
    rate: float, n: int, lipschitz: float, smoothness: float, convexity: float, steps: int | None = None
) -> StabilityBound:
    r"""For strongly convex losses: :math:`\varepsilon \le \frac{2G^2}{\gamma n} \bigl(1 - (1 - \alpha\gamma)^T\bigr) \le \frac{2G^2}{\gamma n}`, however long the training.

    Each step contracts distances by :math:`1 - \alpha\gamma`. A strongly convex loss is Lipschitz on a bounded set only, so the steps are
    projected onto one (projections do not expand), or known to stay in one.

    Args:
        rate: Constant step size, at most :math:`1/\beta`.
        n: Training examples.
        lipschitz: G on the bounded set.
        smoothness: :math:`\beta`.
        convexity: :math:`\gamma`, smallest curvature of any example's loss, at most :math:`\beta`.
        steps: T; None for arbitrarily many.

    Returns:
        The bound.

    Raises:
        SettingError: A rate above 1/beta, a convexity above the smoothness, or an argument out of its range.

    Example:
        >>> round(strongly_convex_stability(0.1, n=1000, lipschitz=1.0, smoothness=4.0, convexity=0.1).value, 6)
        0.02

    Source: Hardt, Recht & Singer 2016, theorem 3.9; the factor for finite T is the sum of its geometric series.
    """
    step = float(_rates([rate])[0])
    _check_smooth(smoothness, step, 1.0)
    gamma = check_at_least("convexity", convexity, strictly=True)
    if gamma > smoothness:
        raise SettingError(
            "convexity must be at most smoothness", f"{gamma} > {smoothness}", "Swap them, or measure again."
        )
    left = (
        0.0
        if steps is None
        else math.exp(check_count("steps", steps) * math.log1p(-step * gamma))
        if step * gamma < 1
        else 0.0
    )
    distance = 2 * check_at_least("lipschitz", lipschitz) / (gamma * check_count("n", n)) * (1 - left)
    return StabilityBound(
        lipschitz * distance,
        distance,
        "Every example's loss is gamma-strongly convex, beta-smooth and G-Lipschitz on a bounded set that the steps do not leave; "
        "examples are drawn uniformly.",
    )


def nonconvex_stability(
    constant: float, steps: int, n: int, lipschitz: float, smoothness: float, largest_loss: float = 1.0
) -> StabilityBound:
    r"""For any smooth loss with decaying steps :math:`\alpha_t \le c/t`.

    .. math:: \varepsilon \le M\, \frac{1 + 1/(\beta c)}{n - 1} \Bigl(\frac{2 c G^2}{M}\Bigr)^{\frac{1}{\beta c + 1}} T^{\frac{\beta c}{\beta c + 1}}

    for losses in [0, M]. The exponent of T is below 1: the bound grows sublinearly in the number of steps.

    Args:
        constant: c.
        steps: T.
        n: Training examples, at least 2.
        lipschitz: G.
        smoothness: :math:`\beta`.
        largest_loss: M.

    Returns:
        The bound; its distance is NaN, for the argument conditions on when the differing example is first drawn.

    Raises:
        SettingError: An argument out of its range.

    Example:
        >>> short, long = (nonconvex_stability(0.5, T, n=1000, lipschitz=1.0, smoothness=2.0).value for T in (100, 400))
        >>> round(long / short, 6)  # four times as many steps, beta c = 1: twice the bound
        2.0

    Source: Hardt, Recht & Singer 2016, theorem 3.12 (there for M = 1; losses divided by M and steps times M give this form).
    """
    c = check_at_least("constant", constant, strictly=True)
    growth = check_at_least("smoothness", smoothness, strictly=True) * c
    scale = check_at_least("largest_loss", largest_loss, strictly=True)
    size = 2 * c * check_at_least("lipschitz", lipschitz) ** 2 / scale
    value = scale * (1 + 1 / growth) / (check_count("n", n, 2) - 1)
    value *= size ** (1 / (growth + 1)) * check_count("steps", steps) ** (growth / (growth + 1))
    return StabilityBound(
        value,
        math.nan,
        "Every example's loss is G-Lipschitz, beta-smooth and in [0, M]; step sizes do not increase and are at most c/t; examples are "
        "drawn uniformly.",
    )


def expansive_stability(
    rates: Sequence[float] | Tensor, n: int, lipschitz: float, smoothness: float
) -> StabilityBound:
    r"""For any smooth loss and any steps, by a recursion on the expected distance.

    .. math:: \Delta_{t+1} \le \Bigl(1 - \frac1n\Bigr)(1 + \alpha_t \beta) \Delta_t + \frac1n (\Delta_t + 2 \alpha_t G)

    A step may expand distances by :math:`1 + \alpha\beta`, so for constant steps the bound grows exponentially and is vacuous soon; it is
    what the theory says of a network trained at a constant rate.

    Args:
        rates: Step sizes :math:`\alpha_1, \dots, \alpha_T`.
        n: Training examples.
        lipschitz: G.
        smoothness: :math:`\beta`.

    Returns:
        The bound, infinite where it exceeds the largest double.

    Raises:
        SettingError: An argument out of its range.

    Source: Hardt, Recht & Singer 2016, lemma 2.5 (growth recursion) with lemma 3.7 (a step is (1 + alpha beta)-expansive).
    """
    steps = _rates(rates)
    check_at_least("smoothness", smoothness)
    share = 1 / check_count("n", n)
    check_at_least("lipschitz", lipschitz)
    distance = 0.0
    for step in steps.tolist():
        distance = (1 - share) * (1 + step * smoothness) * distance + share * (
            distance + 2 * step * lipschitz
        )
    return StabilityBound(
        lipschitz * distance,
        distance,
        "Every example's loss is G-Lipschitz and beta-smooth in the weights; examples are drawn uniformly.",
    )


def path_distance_bound(rates: Tensor, shares: Tensor, lipschitz: float) -> Tensor:
    r"""What holds in every run on convex losses, at every step: :math:`\|w_t - w'_t\| \le 2 G \sum_{s \le t} \alpha_s q_s`.

    :math:`q_s` is the share of the differing example in the batch of step s: 0 or 1 for single examples, 1/n for full-batch
    descent, where the right side is the bound on the mean, :math:`\frac{2G}{n} \sum \alpha`.

    Args:
        rates: Step sizes (T,), at most :math:`2/\beta`.
        shares: :math:`q_s`, (..., T), in [0, 1].
        lipschitz: G.

    Returns:
        The bound after each step, (..., T), float64.

    Raises:
        SettingError: Shapes that do not fit, or an argument out of its range.

    Example:
        >>> import torch
        >>> path_distance_bound(torch.full((3,), 0.5), torch.tensor([0.0, 1.0, 0.0]), lipschitz=1.0).tolist()
        [0.0, 1.0, 1.0]

    Source: Hardt, Recht & Singer 2016, lemmas 2.5 and 3.7, without the expectation.
    """
    steps = _rates(rates)
    if shares.shape[-1:] != steps.shape or bool(((shares < 0) | (shares > 1)).any()):
        raise SettingError(
            f"shares must have one number in [0, 1] for each of {len(steps)} steps",
            f"shape {tuple(shares.shape)}",
            "Pass how often each step's batch holds the example, over the size of the batch.",
        )
    return 2 * check_at_least("lipschitz", lipschitz) * (steps * shares.double()).cumsum(-1)


def _rates(rates: Sequence[float] | Tensor) -> Tensor:
    """Step sizes as float64 (T,), all positive and finite."""
    steps = torch.as_tensor(rates, dtype=torch.float64)
    if steps.ndim != 1 or len(steps) == 0 or not bool((torch.isfinite(steps) & (steps > 0)).all()):
        raise SettingError(
            "rates must be at least one positive finite step size, (T,)",
            f"shape {tuple(steps.shape)}, from {float(steps.min()) if steps.numel() else math.nan}",
            "Pass one step size for each step.",
        )
    return steps


def _check_smooth(smoothness: float, rate: float, most: float) -> None:
    check_at_least("smoothness", smoothness, strictly=True)
    if rate > most / smoothness:
        raise SettingError(
            f"The theorem needs step sizes of at most {most:g} / smoothness = {most / smoothness:g}",
            f"a rate of {rate:g}",
            "Lower the rate, or use expansive_stability, which has no such limit.",
        )
