"""Layouts that invite a silent mistake: shared tensors, transposed targets, channels, positions, ignored labels."""

from __future__ import annotations

from collections import UserDict, namedtuple
from dataclasses import dataclass
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from torchstone.errors import BatchError, ObjectiveError, SettingError
from torchstone.objectives import CausalLM, Classification, HuggingFace, Objective, Regression
from torchstone.specimen import Specimen

Pair = namedtuple("Pair", ["x", "y"])
Returned = namedtuple("Returned", ["hidden", "logits"])


@dataclass
class Record:
    x: Tensor
    y: Tensor


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


class Double(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return 2 * x


def autoencoding(x: Tensor) -> list[Any]:
    return [(x, x), [x, x], Pair(x, x), Record(x, x), {"x": x, "y": x}, UserDict(x=x, y=x)]


@pytest.mark.parametrize("position", range(6))
def test_an_autoencoder_may_hand_over_one_tensor_twice(position: int) -> None:
    x = torch.randn(3, 4, generator=generator())
    batch, objective = autoencoding(x)[position], Regression()
    assert torch.equal(objective.outputs(Double(), batch), 2 * x)
    assert torch.allclose(objective.losses(objective.outputs(Double(), batch), batch), x.square().mean(1))
    assert objective.inputs(batch) is x
    moved = objective.with_inputs(batch, x + 1)
    assert type(moved) is type(batch)
    assert torch.equal(objective.outputs(Double(), moved), 2 * x + 2)
    assert objective.target(moved) is x  # the target stays
    assert objective.inputs(batch) is x  # and so does the user's batch


def test_an_autoencoder_is_examined() -> None:
    x = torch.randn(6, 4, generator=generator())
    prepared = Specimen(nn.Linear(4, 4), Regression(), [(x, x)]).prepared()
    assert prepared.size() == 6


@pytest.mark.parametrize("position", [0, -2, "y", lambda batch: batch[0]])
def test_targets_that_come_first(position: Any) -> None:
    x, y = torch.randn(3, 4, generator=generator()), torch.tensor([0, 1, 2])
    batch: Any = {"y": y, "x": x} if position == "y" else (y, x)
    objective = Classification(target=position)
    assert torch.equal(objective.outputs(Double(), batch), 2 * x)
    assert objective.inputs(batch) is x


@pytest.mark.parametrize("target", [5, "nothing"])
def test_targets_that_are_not_there(target: Any) -> None:
    with pytest.raises(BatchError, match=f"must hold a target under {target!r}; got a tuple of 2"):
        Classification(target=target).target((torch.zeros(2), torch.zeros(2)))


def test_named_tuples_returned_by_a_model() -> None:
    class Model(nn.Module):
        def forward(self, x: Tensor) -> Returned:
            return Returned(x, 3 * x)

    x = torch.ones(2, 3)
    assert torch.equal(Classification().outputs(Model(), (x, torch.tensor([0, 1]))), 3 * x)


@given(shape=st.lists(st.integers(1, 3), max_size=3), data=st.data())
@settings(max_examples=60, deadline=None)
def test_regression_takes_the_same_numbers_and_nothing_else(shape: list[int], data: st.DataObject) -> None:
    """Dimensions of size 1 may come and go; the loss is torch's for matching shapes, whatever the shape."""
    outputs = torch.randn(4, *shape, generator=generator())
    squeezed = [size for size in shape if size != 1]
    padded = [*squeezed]
    for place in data.draw(st.lists(st.integers(0, len(squeezed)), max_size=2)):
        padded.insert(place, 1)
    targets = torch.randn(4, *padded, generator=generator())
    losses = Regression().losses(outputs, (None, targets))
    expected = F.mse_loss(outputs, targets.reshape(outputs.shape), reduction="none").reshape(4, -1).mean(1)
    assert torch.equal(losses, expected)


@pytest.mark.parametrize(
    ("outputs", "targets"),
    [((4, 2, 3), (4, 3, 2)), ((4, 6), (4, 2, 3)), ((4, 2), (4,)), ((4,), (4, 4)), ((4, 1), (1, 4)), ((4, 1), (4, 4))],
)  # fmt: skip
def test_regression_never_reshapes_or_broadcasts(outputs: tuple[int, ...], targets: tuple[int, ...]) -> None:
    with pytest.raises(ObjectiveError, match="Targets must have the outputs' shape"):
        Regression().check(torch.zeros(outputs), (None, torch.zeros(targets)))


def test_integer_targets_of_a_regression() -> None:
    outputs, targets = torch.randn(5, 1, generator=generator()), torch.arange(5)
    expected = (outputs[:, 0] - targets).square()
    assert torch.allclose(Regression().losses(outputs, (None, targets)), expected)


@pytest.mark.parametrize("shape", [(2, 1, 4, 5), (2, 4, 5)])
def test_binary_segmentation_with_and_without_a_channel(shape: tuple[int, ...]) -> None:
    logits = torch.randn(2, 1, 4, 5, generator=generator())
    mask = torch.randint(0, 2, (2, 4, 5), generator=generator()).float()
    expected = F.binary_cross_entropy_with_logits(logits[:, 0], mask, reduction="none").flatten(1).mean(1)
    batch = (torch.zeros(2, 1, 4, 5), mask.reshape(shape))
    Classification().check(logits, batch)
    assert torch.allclose(Classification().losses(logits, batch), expected, atol=1e-6)


@pytest.mark.parametrize("ignored", [-100, 255, 0])
def test_ignored_labels_are_no_class(ignored: int) -> None:
    labels = torch.tensor([1, ignored, 2])
    objective = Classification(ignore_index=ignored)
    objective.check(torch.zeros(3, 3), (None, labels))
    found = objective.labels((None, labels))
    assert found is not None
    assert found.tolist() == [1, -100, 2]
    losses = objective.losses(torch.randn(3, 3, generator=generator()), (None, labels))
    assert losses[1] == 0
    assert (losses[[0, 2]] > 0).all()


def test_an_example_without_any_counted_position_has_loss_zero() -> None:
    labels = torch.full((2, 4), -100)
    labels[1, 0] = 2
    losses = Classification().losses(torch.randn(2, 3, 4, generator=generator()), (None, labels))
    assert losses[0] == 0
    assert losses[1] > 0


@pytest.mark.parametrize("smoothing", [-0.1, 1.1, float("nan")])
def test_label_smoothing_out_of_range(smoothing: float) -> None:
    with pytest.raises(SettingError, match=r"label_smoothing must lie in \[0, 1\]"):
        Classification(label_smoothing=smoothing)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int32, torch.bool])
