r"""Empirical risk minimisation of many networks of one architecture, trained as one."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from torchstone.errors import SettingError
from torchstone.training.as_one import train_as_one
from torchstone.training.chunks import Chunk, chunks
from torchstone.training.ensemble import Ensemble, check_same_architecture
from torchstone.training.evaluation import PerExample, check_generator
from torchstone.training.fit import told_by, updates
from torchstone.training.job import Job
from torchstone.training.member_data import MemberData
from torchstone.training.member_steps import member_values
from torchstone.training.one_by_one import train_one_by_one
from torchstone.training.optimizers import OptimizerFactory, SchedulerFactory
from torchstone.training.presentation import Penalty
from torchstone.training.ways import batched, way_of

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class MembersEpoch:
    """What a callback is told after a pass over the data of the members that train together.

    Args:
        index: Passes finished, from 1.
        steps: Updates made since the start.
        members: Which members these are, (k,).
        train_loss: Mean loss of each over its examples, taken just before the updates, (k,), float64.
        ensemble: Their networks in eval mode; a view that the training goes on to change.
    """

    index: int
    steps: int
    members: Tensor
    train_loss: Tensor
    ensemble: Ensemble


OnMembersEpoch = Callable[[MembersEpoch], Mapping[str, Tensor] | None]


@dataclass(frozen=True)
class TrainedMany:
    """K trained networks and how their training went.

    Args:
        ensemble: The networks.
        series: One value a member and epoch by name, (K, E), float64: "train_loss" and what `on_epoch` returned; NaN
            after the end of a shorter run.
        steps: Updates of each member, (K,).
        diverged: Members whose loss or weights were not finite, and the step at which that was first seen.
        way: "batched", "vmapped" or "one by one"; the first two with ", compiled" where they were.
        reason: Why one by one or not compiled, or in what a member differs from one trained alone; empty where neither.
        ledger: What was noted at each presentation, (K, E, n) in the order of each member's rows; NaN where nothing was
            presented. None unless asked for.
    """

    ensemble: Ensemble
    series: Mapping[str, Tensor]
    steps: Tensor
    diverged: Mapping[int, int] = field(default_factory=dict)
    way: str = "vmapped"
    reason: str = ""
    ledger: Tensor | None = None

    def __len__(self) -> int:
        return len(self.steps)

    @property
    def finite(self) -> Tensor:
        """Which members did not diverge, (K,) of bool."""
        return torch.tensor([k not in self.diverged for k in range(len(self))])


def fit_many(
    models: Sequence[nn.Module],
    losses: PerExample,
    x: Any,
    y: Any,
    *,
    optimizer: OptimizerFactory,
    batch_size: int,
    generators: Sequence[torch.Generator],
    epochs: int | None = None,
    steps: int | None = None,
    rows: Sequence[Tensor] | Tensor | None = None,
    targets: Any = None,
    inputs: Any = None,
    lr_factors: Sequence[float] | Tensor | None = None,
    weight_decay: Sequence[float] | Tensor | None = None,
    scheduler: SchedulerFactory | None = None,
    penalty: Penalty | None = None,
    ledger: PerExample | None = None,
    on_epoch: OnMembersEpoch | None = None,
    on_progress: Progress | None = None,
    memory_budget: int = 2**30,
    compiled: bool = False,
) -> TrainedMany:
    r"""Minimise K empirical risks :math:`\frac1{n_k}\sum_{i \in S_k} \ell_i(\theta_k)` at once.

    Member k ends where `fit(models[k], losses, x[rows[k]], y[rows[k]], generator=generators[k], ...)` ends, up to the
    rounding of sums that are taken in another order: its initial weights, its order of examples, its rate and weight
    decay are its own. The parameters are stacked to (K, ...) and one elementwise optimiser moves them all. A network that is
    a `nn.Sequential` of usual layers runs by one batched kernel a layer ("batched"); any other is mapped over the stacks by
    `torch.func.vmap` ("vmapped"). Members with different numbers of rows train in groups, and groups larger
    than the memory budget in chunks. Dropout draws its masks for all members together: same law, other bits.

    Networks that can be neither (recurrent layers, control flow by values, optimisers that mix coordinates) are trained
    one by one by `fit`, with the reason in the result. A member that diverges does not disturb the others.

    Cost: the arithmetic of K trainings with the overhead of one. Memory: K copies of parameters, gradients, optimiser
    state and one batch's graph, at most `memory_budget`.

    Args:
        models: One initialised network for each member; not changed.
        losses: Loss by example.
        x: Inputs (N, ...), a tensor or a tree of them, on the models' device.
        y: Targets (N, ...), likewise.
        optimizer: Makes an optimiser of a list of parameters.
        batch_size: Examples a step of each member.
        generators: On the CPU, one for each member: its order of examples. Equal seeds make coupled orders.
        epochs: Passes over each member's rows; this or `steps`.
        steps: Updates of each member.
        rows: Training rows of each member, (K, n) or a list of K; repeats allowed. None for all examples.
        targets: (K, N, ...) in place of y: other labels for each member.
        inputs: (K, N, ...) in place of x.
        lr_factors: Factor of the learning rate of each member, (K,).
        weight_decay: Weight decay of each member, (K,).
        scheduler: Makes a learning-rate schedule of an optimiser; stepped after every update.
        penalty: From a network to a number that is added to its mean loss.
        ledger: What is noted of each example when it is presented, before the update.
        on_epoch: Called after each epoch of each chunk; the (k,) values it returns are recorded under their names.
        on_progress: Called after each epoch with the member epochs done and all of them.
        memory_budget: Bytes.
        compiled: Record the operators of a step once and train on compiled code (TorchInductor), where that works; else the
            result says why not. Takes 5 to 30 s before the first step (under 1 s the next time), so it pays where the training
            itself takes minutes.
            What Python decides in the network and the losses is decided once: a factor that a callback changes between epochs
            must be a tensor that is changed in place.

    Returns:
        The networks and how the training went.

    Raises:
        SettingError: Members of different shapes, rows out of range, sizes that do not pair up, a budget that is not
            positive, or not exactly one of `epochs` and `steps`.
        ObjectiveError: `losses` fails, or does not return one number per example.

    Source: Wilson, Ghanem, Hutter & Tabor 2022 and PyTorch's `torch.func` for training ensembles by vmap.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from torchstone.training.evaluation import squared_error
        >>> x = torch.linspace(-1, 1, 32)[:, None]
        >>> run = fit_many(
        ...     [nn.Linear(1, 1) for _ in range(5)], squared_error, x, 2 * x + 1, batch_size=8, epochs=30,
        ...     generators=[torch.Generator().manual_seed(k) for k in range(5)],
        ...     optimizer=lambda parameters: torch.optim.SGD(parameters, lr=0.2),
        ... )
        >>> bool((run.series["train_loss"][:, -1] < 1e-6).all()), run.way
        (True, 'batched')
    """
    check_same_architecture(models)
    members = len(models)
    data = MemberData.of(x, y, members, rows, inputs, targets)
    _check(members, batch_size, generators, memory_budget, optimizer)
    budgets = [updates(epochs, steps, len(some), batch_size) for some in data.rows]
    job = Job(
        models=models,
        losses=losses,
        data=data,
        optimizer=optimizer,
        batch_size=batch_size,
        generators=generators,
        budgets=budgets,
        lr_factors=member_values("lr_factors", lr_factors, members),
        weight_decay=member_values("weight_decay", weight_decay, members),
        scheduler=scheduler,
        penalty=penalty,
        ledger=ledger,
        on_epoch=_telling(on_epoch),
        on_progress=_counting(on_progress, data, budgets, batch_size),
        compiled=compiled,
    )
    way, reason = way_of(job)
    if way is not None:
        parts = chunks(job, memory_budget)
        reason = (
            "" if parts else f"the memory budget of {memory_budget / 2**20:.0f} MiB does not hold two members"
        )
        if parts:
            name = "batched" if way is batched else "vmapped"
            trained = [train_as_one(job, part, way) for part in parts]
            uncompiled = next((chunk.reason for chunk in trained if chunk.reason), "")
            name += ", compiled" if compiled and not uncompiled else ""
            reasons = "; ".join(filter(None, (uncompiled, _differs(models))))
            return _joined(job, trained, name, reasons)
    return _joined(job, [train_one_by_one(job)], "one by one", reason)


def _check(
    members: int,
    batch_size: int,
    generators: Sequence[torch.Generator],
    memory_budget: int,
    optimizer: OptimizerFactory,
) -> None:
    """Raise a SettingError where the settings do not fit together."""
    whole = hasattr(batch_size, "__index__") and not isinstance(batch_size, bool) and batch_size >= 1
    roomy = isinstance(memory_budget, int | float) and memory_budget >= 1
    if not isinstance(generators, Sequence) or len(generators) != members or not whole or not roomy:
        raise SettingError(
            f"fit_many needs one generator for each of {members} models, a batch_size and a memory_budget of at least 1",
            f"{len(generators) if isinstance(generators, Sequence) else 'no'} generators, batch_size={batch_size}, memory_budget={memory_budget}",
            "Pass [torch.Generator().manual_seed(k) for k in range(members)].",
        )
    for generator in generators:
        check_generator(generator)
    if isinstance(optimizer, Optimizer):  # it holds the parameters of one network
        raise SettingError(
            "optimizer must be a function of the parameters that makes an optimiser",
            type(optimizer).__name__,
            "Pass lambda parameters: torch.optim.SGD(parameters, lr=0.1).",
        )


def _telling(on_epoch: OnMembersEpoch | None) -> Any:
    """The callback, fed from the loop's plain values."""
    if on_epoch is None:
        return None

    def tell(index: int, steps: int, members: Tensor, loss: Tensor, ensemble: Ensemble) -> dict[str, Tensor]:
        told = told_by(on_epoch(MembersEpoch(index, steps, members, loss, ensemble)))
        wrong = [name for name, value in told.items() if getattr(value, "shape", None) != (len(members),)]
        if wrong or "train_loss" in told:
            name = wrong[0] if wrong else "train_loss"
            raise SettingError(
                f"on_epoch must return one number for each of {len(members)} members, and no train_loss",
                f"{name} of shape {tuple(told[name].shape)}"
                if isinstance(told[name], Tensor)
                else f"{name}: {told[name]!r:.80}",
                "Average over the examples, for example with .mean(1).",
            )
        return {name: torch.as_tensor(value).detach().double().cpu() for name, value in told.items()}

    return tell


