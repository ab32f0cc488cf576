"""What cannot be trained together is trained one by one or in chunks, says why, and ends in the same place."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from torchstone.training.evaluation import misclassified
from torchstone.training.fit_many import MembersEpoch


class Recurrent(nn.Module):
    """torch.func.vmap has no rule for the fused GRU."""

    def __init__(self) -> None:
        super().__init__()
        self.gru, self.head = nn.GRU(2, 5, batch_first=True), nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.gru(x.view(len(x), 3, 2))[0][:, -1])


def test_what_cannot_be_mapped_is_trained_one_by_one_and_says_so(members: Any) -> None:
    models, x, y = [members.drawn(Recurrent(), k) for k in range(3)], members.x, members.y
    seen: list[Tensor] = []

    def on_epoch(epoch: MembersEpoch) -> dict[str, Tensor]:
        seen.append(epoch.members)
        return {"error": epoch.ensemble.evaluate(misclassified, x, y).mean(1)}

    settings: dict[str, Any] = {"epochs": 2, "ledger": misclassified}
    run = members.together(models, lr_factors=[1.0, 2.0, 0.5], on_epoch=on_epoch, **settings)
    assert run.way == "one by one"
    assert "vmap" in run.reason
    assert run.series["error"].shape == (3, 2)
    assert torch.cat(seen).tolist() == [0, 0, 1, 1, 2, 2]
    members.alone(models[0], 0, **settings)
    members.assert_same(run, 0, models[0], 0.0)
    assert run.ledger is not None
    assert run.ledger.shape == (3, 2, 75)
    assert torch.allclose(run.ensemble.outputs(x)[0], models[0](x), atol=1e-6)


def test_an_optimizer_that_mixes_coordinates_trains_one_by_one(members: Any) -> None:
    class Mixing(torch.optim.SGD):
        pass

    run = members.together(members.networks(2), optimizer=lambda p: Mixing(p, lr=0.1), epochs=1)
    assert run.way == "one by one"
    assert "Mixing" in run.reason


def test_an_optimizer_that_refuses_stacks_trains_one_by_one(members: Any) -> None:
    models = [members.drawn(nn.Sequential(nn.Linear(6, 3, bias=False)), k) for k in range(2)]
    run = members.together(models, optimizer=lambda p: torch.optim.Muon(p), epochs=1)
    assert run.way == "one by one"
    assert "does not take stacked parameters" in run.reason


def test_chunks_under_a_memory_budget_change_nothing(members: Any) -> None:
    models, x, y = members.networks(7), members.x, members.y
    seen: list[int] = []

    def on_epoch(epoch: MembersEpoch) -> dict[str, Tensor]:
        seen.append(len(epoch.members))
        return {"error": epoch.ensemble.evaluate(misclassified, x, y).mean(1)}

    settings: dict[str, Any] = {"epochs": 2, "ledger": misclassified, "on_epoch": on_epoch}
    whole = members.together(models, **settings)
    assert seen == [7, 7]
    progress: list[tuple[int, int]] = []
    cut = members.together(
        models,
        memory_budget=30_000,
        on_progress=lambda done, total: progress.append((done, total)),
        **settings,
    )
    assert cut.way == "batched"
    assert 1 < max(seen[2:]) < 7
    assert progress[-1] == (14, 14)
    assert torch.allclose(whole.series["error"], cut.series["error"], atol=0.03)
    assert torch.allclose(whole.ensemble.outputs(x), cut.ensemble.outputs(x), atol=1e-4)
    assert whole.ledger is not None
    assert cut.ledger is not None
    assert (whole.ledger != cut.ledger).double().mean() < 0.01


def test_a_budget_too_small_for_two_members_trains_them_one_by_one(members: Any) -> None:
    run = members.together(members.networks(2), epochs=1, memory_budget=1000)
    assert run.way == "one by one"
    assert "memory budget" in run.reason


def test_a_member_that_diverges_is_named_and_disturbs_no_other(members: Any) -> None:
    models, poisoned = members.networks(3), members.x.repeat(3, 1, 1)
    poisoned[1, 7] = torch.inf
    run = members.together(models, inputs=poisoned, epochs=3)
    slow = members.together(models, inputs=poisoned, epochs=3, memory_budget=1)
    assert list(run.diverged) == [1]
    assert 1 <= run.diverged[1] <= 5
    assert run.finite.tolist() == [True, False, True]
    assert slow.way == "one by one"
    assert list(slow.diverged) == [1]
    for k in (0, 2):
        members.alone(models[k], k, epochs=3)
        members.assert_same(run, k, models[k])


def test_weights_that_are_lost_in_the_last_update_are_noticed(members: Any) -> None:
    run = members.together(members.networks(2), batch_size=100, steps=1, lr_factors=[1.0, 1e45])
    assert run.diverged == {1: 1}
