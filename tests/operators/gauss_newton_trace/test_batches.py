"""Neither batches, memory, noise nor precision change a trace, and measuring it leaves nothing behind."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from torchstone import Specimen
from torchstone.objectives import Classification
from torchstone.operators import gauss_newton_trace

Check = Callable[..., None]


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=generator(seed), dtype=torch.float64)


def convolution() -> nn.Module:
    layers = (nn.Conv2d(2, 3, 3, padding=1), nn.ReLU(inplace=True), nn.Conv2d(3, 2, 3))
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(18, 3))


def normalised() -> nn.Module:
    layers = (nn.Conv2d(1, 3, 2), nn.BatchNorm2d(3), nn.ReLU(), nn.Flatten())
    return nn.Sequential(*layers, nn.Linear(27, 3), nn.BatchNorm1d(3))


@pytest.mark.parametrize("memory_bytes", [1, 4000, 20_000])
def test_small_memory_cuts_batches_and_changes_nothing(memory_bytes: int, check: Check, written: Any) -> None:
    check(convolution(), (2, 5, 5), memory_bytes=memory_bytes)
    bilinear = written(lambda m, x: m.inner[0](x, x), nn.Bilinear(4, 4, 3))
    check(bilinear, (4,), formed=("inner.0.weight",), memory_bytes=memory_bytes)


def test_frozen_noise_is_the_same_however_little_memory_there_is(randomised: Any) -> None:
    model = randomised(nn.Sequential(nn.Linear(4, 20), nn.Dropout(0.5), nn.Linear(20, 3))).train()
    data = (randn(8, 4), torch.randint(3, (8,), generator=generator(1)))
    specimen = Specimen(model, Classification(), data, mode="as_is", freeze_noise=True)
    large, small = (
        gauss_newton_trace(specimen, memory_bytes=memory_bytes, generator=generator(2))
        for memory_bytes in (2**28, 1)
    )
    for name, values in large.by_example.items():
        torch.testing.assert_close(small.by_example[name], values, rtol=1e-12, atol=0)


def test_the_mean_is_over_examples_whatever_the_batches(check: Check) -> None:
    for batch_size in (1, 100):
        model = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3, bias=False))
        check(model, (4,), batch_size=batch_size)


def test_float32_and_bfloat16_are_close(randomised: Any) -> None:
    model = randomised(normalised())
    data = (randn(6, 1, 4, 4, seed=77), torch.randint(3, (6,), generator=generator(1)))
    exact = gauss_newton_trace(Specimen(model, Classification(), data), generator=generator(2))
    for dtype, tolerance in ((torch.float32, 1e-5), (torch.bfloat16, 0.1)):
        low = gauss_newton_trace(Specimen(model.to(dtype), Classification(), data), generator=generator(2))
        for name in exact.by_example:
            assert low.value(name) == pytest.approx(exact.value(name), rel=tolerance)


def test_no_hook_remains_and_nothing_changes(randomised: Any) -> None:
    model = randomised(normalised())
    data = (randn(6, 1, 4, 4), torch.randint(3, (6,), generator=generator(1)))
    state = {name: value.clone() for name, value in model.state_dict().items()}
    rng = torch.random.get_rng_state()
    gauss_newton_trace(Specimen(model, Classification(), data), generator=generator(2))
    assert all(torch.equal(state[name], value) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert all(not module._forward_hooks and not module._backward_hooks for module in model.modules())
    assert torch.equal(rng, torch.random.get_rng_state())
