"""Forgotten examples of a training: planted label noise is found, watched runs are read, what cannot be is said."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from torchstone.data.digits import digits
from torchstone.details import Table
from torchstone.errors import FormatError, SettingError
from torchstone.instruments.measurement import measure
from torchstone.instruments.memory.forgetting import ExampleForgetting, judge, read_watched
from torchstone.objectives import Classification, Regression
from torchstone.reading import Level
from torchstone.recipe import Recipe
from torchstone.specimen import Specimen
from torchstone.specimens.networks import mlp
from torchstone.testing.conformance import check_reading
from torchstone.training.evaluation import misclassified
from torchstone.training.fit_many import fit_many
from torchstone.training.forgetting import count_forgetting, separation
from torchstone.workbench import Workbench
from torchstone.workbench.retraining import train_many
from torchstone.workbench.siblings import wrong


def build(*, generator: torch.Generator) -> nn.Module:
    return mlp([64, 100, 10], generator=generator)


def specimen(noise: float = 0.0, examples: int = 1400, epochs: int = 20) -> Specimen:
    data = digits(label_noise=noise)
    recipe = Recipe(lr=0.05, momentum=0.9, batch_size=64, epochs=epochs, build=build)
    model = build(generator=torch.Generator().manual_seed(0))
    return Specimen(
        model, Classification(), (data.train_x[:examples], data.train_y[:examples]), recipe=recipe
    )


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_ten_percent_planted_noise_is_found(seed: int) -> None:
    """Area under the ROC curve of at least 0.9 from three trainings."""
    bench = Workbench.on(specimen(0.1), "deep")
    siblings = train_many(
        bench.specimen, [10 * seed, 10 * seed + 1, 10 * seed + 2], ledger=wrong(Classification())
    )
    assert siblings.run is not None
    assert siblings.run.ledger is not None
    flipped = torch.isin(torch.arange(1400), digits(label_noise=0.1).flipped)
    assert separation(count_forgetting(1 - siblings.run.ledger).score, flipped) >= 0.9


def test_reading_of_noisy_and_of_clean_digits() -> None:
    noisy, clean = (measure(ExampleForgetting(), Workbench.on(specimen(n), "deep")) for n in (0.1, 0.0))
    check_reading(noisy, "noisy digits")
    assert noisy.value is not None
    assert clean.value is not None
    assert clean.uncertainty is not None
    assert noisy.uncertainty is not None
    assert noisy.uncertainty.low > clean.uncertainty.high
    [table] = [detail for detail in noisy.details if isinstance(detail, Table)]
    flipped = set(digits(label_noise=0.1).flipped.tolist())
    assert sum(row[0] in flipped for row in table.rows) >= 0.8 * len(table.rows)


def test_the_ledger_is_what_the_network_says_before_each_update() -> None:
    """One example, one batch: a step of size 1 on a linear network whose predictions are known by hand."""
    x, y = torch.tensor([[1.0], [1.0]]), torch.tensor([0, 1])
    linear = nn.Linear(1, 2, bias=False)
    with torch.no_grad():
        linear.weight.copy_(torch.tensor([[0.1], [0.0]]))  # says class 0
    losses = lambda model, x, y: nn.functional.cross_entropy(model(x), y, reduction="none")
    run = fit_many(
        [linear],
        losses,
        x,
        y,
        optimizer=lambda parameters: torch.optim.SGD(parameters, lr=4.0),
        batch_size=1,
        epochs=3,
        generators=[torch.Generator().manual_seed(0)],
        ledger=misclassified,
    )
    # Each step overshoots to the class just presented, so that an example is wrong unless it follows itself.
    found = count_forgetting(1 - run.ledger)  # pyright: ignore[reportOperatorIssue]
    generator, last, right = torch.Generator().manual_seed(0), 0, torch.zeros(3, 2)
    for epoch in range(3):
        for row in torch.randperm(2, generator=generator).tolist():
            right[epoch, row], last = float(last == row), row
        torch.randint(2**62, (), generator=generator)
    assert torch.equal(found.events, count_forgetting(right).events)
    assert torch.equal(found.learned, count_forgetting(right).learned)


def test_the_same_seed_gives_the_same_reading_and_another_seed_another() -> None:
    bench = lambda seed: Workbench.on(specimen(0.1, 200, 6), "deep", seed)
    first, again, other = (
        measure(ExampleForgetting(runs=2), bench(seed)).without_cost() for seed in (0, 0, 1)
    )
    assert first == again
    assert first.value != other.value


def test_a_single_training_has_no_error_bar() -> None:
    reading = measure(ExampleForgetting(runs=1), Workbench.on(specimen(0.0, 200, 4), "deep"))
    assert reading.uncertainty is None
    check_reading(reading, "one training")


def test_networks_that_cannot_be_mapped_and_dropout() -> None:
    class Noisy(nn.Module):
        def __init__(self, generator: torch.Generator) -> None:
            super().__init__()
            self.net, self.drop = mlp([64, 20, 10], generator=generator), nn.Dropout(0.2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            if float(x.sum()) > 1e9:  # control flow by values
                return self.net(x)
            return self.net(self.drop(x))

    made = specimen(0.1, 150, 3)
    recipe = replace(made.recipe or Recipe(), build=lambda *, generator: Noisy(generator))
    data = digits(label_noise=0.1)
    noisy = Specimen(
        Noisy(torch.Generator().manual_seed(0)),
        Classification(),
        (data.train_x[:150], data.train_y[:150]),
        recipe=recipe,
    )
    state = torch.get_rng_state()
    reading = measure(ExampleForgetting(runs=2), Workbench.on(noisy, "deep"))
    check_reading(reading, "dropout, one by one")
    assert any("one by one" in note for note in reading.notes)
    assert torch.equal(torch.get_rng_state(), state)


def test_diverged_trainings_are_said() -> None:
    made = specimen(0.0, 100, 3)
    made.recipe = replace(made.recipe or Recipe(), lr=1e30, momentum=0.0)
    reading = measure(ExampleForgetting(runs=2), Workbench.on(made, "deep"))
    assert reading.verdict.level is Level.NOT_APPLICABLE
    assert "diverged" in reading.verdict.reason


def test_without_a_recipe_or_labels_it_does_not_apply() -> None:
    made = specimen(0.0, 100)
    made.recipe = None
    reading = measure(ExampleForgetting(), Workbench.on(made, "deep"))
    assert reading.verdict.level is Level.NOT_APPLICABLE
    assert "ledger of a watched run" in reading.verdict.reason
    regression = Specimen(nn.Linear(2, 1), Regression(), (torch.ones(5, 2), torch.ones(5, 1)))
    assert measure(ExampleForgetting(), Workbench.on(regression)).verdict.level is Level.NOT_APPLICABLE


def test_the_ledger_of_a_watched_run_is_read(tmp_path: Path) -> None:
    counts = [0] * 90 + [2] * 6 + [-1] * 4
    log = tmp_path / "watch.jsonl"
    lines = [{"header": {"version": 1}}, {"record": {}}, {"summary": {"steps": 3, "forgetting": counts}}]
    log.write_text("\n".join(map(json.dumps, lines)) + "\n{broken", encoding="utf-8")
    bench = Workbench.on(specimen(0.0, 100), "deep")
    reading = measure(ExampleForgetting(watched=str(tmp_path)), bench)
    check_reading(reading, "watched")
    assert reading.value == pytest.approx(0.1)
    assert reading.verdict.level is Level.ATTENTION  # 4% never learned
    assert reading.cost.backward_passes == 0
    [table] = [detail for detail in reading.details if isinstance(detail, Table)]
    assert {row[0] for row in table.rows[:4]} == {96, 97, 98, 99}
    assert read_watched(str(log)) == counts


def test_the_watcher_writes_what_is_read(tmp_path: Path) -> None:
    from torchstone.watching import watch

    made = specimen(0.1, 60)
    model = build(generator=torch.Generator().manual_seed(0))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    probe = Specimen(model, Classification(), made.splits["train"].source)
    x, y = made.splits["train"].source
    with watch(
        model, optimizer, probe, quantities=["forgetting"], examples=60, folder=tmp_path, every=1
    ) as watcher:
        for _ in range(5):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x), y).backward()
            optimizer.step()
            watcher.step()
    assert len(read_watched(str(tmp_path))) == 60


def test_logs_that_do_not_fit(tmp_path: Path) -> None:
    with pytest.raises(FormatError, match=r"watched the quantity 'forgetting'.*none in"):
        read_watched(str(tmp_path))
    (tmp_path / "watch.jsonl").write_text('{"summary": {"forgetting": [0, 1]}}\n', encoding="utf-8")
    reading = measure(ExampleForgetting(watched=str(tmp_path)), Workbench.on(specimen(0.0, 100), "deep"))
    assert reading.verdict.level is Level.ERROR
    assert "one count for each of 100 training examples; got 2" in reading.verdict.reason
    with pytest.raises(SettingError, match=r"forgetting\.watched must be a path"):
        ExampleForgetting(watched=3)  # pyright: ignore[reportArgumentType]


def test_threshold() -> None:
    assert judge(0.02).level is Level.INFORMATIVE
    assert judge(0.021).level is Level.ATTENTION
