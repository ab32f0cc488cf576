"""The narrowest layer of an autoencoder: what it sends, and what the rest of the network makes of other codes."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from torchstone.workbench.input_map import InputMap


@dataclass(frozen=True)
class CodeLayer:
    """A layer narrower than the input through which everything passes.

    Attributes:
        map: The network.
        name: Of the module whose output is the code.
        width: Numbers in one code.
    """

    map: InputMap
    name: str
    width: int

    def encode(self, states: Tensor) -> Tensor:
        """Codes of states (B, ...), float64 (B, k). Cost: one forward pass."""
        codes: list[Tensor] = []
        with _watched(self._module, lambda output: codes.append(output.detach().flatten(1).double().clone())):
            self.map(states)
        return torch.cat(codes)

    def decode(self, codes: Tensor) -> Tensor:
        """What the network puts out when its code is replaced, float64 (B, d). Cost: one forward pass."""
        start = 0

        def replaced(output: Tensor) -> Tensor:
            nonlocal start
            given = codes[start : start + len(output)]
            start += len(output)
            return given.reshape(output.shape).to(output)

        with _watched(self._module, replaced):
            states = torch.zeros(len(codes), self.map.width)
            return self.map(self.map.states(states)).flatten(1).double()

    def decoder_gram(self, codes: Tensor, *, probes: int, generator: torch.Generator) -> Tensor:
        """Mean of J'J over codes, J the decoder's Jacobian, float64 (k, k); unbiased, by random cotangents.

        Cost: one forward and `probes` backward passes over the codes.
        """
        leaf: list[Tensor] = []

        def replaced(output: Tensor) -> Tensor:
            given = codes.reshape(output.shape).to(output).detach().requires_grad_(True)
            leaf.append(given)
            return given.clone()

        with _watched(self._module, replaced):
            _, outputs = self.map.linked(self.map.states(torch.zeros(len(codes), self.map.width)))
        gram = torch.zeros(self.width, self.width, dtype=torch.float64, device=codes.device)
        for _ in range(probes):
            signs = torch.randint(0, 2, outputs.shape, generator=generator).to(outputs) * 2 - 1
            rows = self.map.pulled((leaf[0], outputs), signs)
            gram += rows.T @ rows / (probes * len(codes))
        return gram

    @property
    def _module(self) -> nn.Module:
        return self.map.specimen.model.get_submodule(self.name)


def code_layer(network: InputMap, states: Tensor) -> CodeLayer | None:
    """The first of the narrowest layers that is narrower than the input and that everything passes through.

    Found by trial: the network must give the same outputs when other inputs meet the same codes, so skip connections past a
    layer rule it out, as do several calls of it.

    Args:
        network: The network.
        states: Two inputs or more to try it on, (B, ...).

    Returns:
        The layer, or None where there is none.
    """
    widths: dict[str, list[int]] = {}
    model = network.specimen.model
    with contextlib.ExitStack() as stack:
        for name, module in model.named_modules():
            if any(True for _ in module.children()):
                continue

            def seen(output: Tensor, name: str = name) -> None:
                per_example = output[0].numel() if len(output) == len(states) else network.width
                widths.setdefault(name, []).append(per_example)

            stack.enter_context(_watched(module, seen))
        outputs = network(states).flatten(1).double()
    narrow = {
        name: calls[0] for name, calls in widths.items() if len(calls) == 1 and 0 < calls[0] < network.width
    }
    for name in sorted(narrow, key=lambda name: narrow[name]):  # stable: the first one of equal widths
        layer = CodeLayer(network, name, narrow[name])
        again = layer.decode(layer.encode(states))
        if torch.allclose(again, outputs, rtol=1e-3, atol=1e-3 * float(outputs.abs().max())):
            return layer
    return None


@contextlib.contextmanager
def _watched(module: nn.Module, see: Callable[[Tensor], Any]) -> Iterator[None]:
    """Inside, the module's output goes through `see`, which may return another."""

    def hook(_module: nn.Module, _inputs: Any, output: Any) -> Tensor | None:
        return see(output) if isinstance(output, Tensor) and output.ndim > 1 else None

    handle = module.register_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()
