"""Whether one may speak of the gradient of a single example."""

from __future__ import annotations

import torch

from torchstone.errors import SpecimenError
from torchstone.specimen import Specimen
from torchstone.specimen.determinism import couples_examples


def require_separate_examples(specimen: Specimen, split: str) -> None:
    """Refuse networks in which an example's output depends on the rest of its batch.

    Cost: two forward passes of the first batch, unless the specimen was prepared and is known to couple examples.

    Raises:
        SpecimenError: Batch statistics in training mode, say.
    """
    coupled = specimen.coupled
    if not coupled:
        with specimen.measuring(), torch.no_grad():
            first = next(specimen.batches(split))
            count = specimen.objective.size(first)
            coupled = couples_examples(specimen.forward, specimen.objective.take, first, count)
    if coupled:
        raise SpecimenError(
            "Gradients of single examples need examples that do not influence each other",
            "outputs that depend on the rest of the batch",
            "Put batch normalisation into evaluation mode (mode='eval').",
        )
