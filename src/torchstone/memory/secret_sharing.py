"""Shamir's secret sharing: any k of n shares rebuild a secret, and k - 1 of them say nothing about it.

Cryptography, and another thing than the secrets that networks memorise (`torchstone.memory.exposure`), with which it
shares a name only.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Sequence

from torchstone.errors import SettingError

PRIME = 2**127 - 1

Share = tuple[int, int]
"""A point (x, f(x)) of the secret polynomial."""


def split_secret(
    secret: int,
    shares: int,
    needed: int,
    *,
    prime: int = PRIME,
    draw: Callable[[int], int] = secrets.randbelow,
) -> list[Share]:
    r"""Points of :math:`f(x) = s + a_1 x + \dots + a_{k-1} x^{k-1} \bmod p` at x = 1..n, the a_i uniform.

    Given k - 1 points, each secret belongs to exactly one polynomial, so that all are as likely as before.

    Args:
        secret: s, in [0, p).
        shares: n.
        needed: k.
        prime: p, above s and n; must be prime.
        draw: Uniform whole numbers below a bound; by default the operating system's secure ones.

    Returns:
        n shares.

    Raises:
        SettingError: Not 1 <= k <= n < p, or a secret outside [0, p).

    Example:
        >>> shares = split_secret(42, 5, 3)
        >>> rebuild_secret(shares[1:4]), rebuild_secret([shares[0], shares[4], shares[2]])
        (42, 42)

    Source: Shamir 1979.
    """
    if not 1 <= needed <= shares < prime or not 0 <= secret < prime:
        raise SettingError(
            "split_secret needs 1 <= needed <= shares < prime and 0 <= secret < prime",
            f"needed={needed}, shares={shares}, prime={prime}",
            "Use a larger prime.",
        )
    coefficients = [secret, *(draw(prime) for _ in range(needed - 1))]
    return [
        (x, sum(a * pow(x, i, prime) for i, a in enumerate(coefficients)) % prime)
        for x in range(1, shares + 1)
    ]


def rebuild_secret(shares: Sequence[Share], *, prime: int = PRIME) -> int:
    """The polynomial's value at 0 by Lagrange interpolation: the secret, if there are as many shares as needed.

    Raises:
        SettingError: No shares, or one twice.
    """
    places = [x for x, _ in shares]
    if not places or len(set(places)) != len(places):
        raise SettingError(
            "rebuild_secret needs different shares", f"places {places}", "Pass each share once."
        )
    total = 0
    for x, value in shares:
        above, below = 1, 1
        for other in places:
            if other != x:
                above, below = above * -other % prime, below * (x - other) % prime
        total += value * above * pow(below, -1, prime)
    return total % prime
