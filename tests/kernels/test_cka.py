"""Alignment against its definitions, closed-form populations and its invariances."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from torchstone.errors import NumericalError, SettingError
from torchstone.kernels.cka import (
    linear_cka,
    linear_cka_interval,
    minibatch_linear_cka,
    unbiased_hsic,
    unbiased_linear_cka,
    unbiased_linear_hsic,
)

Measure = Callable[[Tensor, Tensor], float]


def pair(n: int, dx: int, dy: int, gain: float, generator: torch.Generator) -> tuple[Tensor, Tensor, float]:
    """Features x and y = gain x + noise of a Gaussian law, and the law's CKA in closed form."""
    scales = torch.linspace(1, 0.3, dx, dtype=torch.float64)
    mixing = gain * torch.eye(dx, dy, dtype=torch.float64)
    draw = lambda *shape: torch.randn(*shape, generator=generator, dtype=torch.float64)
    x = draw(n, dx) * scales
    y = x @ mixing + draw(n, dy)
    own = torch.diag(scales**2)
    cross, other = own @ mixing, mixing.T @ own @ mixing + torch.eye(dy, dtype=torch.float64)
    return x, y, float(cross.square().sum() / (own.norm() * other.norm()))


@pytest.mark.parametrize(("dx", "dy"), [(3, 5), (40, 60), (3, 200)])
def test_linear_cka_is_its_definition_in_both_forms(dx: int, dy: int) -> None:
    n = 30
    x, y, _ = pair(n, dx, dy, 1.0, torch.Generator().manual_seed(1))
    x, y = x + 3, y - 7
    centre = torch.eye(n, dtype=torch.float64) - 1 / n
    k, l = centre @ x @ x.T @ centre, centre @ y @ y.T @ centre
    truth = (k * l).sum() / (k.norm() * l.norm())
    assert linear_cka(x, y) == pytest.approx(float(truth), rel=1e-12)


@pytest.mark.parametrize("measure", [linear_cka, unbiased_linear_cka])
@pytest.mark.parametrize("d", [6, 80])
def test_invariant_to_rotation_and_scale_but_not_to_invertible_maps(measure: Measure, d: int) -> None:
    generator = torch.Generator().manual_seed(2)
    x, y, _ = pair(50, d, d, 1.0, generator)
    turn = torch.linalg.qr(torch.randn(d, d, generator=generator, dtype=torch.float64))[0]
    value = measure(x, y)
    assert abs(measure(x @ turn * 1e3, y) - value) < 1e-8
    assert abs(measure(x, 1e-3 * y @ turn + 4) - value) < 1e-8
    assert abs(measure(x, x @ turn) - 1) < 1e-8
    stretch = turn @ torch.diag(torch.logspace(-1, 1, d, dtype=torch.float64)) @ turn.T
    assert abs(measure(x @ stretch, y) - value) > 0.05
    assert measure(x @ stretch, x) < 0.95


@pytest.mark.parametrize(("dx", "dy"), [(2, 3), (30, 4)])
def test_unbiased_hsic_is_the_u_statistic(dx: int, dy: int) -> None:
    # The U-statistic of order four, over all ordered quadruples of distinct examples (Song et al. 2012, theorem 2).
    x, y, _ = pair(6, dx, dy, 1.0, torch.Generator().manual_seed(3))
    k, l = (x @ x.T), (y @ y.T)
    total, count = 0.0, 0
    for i, j, q, r in itertools.permutations(range(6), 4):
        total += float(k[i, j] * (l[i, j] + l[q, r] - 2 * l[i, q]))
        count += 1
    assert unbiased_hsic(k, l) == pytest.approx(total / count, rel=1e-10)
    assert unbiased_linear_hsic(x, y) == pytest.approx(total / count, rel=1e-10)
    assert unbiased_linear_hsic(x + 100, y) == pytest.approx(total / count, rel=1e-8)


def test_unbiased_hsic_has_the_squared_cross_covariance_as_its_mean() -> None:
    generator = torch.Generator().manual_seed(4)
    values = []
    for _ in range(3000):
        x, y, _ = pair(8, 3, 2, 0.7, generator)
        values.append(unbiased_linear_hsic(x, y))
    scales = torch.linspace(1, 0.3, 3, dtype=torch.float64)[:2]
    truth = float((0.7 * scales**2).square().sum())
    sample = torch.tensor(values, dtype=torch.float64)
    assert abs(float(sample.mean()) - truth) < 3 * float(sample.std()) / math.sqrt(3000)


@pytest.mark.parametrize(("dx", "dy"), [(4, 6), (100, 120)])
def test_independent_representations_have_no_unbiased_alignment(dx: int, dy: int) -> None:
    generator = torch.Generator().manual_seed(5)
    hsic, cka, plain = [], [], []
    for _ in range(300):
        x, y, _ = pair(40, dx, dy, 0.0, generator)
        hsic.append(unbiased_linear_hsic(x, y))
        cka.append(unbiased_linear_cka(x, y))
        plain.append(linear_cka(x, y))
    for values in (hsic, cka):
        sample = torch.tensor(values, dtype=torch.float64)
        assert abs(float(sample.mean())) < 3 * float(sample.std()) / math.sqrt(300)
    # The plain estimate sees alignment where there is none: that is what the unbiased one is for.
    assert min(plain) > (0.02 if dx == 4 else 0.6)


