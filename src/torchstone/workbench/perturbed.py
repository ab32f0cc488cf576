"""Some examples of a specimen, and its network as a function of their inputs alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from torchstone.errors import NotApplicableError
from torchstone.reading import Need
from torchstone.specimen import Specimen
from torchstone.workbench.workbench import Workbench


@dataclass(frozen=True, eq=False)
class Perturbed:
    """What is needed to move inputs and see what the network says: everything else of the batches stays.

    Args:
        specimen: Whose network; call within `specimen.measuring()`.
        batches: The examples.
        inputs: Their continuous inputs, (N, ...).
        bounds: Lowest and highest value among these and all training inputs.
        scale: Root mean square deviation of training inputs from their mean, over all coordinates; 1 where it is 0.
    """

    specimen: Specimen
    batches: tuple[Any, ...]
    inputs: Tensor
    bounds: tuple[float, float]
    scale: float

    @classmethod
    def of(cls, bench: Workbench, split: str, rows: Tensor, specimen: Specimen | None = None) -> Perturbed:
        """Examples of a bench's data.

        Args:
            bench: Whose data.
            split: Part of them.
            rows: Increasing indices.
            specimen: One with another network for the same data; by default the bench's own.

        Raises:
            NotApplicableError: Inputs that are not continuous, or of varying shape.
        """
        chosen = bench.specimen if specimen is None else specimen
        everything = bench.inputs("train")
        batches = tuple(chosen.batches(split, rows))
        parts = [chosen.objective.inputs(batch) for batch in batches]
        found = [part.detach() for part in parts if part is not None]
        if len({part.shape[1:] for part in found}) != 1:
            raise NotApplicableError(f"needs {Need.FLOAT_INPUTS} of one shape")
        inputs = torch.cat(found)
        deviation = everything.double() - everything.double().mean(0)
        low = min(float(everything.min()), float(inputs.min()))
        high = max(float(everything.max()), float(inputs.max()))
        return cls(chosen, batches, inputs, (low, high), float(deviation.square().mean().sqrt()) or 1.0)

    def outputs(self, inputs: Tensor) -> Tensor:
        """The network's outputs with these inputs (N, ...) in place of the examples' own, (N, ...)."""
        found, start = [], 0
        for batch in self.batches:
            stop = start + self.specimen.objective.size(batch)
            moved = self.specimen.objective.with_inputs(batch, inputs[start:stop])
            found.append(self.specimen.forward(moved))
            start = stop
        return torch.cat(found)

    def logits(self, inputs: Tensor) -> Tensor:
        """Class scores (N, C) likewise.

        Raises:
            NotApplicableError: The task has no class scores.
        """
        scores = self.specimen.objective.scores(self.outputs(inputs))
        if scores is None:
            raise NotApplicableError(f"needs {Need.SCORES}")
        return scores
