"""Bags: resamples, out-of-bag means by hand, coverage of the out-of-bag interval, and scikit-learn's bagging."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from torchstone.errors import SettingError
from torchstone.training.bagging import (
    Bag,
    bag,
    bootstrap_rows,
    out_of_bag,
    out_of_bag_mean,
    subsample_rows,
)
from torchstone.training.evaluation import cross_entropy, squared_error
from torchstone.training.fit import fit
from torchstone.training.fit_many import fit_many


def generators(count: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(k) for k in range(count)]


def linear(seed: int, inputs: int = 2, outputs: int = 2) -> nn.Module:
    layer = nn.Linear(inputs, outputs, device="meta").to_empty(device="cpu")
    for parameter in layer.parameters():
        nn.init.normal_(parameter, std=0.1, generator=torch.Generator().manual_seed(seed))
    return layer


def blobs(count: int, seed: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    y = torch.randint(2, (count,), generator=generator)
    return torch.randn(count, 2, generator=generator) + 0.8 * (2.0 * y[:, None] - 1), y


def trained(count: int = 80, members: int = 25, seed: int = 0) -> tuple[Bag, Tensor, Tensor]:
    x, y = blobs(count, seed)
    rows = bootstrap_rows(count, members, torch.Generator().manual_seed(seed + 1))
    recipe: dict[str, Any] = {
        "batch_size": count,
        "epochs": 30,
        "generators": generators(members),
        "optimizer": lambda parameters: torch.optim.SGD(parameters, lr=1.0),
    }
    models = [linear(k) for k in range(members)]
    return bag(models, cross_entropy, x, y, rows, lambda z: z.softmax(-1), **recipe), x, y


def test_each_example_is_left_out_as_often_as_the_law_says() -> None:
    mask = out_of_bag(bootstrap_rows(50, 4000, torch.Generator().manual_seed(0)), 50)
    assert float(mask.double().mean()) == pytest.approx((1 - 1 / 50) ** 50, abs=0.005)
    half = subsample_rows(50, 400, 25, torch.Generator().manual_seed(0))
    assert all(len(row.unique()) == 25 for row in half)
    assert bool((out_of_bag(half, 50).sum(1) == 25).all())


def test_members_are_networks_trained_alone_on_their_resample() -> None:
    found, x, y = trained(members=3)
    for k in range(3):
        alone = linear(k)
        fit(
            alone,
            cross_entropy,
            x[found.rows[k]],
            y[found.rows[k]],
            optimizer=torch.optim.SGD(alone.parameters(), lr=1.0),
            batch_size=80,
            epochs=30,
            generator=torch.Generator().manual_seed(k),
        )
        with torch.no_grad():
            torch.testing.assert_close(found.members(x)[k], alone(x).softmax(-1), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(found(x), found.members(x).mean(0))


def test_out_of_bag_by_hand() -> None:
    found, x, y = trained(members=6)
    members, mean = found.members(x).double(), found.out_of_bag(x)
    wrong, judged, voters = 0, 0, 0
    for i in range(len(x)):
        unseen = [k for k in range(6) if i not in found.rows[k].tolist()]
        if not unseen:
            assert math.isnan(float(mean[i, 0]))
            continue
        torch.testing.assert_close(mean[i], members[unseen, i].mean(0))
        wrong += int(members[unseen, i].mean(0).argmax()) != int(y[i])
        judged, voters = judged + 1, voters + len(unseen)
    error = found.out_of_bag_error(x, y)
    assert judged < len(x)  # six members: some examples are in every bag
    assert (error.examples, error.value) == (judged, pytest.approx(wrong / judged))
    assert error.voters == pytest.approx(voters / judged)
    assert error.interval.method == "Clopper-Pearson"


def test_out_of_bag_error_of_regression() -> None:
    generator = torch.Generator().manual_seed(4)
    x = torch.randn(40, 2, generator=generator)
    y = x.sum(1, keepdim=True) + 0.5 * torch.randn(40, 1, generator=generator)
    rows = bootstrap_rows(40, 30, generator)
    found = bag(
        [linear(k, 2, 1) for k in range(30)], squared_error, x, y, rows,
        batch_size=40, epochs=100, generators=generators(30),
        optimizer=lambda parameters: torch.optim.SGD(parameters, lr=0.2),
    )  # fmt: skip
    error = found.out_of_bag_error(x, y, lambda p, t: (p - t).square().mean(1))
    assert error.interval.method == "Student t"
    assert 0.15 < error.value < 0.45  # the noise is 0.25
    assert error.value > float((found(x) - y).square().mean())  # what it has seen looks better


class Stumps(nn.Module):
    """Not trained: stands for the run of networks whose outputs are given."""

    def __init__(self, outputs: Tensor) -> None:
        super().__init__()
        self.given = outputs

    def outputs(self, x: Tensor) -> Tensor:
        return self.given


def test_the_interval_covers_the_error_on_new_examples() -> None:
    """Bagged nearest-mean classifiers, 300 data sets: the interval covers their error under the law."""
    covered, runs, members, count = 0, 300, 40, 60
    for seed in range(runs):
        generator = torch.Generator().manual_seed(seed)
        x, y = blobs(count, seed)
        fresh_x, fresh_y = blobs(2000, 10_000 + seed)
        rows = bootstrap_rows(count, members, generator)
        times = torch.zeros(members, count).scatter_add_(1, rows, torch.ones(members, count))
        zero, one = (
            (times * (y == c)) @ x / (times * (y == c)).sum(1, keepdim=True) for c in (0, 1)
        )  # (members, 2)

        def scores(z: Tensor, zero: Tensor = zero, one: Tensor = one) -> Tensor:
            near = torch.stack([-(z - m[:, None]).square().sum(2) for m in (zero, one)], 2)
            return torch.nn.functional.one_hot(near.argmax(2), 2).double()

        run: Any = type(
            "Run", (), {"ensemble": Stumps(scores(x)), "finite": torch.ones(members, dtype=torch.bool)}
        )()
        error = Bag(run, rows, lambda outputs: outputs).out_of_bag_error(x, y)
        truth = float((scores(fresh_x).mean(0).argmax(1) != fresh_y).double().mean())
        covered += truth in error.interval
    # Clopper-Pearson's intervals are wide: between 95% and 99.5% less three standard deviations of 300 draws.
    assert 0.93 * runs <= covered


def test_the_bag_does_as_well_as_scikit_learns() -> None:
    from sklearn.ensemble import BaggingClassifier
    from sklearn.linear_model import LogisticRegression

    found, x, y = trained(count=200, members=40)
    make: Any = BaggingClassifier
    theirs = make(LogisticRegression(C=1e6), n_estimators=40, oob_score=True, random_state=0)
    theirs.fit(x.numpy(), y.numpy())
    assert found.out_of_bag_error(x, y).value == pytest.approx(1 - theirs.oob_score_, abs=0.03)
    agree = torch.from_numpy(theirs.predict(x.numpy())) == found(x).argmax(1)
    assert float(agree.double().mean()) > 0.97


def test_diverged_members_do_not_count() -> None:
    x, y = blobs(40, 0)
    rows = bootstrap_rows(40, 5, torch.Generator().manual_seed(1))
    run = fit_many(
        [linear(k) for k in range(5)], squared_error, x, torch.stack([y, 1 - y], 1).float(), rows=rows,
        batch_size=40, steps=50, generators=generators(5), lr_factors=[1, 1e30, 1, 1, 1],
        optimizer=lambda parameters: torch.optim.SGD(parameters, lr=0.1),
    )  # fmt: skip
    assert list(run.diverged) == [1]
    found = Bag(run, rows, lambda outputs: outputs)
    assert bool(torch.isfinite(found(x)).all())
    kept = [0, 2, 3, 4]
    mask = out_of_bag(rows, 40)[kept]
    expected = out_of_bag_mean(found.members(x)[kept], mask)
    torch.testing.assert_close(found.out_of_bag(x), expected, equal_nan=True)


def test_what_cannot_be_bagged_is_named() -> None:
    generator = torch.Generator()
    with pytest.raises(SettingError, match="at least 1"):
        bootstrap_rows(0, 3, generator)
    with pytest.raises(SettingError, match="must be smaller than the 5 examples"):
        subsample_rows(5, 2, 5, generator)
    with pytest.raises(SettingError, match="mask must be"):
        out_of_bag_mean(torch.zeros(2, 3), torch.ones(3, 2, dtype=torch.bool))
    with pytest.raises(SettingError, match="one row of `rows` for each of 3 models"):
        bag([linear(0)] * 3, cross_entropy, *blobs(4, 0), torch.zeros(2, 4, dtype=torch.long))
    x, y = blobs(4, 0)
    whole = bag(
        [linear(0), linear(1)], cross_entropy, x, y, torch.arange(4).repeat(2, 1),
        batch_size=4, epochs=1, generators=generators(2),
        optimizer=lambda parameters: torch.optim.SGD(parameters, lr=0.1),
    )  # fmt: skip
    with pytest.raises(SettingError, match="out of some member's bag"):
        whole.out_of_bag_error(x, y)
