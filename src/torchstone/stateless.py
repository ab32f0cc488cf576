"""A network called with other tensors in place of its parameters and buffers, which stay as they are."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn


class StatelessCall:
    """function(network, *arguments) as a function of the network's tensors, for `torch.func` and forward-mode AD.

    `torch.func.functional_call` ties the names of a shared layer for the call, and then leaves the replaced tensors in
    all places but the first: the next call sees them. Here every place is replaced and restored by itself.

    Cost of a call: the function's, and microseconds a tensor.

    Args:
        network: The network; its layers and the names of its tensors must stay the same.
        function: What is computed from it; by default its output.

    >>> double = StatelessCall(nn.Linear(1, 1, bias=False))
    >>> double({"weight": torch.tensor([[2.0]])}, torch.tensor([[3.0]]))
    tensor([[6.]])
    """

    def __init__(self, network: nn.Module, function: Callable[..., Any] | None = None) -> None:
        self._caller = _Caller(network, function)
        self._places = places(network)

    def __call__(self, tensors: Mapping[str, Tensor], *arguments: Any) -> Any:
        """The function's value.

        Args:
            tensors: In place of parameters and buffers, by the names of `named_parameters` and `named_buffers`; those
                that are not named stay.
            arguments: Of the function, after the network.
        """
        replaced = {
            f"network.{place}": tensors[name] for place, name in self._places.items() if name in tensors
        }
        return torch.func.functional_call(self._caller, replaced, arguments, tie_weights=False)


class _Caller(nn.Module):
    def __init__(self, network: nn.Module, function: Callable[..., Any] | None) -> None:
        super().__init__()
        self.network = network
        self._function = function

    def forward(self, *arguments: Any) -> Any:
        """What the function says of the network."""
        return (
            self.network(*arguments) if self._function is None else self._function(self.network, *arguments)
        )


def places(network: nn.Module) -> dict[str, str]:
    """Every place of every tensor, in one name of each layer, and the name by which the tensor is known."""
    known = {id(t): name for name, t in [*network.named_parameters(), *network.named_buffers()]}
    return {
        f"{prefix}.{name}" if prefix else name: known[id(t)]
        for prefix, layer in network.named_modules()
        for name, t in [*layer._parameters.items(), *layer._buffers.items()]
        if t is not None
    }
