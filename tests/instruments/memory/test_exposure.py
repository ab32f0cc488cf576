"""Exposure of canaries in language models: planted, not planted, extrapolated, in every kind of batch."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from torchstone import examine
from torchstone.atlas.claims.memorisation import secrets_are_exposed as claim
from torchstone.atlas.claims.memorisation._window_model import WindowModel
from torchstone.details import Table
from torchstone.errors import SettingError
from torchstone.instruments.measurement import measure
from torchstone.instruments.memory.exposure import Exposure, judge
from torchstone.memory.canaries import CanaryFormat
from torchstone.objectives import CausalLM, Classification
from torchstone.reading import Level
from torchstone.recipe import Recipe
from torchstone.specimen import Specimen
from torchstone.testing.conformance import check_reading
from torchstone.workbench import Workbench

DIGITS = tuple(range(10))
SECRET = (2, 3, 4, 5)


@pytest.fixture(scope="module")
def memorised() -> tuple[nn.Module, Tensor, Tensor]:
    """A model trained on other people's digits and ten copies of one canary."""
    generator = torch.Generator().manual_seed(0)
    others, canary = claim.PIN.draw(claim.OTHERS, generator), claim.PIN.draw(1, generator)
    [model] = claim.trained(others, canary[None], 10, generator)
    return model, others, canary


def settings(canaries: Tensor, **more: Any) -> Exposure:
    return Exposure(tuple(map(tuple, canaries.tolist())), SECRET, DIGITS, **more)


def bench_of(model: nn.Module, data: Any, recipe: Recipe | None = None, seed: int = 0) -> Workbench:
    return Workbench.on(Specimen(model, CausalLM(), data, recipe=recipe), seed=seed)


def test_a_planted_canary_is_read_out(memorised: tuple[nn.Module, Tensor, Tensor]) -> None:
    model, others, canary = memorised
    start = WindowModel(claim.VOCABULARY, generator=torch.Generator().manual_seed(1))
    recipe = Recipe(initial_state=start.state_dict())
    reading = measure(settings(canary), bench_of(model, others, recipe))
    check_reading(reading, "planted")
    assert reading.value == pytest.approx(math.log2(10_000))
    assert reading.uncertainty is None  # exact
    assert reading.verdict.level is Level.POOR
    [table] = [detail for detail in reading.details if isinstance(detail, Table)]
    assert table.rows[0][3] == "yes"
    assert isinstance(table.rows[0][2], float)  # before training
    assert any("Before training" in note for note in reading.notes)


def test_canaries_that_were_not_planted_are_what_chance_gives(
    memorised: tuple[nn.Module, Tensor, Tensor],
) -> None:
    model, others, _ = memorised
    strangers = claim.PIN.draw(12, torch.Generator().manual_seed(5))
    reading = measure(settings(strangers), bench_of(model, others))
    check_reading(reading, "not planted")
    assert reading.verdict.level is Level.GOOD
    assert reading.value is not None
    assert reading.value < math.log2(12 / 0.05)


def test_a_fitted_law_finds_the_planted_canary_too(memorised: tuple[nn.Module, Tensor, Tensor]) -> None:
    model, others, canary = memorised
    reading = measure(settings(canary, most=100, samples=500), bench_of(model, others))
    check_reading(reading, "extrapolated")
    assert reading.uncertainty is not None
    assert reading.uncertainty.low > 5
    assert any("skew-normal" in note for note in reading.notes)
    assert reading.value is not None
    assert ("all 13.3 bits and more" in reading.headline) == (reading.value > math.log2(10_000))


def test_no_report_or_journal_holds_the_secrets(
    memorised: tuple[nn.Module, Tensor, Tensor], tmp_path: Path
) -> None:
    model, others, canary = memorised
    specimen = Specimen(model, CausalLM(), others)
    again = {"canaries": settings(canary).canaries, "secret": SECRET, "alphabet": DIGITS}
    found = examine(specimen, only=["exposure"], settings={"exposure": again}, output=tmp_path)
    assert found.readings["exposure"].settings["canaries"] == "1, not shown"
    secret = ", ".join(map(str, canary[0].tolist()))
    for file in tmp_path.iterdir():
        assert secret not in file.read_text(encoding="utf-8"), file
        assert secret.replace(" ", "") not in "".join(file.read_text(encoding="utf-8").split()), file
    assert secret not in repr(settings(canary))
    # Other canaries are measured anew in the same folder, as many as they are.
    other = claim.PIN.draw(1, torch.Generator().manual_seed(8))
    again["canaries"] = settings(other).canaries
    renewed = examine(specimen, only=["exposure"], settings={"exposure": again}, output=tmp_path)
    assert renewed.readings["exposure"].value != found.readings["exposure"].value


