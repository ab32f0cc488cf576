"""Per-example gradients by torch.func, for parameters that no rule covers."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from torchstone import batches
from torchstone.batches import Batch
from torchstone.objectives import Objective
from torchstone.specimen import Specimen


class _Outputs(nn.Module):
    """The objective's outputs as a module, so that parameters can be replaced in a call."""

    def __init__(self, objective: Objective, model: nn.Module) -> None:
        super().__init__()
        self.objective, self.model = objective, model

    def forward(self, batch: Batch) -> Tensor:
        return self.objective.outputs(self.model, batch)


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
        Squared norms in float64 by name; None where the network does not run under `torch.func.vmap` (control flow that depends
        on data, layers without a batching rule), or where the gradients it gives there do not add up to the batch's.
    """
    values = {f"model.{name}": specimen.trainable[name].detach() for name in names}
    directions = _directions(values)
    tensors = list(batches.tensors(batch))
    wrapper = _Outputs(specimen.objective, specimen.model)

    def one(row: list[Tensor], cotangent: Tensor) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        def of_parameters(replaced: dict[str, Tensor]) -> Tensor:
            single = _rebuilt(batch, iter(row))
            return torch.func.functional_call(wrapper, replaced, (single,))

        _, pull = torch.func.vjp(of_parameters, values)  # pyright: ignore[reportAssignmentType]
        (gradients,) = torch.func.vmap(pull)(cotangent[:, None])
        flat = {key: value.flatten(1).double() for key, value in gradients.items()}
        squares = {key: value.square().sum(1).detach() for key, value in flat.items()}
        return squares, {key: (value @ directions[key]).sum().detach() for key, value in flat.items()}

    dims = [0 if tensor.ndim else None for tensor in tensors]
    count, columns = signs.shape[1], signs.shape[0]
    bytes_each = 8 * columns * sum(value.numel() for value in values.values())
    chunk = max(1, min(count, memory_bytes // max(1, bytes_each)))
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="There is a performance drop")
            squares, shadows = torch.func.vmap(one, in_dims=(dims, 1), chunk_size=chunk)(tensors, cotangents)
    except (RuntimeError, ValueError, TypeError, AttributeError, IndexError, KeyError):
        return None
    specimen.passes.forward += count
    specimen.passes.backward += count * columns
    whole = specimen.grad(
        outputs,
        [specimen.trainable[name] for name in names],
        batch,
        grad_outputs=cotangents.sum(0),
        retain_graph=True,
    )
    for key, gradient in zip(values, whole, strict=True):
        flat = gradient.reshape(-1).double()
        slack = 1e3 * torch.finfo(gradient.dtype).eps * count * float(flat.norm() * directions[key].norm())
        if abs(float(shadows[key].sum() - flat @ directions[key])) > slack:
            return None
    return {name: squares[f"model.{name}"].T * signs for name in names}


def _directions(values: dict[str, Tensor]) -> dict[str, Tensor]:
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
