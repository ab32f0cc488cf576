"""Outputs and one loss per example, for every kind of task."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from torchstone.errors import BatchError, ObjectiveError
from torchstone.objectives import CausalLM, Classification, HuggingFace, Regression


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def test_classification_is_torchs_cross_entropy() -> None:
    scores, labels = torch.randn(7, 4, generator=generator()), torch.tensor([0, 1, 2, 3, 0, 1, 2])
    objective = Classification(label_smoothing=0.1)
    expected = F.cross_entropy(scores, labels, label_smoothing=0.1)
    assert torch.allclose(objective.losses(scores, (None, labels)).mean(), expected)
    assert torch.equal(
        objective.losses(scores, (None, labels[:, None])), objective.losses(scores, (None, labels))
    )


def test_a_single_logit_is_binary_cross_entropy() -> None:
    z, y = torch.randn(9, 1, generator=generator()), torch.tensor([0.0, 1, 1, 0, 1, 0, 0, 1, 1])
    expected = F.binary_cross_entropy_with_logits(z[:, 0], y, reduction="none")
    for outputs in (z, z[:, 0]):
        for labels in (y, y.long(), y[:, None]):
            assert torch.allclose(Classification().losses(outputs, (None, labels)), expected, atol=1e-6)
    scores = Classification().scores(z)
    assert scores is not None
    assert torch.equal(scores.argmax(1) == 1, z[:, 0] > 0)


def test_segmentation_averages_over_counted_pixels() -> None:
    scores = torch.randn(2, 3, 4, 5, generator=generator())
    labels = torch.randint(0, 3, (2, 4, 5), generator=generator())
    labels[0, :2] = -100
    expected = torch.stack([F.cross_entropy(scores[i : i + 1], labels[i : i + 1]) for i in range(2)])
    assert torch.allclose(Classification().losses(scores, (None, labels)), expected)
    assert Classification().labels((None, labels)) is None
    assert Classification().scores(scores) is None


def test_losses_of_half_precision_outputs_are_float32() -> None:
    outputs = torch.randn(3, 4, generator=generator()).bfloat16()
    assert Classification().losses(outputs, (None, torch.tensor([0, 1, 2]))).dtype == torch.float32


def test_regression_never_broadcasts() -> None:
    outputs, targets = torch.randn(5, 1, generator=generator()), torch.randn(5, generator=generator())
    losses = Regression().losses(outputs, (None, targets))
    assert losses.shape == (5,)
    assert torch.allclose(losses, (outputs[:, 0] - targets).square())
    wide = torch.randn(5, 3, 2, generator=generator())
    assert torch.allclose(Regression().losses(wide, (None, wide + 2)), torch.full((5,), 4.0))
    with pytest.raises(ObjectiveError, match=r"outputs' shape \(5, 3, 2\); got shape \(5, 3\)"):
        Regression().losses(wide, (None, wide[..., 0]))


def test_language_model_losses_skip_padding() -> None:
    scores, tokens = (
        torch.randn(2, 5, 7, generator=generator()),
        torch.randint(0, 7, (2, 5), generator=generator()),
    )
    mask = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]])
    losses = CausalLM().losses(scores, {"input_ids": tokens, "attention_mask": mask})
    first = F.cross_entropy(scores[0, :4], tokens[0, 1:])
    second = F.cross_entropy(scores[1, :2], tokens[1, 1:3])
    assert torch.allclose(losses, torch.stack([first, second]))
    assert torch.allclose(CausalLM().losses(scores, tokens)[0], first)


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        (torch.tensor([0, 1, 3]), r"0\.\.2 for 3 outputs; got labels from 0 to 3"),
        (torch.tensor([-1, 1, 2]), "labels from -1 to 2"),
        (torch.tensor([0.5, 1.0, 2.0]), r"integer class labels.*torch.float32.*\.long\(\)"),
        (torch.eye(3), r"one-hot rows use \.argmax\(1\)"),
        (torch.tensor([0, 1]), r"shape \(3,\) to match"),
    ],
)
def test_wrong_labels(labels: Tensor, words: str) -> None:
    with pytest.raises(ObjectiveError, match=words):
        Classification().check(torch.zeros(3, 3), (torch.zeros(3, 2), labels))


def test_ignored_labels_are_no_mistake() -> None:
    """-100 passes the check, which refuses other negative labels, and costs nothing."""
    scores, batch = torch.zeros(3, 3), (torch.zeros(3, 2), torch.tensor([0, -100, 2]))
    objective = Classification()
    objective.check(scores, batch)
    assert objective.losses(scores, batch).tolist() == pytest.approx([math.log(3), 0.0, math.log(3)])
    with pytest.raises(ObjectiveError, match="labels from -99 to 2"):
        objective.check(scores, (batch[0], batch[1].clamp(min=-99)))


@dataclass
class Example:
    image: Tensor
    label: Tensor


class Named(nn.Module):
    def forward(self, image: Tensor) -> Tensor:
        return image * 2


@pytest.mark.parametrize("structure", ["tuple", "list", "dict", "dataclass", "other name"])
def test_inputs_and_targets_are_found(structure: str) -> None:
    x, y = torch.randn(3, 4, generator=generator()), torch.tensor([0, 1, 2])
    batch: Any = {
        "tuple": (x, y),
        "list": [x, y],
        "dict": {"image": x, "label": y, "index": torch.arange(3)},
        "dataclass": Example(x, y),
        "other name": {"pixels": x, "y": y},
    }[structure]
    objective = Classification()
    assert torch.equal(objective.outputs(Named(), batch), 2 * x)
    assert torch.equal(objective.target(batch), y)
    assert objective.inputs(batch) is x
    replaced = objective.with_inputs(batch, x + 1)
    assert torch.equal(objective.outputs(Named(), replaced), 2 * x + 2)
    assert objective.inputs(batch) is x  # the original is left alone


def test_layouts_can_be_told() -> None:
    x, y = torch.ones(2, 3), torch.tensor([0, 1])
    batch = {"a": x, "answer": y}
    objective = Classification(
        target="answer", call=lambda model, batch: (None, model(batch["a"])), output=lambda r: r[1]
    )
    assert torch.equal(objective.outputs(Named(), batch), 2 * x)
    assert torch.equal(Classification(target=0).target((y, x)), y)
    assert torch.equal(Classification(target=lambda batch: batch["answer"]).target(batch), y)


@pytest.mark.parametrize(
    ("batch", "words"),
    [
        (torch.zeros(3, 2), "inputs and targets; got a tensor of shape"),
        ((torch.zeros(3, 2),), "inputs and targets; got a tuple of 1"),
        ({"image": torch.zeros(3, 2)}, "must name its target labels, label"),
        ({"image": torch.zeros(3, 2), "label": [1, 2, 3]}, "must be a tensor; got list"),
        (object(), "tensor, tuple, list, mapping or dataclass"),
    ],
)
def test_batches_without_a_target(batch: Any, words: str) -> None:
    with pytest.raises(BatchError, match=words):
        Classification().target(batch)


def test_entries_that_fit_no_argument() -> None:
    with pytest.raises(BatchError, match=r"named like forward's arguments \(image\); got a, b"):
        Classification().outputs(Named(), {"a": torch.ones(2, 2), "b": torch.ones(2, 2), "y": torch.zeros(2)})


def test_a_model_that_returns_no_tensor() -> None:
    class Text(nn.Module):
        def forward(self, x: Tensor) -> str:
            return "no"

    with pytest.raises(ObjectiveError, match=r"must return a tensor.*got str"):
        Classification().outputs(Text(), (torch.ones(2, 2), torch.zeros(2)))


def ids(count: int, length: int) -> dict[str, Tensor]:
    tokens = torch.randint(1, 50, (count, length), generator=generator())
    return {"input_ids": tokens, "attention_mask": torch.ones_like(tokens)}


@pytest.mark.parametrize("kind", ["sequence", "regression", "token", "causal", "seq2seq"])
def test_hugging_face_losses_are_the_models_own(kind: str) -> None:
    transformers: Any = pytest.importorskip("transformers")
    small: dict[str, Any] = {
        "vocab_size": 50,
        "hidden_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
    }
    bert: Any = transformers.BertConfig(
        **small, intermediate_size=16, num_labels=1 if kind == "regression" else 3
    )
    batch = ids(4, 6)
    if kind == "sequence":
        model, batch["labels"] = transformers.BertForSequenceClassification(bert), torch.tensor([0, 1, 2, 1])
    elif kind == "regression":
        model, batch["labels"] = (
            transformers.BertForSequenceClassification(bert),
            torch.randn(4, generator=generator()),
        )
    elif kind == "token":
        model, batch["labels"] = transformers.BertForTokenClassification(bert), batch["input_ids"] % 3
    elif kind == "causal":
        config = transformers.LlamaConfig(**small, intermediate_size=16)
        model, batch["labels"] = transformers.LlamaForCausalLM(config), batch["input_ids"]
    else:
        config = transformers.T5Config(
            vocab_size=50, d_model=16, d_ff=16, num_layers=1, num_heads=2, d_kv=8, decoder_start_token_id=0
        )
        model, batch["labels"] = (
            transformers.T5ForConditionalGeneration(config),
            batch["input_ids"][:, :4].contiguous(),
        )
    model.eval()
    objective = HuggingFace().bind(model)
    assert objective.kind == kind
    outputs = objective.outputs(model, batch)
    objective.check(outputs, batch)
    losses = objective.losses(outputs, batch)
    assert losses.shape == (4,)
    assert torch.allclose(losses.mean(), model(**batch).loss, rtol=1e-5)


def test_hugging_face_needs_a_known_head_and_labels() -> None:
    with pytest.raises(ObjectiveError, match="Pass task='sequence'"):
        HuggingFace().bind(nn.Linear(1, 1))
    with pytest.raises(BatchError, match="must hold 'labels'"):
        HuggingFace("sequence").labels(ids(2, 3))
    with pytest.raises(ObjectiveError, match="match outputs of shape"):
        HuggingFace("sequence").check(torch.zeros(2, 3), {"labels": torch.zeros(3)})