@pytest.mark.parametrize("kind", ["mapping", "mask", "tuple"])
def test_batches_of_every_kind(memorised: tuple[nn.Module, Tensor, Tensor], kind: str) -> None:
    model, others, canary = memorised
    expected = measure(settings(canary), bench_of(model, others)).value
    data: Any = [{"input_ids": others}]
    if kind == "mask":
        data = [{"input_ids": others, "attention_mask": torch.ones_like(others)}]
    if kind == "tuple":
        data = [(others,)]
    assert measure(settings(canary), bench_of(model, data)).value == expected


def test_a_hugging_face_model() -> None:
    transformers = pytest.importorskip("transformers")
    from torchstone.objectives import HuggingFace

    config = transformers.GPT2Config(
        vocab_size=12, n_positions=8, n_embd=16, n_layer=1, n_head=2, bos_token_id=None, eos_token_id=None
    )
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        model = transformers.GPT2LMHeadModel(config)
    canaries = claim.PIN.draw(3, torch.Generator().manual_seed(0))
    data = [{"input_ids": canaries, "labels": canaries}]
    specimen = Specimen(model, HuggingFace(), data)
    reading = measure(settings(canaries, most=100, samples=100, expansions=50), Workbench.on(specimen))
    check_reading(reading, "GPT-2")
    assert reading.value is not None


def test_the_same_seed_gives_the_same_reading() -> None:
    generator = torch.Generator().manual_seed(0)
    model, data = WindowModel(12, generator=generator), claim.PIN.draw(20, generator)
    first, again, other = (
        measure(settings(data[:3], most=10, samples=50), bench_of(model, data, seed=s)).without_cost()
        for s in (0, 0, 1)
    )
    assert first == again
    assert first.value != other.value


def test_a_search_that_ends_early_is_said() -> None:
    generator = torch.Generator().manual_seed(0)
    model, data = WindowModel(12, generator=generator), claim.PIN.draw(20, generator)
    reading = measure(settings(data[:2], expansions=1), bench_of(model, data))
    assert any("ran out of its budget for 2 of 2" in note for note in reading.notes)
    [table] = [detail for detail in reading.details if isinstance(detail, Table)]
    assert table.rows[0][3] == "not found in time"


def test_without_canaries_or_a_language_model_it_does_not_apply() -> None:
    generator = torch.Generator().manual_seed(0)
    data = claim.PIN.draw(20, generator)
    model = WindowModel(12, generator=generator)
    reading = measure(Exposure(), bench_of(model, data))
    assert reading.verdict.level is Level.NOT_APPLICABLE
    assert "canaries" in reading.verdict.reason
    classifier = Specimen(nn.Linear(2, 2), Classification(), (torch.ones(4, 2), torch.tensor([0, 1, 0, 1])))
    reading = measure(settings(data[:1]), Workbench.on(classifier))
    assert reading.verdict.level is Level.NOT_APPLICABLE


@pytest.mark.parametrize(
    ("canaries", "secret", "alphabet", "message"),
    [
        (((1, 2),), None, (0, 1), "belong together"),
        (((1, 2), (1, 2, 3)), (1,), (2, 3), "sequences of one length"),
        (((1, 2.5),), (1,), (2, 3), "exposure.canaries must hold whole numbers"),
        (((1, -2),), (1,), (2, 3), "exposure.canaries must hold whole numbers"),
        (((1, 2),), "x", (2, 3), "exposure.secret must hold whole numbers"),
        (((1, 2),), (1,), (), "exposure.alphabet must hold whole numbers"),
    ],
)
def test_settings_that_do_not_fit(canaries: Any, secret: Any, alphabet: Any, message: str) -> None:
    with pytest.raises(SettingError, match=message):
        Exposure(canaries, secret, alphabet)


def test_tokens_that_the_network_does_not_know() -> None:
    generator = torch.Generator().manual_seed(0)
    data = claim.PIN.draw(20, generator)
    model = WindowModel(12, generator=generator)
    for canary, alphabet in (((10, 99, 1), DIGITS), ((10, 11, 1), (1, 12))):
        reading = measure(Exposure((canary,), (2,), alphabet), bench_of(model, data))
        assert reading.verdict.level is Level.ERROR
        assert "tokens that the network knows" in reading.verdict.reason


def test_canaries_of_several_formats_are_ranked_each_in_its_own() -> None:
    generator = torch.Generator().manual_seed(0)
    model = WindowModel(12, generator=generator)
    data = claim.PIN.draw(20, generator)
    other = CanaryFormat((11, 10, None, None, None, None), DIGITS).draw(2, generator)
    both = torch.cat([data[:2], other])
    [table] = [d for d in measure(settings(both), bench_of(model, data)).details if isinstance(d, Table)]
    for k, canary in enumerate(both):
        alone = measure(settings(canary[None]), bench_of(model, data)).value
        assert table.rows[k][1] == alone


def test_thresholds() -> None:
    assert judge(13.0, 1, 1).level is Level.POOR
    assert judge(math.log2(10 / 0.05), 10, 0).level is Level.ATTENTION
    assert judge(math.log2(10 / 0.05) - 0.01, 10, 0).level is Level.GOOD
