"""Linear and nearest-neighbour probes."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from torchstone.data.digits import digits
from torchstone.details import Table
from torchstone.errors import SettingError
from torchstone.instruments.measurement import measure
from torchstone.instruments.representation.linear_probe import LinearProbe, judge, linear_probe
from torchstone.objectives import Classification
from torchstone.reading import Level
from torchstone.specimen import Specimen
from torchstone.workbench import Workbench


def test_the_probe_on_raw_digits_is_as_good_as_a_converged_logistic_regression() -> None:
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    data = digits()
    x, asked = data.train_x.flatten(1), data.test_x.flatten(1)
    reference = make_pipeline(StandardScaler(), LogisticRegression(max_iter=10_000, tol=1e-10))
    reference.fit(x.double().numpy(), data.train_y.numpy())
    expected = reference.score(asked.double().numpy(), data.test_y.numpy())
    found = float((linear_probe(x, data.train_y, asked) == data.test_y).double().mean())
    assert found == pytest.approx(expected, abs=0.005)


def test_constant_features_and_few_examples() -> None:
    x = torch.tensor([[0.0, 5.0], [1.0, 5.0], [2.0, 5.0], [3.0, 5.0]])
    assert linear_probe(x, torch.tensor([0, 0, 1, 1]), x, penalty=100.0).tolist() == [0, 0, 1, 1]


class Squares(nn.Module):
    """XOR of signs: not linearly separable in the inputs, separable after a layer that multiplies."""

    def __init__(self, *, damaged: bool = False) -> None:
        super().__init__()
        self.spread, self.product, self.head = nn.Identity(), Product(damaged), nn.Linear(1, 2)
        with torch.no_grad():
            self.head.weight.copy_(torch.tensor([[-1.0], [1.0]]))
            self.head.bias.zero_()

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.product(x))


class Product(nn.Module):
    def __init__(self, damaged: bool) -> None:
        super().__init__()
        self.damaged = damaged

    def forward(self, x: Tensor) -> Tensor:
        product = x[:, :1] * x[:, 1:]
        return torch.zeros_like(product) if self.damaged else product


def xor(count: int, seed: int) -> tuple[Tensor, Tensor]:
    x = torch.randn(count, 2, generator=torch.Generator().manual_seed(seed))
    return x, (x[:, 0] * x[:, 1] > 0).long()


def probe(model: nn.Module) -> tuple[Level, dict[str, float]]:
    specimen = Specimen(model, Classification(), xor(600, 0), xor(600, 1))
    reading = measure(LinearProbe(), Workbench.on(specimen))
    table = next(detail for detail in reading.details if isinstance(detail, Table))
    return reading.verdict.level, {str(row[0]): float(row[2] or 0) for row in table.rows}


def test_a_layer_that_multiplies_makes_xor_separable() -> None:
    level, accuracy = probe(Squares())
    assert accuracy["product"] > 0.95
    assert level is Level.GOOD
    x, y = xor(600, 0)
    asked, truth = xor(600, 1)
    assert (
        float((linear_probe(x, y, asked) == truth).double().mean()) < 0.6
    )  # the inputs themselves are not separable


def test_a_head_that_ignores_its_features_is_noticed() -> None:
    model = Squares()
    with torch.no_grad():
        model.head.weight.mul_(-1)
    level, accuracy = probe(model)
    assert accuracy["product"] > 0.95
    assert level is Level.ATTENTION


def test_a_late_layer_that_loses_the_classes_is_noticed() -> None:
    model = nn.Sequential(Product(False), Noise(), nn.Linear(1, 2))
    assert probe(model)[0] is Level.ATTENTION


class Noise(nn.Module):
    """Replaces its input by something that has nothing to do with its sign."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.cos(1000 * x)


def test_judgement_needs_more_than_chance() -> None:
    assert judge(95, 96, 95, 100).level is Level.GOOD
    assert judge(70, 96, 95, 100).level is Level.ATTENTION
    assert judge(95, 95, 60, 100).level is Level.ATTENTION
    assert judge(95, 95, 60, 100).threshold


@pytest.mark.parametrize(
    ("setting", "value"), [("layers", 0), ("neighbours", 0), ("penalty", 0.0), ("examples", 1)]
)
def test_bad_settings_are_named(setting: str, value: float) -> None:
    with pytest.raises(SettingError, match=f"linear_probe.{setting}"):
        LinearProbe(**{setting: value})  # pyright: ignore[reportArgumentType]
