"""A remedy applied to a copy: what it becomes, that the given network is left alone, and what is refused."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from torchstone import Classification, Recipe, Regression, Specimen
from torchstone.errors import NumericalError, RemedyError, SpecimenError, TorchstoneError
from torchstone.layers.residual import Residual, residual_blocks
from torchstone.mending import mended
from torchstone.testing.zoo import Case, zoo


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def plain(depth: int = 6, width: int = 8, inplace: bool = False) -> Any:
    layers: list[nn.Module] = [nn.Linear(5, width)]
    for _ in range(depth):
        layers += [nn.ReLU(inplace), nn.Linear(width, width)]
    return nn.Sequential(*layers, nn.ReLU(inplace), nn.Linear(width, 3))


def images() -> Any:
    return nn.Sequential(
        nn.Conv2d(1, 32, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(32, 32, 3, padding=1),
        nn.BatchNorm2d(32),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(32 * 16, 3),
    )


def specimen(model: nn.Module, shape: tuple[int, ...] = (5,), recipe: Recipe | None = None) -> Specimen:
    return Specimen(model, Classification(), (3 * draw(30, *shape), torch.arange(30) % 3), recipe=recipe)


def apply(model: nn.Module, remedy: str, shape: tuple[int, ...] = (5,)) -> Any:
    return mended(specimen(model, shape), remedy, generator())


def outputs(model: nn.Module, x: Tensor) -> Tensor:
    model.eval()
    with torch.no_grad():
        return model(x)


@pytest.mark.parametrize("remedy", ["init=orthogonal", "norm=batch", "norm=group,skip=residual", "init=lsuv"])
def test_the_given_network_and_the_random_state_are_left_alone(remedy: str) -> None:
    model = plain(inplace=True)
    model.train()
    state, random = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    names, hooks = (
        [name for name, _ in model.named_modules()],
        [len(m._forward_hooks) for m in model.modules()],
    )
    found = apply(model, remedy)
    assert all(torch.equal(state[name], value) for name, value in model.state_dict().items())
    assert names == [name for name, _ in model.named_modules()]
    assert hooks == [len(m._forward_hooks) for m in model.modules()]
    assert model.training
    assert torch.equal(random, torch.get_rng_state())
    assert found.before.model is not model
    assert found.after.model is not model
    pointers = {p.data_ptr() for p in model.parameters()}
    assert not pointers & {p.data_ptr() for m in (found.before, found.after) for p in m.model.parameters()}


def test_normalisation_stands_behind_every_layer_but_the_last() -> None:
    model = plain(depth=2)
    found = apply(model, "norm=layer").after.model
    x = draw(7, 5)
    expected = x
    layers = [module for module in model if isinstance(module, nn.Linear)]
    for layer in layers[:-1]:
        z = layer(expected)
        z = (z - z.mean(1, keepdim=True)) / (z.var(1, keepdim=True, unbiased=False) + 1e-5).sqrt()
        expected = torch.relu(z)
    torch.testing.assert_close(outputs(found, x), layers[-1](expected).detach())


def test_old_normalisation_gives_way_to_the_new() -> None:
    found = apply(images(), "norm=group", (1, 4, 4))
    kinds = [type(module).__name__ for module in found.after.model.modules()]
    assert kinds.count("GroupNorm") == 2
    assert "BatchNorm2d" not in kinds
    assert found.changes["3"] == "BatchNorm2d taken out"
    groups = [module for module in found.after.model.modules() if isinstance(module, nn.GroupNorm)]
    assert [norm.num_groups for norm in groups] == [2, 2]
    none = apply(images(), "norm=none", (1, 4, 4))
    assert not any(isinstance(module, nn.BatchNorm2d) for module in none.after.model.modules())


def test_layer_normalisation_of_maps_is_over_channels_and_positions() -> None:
    found = apply(images(), "norm=layer", (1, 4, 4)).after.model
    seen = []
    norm = next(module for module in found.modules() if isinstance(module, nn.GroupNorm))
    norm.register_forward_hook(lambda _module, _inputs, output: seen.append(output.flatten(1)))
    outputs(found, draw(4, 1, 4, 4))
    torch.testing.assert_close(seen[0].mean(1), torch.zeros(4), atol=1e-5, rtol=0)
    torch.testing.assert_close(seen[0].var(1), torch.ones(4), atol=1e-2, rtol=0)


def test_batch_statistics_are_those_of_the_data() -> None:
    model = plain(depth=1)
    found = apply(model, "norm=batch").after
    x = found.split("train").first()[0]
    z = model[0](x).detach()
    norm = next(module for module in found.model.modules() if isinstance(module, nn.BatchNorm1d))
    assert norm.running_mean is not None
    assert norm.running_var is not None
    torch.testing.assert_close(norm.running_mean, z.mean(0), rtol=1e-4, atol=1e-5)
    assert float((norm.running_var / z.var(0)).max()) == pytest.approx(1, abs=0.05)
    assert norm.num_batches_tracked is not None
    assert int(norm.num_batches_tracked) == 1


@pytest.mark.parametrize("inplace", [False, True])
def test_shortcuts_go_around_pairs_before_their_activations(inplace: bool) -> None:
    model = plain(depth=5, inplace=inplace)
    found = apply(model, "skip=residual:0.5").after.model
    blocks: Any = residual_blocks(found)
    assert [len(list(block.branch)) for block in blocks] == [4, 4, 2]  # the fifth makes a block of its own
    linear = [module for module in model if isinstance(module, nn.Linear)]
    x = draw(6, 5)
    h = linear[0](x)
    for first, second in ((1, 2), (3, 4)):
        h = h + 0.5 * linear[second](torch.relu(linear[first](torch.relu(h))))
    h = h + 0.5 * linear[5](torch.relu(h))
    torch.testing.assert_close(outputs(found, x), linear[6](torch.relu(h)).detach())
    default = residual_blocks(apply(model, "skip=residual").after.model)
    assert [block.scale for block in default] == pytest.approx([3**-0.5] * 3)


def test_shortcuts_in_inner_sequences_and_with_shared_activations() -> None:
    act = nn.Tanh()
    inner = nn.Sequential(nn.Linear(8, 8), act, nn.Linear(8, 8), act, nn.Linear(8, 4))
    model = nn.Sequential(nn.Linear(5, 8), act, inner, act, nn.Linear(4, 3))
    found = apply(model, "skip=residual,norm=layer").after.model
    blocks: Any = residual_blocks(found)
    assert len(blocks) == 1
    assert isinstance(found[2][0], Residual)
    assert [type(part).__name__ for part in blocks[0].branch] == ["Sequential", "Tanh", "Sequential"]


def test_initialisations_set_the_weights_they_name() -> None:
    model = plain(depth=3, width=6)
    square = apply(model, "init=orthogonal").after.model[2].weight
    torch.testing.assert_close(square @ square.T, 2 * torch.eye(6), rtol=0, atol=1e-5)
    wide = nn.Sequential(nn.Linear(5, 400), nn.Tanh(), nn.Linear(400, 400), nn.Tanh(), nn.Linear(400, 3))
    critical = apply(wide, "init=critical")
    assert float(critical.after.model[2].weight.detach().var()) * 400 == pytest.approx(1.0, rel=0.02)
    assert "critical for tanh" in critical.changes["2.weight"]
    x = critical.after.split("train").first()[0]
    layer = apply(wide, "init=lsuv").after.model[0]
    assert float(layer(x).detach().var()) == pytest.approx(1.0, abs=0.03)
    kaiming = apply(wide, "init=kaiming").changes
    assert set(kaiming) == {"0.weight", "2.weight", "4.weight"}


class Tied(nn.Module):
    """Two modules that share a weight, one used twice."""

    def __init__(self) -> None:
        super().__init__()
        self.into, self.again, self.head = nn.Linear(5, 5), nn.Linear(5, 5), nn.Linear(5, 3)
        self.again.weight = self.into.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.relu(self.again(torch.relu(self.into(torch.relu(self.into(x)))))))


def test_tied_weights_stay_tied_and_layers_used_twice_are_wrapped_once() -> None:
    found = apply(Tied(), "norm=layer,init=critical").after.model
    assert found.into[0].weight is found.again[0].weight
    assert isinstance(found.into[1], nn.LayerNorm)


class Reads(nn.Module):
    """Its code looks at a layer's weight."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(5, 5), nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.a(x) + self.a.weight.sum())


