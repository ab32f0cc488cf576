"""Measures of memorisation against slow formulas and known cases."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from torchstone.errors import SettingError
from torchstone.specimens.networks import mlp
from torchstone.training.ensemble import Ensemble
from torchstone.training.evaluation import cross_entropy, squared_error
from torchstone.training.patterns_and_noise import (
    corrupt_inputs,
    corrupt_labels,
    easy_example_variance,
    effective_capacity,
    epochs_to_fit,
    gini,
    loss_sensitivity,
)


@pytest.mark.parametrize("count", [1, 2, 7, 1000])
def test_gini_of_equal_values_is_0_and_of_a_single_one_is_n_minus_1_over_n(count: int) -> None:
    assert float(gini(torch.full((count,), 0.3))) == pytest.approx(0, abs=1e-12)
    single = torch.zeros(count)
    single[count // 2] = 5
    assert float(gini(single)) == pytest.approx((count - 1) / count, abs=1e-12)


@given(
    st.lists(st.floats(0, 100), min_size=1, max_size=12).filter(lambda v: sum(v) > 1e-3), st.floats(0.1, 10)
)
def test_gini_is_the_mean_difference_and_has_no_scale(values: list[float], scale: float) -> None:
    n, total = len(values), sum(values)
    slow = sum(abs(a - b) for a in values for b in values) / (2 * n * total)
    v = torch.tensor(values, dtype=torch.float64)
    assert float(gini(v)) == pytest.approx(slow, abs=1e-9)
    assert float(gini(scale * v)) == pytest.approx(slow, abs=1e-9)


def test_gini_by_rows_and_of_nothing() -> None:
    assert gini(torch.tensor([[1.0, 1.0], [0.0, 2.0]])).tolist() == [0.0, 0.5]
    assert math.isnan(float(gini(torch.zeros(3))))


@pytest.mark.parametrize("values", [[], [-1.0, 2.0], [math.nan], [math.inf]])
def test_values_that_have_no_gini(values: list[float]) -> None:
    with pytest.raises(SettingError, match="not negative"):
        gini(torch.tensor(values))


def test_corrupted_labels() -> None:
    labels = torch.arange(5000) % 10
    draw = lambda share: corrupt_labels(labels, share, 10, torch.Generator().manual_seed(0))
    assert torch.equal(draw(0.0), labels)
    changed = float((draw(0.4) != labels).double().mean())
    assert changed == pytest.approx(0.4 * 0.9, abs=4 * (0.36 * 0.64 / 5000) ** 0.5)
    counts = draw(1.0).bincount(minlength=10)
    assert float((counts - 500).square().sum() / 500) < 27.9  # chi-squared with 9 degrees of freedom, 0.1%


def test_corrupted_inputs() -> None:
    generator = torch.Generator().manual_seed(0)
    x = 3 + 2 * torch.randn(400, 1, 8, 8, generator=generator)
    found = corrupt_inputs(x, 0.25, generator)
    changed = (found != x).flatten(1).any(1)
    assert int(changed.sum()) == 100
    noise = found[changed]
    assert float(noise.mean()) == pytest.approx(float(x.mean()), abs=0.1)
    assert float(noise.std()) == pytest.approx(float(x.std()), rel=0.05)
    assert torch.equal(corrupt_inputs(x, 0.0, generator), x)


@pytest.mark.parametrize("share", [-0.1, 1.1, math.nan])
def test_shares_out_of_range(share: float) -> None:
    with pytest.raises(SettingError, match="share to corrupt"):
        corrupt_labels(torch.zeros(3, dtype=torch.long), share, 2, torch.Generator())
    with pytest.raises(SettingError, match="share to corrupt"):
        corrupt_inputs(torch.zeros(3, 2), share, torch.Generator())


def test_epochs_to_fit() -> None:
    errors = torch.tensor([[0.5, 0.01, 0.2, 0.0], [0.0, 1.0, 1.0, 1.0], [0.5, 0.4, 0.3, 0.02]])
    assert epochs_to_fit(errors).tolist() == [2.0, 1.0, math.inf]


def test_variance_of_easiness_has_no_bias() -> None:
    """Examples of known probabilities: the mean over many draws is their variance, few trainings or not."""
    generator = torch.Generator().manual_seed(0)
    for probabilities in (torch.full((50,), 0.3), torch.linspace(0, 1, 50), torch.tensor([0.0, 1.0] * 25)):
        for trainings in (2, 10):
            draws = torch.tensor(
                [
                    easy_example_variance(torch.rand(trainings, 50, generator=generator) < probabilities)
                    for _ in range(400)
                ]
            )
            error = float(draws.std()) / 20
            assert float(draws.mean()) == pytest.approx(float(probabilities.var()), abs=4 * error + 1e-7)


@pytest.mark.parametrize("shape", [(1, 5), (5, 1), (5,)])
def test_too_few_trainings_or_examples(shape: tuple[int, ...]) -> None:
    with pytest.raises(SettingError, match="two trainings and two examples"):
        easy_example_variance(torch.ones(shape))


def test_loss_sensitivity_by_hand_and_by_differences() -> None:
    linear = nn.Linear(2, 1, bias=False).double()
    with torch.no_grad():
        linear.weight.copy_(torch.tensor([[2.0, -1.0]]))
    x = torch.tensor([[1.0, 1.0], [0.0, 3.0]], dtype=torch.float64)
    y = torch.tensor([[0.0], [1.0]], dtype=torch.float64)
    # l = (w x - y)^2, so that |dl/dx| = 2 |w x - y| |w|: residuals 1 and -4, mean |w| of 1.5.
    found = loss_sensitivity(squared_error, Ensemble.of([linear]), x, y)
    assert found.tolist() == [[3.0, 12.0]]

    generator = torch.Generator().manual_seed(0)
    models = [mlp([3, 8, 4], nn.Tanh, generator=generator).double() for _ in range(2)]
    x, y = (
        torch.randn(5, 3, generator=generator, dtype=torch.float64),
        torch.tensor([0, 1, 2, 3, 0]),
    )
    found = loss_sensitivity(cross_entropy, Ensemble.of(models), x, y)
    for k, model in enumerate(models):
        slopes = []
        for j in range(3):
            step = torch.zeros(3, dtype=torch.float64)
            step[j] = 1e-6
            slopes.append((cross_entropy(model, x + step, y) - cross_entropy(model, x - step, y)) / 2e-6)
        assert torch.allclose(found[k], torch.stack(slopes).abs().mean(0), rtol=1e-6)
    assert all(p.grad is None for model in models for p in model.parameters())


def test_effective_capacity() -> None:
    fitted = torch.tensor([[True, True, False, True], [False, True, True, True], [True, True, True, True]])
    assert effective_capacity(fitted, torch.tensor([10, 20, 40, 80])).tolist() == [20, 0, 80]
