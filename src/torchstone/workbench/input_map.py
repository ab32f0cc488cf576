"""A network whose output has its input's shape, as a map of the space of inputs into itself."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from torchstone import batches
from torchstone.batches import Batch
from torchstone.errors import NotApplicableError
from torchstone.reading import Need
from torchstone.specimen import Specimen
from torchstone.workbench.workbench import Workbench

ROWS = 256  # at a time; fixed, so that the batch size of the data changes no bit


@dataclass(frozen=True)
class InputMap:
    """x -> f(x) on states (B, ...) of an input's shape, on any states and not only on examples.

    Attributes:
        specimen: Whose network it is; call it inside `measuring()`.
        template: A batch of one example, whose input is exchanged.
        shape: Of one input.
        dtype: The network's own.
    """

    specimen: Specimen
    template: Batch
    shape: tuple[int, ...]
    dtype: torch.dtype

    @property
    def width(self) -> int:
        """Numbers in one input."""
        return int(torch.Size(self.shape).numel())

    def states(self, rows: Tensor) -> Tensor:
        """Flat rows (B, d) as states on the network's device and in its type."""
        return rows.reshape(-1, *self.shape).to(device=self.specimen.device, dtype=self.dtype)

    @torch.no_grad()
    def __call__(self, states: Tensor) -> Tensor:
        """The images of states, (B, ...)."""
        return torch.cat([self._forward(part) for part in states.split(ROWS)])

    def jacobians(self, points: Tensor) -> Tensor:
        """The Jacobian at each point, float64 (B, d, d). Cost: d backward passes over the points."""
        link, units = self.linked(points), torch.eye(self.width)
        return torch.stack([self.pulled(link, unit.expand(len(points), -1)) for unit in units], 1)

    def linked(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """Points and their images in one graph, to be handed to `pulled`."""
        with torch.enable_grad():
            leaf = points.detach().clone().requires_grad_(True)
            return leaf, self._forward(leaf)

    def pulled(self, link: tuple[Tensor, Tensor], vectors: Tensor) -> Tensor:
        """J_b' v_b for each point, (B, d) to (B, d). Cost: one backward pass over the points."""
        leaf, outputs = link
        cotangent = vectors.reshape(outputs.shape).to(outputs)
        (found,) = self.specimen.grad(
            outputs, (leaf,), self.template, grad_outputs=cotangent, retain_graph=True
        )
        return found.flatten(1).double()

    def _forward(self, states: Tensor) -> Tensor:
        objective = self.specimen.objective
        rows = torch.zeros(len(states), dtype=torch.long)
        # Copied, because the network may overwrite its input.
        batch = objective.with_inputs(objective.take(self.template, rows), states.clone())
        return self.specimen.forward(batch).reshape(states.shape)


def input_map(bench: Workbench) -> InputMap:
    """The examined network as a map of its inputs.

    Raises:
        NotApplicableError: It classifies, takes several inputs, or its output has another shape than its input.
    """
    specimen = bench.specimen
    if bench.lacks(Need.FLOAT_INPUTS):
        raise NotApplicableError(f"needs {Need.FLOAT_INPUTS}")
    if not bench.lacks(Need.LABELS):
        raise NotApplicableError("needs a network that reconstructs its input; this one has class labels")
    first = next(specimen.batches("train"))
    inputs, target = specimen.objective.inputs(first), specimen.objective.target(first)
    with torch.no_grad():
        outputs = specimen.forward(first)
    if inputs is None or not outputs.is_floating_point() or outputs.shape != inputs.shape or inputs.ndim < 2:
        got = tuple(outputs.shape[1:]), () if inputs is None else tuple(inputs.shape[1:])
        raise NotApplicableError(
            f"needs a network whose output has its input's shape; here {got[0]} against {got[1]}"
        )
    if any(part is not inputs and part is not target for part in batches.tensors(first)):
        raise NotApplicableError("needs a network of one input; this one takes several")
    template = specimen.objective.take(first, torch.zeros(1, dtype=torch.long))
    return InputMap(specimen, template, tuple(inputs.shape[1:]), inputs.dtype)
