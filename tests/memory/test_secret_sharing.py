"""Shamir's scheme: any k shares rebuild, k - 1 fit every secret equally often."""

from __future__ import annotations

import itertools
import random
from collections import Counter

import pytest

from torchstone.errors import SettingError
from torchstone.memory.secret_sharing import PRIME, rebuild_secret, split_secret


@pytest.mark.parametrize(("needed", "count"), [(1, 1), (1, 3), (2, 3), (3, 5), (6, 6)])
def test_any_k_of_n_rebuild(needed: int, count: int) -> None:
    draw = random.Random(needed * 10 + count).randrange
    for secret in (0, 1, PRIME - 1, draw(PRIME)):
        shares = split_secret(secret, count, needed, draw=draw)
        for chosen in itertools.permutations(shares, needed):
            assert rebuild_secret(chosen) == secret
        assert rebuild_secret(shares) == secret  # more than needed do no harm


def test_k_minus_1_shares_leave_every_secret_as_likely() -> None:
    """All polynomials of degree 2 over 7 elements: each pair of shares occurs once for every secret."""
    for places in itertools.combinations(range(3), 2):
        seen: dict[tuple[int, ...], Counter[int]] = {}
        for secret, a, b in itertools.product(range(7), repeat=3):
            coefficients = iter((a, b))
            shares = split_secret(secret, 3, 3, prime=7, draw=lambda _, c=coefficients: next(c))
            key = tuple(shares[p][1] for p in places)
            seen.setdefault(key, Counter())[secret] += 1
        assert len(seen) == 49
        assert all(counter == Counter(range(7)) for counter in seen.values())


def test_too_few_shares_give_something_else() -> None:
    shares = split_secret(5, 4, 3)
    assert rebuild_secret(shares[:2]) != 5  # wrong but once in 2^127


@pytest.mark.parametrize(
    ("secret", "count", "needed", "prime"),
    [(-1, 3, 2, 7), (7, 3, 2, 7), (1, 2, 3, 7), (1, 3, 0, 7), (1, 7, 2, 7)],
)
def test_arguments_out_of_range(secret: int, count: int, needed: int, prime: int) -> None:
    with pytest.raises(SettingError, match="split_secret needs"):
        split_secret(secret, count, needed, prime=prime)


@pytest.mark.parametrize("shares", [[], [(1, 2), (1, 2)]])
def test_shares_that_are_missing_or_twice(shares: list[tuple[int, int]]) -> None:
    with pytest.raises(SettingError, match="different shares"):
        rebuild_secret(shares)
