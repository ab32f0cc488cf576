"""Growth functions against counting by hand, the recurrences of their proofs and brute force."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from torchstone.bounds.growth import (
    cover_count,
    log_sauer_bound,
    sauer_sum,
    separable_fraction,
    sign_change_growth,
)
from torchstone.errors import SettingError


def test_cover_counts_by_their_recurrence() -> None:
    # Adding a point splits those dichotomies that can pass through it: C(n+1, d) = C(n, d) + C(n, d-1).
    for n, d in itertools.product(range(1, 30), range(2, 12)):
        assert cover_count(n + 1, d) == cover_count(n, d) + cover_count(n, d - 1)
        assert cover_count(n, d) == 2 * sum(math.comb(n - 1, k) for k in range(d))
    for d in range(1, 12):
        assert cover_count(d, d) == 2**d
        assert cover_count(2 * d, d) * 2 == 2 ** (2 * d)  # capacity: half of all labellings at n = 2d
    assert [cover_count(4, 3), cover_count(12, 5)] == [14, 1124]
    assert separable_fraction(12, 5) == 562 / 2048


def test_sauer_is_attained_by_small_sets_and_bounds_the_closed_form() -> None:
    for n, d in itertools.product(range(1, 9), range(9)):
        small = sum(1 for bits in itertools.product((0, 1), repeat=n) if sum(bits) <= d)
        assert sauer_sum(n, d) == small
    for n, d in itertools.product((1, 2, 5, 50, 1000, 10**6), (0, 1, 3, 50, 2000)):
        assert math.log(sauer_sum(n, d)) <= log_sauer_bound(n, d) * (1 + 1e-12)
    assert log_sauer_bound(100, 7) == pytest.approx(7 * math.log(math.e * 100 / 7), rel=1e-14)


@pytest.mark.parametrize("changes", [0, 1, 2, 5, 9])
def test_sign_changes_by_brute_force(changes: int) -> None:
    for n in (1, 2, 6, 8):
        patterns = itertools.product((-1, 1), repeat=n)
        count = sum(1 for p in patterns if sum(a != b for a, b in itertools.pairwise(p)) <= changes)
        assert sign_change_growth(n, changes) == count
    assert sign_change_growth(changes + 1, changes) == 2 ** (changes + 1)
    assert sign_change_growth(changes + 2, changes) < 2 ** (changes + 2)


def test_large_counts_stay_exact() -> None:
    assert cover_count(3000, 2000) + cover_count(3000, 1000) == 2**3000  # binomials are symmetric
    assert torch.isfinite(torch.tensor(separable_fraction(900, 2)))


def test_bad_counts_are_refused() -> None:
    with pytest.raises(SettingError, match="n must be a whole number of at least 1; got 0"):
        cover_count(0, 3)
    with pytest.raises(SettingError, match="dimensions must be a whole number"):
        cover_count(3, 0)
    with pytest.raises(SettingError, match="vc_dimension must be a whole number of at least 0"):
        sauer_sum(3, -1)
    with pytest.raises(SettingError, match="changes must be"):
        sign_change_growth(3, 1.5)  # pyright: ignore[reportArgumentType]
