"""How many networks are presented a batch each as one: by batched layers where these say the same as vmap, else by vmap."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import vmap
from torch.optim import Optimizer

from torchstone.errors import SettingError, TorchstoneError
from torchstone.stateless import StatelessCall
from torchstone.training.batched import Batched, chain
from torchstone.training.ensemble import size
from torchstone.training.evaluation import one_per_example
from torchstone.training.job import Job
from torchstone.training.member_data import on_leaves
from torchstone.training.member_steps import ELEMENTWISE
from torchstone.training.optimizers import made_optimizer
from torchstone.training.order import seeded_epoch
from torchstone.training.presentation import Presentation
from torchstone.training.stack import Stack

Stacks = Mapping[str, Tensor]
Present = Callable[[Stacks, Stacks, Any, Any], tuple[Tensor, Tensor, Tensor]]
"""From stacked parameters, stacked buffers and batches (K, B, ...) to losses (K, B), penalties (K,) and notes (K, B)."""
Way = Callable[[Job, nn.Module], Present]
"""From a job and one of its networks, whose modes count, to how it is presented."""

TRIAL = (
    RuntimeError,
    NotImplementedError,
    TypeError,
    ValueError,
    AttributeError,
    LookupError,
    AssertionError,
)


def vmapped(job: Job, template: nn.Module) -> Present:
    """`Presentation` mapped over the members by `torch.func.vmap`."""
    presentation = Presentation(template, job.losses, job.penalty, job.ledger)
    call = StatelessCall(template, lambda _, *batch: presentation(*batch))

    def one(parameters: Stacks, buffers: Stacks, x: Any, y: Any) -> Any:
        values, penalty, note = call({**parameters, **buffers}, x, y, size(x))
        return values, values.new_zeros(()) if penalty is None else penalty, note

    return vmap(one, randomness="different")


def batched(job: Job, template: nn.Module) -> Present:
    """`Batched` layers; the losses see the examples of all members as one batch."""
    layers = chain(template)
    if layers is None:
        raise TypeError("not a chain of known layers")
    penalty = None
    if job.penalty is not None:
        call = StatelessCall(template, job.penalty)
        penalty = vmap(lambda parameters, buffers: call({**parameters, **buffers}), randomness="different")

    def present(parameters: Stacks, buffers: Stacks, x: Any, y: Any) -> tuple[Tensor, Tensor, Tensor]:
        network: Any = Batched(layers, {**parameters, **buffers})
        shape = (len(next(iter(parameters.values()))), -1)
        x, y = (on_leaves(lambda leaf: leaf.flatten(0, 1), tree) for tree in (x, y))
        values = one_per_example(job.losses(network, x, y), size(x))
        note = values.detach()
        if job.ledger is not None:
            note = one_per_example(job.ledger(network, x, y), size(x)).detach().to(values.dtype)
        charge = values.new_zeros(()) if penalty is None else penalty(parameters, buffers)
        return values.unflatten(0, shape), charge, note.unflatten(0, shape)

    return present


def way_of(job: Job) -> tuple[Way | None, str]:
    """The quickest way that fits, or None with the reason why these networks cannot be trained as one.

    Each way is tried on a step of two networks with different weights; batched layers must give the losses, gradients
    and statistics that vmap gives, which a loss that mixes the examples of a batch, say, does not pass.
    """
    if not any(p.requires_grad for p in job.models[0].parameters()):
        return None, "the network has no trainable parameters"
    pair = _pair(job).leaves
    try:
        optimizer = made_optimizer(job.optimizer, pair)
    except SettingError as error:
        return None, f"the optimizer does not take stacked parameters: {error}"
    if type(optimizer) not in ELEMENTWISE:
        return None, f"{type(optimizer).__name__} is not known to move every coordinate by itself"
    model = copy.deepcopy(job.models[0])
    alone = made_optimizer(job.optimizer, list(model.parameters()))
    if _groups(alone, list(model.parameters())) != _groups(optimizer, pair):
        return None, "the optimizer sorts stacked parameters into other groups than a network's own"
    try:
        expected = _trial(job, vmapped)
    except TorchstoneError:
        raise  # the user's mistake, in words already
    except TRIAL as error:
        what = str(error).splitlines()[0][:160] if str(error) else type(error).__name__
        return None, f"torch.func.vmap cannot map it: {what}"
    try:
        found = _trial(job, batched)
    except (TorchstoneError, *TRIAL):
        return vmapped, ""
    return (batched if same(found, expected) else vmapped), ""


def _groups(optimizer: Optimizer, parameters: Sequence[Tensor]) -> list[tuple[list[int], dict[str, str]]]:
    """Which parameters are in each group of an optimiser, and the group's settings."""
    place = {id(p): k for k, p in enumerate(parameters)}
    return [
        (
            [place.get(id(p), -1) for p in group["params"]],
            {name: repr(value) for name, value in group.items() if name != "params"},
        )
        for group in optimizer.param_groups
    ]


def _pair(job: Job) -> Stack:
    """Member 0, and a network whose weights differ everywhere."""
    pair = Stack.of([job.models[0], job.models[0]])
    with torch.no_grad():
        for p in pair.leaves:
            p[1] += 0.1 * torch.arange(p[1].numel(), device=p.device).cos().view(p[1].shape).to(p.dtype)
    return pair


def _trial(job: Job, way: Way) -> dict[str, Tensor]:
    """Losses, notes, gradients and buffers of one step of a pair, without dropout."""
    template, pair = copy.deepcopy(job.models[0]), _pair(job)
    # Batches that differ, so that a loss that mixes the examples of a batch says other things of two batches as one.
    first, last = job.data.rows[0][: job.batch_size], job.data.rows[-1]
    rows = torch.stack([first, last[(-1 - torch.arange(len(first)) // 2) % len(last)]])
    with seeded_epoch(template, job.device, 0):
        for module in template.modules():
            if isinstance(module, nn.modules.dropout._DropoutNd):
                module.eval()
        x, y = job.data.batch(torch.tensor([0, len(job.models) - 1]), rows)
        values, penalty, note = way(job, template)(pair.parameters, pair.buffers, x, y)
        (values.mean() + penalty.sum()).backward()
    slopes = {f"gradient of {name}": p.grad for name, p in pair.parameters.items() if p.grad is not None}
    return {"losses": values.detach(), "penalty": penalty.detach(), "notes": note, **slopes, **pair.buffers}


def same(found: dict[str, Tensor], expected: dict[str, Tensor]) -> bool:
    """Whether losses, gradients ("gradient of ...") and buffers are equal up to rounding, which a slope that cancels to zero has in the size of the others."""
    if found.keys() != expected.keys():
        return False
    sizes = {
        name: float(_wide(value).abs().nan_to_num(0, 0, 0).amax())
        for name, value in expected.items()
        if value.numel()
    }
    steepest = max((size for name, size in sizes.items() if name.startswith("gradient of ")), default=0.0)
    rounding = torch.finfo(expected["losses"].dtype).eps ** 0.5
    return all(
        torch.allclose(
            _wide(found[name]).expand_as(value),
            _wide(value),
            rtol=0,
            atol=rounding * (steepest if name.startswith("gradient of ") else sizes[name]),
            equal_nan=True,
        )
        for name, value in expected.items()
        if value.numel()
    )


def _wide(value: Tensor) -> Tensor:
    return value.to(torch.complex128 if value.is_complex() else torch.float64)
