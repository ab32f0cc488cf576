"""One batch's share of the trace of the Gauss-Newton matrix, by parameter and by example."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from torchstone.batches import Batch
from torchstone.operators.example_gradients import BatchGradients, ExampleNorms, vmapped_norms
from torchstone.specimen import Specimen

Draw = Callable[[int], tuple[Tensor, Tensor]]
"""k -> cotangents of the outputs' shape, and a sign an example."""


@dataclass
class BatchTraces:
    """A batch with its graph, and how the norms of each parameter's per-example gradients are to be had.

    Attributes:
        gradients: What the gradients follow from.
        ruled: Parameters whose norms follow from activations and signals.
    """

    specimen: Specimen
    batch: Batch
    gradients: BatchGradients
    ruled: dict[str, ExampleNorms]

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
        gradients = BatchGradients.of(specimen, outputs, parameters)
        ruled = {name: ExampleNorms(one, columns) for name, one in gradients.ruled.items()}
        return cls(specimen, batch, gradients, ruled)

    @property
    def loose(self) -> list[str]:
        """Parameters whose per-example gradients must be formed."""
        return self.gradients.loose

    def bytes_per_example(self) -> int:
        """Memory of an example beside the graph."""
        return sum(norms.bytes_per_example() for norms in self.ruled.values())

    def norms(
        self, draw: Draw, columns: int, memory_bytes: int, *, each: bool
    ) -> dict[str, Float[Tensor, "r n"]]:
        """sign_nk ||J_n^T s_nk||^2 by parameter: every column's (r = K), or their sum (r = 1).

        Parameters whose gradients could not be formed are left out.
        """
        zeros = torch.zeros(columns if each else 1, self.gradients.outputs.shape[0], dtype=torch.float64)
        found = dict.fromkeys(self.gradients.idle, zeros)
        drawn: list[tuple[Tensor, Tensor]] = []
        parts: dict[str, list[Tensor]] = {name: [] for name in self.ruled}
        for k in range(columns):
            cotangent, signs = draw(k)
            if self.loose:
                drawn.append((cotangent, signs))
            signals = self.gradients.signals(cotangent) if self.ruled else {}
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
            self.specimen, self.batch, self.gradients.outputs, self.loose, cotangents, signs, memory_bytes
        )
        if norms is None:
            return {}
        return {name: (part if each else part.sum(0, keepdim=True)).cpu() for name, part in norms.items()}
