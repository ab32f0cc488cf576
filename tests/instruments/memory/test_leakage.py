"""Near-copies between training and test data."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from torchstone.data.digits import digits
from torchstone.details import Images, Scalars, Table
from torchstone.errors import SettingError
from torchstone.instruments.measurement import measure
from torchstone.instruments.memory.leakage import Leakage, judge
from torchstone.objectives import CausalLM, Classification
from torchstone.reading import Level, Reading
from torchstone.specimen import Specimen
from torchstone.workbench import Workbench


def reading(train: tuple[Tensor, Tensor], test: tuple[Tensor, Tensor], **settings: float) -> Reading:
    model = nn.Sequential(nn.Flatten(), nn.Linear(train[0][0].numel(), 10))
    return measure(Leakage(**settings), Workbench.on(Specimen(model, Classification(), train, test)))


def test_real_digits_are_apart() -> None:
    data = digits()
    found = reading(data.train, data.test)
    assert found.value == 0
    assert found.verdict.level is Level.GOOD
    # Clopper-Pearson for 0 of 397: 1 - 0.025^(1/397).
    assert found.uncertainty is not None
    assert found.uncertainty.high == pytest.approx(1 - 0.025 ** (1 / 397))


def test_planted_copies_are_found_and_nothing_else() -> None:
    data = digits()
    generator = torch.Generator().manual_seed(0)
    copied = torch.randperm(len(data.train_x), generator=generator)[:20]
    noise = 0.01 * torch.randn(20, 1, 8, 8, generator=generator)
    test_x = torch.cat([data.test_x, data.train_x[copied] + noise])
    test_y = torch.cat([data.test_y, data.train_y[copied]])
    found = reading(data.train, (test_x, test_y))
    assert found.value == pytest.approx(20 / (len(data.test_x) + 20))
    assert found.verdict.level is Level.POOR
    table = next(detail for detail in found.details if isinstance(detail, Table))
    assert [(row[0], row[1]) for row in table.rows] == [(397 + i, int(row)) for i, row in enumerate(copied)]
    assert any(isinstance(detail, Images) for detail in found.details)
    assert any(isinstance(detail, Scalars) for detail in found.details)  # error on copies and on the rest


def test_exact_copies_count_even_where_all_training_examples_coincide() -> None:
    x = torch.ones(12, 3)
    y = torch.arange(12) % 2
    assert reading((x, y), (torch.cat([x[:3], x[:3] + 1]), y[:6])).value == pytest.approx(0.5)


def test_token_sequences_are_compared_exactly() -> None:
    class Uniform(nn.Module):
        def forward(self, tokens: Tensor) -> Tensor:
            return torch.zeros(*tokens.shape, 50)

    generator = torch.Generator().manual_seed(1)
    train = torch.randint(0, 50, (40, 6), generator=generator)
    test = torch.randint(0, 50, (10, 6), generator=generator)
    test[3], test[7] = train[5], train[0]
    found = measure(Leakage(), Workbench.on(Specimen(Uniform(), CausalLM(), train, test)))
    assert found.value == pytest.approx(0.2)


def test_one_copy_is_attention_and_a_percent_is_poor() -> None:
    assert judge(0, 1000).level is Level.GOOD
    assert judge(1, 1000).level is Level.ATTENTION
    assert judge(10, 1000).level is Level.ATTENTION
    assert judge(11, 1000).level is Level.POOR
    assert judge(1, 1000).threshold
    assert judge(1, 1000).source


def test_bad_tolerance_is_named() -> None:
    with pytest.raises(SettingError, match=r"leakage\.tolerance"):
        Leakage(tolerance=2.0)
