"""Loops over data, and what a specimen refuses."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from torchstone.errors import ObjectiveError, RaggedError, SettingError, SpecimenError
from torchstone.objectives import CausalLM, Classification, Objective, Regression
from torchstone.operators import ParameterSpace
from torchstone.specimen import Specimen
from torchstone.testing import dense_gradient, model_state, same_state


def data(count: int = 1003) -> tuple[Tensor, Tensor]:
    x = torch.randn(count, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return x, (x[:, 0] > 0).long()


def model() -> nn.Module:
    network = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 2)).double()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    return network.train()


@pytest.mark.parametrize("size", [1, 64, 1003, 5000])
def test_the_batched_mean_is_the_full_mean(size: int) -> None:
    network, (x, y) = model(), data()
    losses = nn.functional.cross_entropy(network(x), y, reduction="none").detach()
    expected = float(losses.mean())
    before = model_state(network)
    specimen = Specimen(network, Classification(), (x, y), batch_size=size)
    assert specimen.risk() == pytest.approx(expected, abs=1e-12)
    loader = DataLoader(TensorDataset(x, y), batch_size=size)
    assert Specimen(network, Classification(), loader).risk() == pytest.approx(expected, abs=1e-12)
    assert torch.allclose(specimen.example_losses(), losses, atol=1e-14)
    assert same_state(before, model_state(network))


def test_half_precision_losses_are_summed_in_float64() -> None:
    x = torch.full((20_000, 1), 0.1)
    network = nn.Linear(1, 1, bias=False)
    nn.init.ones_(network.weight)
    specimen = Specimen(network, Regression(), (x, torch.zeros(20_000, 1)), batch_size=7)
    assert specimen.risk() == pytest.approx(float(torch.tensor(0.1) ** 2), rel=1e-9)


def test_gradient_and_sums() -> None:
    network, (x, y) = model(), data(37)
    specimen = Specimen(network, Classification(), (x, y), batch_size=5)
    flat = torch.cat([part.flatten() for part in specimen.gradient().values()])
    assert torch.allclose(flat, dense_gradient(specimen), atol=1e-14)
    total = specimen.sum_over(lambda batch: batch[0].sum(0))
    assert torch.allclose(total, x.sum(0), atol=1e-12)
    first, second = specimen.mean_over(lambda batch: (batch[0].sum(0), batch[0].square().sum()))
    assert torch.allclose(first, x.mean(0), atol=1e-13)
    assert float(second) == pytest.approx(float(x.square().sum()) / 37)
    assert torch.equal(specimen.map_over(lambda batch: batch[1]), y)


def test_passes_are_counted() -> None:
    specimen = Specimen(model(), Classification(), data(50), batch_size=20)
    specimen.gradient()
    specimen.risk()
    assert (specimen.passes.forward, specimen.passes.backward) == (100, 50)


def test_data_are_cast_and_labels_kept() -> None:
    x, y = data(10)
    specimen = Specimen(model().float(), Classification(), (x, y)).prepared()
    assert "cast from float64 to float32" in specimen.findings[0]
    assert next(specimen.batches())[1].dtype == torch.int64


def test_a_copy_goes_to_another_device() -> None:
    specimen = Specimen(model(), Classification(), data(10))
    moved = specimen.to("meta")
    assert moved.device.type == "meta"
    assert specimen.device.type == "cpu"
    assert next(specimen.model.parameters()).device.type == "cpu"
    assert specimen.to("cpu") is specimen
    with pytest.raises(SettingError, match="nonsense"):
        specimen.to("nonsense")


class PerBatch(Objective):
    def outputs(self, model: nn.Module, batch: Any) -> Tensor:
        return model(batch[0])

    def losses(self, outputs: Tensor, batch: Any) -> Tensor:
        return nn.functional.cross_entropy(outputs, batch[1])


def test_a_loss_that_is_not_per_example_is_refused() -> None:
    with pytest.raises(ObjectiveError, match=r'shape \(10,\); got shape \(\)\. Use reduction="none"'):
        Specimen(model(), PerBatch(), data(10)).prepared()


class Failing(PerBatch):
    def losses(self, outputs: Tensor, batch: Any) -> Tensor:
        return batch[7]


class ReturnsFloat(PerBatch):
    def losses(self, outputs: Tensor, batch: Any) -> Any:
        return 0.5


class ReturnsList(PerBatch):
    def outputs(self, model: nn.Module, batch: Any) -> Any:
        return [model(batch[0])]


class Averages(PerBatch):
    def outputs(self, model: nn.Module, batch: Any) -> Tensor:
        return model(batch[0]).mean()


@pytest.mark.parametrize(
    ("objective", "words"),
    [
        (Failing(), "Failing must give the losses of a batch; got IndexError: tuple index out of range"),
        (ReturnsFloat(), "one loss per example, shape (10,); got a float"),
        (ReturnsList(), "one row per example, shape (10, ...); got list"),
        (Averages(), "one row per example, shape (10, ...); got shape ()"),
    ],
)
def test_objectives_of_ones_own_that_go_wrong(objective: Objective, words: str) -> None:
    with pytest.raises(ObjectiveError) as error:
        Specimen(model(), objective, data(10)).prepared()
    assert words in str(error.value)
    assert "\n" not in str(error.value)


def test_sums_never_write_into_what_they_add() -> None:
    """A float64 part of the first batch needs no cast, so it is still the function's own tensor."""
    network, (x, y) = model(), data(9)
    specimen = Specimen(network, Classification(), [(x[:4], y[:4]), (x[4:], y[4:])])
    weight = next(network.parameters())
    kept, before = [], weight.detach().clone()
    specimen.sum_over(lambda batch: kept.append(batch[0].sum(0)) or kept[-1])
    assert torch.allclose(kept[0], x[:4].sum(0))
    doubled = specimen.sum_over(lambda _: weight)
    assert torch.equal(doubled, 2 * before)
    assert torch.equal(weight, before)


