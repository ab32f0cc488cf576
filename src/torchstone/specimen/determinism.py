"""Measure twice: what differs between two passes is found, named, and handled or refused."""

from __future__ import annotations

from collections.abc import Callable
from itertools import islice

import torch
from torch import Tensor, nn

from torchstone import batches
from torchstone.batches import Batch
from torchstone.errors import DeterminismError
from torchstone.specimen.split import Split

_PROBED_BATCHES = 4


def freeze_data(
    split: Split, budget: int, cap: int | None, generator: torch.Generator
) -> tuple[Split, list[str]]:
    """A split whose every pass is the same, and what had to be done for it.

    Stores the batches where they fit `budget` bytes; otherwise draws `cap` examples; otherwise leaves the stream as
    it is, after checking that two passes agree.

    Raises:
        DeterminismError: A stream too large to store yields something else on every pass.
    """
    if split.stored:
        return (split.sample(cap, generator) if cap else split), []
    change = _change_between_passes(split)
    findings = [f"{split.name} data {change}; one pass was stored and examined."] if change else []
    stored = split.in_memory(budget)
    if stored is not None:
        return (stored.sample(cap, generator) if cap else stored), findings
    if cap and cap < split.size:
        fitting = max(2, int(budget / split.bytes_per_example))
        if fitting < cap:
            findings.append(
                f"{split.name} data: {fitting:,} examples fit the memory budget of {budget:,} bytes, fewer than the "
                f"plan's {cap:,}."
            )
        return split.sample(min(cap, fitting), generator), findings
    if change:
        raise DeterminismError(
            f"{split.name} data must be the same on every pass, or fit the memory budget of {budget:,} bytes",
            f"a loader that {change}, with more data than the budget",
            "Turn shuffling and random augmentation off, raise --budget, or use a plan that subsamples.",
        )
    return split, findings


def _change_between_passes(split: Split) -> str:
    """How a second pass differs from the first: "" for not at all."""
    # One pass after the other: loaders with persistent workers have a single iterator.
    first, second = ([_kept(batch) for batch in islice(iter(split), _PROBED_BATCHES)] for _ in range(2))
    if len(first) == len(second) and all(map(batches.same, first, second)):
        return ""
    digests = [sorted(digest for batch in split for digest in batches.row_digests(batch)) for _ in range(2)]
    if digests[0] == digests[1]:
        return "is shuffled on every pass"
    return "changes on every pass (random augmentation or resampling)"


def _kept(batch: Batch) -> Batch:
    return batches.map_tensors(
        lambda tensor: tensor.detach().clone(), batch
    )  # some loaders refill their tensors


def check_forward(forward: Callable[[Batch], Tensor], model: nn.Module, batch: Batch) -> None:
    """Refuse a network whose outputs differ between two evaluations of the same batch.

    Raises:
        DeterminismError: Naming the layers that are random, where they can be found.
    """
    first, second = forward(batch), forward(batch)
    if batches.same_bits(first, second):
        return
    difference = (first - second).abs().max()
    if bool(difference <= 1e-5 * first.abs().max()):  # kernels that add in varying order
        return
    random_layers = [name for name, module in model.named_modules() if module.training and _is_random(module)]
    where = f"live dropout in {', '.join(random_layers)}" if random_layers else "randomness inside forward()"
    raise DeterminismError(
        "Two evaluations of the same batch must give the same outputs",
        f"a difference of {float(difference):.3g}: {where}",
        "Examine in eval mode (mode='eval'), or pass Specimen(..., freeze_noise=True) to fix the noise.",
    )


def _is_random(module: nn.Module) -> bool:
    return any(_is_rate(getattr(module, name, None)) for name in ("p", "drop_prob", "dropout"))


def _is_rate(value: object) -> bool:
    return isinstance(value, float) and 0 < value <= 1


def couples_examples(
    forward: Callable[[Batch], Tensor], take: Callable[[Batch, Tensor], Batch], batch: Batch, count: int
) -> bool:
    """Whether an example's output depends on the others in its batch (batch statistics in training mode)."""
    if count < 2:
        return False
    together = forward(batch)
    half = torch.arange((count + 1) // 2)
    try:
        alone = forward(take(batch, half))
    except Exception:  # noqa: BLE001 - batch statistics of a single example, say
        return True
    if alone.shape[1:] != together.shape[1:]:
        return True
    part = together[: len(half)]
    tolerance = 1e-3 if together.dtype.itemsize >= 4 else 5e-2
    scale = part.abs().max().clamp(min=1e-12)
    return bool((alone - part).abs().max() > tolerance * scale)
