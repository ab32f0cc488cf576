"""Ensembles that instruments share: made once, on the subsets they say, without those that diverged."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from torchstone.data.split import DataSplit
from torchstone.errors import NotApplicableError
from torchstone.objectives import Classification
from torchstone.specimens.networks import mlp
from torchstone.specimens.trained import Training, trained
from torchstone.training.evaluation import cross_entropy
from torchstone.training.fit import fit
from torchstone.training.memorization import balanced_subsets
from torchstone.workbench import Workbench
from torchstone.workbench.ensembles import seed_ensemble, subset_ensemble
from torchstone.workbench.retraining import train_many
from torchstone.workbench.siblings import Siblings


def data(count: int = 50) -> tuple[Tensor, Tensor]:
    x = torch.randn(count, 4, generator=torch.Generator().manual_seed(0))
    return x, x[:, :3].argmax(1)


def build(*, generator: torch.Generator) -> nn.Module:
    return mlp([4, 8, 3], generator=generator)


def bench(lr: float = 0.1, seed: int = 0) -> Workbench:
    def optimizer(parameters: Any) -> torch.optim.Optimizer:
        return torch.optim.SGD(parameters, lr=0.1, momentum=0.9)

    training = Training(build, cross_entropy, optimizer, batch_size=16, epochs=3)
    specimen = trained("small", DataSplit(*data(), *data(30)), Classification(), training, seed=5)
    assert specimen.recipe is not None
    live = specimen.recipe.live_optimizer
    assert live is not None
    live.param_groups[0]["lr"] = lr
    return Workbench.on(specimen, seed=seed)


def test_subset_ensemble_is_made_once_and_trained_on_its_subsets() -> None:
    shared = bench()
    ensemble = subset_ensemble(shared, 6, 0.7)
    assert subset_ensemble(shared, 6, 0.7) is ensemble
    assert subset_ensemble(shared, 5, 0.7) is not ensemble
    assert (len(ensemble), len(ensemble.siblings), ensemble.diverged) == (6, 6, 0)
    assert ensemble.included.sum(1).tolist() == [35] * 6
    left_out = (~ensemble.included).sum(0)
    assert int(left_out.max() - left_out.min()) <= 1
    assert ensemble.siblings.errors("test").shape == (6, 30)

    # Member 2 is what fit makes on its rows from its seed, which the next draw after the subsets gives.
    generator = shared.generator("subset_ensemble")
    rows = balanced_subsets(50, 6, 0.7, generator)
    own = torch.Generator().manual_seed(int(torch.randint(2**31, (6,), generator=generator)[2]))
    alone = build(generator=own)
    x, y = data()
    fit(alone, cross_entropy, x[rows[2]], y[rows[2]], batch_size=16, epochs=3, generator=own,
        optimizer=lambda parameters: torch.optim.SGD(parameters, lr=0.1, momentum=0.9))  # fmt: skip
    for mine, its in zip(ensemble.siblings.member(2).parameters(), alone.parameters(), strict=True):
        assert torch.allclose(mine, its, rtol=1e-4, atol=1e-5)


def test_the_benchs_seed_decides() -> None:
    one, again, other = (subset_ensemble(bench(seed=seed), 3, 0.5) for seed in (0, 0, 1))
    assert torch.equal(one.included, again.included)
    assert torch.equal(one.siblings.scores("test"), again.siblings.scores("test"))
    assert not torch.equal(one.included, other.included)


def test_seed_ensemble_is_made_once_of_different_networks() -> None:
    shared = bench()
    siblings = seed_ensemble(shared, 3)
    assert seed_ensemble(shared, 3) is siblings
    assert len(siblings) == 3
    first = next(iter(siblings.ensemble.parameters.values()))
    assert not torch.equal(first[0], first[1])


@pytest.mark.parametrize(
    "ensemble", [seed_ensemble, lambda bench, members: subset_ensemble(bench, members, 0.7)]
)
def test_trainings_that_diverge_are_no_ensemble(ensemble: Any) -> None:
    with pytest.raises(NotApplicableError, match="3 of 3 diverged"):
        ensemble(bench(lr=1e30), 3)


def test_one_that_diverged_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    def with_one_lost(*args: Any, **settings: Any) -> Siblings:
        made = train_many(*args, **settings)
        assert made.run is not None
        return replace(made, run=replace(made.run, diverged={1: 7}))

    whole = subset_ensemble(bench(), 4, 0.7)
    monkeypatch.setattr("torchstone.workbench.ensembles.train_many", with_one_lost)
    some = subset_ensemble(bench(), 4, 0.7)
    kept = [0, 2, 3]
    assert (len(some), len(some.siblings), some.diverged) == (3, 3, 1)
    assert torch.equal(some.included, whole.included[kept])
    assert torch.allclose(some.siblings.scores("test"), whole.siblings.scores("test")[kept], atol=1e-5)
