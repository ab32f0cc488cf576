"""Reordered units: the same function, the shuffle found again, and networks that cannot be reordered refused."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from torchstone import Specimen
from torchstone.errors import NotApplicableError
from torchstone.landscape import (
    Segment,
    align,
    every_parameter,
    from_state,
    here,
    hidden_units,
    permuted,
    values_at,
)


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_the_hidden_units_of_a_chain(
    normalised_cnn: Callable[..., nn.Module], images: Any, classifier: Callable[..., Specimen]
) -> None:
    specimen = classifier(normalised_cnn(0), images)
    first, second, third = hidden_units(specimen, every_parameter(specimen))
    statistics = ("1.running_mean", "1.running_var")
    assert first.made_by == ("0.weight", "0.bias", "1.weight", "1.bias", *statistics)
    assert (first.read_by, first.count, first.width) == ("4.weight", 4, 1)
    assert (second.made_by, second.read_by, second.width) == (("4.weight", "4.bias"), "7.weight", 4)
    assert (third.count, third.read_by) == (6, "10.weight")


def test_reordering_keeps_every_loss_and_alignment_undoes_it(
    normalised_cnn: Callable[..., nn.Module], images: Any, classifier: Callable[..., Specimen]
) -> None:
    specimen = classifier(normalised_cnn(0), images)
    space = every_parameter(specimen)
    own, units = here(specimen, space), hidden_units(specimen, space)
    shuffles = [torch.randperm(layer.count, generator=seeded(index)) for index, layer in enumerate(units)]
    shuffled = permuted(own, space, units, shuffles)
    assert (shuffled.weights - own.weights).norm() > 1
    line = Segment(own, shuffled)
    losses = values_at(specimen, space, line, [0.0, 0.5, 1.0]).losses
    assert (losses[2] - losses[0]).abs().max() < 1e-12
    assert (losses[1] - losses[0]).abs().max() > 1e-2
    found = align(own, shuffled, space, units, seeded(9))
    assert torch.equal(found.point.weights, own.weights)
    assert all(torch.equal(found.point.buffers[name], own.buffers[name]) for name in own.buffers)
    assert (found.after, found.converged) == (0, True)
    for shuffle, order in zip(shuffles, found.permutations, strict=True):
        assert torch.equal(shuffle[order], torch.arange(len(order)))


def test_two_networks_get_closer_and_compute_what_they_did(
    normalised_cnn: Callable[..., nn.Module], images: Any, classifier: Callable[..., Specimen]
) -> None:
    model, other = normalised_cnn(0), normalised_cnn(1)
    specimen = classifier(model, images)
    space = every_parameter(specimen)
    own, its = here(specimen, space), from_state(specimen, space, other.state_dict())
    found = align(own, its, space, hidden_units(specimen, space), seeded(0))
    assert found.after < found.before
    assert found.after == pytest.approx(float((found.point.weights - own.weights).norm()))
    losses = values_at(specimen, space, Segment(found.point, own), [0.0]).losses[0]
    assert (losses - classifier(other, images).example_losses()).abs().max() < 1e-12


def test_one_hidden_layer_is_aligned_as_well_as_possible(
    randomised: Callable[..., Any], classifier: Callable[..., Specimen]
) -> None:
    """Against all 720 orders of six units."""
    make = lambda seed: randomised(nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3)), seed)
    x = torch.randn(10, 4, generator=seeded(0), dtype=torch.float64)
    specimen = classifier(make(0), (x, x[:, :3].argmax(1)))
    space = every_parameter(specimen)
    own, its = here(specimen, space), from_state(specimen, space, make(1).state_dict())
    units = hidden_units(specimen, space)
    found = align(own, its, space, units, seeded(0))
    distances = [
        float((permuted(its, space, units, [torch.tensor(order)]).weights - own.weights).norm())
        for order in itertools.permutations(range(6))
    ]
    assert found.after == pytest.approx(min(distances), rel=1e-12)


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.tanh(self.a(x))
        return self.c(h + torch.tanh(self.b(h)))


class Reused(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.c = nn.Linear(4, 4), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.c(torch.tanh(self.a(torch.tanh(self.a(x)))))


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 3)
        self.b.weight = self.a.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.c(torch.tanh(self.b(torch.tanh(self.a(x)))))


def normalised_by_parts() -> nn.Module:
    model = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 3))
    nn.utils.parametrizations.weight_norm(model[0])
    return model


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (Residual, "the network is not a chain"),
        (Reused, "a module runs several times"),
        (Tied, "a.weight is used twice"),
        (normalised_by_parts, "the weight of 0 is made from others|does not hold one number a unit"),
        (lambda: nn.Linear(4, 3), "there are not two dense or convolution layers"),
        (lambda: nn.Sequential(nn.Linear(4, 4), nn.GLU(), nn.Linear(2, 3)), "does not read whole units"),
        (lambda: nn.Sequential(nn.Linear(4, 4), nn.GroupNorm(2, 4), nn.ReLU(), nn.Linear(4, 3)), "is not a chain"),
        (
            lambda: nn.Sequential(nn.Unflatten(1, (4, 1)), nn.Conv1d(4, 4, 1, groups=2), nn.Flatten(), nn.Linear(4, 3)),
            "is a grouped convolution",
        ),
        (lambda: nn.Sequential(nn.Linear(4, 4), nn.Softmax(1), nn.Linear(4, 3)), ""),
        (lambda: nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4), nn.PReLU(4), nn.Linear(4, 3)), ""),
    ],
)  # fmt: skip
def test_only_chains_are_reordered(
    make: Callable[[], nn.Module],
    reason: str,
    randomised: Callable[..., Any],
    classifier: Callable[..., Specimen],
) -> None:
    x = torch.randn(10, 4, generator=seeded(0), dtype=torch.float64)
    specimen = classifier(randomised(make(), 0), (x, x[:, :3].argmax(1)))
    if not reason:
        assert len(hidden_units(specimen, every_parameter(specimen))) == 1
        return
    with pytest.raises(NotApplicableError) as caught:
        hidden_units(specimen, every_parameter(specimen))
    assert any(part in caught.value.reason for part in reason.split("|"))
