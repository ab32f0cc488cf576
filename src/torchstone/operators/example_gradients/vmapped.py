"""Per-example gradients by torch.func, for parameters that no rule covers."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from torchstone import batches
from torchstone.batches import Batch
from torchstone.specimen import Specimen
from torchstone.stateless import StatelessCall


def vmapped_norms(
    specimen: Specimen,
    batch: Batch,
    outputs: Float[Tensor, "n ..."],
    names: list[str],
    cotangents: Float[Tensor, "K n ..."],
    signs: Float[Tensor, "K n"],
    memory_bytes: int,
) -> dict[str, Float[Tensor, "K n"]] | None:
    r"""sign_nk ||J_n^T s_nk||^2 by forming every J_n^T s_nk, as many examples at once as fit the memory.

    Cost: one forward pass and K + 1 backward passes; memory K copies of these parameters an example.

    Returns:
        Squared norms in float64 by name; None where `vmapped_gradients` gives none.
    """
    norms = lambda gradients: gradients.double().square().sum(1)
    squares = vmapped_gradients(specimen, batch, outputs, names, cotangents, memory_bytes, norms)
    return None if squares is None else {name: part.T * signs for name, part in squares.items()}


def vmapped_gradients(
    specimen: Specimen,
    batch: Batch,
    outputs: Float[Tensor, "n ..."],
    names: list[str],
    cotangents: Float[Tensor, "K n ..."],
    memory_bytes: int,
    keep: Callable[[Float[Tensor, "K P"]], Tensor],
) -> dict[str, Tensor] | None:
    r"""keep(J_n^T s_nk) of every example, as many at once as fit the memory.

    Cost: one forward pass and K + 1 backward passes; memory K copies of these parameters an example.

    Args:
        specimen: The network.
        batch: The examples.
        outputs: Their outputs with their graph.
        names: The parameters.
        cotangents: s_nk.
        memory_bytes: For gradients that are held at once, before `keep`.
        keep: What is kept of one example's gradients.

    Returns:
        Stacked over examples, by name; None where the network does not run under `torch.func.vmap` (control flow that
        depends on data, layers without a batching rule), or where the gradients it gives there do not add up to the batch's.
    """
    values = {name: specimen.trainable[name].detach() for name in names}
    directions = random_vectors(values)
    tensors = list(batches.tensors(batch))
    outputs_of = StatelessCall(specimen.model, specimen.objective.outputs)

    def one(row: list[Tensor], cotangent: Tensor) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        def of_parameters(replaced: dict[str, Tensor]) -> Tensor:
            return outputs_of(replaced, _rebuilt(batch, iter(row)))

        _, pull = torch.func.vjp(of_parameters, values)  # pyright: ignore[reportAssignmentType]
        (gradients,) = torch.func.vmap(pull)(cotangent[:, None])
        flat = {key: value.flatten(1) for key, value in gradients.items()}
        kept = {key: keep(value).detach() for key, value in flat.items()}
        return kept, {key: (value.double() @ directions[key]).sum().detach() for key, value in flat.items()}

    dims = [0 if tensor.ndim else None for tensor in tensors]
    columns, count = cotangents.shape[:2]
    bytes_each = 8 * columns * sum(value.numel() for value in values.values())
    chunk = max(1, min(count, memory_bytes // max(1, bytes_each)))
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="There is a performance drop")
            kept, shadows = torch.func.vmap(one, in_dims=(dims, 1), chunk_size=chunk)(tensors, cotangents)
    except (RuntimeError, ValueError, TypeError, AttributeError, IndexError, KeyError):
        return None
    specimen.passes.forward += count
    specimen.passes.backward += count * columns
    sums = {name: shadows[name].sum() for name in names}
    if not adds_up(specimen, batch, outputs, sums, cotangents):
        return None
    return {name: kept[name] for name in names}


def adds_up(
    specimen: Specimen,
    batch: Batch,
    outputs: Tensor,
    shadows: Mapping[str, Tensor],
    cotangents: Float[Tensor, "K n ..."],
) -> bool:
    """Whether gradients that were formed one by one are, in sum, those of the batch.

    Args:
        specimen: The network.
        batch: The examples.
        outputs: Their outputs with their graph.
        shadows: By parameter, the sum of its gradients' products with fixed random vectors.
        cotangents: What was pulled back.
    """
    parameters = [specimen.trainable[name] for name in shadows]
    directions = random_vectors({name: specimen.trainable[name] for name in shadows})
    pulled = cotangents.sum(0)
    whole = specimen.grad(outputs, parameters, batch, grad_outputs=pulled, retain_graph=True)
    for (name, shadow), gradient in zip(shadows.items(), whole, strict=True):
        flat = gradient.reshape(-1).double()
        size = float(flat.norm() * directions[name].norm())
        slack = 1e3 * torch.finfo(gradient.dtype).eps * cotangents.shape[1] * size
        if abs(float(shadow - flat @ directions[name])) > slack:
            return False
    return True


def random_vectors(values: dict[str, Tensor]) -> dict[str, Tensor]:
    """A random vector a parameter, to compare gradients by one number."""
    generator = torch.Generator().manual_seed(0)
    return {
        key: torch.randn(value.numel(), generator=generator, dtype=torch.float64).to(value.device)
        for key, value in values.items()
    }


def _rebuilt(batch: Batch, row: Iterator[Tensor]) -> Any:
    """The batch's structure around one example's tensors, each with a leading dimension of 1 again."""

    def place(_tensor: Tensor) -> Tensor:
        one = next(row)
        return one[None] if _tensor.ndim else one

    return batches.map_tensors(place, batch)
