"""The comparison: same data, same order, numbers that an independent measurement repeats, and its telling."""

from __future__ import annotations

import copy
import io
import json
from typing import Any

import pytest
import torch
from rich.console import Console
from torch import Tensor, nn

import torchstone
from torchstone import Classification, Recipe, Specimen
from torchstone.details import Curve, Table
from torchstone.errors import RemedyError
from torchstone.examination import Examination
from torchstone.instruments.catalogue import make
from torchstone.instruments.measurement import measure
from torchstone.mending import Attempt, at_the_start, told
from torchstone.mending.comparison import Comparison
from torchstone.reading import Level, Reading
from torchstone.report.remedy import show_remedy
from torchstone.serialise import from_plain, to_plain
from torchstone.training.evaluation import cross_entropy
from torchstone.training.fit import fit
from torchstone.workbench import Workbench

DEPTH = 30


def data() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    y = torch.arange(120) % 3
    return torch.eye(6)[y] * 2 + 0.3 * torch.randn(120, 6, generator=generator), y


def network(*, generator: torch.Generator) -> nn.Sequential:
    """Thirty tanh layers whose weights are too small by half."""
    layers: list[nn.Module] = []
    for inputs in [6, *[16] * (DEPTH - 1)]:
        layers += [nn.utils.skip_init(nn.Linear, inputs, 16), nn.Tanh()]
    layers.append(nn.utils.skip_init(nn.Linear, 16, 3))
    for layer in layers:
        if isinstance(layer, nn.Linear):
            nn.init.normal_(layer.weight, 0, 0.5 * layer.in_features**-0.5, generator=generator)
            nn.init.zeros_(layer.bias)
    return nn.Sequential(*layers)


def sgd(parameters: Any) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, lr=0.01, momentum=0.9)


def specimen(**changes: Any) -> Any:
    recipe: dict[str, Any] = {"build": network, "optimizer": sgd, "batch_size": 40, **changes}
    return Specimen(
        network(generator=torch.Generator().manual_seed(9)), Classification(), data(), recipe=Recipe(**recipe)
    )


def attempt(remedy: str, epochs: int = 0, **changes: Any) -> Attempt:
    return Attempt(Workbench.on(specimen(**changes), "quick", 0), remedy, epochs)


def compared(remedy: str, epochs: int = 0, **changes: Any) -> Comparison:
    return attempt(remedy, epochs, **changes).compare([make("activation_health"), make("gradient_flow")])


def test_a_bad_start_is_mended_and_trains() -> None:
    found = compared("init=orthogonal", epochs=12)
    untrained = found.stages[0]
    before, after = (part["gradient_flow"] for part in (untrained.before, untrained.after))
    assert before.verdict.level is Level.POOR
    assert after.verdict.level is Level.GOOD
    bad, good = found.runs
    assert bad.train == pytest.approx(1.0986, abs=0.01)  # log 3: nothing was learned
    assert good.train < 0.1
    reading = told(found)
    assert "untrained, better in" in reading.headline
    assert "instead of 1.1" in reading.headline


def test_readings_and_training_are_what_measuring_each_network_alone_gives() -> None:
    made = attempt("norm=layer", epochs=2)
    alone = [copy.deepcopy(part.model) for part in (made.mended.before, made.mended.after)]
    order = [made.bench.generator("remedy: order of examples") for _ in alone]
    found = made.compare([make("activation_health"), make("gradient_flow")])
    for model, run, generator in zip(alone, found.runs, order, strict=True):
        single = Specimen(copy.deepcopy(model), Classification(), data(), name="alone")
        bench = Workbench.on(single, "quick", 0)
        expected = measure(make("gradient_flow"), bench).value
        stage = found.stages[0]
        part = stage.before if run is found.runs[0] else stage.after
        assert part["gradient_flow"].value == pytest.approx(expected, rel=1e-6)
        history = fit(
            model, cross_entropy, *data(), optimizer=sgd, batch_size=40, epochs=2, generator=generator
        )
        assert run.losses == pytest.approx(history["train_loss"], rel=1e-3)  # float32 in another order


