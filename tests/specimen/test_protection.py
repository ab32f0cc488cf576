"""Whatever happens inside, the model and the process come out as they went in."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from torchstone.specimen import protect
from torchstone.testing import model_state, same_state


def network() -> nn.Sequential:
    model = nn.Sequential(
        nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Dropout(), nn.Flatten(), nn.Linear(32, 3)
    ).train()
    model[2].eval()
    model[0].weight.requires_grad_(False)
    model[4].weight.grad = torch.randn(3, 32, generator=torch.Generator().manual_seed(0))
    model[4].register_forward_hook(lambda *_: None)
    return model


def damage_parameters(model: nn.Sequential) -> None:
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1)
            parameter.data.mul_(2)


def damage_nan(model: nn.Sequential) -> None:
    with torch.no_grad():
        next(model.parameters()).fill_(float("nan"))


def damage_buffers(model: nn.Sequential) -> None:
    model(torch.ones(4, 1, 6, 6))


def damage_modes(model: nn.Sequential) -> None:
    model.eval()
    model[2].train()


def damage_gradients(model: nn.Sequential) -> None:
    model(torch.ones(4, 1, 6, 6)).sum().backward()
    model.zero_grad()


def damage_requires_grad(model: nn.Sequential) -> None:
    for parameter in model.parameters():
        parameter.requires_grad_(not parameter.requires_grad)


def damage_hooks(model: nn.Sequential) -> None:
    for module in model.modules():
        module.register_forward_hook(lambda *_: None)
        module.register_forward_pre_hook(lambda *_: None)
        module.register_full_backward_hook(lambda *_: None)
    model[4]._forward_hooks.clear()


def damage_registries(model: nn.Sequential) -> None:
    model.register_parameter("extra", nn.Parameter(torch.zeros(1)))
    model.register_buffer("more", torch.zeros(1))
    model[4].weight = nn.Parameter(torch.zeros(3, 32))
    model.add_module("new", nn.Linear(1, 1))


def damage_random(model: nn.Sequential) -> None:
    torch.rand(3)
    random.random()
    np.random.random()  # noqa: NPY002


def damage_types(model: nn.Sequential) -> None:
    model.double()
    for parameter in model.parameters():
        parameter.data = torch.zeros(7, dtype=torch.float16)


def damage_children(model: nn.Sequential) -> None:
    del model[3]
    model[0] = nn.Identity()


DAMAGES = [
    damage_parameters, damage_types, damage_children, damage_nan, damage_buffers, damage_modes, damage_gradients, damage_requires_grad, damage_hooks,
    damage_registries, damage_random,
]  # fmt: skip


@pytest.mark.parametrize("raises", [False, True])
@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
def test_everything_is_restored(damage: Callable[[nn.Sequential], None], raises: bool) -> None:
    model = network()
    before, identities = model_state(model), [id(parameter) for parameter in model.parameters()]

    def measure() -> None:
        with protect(model):
            damage(model)
            if raises:
                raise KeyboardInterrupt

    if raises:
        with pytest.raises(KeyboardInterrupt):
            measure()
    else:
        measure()
    assert same_state(before, model_state(model))
    assert identities == [id(parameter) for parameter in model.parameters()]
    assert list(dict(model.named_children())) == ["0", "1", "2", "3", "4"]
    assert [len(module._backward_hooks) for module in model.modules()] == [0] * 6


def test_gradients_are_out_of_reach_inside() -> None:
    model = network()
    kept = model[4].weight.grad
    with protect(model):
        assert model[4].weight.grad is None
        model(torch.ones(4, 1, 6, 6)).sum().backward()
    assert model[4].weight.grad is kept


def test_nested_blocks_restore_at_the_outermost() -> None:
    model = network()
    before = model_state(model)
    with protect(model):
        with protect(model):
            damage_parameters(model)
        assert not same_state(before, model_state(model))
    assert same_state(before, model_state(model))


def test_tied_weights_stay_tied() -> None:
    first, second = nn.Linear(3, 3), nn.Linear(3, 3)
    second.weight = first.weight
    model = nn.Sequential(first, second)
    with protect(model):
        damage_parameters(model)
    assert model[0].weight is model[1].weight


def test_weights_stay_in_their_storage() -> None:
    """Optimizers' flat buffers, shared memory and views of a parameter go on seeing it."""
    model: Any = network()
    weight, view = model[4].weight, model[4].weight.detach()[0]
    before, place = view.clone(), weight.data_ptr()
    with protect(model):
        damage_parameters(model)
        damage_types(model)
    assert weight.data_ptr() == place
    weight.data[0, 0] = 7.0
    assert torch.equal(view[1:], before[1:])
    assert view[0] == 7


def test_a_graph_of_the_users_stays_differentiable() -> None:
    model = nn.Linear(3, 1)
    loss = (model(torch.ones(2, 3)) ** 2).sum()
    with protect(model):
        with torch.no_grad():
            model.weight.data.mul_(2)
        model(torch.ones(2, 3)).sum().backward()
    loss.backward()  # "modified by an inplace operation" otherwise
    assert model.weight.grad is not None


def test_hooks_that_change_gradients_sleep_inside() -> None:
    """Clipped or masked gradients are for training; what is measured is the gradient of the loss."""
    model = nn.Linear(3, 1)
    handle = model.weight.register_hook(lambda gradient: 2 * gradient)
    seen: list[float] = []
    for guarded in (False, True, False):
        with protect(model) if guarded else contextlib.nullcontext():
            (gradient,) = torch.autograd.grad(model(torch.ones(1, 3)).sum(), model.weight)
            seen.append(float(gradient[0, 0]))
            if guarded:
                model.bias.register_hook(lambda gradient: 3 * gradient)  # gone afterwards
    assert seen == [2.0, 1.0, 2.0]
    assert not model.bias._backward_hooks
    handle.remove()
    assert not model.weight._backward_hooks


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
def test_scripted_and_compiled_networks() -> None:
    scripted: Any = torch.jit.script(nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2)))
    compiled: Any = torch.compile(nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2)), backend="eager")
    for model in (scripted, compiled):
        before = [tensor.clone() for tensor in model.state_dict().values()]
        with protect(model):
            model(torch.arange(12.0).reshape(4, 3))
            model.eval()
            with torch.no_grad():
                next(model.parameters()).zero_()
        assert model.training
        after = model.state_dict().values()
        assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))


def test_weight_normalised_networks() -> None:
    model = nn.utils.parametrizations.weight_norm(nn.Linear(3, 2))
    before = model_state(model)
    with protect(model), torch.no_grad():
        model(torch.ones(1, 3))
        for parameter in model.parameters():
            parameter.mul_(3)
    assert same_state(before, model_state(model))


@given(order=st.lists(st.sampled_from(DAMAGES), min_size=1, max_size=5), raises=st.booleans())
@settings(max_examples=25, deadline=None)
def test_any_series_of_damages_is_undone(order: list[Callable[[Any], None]], raises: bool) -> None:
    model = network()
    before = model_state(model)
    with contextlib.suppress(Exception), protect(model):
        for damage in order:
            damage(model)  # some cannot run on what others have left
        if raises:
            raise RuntimeError
    assert same_state(before, model_state(model))
    assert list(dict(model.named_children())) == ["0", "1", "2", "3", "4"]
