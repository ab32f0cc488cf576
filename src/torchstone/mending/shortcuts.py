"""Shortcuts around pairs of layers that keep the shape, put into a model that was written without."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import Tensor, nn

from torchstone.errors import RemedyError
from torchstone.init.fans import WEIGHTED
from torchstone.layers.residual import Residual
from torchstone.mending.observing import NORMALISATIONS, Call, observed, running

_LAYERS_A_BLOCK = 2


def add_shortcuts(model: nn.Module, scale: float | None, batch: Any, call: Call) -> dict[str, str]:
    """Turn runs of layers that keep the shape, in any `nn.Sequential`, into residual blocks.

    A block is two weighted layers with what comes before each (activation, normalisation, dropout), so that its sum is
    not rectified: the pre-activation order. A layer left over makes a block of one.

    Args:
        model: Changed in place.
        scale: Factor of the branches; None for L^(-1/2) with L blocks, which lets the variance grow by at most e.
        batch: Data to find out shapes.
        call: How the model takes them.

    Returns:
        What was done by the name of the block.

    Raises:
        RemedyError: No layers in an `nn.Sequential` that keep the shape.

    Source: He et al. 2016b, figure 4(e); for the scale, Zhang, Dauphin & Ma 2019, section 3.
    """
    seen = observed(model, batch, call)
    names = {module: name for name, module in model.named_modules()}
    found: list[tuple[nn.Module, list[str]]] = []
    for sequential, entered in seen.inputs.items():
        with running(model):
            found += [(sequential, block) for block in _blocks(sequential, entered)]
    if not found:
        raise RemedyError(
            "skip=residual needs layers of an nn.Sequential whose outputs have the shape of their inputs",
            f"none in {type(model).__name__}",
            "Wrap them yourself in torchstone.layers.residual.Residual, with PadShortcut where the shape changes.",
        )
    factor = len(found) ** -0.5 if scale is None else scale
    changes = {}
    for sequential, block in found:
        name = ".".join(filter(None, (names[sequential], block[0])))
        _wrap(sequential, block, factor)
        changes[name] = f"residual block of {len(block)} modules, branch times {factor:.3g}"
    return changes


def _blocks(sequential: nn.Module, x: Tensor) -> Iterator[list[str]]:
    """Names of children that make up a block, one list a block, by running the children one after the other."""
    unit: list[str] = []
    block: list[str] = []
    layers, entered = 0, tuple(x.shape)
    for name, child in sequential._modules.items():
        assert child is not None
        x = child(x)
        unit.append(name)
        if not _has_weights(child):
            continue
        fits = _is_layer(child) and tuple(x.shape) == entered
        if layers and (not fits or layers == _LAYERS_A_BLOCK):
            yield block
            block, layers = [], 0
        if fits:
            block, layers = [*block, *unit], layers + 1
        unit, entered = [], tuple(x.shape)
    if layers:
        yield block


def _has_weights(child: nn.Module) -> bool:
    """Whether it is a layer or holds parameters beyond those of a normalisation or an activation."""
    return any(parameter.ndim >= 2 for parameter in child.parameters())


def _is_layer(child: nn.Module) -> bool:
    """A weighted layer, by itself or with its normalisation."""
    if type(child) is nn.Sequential:
        first, *rest = child
        return isinstance(first, WEIGHTED) and all(isinstance(module, NORMALISATIONS) for module in rest)
    return isinstance(child, WEIGHTED)


def _wrap(sequential: nn.Module, block: list[str], factor: float) -> None:
    """The children named become one, in place of the first."""
    children = dict(sequential._modules)
    parts = [part for name in block if (part := children[name]) is not None]
    branch = nn.Sequential(*parts)
    for module in branch.modules():
        if getattr(module, "inplace", False):
            setattr(module, "inplace", False)  # noqa: B010 - it would overwrite what the shortcut keeps
    residual = Residual(branch, scale=factor).train(sequential.training)
    sequential._modules.clear()
    for name, child in children.items():
        if name == block[0]:
            sequential._modules[name] = residual
        elif name not in block:
            sequential._modules[name] = child
