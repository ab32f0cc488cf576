from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from torchstone.training.evaluation import cross_entropy, misclassified, squared_error
from torchstone.training.fit import fit
from torchstone.training.fit_many import TrainedMany, fit_many

K = 3


def images(count: int = 22) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(count, 2, 6, 6, generator=generator, dtype=torch.float64)
    return x, torch.randint(3, (count,), generator=generator)


def frozen(module: nn.Module) -> nn.Module:
    return module.requires_grad_(False)


def shared() -> nn.Module:
    layer = nn.Linear(8, 8)
    return nn.Sequential(nn.Flatten(), nn.Linear(72, 8), layer, nn.Tanh(), layer, nn.Linear(8, 3))


def twice_in_a_row() -> nn.Module:
    layer = nn.Linear(8, 8)
    return nn.Sequential(nn.Flatten(), nn.Linear(72, 8), layer, nn.ReLU(), layer, nn.Linear(8, 3))


CHAINS: dict[str, Callable[[], nn.Module]] = {
    "dense": lambda: nn.Sequential(nn.Flatten(), nn.Linear(72, 9), nn.GELU(), nn.Linear(9, 3, bias=False)),
    "nested, in place": lambda: nn.Sequential(
        nn.Flatten(1, -1), nn.Sequential(nn.Linear(72, 9), nn.ReLU(inplace=True)), nn.Linear(9, 3)
    ),
    "convolutions": lambda: nn.Sequential(
        *(nn.Conv2d(2, 4, 3, padding="same"), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(4, 6, 3, padding=1, stride=2, groups=2, bias=False), nn.SiLU(), nn.AdaptiveAvgPool2d(1)),
        *(nn.Flatten(), nn.Linear(6, 3)),
    ),
    "batch norm over images": lambda: nn.Sequential(
        *(nn.Conv2d(2, 4, 3, dilation=2), nn.BatchNorm2d(4), nn.ReLU(), nn.AvgPool2d(2)),
        *(nn.Flatten(), nn.BatchNorm1d(4, affine=False), nn.Linear(4, 3)),
    ),
    "batch norm without statistics": lambda: nn.Sequential(
        nn.Flatten(), nn.Linear(72, 5), nn.BatchNorm1d(5, track_running_stats=False), nn.Linear(5, 3)
    ),
    "layer norm, positions": lambda: nn.Sequential(
        nn.Flatten(2), nn.Linear(36, 5), nn.LayerNorm([2, 5]), nn.Flatten(), nn.Linear(10, 3)
    ),
    "signals": lambda: nn.Sequential(
        nn.Flatten(2), nn.Conv1d(2, 4, 5, stride=3), nn.BatchNorm1d(4), nn.Flatten(), nn.Linear(44, 3)
    ),
    "frozen first layer": lambda: nn.Sequential(
        nn.Flatten(), frozen(nn.Linear(72, 9)), nn.Sigmoid(), nn.Linear(9, 3)
    ),
    "a layer used twice": shared,
    "a layer used twice in one run": twice_in_a_row,
    "runs of layers": lambda: nn.Sequential(
        *(nn.Flatten(), nn.Linear(72, 9), nn.ReLU(), nn.ReLU(), nn.Linear(9, 8, bias=False), nn.Linear(8, 7)),
        *(nn.ReLU(), nn.Dropout(0.0), nn.ReLU(), frozen(nn.Linear(7, 6)), nn.ReLU(), nn.Linear(6, 3)),
    ),
    "a run over positions": lambda: nn.Sequential(
        nn.Flatten(2), nn.Linear(36, 5), nn.ReLU(), nn.Linear(5, 4), nn.Flatten(), nn.ReLU(), nn.Linear(8, 3)
    ),
    "written into after a run": lambda: nn.Sequential(
        nn.Flatten(), nn.Linear(72, 9), nn.ELU(inplace=True), nn.Linear(9, 3)
    ),
    "a frozen run": lambda: nn.Sequential(
        nn.Flatten(), frozen(nn.Linear(72, 9)), nn.ReLU(), frozen(nn.Linear(9, 9)), nn.ReLU(), nn.Linear(9, 3)
    ),
}


def made(make: Callable[[], nn.Module], seed: int) -> nn.Module:
    with torch.random.fork_rng():
        torch.default_generator.manual_seed(seed)
        return make().double()


def trained(make: Callable[[], nn.Module], losses: Any = cross_entropy, **settings: Any) -> TrainedMany:
    x, y = images()
    return fit_many(
        [made(make, k) for k in range(K)],
        losses,
        x,
        settings.pop("y", y),
        generators=[torch.Generator().manual_seed(k) for k in range(K)],
        **{"optimizer": sgd, "batch_size": 8, "epochs": 2, **settings},
    )


def sgd(parameters: Any) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, lr=0.05, momentum=0.9)