def test_a_live_optimizer_with_groups_is_made_anew_for_the_changed_network() -> None:
    made = specimen()
    groups = [
        {"params": list(made.model[0].parameters()), "lr": 0.5},
        {"params": [p for layer in list(made.model)[1:] for p in layer.parameters()], "lr": 0.01},
    ]
    made.recipe = Recipe(build=network, optimizer=torch.optim.Adam(groups), batch_size=40)
    trial = Attempt(Workbench.on(made, "quick", 0), "norm=layer", 1)
    model: Any = trial.mended.after.model
    optimizer = trial._optimizer(model, dict(trial.mended.named))
    rates = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
    assert set(rates) == {id(p) for p in model.parameters()}
    first, norm = model[0]
    assert rates[id(first.weight)] == 0.5
    assert rates[id(norm.weight)] == 0.5  # of no group before: the first
    assert rates[id(model[2][0].weight)] == 0.01


def test_a_training_that_diverges_is_told() -> None:
    wild = lambda parameters: torch.optim.SGD(parameters, lr=1e38, momentum=0.9)
    found = compared("init=orthogonal", epochs=2, optimizer=wild)
    assert any(run.train == float("inf") and "finite" in run.stopped for run in found.runs)
    reading = told(found)
    assert any(note.startswith("Training stopped") for note in reading.notes)
    assert from_plain(Reading, to_plain(reading)) == reading


@pytest.mark.parametrize("missing", ["batch_size", "optimizer", "build"])
def test_training_needs_a_whole_recipe(missing: str) -> None:
    incomplete: dict[str, Any] = {missing: None}
    with pytest.raises(RemedyError, match=r"Training both networks needs Recipe\(build="):
        attempt("norm=layer", 1, **incomplete)
    assert attempt("norm=layer", **incomplete).mended.changes


def test_what_is_measured_at_the_start_is_in_the_catalogue() -> None:
    assert {"activation_health", "gradient_flow"} <= {one.META.id for one in at_the_start()}


@pytest.mark.parametrize("epochs", [-1, True, 1.5])
def test_epochs_are_a_whole_number(epochs: Any) -> None:
    with pytest.raises(RemedyError, match="The number of epochs is a whole number"):
        attempt("norm=layer", epochs)


def examined(**options: Any) -> Examination:
    return torchstone.examine(specimen(), "quick", only=["gradient_flow"], progress=False, **options)


def test_an_examination_holds_the_comparison_and_survives_json() -> None:
    found = examined(trying="init=orthogonal,norm=layer", trying_epochs=1)
    assert found.complete
    reading = found.readings["remedy_tried"]
    assert "trying='init=orthogonal,norm=layer'" in found.command
    assert reading.settings == {"remedy": "init=orthogonal,norm=layer", "epochs": 1}
    assert [type(detail) for detail in reading.details] == [Table, Curve, Curve, Table]
    rows = reading.details[0].rows  # pyright: ignore[reportAttributeAccessIssue]
    assert [row[0] for row in rows] == ["Gradient flow, depth scales"] * 2 + ["training loss"]
    assert Examination.from_json(found.to_json()) == found
    json.loads(found.to_json())
    for text in (found.to_html(), found.to_markdown()):
        assert "verdict after" in text
    again = examined(trying="init=orthogonal,norm=layer", trying_epochs=1)
    assert again.readings["remedy_tried"].without_cost() == reading.without_cost()


def test_what_cannot_be_applied_is_refused_before_anything_is_measured(tmp_path: Any) -> None:
    with pytest.raises(RemedyError, match="norm=none needs"):
        examined(trying="norm=none", output=tmp_path)
    assert not (tmp_path / "journal.jsonl").exists()


def test_the_terminal_shows_both_sides() -> None:
    written = io.StringIO()
    show_remedy(examined(trying="init=orthogonal"), Console(file=written, width=120))
    text = written.getvalue()
    assert "verdict before" in text
    assert "init=orthogonal" in text
    assert "poor" in text
    empty = io.StringIO()
    show_remedy(examined(), Console(file=empty))
    assert not empty.getvalue()


def test_equal_changes_are_told_together() -> None:
    table = told(compared("norm=layer")).details[-1]
    assert isinstance(table, Table)
    assert table.rows == (("LayerNorm behind it", 30, "0, 2, 4, 6, 8, 10, …"),)
