"""Weight normalisation: its start on data, the geometry of its gradient, and mean-only batch normalisation."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

from torchstone.errors import NumericalError, SettingError
from torchstone.layers.normalisation import MeanOnlyBatchNorm, weight_norm_data_init

F64 = torch.float64


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=F64)


def normed(layer: nn.Module, **options: Any) -> Any:
    return weight_norm(layer.double(), **options)


def network() -> nn.Sequential:
    return nn.Sequential(
        normed(nn.Conv2d(2, 5, 3, padding=1)),
        nn.ReLU(),
        normed(nn.Conv2d(5, 6, 3, stride=2, groups=1)),
        nn.Tanh(),
        nn.Flatten(),
        normed(nn.Linear(6 * 9, 7)),
        nn.ReLU(),
        normed(nn.Linear(7, 4)),
    )


def test_every_unit_starts_with_mean_zero_and_variance_one_on_the_batch() -> None:
    model, x = network(), 3 + 5 * draw(40, 2, 8, 8)
    directions = [p.detach().clone() for n, p in model.named_parameters() if n.endswith("original1")]
    assert weight_norm_data_init(model, x) == ["0", "2", "5", "7"]
    kept = [p for n, p in model.named_parameters() if n.endswith("original1")]
    assert all(torch.equal(one, other) for one, other in zip(directions, kept, strict=True))
    with torch.no_grad():
        for module in model:
            x = module(x)
            if isinstance(module, nn.Linear | nn.Conv2d):
                rows = x.transpose(0, 1).flatten(1)
                torch.testing.assert_close(
                    rows.mean(1), torch.zeros(len(rows), dtype=F64), rtol=0, atol=1e-10
                )
                torch.testing.assert_close(rows.var(1, unbiased=False), torch.ones(len(rows), dtype=F64))


def test_the_start_is_the_papers_formula_whatever_g_and_b_were() -> None:
    layer = normed(nn.Linear(3, 4))
    x = draw(50, 3)
    v = layer.parametrizations.weight.original1.detach()
    t = x @ (v / v.norm(dim=1, keepdim=True)).T
    for g in (1.0, -2.5):
        with torch.no_grad():
            layer.parametrizations.weight.original0.fill_(g)
            layer.bias.copy_(draw(4, seed=3))
        weight_norm_data_init(layer, x)
        sign = 1 if g > 0 else -1
        found = layer.parametrizations.weight.original0.detach().flatten()
        torch.testing.assert_close(found, sign / t.std(0, unbiased=False))
        torch.testing.assert_close(layer.bias.detach(), -sign * t.mean(0) / t.std(0, unbiased=False))


def test_a_layer_that_runs_twice_is_set_by_its_first_run_and_buffers_and_randomness_are_kept() -> None:
    layer = normed(nn.Linear(4, 4))
    norm = nn.BatchNorm1d(4).double()
    model = nn.Sequential(layer, norm, nn.Dropout(), layer)
    state, random = norm.running_mean, torch.get_rng_state()
    before = state.clone() if state is not None else None
    assert weight_norm_data_init(model, draw(30, 4)) == ["0"]
    out = layer(draw(30, 4)).detach()
    torch.testing.assert_close(out.var(0, unbiased=False), torch.ones(4, dtype=F64))
    assert before is not None
    assert norm.running_mean is not None
    assert torch.equal(norm.running_mean, before)
    assert torch.equal(torch.get_rng_state(), random)
    assert not layer._forward_hooks


def test_sequences_and_other_types() -> None:
    layer = weight_norm(nn.Linear(4, 3))
    weight_norm_data_init(layer, draw(6, 9, 4).float())
    rows = layer(draw(6, 9, 4).float()).detach().reshape(-1, 3)
    torch.testing.assert_close(rows.mean(0), torch.zeros(3), atol=1e-5, rtol=0)
    assert layer.bias.dtype == torch.float32


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (nn.Linear(3, 2, dtype=F64), "must run layers with"),
        (normed(nn.Linear(3, 2, bias=False)), "needs a bias.*a layer with no bias"),
        (normed(nn.Linear(3, 2), dim=1), "with a bias, dim=1"),
        (normed(nn.Linear(3, 2), dim=None), "with a bias, dim=-1"),
    ],
)
def test_what_has_no_unit_to_set_is_refused_in_words(model: nn.Module, message: str) -> None:
    with pytest.raises(SettingError, match=message):
        weight_norm_data_init(model, draw(5, 3))


def test_units_that_do_not_vary_are_named() -> None:
    with pytest.raises(NumericalError, match=r"Every unit of the layer must vary"):
        weight_norm_data_init(normed(nn.Linear(3, 2)), torch.full((5, 3), 0.1, dtype=F64))


def test_torchs_parametrisation_is_g_v_over_its_norm_and_its_gradient_is_orthogonal_to_v() -> None:
    layer = normed(nn.Conv2d(3, 5, 3))
    weight = layer.parametrizations.weight
    g, v = weight.original0, weight.original1
    expected = g * v / v.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
    torch.testing.assert_close(layer.weight, expected, rtol=1e-7, atol=1e-7)
    loss = (layer(draw(4, 3, 6, 6)).sin() * draw(4, 5, 4, 4, seed=1)).sum()
    [gradient] = torch.autograd.grad(loss, v)
    assert float((v * gradient).flatten(1).sum(1).abs().max().detach()) < 1e-10
    assert float(gradient.norm()) > 0.1


def test_gradient_descent_never_makes_v_shorter() -> None:
    layer, x, y = normed(nn.Linear(6, 4)), draw(30, 6), draw(30, 4, seed=1)
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.3)
    v = layer.parametrizations.weight.original1
    norms = [v.detach().norm(dim=1)]
    for _ in range(200):
        optimizer.zero_grad()
        (layer(x) - y).square().mean().backward()
        optimizer.step()
        norms.append(v.detach().norm(dim=1))
    assert bool((torch.stack(norms).diff(dim=0) >= -1e-15).all())
    assert float((norms[-1] - norms[0]).max()) > 1e-4


def test_mean_only_batch_norm_centres_and_loses_the_mean_gradient() -> None:
    layer = MeanOnlyBatchNorm(3, momentum=0.5).double()
    x = (2 + draw(8, 3, 5)).requires_grad_(True)
    y = layer(x)
    torch.testing.assert_close(y, x - x.mean((0, 2), keepdim=True))
    [gradient] = torch.autograd.grad((y * draw(8, 3, 5, seed=1)).sum(), x)
    torch.testing.assert_close(gradient.sum((0, 2)), torch.zeros(3, dtype=F64), rtol=0, atol=1e-12)
    torch.testing.assert_close(layer.running_mean, 0.5 * x.detach().mean((0, 2)))
    layer.eval()
    z = draw(2, 3, seed=5)
    torch.testing.assert_close(layer(z).detach(), z - layer.running_mean)
    assert torch.equal(MeanOnlyBatchNorm(3, affine=False).eval()(z.float()), z.float())


def test_mean_only_settings_are_named() -> None:
    for wrong in ((0, 0.1), (3, 0.0), (3, 1.5), (3, float("nan"))):
        with pytest.raises(SettingError, match="features >= 1 and 0 < momentum <= 1"):
            MeanOnlyBatchNorm(*wrong)
    with pytest.raises(SettingError, match=r"takes \(N, 3, \.\.\.\); got shape \(2, 4\)"):
        MeanOnlyBatchNorm(3)(torch.ones(2, 4))
