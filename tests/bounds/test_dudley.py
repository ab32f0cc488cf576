"""Dudley's integral and discrete chaining against exact complexities, Massart's lemma and quadrature."""

from __future__ import annotations

import math

import pytest
import torch
from scipy.integrate import quad
from torch import Tensor

from torchstone.bounds.chaining import chaining_bound
from torchstone.bounds.covering_bounds import ball_log_cover
from torchstone.bounds.dudley import dudley_bound, dudley_of_sample, log_entropy_integral
from torchstone.bounds.rademacher import rademacher_finite, rademacher_linear
from torchstone.bounds.rademacher_bounds import massart_bound
from torchstone.errors import NumericalError, SettingError


def finite_classes() -> list[Tensor]:
    """Ten classes on 12 examples: segments, balls, clusters, signs, sparse vectors, heavy tails, pairs."""
    generator = torch.Generator().manual_seed(1)
    draw = lambda *shape: torch.randn(*shape, generator=generator, dtype=torch.float64)
    direction = draw(12)
    clusters = draw(5, 1, 12) + 0.05 * draw(5, 40, 12)
    thresholds = torch.stack([(torch.arange(12) >= t).double() * 2 - 1 for t in range(13)])
    return [
        torch.linspace(-1, 1, 300, dtype=torch.float64)[:, None] * direction,
        torch.nn.functional.normalize(draw(200, 3)) @ draw(3, 12),
        clusters.flatten(0, 1),
        draw(150, 12).sign(),
        thresholds,
        torch.cat([torch.eye(12), -torch.eye(12)]).double(),
        draw(100, 12) ** 3,
        torch.stack([direction, -direction]),
        draw(60, 12) * 2.0 ** -torch.arange(60)[:, None],
        100 + draw(80, 12),
    ]


def test_dudley_and_chaining_bound_the_complexity_of_ten_finite_classes() -> None:
    classes = finite_classes()
    assert len(classes) == 10
    for values in classes:
        truth = rademacher_finite(values, torch.Generator().manual_seed(0), draws=2**12)
        assert truth.exact
        dudley, massart, chain = dudley_of_sample(values), massart_bound(values), chaining_bound(values)
        assert truth.value <= chain.value <= massart * (1 + 1e-12)
        assert truth.value <= dudley.value
        assert dudley.value / massart <= 12 / math.sqrt(2) * (1 + 1e-12)


def test_many_functions_on_a_segment_cost_no_more_than_a_few() -> None:
    segment = lambda members: torch.linspace(0, 1, members, dtype=torch.float64)[:, None] * torch.ones(64)
    chain = [chaining_bound(segment(m)).value for m in (100, 300, 900)]
    dudley = [dudley_of_sample(segment(m)).value for m in (100, 300, 900)]
    massart = [massart_bound(segment(m)) for m in (100, 300, 900)]
    assert chain[2] < 1.05 * chain[0]
    assert dudley[2] < 1.05 * dudley[0]
    assert massart[2] > 1.15 * massart[0]
    assert chaining_bound(segment(900)).levels[0] < 100


def test_closed_form_of_the_logarithmic_integral() -> None:
    for d, a, b, c in ((1, 0.0, 1.0, 3.0), (7, 0.2, 1.0, 3.0), (2.5, 0.0, 3.0, 3.0), (4, 1e-9, 0.5, 10.0)):
        found = quad(
            lambda e, d=d, c=c: math.sqrt(d * math.log(c / e)), a, b, epsabs=1e-9, epsrel=0, limit=400
        )[0]
        assert log_entropy_integral(d, a, b, c) == pytest.approx(found, abs=1e-8)


