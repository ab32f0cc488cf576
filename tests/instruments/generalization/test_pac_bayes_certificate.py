"""Certificates of examined networks: what they are made of, what they may not know, and when there is none."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from torchstone.bounds import clopper_pearson
from torchstone.details import Curve, Scalars, Table
from torchstone.errors import SettingError
from torchstone.instruments.generalization.pac_bayes_certificate import PacBayesCertificate, judge
from torchstone.instruments.measurement import measure
from torchstone.objectives import Classification, Regression
from torchstone.reading import Level, Reading
from torchstone.recipe import Recipe
from torchstone.specimen import Specimen
from torchstone.specimens.networks import mlp
from torchstone.training.evaluation import cross_entropy
from torchstone.training.fit import fit
from torchstone.training.gaussian_weights import trained_weights
from torchstone.workbench import Workbench
from torchstone.workbench import certified as module


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def build(*, generator: torch.Generator) -> nn.Module:
    return mlp([4, 16, 3], generator=generator)


def build_with_norm(*, generator: torch.Generator) -> nn.Module:
    return nn.Sequential(
        mlp([4, 16], generator=generator), nn.BatchNorm1d(16), mlp([16, 3], generator=generator)
    )


def sgd(parameters: Any) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, lr=0.1, momentum=0.9)


def data(count: int, seed: int) -> tuple[Tensor, Tensor]:
    x = torch.randn(count, 4, generator=seeded(seed))
    return x, x[:, :3].argmax(1)


def specimen(
    *, start: bool = True, again: bool = True, random: bool = False, maker: Any = build, **settings: Any
) -> Specimen:
    (x, y), test = data(400, 1), data(300, 2)
    if random:
        y = torch.randint(3, (400,), generator=seeded(3))
    model = maker(generator=seeded(4))
    initial = {name: value.clone() for name, value in model.state_dict().items()}
    fit(model, cross_entropy, x, y, optimizer=sgd, batch_size=32, epochs=15, generator=seeded(5))
    recipe = Recipe(
        optimizer=sgd,
        batch_size=32,
        epochs=15,
        build=maker if again else None,
        initial_state=initial if start else None,
    )
    return Specimen(model, Classification(), (x, y), test, recipe=recipe, **settings)


def read(on: Specimen, **settings: Any) -> Reading:
    settings = {"draws": 300, "epochs": 2, **settings}
    return measure(PacBayesCertificate(**settings), Workbench.on(on, "deep"))


def rows(reading: Reading) -> dict[str, dict[str, Any]]:
    [table] = [detail for detail in reading.details if isinstance(detail, Table)]
    return {str(row[0])[:5]: dict(zip(table.columns, row, strict=True)) for row in table.rows}


def test_both_certificates_of_a_learnable_task() -> None:
    reading = read(specimen())
    found = rows(reading)
    assert set(found) == {"aroun", "prior"}
    data_row = found["prior"]
    assert data_row["examples"] == 200
    assert found["aroun"]["examples"] == 400
    for row in found.values():
        assert row["error on the examples"] <= row["bound on the error"] <= 1
        assert row["test error with noise"] <= row["bound on the error"]
    assert reading.value == min(row["bound on the error"] for row in found.values())
    assert reading.value is not None
    assert reading.value < 0.4
    assert reading.verdict.level is Level.GOOD
    assert "with probability 95%" in reading.headline
    assert reading.uncertainty is not None
    assert (reading.uncertainty.low, reading.uncertainty.confidence) == (0.0, 0.95)
    [curve] = [detail for detail in reading.details if isinstance(detail, Curve)]
    assert len(curve.lines[0].x) == len(module.WIDTHS)


def test_the_limit_from_test_examples_is_one_sided_at_delta() -> None:
    on = specimen()
    reading = read(on, delta=0.02)
    x, y = data(300, 2)
    wrong = int((on.model(x).argmax(1) != y).sum())
    [scalars] = [detail for detail in reading.details if isinstance(detail, Scalars)]
    values = {item.name: item.value for item in scalars.items}
    assert values["test error of the examined network"] == pytest.approx(wrong / 300, rel=1e-12)
    assert values["its upper limit from the 300 test examples"] == clopper_pearson(wrong, 300, 0.96).high


def test_random_labels_get_no_certificate() -> None:
    reading = read(specimen(random=True))
    assert reading.value is not None
    assert reading.value > 0.6
    assert reading.verdict.level is Level.INFORMATIVE
    assert "promises nothing" in reading.headline
    assert reading.remedies[0].block == "torchstone.training.certified.train_certified"


def test_delta_is_shared_only_where_there_are_two() -> None:
    both, alone = read(specimen()), read(specimen(start=False))
    assert any("may fail with probability 0.025" in note for note in both.notes)
    assert not any("each" in note for note in alone.notes)
    assert set(rows(alone)) == {"prior"}
    assert set(rows(read(specimen(again=False)))) == {"aroun"}


def test_without_any_data_free_weights_it_does_not_apply() -> None:
    for on in (
        specimen(start=False, again=False),
        Specimen(build(generator=seeded()), Classification(), data(50, 1)),
    ):
        reading = read(on)
        assert reading.verdict.level is Level.NOT_APPLICABLE
        assert "Recipe(initial_state=...)" in reading.verdict.reason


def test_regression_does_not_apply() -> None:
    on = Specimen(build(generator=seeded()), Regression(), (data(50, 1)[0], torch.zeros(50, 3)))
    assert read(on).verdict.level is Level.NOT_APPLICABLE


def test_the_prior_knows_only_its_own_examples(monkeypatch: pytest.MonkeyPatch) -> None:
    """Other labels on the certificate's half leave the prior's centre alone, and change the certificate."""
    centres: list[tuple[Tensor, Tensor]] = []
    original = module.fit_pac_bayes

    def watched(model: nn.Module, losses: Any, x: Any, y: Tensor, **settings: Any) -> Any:
        centres.append((torch.cat([w.flatten() for w in trained_weights(model).values()]), x[0]))
        return original(model, losses, x, y, **settings)

    monkeypatch.setattr(module, "fit_pac_bayes", watched)
    on = specimen(start=False)
    first = read(on)
    bound_x = centres[0][1]
    x, y = data(400, 1)
    here = (x[:, None] == bound_x[None]).all(2).any(1)
    assert int(here.sum()) == 200
    spoiled = torch.where(here, (y + 1) % 3, y)
    second = read(Specimen(on.model, Classification(), (x, spoiled), data(300, 2), recipe=on.recipe))
    assert torch.equal(centres[0][0], centres[1][0])
    assert first.value is not None
    assert second.value is not None
    assert second.value > 0.9 > first.value


def test_running_statistics_must_be_initial_ones() -> None:
    on = specimen(maker=build_with_norm)
    assert set(rows(read(on))) == {"aroun", "prior"}
    assert on.recipe is not None
    assert on.recipe.initial_state is not None
    parameters = dict(on.model.named_parameters())
    only = {name: value for name, value in on.recipe.initial_state.items() if name in parameters}
    recipe = Recipe(optimizer=sgd, batch_size=32, epochs=15, build=build_with_norm, initial_state=only)
    reading = read(Specimen(on.model, Classification(), data(400, 1), recipe=recipe))
    assert set(rows(reading)) == {"prior"}
    assert any("1.running_mean, which may come from the data" in note for note in reading.notes)


def test_incomplete_recipes_and_diverged_trainings_are_said() -> None:
    on = specimen()
    assert on.recipe is not None
    recipe = Recipe(build=build, initial_state=on.recipe.initial_state)
    reading = read(Specimen(on.model, Classification(), data(400, 1), recipe=recipe))
    assert set(rows(reading)) == {"aroun"}
    assert any("batch_size and epochs" in note for note in reading.notes)
    wild = Recipe(
        optimizer=lambda parameters: torch.optim.SGD(parameters, lr=1e30),
        batch_size=32,
        epochs=3,
        build=build,
    )
    reading = read(Specimen(on.model, Classification(), data(400, 1), recipe=wild))
    assert reading.verdict.level is Level.NOT_APPLICABLE
    assert "diverged" in reading.verdict.reason


def test_the_batch_size_and_order_of_questions_do_not_matter() -> None:
    first, second = read(specimen(batch_size=7)), read(specimen(batch_size=64))
    assert first.value == second.value
    assert first.details == second.details


def test_the_best_width() -> None:
    tried = [(0.001, 0.0, 1.0), (0.01, 0.01, 1.0), (0.1, 0.3, 1.0)]
    assert module._best_width(tried) == 0.01
    assert module._best_width([*tried, (0.2, 0.4, 0.9)]) == 0.2


def test_judge() -> None:
    assert judge(0.3, 0.5).level is Level.GOOD
    assert judge(0.5, 0.5).level is Level.INFORMATIVE
    assert "0.5" in judge(0.7, 0.5).threshold


@pytest.mark.parametrize(
    "wrong", [{"delta": 0.0}, {"prior_share": 1.0}, {"epochs": 0}, {"noise": 0.0}, {"draws": 1}]
)
def test_settings_are_checked(wrong: dict[str, Any]) -> None:
    with pytest.raises(SettingError, match=f"pac_bayes_certificate.{next(iter(wrong))}"):
        PacBayesCertificate(**wrong)
