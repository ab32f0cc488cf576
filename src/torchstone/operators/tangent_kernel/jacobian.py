"""Rows of the Jacobian in parameters that no rule covers, formed for these parameters alone."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from torchstone.batches import Batch
from torchstone.errors import SpecimenError
from torchstone.operators.example_gradients.positions import widened
from torchstone.operators.example_gradients.vmapped import adds_up, random_vectors, vmapped_gradients
from torchstone.specimen import Specimen


def formed_rows(
    specimen: Specimen,
    batch: Batch,
    outputs: Float[Tensor, "n ..."],
    names: list[str],
    cotangents: Float[Tensor, "K n ..."],
    memory_bytes: int,
) -> dict[str, Float[Tensor, "n K P"]]:
    """J_n^T s_nk of every example: all at once by `torch.func` where the network allows that, else one by one.

    Cost: one forward and K backward passes; one by one these run for each example alone.

    Raises:
        SpecimenError: An example's output depends on the rest of its batch.
    """
    found = vmapped_gradients(specimen, batch, outputs, names, cotangents, memory_bytes, lambda rows: rows)
    if found is None:
        found = _one_by_one(specimen, batch, names, cotangents)
        vectors = random_vectors({name: specimen.trainable[name] for name in names})
        shadows = {
            name: rows.sum((0, 1), dtype=torch.float64) @ vectors[name] for name, rows in found.items()
        }
        if not found or not adds_up(specimen, batch, outputs, shadows, cotangents):
            raise SpecimenError(
                "A tangent kernel needs examples that do not influence each other",
                "gradients of single examples that do not add up to the batch's",
                "Put batch normalisation into evaluation mode (mode='eval').",
            )
    return {name: widened(rows) for name, rows in found.items()}


def _one_by_one(
    specimen: Specimen, batch: Batch, names: list[str], cotangents: Float[Tensor, "K n ..."]
) -> dict[str, Tensor]:
    parameters = [specimen.trainable[name] for name in names]
    examples: dict[str, list[Tensor]] = {name: [] for name in names}
    for n in range(cotangents.shape[1]):
        single = specimen.objective.take(batch, torch.tensor([n]))
        try:
            outputs = specimen.forward(single)
        except (RuntimeError, ValueError):  # batch statistics of a single example
            return {}
        columns = [
            specimen.grad(outputs, parameters, single, grad_outputs=cotangent[n : n + 1], retain_graph=True)
            for cotangent in cotangents
        ]
        for name, rows in zip(names, zip(*columns, strict=True), strict=True):
            examples[name].append(torch.stack([row.reshape(-1) for row in rows]))
    return {name: torch.stack(rows) for name, rows in examples.items()}
