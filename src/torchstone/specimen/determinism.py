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
        return split.sample(cap, generator), findings
    if change:
        raise DeterminismError(
            f"{split.name} data must be the same on every pass, or fit the memory budget of {budget:,} bytes",
            f"a loader that {change}, with more data than the budget",
            "Turn shuffling and random augmentation off, raise --budget, or use a plan that subsamples.",
        )
    return split, findings


def _change_between_passes(split: Split) -> str:
    """How a second pass differs from the first: "" for not at all."""
    pairs = zip(islice(iter(split), _PROBED_BATCHES), islice(iter(split), _PROBED_BATCHES), strict=False)
    if all(batches.same(first, second) for first, second in pairs):
        return ""
    digests = [sorted(digest for batch in split for digest in batches.row_digests(batch)) for _ in range(2)]
    if digests[0] == digests[1]:
        return "is shuffled on every pass"
    return "changes on every pass (random augmentation or resampling)"


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
    name = type(module).__name__
    return "Dropout" in name or "DropPath" in name or (getattr(module, "dropout", 0.0) or 0.0) != 0.0


def couples_examples(
    forward: Callable[[Batch], Tensor], take: Callable[[Batch, Tensor], Batch], batch: Batch, count: int
) -> bool:
    """Whether an example's output depends on the others in its batch (batch statistics in training mode)."""
    if count < 2:
        return False
    together = forward(batch)
    half = torch.arange((count + 1) // 2)
    alone = forward(take(batch, half))
    if alone.shape[1:] != together.shape[1:]:
        return True
    part = together[: len(half)]
    tolerance = 1e-3 if together.dtype.itemsize >= 4 else 5e-2
    scale = part.abs().max().clamp(min=1e-12)
    return bool((alone - part).abs().max() > tolerance * scale)
