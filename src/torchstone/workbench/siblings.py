"""Networks trained like an examined one, evaluated on its data."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from torch import Tensor, nn

from torchstone.batches import Batch
from torchstone.errors import NotApplicableError
from torchstone.objectives import Objective
from torchstone.reading import Need
from torchstone.specimen import Specimen
from torchstone.training.ensemble import Ensemble
from torchstone.training.fit_many import MembersEpoch, TrainedMany
from torchstone.workbench.example_tensors import ExampleTensors, OfBatch


@dataclass(frozen=True)
class Siblings:
    """K networks of the same kind as a specimen's, and how they do on its data; results are on the CPU in float64.

    Args:
        specimen: Whose data and objective.
        objective: Bound to these networks.
        ensemble: The networks.
        run: How they were trained (`series`, `diverged`, `way`, `reason`, `ledger`, `steps`); None while they still are.
    """

    specimen: Specimen
    objective: Objective
    ensemble: Ensemble
    run: TrainedMany | None = None
    _data: dict[str, ExampleTensors] = field(default_factory=dict, repr=False)

    def __len__(self) -> int:
        return len(self.ensemble)

    def member(self, index: int) -> nn.Module:
        """A copy of one network, in eval mode."""
        return self.ensemble.member(index)

    def losses(self, split: str = "test") -> Tensor:
        """Loss of every example under every network, (K, N)."""
        return self.each(self.objective.losses, split)

    def errors(self, split: str = "test") -> Tensor:
        """1 where a network misclassifies an example, else 0, (K, N).

        Raises:
            NotApplicableError: The task has no classes.
        """
        return self.each(wrong(self.objective), split)

    def outputs(self, split: str = "test") -> Tensor:
        """Outputs (K, N, ...)."""
        return self.each(lambda outputs, _: outputs, split)

    def scores(self, split: str = "test") -> Tensor:
        """Class scores (K, N, C).

        Raises:
            NotApplicableError: The task has no classes.
        """

        def scored(outputs: Tensor, _: Batch) -> Tensor:
            scores = self.objective.scores(outputs)
            if scores is None:
                raise NotApplicableError(f"needs {Need.SCORES}")
            return scores

        return self.each(scored, split)

    def each(self, function: OfBatch, split: str = "test") -> Tensor:
        """Rows (K, N, ...) of any function of outputs (N, ...) and their batch.

        Cost: K forward passes over the split.
        """
        if split not in self._data:
            self._data[split] = ExampleTensors.of(self.specimen, split)
        data = self._data[split]
        self.specimen.passes.forward += len(self) * self.specimen.size(split)
        return self.ensemble.map(data.mapped(self.objective, function), data.x, data.y).double().cpu()


OnSiblingsEpoch = Callable[[MembersEpoch, Siblings], Mapping[str, Tensor] | None]


def wrong(objective: Objective) -> OfBatch:
    """A function of outputs and batch: 1 where the largest score is not at the label, else 0, (N,).

    Raises:
        NotApplicableError: When called for a task without classes, or with a label a position.
    """

    def errors(outputs: Tensor, batch: Batch) -> Tensor:
        scores, labels = objective.scores(outputs), objective.labels(batch)
        if scores is None or labels is None:
            raise NotApplicableError(f"needs {Need.LABELS}")
        return (scores.argmax(1) != labels).to(outputs.dtype)

    return errors
