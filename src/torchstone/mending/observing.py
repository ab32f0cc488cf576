"""What runs when a model does: its weighted layers in order, and the shapes they give."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from torchstone.init.fans import WEIGHTED
from torchstone.specimen.protection import protect

Call = Callable[[nn.Module, Any], Any]
NORMALISATIONS = (nn.modules.batchnorm._NormBase, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)


@dataclass
class Observed:
    """One forward pass.

    Attributes:
        layers: Weighted layers in the order they first ran, and the shape of their outputs.
        inputs: What entered each `nn.Sequential`, the first time.
        runs: How often each of these ran.
    """

    layers: dict[nn.Module, tuple[int, ...]] = field(default_factory=dict)
    inputs: dict[nn.Module, Tensor] = field(default_factory=dict)
    runs: dict[nn.Module, int] = field(default_factory=dict)

    def __call__(self, module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        """The forward hook."""
        self.runs[module] = self.runs.get(module, 0) + 1
        if isinstance(module, WEIGHTED) and isinstance(output, Tensor):
            self.layers.setdefault(module, tuple(output.shape))
        elif inputs and isinstance(inputs[0], Tensor):
            self.inputs.setdefault(module, inputs[0])


@contextmanager
def running(model: nn.Module) -> Iterator[None]:
    """Inside, the model is in eval mode without gradients; afterwards it is as it was, and so is the random state."""
    with protect(model), torch.no_grad():
        model.eval()
        yield


def observed(model: nn.Module, batch: Any, call: Call) -> Observed:
    """Run a model on a batch and see. Cost: one forward pass.

    Args:
        model: The model; it is as it was afterwards.
        batch: Data.
        call: How the model takes them.
    """
    seen = Observed()
    with running(model):
        for module in model.modules():
            if isinstance(module, WEIGHTED) or type(module) is nn.Sequential:
                module.register_forward_hook(seen)
        call(model, batch)
    return seen


def replace_modules(model: nn.Module, new: dict[nn.Module, nn.Module]) -> nn.Module:
    """Put other modules in place of some, wherever they are registered; returns the model (or what replaces it)."""
    for module in list(model.modules()):
        for name, child in list(module._modules.items()):
            if child is not None and child in new and new[child] is not module:
                module._modules[name] = new[child]
    return new.get(model, model)
