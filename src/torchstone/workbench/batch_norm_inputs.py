"""What batch-normalisation layers are given in evaluation, against the running statistics they normalise by."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from torchstone.batches import Batch
from torchstone.landscape.batch_statistics import batch_norms
from torchstone.specimen import Specimen


@dataclass(frozen=True)
class NormInputs:
    """Statistics of one layer's inputs by channel, float64 (C,) each.

    Attributes:
        mean: Over all examples and positions.
        variance: The same, biased.
        spread: Variance over the examples of an example's own mean: that of a batch's mean is this over the batch size.
        running_mean: What evaluation subtracts.
        running_variance: What evaluation divides by.
        eps: Added to the variance.
    """

    mean: Tensor
    variance: Tensor
    spread: Tensor
    running_mean: Tensor
    running_variance: Tensor
    eps: float


@dataclass(frozen=True)
class ModeGap:
    """Mean loss with running and with batch statistics, and the root mean square difference of outputs over their spread."""

    running: float
    batch: float
    outputs: float


@torch.no_grad()
def batch_norm_inputs(
    specimen: Specimen, split: str = "train"
) -> tuple[dict[str, NormInputs], ModeGap | None]:
    """Inputs of every layer with running statistics, and how outputs change when batches normalise themselves.

    The layers are in evaluation mode, whatever mode the specimen is measured in, so statistics do not depend on batches; the
    gap is over the specimen's own batches. Layers that are not called are left out.

    Cost: two forward passes.

    Args:
        specimen: What to look at.
        split: Part of the data.

    Returns:
        By name, in order of definition; and the gap, None where no batch has two numbers a channel.
    """
    norms = batch_norms(specimen.model)
    seen: dict[str, Tensor] = {}
    if not norms:
        return {}, None

    def watch(name: str, norm: Any, given: tuple[Tensor, ...]) -> None:
        about = norm.running_mean.double().nan_to_num(0.0, 0.0, 0.0)
        rows = (
            given[0].detach().double().transpose(0, 1).flatten(2)
            if given[0].ndim > 2
            else given[0].double().T[..., None]
        )
        rows = rows - about[:, None, None]
        one = rows.mean(2)
        count, examples = torch.full_like(about, rows[0].numel()), torch.full_like(about, one.shape[1])
        sums = (count, rows.sum((1, 2)), rows.square().sum((1, 2)), examples, one.sum(1), one.square().sum(1))
        seen[name] = seen.get(name, 0) + torch.stack(sums)

    def of_batch(batch: Batch) -> tuple[Tensor, ...]:
        seen.clear()
        with _mode(norms, batch=False):
            handles = [
                norm.register_forward_pre_hook(lambda module, given, name=name: watch(name, module, given))
                for name, norm in norms.items()
            ]
            try:
                outputs = specimen.forward(batch)
            finally:
                for handle in handles:
                    handle.remove()
        idle = lambda norm: torch.zeros(6, norm.num_features, dtype=torch.float64, device=specimen.device)
        return _gap(specimen, norms, batch, outputs), *(
            seen.get(name, idle(norm)) for name, norm in norms.items()
        )

    gap, *totals = specimen.sum_over(of_batch, split)
    found = {
        name: _statistics(norm, total)
        for (name, norm), total in zip(norms.items(), totals, strict=True)
        if bool((total[0] > 0).all())
    }
    examples, running, batch, difference, sums, squares, values = gap.tolist()
    if not examples:
        return found, None
    spread = max(squares / values - (sums / values) ** 2, 1e-300)
    return found, ModeGap(running / examples, batch / examples, (difference / values / spread) ** 0.5)


def _statistics(norm: Any, total: Tensor) -> NormInputs:
    count, sums, squares, examples, means, mean_squares = total.cpu()
    shift = sums / count
    about = norm.running_mean.detach().double().cpu()
    return NormInputs(
        mean=about.nan_to_num(0.0, 0.0, 0.0) + shift,
        variance=(squares / count - shift.square()).clamp(min=0),
        spread=(mean_squares / examples - (means / examples).square()).clamp(min=0),
        running_mean=about,
        running_variance=norm.running_var.detach().double().cpu(),
        eps=float(norm.eps),
    )


def _gap(specimen: Specimen, norms: dict[str, Any], batch: Batch, outputs: Tensor) -> Tensor:
    """Examples, losses in both modes, and sums for the difference of outputs; zeros where a batch cannot normalise itself."""
    try:
        with _mode(norms, batch=True):
            other = specimen.forward(batch)
    except ValueError:  # one number a channel
        return torch.zeros(7, dtype=torch.float64, device=specimen.device)
    one, two = outputs.double(), other.double()
    sums = [
        torch.tensor(specimen.objective.size(batch)),
        specimen.losses(outputs, batch).double().sum(),
        specimen.losses(other, batch).double().sum(),
        (one - two).square().sum(),
        one.sum(),
        one.square().sum(),
        torch.tensor(one.numel()),
    ]
    return torch.stack([value.detach().double().to(specimen.device) for value in sums])


@contextlib.contextmanager
def _mode(norms: dict[str, Any], *, batch: bool) -> Iterator[None]:
    """Inside, these layers use the batch's statistics without noting them, or their running ones."""
    kept = [(norm, norm.training, norm.track_running_stats) for norm in norms.values()]
    try:
        for norm in norms.values():
            norm.training, norm.track_running_stats = batch, not batch
        yield
    finally:
        for norm, training, tracking in kept:
            norm.training, norm.track_running_stats = training, tracking
