"""Watching inside real trainers: losses and gradients are those of a loop written by hand."""

import builtins
import logging
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from torchstone.errors import SettingError
from torchstone.watching.callbacks import huggingface_callback, lightning_callback
from torchstone.watching.callbacks.attachment import Attachment, bare
from torchstone.watching.log import WatchLog

transformers = pytest.importorskip("transformers")


def filled(model: nn.Module) -> Any:
    g = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=g))
    return model


def inputs(count: int = 12) -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(1)
    return torch.randn(count, 3, generator=g), torch.randn(count, 1, generator=g)


def by_hand(parts: int, batch: int = 2, lr: float = 0.1) -> tuple[list[float], list[float]]:
    """Losses and gradient norms of plain gradient descent with accumulation."""
    model = filled(nn.Linear(3, 1))
    x, y = inputs()
    optimizer = torch.optim.SGD(model.parameters(), lr=lr)
    losses, norms = [], []
    for start in range(0, len(x), batch * parts):
        loss = torch.zeros(())
        optimizer.zero_grad()
        for part in range(parts):
            rows = slice(start + part * batch, start + (part + 1) * batch)
            piece = (model(x[rows]) - y[rows]).square().mean() / parts
            piece.backward()
            loss = loss + piece.detach()
        losses.append(float(loss))
        norms.append(
            float(torch.stack([p.grad.norm() for p in model.parameters() if p.grad is not None]).norm())
        )
        optimizer.step()
    return losses, norms


def seen(log: WatchLog) -> tuple[list[float], list[float]]:
    return log.series("loss")[1], log.series("gradient_norm")[1]


@pytest.fixture
def pl(monkeypatch: pytest.MonkeyPatch) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        lightning = pytest.importorskip("pytorch_lightning")
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    return lightning


def lightning_run(pl: Any, folder: Path, callback: Any, *, parts: int = 1, fail_at: int = 99) -> Any:
    class Module(pl.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.net = filled(nn.Linear(3, 1))

        def forward(self, x: Tensor) -> Tensor:
            return self.net(x)

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            if batch_idx == fail_at:
                raise ZeroDivisionError
            x, y = batch
            return (self(x) - y).square().mean()

        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.parameters(), lr=0.1)

    trainer = pl.Trainer(
        max_epochs=1, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, default_root_dir=folder, callbacks=[callback], accumulate_grad_batches=parts,
    )  # fmt: skip
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(*inputs()), batch_size=2)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer.fit(Module(), loader)
    return trainer


@pytest.mark.parametrize("parts", [1, 3])
def test_lightning(pl: Any, tmp_path: Path, parts: int) -> None:
    """Its optimisers step with a closure, in which the gradients are made."""
    callback = lightning_callback(inputs(), every=1, folder=tmp_path)
    lightning_run(pl, tmp_path, callback, parts=parts)
    log = WatchLog.load(tmp_path)
    losses, norms = by_hand(parts)
    assert seen(log)[0] == pytest.approx(losses, rel=1e-5)
    assert seen(log)[1] == pytest.approx(norms, rel=1e-5)
    assert "stability_edge" in log.names  # measured on the probe
    assert log.summary is not None
    assert log.summary["ended"] == "finished"


def test_lightning_that_fails_is_logged_as_failed(pl: Any, tmp_path: Path) -> None:
    callback = lightning_callback(every=1, folder=tmp_path, model=lambda module: module.net)
    with pytest.raises(ZeroDivisionError):
        lightning_run(pl, tmp_path, callback, fail_at=3)
    log = WatchLog.load(tmp_path)
    assert len(log.records) == 3
    assert log.summary is not None
    assert log.summary["ended"] == "ZeroDivisionError"
    assert callback.attachment.watcher.model is not None
    assert not callback.attachment.watcher.optimizer._optimizer_step_pre_hooks


def test_lightning_without_such_an_optimizer(pl: Any, tmp_path: Path) -> None:
    with pytest.raises(SettingError, match="place of one of the trainer's optimisers; got 1 of 1"):
        lightning_run(pl, tmp_path, lightning_callback(optimizer=1))


class Labelled(nn.Module):
    """A model that computes its own loss, as those of transformers do."""

    def __init__(self) -> None:
        super().__init__()
        self.net = filled(nn.Linear(3, 1))

    def forward(self, x: Tensor, labels: Tensor | None = None) -> dict[str, Tensor]:
        logits = self.net(x)
        if labels is None:
            return {"logits": logits}
        return {"loss": (logits - labels).square().mean(), "logits": logits}