def test_minibatches_average_to_the_same_quantity() -> None:
    generator = torch.Generator().manual_seed(6)
    x, y, truth = pair(20_000, 10, 8, 1.0, generator)
    batches = list(zip(x.split(100), y.split(100), strict=True))
    assert minibatch_linear_cka(batches) == pytest.approx(truth, abs=0.02)
    assert unbiased_linear_cka(x, y) == pytest.approx(truth, abs=0.02)
    # One batch is the plain unbiased estimate; batches that are alike average to themselves.
    assert minibatch_linear_cka(batches[:1]) == pytest.approx(unbiased_linear_cka(*batches[0]), rel=1e-12)
    assert minibatch_linear_cka(batches[:1] * 3) == pytest.approx(unbiased_linear_cka(*batches[0]), rel=1e-12)


@pytest.mark.parametrize(("dx", "dy"), [(3, 4), (30, 25)])
def test_jackknife_is_that_of_explicit_leave_one_out(dx: int, dy: int) -> None:
    n = 15
    x, y, _ = pair(n, dx, dy, 1.0, torch.Generator().manual_seed(7))
    keep = ~torch.eye(n, dtype=torch.bool)
    left_out = torch.tensor([unbiased_linear_cka(x[row], y[row]) for row in keep], dtype=torch.float64)
    error = math.sqrt((n - 1) / n * float((left_out - left_out.mean()).square().sum()))
    found = linear_cka_interval(x, y)
    assert found.standard_error == pytest.approx(error, rel=1e-9)
    assert found.value == pytest.approx(unbiased_linear_cka(x, y), rel=1e-12)


@pytest.mark.parametrize(
    ("n", "dx", "dy", "gain"), [(200, 10, 8, 1.0), (200, 10, 8, 3.0), (100, 40, 120, 3.0), (50, 10, 8, 0.3)]
)
def test_interval_covers_the_law_as_often_as_it_says(n: int, dx: int, dy: int, gain: float) -> None:
    generator = torch.Generator().manual_seed(8)
    repeats, hits, errors, values = 500, 0, [], []
    for _ in range(repeats):
        x, y, truth = pair(n, dx, dy, gain, generator)
        found = linear_cka_interval(x, y)
        hits += found.low <= truth <= found.high
        errors.append(found.standard_error)
        values.append(found.value)
    assert hits / repeats > 0.95 - 3 * math.sqrt(0.95 * 0.05 / repeats)
    # Honest, not merely wide: the error bar is the spread of the estimate to within a third.
    spread = float(torch.tensor(values, dtype=torch.float64).std())
    assert 0.9 < sum(errors) / repeats / spread < 1.34


def test_interval_is_conservative_for_independent_representations() -> None:
    generator = torch.Generator().manual_seed(9)
    hits = 0
    for _ in range(300):
        x, y, _ = pair(60, 10, 8, 0.0, generator)
        found = linear_cka_interval(x, y)
        hits += found.low <= 0 <= found.high
    assert hits / 300 > 0.95


def test_identical_representations_have_no_error_bar() -> None:
    x, _, _ = pair(30, 5, 5, 1.0, torch.Generator().manual_seed(10))
    found = linear_cka_interval(x, 2 * x)
    assert found.value == pytest.approx(1.0, abs=1e-12)
    assert found.standard_error < 1e-12


@pytest.mark.parametrize("scale", [1e-35, 1e35])
def test_extreme_scales_do_not_matter(scale: float) -> None:
    x, y, _ = pair(30, 5, 5, 1.0, torch.Generator().manual_seed(11))
    x32, y32 = (x * scale).float(), (y * scale).float()
    assert unbiased_linear_cka(x32, y32) == pytest.approx(unbiased_linear_cka(x, y), rel=1e-5)
    assert linear_cka(x32, y32) == pytest.approx(linear_cka(x, y), rel=1e-5)
    assert linear_cka_interval(x32, y32).standard_error == pytest.approx(
        linear_cka_interval(x, y).standard_error, rel=1e-4
    )


def test_bad_inputs_are_refused() -> None:
    x = torch.randn(6, 3, generator=torch.Generator().manual_seed(12))
    with pytest.raises(SettingError, match="same n >= 2"):
        linear_cka(x, x[:5])
    with pytest.raises(SettingError, match="n >= 4"):
        unbiased_linear_cka(x[:3], x[:3])
    with pytest.raises(SettingError, match="n >= 5"):
        linear_cka_interval(x[:4], x[:4])
    with pytest.raises(SettingError, match="strictly between"):
        linear_cka_interval(x, x, confidence=1.0)
    with pytest.raises(SettingError, match="Gram matrices"):
        unbiased_hsic(x, x)
    with pytest.raises(SettingError, match="at least one batch"):
        minibatch_linear_cka([])
    with pytest.raises(NumericalError, match="Features must be finite"):
        linear_cka(x * math.nan, x)
    with pytest.raises(NumericalError, match="Gram matrices must be finite"):
        unbiased_hsic(torch.full((4, 4), math.inf), torch.eye(4))
    with pytest.raises(NumericalError, match="dead"):
        linear_cka(x, torch.full((6, 2), 0.1))
    with pytest.raises(NumericalError, match="own unbiased HSIC is positive"):
        minibatch_linear_cka([(x, torch.zeros(6, 2))])
    # Only one example differs: without it nothing varies.
    spike = torch.zeros(6, 2)
    spike[0] = 1.0
    with pytest.raises(NumericalError):
        linear_cka_interval(x, spike)
