"""Training members in turns by `fit`, where they cannot be trained as one."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from torchstone.errors import NumericalError
from torchstone.training.chunks import Chunk
from torchstone.training.ensemble import Ensemble
from torchstone.training.fit import Epoch, History, fit
from torchstone.training.job import Job
from torchstone.training.member_steps import for_one_member


def train_one_by_one(job: Job) -> Chunk:
    """Train every member of a job with `fit`, one after the other; a member that diverges ends early."""
    trained, histories, diverged = [], [], {}
    for k in range(len(job.models)):
        model, history, failed = _train(job, k)
        trained.append(model)
        histories.append(history)
        if failed:
            diverged[k] = failed
    names = list(max(histories, key=lambda told: len(told[0]))[0]) or ["train_loss"]
    epochs = max((len(told[0].get("train_loss", ())) for told in histories), default=0)
    series = {name: torch.full((len(trained), epochs), torch.nan, dtype=torch.float64) for name in names}
    for k, (told, _) in enumerate(histories):
        for name, values in told.items():
            series[name][k, : len(values)] = torch.tensor(values, dtype=torch.float64)
    return Chunk(
        torch.arange(len(trained)),
        Ensemble.of(trained, vectorised=False),
        series,
        diverged,
        _ledger(job, [note for _, note in histories], epochs) if job.ledger is not None else None,
    )


def _train(job: Job, k: int) -> tuple[nn.Module, tuple[dict[str, list[float]], Tensor | None], int]:
    """The trained copy of one model, its series and ledger, and the step at which it diverged, or 0."""
    model = copy.deepcopy(job.models[k])
    x, y = job.data.alone(k)
    rows = job.data.rows[k].to(job.device)
    factor = 1.0 if job.lr_factors is None else float(job.lr_factors[k])
    decay = None if job.weight_decay is None else float(job.weight_decay[k])
    told: dict[str, list[float]] = {"train_loss": []}
    steps = 0

    def of_rows(function: Any) -> Any:
        def values(network: nn.Module, some: Tensor, _: Tensor) -> Tensor:
            return function(network, *(tree_map(lambda leaf: leaf[some], tree) for tree in (x, y)))

        return values

    def counted(network: nn.Module, some: Tensor, again: Tensor) -> Tensor:
        nonlocal steps
        steps += 1
        return of_rows(job.losses)(network, some, again)

    def on_epoch(epoch: Epoch) -> None:
        told["train_loss"].append(epoch.train_loss)
        if job.on_epoch is not None:
            loss = torch.tensor([epoch.train_loss], dtype=torch.float64)
            one = Ensemble.of([model], vectorised=False)
            for name, value in job.on_epoch(epoch.index, epoch.steps, torch.tensor([k]), loss, one).items():
                told.setdefault(name, []).append(float(value))
        job.on_progress(1)

    try:
        history: History | None = fit(
            model,
            counted,
            rows,
            rows,
            optimizer=for_one_member(job.optimizer, factor, decay),
            batch_size=job.batch_size,
            generator=job.generators[k],
            steps=job.budgets[k],
            scheduler=job.scheduler,
            penalty=job.penalty,
            ledger=of_rows(job.ledger) if job.ledger is not None else None,
            on_epoch=on_epoch,
        )
    except NumericalError:
        return model, (told, None), max(1, steps)
    return model, (told, history.ledger), 0


def _ledger(job: Job, notes: list[Tensor | None], epochs: int) -> Tensor:
    """(K, E, n), NaN where a member was not presented."""
    longest = max(len(rows) for rows in job.data.rows)
    whole = torch.full((len(notes), epochs, longest), torch.nan)
    for k, note in enumerate(notes):
        if note is not None:
            whole[k, : note.shape[0], : note.shape[1]] = note
    return whole
