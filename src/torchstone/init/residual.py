"""Residual networks without normalisation: branches that start small or at zero."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from torchstone.errors import SettingError
from torchstone.init.fans import WEIGHTED
from torchstone.init.mean_field import gain
from torchstone.init.schemes import draw_weight, require_generator
from torchstone.init.weights import set_weight


@torch.no_grad()
def zero_last(branches: Sequence[nn.Module]) -> list[str]:
    """Start every residual branch at zero, so that the network starts as its shortcuts.

    The last module of a branch that has parameters is zeroed: the scale of a normalisation layer (and its shift), or
    the weight and bias of a linear or convolution layer.

    Args:
        branches: The branches F of x + F(x), each a module whose submodules are registered in order of execution.

    Returns:
        What was zeroed, one name a branch.

    Raises:
        SettingError: A branch without parameters.

    Source: Goyal et al. 2017, section 5.1 (scale of the last normalisation); Zhang, Dauphin & Ma 2019.
    """
    zeroed = []
    for number, branch in enumerate(branches):
        last = next((m for m in reversed(list(branch.modules())) if list(m.parameters(recurse=False))), None)
        if last is None:
            raise SettingError(
                f"Branch {number} must have parameters",
                type(branch).__name__,
                "Pass the branch, not the shortcut.",
            )
        for name, parameter in list(last.named_parameters(recurse=False)):
            set_weight(last, torch.zeros_like(parameter), name)
        zeroed.append(f"branch {number}: {type(last).__name__}")
    return zeroed


@torch.no_grad()
def fixup(
    branches: Sequence[nn.Module], head: nn.Module | None = None, *, generator: torch.Generator
) -> float:
    """Fixup: train residual networks of any depth without normalisation.

    With L branches of m weighted layers each: the last layer of a branch is zero, the others are Kaiming's times
    L^(-1/(2m-2)), and the head (the classification layer) is zero. Then one step of size eta changes the network's
    outputs by Theta(eta) whatever its depth. The method's scalar biases and multipliers belong to the layers.

    Args:
        branches: The residual branches.
        head: The last layer of the network, or None.
        generator: Draws the weights.

    Returns:
        The factor L^(-1/(2m-2)) of the first branch (1 where branches have one layer).

    Raises:
        SettingError: No branches, or one without linear or convolution layers.

    Source: Zhang, Dauphin & Ma 2019, ICLR, section 3 ("Fixup initialization").
    """
    require_generator(generator)
    if not branches:
        raise SettingError("fixup needs residual branches", "none", "Pass the branches F of x + F(x).")
    factors = []
    for number, branch in enumerate(branches):
        layers = [module for module in branch.modules() if isinstance(module, WEIGHTED)]
        if not layers:
            raise SettingError(
                f"Branch {number} must have linear or convolution layers", "none", "Pass the branch itself."
            )
        factor = len(branches) ** (-1 / (2 * len(layers) - 2)) if len(layers) > 1 else 1.0
        factors.append(factor)
        for layer in layers[:-1]:
            set_weight(layer, factor * draw_weight(layer, "kaiming", gain(torch.relu), generator))
            _zero_bias(layer)
        _zero(layers[-1])
    if head is not None:
        _zero(head)
    return factors[0]


def _zero(layer: nn.Module) -> None:
    weight = layer.weight
    assert isinstance(weight, Tensor)
    set_weight(layer, torch.zeros_like(weight))
    _zero_bias(layer)


def _zero_bias(layer: nn.Module) -> None:
    if isinstance(getattr(layer, "bias", None), Tensor):
        set_weight(layer, torch.zeros_like(layer.bias), "bias")  # pyright: ignore[reportArgumentType]
