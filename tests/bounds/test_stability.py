"""Stability: the formulas, a procedure whose stability is measured, and bounds that hold in simulated samples."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from torchstone.bounds.stability import (
    expected_stability_gap,
    hypothesis_stability_bound,
    regularised_stability,
    stability_bound,
)
from torchstone.errors import SettingError


def test_formulas() -> None:
    n, beta, delta, most = 400, 0.002, 0.1, 2.0
    root = math.sqrt(math.log(1 / delta) / (2 * n))
    first = stability_bound(0.3, beta, n, delta, most)
    assert first.value == pytest.approx(0.3 + 2 * beta + (4 * n * beta + most) * root, rel=1e-12)
    second = stability_bound(0.3, beta, n, delta, most, leave_one_out=True)
    assert second.value == pytest.approx(0.3 + beta + (4 * n * beta + most) * root, rel=1e-12)
    third = hypothesis_stability_bound(0.3, beta, n, delta, most)
    expected = math.sqrt((most**2 + 12 * most * n * beta) / (2 * n * delta))
    assert third.value == pytest.approx(0.3 + expected, rel=1e-12)
    fourth = hypothesis_stability_bound(0.3, beta, n, delta, most, leave_one_out=True)
    expected = math.sqrt((most**2 + 6 * most * n * beta) / (2 * n * delta))
    assert fourth.value == pytest.approx(0.3 + expected, rel=1e-12)
    assert expected_stability_gap(beta) == 2 * beta


PENALTY, N = 0.1, 60


def ridge(x: Tensor, y: Tensor) -> Tensor:
    """Minimiser of the mean squared error plus a penalty, without intercept; a removed example leaves n as it is."""
    gram = x.T @ x / N + PENALTY * torch.eye(x.shape[1], dtype=x.dtype)
    return torch.linalg.solve(gram, x.T @ y / N)


def sample(generator: torch.Generator, n: int) -> tuple[Tensor, Tensor]:
    """Inputs of norm 1 and targets +-1 that depend on them."""
    x = torch.randn(n, 3, generator=generator, dtype=torch.float64)
    x = x / x.norm(dim=1, keepdim=True)
    flip = torch.rand(n, generator=generator, dtype=torch.float64) < 0.2
    return x, torch.where(flip, -1.0, 1.0) * torch.where(x[:, 0] > 0, 1.0, -1.0).double()


def ridge_loss_limits() -> tuple[float, float]:
    """Largest |prediction - target| and largest loss: |w| <= 1/sqrt(penalty), as its objective is at most that of 0."""
    reach = 1 / math.sqrt(PENALTY) + 1
    return reach, reach**2


def test_ridge_is_as_stable_as_stated() -> None:
    """No removal among many samples changes any loss by more than beta."""
    reach, _ = ridge_loss_limits()
    beta = regularised_stability(2 * reach, largest_kernel=1.0, penalty=PENALTY, n=N)
    generator = torch.Generator().manual_seed(0)
    fresh_x, fresh_y = sample(generator, 2000)
    largest = 0.0
    for _ in range(20):
        x, y = sample(generator, N)
        whole = (fresh_x @ ridge(x, y) - fresh_y).square()
        for i in range(N):
            kept = torch.arange(N) != i
            without = (fresh_x @ ridge(x[kept], y[kept]) - fresh_y).square()
            largest = max(largest, float((whole - without).abs().max()))
    assert 0 < largest <= beta
    # The statement is worst-case: not absurdly far from what happens, either.
    assert beta < 200 * largest


def test_the_bound_holds_in_at_least_its_share_of_samples() -> None:
    reach, most = ridge_loss_limits()
    beta = regularised_stability(2 * reach, 1.0, PENALTY, N)
    generator = torch.Generator().manual_seed(1)
    fresh_x, fresh_y = sample(generator, 20_000)
    gaps, failures = [], 0
    for _ in range(300):
        x, y = sample(generator, N)
        w = ridge(x, y)
        seen = float((x @ w - y).square().mean())
        true = float((fresh_x @ w - fresh_y).square().mean())
        gaps.append(true - seen)
        failures += true > stability_bound(seen, beta, N, delta=0.3, largest_loss=most).value
    assert failures <= 0.3 * 300
    assert 0 < sum(gaps) / len(gaps) < expected_stability_gap(beta)


@pytest.mark.parametrize("leave_one_out", [False, True])
def test_both_bounds_hold_where_they_say_more_than_the_largest_loss(leave_one_out: bool) -> None:
    penalty, n, delta, generator = 1.0, 10_000, 0.3, torch.Generator().manual_seed(2)
    most = (1 / math.sqrt(penalty) + 1) ** 2
    beta = regularised_stability(2 * math.sqrt(most), 1.0, penalty, n)
    fresh_x, fresh_y = sample(generator, 20_000)
    failures = [0, 0]
    for _ in range(60):
        x, y = sample(generator, n)
        inverse = torch.linalg.inv(x.T @ x + n * penalty * torch.eye(3, dtype=x.dtype))
        w = inverse @ (x.T @ y)
        residuals = x @ w - y
        if leave_one_out:  # each example predicted without it, n in the penalty as it is
            residuals = residuals / (1 - ((x @ inverse) * x).sum(1))
        seen, true = float(residuals.square().mean()), float((fresh_x @ w - fresh_y).square().mean())
        for i, bound in enumerate((stability_bound, hypothesis_stability_bound)):
            value = bound(seen, beta, n, delta, most, leave_one_out=leave_one_out).value
            failures[i] += true > value
            assert value < most
    assert max(failures) <= delta * 60


def test_mistakes() -> None:
    with pytest.raises(SettingError, match="beta"):
        stability_bound(0.1, -1.0, 10)
    with pytest.raises(SettingError, match="largest_loss"):
        stability_bound(2.0, 0.1, 10)
    with pytest.raises(SettingError, match="delta"):
        hypothesis_stability_bound(0.1, 0.1, 10, delta=1.0)
    with pytest.raises(SettingError, match="penalty"):
        regularised_stability(1.0, 1.0, 0.0, 10)
