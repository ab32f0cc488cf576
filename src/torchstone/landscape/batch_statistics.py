"""The running statistics of batch normalisation at weights that were never trained."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from torchstone.batches import Batch
from torchstone.specimen import Specimen


def batch_norms(model: nn.Module) -> dict[str, Any]:
    """Modules with running statistics, by name."""
    return {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, _BatchNorm) and module.running_mean is not None
    }


@contextlib.contextmanager
def using_batch_statistics(model: nn.Module) -> Iterator[None]:
    """Inside, batch normalisation uses each batch's own mean and variance; every other module keeps its mode."""
    norms = list(batch_norms(model).values())
    modes = [norm.training for norm in norms]
    try:
        for norm in norms:
            norm.training = True
        yield
    finally:
        for norm, mode in zip(norms, modes, strict=True):
            norm.training = mode


@torch.no_grad()
def recomputed_statistics(specimen: Specimen, split: str = "train") -> dict[str, Tensor]:
    """Mean and variance that each batch normalisation sees at the present weights, by the names of its buffers.

    Pooled over all examples of the split, each with the same weight, while the layers before normalise by the batch, as
    in training: with equal batches the mean is the cumulative average of `momentum=None`, and the variance holds the
    spread between batches too. The network's own statistics are left alone.

    Cost: one forward pass.

    Args:
        specimen: What is examined.
        split: Part of the data.

    Returns:
        New values of `running_mean` and `running_var`; empty where nothing is normalised by the batch.

    Source: Izmailov et al. 2018, section 3.1 (the need); Frankle et al. 2020, appendix (interpolation).
    """
    norms = batch_norms(specimen.model)
    if not norms:
        return {}
    seen: dict[str, list[Tensor]] = {}

    def watch(name: str) -> Any:
        def note(_module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            rows = inputs[0].detach().double().transpose(0, 1).flatten(1)
            count = torch.full_like(rows[:, 0], rows.shape[1])
            sums = torch.stack([count, rows.sum(1), rows.square().sum(1)])
            seen[name] = [*seen.get(name, []), sums]

        return note

    def of_batch(batch: Batch) -> tuple[Tensor, ...]:
        seen.clear()
        kept = {
            norm: (norm.running_mean, norm.running_var, norm.num_batches_tracked) for norm in norms.values()
        }
        try:
            for norm in norms.values():  # statistics of its own to write to
                norm.running_mean, norm.running_var = norm.running_mean.clone(), norm.running_var.clone()
                norm.num_batches_tracked = norm.num_batches_tracked.clone()
            with using_batch_statistics(specimen.model):
                specimen.forward(batch)
        finally:
            for norm, buffers in kept.items():
                norm.running_mean, norm.running_var, norm.num_batches_tracked = buffers
        idle = lambda norm: torch.zeros(3, norm.num_features, dtype=torch.float64, device=specimen.device)
        return tuple(
            torch.stack(seen[name]).sum(0) if name in seen else idle(norm) for name, norm in norms.items()
        )

    handles = [norm.register_forward_pre_hook(watch(name)) for name, norm in norms.items()]
    try:
        totals = specimen.sum_over(of_batch, split)
    finally:
        for handle in handles:
            handle.remove()
    found: dict[str, Tensor] = {}
    for (name, norm), (count, total, squares) in zip(norms.items(), totals, strict=True):
        if bool((count > 1).all()):
            mean = total / count
            variance = (squares - count * mean.square()).clamp(min=0) / (count - 1)
            found[f"{name}.running_mean"] = mean.to(norm.running_mean)
            found[f"{name}.running_var"] = variance.to(norm.running_var)
    return found
