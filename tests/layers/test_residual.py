"""Residual blocks: identity at the start, their Jacobian, shortcuts, stochastic depth."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from torchstone.errors import SettingError
from torchstone.init import zero_last
from torchstone.layers.residual import (
    PadShortcut,
    Residual,
    preactivation,
    projection_shortcut,
    residual_branches,
    set_stochastic_depth,
)

F64 = torch.float64


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=F64)


def branch(width: int = 6) -> nn.Module:
    return nn.Sequential(nn.Linear(width, width), nn.Tanh(), nn.Linear(width, width)).double()


def test_a_branch_of_zero_makes_the_identity_exactly() -> None:
    model = nn.Sequential(*(Residual(branch()) for _ in range(5)))
    zero_last(residual_branches(model))
    x = draw(3, 6)
    assert torch.equal(model(x), x)


def test_the_jacobian_is_the_identity_plus_the_branchs() -> None:
    inner, x = branch(), draw(6)
    jacobian = torch.func.jacrev(inner)(x).detach()
    for scale in (1.0, 0.1):
        whole = torch.func.jacrev(lambda x, scale=scale: Residual(inner, scale=scale)(x))(x).detach()
        torch.testing.assert_close(whole, torch.eye(6, dtype=F64) + scale * jacobian, rtol=0, atol=1e-10)
        reach = scale * torch.linalg.matrix_norm(jacobian, 2)
        values = torch.linalg.svdvals(whole)
        assert float(values.max()) <= 1 + float(reach) + 1e-12
        assert float(values.min()) >= 1 - float(reach) - 1e-12


@pytest.mark.parametrize(("inputs", "outputs", "stride"), [(3, 5, 1), (3, 5, 2), (5, 3, 2), (4, 4, 3)])
def test_shortcuts_fit_convolutions(inputs: int, outputs: int, stride: int) -> None:
    convolution = nn.Conv2d(inputs, outputs, 3, stride, 1)
    x = draw(2, inputs, 9, 9).float()
    padded = PadShortcut(inputs, outputs, stride)
    assert not list(padded.parameters())
    for shortcut in (padded, projection_shortcut(inputs, outputs, stride, 2)):
        assert Residual(convolution, shortcut)(x).shape == convolution(x).shape
    kept = padded(x)
    assert torch.equal(kept[:, : min(inputs, outputs)], x[:, : min(inputs, outputs), ::stride, ::stride])
    assert float(kept[:, inputs:].abs().sum()) == 0


def test_nothing_to_change_needs_no_projection() -> None:
    assert isinstance(projection_shortcut(4, 4), nn.Identity)
    assert isinstance(projection_shortcut(4, 5), nn.Linear)
    with pytest.raises(SettingError, match="dimensions must be"):
        projection_shortcut(4, 5, dimensions=4)
    with pytest.raises(SettingError, match=r"one shape; got \(2, 6\) and \(2, 3\)"):
        Residual(nn.Linear(6, 3))(torch.ones(2, 6))


def test_stochastic_depth_keeps_the_expectation_and_drops_whole_examples() -> None:
    block = Residual(nn.Linear(4, 4, dtype=F64), drop=0.3)
    x = draw(1, 4).expand(20_000, 4)
    # Like dropout's, the mask comes from the global generator.
    with torch.random.fork_rng():
        torch.set_rng_state(torch.Generator().manual_seed(0).get_state())
        change = block(x) - x
    kept = change.abs().sum(1) > 0
    assert float(kept.double().mean()) == pytest.approx(0.7, abs=0.02)
    expected = block.branch(x[:1]).expand_as(change)
    torch.testing.assert_close(change[kept], (expected / 0.7)[kept])
    block.eval()
    torch.testing.assert_close(block(x[:2]), x[:2] + block.branch(x[:2]))


def test_drop_rates_grow_with_the_depth() -> None:
    model = nn.Sequential(*(Residual(branch()) for _ in range(4)))
    set_stochastic_depth(model, 0.4)
    assert [block.drop for block in model] == pytest.approx([0.1, 0.2, 0.3, 0.4])
    with pytest.raises(SettingError, match="needs residual blocks"):
        set_stochastic_depth(nn.Linear(2, 2), 0.5)
    for wrong in (1.0, -0.1, float("nan")):
        with pytest.raises(SettingError, match=r"must lie in \[0, 1\)"):
            set_stochastic_depth(model, wrong)
        with pytest.raises(SettingError, match=r"drop must lie in \[0, 1\)"):
            Residual(branch(), drop=wrong)


def test_a_preactivation_branch() -> None:
    made = preactivation(6, [nn.Linear(6, 8), nn.Linear(8, 6)])
    assert [type(part).__name__ for part in made] == ["BatchNorm1d", "ReLU", "Linear"] * 2
    assert made(torch.ones(3, 6)).shape == (3, 6)
    grouped = preactivation(
        4, [nn.ConvTranspose2d(4, 6, 3), nn.Conv2d(6, 4, 3)], lambda channels: nn.GroupNorm(2, channels)
    )
    assert grouped(torch.ones(2, 4, 5, 5)).shape == (2, 4, 5, 5)
    with pytest.raises(SettingError, match="linear or convolutions; got ReLU"):
        preactivation(6, [nn.ReLU()])


def test_wrong_shapes_and_numbers_are_refused() -> None:
    with pytest.raises(SettingError, match=r"takes \(N, 4, \.\.\.\); got shape \(2, 3\)"):
        PadShortcut(4, 5)(torch.ones(2, 3))
    for wrong in ((0, 3, 1), (3, 0, 1), (3, 3, 0)):
        with pytest.raises(SettingError, match="of at least 1"):
            PadShortcut(*wrong)
    with pytest.raises(SettingError, match="scale must be finite"):
        Residual(branch(), scale=float("nan"))
