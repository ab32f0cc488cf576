"""The weights of a network as matrices, layer by layer."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from torchstone.specimen import Specimen


def weight_matrices(specimen: Specimen) -> dict[str, Tensor]:
    """Every weight with at least two rows and two columns as an (out, in) matrix in its own precision, by name.

    A convolution's kernel (out, in, ...) becomes out rows of all its inputs and positions. Parametrised weights are taken
    as the layer uses them; a weight that two layers share appears once. Frozen weights are in.

    Args:
        specimen: What is looked at; nothing is computed but parametrised weights.
    """
    found: dict[str, Tensor] = {}
    seen: set[int] = set()
    with specimen.measuring(), torch.no_grad():
        for name, tensor in _weights(specimen.model):
            if id(tensor) in seen or not tensor.is_floating_point() or tensor.ndim < 2:
                continue
            seen.add(id(tensor))
            matrix = tensor.detach().flatten(1)
            if min(matrix.shape) >= 2:
                found[name] = matrix
    return found


def matrices_of(state: Mapping[str, Tensor], like: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The matrices of the same names and shapes in a state, where it has them."""
    found = {}
    for name, matrix in like.items():
        tensor = state.get(name)
        if tensor is not None and tensor.ndim >= 2 and tensor.flatten(1).shape == matrix.shape:
            found[name] = tensor.detach().flatten(1)
    return found


def _weights(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    for prefix, module in model.named_modules():
        if isinstance(module, parametrize.ParametrizationList) or prefix.split(".")[-1] == "parametrizations":
            continue
        dot = f"{prefix}." if prefix else ""
        for name, parameter in module.named_parameters(recurse=False):
            yield f"{dot}{name}", parameter
        if parametrize.is_parametrized(module):
            for name in module.parametrizations:  # pyright: ignore[reportGeneralTypeIssues]
                yield f"{dot}{name}", getattr(module, name)