@pytest.mark.parametrize("name", CHAINS)
def test_a_chain_of_known_layers_trains_as_each_network_alone(name: str) -> None:
    run, (x, y) = trained(CHAINS[name], ledger=misclassified, penalty=weights), images()
    assert (run.way, run.reason) == ("batched", "")
    for k in range(K):
        model = made(CHAINS[name], k)
        history = fit(
            *(model, cross_entropy, x, y),
            optimizer=sgd, batch_size=8, epochs=2, generator=torch.Generator().manual_seed(k),
            ledger=misclassified, penalty=weights,
        )  # fmt: skip
        mine = run.ensemble.member(k).state_dict()
        for entry, value in model.state_dict().items():
            assert torch.allclose(mine[entry], value, rtol=1e-9, atol=1e-9), entry
        assert run.series["train_loss"][k].tolist() == pytest.approx(history["train_loss"], rel=1e-9)
        assert history.ledger is not None
        assert run.ledger is not None
        assert torch.equal(run.ledger[k], history.ledger)


def weights(model: nn.Module) -> Tensor:
    return 1e-2 * torch.stack([p.square().sum() for p in model.parameters()]).sum()


class OwnForward(nn.Sequential):
    def forward(self, x: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        return 2 * super().forward(x)


class Centred(nn.Module):
    def forward(self, weight: Tensor) -> Tensor:
        return weight - weight.mean(1, keepdim=True)


def centred_rows(layer: nn.Linear) -> nn.Module:
    return nn.utils.parametrize.register_parametrization(layer, "weight", Centred())


def with_hook() -> nn.Module:
    model = CHAINS["dense"]()
    model[1].register_forward_hook(lambda *given: 2 * given[2])  # pyright: ignore[reportIndexIssue,reportCallIssue]
    return model


REFUSED: dict[str, Callable[[], nn.Module]] = {
    "a class with its own forward": lambda: OwnForward(nn.Flatten(), nn.Linear(72, 3)),
    "a hook": with_hook,
    "group norm": lambda: nn.Sequential(
        nn.Conv2d(2, 4, 3), nn.GroupNorm(2, 4), nn.Flatten(), nn.Linear(64, 3)
    ),
    "reflecting padding": lambda: nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1, padding_mode="reflect"), nn.Flatten(), nn.Linear(144, 3)
    ),
    "a weight that is a function": lambda: nn.Sequential(nn.Flatten(), centred_rows(nn.Linear(72, 3))),
}


@pytest.mark.parametrize("name", REFUSED)
def test_anything_else_is_mapped(name: str) -> None:
    run, model, (x, y) = trained(REFUSED[name]), made(REFUSED[name], 1), images()
    assert run.way == "vmapped"
    fit(
        *(model, cross_entropy, x, y),
        optimizer=sgd, batch_size=8, epochs=2, generator=torch.Generator().manual_seed(1),
    )  # fmt: skip
    assert torch.allclose(run.ensemble.outputs(x)[1], model(x), rtol=1e-9, atol=1e-9)


def centred(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """Mixes the examples of a batch."""
    losses = cross_entropy(model, x, y)
    return losses + 0.1 * (losses - losses.mean()).square()


def decayed(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """Looks at the weights."""
    return cross_entropy(model, x, y) + 1e-9 * weights(model)


def twice(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """Calls the network on other batches."""
    return cross_entropy(model, torch.cat([x, -x]), torch.cat([y, y])).view(2, -1).mean(0)


def smooth(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """Differentiates by the inputs."""
    inputs = x.detach().requires_grad_()
    losses = cross_entropy(model, inputs, y)
    (slope,) = torch.autograd.grad(losses.sum(), inputs, create_graph=True)
    return losses + slope.square().flatten(1).sum(1)


def test_a_layer_used_twice_is_mapped_and_taken_apart() -> None:
    run, (x, _) = trained(lambda: nn.Sequential(shared(), nn.Softmax(1)), epochs=1), images()
    assert run.way == "vmapped"
    outputs = run.ensemble.outputs(x)
    assert torch.allclose(outputs[1], run.ensemble.member(1)(x))


@pytest.mark.parametrize("losses", [centred, decayed, twice, smooth])
def test_losses_that_see_more_than_their_example_are_right_too(losses: Any) -> None:
    run, model, (x, y) = trained(CHAINS["dense"], losses), made(CHAINS["dense"], 2), images()
    assert run.way != "batched"
    fit(
        *(model, losses, x, y),
        optimizer=sgd, batch_size=8, epochs=2, generator=torch.Generator().manual_seed(2),
    )  # fmt: skip
    assert torch.allclose(run.ensemble.outputs(x)[2], model(x), rtol=1e-9, atol=1e-9)


def test_regression_and_a_diverging_member_keep_apart() -> None:
    y = torch.randn(22, 3, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    calm = trained(CHAINS["batch norm over images"], squared_error, y=y)
    wild = trained(CHAINS["batch norm over images"], squared_error, y=y, lr_factors=[1.0, 1e300, 1.0])
    assert calm.way == wild.way == "batched"
    assert list(wild.diverged) == [1]
    for name, stack in calm.ensemble.parameters.items():
        assert torch.equal(stack[[0, 2]], wild.ensemble.parameters[name][[0, 2]]), name
