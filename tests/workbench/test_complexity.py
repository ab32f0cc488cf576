"""The panel of complexity measures against dense formulas, and the ranking of a pool against its definition."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from scipy.stats import kendalltau
from torch import Tensor, nn

from torchstone.bounds import path_norm
from torchstone.bounds.rank_correlation import granulated_tau
from torchstone.errors import NotApplicableError
from torchstone.objectives import Classification, Regression
from torchstone.recipe import Recipe
from torchstone.specimen import Specimen
from torchstone.specimens.networks import mlp
from torchstone.training.evaluation import cross_entropy
from torchstone.training.fit import fit
from torchstone.workbench import Workbench
from torchstone.workbench import complexity_pool as pools
from torchstone.workbench.complexity import NAMES, Panel, complexity_panel, squared_path_norm, tolerated_noise


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def data(count: int, seed: int) -> tuple[Tensor, Tensor]:
    x = torch.randn(count, 5, generator=seeded(seed))
    return x, x[:, :3].argmax(1)


def build(*, generator: torch.Generator) -> nn.Module:
    return mlp([5, 12, 3], generator=generator)


def sgd(parameters: Any) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, lr=0.2)


def specimen(optimizer: Callable[[Any], Any] = sgd, epochs: int = 20, **settings: Any) -> Specimen:
    model = build(generator=seeded(4))
    initial = {name: value.clone() for name, value in model.state_dict().items()}
    fit(model, cross_entropy, *data(120, 1), optimizer=sgd, batch_size=16, epochs=40, generator=seeded(5))
    recipe = Recipe(optimizer=optimizer, batch_size=16, epochs=epochs, build=build, initial_state=initial)
    settings = {"test": data(300, 2), "recipe": recipe, **settings}
    return Specimen(model, Classification(), data(120, 1), **settings)


def test_norms_distances_and_margins_written_out() -> None:
    on = specimen()
    assert on.recipe is not None
    initial = dict(on.recipe.initial_state or {})
    panel = complexity_panel(on, initial, seeded())
    tensors = {name: p.detach().double() for name, p in on.model.named_parameters()}
    weights = {name: w for name, w in tensors.items() if w.ndim == 2}
    moved = {name: w - initial[name].double() for name, w in tensors.items()}
    spectral = {name: float(torch.linalg.matrix_norm(w, 2)) ** 2 for name, w in weights.items()}
    frobenius = math.prod(float(w.square().sum()) for w in weights.values())
    product = math.prod(spectral.values())
    distance = sum(float(w.square().sum()) for w in moved.values())
    ratios = sum(float(moved[name].square().sum()) / spectral[name] for name in weights)
    x, y = data(120, 1)
    scores = on.model(x).detach().double()
    right = scores.gather(1, y[:, None])[:, 0]
    gamma = float((right - scores.scatter(1, y[:, None], -math.inf).amax(1)).quantile(0.1))
    assert gamma > 0
    expected = {
        "number of parameters": sum(w.numel() for w in tensors.values()),
        "squared norm of the weights": sum(float(w.square().sum()) for w in tensors.values()),
        "product of squared Frobenius norms": frobenius,
        "product of squared spectral norms": product,
        "squared distance from initialisation": distance,
        "distance over spectral norms": ratios,
        "1 / margin²": gamma**-2,
        "Frobenius product / margin²": frobenius / gamma**2,
        "spectral product / margin²": product / gamma**2,
        "spectral complexity / margin²": product * ratios / gamma**2,
        "training loss": float(nn.functional.cross_entropy(on.model(x).detach(), y)),
    }
    for name, value in expected.items():
        assert panel.value(name) == pytest.approx(value, rel=1e-5), name
    assert set(panel.logs) == set(NAMES)
    assert not panel.missing


def test_gradients_and_flatness_written_out() -> None:
    on = specimen()
    panel = complexity_panel(on, None, seeded())
    x, y = data(120, 1)
    squares = []
    for one_x, one_y in zip(x, y, strict=True):
        loss = nn.functional.cross_entropy(on.model(one_x[None]), one_y[None])
        grads = torch.autograd.grad(loss, list(on.model.parameters()))
        squares.append(sum(float(g.square().sum()) for g in grads))
    assert panel.value("squared gradient of an example") == pytest.approx(sum(squares) / 120, rel=1e-4)
    sigma = panel.sigma
    assert sigma is not None
    assert panel.value("1 / sigma², noise that costs 0.1") == pytest.approx(sigma**-2, rel=1e-9)
    # Noise of that width, drawn afresh, costs about 0.1.
    with torch.no_grad():
        before = float(nn.functional.cross_entropy(on.model(x), y))
        rises, source = [], seeded(7)
        for _ in range(300):
            named = {
                n: p + sigma * torch.randn(p.shape, generator=source) for n, p in on.model.named_parameters()
            }
            outputs = torch.func.functional_call(on.model, named, (x,))
            rises.append(float(nn.functional.cross_entropy(outputs, y)) - before)
    assert sum(rises) / 300 == pytest.approx(0.1, rel=0.6)  # two pairs of draws tell it to that
    with_start = complexity_panel(on, build(generator=seeded(4)).state_dict(), seeded())
    expected = with_start.value("squared distance from initialisation") / (4 * sigma**2)
    assert with_start.value("PAC-Bayes: distance² / 4 sigma²") == pytest.approx(expected, rel=1e-9)
    assert "PAC-Bayes: distance² / 4 sigma²" in panel.missing


def test_the_path_norm_of_dense_and_convolution_layers() -> None:
    on = specimen()
    layers = [m for m in on.model.modules() if isinstance(m, nn.Linear)]
    exact = path_norm([m.weight for m in layers], [m.bias for m in layers])
    assert squared_path_norm(on) == pytest.approx(exact**2, rel=1e-6)

    conv = nn.Conv2d(1, 3, 3, padding=1, bias=False).double()
    last = nn.Linear(75, 2, bias=False).double()
    net = nn.Sequential(conv, nn.ReLU(), nn.Flatten(), last)
    x = torch.randn(4, 1, 5, 5, generator=seeded(), dtype=torch.float64)
    matrix: Any = torch.autograd.functional.jacobian(
        lambda v: conv(v.view(1, 1, 5, 5)).flatten(), x[0].flatten()
    )
    found = squared_path_norm(Specimen(net, Classification(), (x, torch.tensor([0, 1, 0, 1]))))
    assert found == pytest.approx(path_norm([matrix, last.weight]) ** 2, rel=1e-10)


def test_tolerated_noise() -> None:
    widths = [0.01, 0.1, 1.0]
    parabola = [(w, 3 * w**2) for w in widths]
    assert tolerated_noise(parabola, 0.1) == pytest.approx(math.sqrt(0.1 / 3), rel=1e-12)
    assert tolerated_noise(parabola, 1e-6) == pytest.approx(math.sqrt(1e-6 / 3), rel=1e-12)  # below the first
    assert tolerated_noise(parabola, 100.0) == 1.0
    assert tolerated_noise([(0.01, 0.0), (0.1, math.inf)], 0.1) == pytest.approx(math.sqrt(0.001), rel=1e-12)
    assert tolerated_noise([(0.01, math.nan)], 0.1) == 0.01
    assert tolerated_noise([(0.01, -1.0), (0.1, 0.5)], 0.1) == pytest.approx(math.sqrt(0.001), rel=1e-12)


def test_what_has_no_value_says_why() -> None:
    x, y = data(40, 1)
    residual = Specimen(_Residual(), Classification(), (x, y))
    panel = complexity_panel(residual, None, seeded())
    assert "not a chain" in panel.missing["product of squared spectral norms"]
    assert panel.missing["spectral product / margin²"] == "its norm has no value"
    assert "1 / margin²" in panel.logs
    regression = Specimen(build(generator=seeded()), Regression(), (x, torch.zeros(40, 3)))
    panel = complexity_panel(regression, None, seeded())
    assert "needs a class label" in panel.missing["1 / margin²"]
    assert "needs Recipe(initial_state=...)" in panel.missing["squared distance from initialisation"]
    normed = nn.Sequential(nn.Linear(5, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3))
    panel = complexity_panel(Specimen(normed, Classification(), (x, y)), None, seeded())
    assert "batch normalisation" in panel.missing["squared path norm"]
    zero = build(generator=seeded())
    with torch.no_grad():
        for parameter in zero.parameters():
            parameter.zero_()
    panel = complexity_panel(Specimen(zero, Classification(), (x, y)), None, seeded())
    assert panel.logs["product of squared spectral norms"] == -math.inf
    assert panel.logs["1 / margin²"] == math.inf
    assert "not all 0" in panel.missing["worst relative sharpness"]


class _Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = mlp([5, 5], generator=seeded(1)), mlp([5, 3], generator=seeded(2))

    def forward(self, x: Tensor) -> Tensor:
        return self.last(x + torch.relu(self.first(x)))


# -- pools ---------------------------------------------------------------------------------------------------------


def panel_of(**logs: float) -> Panel:
    return Panel({name: logs.get(name.split()[0], 0.0) for name in list(NAMES)[:3]}, {})


def test_rankings_are_taus_with_joint_intervals() -> None:
    gaps = torch.randn(27, generator=seeded(), dtype=torch.float64)
    noise = torch.randn(27, generator=seeded(1), dtype=torch.float64)
    panels = [panel_of(squared=float(g + n), product=float(-g)) for g, n in zip(gaps, noise, strict=True)]
    found = pools.ranked(panels, gaps, (3, 3, 3))
    assert [one.name for one in found] == [
        "squared norm of the weights",
        "product of squared Frobenius norms",
        "number of parameters",
    ]
    values = torch.tensor([panel.logs[found[0].name] for panel in panels], dtype=torch.float64)
    result: Any = kendalltau(values.numpy(), gaps.numpy())
    assert found[0].tau == pytest.approx(result.statistic, abs=1e-12)
    assert found[0].interval.confidence == pytest.approx(1 - 0.05 / 3, rel=1e-12)
    assert found[0].granulated == granulated_tau(values.view(3, 3, 3), gaps.view(3, 3, 3)).score
    assert found[1].tau == -1
    assert math.isnan(found[2].tau)
    assert found[2].granulated == 0


def test_settings_of_a_pool() -> None:
    settings = pools.pool_settings(3, 32, 1000)
    assert len(set(settings)) == 27
    assert settings[0] == (0.25, 0.0, 16)
    assert settings[-1] == (1.0, 0.01, 64)
    assert {decay for _, decay, _ in settings} == {0.0, 1e-3, 1e-2}
    with pytest.raises(NotApplicableError, match="no room to be halved"):
        pools.pool_settings(3, 32, 20)


def test_a_trained_pool_is_complete_and_its_gaps_are_those_of_its_networks(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen: list[nn.Module] = []
    original = pools.complexity_panel
    monkeypatch.setattr(
        pools, "complexity_panel", lambda part, *rest: (seen.append(part.model), original(part, *rest))[1]
    )
    bench = Workbench.on(specimen())
    pool = pools.trained_pool(bench, 2, torch.arange(60), "test")
    assert len(pool.panels) == 8
    assert not pool.diverged
    assert all(set(panel.logs) == set(NAMES) for panel in pool.panels)
    (x, y), (test_x, test_y) = data(120, 1), data(300, 2)
    error = lambda model, inputs, labels: float((model(inputs).argmax(1) != labels).double().mean())
    by_size = [
        k
        for size in sorted({s[2] for s in pool.settings})
        for k, s in enumerate(pool.settings)
        if s[2] == size
    ]
    for k, model in zip(by_size, seen, strict=True):
        assert float(pool.gaps[k]) == pytest.approx(
            error(model, test_x, test_y) - error(model, x, y), abs=1e-12
        )
    assert len({panel.logs["squared distance from initialisation"] for panel in pool.panels}) == 8
    assert all(len(one.axes) == 3 for one in pool.rankings)


def test_pools_that_cannot_be_trained_say_why() -> None:
    def refuse(reason: str, on: Specimen) -> None:
        with pytest.raises(NotApplicableError, match=reason):
            pools.trained_pool(Workbench.on(on), 2, torch.arange(60), "test")

    refuse("needs test examples", specimen(test=None))
    refuse("recipe that can train", specimen(recipe=Recipe(lr=0.1)))
    refuse("does not allow it", specimen(lambda ps: torch.optim.SGD(ps, lr=0.1, weight_decay=0.1)))
    refuse("only 0 of 8 networks", specimen(lambda ps: torch.optim.SGD(ps, lr=1e30), epochs=2))