def test_the_bound_of_a_formula_is_its_parts_at_the_best_truncation() -> None:
    # With ln N = d ln(3/eps) the truncation 3 exp(-n / 9d) is known, and the integral too.
    for d, n in ((3, 50), (5, 10_000), (40, 90), (100, 400)):
        truncation = min(1.0, 3 * math.exp(-n / (9 * d)))
        closed = 4 * truncation + 12 / math.sqrt(n) * log_entropy_integral(d, truncation, 1.0)
        found = dudley_bound(lambda e, d=d: d * math.log(3 / e), 1.0, n)
        assert found.value == pytest.approx(closed, rel=1e-9)
        assert found.truncation == pytest.approx(truncation, rel=1e-9, abs=1e-150)
        for other in (0.5 * truncation, min(1.0, 1.5 * truncation)):
            if other > 0:
                elsewhere = 4 * other + 12 / math.sqrt(n) * log_entropy_integral(d, other, 1.0)
                assert found.value <= elsewhere * (1 + 1e-9)


def test_an_integral_that_diverges_at_zero_is_cut() -> None:
    # ln N = K^2/eps^2: the truncation is 3K/sqrt(n) and the bound 12 K (1 + ln(sqrt(n) D / 3K)) / sqrt(n).
    k, n = 2.0, 10_000
    found = dudley_bound(lambda e: (k / e) ** 2, 1.0, n)
    assert found.truncation == pytest.approx(3 * k / 100, rel=1e-9)
    assert found.value == pytest.approx(12 * k / 100 * (1 + math.log(100 / (3 * k))), rel=1e-9)


@pytest.mark.parametrize("d", [2, 6, 20])
def test_the_ball_loses_a_constant_only(d: int) -> None:
    n = 4000
    x = torch.linalg.qr(torch.randn(n, d, generator=torch.Generator().manual_seed(d), dtype=torch.float64)).Q
    x = x * math.sqrt(n)  # X'X = n I: the empirical distance is that of the weights
    truth = rademacher_linear(x, 1.0, torch.Generator().manual_seed(0), draws=400).value
    bound = dudley_bound(lambda e: ball_log_cover(d, e), 1.0, n).value
    assert truth == pytest.approx(math.sqrt(d / n), rel=0.15)
    assert truth < bound < 12 * 1.5 * math.sqrt(d / n)


def test_degenerate_classes() -> None:
    assert dudley_of_sample(torch.ones(5, 3)).value == chaining_bound(torch.ones(5, 3)).value == 0
    assert dudley_bound(lambda _: 5.0, 0.0, 10).value == 0
    assert dudley_bound(lambda _: 0.0, 1.0, 10).value == pytest.approx(0, abs=1e-12)
    tiny = dudley_bound(lambda e: 1e9 / e, 2.0, 4)
    assert (tiny.value, tiny.truncation) == (8.0, 2.0)  # too rich to tell anything: 4 D
    pair = chaining_bound(torch.stack([torch.ones(9), -torch.ones(9)]))
    assert pair.value == pytest.approx(math.sqrt(2 * math.log(2) / 9))
    one = chaining_bound(torch.tensor([[1.0], [2.0], [3.0], [4.0], [5.0]]))
    assert one.value == pytest.approx(2.0)  # on one example stopping at the centre is best
    assert (one.levels, one.remainder) == ((), pytest.approx(2.0))


def test_bad_inputs_are_refused() -> None:
    with pytest.raises(SettingError, match="diameter must be finite"):
        dudley_bound(lambda _: 1.0, -1.0, 10)
    with pytest.raises(NumericalError, match="logarithms of covering numbers, at least 0"):
        dudley_bound(lambda _: math.nan, 1.0, 10)
    with pytest.raises(SettingError, match="n must be"):
        dudley_bound(lambda _: 1.0, 1.0, 0)
    with pytest.raises(SettingError, match="end must be finite and at least 1"):
        log_entropy_integral(1, 1.0, 0.5)
    with pytest.raises(SettingError, match="scale must be finite and at least 5"):
        log_entropy_integral(1, 1.0, 5.0)
    with pytest.raises(SettingError, match="at least one of each"):
        dudley_of_sample(torch.ones(0, 2))
    with pytest.raises(NumericalError, match="finite values"):
        chaining_bound(torch.tensor([[math.inf]]))
    with pytest.raises(SettingError, match="scales must be"):
        chaining_bound(torch.eye(2), scales=0)
