"""Filter normalisation: the norms, the invariance it is for, and that it fails without."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from torchstone import Specimen
from torchstone.errors import SettingError
from torchstone.landscape import (
    Plane,
    embedded,
    every_parameter,
    filter_normalised,
    grid_places,
    here,
    orthogonalised,
    random_direction,
    values_at,
)
from torchstone.objectives import Classification
from torchstone.operators import ParameterSpace


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def rescaled(model: nn.Sequential, c: float, per_unit: bool = False) -> nn.Sequential:
    """The same function: the first layer times c, the third by c less; or with a factor of its own for each unit."""
    twin: Any = copy.deepcopy(model)
    factors = torch.full((len(twin[0].bias),), c).double()
    if per_unit:
        factors = factors ** torch.linspace(-1, 1, len(factors)).double()
    with torch.no_grad():
        twin[0].weight *= factors[:, None]
        twin[0].bias *= factors
        twin[2].weight /= factors
    return twin


def grid_of(model: nn.Module, data: tuple[Tensor, Tensor], normalised: bool, vectors: Any = "zero") -> Tensor:
    specimen = Specimen(model, Classification(), data)
    space = every_parameter(specimen)
    weights = here(specimen, space).weights
    first, second = (random_direction(space, seeded(seed)) for seed in (1, 2))
    if normalised:
        second = orthogonalised(space, second, first)
        first, second = (filter_normalised(space, d, weights, vectors=vectors) for d in (first, second))
    ticks = torch.linspace(-1, 1, 5).tolist()
    return values_at(
        specimen, space, Plane(here(specimen, space), first, second), grid_places(ticks, ticks)
    ).risks


@pytest.fixture
def relu_network(randomised: Callable[..., Any]) -> nn.Sequential:
    return randomised(
        nn.Sequential(nn.Linear(5, 7), nn.ReLU(), nn.Linear(7, 6), nn.ReLU(), nn.Linear(6, 3)), 0
    )


@pytest.fixture
def data() -> tuple[Tensor, Tensor]:
    x = torch.randn(40, 5, generator=seeded(0), dtype=torch.float64)
    return x, x[:, :3].argmax(1)


@pytest.mark.parametrize("vectors", ["zero", "entries"])
@pytest.mark.parametrize("c", [0.1, 10.0])
def test_a_rescaled_twin_has_the_same_grid(
    relu_network: nn.Sequential, data: tuple[Tensor, Tensor], c: float, vectors: str
) -> None:
    twin = rescaled(relu_network, c)
    assert torch.allclose(twin(data[0]), relu_network(data[0]), rtol=1e-10)
    own, other = (grid_of(model, data, True, vectors) for model in (relu_network, twin))
    assert ((own - other).abs() / own).max() < 1e-6
    raw, raw_other = (grid_of(model, data, False) for model in (relu_network, twin))
    assert ((raw - raw_other).abs() / raw).max() > 0.1


def test_a_factor_for_each_unit_is_not_taken_out(
    relu_network: nn.Sequential, data: tuple[Tensor, Tensor]
) -> None:
    """The limit of the method: the next layer's filters mix units, so their norms do not follow the factors."""
    twin = rescaled(relu_network, 10.0, per_unit=True)
    assert torch.allclose(twin(data[0]), relu_network(data[0]), rtol=1e-10)
    own, other = grid_of(relu_network, data, True), grid_of(twin, data, True)
    assert ((own - other).abs() / own).max() > 0.01


def test_filters_get_the_networks_norms(
    normalised_cnn: Callable[..., nn.Module], images: Any, classifier: Any
) -> None:
    model = normalised_cnn(0)
    specimen = classifier(model, images)
    space = every_parameter(specimen)
    weights = here(specimen, space).weights
    for vectors in ("zero", "entries"):
        d = filter_normalised(space, random_direction(space, seeded(0)), weights, vectors=vectors)
        for name, parameter in model.named_parameters():
            part = d[space.slices[name]].view(parameter.shape)
            if parameter.ndim > 1:
                for own, filter_ in zip(parameter, part, strict=True):
                    assert float(filter_.norm()) == pytest.approx(float(own.detach().norm()), rel=1e-12)
            elif vectors == "zero":
                assert not part.any()
            else:
                assert torch.allclose(part.abs(), parameter.abs())


def test_orthogonal_pairs_stay_orthogonal(
    normalised_cnn: Callable[..., nn.Module], images: Any, classifier: Any
) -> None:
    specimen = classifier(normalised_cnn(0), images)
    space = every_parameter(specimen)
    weights = here(specimen, space).weights
    first, second = (random_direction(space, seeded(seed)) for seed in (1, 2))
    first = filter_normalised(space, first, weights)
    plain = filter_normalised(space, second, weights)
    straight = filter_normalised(space, orthogonalised(space, second, first), weights)
    assert abs(float(first @ straight)) < 1e-12 * float(first.norm() * straight.norm())
    assert abs(float(first @ plain)) > 1e-3 * float(first.norm() * plain.norm())


def test_zero_filters_scalars_and_empty_parameters() -> None:
    parameters = [
        nn.Parameter(torch.zeros(2, 3)),
        nn.Parameter(torch.tensor(2.0)),
        nn.Parameter(torch.zeros(0)),
    ]
    space = ParameterSpace(("w", "s", "e"), tuple(parameters))
    weights = torch.tensor([0.0, 0, 0, 1, 2, 2, 2.0])
    d = torch.tensor([1.0, 1, 1, 0, 0, 0, -5])
    found = filter_normalised(space, d, weights, vectors="entries")
    assert torch.equal(found, torch.tensor([0.0, 0, 0, 0, 0, 0, -2]).double())
    assert torch.equal(orthogonalised(space, d, d), torch.tensor([0.0, 0, 0, 0, 0, 0, -5]).double())


def test_directions_are_drawn_and_embedded_by_name(relu_network: nn.Sequential) -> None:
    space = ParameterSpace(*zip(*relu_network.named_parameters(), strict=True))
    every = random_direction(space, seeded(4))
    some = random_direction(space, seeded(4), frozenset({"2.weight"}))
    assert torch.equal(some[space.slices["2.weight"]], every[space.slices["2.weight"]])
    assert int((some != 0).sum()) == 42
    back = embedded(space, {"2.weight": every[space.slices["2.weight"]].view(6, 7)})
    assert torch.equal(back, some)
    with pytest.raises(SettingError, match="one entry a weight, shape"):
        filter_normalised(space, every[:3], every)
