"""Every normalisation of ours under torch.compile and autocast, and through a state dict."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from torchstone.layers.normalisation import (
    BatchRenorm,
    Deconv2d,
    MeanOnlyBatchNorm,
    StepwiseBatchNorm,
    exact_spectral_norm,
    layer_blocks,
    partition_normalise,
    window_normalise,
)


def draw(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


class Step(StepwiseBatchNorm):
    """One time step."""

    def forward(self, x: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        return super().forward(x, 2)


class Function(nn.Module):
    """A function as a module, behind a weight."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function, self.scale = function, nn.Parameter(torch.tensor(1.5))

    def forward(self, x: Tensor) -> Tensor:
        return self.function(self.scale * x)


CASES: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "batch renormalisation": (lambda: BatchRenorm(3), (8, 3, 5)),
    "mean only": (lambda: MeanOnlyBatchNorm(3), (8, 3)),
    "a step": (lambda: Step(3, 4), (8, 3)),
    "deconvolution": (lambda: Deconv2d(3, 4, 3, padding=1, block=2), (4, 3, 7, 7)),
    "spectral": (lambda: exact_spectral_norm(nn.Conv2d(3, 4, 3, padding=1), (6, 6)), (2, 3, 6, 6)),
    "partition": (lambda: Function(lambda x: partition_normalise(x, layer_blocks((4, 6)))), (4, 6)),
    "window": (lambda: Function(lambda x: window_normalise(x, 3)), (4, 6)),
}


def gradients(model: nn.Module, output: Tensor) -> list[Tensor]:
    weight = torch.linspace(-1, 1, output.numel()).view_as(output)
    return list(torch.autograd.grad((weight * output).sum(), list(model.parameters()), allow_unused=True))


@pytest.mark.parametrize("name", CASES)
def test_compiled_without_a_break_it_computes_the_same(name: str) -> None:
    make, shape = CASES[name]
    model, x = make(), draw(*shape)
    other = copy.deepcopy(model)
    compiled = torch.compile(other, fullgraph=True, backend="eager")
    for _ in range(2):  # statistics are updated in between
        torch.testing.assert_close(compiled(x), model(x))
    torch.testing.assert_close(gradients(other, compiled(x)), gradients(model, model(x)))
    torch.testing.assert_close(dict(other.state_dict()), dict(model.state_dict()))


@pytest.mark.parametrize("name", CASES)
def test_autocast_rounds_the_outputs_only(name: str) -> None:
    """bfloat16 has a relative spacing of 2^-8: products of rounded numbers stay within a few of them of the exact output."""
    make, shape = CASES[name]
    model, x = make(), draw(*shape) + 1
    other = copy.deepcopy(model)
    with torch.autocast("cpu", torch.bfloat16):
        rounded = model(x)
    exact = other(x).detach()
    assert float((rounded.detach().float() - exact).norm() / exact.norm()) < 0.02
    assert all(bool(one.isfinite().all()) for one in gradients(model, rounded.float()))
    torch.testing.assert_close(
        dict(model.state_dict()), dict(other.state_dict())
    )  # statistics have all their digits


@pytest.mark.parametrize("name", list(CASES)[:5])
def test_a_state_dict_restores_evaluation_bit_for_bit(name: str) -> None:
    make, shape = CASES[name]
    model, other, x = make(), make(), draw(*shape)
    model(x + 2)
    other.load_state_dict(model.state_dict())
    assert torch.equal(other.eval()(x), model.eval()(x))
