"""Massart, Khintchine, contraction against all sign vectors; the risk bounds' 1 - delta by simulation."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor

from torchstone.bounds.rademacher import rademacher_finite, rademacher_linear
from torchstone.bounds.rademacher_bounds import (
    contraction,
    linear_bracket,
    margin_risk_bound,
    massart,
    massart_bound,
    rademacher_risk_bound,
    vector_contraction,
)
from torchstone.errors import NumericalError, SettingError


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def exact(values: Tensor) -> float:
    found = rademacher_finite(values, seeded(0), draws=2**12)
    assert found.exact
    return found.value


def random_classes() -> list[Tensor]:
    """Sign patterns, real values, heavy tails, few and many members, duplicates, large offsets."""
    generator, made = seeded(1), []
    for size, scale, offset in itertools.product((1, 2, 5, 40, 300), (0.0, 1.0), (0.0, 30.0)):
        values = torch.randn(size, 11, generator=generator, dtype=torch.float64)
        values = values.sign() if scale == 0 else values * values.abs() ** 2
        made.append(torch.cat([values, values[:1]]) + offset)
    return made


def test_massart_is_never_violated() -> None:
    ratios = [exact(values) / massart_bound(values) for values in random_classes() if len(values) > 2]
    assert max(ratios) <= 1
    # Not by a wide margin: for the pair {1, -1} the true value is 1/sqrt(pi ln 2) = 0.68 of the bound for many examples.
    pair = torch.stack([torch.ones(11), -torch.ones(11)])
    assert exact(pair) / massart_bound(pair) > 0.65
    assert massart_bound(torch.randn(1, 5, generator=seeded(2)).repeat(3, 1)) == 0.0


def test_massart_does_not_see_offsets_or_duplicates() -> None:
    values = torch.randn(30, 9, generator=seeded(3), dtype=torch.float64)
    centred = values - values.mean(0)
    moved = torch.cat([values, values]) + 1e3
    assert massart_bound(moved) == pytest.approx(massart_bound(centred), rel=1e-9)
    assert massart(3.0, 20, 50) == pytest.approx(3 * math.sqrt(2 * math.log(20)) / 50, rel=1e-15)


@pytest.mark.parametrize("order", [1, 2, math.inf])
def test_brackets_hold_for_exact_complexities(order: float) -> None:
    generator = seeded(4)
    touched_low = touched_high = False
    for dimensions, power in itertools.product((1, 2, 7), (0, 1, 3)):
        x = torch.randn(11, dimensions, generator=generator, dtype=torch.float64)
        x = x * torch.rand(11, 1, generator=generator, dtype=torch.float64) ** power
        bracket = linear_bracket(x, 2.0, order)
        assert rademacher_linear(x, 2.0, generator, order=order, draws=2**11).value in bracket
    pair = torch.zeros(11, 1, dtype=torch.float64)
    pair[:2] = 1.0
    for x in (pair, pair.cumsum(0).clamp(max=1), torch.eye(11, dtype=torch.float64)):
        bracket, value = (
            linear_bracket(x, 2.0, order),
            rademacher_linear(x, 2.0, generator, order, 2**11).value,
        )
        assert bracket.low * (1 - 1e-12) <= value <= bracket.high * (1 + 1e-12)
        touched_low |= value == pytest.approx(bracket.low, rel=1e-12)
        touched_high |= value == pytest.approx(bracket.high, rel=1e-12)
    assert touched_low  # two equal inputs attain Khintchine's constant
    assert touched_high or order == 1


def test_contraction_holds_with_a_function_per_example() -> None:
    generator = seeded(5)
    for values in random_classes():
        slopes = 3 * torch.rand(11, generator=generator, dtype=torch.float64)
        knots = torch.randn(11, generator=generator, dtype=torch.float64)
        composed = slopes * (values - knots).abs() + knots  # 3-Lipschitz, not zero at zero
        assert exact(composed) <= contraction(exact(values), 3.0) * (1 + 1e-12) + 1e-12
    # An equality for linear functions, so the constant cannot be smaller.
    members = torch.randn(8, 11, generator=generator, dtype=torch.float64)
    assert exact(3 * members) == pytest.approx(contraction(exact(members), 3.0), rel=1e-12)


def test_vector_contraction_by_all_signs() -> None:
    generator = seeded(6)
    for _ in range(20):
        outputs = torch.randn(
            15, 5, 2, generator=generator, dtype=torch.float64
        )  # members, examples, outputs
        shifts = torch.randn(5, 2, generator=generator, dtype=torch.float64)
        losses = (outputs - shifts).norm(dim=2)  # 1-Lipschitz in the Euclidean norm
        right = exact(outputs.flatten(1)) * 10 / 5  # flattening averages over 10 instead of 5
        assert exact(losses) <= vector_contraction(right, 1.0)


def threshold_class(points: int) -> tuple[Tensor, Tensor]:
    """The 0-1 losses of all thresholds (both directions) on a grid of inputs with noisy labels, and the law of cells."""
    grid = torch.arange(points)
    predictions = torch.cat(
        [
            torch.stack([grid >= t for t in range(points + 1)]),
            torch.stack([grid < t for t in range(points + 1)]),
        ]
    )
    # Cells: (input, label); labels are 1 above the middle, flipped with probability 0.2.
    clean = grid >= points // 2
    probability = torch.cat([torch.where(clean, 0.8, 0.2), torch.where(clean, 0.2, 0.8)]).double() / points
    losses = torch.cat([~predictions, predictions], dim=1).double()  # label 1 first, then label 0
    return losses, probability


@pytest.mark.parametrize("delta", [0.05, 0.5])
def test_the_risk_bounds_hold_for_a_share_1_minus_delta_of_samples(delta: float) -> None:
    losses, law = threshold_class(20)
    risks, generator, n, repeats = losses @ law, seeded(7), 60, 300
    violations = {True: 0, False: 0}
    complexities = []
    samples = [torch.multinomial(law, n, replacement=True, generator=generator) for _ in range(repeats)]
    for rows in samples:
        complexities.append(rademacher_finite(losses[:, rows], generator, draws=100).value)
    mean_complexity = sum(complexities) / repeats
    slack = []
    for rows, complexity in zip(samples, complexities, strict=True):
        empirical = losses[:, rows].mean(dim=1)
        for of_sample in (True, False):
            bound = rademacher_risk_bound(
                0.0, complexity if of_sample else mean_complexity, n, delta, of_sample=of_sample
            ).value
            worst = float((risks - empirical).max())
            violations[of_sample] += worst > bound
            slack.append(worst / bound)
    assert violations[True] <= delta * repeats
    assert violations[False] <= delta * repeats
    assert max(slack) > 0.3, "the bound is not so loose that the test is empty"


def test_the_margin_bound_holds_for_all_members_of_a_finite_class() -> None:
    generator, n, theta, delta, repeats = seeded(8), 80, 0.5, 0.1, 200
    members = torch.randn(60, 4, generator=generator, dtype=torch.float64)
    pool = torch.randn(2000, 4, generator=generator, dtype=torch.float64)
    labels = (pool[:, 0] + 0.5 * torch.randn(2000, generator=generator, dtype=torch.float64)).sign()
    outputs = torch.tanh(members @ pool.T)
    errors = (outputs * labels <= 0).double().mean(dim=1)  # the law is uniform on the pool
    violations = 0
    for _ in range(repeats):
        rows = torch.randint(2000, (n,), generator=generator)
        complexity = rademacher_finite(outputs[:, rows], generator, draws=200).value
        bounds = [
            margin_risk_bound(m * labels[rows], complexity, theta, delta).value for m in outputs[:, rows]
        ]
        violations += bool((errors > torch.tensor(bounds, dtype=torch.float64)).any())
    assert violations <= delta * repeats


def test_parts_add_up_and_vacuous_values_are_kept() -> None:
    bound = rademacher_risk_bound(1.0, complexity=4.0, n=2, delta=0.01, largest_loss=2.0)
    assert bound.value == pytest.approx(1 + 8 + 6 * math.sqrt(math.log(200) / 4), rel=1e-14)
    assert bound.vacuous
    ramp = margin_risk_bound(torch.tensor([-1.0, 0.25, 5.0]), 0.1, theta=0.5)
    assert ramp.empirical == pytest.approx(0.5)
    assert ramp.complexity == pytest.approx(0.4)


def test_bad_inputs_are_refused() -> None:
    with pytest.raises(SettingError, match="delta, the probability of failure"):
        rademacher_risk_bound(0.1, 0.1, 10, delta=0.0)
    with pytest.raises(SettingError, match="n must be a whole number of at least 1"):
        rademacher_risk_bound(0.1, 0.1, 0)
    with pytest.raises(SettingError, match=r"losses that lie in \[0, largest_loss\]"):
        rademacher_risk_bound(1.1, 0.1, 10)
    with pytest.raises(SettingError, match="largest_loss must be finite and above 0"):
        rademacher_risk_bound(0.0, 0.1, 10, largest_loss=0.0)
    with pytest.raises(SettingError, match="complexity must be finite and at least 0"):
        rademacher_risk_bound(0.1, math.nan, 10)
    with pytest.raises(SettingError, match="order 1, 2 and infinity"):
        linear_bracket(torch.ones(2, 2), 1.0, order=3)
    with pytest.raises(SettingError, match="at least one input"):
        linear_bracket(torch.ones(0, 2), 1.0)
    with pytest.raises(NumericalError, match="finite inputs"):
        linear_bracket(torch.full((2, 2), math.inf), 1.0)
    with pytest.raises(SettingError, match="theta must be finite and above 0"):
        margin_risk_bound(torch.ones(3), 0.1, theta=0.0)
    with pytest.raises(SettingError, match=r"shape \(n,\)"):
        margin_risk_bound(torch.ones(0), 0.1, theta=1.0)
    with pytest.raises(NumericalError, match="margins that are numbers"):
        margin_risk_bound(torch.tensor([math.nan]), 0.1, theta=1.0)
    with pytest.raises(SettingError, match="lipschitz must be finite"):
        contraction(0.1, math.inf)
    with pytest.raises(SettingError, match="cardinality must be a whole number"):
        massart(1.0, 0, 3)