def _counting(on_progress: Progress | None, data: MemberData, budgets: list[int], batch_size: int) -> Any:
    """Count member epochs."""
    total = sum(
        -(-budget // -(-len(rows) // batch_size)) for budget, rows in zip(budgets, data.rows, strict=True)
    )
    done = 0

    def count(members: int) -> None:
        nonlocal done
        done += members
        if on_progress is not None:
            on_progress(done, total)

    return count


def _differs(models: Sequence[nn.Module]) -> str:
    if any(isinstance(m, nn.modules.dropout._DropoutNd) and m.p > 0 for m in models[0].modules()):
        return "dropout masks are drawn for all members together: same law as training alone, other bits"
    return ""


def _joined(job: Job, parts: list[Chunk], way: str, reason: str) -> TrainedMany:
    """Put the chunks' members back into their order."""
    order = torch.cat([part.members for part in parts]).argsort()
    names = list(parts[0].series)
    epochs = max(part.series["train_loss"].shape[1] for part in parts)

    def stacked(values: list[Tensor], shape: tuple[int, ...]) -> Tensor:
        whole = [torch.full((len(v), *shape), torch.nan, dtype=v.dtype) for v in values]
        for room, value in zip(whole, values, strict=True):
            room[tuple(slice(0, extent) for extent in value.shape)] = value
        return torch.cat(whole)[order]

    def together(which: Callable[[Ensemble], Mapping[str, Tensor]]) -> dict[str, Tensor]:
        first = which(parts[0].ensemble)
        if len(parts) == 1 and bool((order == torch.arange(len(order))).all()):
            return {name: value.detach() for name, value in first.items()}
        return {
            name: torch.cat([which(part.ensemble)[name].detach() for part in parts])[order.to(value.device)]
            for name, value in first.items()
        }

    ledgers = [part.ledger for part in parts if part.ledger is not None]
    longest = max(len(rows) for rows in job.data.rows)
    ensemble = Ensemble(
        parts[0].ensemble.template,
        together(lambda ensemble: ensemble.parameters),
        together(lambda ensemble: ensemble.buffers),
        vectorised=all(part.ensemble.vectorised for part in parts),
    )
    return TrainedMany(
        ensemble=ensemble,
        series={name: stacked([part.series[name] for part in parts], (epochs,)) for name in names},
        steps=torch.tensor(job.budgets),
        diverged=dict(sorted({k: step for part in parts for k, step in part.diverged.items()}.items())),
        way=way,
        reason=reason,
        ledger=stacked(ledgers, (epochs, longest)) if ledgers else None,
    )