@pytest.mark.parametrize("pieces", [1, 3])
def test_what_is_given_away_has_the_same_mean_to_the_bit(pieces: int) -> None:
    """Rounding a quotient in float64 to float32 is the quotient in float32; several batches are added in float64."""
    x = torch.randn(9, 20_000, generator=torch.Generator().manual_seed(0)) * 1e-3
    specimen = Specimen(nn.Linear(20_000, 1), Regression(), [(part, part) for part in x.split(9 // pieces)])
    function = lambda batch: batch[0].sum(0)
    careful, given = specimen.mean_over(function), specimen.mean_over(function, given=True)
    assert careful.dtype == torch.float64
    assert given.dtype == (torch.float32 if pieces == 1 else torch.float64)
    assert torch.equal(given.float(), careful.float())
    pair = specimen.sum_over(lambda batch: (function(batch), function(batch).double()), given=True)
    assert torch.equal(pair[0].float(), specimen.sum_over(function).float())
    assert pair[1].dtype == torch.float64


def test_rows_of_different_shapes_are_told_apart() -> None:
    ragged = [torch.zeros(3, 5, dtype=torch.long), torch.zeros(3, 7, dtype=torch.long)]
    specimen = Specimen(nn.Sequential(nn.Embedding(4, 4)), CausalLM(), ragged)
    assert specimen.example_losses().shape == (6,)
    with pytest.raises(RaggedError, match=r"one shape here; got \(5, 4\), \(7, 4\)"):
        specimen.map_over(specimen.forward)


def test_gradients_where_nothing_trainable_is_used() -> None:
    network = nn.Sequential(nn.Linear(4, 2), nn.Identity()).double()
    network[0].requires_grad_(False)
    network[1].register_parameter("unused", nn.Parameter(torch.ones(3, dtype=torch.float64)))
    gradient = Specimen(network, Classification(), data(10)).gradient()
    assert list(gradient) == ["1.unused"]
    assert torch.equal(gradient["1.unused"], torch.zeros(3, dtype=torch.float64))


def test_layers_frozen_later_are_seen() -> None:
    network = model()
    specimen = Specimen(network, Classification(), data(10))
    assert len(specimen.trainable) == 4
    network[0].requires_grad_(False)  # pyright: ignore[reportIndexIssue]
    assert len(specimen.prepared().trainable) == 2


def test_preparing_twice_says_things_once() -> None:
    x, y = data(10)
    once = Specimen(model().float(), Classification(), (x, y)).prepared()
    assert once.prepared().findings == once.findings


def test_ignored_labels_are_no_class() -> None:
    x, _ = data(10)
    labels = torch.zeros(10, dtype=torch.long)
    labels[3] = -100
    with pytest.raises(SpecimenError, match="at least two classes; got only class 0"):
        Specimen(model(), Classification(), (x, labels)).prepared()


def split_devices() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2).to("meta"))


def diverged() -> nn.Module:
    network = model()
    with torch.no_grad():
        next(network.parameters())[0, 0] = float("inf")
    return network


@pytest.mark.parametrize(
    ("make", "train", "words"),
    [
        (split_devices, data(9), "one device; got cpu, meta"),
        (lambda: nn.Linear(4, 2, device="meta"), data(9), r"must have values.*meta device.*load_state_dict"),
        (diverged, data(9), "NaN or infinite values in 0.weight"),
        (lambda: nn.LazyLinear(2), data(9), "initialised; got lazy weight"),
        (model, (data(9)[0] * float("nan"), data(9)[1]), "The train data must be finite"),
        (model, (data(9)[0], torch.zeros(9, dtype=torch.long)), "at least two classes"),
        (model, (data(9)[0][:, :3], data(9)[1]), "RuntimeError from forward"),
    ],
)
@pytest.mark.filterwarnings("ignore:Lazy modules")
def test_specimens_that_cannot_be_examined(make: Any, train: Any, words: str) -> None:
    with pytest.raises(SpecimenError, match=words):
        Specimen(make(), Classification(), train).prepared()


class Altered(nn.Module):
    """A dense layer whose outputs go through a function."""

    def __init__(self, change: Any) -> None:
        super().__init__()
        self.layer, self.change = nn.Linear(4, 2).double(), change

    def forward(self, x: Tensor) -> Tensor:
        return self.change(self.layer(x))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (torch.detach, r"losses without a gradient. Take detach\(\)"),
        (torch.no_grad()(lambda h: 2 * h), "losses without a gradient"),
        (lambda h: torch.from_numpy(h.detach().numpy() + 1), "losses without a gradient"),
        (lambda h: h.exp().mul_(2), r"in place that overwrites it \(.* output 0 of Exp"),
    ],
)
def test_losses_that_autograd_cannot_differentiate(change: Any, words: str) -> None:
    specimen = Specimen(Altered(change), Classification(), data(9)).prepared()
    for _ in range(2):  # a refusal is not forgotten
        with pytest.raises(SpecimenError, match=words):
            ParameterSpace.of(specimen)
    assert specimen.risk() > 0


