"""Fitting random signs bounds the complexity from below: exact classes, poor trainers, a real network."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from torchstone.bounds.rademacher import rademacher_finite
from torchstone.bounds.trained_rademacher import trained_rademacher
from torchstone.errors import NumericalError, SettingError
from torchstone.training.fit import fit


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("draws", [1, 7])
@pytest.mark.parametrize("confidence", [0.7, 0.95])
def test_the_limit_is_below_the_complexity_as_often_as_it_says(draws: int, confidence: float) -> None:
    # An exact trainer, for which the inequality of the means is an equality: the least favourable one.
    members = torch.randn(200, 12, generator=seeded(1), dtype=torch.float64).sign()
    truth = rademacher_finite(members, seeded(0), draws=2**12).value
    train = lambda signs: members[(signs @ members.T).argmax(dim=1)]
    generator, repeats = seeded(2), 2000
    found = [trained_rademacher(train, 12, generator, draws, confidence) for _ in range(repeats)]
    assert sum(each.lower <= truth for each in found) / repeats >= confidence
    values = torch.tensor([each.value for each in found], dtype=torch.float64)
    assert abs(float(values.mean()) - truth) < 4 * float(values.std()) / math.sqrt(repeats)


def test_a_poor_or_random_trainer_stays_below() -> None:
    members = torch.randn(200, 12, generator=seeded(3), dtype=torch.float64).sign()
    truth = rademacher_finite(members, seeded(0), draws=2**12).value
    luck = seeded(4)

    def train(signs: Tensor) -> Tensor:  # the best of three random members
        rows = members[torch.randint(200, (len(signs), 3), generator=luck)]
        best = (rows * signs[:, None]).sum(dim=2).argmax(dim=1)
        return rows[torch.arange(len(signs)), best]

    found = trained_rademacher(train, 12, seeded(5), draws=3000)
    assert found.value < truth - 0.05
    assert found.lower < found.value
    assert found.value == pytest.approx(sum(found.correlations) / 3000)


def test_a_network_memorises_more_random_labels_than_a_line() -> None:
    generator = seeded(6)
    x = torch.randn(60, 4, generator=generator, dtype=torch.float64)

    def trainer(make: Callable[[], nn.Module]) -> Callable[[Tensor], Tensor]:
        def train(signs: Tensor) -> Tensor:
            rows = []
            for k, labels in enumerate(signs):
                model = make()
                for parameter in model.parameters():
                    nn.init.normal_(parameter, std=0.5, generator=seeded(10 + k))
                losses = lambda model, x, y: nn.functional.softplus(-y * model(x)[:, 0])
                fit(
                    model,
                    losses,
                    x,
                    labels,
                    optimizer=lambda ps: torch.optim.Adam(ps, lr=0.03),
                    batch_size=60,
                    epochs=300,
                    generator=seeded(k),
                )
                rows.append(model(x)[:, 0].sign())
            return torch.stack(rows)

        return train

    line = trained_rademacher(trainer(lambda: nn.Linear(4, 1).double()), 60, seeded(7), draws=2)
    deep = lambda: nn.Sequential(nn.Linear(4, 64), nn.ReLU(), nn.Linear(64, 1)).double()
    network = trained_rademacher(trainer(deep), 60, seeded(7), draws=2)
    assert network.value > 0.95
    # Cover: 60 points in 5 homogeneous dimensions; half-spaces reach at most sqrt(2 ln C(60, 5) / 60) = 0.68.
    assert 0.1 < line.value < 0.68
    assert network.lower > line.value


def test_bad_trainers_are_refused() -> None:
    generator = seeded(0)
    with pytest.raises(SettingError, match="one output an example and a sign vector"):
        trained_rademacher(lambda signs: signs[:, :2], 5, generator)
    with pytest.raises(SettingError, match=r"outputs in \[-1, 1\]; got an output of size 3"):
        trained_rademacher(lambda signs: 3 * signs, 5, generator)
    with pytest.raises(NumericalError, match="outputs that are numbers"):
        trained_rademacher(lambda signs: signs * math.nan, 5, generator)
    with pytest.raises(SettingError, match="draws must be a whole number"):
        trained_rademacher(lambda signs: signs, 5, generator, draws=0)
    with pytest.raises(SettingError, match="n must be a whole number"):
        trained_rademacher(lambda signs: signs, 0, generator)
