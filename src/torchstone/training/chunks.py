"""Which members of many trainings run at once: groups of equal length, cut to a memory budget."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map

from torchstone.training.ensemble import Ensemble
from torchstone.training.job import Job
from torchstone.training.order import seeded_epoch
from torchstone.training.presentation import Presentation

# Stacked parameters, their gradients, the copy before a step, and up to two moments of an optimiser.
COPIES = 5
# On a CPU a chunk that leaves the caches trains slower per member: 151,250 parameters at batch size 64 took 0.10 s a
# member for two epochs in eights (50 MiB) and 0.12 s in sixteens.
CACHED = 64 * 2**20


@dataclass(frozen=True)
class Chunk:
    """What came out of training some members together.

    Args:
        members: Which, (k,).
        ensemble: Their networks.
        series: (k, E) by name.
        diverged: Step by member.
        ledger: (k, E, n).
        reason: Why not compiled; empty where compiled or not asked for.
    """

    members: Tensor
    ensemble: Ensemble
    series: Mapping[str, Tensor]
    diverged: Mapping[int, int] = field(default_factory=dict)
    ledger: Tensor | None = None
    reason: str = ""


def chunks(job: Job, memory_budget: int) -> list[Tensor]:
    """Members in groups with equal numbers of rows and updates, each within the budget; empty if two do not fit.

    Args:
        job: What is trained.
        memory_budget: Bytes.
    """
    groups: dict[tuple[int, int], list[int]] = {}
    for k, (rows, budget) in enumerate(zip(job.data.rows, job.budgets, strict=True)):
        groups.setdefault((len(rows), budget), []).append(k)
    each = max(1, bytes_of_a_member(job))
    at_once = memory_budget // each
    if at_once < min(2, len(job.models)):
        return []
    if job.device.type == "cpu":
        at_once = min(at_once, max(2, CACHED // each))
    parts = []
    for members in groups.values():
        # Chunks of equal size: a last one of a single member would waste what the others gained.
        pieces = -(-len(members) // at_once)
        parts += [part for part in torch.tensor(members).tensor_split(pieces) if len(part)]
    return parts


def bytes_of_a_member(job: Job) -> int:
    """Parameters with everything an optimiser keeps of them, and the graph of one batch, as one member needs it."""
    model = copy.deepcopy(job.models[0])
    own = sum(p.numel() * p.element_size() for p in model.parameters())
    rows = job.data.rows[0][: job.batch_size]
    x, y = (tree_map(lambda leaf: leaf[rows.to(leaf.device)], tree) for tree in job.data.alone(0))
    kept: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    presentation = Presentation(model, job.losses, job.penalty, job.ledger)
    with seeded_epoch(model, _device(x), 0), torch.autograd.graph.saved_tensors_hooks(pack, _as_it_is):
        presentation(x, y, len(rows))
    for p in model.parameters():
        kept.pop(p.untyped_storage().data_ptr(), None)
    # The backward pass holds about as much again in gradients of activations.
    return COPIES * own + 2 * sum(kept.values())


def _as_it_is(tensor: Any) -> Any:
    return tensor


def _device(tree: Any) -> torch.device:
    return tree_leaves(tree)[0].device