def test_a_gradient_in_a_later_batch_is_enough_and_is_not_counted() -> None:
    class Switched(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(4, 2).double()

        def forward(self, x: Tensor) -> Tensor:
            return self.layer(x) if len(x) < 4 else x[:, :2]

    specimen = Specimen(Switched(), Classification(), data(9), batch_size=4)
    specimen.require_gradient()
    assert (specimen.passes.forward, specimen.passes.backward) == (0, 0)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((lambda x: x, Classification(), data(5)), "torch.nn.Module; got function"),
        ((nn.Linear, Classification(), data(5)), "torch.nn.Module; got the class Linear"),
        ((nn.Linear(1, 1), "cross_entropy", data(5)), "must be an Objective; got str"),
        ((nn.Linear(1, 1), Classification, data(5)), "the class Classification"),
        (
            (nn.Linear(1, 1), CausalLM(), torch.zeros(3, 4).long(), None, {"lr": 0.1}),
            "recipe must be a Recipe",
        ),
    ],
)
def test_arguments_of_the_wrong_kind(arguments: Any, words: str) -> None:
    with pytest.raises(SpecimenError, match=words):
        Specimen(*arguments)


@pytest.mark.parametrize(
    "options", [{"mode": "train"}, {"batch_size": 0}, {"batch_size": "64"}, {"batch_size": 2.0}]
)
def test_options_out_of_range(options: dict[str, Any]) -> None:
    with pytest.raises(SettingError, match=next(iter(options))):
        Specimen(nn.Linear(1, 1), Classification(), data(5), **options)


@pytest.mark.parametrize("device", ["nonsense", "cuda:99", 3.5])
def test_devices_that_do_not_exist(device: Any) -> None:
    with pytest.raises(SettingError, match="device must be one that PyTorch can use here"):
        Specimen(model(), Classification(), data(10)).to(device)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_data_on_the_cpu_meet_a_model_on_the_gpu() -> None:
    x, y = data(100)
    on_cpu, on_gpu = (
        Specimen(model().to(device), Classification(), (x, y), batch_size=32) for device in ("cpu", "cuda")
    )
    assert on_gpu.risk() == pytest.approx(on_cpu.risk(), rel=1e-10)
