"""Which weights belong to the hidden units of each layer, so that units can be reordered without changing the function."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from torchstone.errors import NotApplicableError
from torchstone.landscape.moving import moving
from torchstone.landscape.point import Point, here
from torchstone.operators import ParameterSpace
from torchstone.specimen import Specimen

_LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
_TOLERANCE = {8: 1e-9, 4: 1e-3, 2: 5e-2}  # relative to the largest output, by bytes of a number


@dataclass(frozen=True)
class HiddenUnits:
    """The units of one hidden layer.

    Args:
        count: How many.
        made_by: Parameters and buffers with one row a unit: the layer's weight and bias, and normalisation's vectors.
        read_by: The weight whose columns read them.
        width: Consecutive columns that belong to one unit: the positions of a channel, where a map was flattened.
    """

    count: int
    made_by: tuple[str, ...]
    read_by: str
    width: int


def hidden_units(specimen: Specimen, space: ParameterSpace) -> list[HiddenUnits]:
    """The hidden layers of a chain of dense and convolution layers, with normalisation between them.

    The chain is read off the order in which modules run. Whatever that overlooks (a residual connection, weights that are
    used without their module) is found by trying: the outputs of a batch must stay the same when all hidden units are
    shuffled.

    Cost: three forward passes of one batch.

    Raises:
        NotApplicableError: The network is no such chain; the reason names what was found.
    """
    with specimen.measuring(), torch.no_grad():
        batch = next(specimen.batches("train"))
        units = _read_off(_order(specimen, batch), _Names.of(specimen.model))
        outputs = specimen.forward(batch)
        tolerance = _TOLERANCE[space.parameters[0].dtype.itemsize] * outputs.abs().max()
        own = here(specimen, space)
        with moving(specimen, space) as put:
            for shuffles in _trials(units):
                put(permuted(own, space, units, shuffles))
                if not bool((outputs - specimen.forward(batch)).abs().max() <= tolerance):
                    raise NotApplicableError(
                        "hidden units cannot be reordered layer by layer: the network is not a chain of dense and "
                        "convolution layers"
                    )
    return units


def _trials(units: Sequence[HiddenUnits]) -> list[list[Tensor]]:
    """Orders to try: turned by one, which tears groups of neighbours apart, and at random."""
    generator = torch.Generator().manual_seed(0)
    turned = [torch.arange(layer.count).roll(1) for layer in units]
    return [turned, [torch.randperm(layer.count, generator=generator) for layer in units]]


def permuted(
    point: Point, space: ParameterSpace, units: Sequence[HiddenUnits], permutations: Sequence[Tensor]
) -> Point:
    """The same function with unit `permutations[l][i]` of layer l in place i.

    Args:
        point: Weights and buffers.
        space: Where the parameters lie.
        units: The hidden layers.
        permutations: One order of units a layer, (count,).
    """
    weights, buffers = point.weights.clone(), dict(point.buffers)
    shapes = dict(zip(space.names, (parameter.shape for parameter in space.parameters), strict=True))
    for layer, order in zip(units, permutations, strict=True):
        order = order.to(weights.device)
        for name in layer.made_by:
            if name in space.slices:
                part = space.slices[name]
                weights[part] = weights[part].view(shapes[name])[order].reshape(-1)
            elif name in buffers:
                buffers[name] = buffers[name][order.to(buffers[name].device)]
        part = space.slices[layer.read_by]
        weights[part] = by_unit(weights[part].view(shapes[layer.read_by]), layer)[:, order].reshape(-1)
    return Point(weights, buffers)


def by_unit(weight: Tensor, layer: HiddenUnits) -> Tensor:
    """A reading weight as (outputs, units, everything else)."""
    return weight.reshape(weight.shape[0], layer.count, -1)


@dataclass(frozen=True)
class _Names:
    """The name under which the model lists a tensor, whatever module holds it, and which it uses twice."""

    names: dict[int, str]
    shared: set[int]

    @classmethod
    def of(cls, model: nn.Module) -> _Names:
        names: dict[int, str] = {}
        shared: set[int] = set()
        for name, tensor in [*model.named_parameters(remove_duplicate=False), *model.named_buffers()]:
            if id(tensor) in names:
                shared.add(id(tensor))
            names.setdefault(id(tensor), name)
        return cls(names, shared)

    def __getitem__(self, tensor: Tensor) -> str:
        if id(tensor) in self.shared:
            raise NotApplicableError(
                f"hidden units cannot be reordered: {self.names[id(tensor)]} is used twice"
            )
        return self.names[id(tensor)]


def _order(specimen: Specimen, batch: Any) -> list[tuple[str, nn.Module]]:
    """Modules with tensors of their own, as they run."""
    ran: list[tuple[str, nn.Module]] = []
    handles = []
    for name, module in specimen.model.named_modules():
        if not isinstance(module, torch.jit.ScriptModule) and any(True for _ in _own(module).values()):
            note = lambda _module, _inputs, name=name, module=module: ran.append((name, module))
            handles.append(module.register_forward_pre_hook(note))
    try:
        specimen.forward(batch)
    finally:
        for handle in handles:
            handle.remove()
    return ran


def _own(module: nn.Module) -> Mapping[str, Tensor]:
    tensors = [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]
    return {name: tensor for name, tensor in tensors if tensor.ndim > 0}


def _read_off(ran: list[tuple[str, nn.Module]], names: _Names) -> list[HiddenUnits]:
    if len({name for name, _ in ran}) < len(ran):
        raise NotApplicableError("hidden units cannot be reordered: a module runs several times in one pass")
    layers = [position for position, (_, module) in enumerate(ran) if isinstance(module, _LAYERS)]
    if len(layers) < 2:
        raise NotApplicableError(
            "hidden units cannot be reordered: there are not two dense or convolution layers"
        )
    found = []
    for position, following in pairwise(layers):
        maker, reader = _weight(ran[position]), _weight(ran[following])
        count = maker.shape[0]
        made: list[str] = []
        for name, module in ran[position:following]:
            for key, tensor in _own(module).items():
                if tensor.shape[0] != count or (tensor.ndim > 1 and tensor is not maker):
                    raise NotApplicableError(
                        f"hidden units cannot be reordered: {name}.{key} does not hold one number a unit"
                    )
                made.append(names[tensor])
        if reader.shape[1] % count:
            raise NotApplicableError(
                f"hidden units cannot be reordered: {ran[following][0]} does not read whole units of {ran[position][0]}"
            )
        found.append(HiddenUnits(count, tuple(made), names[reader], reader.shape[1] // count))
    return found


def _weight(entry: tuple[str, nn.Module]) -> Tensor:
    name, module = entry
    weight = module._parameters.get("weight")
    if weight is None:
        raise NotApplicableError(
            f"hidden units cannot be reordered: the weight of {name} is made from others"
        )
    if getattr(module, "groups", 1) != 1:
        raise NotApplicableError(f"hidden units cannot be reordered: {name} is a grouped convolution")
    return weight