@pytest.mark.parametrize("parts", [1, 3])
def test_hugging_face(tmp_path: Path, parts: int) -> None:
    pytest.importorskip("accelerate")
    x, y = inputs()
    rows = [{"x": x[i], "labels": y[i]} for i in range(len(x))]
    callback = huggingface_callback(every=1, folder=tmp_path)

    class InOrder(transformers.Trainer):
        def _get_train_sampler(self, *_: Any) -> Any:
            return torch.utils.data.SequentialSampler(rows)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        arguments = transformers.TrainingArguments(
            str(tmp_path / "out"), num_train_epochs=1, per_device_train_batch_size=2, report_to=[], use_cpu=True,
            gradient_accumulation_steps=parts, save_strategy="no", learning_rate=0.1, lr_scheduler_type="constant",
            max_grad_norm=0.0, disable_tqdm=True, logging_strategy="no", optim="sgd",
        )  # fmt: skip
        model = Labelled()
        InOrder(model=model, args=arguments, train_dataset=rows, callbacks=[callback]).train()
    losses, norms = by_hand(parts)
    log = WatchLog.load(tmp_path)
    assert seen(log)[0] == pytest.approx(losses, rel=1e-5)
    assert seen(log)[1] == pytest.approx(norms, rel=1e-5)
    assert log.header.model == "Labelled"
    assert log.summary is not None
    assert log.summary["ended"] == "finished"
    assert not model._forward_hooks


def test_hugging_face_losses_that_are_divided_by_the_whole_batch_are_added(tmp_path: Path) -> None:
    """Driven by hand through the events of a trainer, with the items of the whole batch as newer trainers pass them."""

    class Counting(Labelled):
        def forward(self, x: Tensor, labels: Tensor, num_items_in_batch: int) -> dict[str, Tensor]:  # pyright: ignore[reportIncompatibleMethodOverride]
            return {"loss": (self.net(x) - labels).square().sum() / num_items_in_batch}

    x, y = inputs(6)
    model = Counting()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    callback = huggingface_callback(every=1, folder=tmp_path)
    control, state = transformers.TrainerControl(), transformers.TrainerState()
    args: Any = type("Arguments", (), {"gradient_accumulation_steps": 3})()
    callback.on_train_begin(args, state, control, model=model, optimizer=optimizer)
    for rows in (slice(0, 1), slice(1, 3), slice(3, 6)):
        model(x[rows], labels=y[rows], num_items_in_batch=6)["loss"].backward()
    with torch.no_grad():  # what is evaluated is no training loss
        model(x, labels=y, num_items_in_batch=1)
    optimizer.step()
    callback.on_step_end(args, state, control)
    callback.on_train_end(args, state, control)
    whole = (filled(nn.Linear(3, 1))(x) - y).square().mean().detach()
    assert WatchLog.load(tmp_path).series("loss")[1] == pytest.approx([float(whole)])


def test_a_batch_with_labels_is_a_probe(tmp_path: Path) -> None:
    torch_model = transformers.GPT2LMHeadModel(
        transformers.GPT2Config(vocab_size=17, n_positions=8, n_embd=8, n_layer=1, n_head=2)
    )
    tokens = torch.randint(17, (6, 8), generator=torch.Generator().manual_seed(0))
    batch = {"input_ids": tokens, "labels": tokens}
    optimizer = torch.optim.SGD(torch_model.parameters(), lr=0.1)
    callback = huggingface_callback(batch, every=1, folder=tmp_path, quantities=("loss", "noise"))
    args: Any = type("Arguments", (), {"gradient_accumulation_steps": 1})()
    callback.on_train_begin(args, None, None, model=torch_model, optimizer=optimizer)
    torch_model.train()
    torch_model(**batch).loss.backward()
    optimizer.step()
    callback.on_step_end(args, None, None)
    callback.on_train_end(args, None, None)
    log = WatchLog.load(tmp_path)
    assert len(log.series("loss")[1]) == 1
    assert "noise_scale" in log.names


def test_attachments_end_once_and_begin_again() -> None:
    model = nn.Linear(2, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    attachment = Attachment(None, {"every": 1})
    attachment.end()
    attachment.step()  # before anything began
    attachment.begin(model, optimizer)
    first = attachment.watcher
    attachment.begin(model, optimizer)  # a run that was never ended
    assert attachment.watcher is not first
    assert len(optimizer._optimizer_step_pre_hooks) == 1
    attachment.end()
    attachment.end()
    assert not optimizer._optimizer_step_pre_hooks


def test_wrapped_optimizers_are_found() -> None:
    inner = torch.optim.SGD(nn.Linear(2, 1).parameters(), lr=0.1)
    wrapper = type("Wrapper", (), {"optimizer": inner})()
    assert bare(wrapper) is inner
    assert bare(inner) is inner


@pytest.mark.parametrize(
    ("blocked", "maker", "says"),
    [
        (("lightning", "pytorch_lightning"), lightning_callback, "pip install lightning"),
        (("transformers",), huggingface_callback, r'pip install "torchstone\[huggingface\]"'),
    ],
)
def test_a_missing_trainer_is_said_with_its_command(
    monkeypatch: pytest.MonkeyPatch, blocked: tuple[str, ...], maker: Any, says: str
) -> None:
    for name in [one for one in sys.modules if one.split(".")[0] in blocked]:
        monkeypatch.delitem(sys.modules, name)
    real = builtins.__import__

    def missing(name: str, *rest: Any) -> Any:
        if name.split(".")[0] in blocked:
            raise ImportError(f"No module named {name!r}")
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", missing)
    for name in blocked:
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(SettingError, match=says):
        maker()
