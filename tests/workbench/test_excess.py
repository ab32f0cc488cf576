"""Differences of shares: by hand and by coverage."""

import pytest
import torch

from torchstone.bounds.proportion import clopper_pearson
from torchstone.workbench.excess import Excess


def test_excesses_by_hand():
    assert Excess.of((5, 10), (2, 10)).value == pytest.approx(0.3)
    assert Excess.of((5, 10), (2, 10)).low < 0
    assert Excess.of((50, 100), (10, 100), factor=3.0).value == pytest.approx(0.2)
    assert Excess.of((3, 4), (0, 0)).value == 0.75
    assert Excess.of((3, 4), (0, 0)).low == clopper_pearson(3, 4, confidence=0.975).low
    assert Excess.of((9, 10), (9, 10), factor=5.0).value == pytest.approx(-0.1)


def test_the_lower_end_holds_in_a_simulation():
    generator = torch.Generator().manual_seed(0)
    train = torch.rand(2000, 30, generator=generator).lt(0.5).sum(1).tolist()
    test = torch.rand(2000, 20, generator=generator).lt(0.2).sum(1).tolist()
    below = [Excess.of((int(a), 30), (int(b), 20)).low <= 0.3 for a, b in zip(train, test, strict=True)]
    assert sum(below) / 2000 > 0.975
