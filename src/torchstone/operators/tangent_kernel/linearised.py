"""Blocks of examples linearised in the parameters: one forward pass, a backward pass an output, factors a parameter."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor, nn

from torchstone.batches import Batch
from torchstone.errors import SettingError, SpecimenError
from torchstone.operators.example_gradients import BatchGradients
from torchstone.operators.example_gradients.direct import DirectUse
from torchstone.operators.example_gradients.positions import widened
from torchstone.operators.tangent_kernel.factors import Factors, FactorsInTheMaking, Sizes
from torchstone.operators.tangent_kernel.jacobian import formed_rows
from torchstone.specimen import Specimen


@dataclass(frozen=True)
class Block:
    """Some examples, linearised.

    Args:
        count: How many.
        factors: By parameter; one that the outputs do not depend on is missing.
    """

    count: int
    factors: dict[str, Factors]


@dataclass
class Linearised:
    """Makes the factors of one block after another.

    Args:
        specimen: The network.
        parameters: Those that are differentiated, by name.
        directions: Fixed combinations of the outputs (K, outputs), whose kernel is wanted; None for each output itself.
        summed: Whether only the sum over the K is wanted.
        apart: Whether each parameter's share is wanted, so that a bias may not be one more input of its weight.
        memory_bytes: For gradients that must be formed.

    Attributes:
        sizes: By parameter, as found in the first block, so that all blocks are contracted alike.
        formed: Parameters whose Jacobian had to be formed, with the reason.
        columns: K.
        outputs: Outputs an example.
        dtype: Type of the kernel: that of the outputs, at least float32.
    """

    specimen: Specimen
    parameters: Mapping[str, nn.Parameter]
    directions: Float[Tensor, "K outputs"] | None
    summed: bool
    apart: bool = True
    memory_bytes: int = 2**27
    sizes: dict[str, Sizes] = field(default_factory=dict)
    formed: dict[str, str] = field(default_factory=dict)
    columns: int = 0
    outputs: int = 0
    dtype: torch.dtype = torch.float32

    def block(self, batch: Batch) -> Block:
        """The factors of a block. Call it inside `measuring()` with gradients enabled."""
        outputs = self.forward(batch)
        if not outputs.requires_grad:
            return Block(len(outputs), {})
        gradients = BatchGradients.of(self.specimen, outputs, self.parameters)
        for name, one in gradients.ruled.items():
            self.sizes.setdefault(name, Sizes.of(one, self.columns, self.summed))
        biases = {} if self.apart else self._biases(gradients)
        making = {
            name: FactorsInTheMaking(one, self.sizes[name], biased=name in biases)
            for name, one in gradients.ruled.items()
            if name not in biases.values()
        }
        for column in range(self.columns if making else 0):
            signals = gradients.signals(self.cotangent(outputs, column))
            with torch.no_grad():
                for one in making.values():
                    one.add(column, signals)
        with torch.no_grad():
            found = {name: one.finish() for name, one in making.items()}
        return Block(len(outputs), found | self._loose(batch, outputs, gradients.loose))

    def _biases(self, gradients: BatchGradients) -> dict[str, str]:
        """By weight, the bias that acts as its weight of one more input, which is always 1."""
        weights = {
            one.nodes[0]: name
            for name, one in gradients.ruled.items()
            if len(one.nodes) == 1 and self.sizes[name].takes_ones and not one.outer.one_hot
        }
        found = {}
        for name, one in gradients.ruled.items():
            use = one.uses[0]
            weight = weights.get(use.use.node)
            if weight is None or len(one.uses) > 1 or not isinstance(use, DirectUse) or use.use.chain:
                continue
            node, sizes = use.use.node, self.sizes[weight]
            plain = use.factor in (None, 1.0) and getattr(node, "_saved_alpha", 1) == 1
            if plain and one.numel == sizes.groups * sizes.signal:
                found[weight] = name
        return found

    def forward(self, batch: Batch) -> Float[Tensor, "n ..."]:
        """The outputs of a block; checks that all blocks have as many."""
        outputs = self.specimen.forward(batch)
        each = outputs[0].numel()
        if self.outputs and each != self.outputs:
            raise SpecimenError(
                "A tangent kernel needs the same number of outputs of every example",
                f"{self.outputs} and {each}",
                "Pad or crop all examples to one length.",
            )
        if self.directions is not None and tuple(self.directions.shape[1:]) != (each,):
            raise SettingError(
                f"directions must be a matrix (K, {each}): the network has {each} outputs an example",
                f"shape {tuple(self.directions.shape)}",
                f"Pass {each} columns.",
            )
        self.outputs, self.dtype = each, torch.float64 if outputs.dtype == torch.float64 else torch.float32
        self.columns = each if self.directions is None else len(self.directions)
        return outputs

    def cotangent(self, outputs: Tensor, column: int) -> Tensor:
        """The same combination of outputs for every example."""
        made = torch.zeros_like(outputs, requires_grad=False).reshape(len(outputs), -1)
        if self.directions is None:
            made[:, column] = 1.0
        else:
            made[:] = self.directions[column].to(made)
        return made.reshape(outputs.shape)

    def _loose(self, batch: Batch, outputs: Tensor, names: list[str]) -> dict[str, Factors]:
        if not names:
            return {}
        cotangents = torch.stack([self.cotangent(outputs, column) for column in range(self.columns)])
        rows = formed_rows(self.specimen, batch, outputs, names, cotangents, self.memory_bytes)
        self.formed |= dict.fromkeys(names, "no rule for how it is used, or examples lie in no order there")
        found = {}
        for name, one in rows.items():
            sizes = Sizes(one.shape[2], 1, 0, 0, 0, self.columns, self.summed)
            self.sizes.setdefault(name, sizes)
            found[name] = Factors(sizes, widened(one).detach())
        return found
