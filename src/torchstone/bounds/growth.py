r"""How many labellings can a class give to n points? Growth functions in exact integers.

The growth function :math:`\Pi_H(n)` is the largest number of distinct sign vectors :math:`(h(x_1), \dots, h(x_n))` over the choice of
points; the VC dimension is the largest n with :math:`\Pi_H(n) = 2^n`.
"""

from __future__ import annotations

import math

from torchstone.bounds.risk_bound import check_count


def cover_count(n: int, dimensions: int) -> int:
    r"""Labellings of n points in general position by hyperplanes through the origin of :math:`R^d`.

    .. math:: C(n, d) = 2 \sum_{k=0}^{d-1} \binom{n-1}{k}

    Points in special position have fewer. For hyperplanes with a bias pass d + 1.

    Args:
        n: Number of points.
        dimensions: d, at least 1.

    Returns:
        The count, an exact integer.

    Raises:
        SettingError: A count below 1.

    Example:
        >>> cover_count(12, 5), cover_count(3, 3), cover_count(4, 3)
        (1124, 8, 14)

    Source: Schläfli 1901; Cover 1965, theorem 1.
    """
    check_count("n", n)
    check_count("dimensions", dimensions)
    return 2 * _binomial_sum(n - 1, dimensions - 1)


def separable_fraction(n: int, dimensions: int) -> float:
    r"""Share of all :math:`2^n` labellings that a hyperplane through the origin separates, :math:`C(n, d) / 2^n`.

    1 up to n = d points, exactly 1/2 at n = 2d (the capacity), near 0 beyond.

    Args:
        n: Number of points in general position.
        dimensions: d.

    Returns:
        The share.

    Raises:
        SettingError: A count below 1.

    Example:
        >>> separable_fraction(10, 5), round(separable_fraction(12, 5), 4)
        (0.5, 0.2744)

    Source: Cover 1965, theorem 1 and section 3.
    """
    return cover_count(n, dimensions) / 2**n


def sauer_sum(n: int, vc_dimension: int) -> int:
    r"""Most labellings of n points by a class of VC dimension d: :math:`\sum_{k=0}^d \binom nk`.

    Attained by the class of all sets of at most d points.

    Args:
        n: Number of points.
        vc_dimension: d, at least 0.

    Returns:
        The count, an exact integer.

    Raises:
        SettingError: n below 1 or d below 0.

    Example:
        >>> sauer_sum(4, 2), sauer_sum(4, 9)
        (11, 16)

    Source: Vapnik & Chervonenkis 1971, theorem 1; Sauer 1972, theorem 1; Shelah 1972.
    """
    check_count("n", n)
    check_count("vc_dimension", vc_dimension, least=0)
    return _binomial_sum(n, vc_dimension)


def log_sauer_bound(n: int, vc_dimension: int) -> float:
    r"""The familiar closed form above the logarithm of Sauer's sum: :math:`d \ln(en/d)` for n >= d, else :math:`n \ln 2`.

    Args:
        n: Number of points.
        vc_dimension: d, at least 0.

    Returns:
        The bound, in nats.

    Raises:
        SettingError: n below 1 or d below 0.

    Source: Blumer, Ehrenfeucht, Haussler & Warmuth 1989, appendix A2; Mohri, Rostamizadeh & Talwalkar 2018, corollary 3.18.
    """
    check_count("n", n)
    d = check_count("vc_dimension", vc_dimension, least=0)
    if n <= d:
        return n * math.log(2)
    return d * (1 + math.log(n / d)) if d else 0.0


def sign_change_growth(n: int, changes: int) -> int:
    r"""Labellings of n points on a line by functions that change sign at most m times: :math:`2 \sum_{k=0}^m \binom{n-1}{k}`.

    Every pattern of at most m changes counts, so for a class that realises some of them only it is an upper bound. The VC
    dimension of the full class is m + 1.

    Args:
        n: Number of distinct points on the line.
        changes: m, at least 0.

    Returns:
        The count, an exact integer.

    Raises:
        SettingError: n below 1 or m below 0.

    Example:
        >>> sign_change_growth(5, changes=1)  # thresholds in both directions
        10
    """
    check_count("n", n)
    check_count("changes", changes, least=0)
    return 2 * _binomial_sum(n - 1, changes)


def _binomial_sum(n: int, most: int) -> int:
    """The sum of binomial(n, k) over k = 0 .. most, by the recurrence of one from the last."""
    total = term = 1
    for k in range(min(most, n)):
        term = term * (n - k) // (k + 1)
        total += term
    return total
