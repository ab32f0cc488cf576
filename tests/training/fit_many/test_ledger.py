"""The ledger of every presentation comes with the training's own forward passes."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from torchstone.training.evaluation import misclassified


def test_the_note_costs_no_second_forward_pass_and_moves_no_statistics(members: Any) -> None:
    plain, noted = (members.network(0, nn.BatchNorm1d(16)) for _ in range(2))
    calls = 0

    def count(*_: Any) -> None:
        nonlocal calls
        calls += 1

    noted.register_forward_hook(count)
    members.alone(plain, 0, epochs=2)
    members.alone(noted, 0, epochs=2, ledger=misclassified)
    assert calls == 10
    assert all(torch.equal(value, noted.state_dict()[name]) for name, value in plain.state_dict().items())


def test_the_ledger_of_an_epoch_cut_short_says_where_nothing_was_presented(members: Any) -> None:
    run = members.together(members.networks(2), steps=7, ledger=misclassified)
    assert run.ledger is not None
    assert run.ledger.isnan().sum(2).tolist() == [[0, 75 - 32], [0, 75 - 32]]
