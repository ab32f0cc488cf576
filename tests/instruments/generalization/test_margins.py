"""Margins in units of the scores' spread."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from torchstone.details import Scalars
from torchstone.errors import SettingError
from torchstone.instruments.generalization.margins import Margins, judge, quantile_interval
from torchstone.instruments.measurement import measure
from torchstone.objectives import Classification
from torchstone.reading import Level, Reading
from torchstone.specimen import Specimen
from torchstone.workbench import Workbench


def data(count: int, seed: int) -> tuple[Tensor, Tensor]:
    x = torch.randn(count, 6, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return x, x[:, :3].argmax(1)


def network(seed: int = 0) -> Any:
    layers = (nn.Linear(6, 10, bias=False), nn.ReLU(), nn.Linear(10, 3, bias=False))
    model = nn.Sequential(*layers).double()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
    return model


def examine(model: nn.Module) -> Reading:
    return measure(Margins(), Workbench.on(Specimen(model, Classification(), data(300, 0), data(200, 1))))


def test_the_value_by_brute_force() -> None:
    model = network()
    (x, y), found = data(300, 0), examine(model)
    scores = model(x).detach()
    spread = (scores - scores.mean(1, keepdim=True)).square().mean().sqrt()
    raw = [
        float(row[label] - max(row[j] for j in range(3) if j != label))
        for row, label in zip(scores, y, strict=True)
    ]
    expected = torch.quantile(torch.tensor(raw, dtype=torch.float64) / spread, 0.1)
    assert found.value == pytest.approx(float(expected))


def test_scaling_the_outputs_changes_nothing() -> None:
    model = network()
    before = examine(model)
    with torch.no_grad():
        model[2].weight.mul_(1000)
    after = examine(model)
    assert after.value == pytest.approx(before.value)
    assert after.verdict == before.verdict


def test_rescaling_two_layers_changes_the_euclidean_norm_alone() -> None:
    model = network()
    norms = lambda: {
        item.name: item.value
        for detail in examine(model).details
        if isinstance(detail, Scalars) and detail.title == "Norms of the network"
        for item in detail.items
    }
    before, value = norms(), examine(model).value
    with torch.no_grad():
        model[0].weight.mul_(100)
        model[2].weight.div_(100)
    after = norms()
    assert examine(model).value == pytest.approx(value, rel=1e-10)
    for name in before:
        if "invariant" in name:
            assert after[name] == pytest.approx(before[name], rel=1e-10)
        else:
            assert after[name] > 10 * before[name]
    assert len(before) == 4


def test_the_quantile_interval_covers_as_often_as_it_says() -> None:
    covered = 0
    truth = math.log(1 / 0.9)  # the 10% quantile of the exponential law
    for seed in range(400):
        generator = torch.Generator().manual_seed(seed)
        values = -torch.rand(120, generator=generator, dtype=torch.float64).log()
        _, low, high = quantile_interval(values, 0.1)
        covered += low <= truth <= high
    assert covered >= 371  # at least nominal: Binomial(400, 0.95) is below 371 with probability 2%


def test_few_examples_leave_the_interval_open() -> None:
    value, low, high = quantile_interval(torch.tensor([1.0, 2.0, 3.0]), 0.1)
    assert value == pytest.approx(1.2)
    assert low == -math.inf
    assert high >= value


def test_equal_scores_have_no_margin() -> None:
    class Constant(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.ones(len(x), 3)

    assert examine(Constant()).verdict.level is Level.NOT_APPLICABLE


def test_judgement() -> None:
    assert judge(0.1).level is Level.GOOD
    assert judge(0.0).level is Level.ATTENTION
    assert judge(float("nan")).level is Level.ATTENTION


def test_bad_settings_are_named() -> None:
    with pytest.raises(SettingError, match=r"margins\.quantile"):
        Margins(quantile=0.0)
