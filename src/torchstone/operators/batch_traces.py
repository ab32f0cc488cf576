"""One batch's share of the trace of the Gauss-Newton matrix, by parameter and by example."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.graph import GradientEdge

from torchstone.batches import Batch
from torchstone.operators.example_gradients import ExampleNorms, draw_scales, find_uses, vmapped_norms
from torchstone.operators.example_gradients.uses import Use, output_shape
from torchstone.operators.graph import Node, nodes_of
from torchstone.specimen import Specimen

Draw = Callable[[int], tuple[Tensor, Tensor]]
"""k -> cotangents of the outputs' shape, and a sign an example."""


@dataclass
class BatchTraces:
    """A batch with its graph, and how the norms of each parameter's per-example gradients are to be had.

    Attributes:
        ruled: Parameters whose norms follow from activations and signals.
        loose: Parameters whose per-example gradients must be formed.
        idle: Parameters that the outputs do not depend on.
    """

    specimen: Specimen
    batch: Batch
    outputs: Tensor
    ruled: dict[str, ExampleNorms] = field(default_factory=dict)
    loose: list[str] = field(default_factory=list)
    idle: list[str] = field(default_factory=list)

    @classmethod
    def of(
        cls,
        specimen: Specimen,
        batch: Batch,
        outputs: Tensor,
        parameters: Mapping[str, Tensor],
        columns: int,
    ) -> BatchTraces:
        """Sort the parameters by how they are used, and find the examples in every signal.

        Cost: two backward passes, four where some parameter is a table.
        """
        made = cls(specimen, batch, outputs)
        nodes = nodes_of(outputs)
        for name, uses in find_uses(nodes, parameters).items():
            if uses or parameters[name] is outputs:
                made._try(name, uses, columns)
            else:
                made.idle.append(name)
        made._locate()
        # A table that every example reads in the same places, such as one of positions, is the use of what was read.
        again = {name: parameters[name] for name in made.loose}
        made.loose = []
        for name, uses in find_uses(nodes, again, through_tables=True).items():
            made._try(name, uses, columns)
        made._locate()
        return made

    def _try(self, name: str, uses: list[Use], columns: int) -> None:
        norms = ExampleNorms.of(uses, columns) if uses else None
        if norms is None:
            self.loose.append(name)
        else:
            self.ruled[name] = norms

    def _locate(self) -> None:
        """Find the examples in the signals of parameters that are new; those where they cannot be found are loose."""
        fresh = {name: norms for name, norms in self.ruled.items() if not norms.located}
        if not fresh:
            return
        examples = self.outputs.shape[0]
        scales = draw_scales(examples, self.outputs.device)
        generator = torch.Generator().manual_seed(0)
        cotangent = torch.randn(self.outputs.shape, generator=generator).to(self.outputs)
        scaled = cotangent * scales.to(cotangent.dtype).reshape(-1, *(1,) * (cotangent.ndim - 1))
        first, second = self._signals(cotangent), self._signals(scaled)
        for name, norms in fresh.items():
            if not norms.locate(first, second, scales):
                del self.ruled[name]
                self.loose.append(name)

    def _signals(self, cotangent: Tensor) -> dict[Node, Tensor]:
        """The gradient at the output of every node that takes a parameter."""
        nodes = list({node: None for norms in self.ruled.values() for node in norms.nodes})
        edges = [GradientEdge(node, 0) for node in nodes]
        gradients = torch.autograd.grad(self.outputs, edges, cotangent, retain_graph=True, allow_unused=True)
        self.specimen.passes.backward += cotangent.shape[0]
        return {
            node: cotangent.new_zeros(output_shape(node)) if gradient is None else gradient
            for node, gradient in zip(nodes, gradients, strict=True)
        }

    def bytes_per_example(self) -> int:
        """Memory of an example beside the graph."""
        return sum(norms.bytes_per_example() for norms in self.ruled.values())

    def norms(
        self, draw: Draw, columns: int, memory_bytes: int, *, each: bool
    ) -> dict[str, Float[Tensor, "r n"]]:
        """sign_nk ||J_n^T s_nk||^2 by parameter: every column's (r = K), or their sum (r = 1).

        Parameters whose gradients could not be formed are left out.
        """
        zeros = torch.zeros(columns if each else 1, self.outputs.shape[0], dtype=torch.float64)
        found = dict.fromkeys(self.idle, zeros)
        if columns == 0:
            return found | dict.fromkeys([*self.ruled, *self.loose], zeros)
        drawn: list[tuple[Tensor, Tensor]] = []
        parts: dict[str, list[Tensor]] = {name: [] for name in self.ruled}
        for k in range(columns):
            cotangent, signs = draw(k)
            if self.loose:
                drawn.append((cotangent, signs))
            signals = self._signals(cotangent) if self.ruled else {}
            for name, norms in self.ruled.items():
                norms.add(signals, signs)
                if each or k == columns - 1:
                    parts[name].append(norms.result().cpu())
        found |= {name: torch.stack(part) for name, part in parts.items()}
        return found | self._formed(drawn, memory_bytes, each=each)

    def _formed(
        self, drawn: list[tuple[Tensor, Tensor]], memory_bytes: int, *, each: bool
    ) -> dict[str, Float[Tensor, "r n"]]:
        if not self.loose:
            return {}
        cotangents = torch.stack([cotangent for cotangent, _ in drawn])
        signs = torch.stack([sign for _, sign in drawn]).double()
        norms = vmapped_norms(
            self.specimen, self.batch, self.outputs, self.loose, cotangents, signs, memory_bytes
        )
        if norms is None:
            return {}
        return {name: (part if each else part.sum(0, keepdim=True)).cpu() for name, part in norms.items()}
