"""What the tangent kernel takes: modules, specimens, splits and rows, several inputs, low precision; what it refuses."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from torchstone import Specimen
from torchstone.errors import SettingError, SpecimenError
from torchstone.objectives import CausalLM, Classification, Regression
from torchstone.operators import ntk
from torchstone.testing.networks import LanguageModel


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=generator(seed), dtype=torch.float64)


def test_specimens_with_batches_of_different_lengths(
    randomised: Any, close: Any, jacobian: Any, kernel: Any, written: Any
) -> None:
    model = randomised(written(
        lambda m, x: m.inner[0](x).add(m.p[: x.shape[1]]).tanh().mean(1), nn.Linear(2, 3), p=(6, 3)
    ))  # fmt: skip
    pieces = [randn(2, 4, 2, seed=1), randn(3, 6, 2, seed=2)]
    data = [(x, torch.zeros(len(x), dtype=torch.long)) for x in pieces]
    rows = [jacobian(model, x) for x in pieces]
    whole = {name: torch.cat([rows[0][name], rows[1][name]]) for name in rows[0]}
    specimen = Specimen(model, Classification(), data)
    close(ntk(specimen).values, kernel(whole, whole))


def test_specimens_by_split_and_rows(randomised: Any, close: Any) -> None:
    model = randomised(nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3, bias=False)))
    x, other = randn(6, 4), randn(3, 4, seed=1)
    labels = torch.zeros(6, dtype=torch.long)
    specimen = Specimen(model, Classification(), (x, labels), (other, labels[:3]), batch_size=4)
    close(ntk(specimen).values, ntk(model, x).values)
    close(ntk(specimen, "train", "test").values, ntk(model, x, other).values)
    close(ntk(specimen, ("train", torch.tensor([1, 4]))).values, ntk(model, x[[1, 4]]).values)
    assert model.training is False
    assert all(parameter.grad is None for parameter in model.parameters())


def test_a_module_is_measured_in_evaluation_mode_and_left_as_it_was(randomised: Any, close: Any) -> None:
    model = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Dropout(0.5), nn.Linear(6, 2))
    model = randomised(model).train()
    x = randn(5, 4)
    found = ntk(model, x)
    assert model.training
    close(found.values, ntk(model.eval(), x).values)


def test_several_inputs_and_language_models(randomised: Any, close: Any) -> None:
    class TwoInputs(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Linear(4, 3), nn.Linear(2, 3)

        def forward(self, left: Tensor, right: Tensor) -> Tensor:
            return self.first(left) + self.second(right)

    model = randomised(TwoInputs())
    left, right = randn(3, 4), randn(3, 2, seed=1)
    expected = left @ left.T + right @ right.T + 2
    found = ntk(model, (left, right)).values
    close(found, expected[:, :, None, None] * torch.eye(3, dtype=torch.float64))
    close(ntk(model, {"left": left, "right": right}).values, found)
    words = Specimen(
        randomised(LanguageModel()), CausalLM(), torch.randint(11, (3, 4), generator=generator())
    )
    assert ntk(words).values.shape == (3, 3, 44, 44)


def test_half_precision_is_widened(randomised: Any) -> None:
    model = nn.Sequential(
        nn.Conv2d(2, 3, 3, padding=1),
        nn.ReLU(inplace=True),
        nn.Conv2d(3, 2, 3),
        nn.Flatten(),
        nn.Linear(18, 3),
    )
    model, x = randomised(model), randn(5, 2, 5, 5, seed=7)
    expected = ntk(model, x).values
    half = ntk(model.bfloat16(), x.bfloat16()).values
    assert half.dtype == torch.float32
    assert float((half.double() - expected).norm() / expected.norm()) < 0.05
    single = ntk(randomised(model).float(), x.float()).values
    assert float((single.double() - expected).norm() / expected.norm()) < 1e-6


def test_examples_that_influence_each_other_are_refused() -> None:
    model = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Linear(6, 2)).double()
    data = (randn(8, 4), torch.zeros(8, dtype=torch.long))
    with pytest.raises(SpecimenError, match="examples that do not influence each other"):
        ntk(Specimen(model, Classification(), data, mode="as_is"))


def test_mistakes_are_named() -> None:
    model, x = nn.Linear(4, 3), torch.zeros(2, 4)
    specimen = Specimen(model, Classification(), (x, torch.zeros(2, dtype=torch.long)))
    wrong: Any = "sum"
    with pytest.raises(SettingError, match='outputs must be "all", "trace" or an index from 0 to 2'):
        ntk(model, x, outputs=wrong)
    with pytest.raises(SettingError, match="outputs must be"):
        ntk(model, x, outputs=3)
    with pytest.raises(SettingError, match=r"directions must be a matrix \(K, 3\)"):
        ntk(model, x, directions=torch.eye(4))
    with pytest.raises(SettingError, match="needs inputs x1"):
        ntk(model)
    with pytest.raises(SettingError, match="the name of a split"):
        ntk(specimen, x)
    for rows in ([1, 0], [0, 0], [0, 2], [-1, 0]):
        with pytest.raises(SettingError, match="Indices of train examples increase and lie between 0 and 1"):
            ntk(specimen, ("train", torch.tensor(rows)))
    with pytest.raises(SettingError, match="a vector of whole numbers"):
        ntk(specimen, ("train", torch.ones(2)))
    with pytest.raises(SpecimenError, match="at least one trainable parameter"):
        ntk(nn.ReLU(), x)
    pieces = [(torch.zeros(2, 1, 5), torch.zeros(2, 3)), (torch.zeros(2, 1, 6), torch.zeros(2, 4))]
    with pytest.raises(SpecimenError, match="the same number of outputs"):
        ntk(Specimen(nn.Conv1d(1, 1, 3), Regression(), pieces))