@pytest.mark.parametrize(
    ("model", "shape", "remedy", "message"),
    [
        (
            nn.Linear(5, 3),
            (5,),
            "norm=layer",
            "at least two linear or convolution layers that run; got 1 in Linear",
        ),
        (plain(), (5,), "norm=none", "needs normalisation layers to take out; got none in Sequential"),
        (
            nn.Sequential(nn.Linear(5, 9), nn.Linear(9, 3)),
            (5,),
            "skip=residual",
            "whose outputs have the shape",
        ),
        (Tied(), (5,), "skip=residual", "none in Tied"),
        (Reads(), (5,), "norm=layer", "must still run with norm=layer; got AttributeError.*change the code"),
        (
            nn.Sequential(nn.Linear(5, 4), nn.Linear(4, 1), nn.Flatten(), nn.Linear(7, 3)),
            (7, 5),
            "norm=batch",
            r"norm=batch normalises outputs \(N, features\).*got \(30, 7, 4\) from 0. Use norm=layer",
        ),
    ],
)
def test_what_cannot_be_applied_is_refused_in_words(
    model: nn.Module, shape: tuple[int, ...], remedy: str, message: str
) -> None:
    with pytest.raises(RemedyError, match=message):
        apply(model, remedy, shape)


def test_convolutions_that_keep_the_shape_get_shortcuts_too() -> None:
    model = images()
    found = apply(model, "skip=residual", (1, 4, 4)).after.model
    block: Any = residual_blocks(found)[0]
    assert [type(part).__name__ for part in block.branch] == ["ReLU", "Conv2d"]
    x = draw(2, 1, 4, 4)
    h = model[0](x)
    expected = model[6](model[5](model[4](model[3].eval()(h + model[2](torch.relu(h))))))
    assert outputs(found, x).shape == expected.shape


