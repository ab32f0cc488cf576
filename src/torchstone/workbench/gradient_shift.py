"""How much a layer's gradient changes because the layers before it have made their step."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from torchstone.batches import Batch
from torchstone.details import thin
from torchstone.errors import NotApplicableError
from torchstone.specimen import Specimen


@dataclass(frozen=True)
class GradientShift:
    """The gradient G of one layer, and G' after the layers before it have moved.

    Attributes:
        layer: Its name.
        size: |G|.
        after: |G'|.
        change: |G - G'|.
        inner: <G, G'>.
    """

    layer: str
    size: float
    after: float
    change: float
    inner: float

    @property
    def cosine(self) -> float:
        """Between G and G'; NaN where one of them is 0."""
        scale = self.size * self.after
        return self.inner / scale if scale > 0 else float("nan")


def gradient_shifts(specimen: Specimen, lr: float, *, layers: int = 8) -> list[GradientShift]:
    r"""Internal covariate shift as the change of gradients, layer by layer in order of execution.

    G_i is the gradient of the mean training loss in the weights of layer i; G'_i the same after layers 1, ..., i - 1 have
    made the step -lr G_j while layer i and those behind it have not. The first layer's shift is 0 by definition. Parameters
    without axes for inputs (biases, scales of normalisation) belong to the weights before them. Layers that no gradient reaches
    are left out.

    Cost: one forward and backward pass for each layer measured, and one more. Memory: gradients of all parameters.

    Args:
        specimen: What to look at; its model is put back bit for bit.
        lr: Learning rate of the gradient step.
        layers: Measure at most this many, evenly chosen among those after the first; all that come earlier move.

    Source: Santurkar, Tsipras, Ilyas & Madry 2018, definition 2.1.
    """
    parameters = dict(specimen.trainable)
    found = []
    with specimen.measuring():
        start = _gradient(specimen, parameters)
        reached = {
            layer: members
            for layer, members in layer_parameters(specimen).items()
            if any(bool(start[member].any()) for member in members)
        }
        names = list(reached)
        chosen = {*names[:1], *(names[1 + i] for i in thin(len(names) - 1, max(2, layers)))}
        for name, members in reached.items():
            if name in chosen:
                after = _gradient(specimen, {member: parameters[member] for member in members})
                found.append(_shift(name, [(start[member], after[member]) for member in members]))
            _step([parameters[member] for member in members], [start[member] for member in members], lr)
    return found


@contextlib.contextmanager
def stepping(specimen: Specimen, lr: float) -> Iterator[None]:
    """Inside, all parameters have made the gradient step -lr G; on leaving they are put back bit for bit.

    Cost: one forward and backward pass.
    """
    with specimen.measuring():
        start = specimen.gradient()
        _step(list(specimen.trainable.values()), list(start.values()), lr)
        yield


@torch.no_grad()
def _step(parameters: list[nn.Parameter], gradients: list[Tensor], lr: float) -> None:
    for parameter, gradient in zip(parameters, gradients, strict=True):
        parameter.copy_(parameter.double() - lr * gradient)


def layer_parameters(specimen: Specimen) -> dict[str, list[str]]:
    """Names of the trainable parameters of each layer, layers in order of their first call.

    A parameter of a module that is never called itself belongs to the module around it. Vectors and scalars join the layer
    before them. Cost: one forward pass of a batch.

    Raises:
        NotApplicableError: No layer with trainable weights.
    """
    order = _first_calls(specimen)
    ranked = sorted(specimen.trainable, key=lambda name: order[_owner(name, order)])
    groups: dict[str, list[str]] = {}
    waiting: list[str] = []
    for name in ranked:
        if specimen.trainable[name].ndim > 1:
            layer = _owner(name, order).partition(".parametrizations")[0] or "model"
            groups.setdefault(layer, []).append(name)
        elif groups:
            groups[next(reversed(groups))].append(name)
        else:
            waiting.append(name)
    if not groups:
        raise NotApplicableError("needs a layer with trainable weights")
    groups[next(iter(groups))][:0] = waiting
    return groups


def _first_calls(specimen: Specimen) -> dict[str, int]:
    """Module name -> position of its first call; the whole model is first."""
    order: dict[str, int] = {"": 0}

    def see(name: str) -> None:
        order.setdefault(name, len(order))

    handles = [
        module.register_forward_pre_hook(lambda _module, _arguments, name=name: see(name))
        for name, module in specimen.model.named_modules()
    ]
    try:
        # With gradients, or fused kernels would pass over the layers.
        with specimen.measuring(), torch.enable_grad():
            specimen.forward(next(specimen.batches("train")))
    finally:
        for handle in handles:
            handle.remove()
    return order


def _owner(parameter: str, order: dict[str, int]) -> str:
    """The innermost module around a parameter that is called."""
    owner = parameter.rpartition(".")[0]
    while owner not in order:
        owner = owner.rpartition(".")[0]
    return owner


def _gradient(specimen: Specimen, parameters: dict[str, nn.Parameter]) -> dict[str, Tensor]:
    """Gradient of the mean training loss in some parameters, float64."""

    def of_batch(batch: Batch) -> Any:
        with torch.enable_grad():
            total = specimen.losses(specimen.forward(batch), batch).sum()
            return specimen.grad(total, tuple(parameters.values()), batch)

    return dict(zip(parameters, specimen.mean_over(of_batch), strict=True))


def _shift(name: str, pairs: list[tuple[Tensor, Tensor]]) -> GradientShift:
    before, after = (torch.cat([pair[side].flatten() for pair in pairs]) for side in (0, 1))
    return GradientShift(
        name,
        float(before.norm()),
        float(after.norm()),
        float((before - after).norm()),
        float(before @ after),
    )
