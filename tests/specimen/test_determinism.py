"""Shuffling, augmentation and live randomness are found, named, and handled or refused."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

from torchstone.batches import Batch
from torchstone.errors import DeterminismError, ObjectiveError, SpecimenError
from torchstone.objectives import Classification
from torchstone.specimen import Specimen


def data(count: int = 100) -> tuple[Tensor, Tensor]:
    x = torch.randn(count, 4, generator=torch.Generator().manual_seed(0))
    return x, (x[:, 0] > 0).long()


def prepared(train: Any, model: nn.Module | None = None, **options: Any) -> Specimen:
    preparing = {key: options.pop(key) for key in ("memory_bytes", "examples", "seed") if key in options}
    return Specimen(model or nn.Linear(4, 2), Classification(), train, **options).prepared(**preparing)


class Augmented(Dataset[Any]):
    def __len__(self) -> int:
        return 60

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return data()[0][index] + 0.1 * torch.randn(4), index % 2


class Stream(IterableDataset[Any]):
    def __iter__(self) -> Iterator[Any]:
        x, y = data()
        yield from zip(x, y, strict=True)


def test_a_shuffling_loader_is_named_and_frozen() -> None:
    specimen = prepared(DataLoader(TensorDataset(*data()), batch_size=16, shuffle=True))
    assert "shuffled on every pass" in specimen.findings[0]
    first, second = ([batch[0] for batch in specimen.batches()] for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    assert sorted(torch.cat(first)[:, 0].tolist()) == sorted(data()[0][:, 0].tolist())


def test_random_augmentation_is_named_and_frozen() -> None:
    specimen = prepared(DataLoader(Augmented(), batch_size=16))
    assert "random augmentation" in specimen.findings[0]
    assert specimen.risk() == specimen.risk()


def test_an_orderly_loader_gives_no_finding() -> None:
    assert prepared(DataLoader(TensorDataset(*data()), batch_size=16)).findings == ()
    assert prepared(TensorDataset(*data())).findings == ()
    assert prepared(DataLoader(Stream(), batch_size=7)).size() == 100


def test_what_shuffles_and_does_not_fit_is_refused_or_subsampled() -> None:
    loader = DataLoader(TensorDataset(*data()), batch_size=16, shuffle=True)
    with pytest.raises(DeterminismError, match="shuffled on every pass"):
        prepared(loader, memory_bytes=500)
    sampled = prepared(loader, memory_bytes=2000, examples={"train": 20})  # 24 bytes an example
    assert sampled.size() == 20
    assert sampled.split("train").total == 100
    assert all("fit" not in finding for finding in sampled.findings)


@pytest.mark.parametrize("shuffle", [False, True])
def test_a_subsample_stays_within_the_budget_and_says_so(shuffle: bool) -> None:
    loader = DataLoader(TensorDataset(*data()), batch_size=16, shuffle=shuffle)
    sampled = prepared(loader, memory_bytes=480, examples={"train": 50})
    assert sampled.size() == 20
    assert "20 examples fit the memory budget of 480 bytes, fewer than the plan's 50" in sampled.findings[-1]


def test_a_large_orderly_stream_is_read_as_it_is() -> None:
    specimen = prepared(DataLoader(TensorDataset(*data()), batch_size=16), memory_bytes=500)
    assert not specimen.split("train").stored
    assert specimen.size() == 100
    whole = Specimen(specimen.model, Classification(), data())
    assert specimen.risk() == pytest.approx(whole.risk(), rel=1e-6)


def test_subsamples_follow_the_seed_and_are_said() -> None:
    draw = lambda seed: prepared(data(), examples={"train": 30}, seed=seed)
    rows = lambda specimen: torch.cat([batch[0] for batch in specimen.batches()])
    assert torch.equal(rows(draw(1)), rows(draw(1)))
    assert not torch.equal(rows(draw(1)), rows(draw(2)))
    assert draw(1).split("train").note == "30 of 100 train examples, drawn with the seed"
    order = [data()[0].tolist().index(row) for row in rows(draw(1)).tolist()]
    assert order == sorted(set(order))


def test_live_dropout_is_named_and_refused_unless_its_noise_is_frozen() -> None:
    model = nn.Sequential(nn.Linear(4, 50), nn.Dropout(0.5), nn.Linear(50, 2)).train()
    assert prepared(data(), model).findings == ()
    with pytest.raises(DeterminismError, match=r"live dropout in 1.*freeze_noise=True"):
        prepared(data(), model, mode="as_is")
    frozen = prepared(data(), model, mode="as_is", freeze_noise=True)
    assert frozen.risk() == frozen.risk()
    assert model.training


def test_randomness_inside_forward_is_refused() -> None:
    class Random(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
            return super().forward(x) + torch.rand(())

    with pytest.raises(DeterminismError, match="randomness inside forward"):
        prepared(data(), Random(4, 2))


def test_batch_statistics_in_training_mode_are_noticed() -> None:
    model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Linear(8, 2)).train()
    assert not prepared(data(), model).coupled
    coupled = prepared(data(), model, mode="as_is")
    assert coupled.coupled
    assert "rest of its batch" in coupled.findings[0]


@pytest.mark.parametrize(
    ("train", "words"),
    [
        (iter([data()]), "readable more than once"),
        ((batch for batch in [data()]), "readable more than once"),
        ([], "at least one example"),
        (DataLoader(TensorDataset(*data(0)), batch_size=4), "at least one example"),
        ("text", "tensors, a Dataset"),
        (3, "tensors, a Dataset"),
        (None, "needs training data"),
    ],
)
def test_data_that_cannot_be_read_are_refused(train: Any, words: str) -> None:
    with pytest.raises(SpecimenError, match=words):
        prepared(train)


class Refilling:
    """A loader that hands out the same two tensors again and again."""

    def __init__(self) -> None:
        self.buffers = torch.zeros(10, 4), torch.zeros(10, dtype=torch.long)

    def __iter__(self) -> Iterator[Any]:
        x, y = data()
        for start in range(0, 100, 10):
            self.buffers[0].copy_(x[start : start + 10])
            self.buffers[1].copy_(y[start : start + 10])
            yield self.buffers


def test_a_loader_that_refills_its_tensors() -> None:
    specimen = prepared(Refilling())
    assert specimen.findings == ()
    assert torch.equal(torch.cat([batch[0] for batch in specimen.batches()]), data()[0])


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_workers_that_persist_are_no_shuffling() -> None:
    """Such a loader has one iterator, which a second `iter()` resets."""
    loader = DataLoader(TensorDataset(*data(20)), batch_size=5, num_workers=1, persistent_workers=True)
    specimen = prepared(loader)
    assert specimen.findings == ()
    assert torch.equal(torch.cat([batch[0] for batch in specimen.batches()]), data(20)[0])


@pytest.mark.parametrize(
    "train",
    [
        DataLoader(TensorDataset(*data()), batch_size=16, shuffle=True),
        DataLoader(Augmented(), batch_size=16),
        DataLoader(TensorDataset(*data()), batch_size=16),
    ],
)
@pytest.mark.parametrize("options", [{}, {"memory_bytes": 500, "examples": {"train": 10}}])
def test_reading_the_data_leaves_the_global_random_state_alone(train: Any, options: dict[str, Any]) -> None:
    model = nn.Linear(4, 2)
    before = torch.get_rng_state()
    specimen = prepared(train, model, **options)
    specimen.risk()
    assert specimen.size() > 0
    assert torch.equal(before, torch.get_rng_state())


class Writes(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        return super().forward(x.mul_(2))


@pytest.mark.parametrize("listed", [False, True])
def test_a_network_that_writes_into_its_input_is_refused_before_it_spoils_the_data(listed: bool) -> None:
    x, y = data(20)
    with pytest.raises(SpecimenError, match=r"must not write into its input.*x\.clone\(\)"):
        prepared([(x, y)] if listed else (x, y), Writes(4, 2))
    assert torch.equal(x, data(20)[0])


class Halves(Classification):
    def losses(self, outputs: Tensor, batch: Batch) -> Tensor:
        return super().losses(outputs.mul_(0.5), batch)


def test_losses_that_write_into_the_outputs_are_refused() -> None:
    model, (x, y) = nn.Linear(4, 2), data(20)
    with pytest.raises(ObjectiveError, match=r"must not write into the outputs.*outputs\.clone\(\)"):
        Specimen(model, Halves(), (x, y)).prepared()


def test_a_split_is_named_by_a_string() -> None:
    specimen = Specimen(nn.Linear(4, 2), Classification(), data(20))
    with pytest.raises(SpecimenError, match=r'split must be a name; got int\. Pass "train"'):
        specimen.split(3)  # pyright: ignore[reportArgumentType]


def test_only_layers_that_are_random_are_named() -> None:
    """A module called dropout with rate 0, or whose child drops, is not the culprit."""

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.into, self.dropout = nn.Linear(4, 2), nn.Dropout(0.5)
            self.quiet = nn.Dropout(0.0)

        def forward(self, x: Tensor) -> Tensor:
            return self.quiet(self.dropout(self.into(x)))

    with pytest.raises(DeterminismError, match=r"live dropout in dropout\. Examine"):
        prepared(data(), Block(), mode="as_is")


def test_batch_statistics_of_two_examples_are_coupled() -> None:
    model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Linear(8, 2)).train()
    x = torch.tensor([[0.0, 1, 2, 3], [3, 2, 1, 0]])
    assert prepared((x, torch.tensor([0, 1])), model, mode="as_is").coupled


def test_data_that_fail_while_they_are_read_are_named() -> None:
    class Broken(Dataset[Any]):
        def __len__(self) -> int:
            return 20

        def __getitem__(self, index: int) -> tuple[Tensor, int]:
            if index == 13:
                raise OSError("image 13 is truncated")
            return torch.zeros(4), index % 2

    with pytest.raises(
        SpecimenError, match="train data must be readable; got OSError: image 13 is truncated"
    ):
        prepared(DataLoader(Broken(), batch_size=4))
