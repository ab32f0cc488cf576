"""The Tracy-Widom law against its published moments and quantiles, and the eigenvalues it describes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp
from scipy.special import airy

from torchstone.errors import SettingError
from torchstone.linalg.tracy_widom import tracy_widom_cdf, tracy_widom_quantile


def by_painleve(points: list[float]) -> list[float]:
    """F_1(s) = exp(-1/2 int_s^oo q + (x - s) q^2 dx), q'' = s q + 2 q^3, q ~ Ai: the law's definition."""
    start = 6.0
    first = airy(start)

    def slope(s: float, state: np.ndarray) -> list[float]:
        q, derivative, _, first_integral, _ = state
        return [derivative, s * q + 2 * q**3, -first_integral, -(q**2), -q]

    # State: q, q', I = int (x - s) q^2, J = int q^2, K = int q; all but q start at what Airy leaves beyond.
    x = np.linspace(start, start + 12, 4001)
    tail = airy(x)[0]
    rest = [np.trapezoid((x - start) * tail**2, x), np.trapezoid(tail**2, x), np.trapezoid(tail, x)]
    solution = solve_ivp(
        slope, (start, min(points)), [first[0], first[1], *rest], rtol=1e-12, atol=1e-14, dense_output=True
    )
    found = []
    for point in points:
        state = solution.sol(point)
        found.append(float(np.exp(-0.5 * (state[2] + state[4]))))
    return found


def test_the_determinant_is_the_painleve_formula() -> None:
    points = [3.0, 1.0, 0.0, -1.0, -2.0, -3.0]
    for point, value in zip(points, by_painleve(points), strict=True):
        assert tracy_widom_cdf(point) == pytest.approx(value, abs=1e-8)


def test_published_quantiles_and_mean() -> None:
    """Bejan 2005, table; the mean -1.2065335745820 from Bornemann 2010, table 10."""
    assert tracy_widom_quantile(0.95) == pytest.approx(0.9793, abs=1e-4)
    assert tracy_widom_quantile(0.99) == pytest.approx(2.0234, abs=1e-4)
    s = torch.linspace(-9, 13, 221, dtype=torch.float64)
    cdf = torch.tensor([tracy_widom_cdf(float(x)) for x in s], dtype=torch.float64)
    mean = float(s[-1] - torch.trapezoid(cdf, s))
    assert mean == pytest.approx(
        -1.2065335745820, abs=1e-6
    )  # the rule's error falls faster than any power: the law is flat at both ends


@pytest.mark.parametrize("probability", [1e-6, 0.05, 0.5, 0.999, 1 - 1e-8])
def test_the_quantile_inverts_the_distribution(probability: float) -> None:
    assert tracy_widom_cdf(tracy_widom_quantile(probability)) == pytest.approx(probability, rel=1e-6)


def test_far_out_and_wrong() -> None:
    assert tracy_widom_cdf(-50.0) == 0.0
    assert tracy_widom_cdf(1e9) == 1.0
    with pytest.raises(SettingError, match="needs a number"):
        tracy_widom_cdf(float("nan"))
    with pytest.raises(SettingError, match="probability must lie"):
        tracy_widom_quantile(1.0)
