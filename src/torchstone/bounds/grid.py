r"""Bounds for quantities read off after training: a grid of values fixed before, and what choosing a cell costs.

A bound that holds with probability :math:`1 - \delta_k` for the class of norm at most :math:`e^{kh}`, k an integer, holds for all k at once
with probability :math:`1 - \sum_k \delta_k`. With :math:`\delta_k = \delta p_k` and :math:`p_k = \frac{1}{2 (|k| + 1)(|k| + 2)}`, which sum to less than 1,
the cell that a trained network falls into costs :math:`\ln (1/p_k)` beside :math:`\ln (1/\delta)`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from torchstone.bounds.risk_bound import check_at_least


@dataclass(frozen=True)
class Cell:
    """A value of the grid and the logarithm of one over its weight.

    Args:
        value: The grid's value, positive.
        log_price: What the choice adds to ln(1/delta), in nats.
    """

    value: float
    log_price: float


def cell_above(value: float, step: float = 0.05) -> Cell:
    r"""The smallest grid value at or above a norm.

    Args:
        value: Not negative; below 1e-12 it is taken as 1e-12.
        step: h.

    Returns:
        The cell; its value exceeds the norm by at most a factor :math:`e^h`.

    Raises:
        SettingError: A negative or infinite value.

    Example:
        >>> cell = cell_above(3.0)
        >>> 3.0 <= cell.value <= 3.16, round(cell.log_price, 2)
        (True, 7.01)
    """
    k = math.ceil(math.log(max(check_at_least("value", value), 1e-12)) / step)
    # Rounding in log and exp must not put the grid point below the norm.
    return Cell(max(math.exp(k * step), value), log_price(k))


def cell_below(value: float, step: float = 0.05) -> Cell:
    """The largest grid value at or below a margin.

    Args:
        value: Positive.
        step: h.

    Returns:
        The cell.

    Raises:
        SettingError: A value that is not positive and finite.
    """
    k = math.floor(math.log(check_at_least("value", value, strictly=True)) / step)
    return Cell(min(math.exp(k * step), value), log_price(k))


def log_price(k: int) -> float:
    r""":math:`\ln(1/p_k)` of the k-th cell.

    Args:
        k: An integer of either sign.

    Returns:
        Nats.
    """
    return math.log(2 * (abs(k) + 1) * (abs(k) + 2))