def test_a_single_number_is_not_normalised() -> None:
    model = nn.Sequential(nn.Linear(5, 1), nn.Linear(1, 4), nn.Linear(4, 3))
    found = apply(model, "norm=layer")
    assert "single number" in found.changes["0"]
    assert isinstance(found.after.model[0], nn.Linear)


def test_an_activation_without_an_edge_of_chaos_is_refused_in_words() -> None:
    with pytest.raises(NumericalError, match="edge of chaos needs chi = 1"):
        apply(nn.Sequential(nn.Linear(5, 8), nn.GELU(), nn.Linear(8, 3)), "init=critical")


def test_where_the_weights_start_is_said() -> None:
    model = plain()
    as_given = apply(model, "norm=layer")
    assert "may be trained" in as_given.start
    assert torch.equal(as_given.before.model[0].weight, model[0].weight)
    initial = {name: torch.zeros_like(value) for name, value in model.state_dict().items()}
    found: Any = mended(specimen(model, recipe=Recipe(initial_state=initial)), "norm=layer", generator())
    assert float(found.before.model[0].weight.detach().abs().sum()) == 0
    assert "before training" in found.start

    def build(*, generator: torch.Generator) -> nn.Module:
        made = plain()
        nn.init.normal_(made[0].weight, generator=generator)
        return made

    built: Any = mended(specimen(model, recipe=Recipe(build=build)), "norm=layer", generator(3))
    assert "recipe.build" in built.start
    again: Any = mended(specimen(model, recipe=Recipe(build=build)), "norm=layer", generator(3))
    assert torch.equal(built.before.model[0].weight, again.before.model[0].weight)
    assert torch.equal(built.before.model[0].weight, built.after.model[0][0].weight)


def test_a_wrong_initial_state_or_a_model_that_cannot_be_copied() -> None:
    with pytest.raises(SpecimenError, match=r"recipe\.initial_state must fit the model"):
        mended(specimen(plain(), recipe=Recipe(initial_state={})), "norm=layer", generator())
    model = plain()
    model.register_module("kept", _Uncopyable())
    with pytest.raises(SpecimenError, match="must be copyable"):
        apply(model, "norm=layer")


class _Uncopyable(nn.Identity):
    def __deepcopy__(self, memo: dict[int, Any]) -> nn.Module:
        raise RuntimeError("no")


def test_other_types_devices_and_frozen_layers_are_followed() -> None:
    model = plain().double()
    model[2].requires_grad_(False)
    data = (draw(20, 5).double(), draw(20, 3).double())
    found: Any = mended(
        Specimen(model, Regression(), data), "norm=group,init=xavier", generator()
    ).after.model
    assert {parameter.dtype for parameter in found.parameters()} == {torch.float64}
    assert not found[2][1].weight.requires_grad
    assert found[0][1].weight.requires_grad


@pytest.mark.parametrize("case", zoo(hugging_face=False), ids=lambda case: case.name)
def test_awkward_networks_are_mended_or_refused_in_words_and_never_changed(case: Case) -> None:
    made = case.specimen(0)
    state = {name: value.clone() for name, value in made.model.state_dict().items()}
    modules = list(made.model.modules())
    for remedy in ("norm=layer", "norm=batch,skip=residual", "init=orthogonal", "init=lsuv"):
        try:
            found = mended(made, remedy, generator())
        except TorchstoneError:  # anything else would be a traceback for the user
            continue
        assert found.changes
        assert not {id(p) for p in found.after.model.parameters()} & {id(p) for p in made.model.parameters()}
    now = made.model.state_dict()
    assert all(torch.equal(value, now[name]) or value.isnan().any() for name, value in state.items())
    assert modules == list(made.model.modules())
