"""Memory of autoencoders: networks that store, that know the identity, that project, and those it does not apply to."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from torchstone import Specimen
from torchstone.bounds.proportion import clopper_pearson
from torchstone.details import Histogram, Images, Scalars, Table
from torchstone.errors import SettingError
from torchstone.instruments.measurement import measure
from torchstone.instruments.memory.autoencoder_memory import AutoencoderMemory, judge
from torchstone.objectives import Classification, Regression
from torchstone.reading import Level, Reading
from torchstone.testing import check_batching, check_instrument, check_precision, zoo
from torchstone.workbench import Workbench
from torchstone.workbench.excess import Excess

CASES = {case.name: case for case in zoo(hugging_face=False)}


class Function(nn.Module):
    """A map given as a function."""

    def __init__(self, function: Any) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def reading(model: nn.Module, train: Tensor, test: Tensor | None = None, **settings: Any) -> Reading:
    specimen = Specimen(model, Regression(), (train, train), None if test is None else (test, test))
    return measure(AutoencoderMemory(**settings), Workbench.on(specimen))


def detail(found: Reading, title: str) -> Any:
    return next(one for one in found.details if one.title.startswith(title))


def remembering(stored: Tensor, sharpness: float = 4.0) -> nn.Module:
    """A map that moves every input to a softmax-weighted mean of stored rows: they attract."""

    def function(x: Tensor) -> Tensor:
        flat, rows = x.flatten(1), stored.flatten(1).to(x)
        squares = (flat[:, None] - rows).square().sum(2)
        return ((-sharpness * squares).softmax(1) @ rows).reshape(x.shape)

    return Function(function)


def test_a_map_that_attracts_to_its_examples_is_found_out():
    train, test = drawn(12, 6), drawn(30, 6, seed=1)
    found = reading(remembering(train), train, test)
    assert found.verdict.level is Level.POOR
    assert found.value == 1
    assert found.uncertainty is not None
    assert found.uncertainty.covers == "probes"  # all 12 were asked, with one disturbance each
    assert found.uncertainty.low == clopper_pearson(12, 12).low
    assert "0% of test examples" in found.headline
    assert found.remedies
    shares = {item.name: item.value for item in detail(found, "Where random inputs end").items}
    assert shares["end at a training example"] == 1
    table = detail(found, "Identity or memory")
    assert table.rows[1][2] > table.rows[1][1]


def test_radii_are_the_dense_jacobians_s():
    train = drawn(10, 6)
    model = remembering(train, 1.0)
    found = reading(model, train)
    dense: Any = torch.func.vmap(torch.func.jacrev(lambda row: model(row[None])[0]))(train.double())
    largest = float(torch.linalg.eigvals(dense).abs().amax(1).max())
    assert f"{largest:.3g}" in found.headline
    [note] = [note for note in found.notes if note.startswith("The largest radius")]
    low, high = (float(word.strip(":")) for word in note.split() if word[0].isdigit())
    assert low <= largest * (1 + 1e-4)
    assert largest * (1 - 1e-4) <= high
    histogram = next(one for one in found.details if isinstance(one, Histogram))
    assert sum(histogram.groups[0].counts) == 10


def test_the_identity_stores_nothing_and_keeps_its_inputs():
    found = reading(Function(lambda x: x.clone()), drawn(20, 5), drawn(20, 5, seed=1))
    assert found.verdict.level is Level.GOOD
    assert found.value == 0
    assert detail(found, "Identity or memory").rows[1][1] == pytest.approx(1)


def test_a_projection_that_recalls_new_examples_as_well_is_no_memory():
    """Examples on a line in 100 dimensions: disturbances are off it, for training and test examples alike."""
    direction = torch.nn.functional.normalize(drawn(1, 100), dim=1)
    line = lambda count, seed: 10 * drawn(count, 1, seed=seed) @ direction
    found = reading(Function(lambda x: (x @ direction.T) @ direction), line(30, 1), line(30, 2))
    assert found.value is not None
    assert found.value > 0.9
    assert found.verdict.level is Level.GOOD, found.verdict


def test_a_constant_map_stores_the_one_example_it_returns():
    train = drawn(8, 4)
    found = reading(Function(lambda x: train[:1].expand_as(x).clone()), train)
    assert found.value == pytest.approx(1 / 8)
    assert found.verdict.level is Level.POOR  # every random input ends there


def test_an_exploding_map_is_told():
    found = reading(Function(lambda x: 3 * x), drawn(8, 4), drawn(8, 4, seed=1))
    shares = {item.name: item.value for item in detail(found, "Where random inputs end").items}
    assert shares["run away"] == 1
    assert found.verdict.level is Level.GOOD


def test_wide_inputs_are_searched_with_krylov_spaces_and_the_largest_radius_is_certified():
    weight = drawn(150, 150) / 150**0.5 * 0.4
    weight[0, 0] = 0.9
    exact = float(torch.linalg.eigvals(weight.double()).abs().max())
    found = reading(Function(lambda x: torch.sin(x @ weight.T)), 1e-3 * drawn(6, 150, seed=1))
    assert float(found.headline.split()[-1].strip(".")) == pytest.approx(exact, rel=2e-3)
    assert any("Krylov" in note for note in found.notes)
    assert any("largest radius lies" in note for note in found.notes)


def test_images_are_shown_in_threes_and_codelengths_in_parts():
    train, test = drawn(20, 1, 6, 6), drawn(10, 1, 6, 6, seed=1)
    model = nn.Sequential(
        nn.Flatten(),
        nn.utils.skip_init(nn.Linear, 36, 3),
        nn.utils.skip_init(nn.Linear, 3, 36),
        nn.Unflatten(1, (1, 6, 6)),
    )
    with torch.no_grad():
        for number, parameter in enumerate(model.parameters()):
            parameter.copy_(0.3 * drawn(*parameter.shape, seed=number))
    found = reading(model, train, test)
    images = next(one for one in found.details if isinstance(one, Images))
    assert len(images.pictures) == 12
    table = detail(found, "Codelength")
    assert table.title == "Codelength through the 3 features of layer 1"
    for row in table.rows:
        assert sum(row[1:4]) == pytest.approx(row[4], abs=1e-6)
        assert row[4] > 0
    # The linear autoencoder with as many features is the best of its kind on the training examples.
    assert table.rows[0][6] < table.rows[0][4]


class Skipping(nn.Module):
    """A narrow layer, and a way around it."""

    def __init__(self) -> None:
        super().__init__()
        self.narrow, self.wide = nn.utils.skip_init(nn.Linear, 6, 2), nn.utils.skip_init(nn.Linear, 2, 6)
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.fill_(0.1)

    def forward(self, x: Tensor) -> Tensor:
        return self.wide(self.narrow(x)) + 0.5 * x


def test_a_skip_connection_leaves_no_code():
    found = reading(Skipping(), drawn(20, 6))
    assert not any(isinstance(one, Table) and one.title.startswith("Codelength") for one in found.details)
    assert any("No codelengths" in note for note in found.notes)


def test_the_zoo_s_autoencoder_gets_a_number():
    found = check_instrument(AutoencoderMemory, CASES["autoencoder"])
    assert found is not None
    assert found.measured
    assert isinstance(detail(found, "Reconstruction error"), Scalars)
    check_batching(AutoencoderMemory, CASES["autoencoder"])
    check_precision(AutoencoderMemory, CASES["autoencoder"])


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("tied_weights", "class labels"),
        ("regression", "output has its input's shape"),
        ("language_model", "continuous inputs"),
        ("segmentation", "output has its input's shape"),
        ("batch_norm_as_is", "examples that do not influence each other"),
    ],
)
def test_other_networks_are_told_why_not(name: str, reason: str):
    found = measure(AutoencoderMemory(), Workbench.on(CASES[name].specimen()))
    assert found.verdict.level is Level.NOT_APPLICABLE
    assert reason in found.verdict.reason


def test_a_classifier_with_as_many_classes_as_inputs_is_no_autoencoder():
    x = drawn(20, 4)
    specimen = Specimen(Function(torch.relu), Classification(), (x, x.argmax(1)))
    found = measure(AutoencoderMemory(), Workbench.on(specimen))
    assert "class labels" in found.verdict.reason


def test_several_inputs_are_refused():
    class Two(nn.Module):
        def forward(self, x: Tensor, z: Tensor) -> Tensor:
            return x + z

    x = drawn(10, 4)
    found = measure(AutoencoderMemory(), Workbench.on(Specimen(Two(), Regression(), (x, x, x.clone()))))
    assert "one input" in found.verdict.reason


def test_a_sequence_map_says_that_its_targets_are_others():
    x = drawn(10, 4)
    specimen = Specimen(Function(lambda x: x / 2), Regression(), (x, x.roll(-1, 0)))
    found = measure(AutoencoderMemory(), Workbench.on(specimen))
    assert found.measured
    assert any("targets are not the inputs" in note for note in found.notes)


def test_one_example_copies_and_zeros_have_a_spacing():
    for train in (drawn(1, 4), drawn(1, 4).repeat(6, 1), torch.zeros(5, 4)):
        found = reading(Function(lambda x: x / 2), train)
        assert found.measured, found.verdict


def test_a_sample_of_the_examples_has_an_error_bar():
    train = drawn(40, 5)
    found = reading(remembering(train[:20], 50.0), train, examples=16)
    assert found.uncertainty is not None
    assert found.value is not None
    assert found.uncertainty.covers == "examples"
    assert found.uncertainty.low <= 0.5 <= found.uncertainty.high


def test_verdicts_at_their_thresholds():
    none, sure = Excess(0.0, -0.1), lambda value: Excess(value, 0.01)
    assert judge(sure(0.05), sure(0.05)).level is Level.GOOD
    assert judge(sure(0.06), none).level is Level.ATTENTION
    assert judge(none, sure(0.06)).level is Level.ATTENTION
    assert judge(Excess(0.6, -0.01), none).level is Level.GOOD  # within sampling error
    assert judge(sure(0.51), none).level is Level.POOR
    assert judge(none, sure(0.51)).level is Level.POOR


def test_settings_are_checked():
    with pytest.raises(SettingError, match=r"autoencoder_memory\.tolerance"):
        AutoencoderMemory(tolerance=0.0)
