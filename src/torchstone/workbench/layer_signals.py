"""What enters and leaves each weighted layer, in the numbers that mean-field theory speaks of."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from torchstone import batches
from torchstone.batches import Batch
from torchstone.errors import NotApplicableError
from torchstone.init import activations_behind, fans
from torchstone.init.fans import WEIGHTED
from torchstone.init.mean_field import Activation
from torchstone.operators.batch_jacobian import restricted
from torchstone.specimen import Specimen
from torchstone.workbench.signals import call_name


@dataclass(frozen=True)
class LayerSignal:
    """One call of a dense or convolution layer.

    Args:
        name: Of the layer; its second call is name#2.
        layer: The layer.
        units: Outputs for one example.
        input_square: Mean square of what enters.
        variance: Q, the mean square of what leaves (pre-activations), over examples and units.
        correlation: Mean cosine of what leaves for two different examples; NaN for fewer than two.
        activation: Name of the activation behind it, "" where there is none.
        function: That activation, the identity where there is none.
        plain: Whether what enters the next layer is that function of what leaves this one, and nothing else.
        weight_variance: Sigma_w^2, the mean square of the weights times their number in a unit's sum.
        bias_variance: Sigma_b^2, the mean square of the biases.
    """

    name: str
    layer: nn.Module
    units: int
    input_square: float
    variance: float
    correlation: float
    activation: str
    function: Activation
    plain: bool
    weight_variance: float
    bias_variance: float


def identity(z: Tensor) -> Tensor:
    """The activation of a layer without one."""
    return z


def layer_signals(specimen: Specimen, rows: Tensor, split: str = "train") -> list[LayerSignal]:
    """Signals at every dense and convolution layer, in order of execution.

    Layers whose outputs do not have one row per example are left out.

    Cost: two forward passes over the examples; memory of two layers of one batch, and one vector a layer.

    Args:
        specimen: What to look at.
        rows: Increasing indices of the examples.
        split: Part of the data.

    Raises:
        NotApplicableError: Outputs of varying shape (sequences padded batch by batch, say).
    """
    part = restricted(specimen, split, rows)
    with part.measuring(), torch.no_grad():
        first = next(part.batches(split))
        behind = activations_behind(part.model, first, lambda _, batch: part.forward(batch))
    watch = _Watch(behind)

    @torch.no_grad()
    def of_batch(batch: Batch) -> tuple[Tensor, ...]:
        with watch.on(part.model, part.objective.size(batch)):
            part.forward(batch)
        return watch.sums()

    with part.measuring():
        of_batch(first)
    names = list(watch.calls)
    if not names:
        return []
    try:
        totals = iter(part.sum_over(of_batch, split))
    except (RuntimeError, ValueError):
        raise NotApplicableError(
            "needs layers whose outputs have one shape; those of batches differ"
        ) from None
    found = []
    for name in names:
        call = watch.calls[name]
        numbers_, direction = next(totals), next(totals)
        found.append(_signal(name, call, behind, numbers_.tolist(), float(direction.square().sum())))
    return found


def _signal(
    name: str, call: _Call, behind: dict[nn.Module, Any], sums: list[float], resultant: float
) -> LayerSignal:
    entering, entered, leaving, left, nonzero, odd, last = sums
    weight, bias = call.layer.weight, call.layer.bias
    assert isinstance(weight, Tensor)
    square = float(weight.detach().double().square().mean()) if weight.numel() else 0.0
    pairs = nonzero * (nonzero - 1)
    activation, function = behind.get(call.layer, ("", identity))
    return LayerSignal(
        name=name,
        layer=call.layer,
        units=call.units,
        input_square=entering / max(1.0, entered),
        variance=leaving / max(1.0, left),
        correlation=min(1.0, max(-1.0, (resultant - nonzero) / pairs)) if pairs > 0 else float("nan"),
        activation=activation,
        function=function,
        plain=odd == 0 and last == 0,
        weight_variance=square * fans(call.layer).fan_in,
        bias_variance=float(bias.detach().double().square().mean()) if isinstance(bias, Tensor) else 0.0,
    )


@dataclass
class _Call:
    """Sums of one call over one batch: of squares that enter, of squares and of unit vectors that leave."""

    layer: nn.Module
    units: int
    sums: list[float] = field(default_factory=list)
    direction: Tensor = field(default_factory=lambda: torch.zeros(0))
    odd: bool = False
    last: bool = True


class _Watch:
    """Sees the weighted layers of one batch."""

    def __init__(self, behind: dict[nn.Module, Any]) -> None:
        self.behind = behind
        self.calls: dict[str, _Call] = {}
        self.previous: tuple[_Call, Tensor] | None = None

    @contextlib.contextmanager
    def on(self, model: nn.Module, count: int) -> Iterator[None]:
        """Look at one forward pass of `count` examples."""
        self.calls, self.previous = {}, None
        handles = []
        for name, module in model.named_modules():
            if isinstance(module, WEIGHTED):
                before = lambda module, args, kwargs: self._entered(module, (args, kwargs))
                after = lambda module, args, output, name=name: self._left(
                    name or "model", module, args, output, count
                )
                handles.append(module.register_forward_pre_hook(before, with_kwargs=True))
                handles.append(module.register_forward_hook(after))
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def sums(self) -> tuple[Tensor, ...]:
        """Numbers and a vector for each call."""
        parts: list[Tensor] = []
        for call in self.calls.values():
            parts += [
                torch.tensor([*call.sums, call.odd, call.last], dtype=torch.float64, device=call.direction.device),
                call.direction,
            ]  # fmt: skip
        return tuple(parts)

    def _entered(self, module: nn.Module, arguments: Any) -> None:
        del module
        found = next((one for one in batches.tensors(arguments) if one.is_floating_point()), None)
        self.entering = found
        if found is None or self.previous is None:
            return
        call, z = self.previous
        _, function = self.behind.get(call.layer, ("", identity))
        call.last = False
        call.odd = found.numel() != z.numel() or not torch.allclose(found.flatten(), function(z).flatten())
        self.previous = None

    def _left(self, name: str, module: nn.Module, args: Any, output: Tensor, count: int) -> None:
        del args
        entering = self.entering
        rows = _by_example(output, count)
        if rows is None or entering is None:
            return
        call = self.calls[call_name(name, self.calls)] = _Call(module, rows.shape[1])
        rows = rows.double()
        norms = torch.linalg.vector_norm(rows, dim=1, keepdim=True)
        known = norms[:, 0] > 0
        call.direction = (rows[known] / norms[known]).sum(0)
        call.sums = [
            float(entering.double().square().sum()),
            float(entering.numel()),
            float(rows.square().sum()),
            float(rows.numel()),
            float(known.sum()),
        ]
        self.previous = (call, output.clone())


def _by_example(output: Tensor, count: int) -> Tensor | None:
    """Rows, one an example, where the first axis or (for sequences first) the second one counts examples."""
    if output.ndim >= 1 and output.shape[0] == count:
        return output.reshape(count, -1)
    if output.ndim >= 3 and output.shape[1] == count:
        return output.transpose(0, 1).reshape(count, -1)
    return None
