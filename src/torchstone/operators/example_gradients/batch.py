"""A batch with its graph: by which rule the gradients of its examples in each parameter are to be had."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge

from torchstone.operators.example_gradients.gradients import ExampleGradients
from torchstone.operators.example_gradients.layout import draw_scales
from torchstone.operators.example_gradients.uses import find_uses, output_shape
from torchstone.operators.finite import require_outputs
from torchstone.operators.graph import Node, nodes_of
from torchstone.specimen import Specimen


@dataclass
class BatchGradients:
    """Single examples' gradients of a batch, as functions of a cotangent at its outputs.

    Attributes:
        ruled: Parameters whose gradients follow from activations and signals.
        loose: Parameters whose gradients do not, because of their use or because examples are mixed.
        idle: Parameters that the outputs do not depend on.
    """

    specimen: Specimen
    outputs: Tensor
    ruled: dict[str, ExampleGradients] = field(default_factory=dict)
    loose: list[str] = field(default_factory=list)
    idle: list[str] = field(default_factory=list)

    @classmethod
    def of(cls, specimen: Specimen, outputs: Tensor, parameters: Mapping[str, Tensor]) -> BatchGradients:
        """Sort the parameters by how they are used, and find the examples in every signal.

        Cost: two backward passes, four where some parameter is a table.

        Raises:
            NumericalError: The outputs are NaN or infinite.
        """
        require_outputs(outputs)
        made = cls(specimen, outputs)
        nodes = nodes_of(outputs)
        for name, uses in find_uses(nodes, parameters).items():
            if not uses and parameters[name] is not outputs:
                made.idle.append(name)
                continue
            made._sort(name, ExampleGradients.of(uses) if uses else None)
        made._locate()
        # A table that every example reads in the same places, such as one of positions, is the use of what was read.
        again = {name: parameters[name] for name in made.loose}
        made.loose = []
        for name, uses in find_uses(nodes, again, through_tables=True).items():
            made._sort(name, ExampleGradients.of(uses) if uses else None)
        made._locate()
        return made

    def _sort(self, name: str, gradients: ExampleGradients | None) -> None:
        if gradients is None:
            self.loose.append(name)
        else:
            self.ruled[name] = gradients

    def _locate(self) -> None:
        """Find the examples in the signals of parameters that are new; those where they cannot be found are loose."""
        fresh = {name: gradients for name, gradients in self.ruled.items() if not gradients.located}
        if not fresh:
            return
        examples = self.outputs.shape[0]
        scales = draw_scales(examples, self.outputs.device)
        generator = torch.Generator().manual_seed(0)
        cotangent = torch.randn(self.outputs.shape, generator=generator).to(self.outputs)
        scaled = cotangent * scales.to(cotangent.dtype).reshape(-1, *(1,) * (cotangent.ndim - 1))
        first, second = self.signals(cotangent), self.signals(scaled)
        for name, gradients in fresh.items():
            if not gradients.locate(first, second, scales):
                del self.ruled[name]
                self.loose.append(name)

    def signals(self, cotangent: Tensor) -> dict[Node, Tensor]:
        """The gradient at the output of every node that takes a parameter. Cost: a backward pass to the first of them."""
        nodes = list({node: None for gradients in self.ruled.values() for node in gradients.nodes})
        edges = [GradientEdge(node, 0) for node in nodes]
        found = torch.autograd.grad(self.outputs, edges, cotangent, retain_graph=True, allow_unused=True)
        self.specimen.passes.backward += cotangent.shape[0]
        return {
            node: cotangent.new_zeros(output_shape(node)) if gradient is None else gradient
            for node, gradient in zip(nodes, found, strict=True)
        }
