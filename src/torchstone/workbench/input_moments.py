"""Means and covariances of what enters the weight layers, over all examples and positions."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from torchstone.batches import tensors
from torchstone.details import thin
from torchstone.specimen import Specimen


@dataclass(frozen=True)
class Moments:
    """First two moments of some features over the rows of a data set.

    Attributes:
        mean: (d,) float64.
        covariance: (d, d) float64, divided by the number of rows.
        rows: Examples times positions.
        of: How many features there are, of which d were kept.
    """

    mean: Tensor
    covariance: Tensor
    rows: int
    of: int

    @classmethod
    def of_rows(cls, X: Tensor, columns: Tensor) -> Moments:
        """Those of the chosen columns of a matrix (N, D)."""
        kept = X[:, columns].double()
        mean = kept.mean(0)
        centred = kept - mean
        return cls(mean, centred.T @ centred / len(X), len(X), X.shape[1])


def chosen_columns(features: int, most: int, generator: torch.Generator) -> Tensor:
    """Increasing indices of at most `most` of the features."""
    if features <= most:
        return torch.arange(features)
    return torch.randperm(features, generator=generator)[:most].sort().values


@torch.no_grad()
def input_moments(
    specimen: Specimen, *, layers: int, columns: int, generator: torch.Generator, split: str = "train"
) -> dict[str, Moments]:
    """Moments of the inputs of dense, convolution and recurrent layers, by the layer's name in order of definition.

    Features are channels for convolutions, with positions as further rows, and the last axis for the others. Several calls
    of a layer are pooled. Layers that are never called, or whose input is not a plain tensor, are left out.

    Cost: two forward passes, the second one about the means of the first, so that large means cancel exactly; rows * d^2
    products a layer.

    Args:
        specimen: What to look at.
        layers: At most this many layers, evenly chosen.
        columns: At most this many features of a layer, drawn.
        generator: Draws them.
        split: Part of the data.
    """
    widths = {name: width for name, module in specimen.model.named_modules() if (width := _width(module))}
    names = [list(widths)[i] for i in thin(len(widths), layers)]
    if not names:
        return {}
    chosen = {name: chosen_columns(widths[name], columns, generator).to(specimen.device) for name in names}

    def totals(about: dict[str, Tensor]) -> dict[str, tuple[Tensor, Tensor]]:
        """Count of rows by layer, and the sum of rows, or of their products once means are known."""

        def of_batch(batch: Any) -> tuple[Tensor, ...]:
            found = {name: _zeros(len(chosen[name]), name in about, specimen.device) for name in names}

            def take(name: str, rows: Tensor) -> None:
                kept = rows[:, chosen[name]].double()
                if name in about:
                    kept = kept - about[name]
                    found[name][1].add_(kept.T @ kept)
                else:
                    found[name][1].add_(kept.sum(0))
                found[name][0].add_(len(kept))

            with _entering(specimen.model, set(names), take):
                specimen.forward(batch)
            return tuple(part for name in names for part in found[name])

        summed = specimen.sum_over(of_batch, split)
        return {name: (summed[2 * i], summed[2 * i + 1]) for i, name in enumerate(names)}

    first = totals({})
    means = {name: total / count for name, (count, total) in first.items() if count > 0}
    second = totals({name: means.get(name, first[name][1]) for name in names})
    return {
        name: Moments(
            mean.cpu(), (second[name][1] / second[name][0]).cpu(), int(second[name][0]), widths[name]
        )
        for name, mean in means.items()
    }


def _zeros(width: int, square: bool, device: torch.device) -> tuple[Tensor, Tensor]:
    shape = (width, width) if square else (width,)
    return torch.zeros((), dtype=torch.float64, device=device), torch.zeros(
        shape, dtype=torch.float64, device=device
    )


def _width(module: nn.Module) -> int:
    """Features of a weight layer's input; 0 for other modules."""
    if isinstance(module, nn.Linear):
        return module.in_features
    if isinstance(module, _ConvNd):
        return module.in_channels
    return module.input_size if isinstance(module, nn.RNNBase) else 0


def _rows(module: nn.Module, entering: Tensor) -> Tensor | None:
    """The input as (rows, features), or None where it does not fit."""
    if isinstance(module, _ConvNd):
        axis = entering.ndim - len(module.kernel_size) - 1  # also without an axis of examples
        entering = entering.movedim(axis, -1)
    return (
        entering.reshape(-1, entering.shape[-1])
        if entering.ndim and entering.shape[-1] == _width(module)
        else None
    )


@contextlib.contextmanager
def _entering(model: nn.Module, names: set[str], take: Callable[[str, Tensor], None]) -> Iterator[None]:
    """Inside, every call of a named layer gives its name and the rows of its input to `take`."""

    def see(name: str, module: nn.Module, given: Any) -> None:
        tensor = next(tensors(given), None)
        rows = _rows(module, tensor.detach()) if tensor is not None and tensor.is_floating_point() else None
        if rows is not None:
            take(name, rows)

    handles = [
        module.register_forward_pre_hook(
            lambda module, args, kwargs, name=name: see(name, module, [args, kwargs]), with_kwargs=True
        )
        for name, module in model.named_modules()
        if name in names
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
