"""Batch normalisation's reference, batch renormalisation and stepwise statistics."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from torchstone.errors import SettingError
from torchstone.layers.normalisation import (
    BatchRenorm,
    StepwiseBatchNorm,
    batch_norm,
    batch_norm_backward,
    limits_at,
    squared_gradient_norm,
)

F64 = torch.float64


def draw(*shape: int, seed: int = 0, dtype: torch.dtype = F64) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def test_the_reference_is_torchs_batch_norm_in_both_modes_and_for_images() -> None:
    layer = nn.BatchNorm2d(5, dtype=F64)
    with torch.no_grad():
        layer.weight.copy_(draw(5, seed=1))
        layer.bias.copy_(draw(5, seed=2))
    x = 3 + 2 * draw(4, 5, 6, 7)
    rows = x.movedim(1, -1).reshape(-1, 5)
    found = batch_norm(rows, layer.weight.detach(), layer.bias.detach())
    expected = layer(x).detach().movedim(1, -1).reshape(-1, 5)
    torch.testing.assert_close(found.output, expected, rtol=1e-10, atol=1e-10)
    running = torch.lerp(torch.zeros(5, dtype=F64), found.mean, 0.1)
    torch.testing.assert_close(layer.running_mean, running)
    unbiased = found.variance * len(rows) / (len(rows) - 1)
    torch.testing.assert_close(layer.running_var, torch.lerp(torch.ones(5, dtype=F64), unbiased, 0.1))


def test_the_closed_backward_pass_is_autograds() -> None:
    x, scale, shift = (
        draw(9, 4).requires_grad_(True),
        draw(4, seed=1).requires_grad_(True),
        draw(4, seed=2).requires_grad_(True),
    )
    gradient = draw(9, 4, seed=3)
    forward = batch_norm(x, scale, shift)
    expected = torch.autograd.grad(forward.output, (x, scale, shift), gradient)
    detached = batch_norm(x.detach(), scale.detach(), shift.detach())
    torch.testing.assert_close(batch_norm_backward(detached, gradient), expected, rtol=1e-8, atol=1e-12)


def test_the_gradient_norm_identity_is_exact() -> None:
    x, gradient = draw(50, 6), draw(50, 6, seed=1)
    forward = batch_norm(x, draw(6, seed=2), draw(6, seed=3), eps=0.0)
    actual = batch_norm_backward(forward, gradient)[0].square().sum(0)
    torch.testing.assert_close(squared_gradient_norm(forward, gradient), actual, rtol=1e-10, atol=0)


def test_a_batch_of_two_scalars_becomes_plus_and_minus_one() -> None:
    found = batch_norm(torch.tensor([[3.0], [17.0]], dtype=F64), torch.ones(1), torch.zeros(1), eps=0.0)
    assert found.output.flatten().tolist() == [-1.0, 1.0]


def renorm(**options: Any) -> BatchRenorm:
    layer = BatchRenorm(5, **options).double()
    layer.running_mean.copy_(draw(5, seed=4))
    layer.running_deviation.copy_(0.5 + draw(5, seed=5).abs())
    return layer


def test_without_clipping_training_computes_what_evaluation_does() -> None:
    layer = renorm(r_max=1e9, d_max=1e9)
    x = 3 + 2 * draw(8, 5, 3)
    expected = copy.deepcopy(layer).eval()(x)
    torch.testing.assert_close(layer.train()(x), expected, rtol=1e-6, atol=1e-6)


def test_with_limits_of_one_and_zero_it_is_batch_normalisation() -> None:
    x = 3 + 2 * draw(8, 5, 3, 4)
    torch.testing.assert_close(
        renorm(r_max=1.0, d_max=0.0)(x), nn.BatchNorm2d(5, dtype=F64)(x), rtol=1e-10, atol=1e-10
    )


def test_no_gradient_flows_through_the_corrections() -> None:
    layer = renorm(r_max=1e9, d_max=1e9)
    x = (3 + 2 * draw(8, 5)).requires_grad_(True)
    (found,) = torch.autograd.grad(layer(x).square().sum(), x)
    again = renorm(r_max=1e9, d_max=1e9)
    mean, deviation = x.mean(0), (x.var(0, unbiased=False) + again.eps).sqrt()
    r = (deviation / again.running_deviation).detach()
    d = ((mean - again.running_mean) / again.running_deviation).detach()
    (expected,) = torch.autograd.grad((((x - mean) / deviation) * r + d).square().sum(), x)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)


def test_running_statistics_approach_those_of_the_data() -> None:
    layer = BatchRenorm(3, momentum=0.05).double()
    for step in range(400):
        layer(2 + 3 * draw(32, 3, seed=step))
    torch.testing.assert_close(layer.running_mean, torch.full((3,), 2.0, dtype=F64), rtol=0.15, atol=0)
    torch.testing.assert_close(layer.running_deviation, torch.full((3,), 3.0, dtype=F64), rtol=0.1, atol=0)
    assert int(layer.batches) == 400


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float16])
def test_half_precision_and_state_dicts(kind: torch.dtype) -> None:
    layer = BatchRenorm(4)
    x = draw(16, 4, dtype=torch.float32)
    assert layer(x.to(kind)).dtype == kind
    other = BatchRenorm(4)
    other.load_state_dict(layer.state_dict())
    assert torch.equal(other.eval()(x), layer.eval()(x))
    assert set(layer.state_dict()) == {"weight", "bias", "running_mean", "running_deviation", "batches"}


def test_wrong_uses_of_batch_renormalisation_are_refused() -> None:
    wrong: tuple[dict[str, Any], ...] = (
        {"r_max": 0.5},
        {"d_max": -1.0},
        {"momentum": 0.0},
        {"r_max": float("nan")},
    )
    for options in wrong:
        with pytest.raises(SettingError, match="BatchRenorm needs"):
            BatchRenorm(3, **options)
    with pytest.raises(SettingError, match=r"takes \(N, 3, ...\); got shape \(4, 2\)"):
        BatchRenorm(3)(torch.ones(4, 2))
    with pytest.raises(SettingError, match="at least two numbers a channel"):
        BatchRenorm(3)(torch.ones(1, 3))


def test_the_schedule_of_limits() -> None:
    assert limits_at(5_000) == (1.0, 0.0)
    assert limits_at(15_000) == pytest.approx((1 + 2 * 10 / 35, 2.5))
    assert limits_at(40_000) == (3.0, 5.0)


def test_stepwise_statistics_belong_to_their_step() -> None:
    layer = StepwiseBatchNorm(4, steps=3, momentum=1.0).double()
    for step in range(5):
        layer(step + draw(50, 4, seed=step), step)
    means = layer.running_mean.mean(1)
    torch.testing.assert_close(
        means, torch.tensor([0.0, 1.0, 4.0], dtype=F64), atol=0.2, rtol=0
    )  # the last serves 2, 3, 4
    layer.eval()
    x = draw(6, 4, seed=9)
    plain = nn.BatchNorm1d(4, dtype=F64).eval()
    plain.running_mean, plain.running_var = layer.running_mean[1], layer.running_variance[1]
    torch.testing.assert_close(layer(x, 1), 0.1 * plain(x))
    torch.testing.assert_close(layer(x, 7), layer(x, 2))
    for wrong in ((torch.ones(2, 3), 0), (torch.ones(2, 4), -1)):
        with pytest.raises(SettingError, match="a step of at least 0"):
            layer(*wrong)
    with pytest.raises(SettingError, match="steps >= 1"):
        StepwiseBatchNorm(4, 0)
    with pytest.raises(SettingError, match="at least two examples; got 1"):
        StepwiseBatchNorm(4, 2)(torch.ones(1, 4), 0)
