"""What a tangent kernel is taken of: a network and examples, cut into blocks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from torchstone.batches import Batch
from torchstone.errors import SettingError
from torchstone.objectives import Objective
from torchstone.objectives.base import pick_output
from torchstone.specimen import Specimen


@dataclass(frozen=True)
class Examples:
    """Some examples of a specimen.

    Args:
        specimen: Network and data.
        split: Part of the data.
        rows: Increasing indices; None for all.
    """

    specimen: Specimen
    split: str
    rows: Tensor | None = None

    @property
    def count(self) -> int:
        """How many."""
        return self.specimen.size(self.split) if self.rows is None else len(self.rows)

    def blocks(self, most: int) -> Iterator[Batch]:
        """Batches of at most so many examples, in order."""
        objective = self.specimen.objective
        for batch in self.specimen.batches(self.split, self.rows):
            count = objective.size(batch)
            for start in range(0, count, most):
                stop = min(count, start + most)
                whole = stop - start == count
                yield batch if whole else objective.take(batch, torch.arange(start, stop))


def examples_of(network: nn.Module | Specimen, x1: Any, x2: Any) -> tuple[Examples, Examples | None]:
    """The two sets of examples that a user means.

    Args:
        network: A specimen, or a module.
        x1: For a specimen the name of a split, or a pair of a name and increasing indices; None for "train". For a
            module its inputs: a tensor, a tuple of arguments or a mapping of named ones.
        x2: Likewise; None for those of `x1`.

    Raises:
        SettingError: Something else, or indices that are out of range, repeated or unordered.
    """
    if isinstance(network, Specimen):
        first = _of_specimen(network, "train" if x1 is None else x1)
        return first, None if x2 is None else _of_specimen(network, x2)
    if x1 is None:
        raise SettingError(
            "The tangent kernel of a module needs inputs x1", "None", "Pass a tensor (N, ...)."
        )
    specimen = Specimen(network, _Outputs(), x1, x2)
    return Examples(specimen, "train"), None if x2 is None else Examples(specimen, "test")


def _of_specimen(specimen: Specimen, chosen: Any) -> Examples:
    split, rows = chosen if isinstance(chosen, tuple) and len(chosen) == 2 else (chosen, None)
    if not isinstance(split, str) or not (rows is None or isinstance(rows, Tensor)):
        raise SettingError(
            "Examples of a specimen are the name of a split, or a pair of its name and a tensor of indices",
            f"a {type(chosen).__name__}",
            'Pass "train", or ("train", torch.arange(100)).',
        )
    size = specimen.size(split)
    if rows is None:
        return Examples(specimen, split)
    if rows.ndim != 1 or not len(rows) or rows.is_floating_point() or rows.dtype is torch.bool:
        raise SettingError(
            "Indices of examples are a vector of whole numbers",
            f"{rows.dtype}, {tuple(rows.shape)}",
            "Convert.",
        )
    if int(rows[0]) < 0 or int(rows[-1]) >= size or not bool((rows.diff() > 0).all()):
        raise SettingError(
            f"Indices of {split} examples increase and lie between 0 and {size - 1}",
            f"{rows[:5].tolist()}, ...",
            "Sort them; repeat rows of the kernel afterwards where you need to.",
        )
    return Examples(specimen, split, rows.cpu())


class _Outputs(Objective):
    """A module called on its inputs; there is no loss."""

    task = "outputs"

    def outputs(self, model: nn.Module, batch: Batch) -> Tensor:
        if isinstance(batch, Mapping):
            return pick_output(model(**batch))
        return pick_output(model(*batch) if isinstance(batch, tuple | list) else model(batch))

    def losses(self, outputs: Tensor, batch: Batch) -> Tensor:  # noqa: ARG002
        return outputs.reshape(len(outputs), -1).sum(1)  # something to differentiate
