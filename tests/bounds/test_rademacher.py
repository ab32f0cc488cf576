"""Rademacher complexities: every sign vector as the exact reference, coverage of both intervals, closed-form brackets."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor

from torchstone.bounds.rademacher import (
    empirical_rademacher,
    rademacher_finite,
    rademacher_kernel,
    rademacher_linear,
    random_signs,
)
from torchstone.errors import NumericalError, SettingError


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def all_signs(n: int) -> Tensor:
    return torch.tensor(list(itertools.product((-1.0, 1.0), repeat=n)), dtype=torch.float64)


def data_sets() -> dict[str, Tensor]:
    """Inputs on which the complexity of a ball is near its upper bound, near its lower one, and between."""
    generator = seeded(0)
    normal = torch.randn(60, 8, generator=generator, dtype=torch.float64)
    heavy = normal / torch.rand(60, 1, generator=generator, dtype=torch.float64)
    direction = torch.randn(1, 8, generator=generator, dtype=torch.float64)
    twins = torch.zeros(60, 8, dtype=torch.float64)
    twins[:2, 0] = 1e6
    return {
        "normal": normal,
        "heavy tails": heavy,
        "one direction": torch.ones(60, 1, dtype=torch.float64) * direction,
        "two equal inputs": twins,  # Khintchine's constant is attained
        "orthogonal": torch.eye(60, dtype=torch.float64),  # Jensen's inequality is an equality
    }


def test_all_sign_vectors_are_taken_where_the_draws_suffice() -> None:
    values = torch.randn(7, 9, generator=seeded(1), dtype=torch.float64)
    found = rademacher_finite(values, seeded(0), draws=512)
    by_hand = sum(max(float(s @ h) for h in values) / 9 for s in all_signs(9)) / 512
    assert found.exact
    assert found.draws == 512
    assert found.value == pytest.approx(by_hand, rel=1e-12)
    assert found.interval.width == found.guaranteed.width == 0
    assert not rademacher_finite(values, seeded(0), draws=511).exact


@pytest.mark.parametrize("order", [1.0, 1.5, 2.0, 5.0, math.inf])
def test_the_inner_supremum_of_a_ball_is_its_dual_norm(order: float) -> None:
    # Hölder's inequality with its maximiser, built by hand: w_j = sign(s_j) |s_j|^(q-1) / |s|_q^(q-1).
    x = torch.randn(6, 3, generator=seeded(2), dtype=torch.float64)
    total = 0.0
    for signs in all_signs(6):
        s = signs @ x
        if order == 1:
            w = torch.nn.functional.one_hot(s.abs().argmax(), 3).double() * s.sign()
        elif order == math.inf:
            w = s.sign()
        else:
            q = order / (order - 1)
            w = s.sign() * s.abs() ** (q - 1) / torch.linalg.vector_norm(s, ord=q) ** (q - 1)
        assert float(torch.linalg.vector_norm(w, ord=order)) == pytest.approx(1.0)
        total += float(2.5 * w @ s) / 6
    found = rademacher_linear(x, 2.5, seeded(0), order=order)
    assert found.exact
    assert found.value == pytest.approx(total / 64, rel=1e-12)


def test_a_kernel_ball_is_the_ball_of_its_features() -> None:
    x = torch.randn(40, 5, generator=seeded(3), dtype=torch.float64)
    linear = rademacher_linear(x, 3.0, seeded(4), draws=300)
    kernel = rademacher_kernel(x @ x.T, 3.0, seeded(4), draws=300)
    assert kernel.value == pytest.approx(linear.value, rel=1e-12)
    assert kernel.guaranteed.width == pytest.approx(linear.guaranteed.width, rel=1e-12)


@pytest.mark.parametrize("name", data_sets())
def test_monte_carlo_of_the_l2_ball_lies_between_khintchine_and_jensen(name: str) -> None:
    x = data_sets()[name]
    found = rademacher_linear(x, 1.7, seeded(5), draws=4000)
    jensen = 1.7 * float(x.square().sum().sqrt()) / 60
    assert jensen / math.sqrt(2) - found.interval.width <= found.value <= jensen + 1e-9 * jensen
    if name == "two equal inputs":
        assert found.value == pytest.approx(jensen / math.sqrt(2), rel=0.05)
    if name == "orthogonal":
        assert found.value == pytest.approx(jensen, rel=1e-12)


@pytest.mark.parametrize("confidence", [0.8, 0.95])
def test_both_intervals_cover_as_often_as_they_say(confidence: float) -> None:
    # A skewed class (one member stands out) and the exact value from all 1024 sign vectors.
    values = torch.randn(20, 10, generator=seeded(6), dtype=torch.float64)
    values[0] *= 6
    truth = rademacher_finite(values, seeded(0), draws=1024).value
    generator, repeats = seeded(7), 1500
    hits = {"student": 0, "guaranteed": 0}
    for _ in range(repeats):
        found = rademacher_finite(values, generator, draws=60, confidence=confidence)
        assert not found.exact
        hits["student"] += truth in found.interval
        hits["guaranteed"] += truth in found.guaranteed
    error = math.sqrt(confidence * (1 - confidence) / repeats)
    # 60 draws of a skewed quantity: Student's coverage error is of order 1/60.
    assert abs(hits["student"] / repeats - confidence) < 3 * error + 1 / 60
    assert hits["guaranteed"] / repeats >= confidence


def test_the_guaranteed_interval_covers_for_a_class_of_full_variance() -> None:
    # A single function without shifting it away: every sign moves the draw by as much as the interval allows for.
    sum_of_signs = lambda signs: signs.mean(dim=1)
    generator, repeats = seeded(8), 2000
    hits = sum(
        0.0 in empirical_rademacher(sum_of_signs, torch.ones(30), generator, 20, 0.9).guaranteed
        for _ in range(repeats)
    )
    assert hits / repeats >= 0.9


def test_shifting_a_class_changes_neither_value_nor_error_bar() -> None:
    values = torch.randn(12, 50, generator=seeded(9), dtype=torch.float64)
    shift = 1e4 * torch.randn(50, generator=seeded(10), dtype=torch.float64)
    plain, shifted = (rademacher_finite(v, seeded(11), draws=100) for v in (values, values + shift))
    assert shifted.value == pytest.approx(plain.value, rel=1e-9)
    assert shifted.guaranteed.width == pytest.approx(plain.guaranteed.width, rel=1e-9)
    assert rademacher_finite(1e300 * values[:1], seeded(0), draws=50).value == 0.0


def test_blocks_give_the_same_bits_and_the_global_generator_is_left_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    state = torch.get_rng_state()
    values = torch.randn(40, 31, generator=seeded(12))
    whole = rademacher_finite(values, seeded(13), draws=97)
    again = rademacher_finite(values, seeded(13), draws=97)
    assert whole == again
    monkeypatch.setattr("torchstone.bounds.rademacher._CHUNK", 200)
    assert rademacher_finite(values, seeded(13), draws=97).value == pytest.approx(whole.value, rel=1e-12)
    assert torch.equal(state, torch.get_rng_state())


def test_signs_are_fair_and_independent() -> None:
    signs = random_signs(4000, 6, seeded(14))
    assert set(signs.unique().tolist()) == {-1.0, 1.0}
    moments = (signs.T @ signs) / 4000 - torch.eye(6, dtype=torch.float64)
    assert float(moments.abs().max()) < 4.5 / math.sqrt(4000)
    assert float(signs.mean(0).abs().max()) < 4 / math.sqrt(4000)


def test_bad_inputs_are_refused() -> None:
    x, generator = torch.ones(4, 2), seeded(0)
    with pytest.raises(SettingError, match="draws must be a whole number of at least 2"):
        rademacher_linear(x, 1.0, generator, draws=1)
    with pytest.raises(SettingError, match="radius must be finite and at least 0"):
        rademacher_linear(x, -1.0, generator)
    with pytest.raises(SettingError, match="order of a norm is at least 1"):
        rademacher_linear(x, 1.0, generator, order=0.5)
    with pytest.raises(SettingError, match="number of examples must be a whole number"):
        rademacher_linear(torch.ones(0, 2), 1.0, generator)
    with pytest.raises(SettingError, match=r"needs inputs \(n, \.\.\.\)"):
        rademacher_linear(torch.ones(3), 1.0, generator)
    with pytest.raises(NumericalError, match="finite on the sample"):
        rademacher_linear(torch.full((4, 2), math.nan), 1.0, generator)
    with pytest.raises(SettingError, match="square and symmetric"):
        rademacher_kernel(torch.tensor([[1.0, 2.0], [0.0, 1.0]]), 1.0, generator)
    with pytest.raises(NumericalError, match="positive semi-definite"):
        rademacher_kernel(-torch.eye(3), 1.0, generator)
    with pytest.raises(SettingError, match="at least one of each"):
        rademacher_finite(torch.ones(0, 3), generator)
    with pytest.raises(NumericalError, match="1 of 6 are NaN"):
        rademacher_finite(torch.tensor([[math.inf, 0, 0], [0, 0, 0]]), generator)
    with pytest.raises(SettingError, match="one value a sign vector"):
        empirical_rademacher(lambda signs: signs, torch.ones(3), generator)
    with pytest.raises(SettingError, match="confidence must lie strictly between"):
        rademacher_linear(x, 1.0, generator, confidence=1.0)