def test_labels_of_any_integer_type(dtype: torch.dtype) -> None:
    scores, labels = torch.randn(4, 2, generator=generator()), torch.tensor([0, 1, 1, 0])
    Classification().check(scores, (None, labels.to(dtype)))
    expected = F.cross_entropy(scores, labels, reduction="none")
    assert torch.equal(Classification().losses(scores, (None, labels.to(dtype))), expected)


@pytest.mark.parametrize(
    ("outputs", "batch", "words"),
    [
        (torch.zeros(2, 5), torch.zeros(2, 5).long(), r"shape \(2, 5, vocabulary\); got shape \(2, 5\)"),
        (torch.zeros(2, 4, 7), torch.zeros(2, 5).long(), "scores of every position"),
        (torch.zeros(2, 5, 7), torch.full((2, 5), 7), r"0\.\.6; got ids from 7 to 7"),
        (torch.zeros(2, 1, 7), torch.zeros(2, 1).long(), "at least 2 tokens; got 1"),
    ],
)
def test_language_models_that_do_not_fit_their_tokens(outputs: Tensor, batch: Any, words: str) -> None:
    with pytest.raises(ObjectiveError, match=words):
        CausalLM().check(outputs, batch)


@pytest.mark.parametrize(
    "batch", [torch.zeros(3, 4), torch.zeros(3).long(), {"ids": torch.zeros(3, 4).long()}, None, ["text"]]
)
def test_what_holds_no_tokens(batch: Any) -> None:
    with pytest.raises(BatchError, match=r"integer token ids \(N, T\)"):
        CausalLM().losses(torch.zeros(3, 4, 5), batch)


def test_labels_of_a_language_model() -> None:
    scores, tokens = torch.randn(2, 5, 7, generator=generator()), torch.arange(10).reshape(2, 5) % 7
    plain = CausalLM().losses(scores, tokens)
    assert torch.equal(CausalLM().losses(scores, {"input_ids": tokens, "labels": None}), plain)
    assert torch.equal(CausalLM().losses(scores, (tokens,)), plain)
    labels = tokens.clone()
    labels[:, 3:] = -100
    mask = (torch.arange(5) < 3).long().expand(2, 5)
    masked = CausalLM().losses(scores, {"input_ids": tokens, "attention_mask": mask})
    assert torch.equal(CausalLM().losses(scores, {"input_ids": tokens, "labels": labels}), masked)
    assert CausalLM().losses(scores, {"input_ids": tokens, "labels": torch.full((2, 5), -100)}).tolist() == [
        0,
        0,
    ]


@pytest.mark.parametrize(
    ("kind", "outputs", "labels", "words"),
    [
        ("sequence", (3, 2), torch.tensor([0, 1, 2]), r"0\.\.1; got labels from 0 to 2"),
        ("sequence", (3, 2), torch.tensor([0, -1, 1]), "labels from -1 to 1"),
        (
            "sequence",
            (3, 2),
            torch.tensor([0.0, 1.0, 1.0]),
            r"must be integers; got torch.float32.*task='regression'",
        ),
        ("token", (3, 4, 2), torch.zeros(3, 5).long(), "match outputs of shape"),
        ("causal", (3, 4, 2), torch.full((3, 4), 9), r"0\.\.1"),
        ("regression", (3, 1), torch.zeros(4), "match outputs of shape"),
    ],
)
def test_hugging_face_labels_that_do_not_fit(
    kind: Any, outputs: tuple[int, ...], labels: Tensor, words: str
) -> None:
    with pytest.raises(ObjectiveError, match=words):
        HuggingFace(kind).check(torch.zeros(outputs), {"labels": labels})


def test_hugging_face_tasks_keep_what_a_subclass_adds() -> None:
    class Mine(HuggingFace):
        def __init__(self, temperature: float) -> None:
            super().__init__("sequence")
            self.temperature = temperature

    bound = Mine(2.0).bind(nn.Linear(1, 1))
    assert (type(bound), bound.temperature, bound.kind) == (Mine, 2.0, "sequence")


@pytest.mark.parametrize(
    ("objective", "batch"),
    [
        (Classification(), object()),
        (Regression(), {"x": torch.zeros(2)}),
        (HuggingFace("sequence"), (torch.zeros(2),)),
    ],
)
def test_structures_an_objective_does_not_know(objective: Objective, batch: Any) -> None:
    with pytest.raises(BatchError) as error:
        objective.outputs(Double(), batch)
    assert error.value.fix
