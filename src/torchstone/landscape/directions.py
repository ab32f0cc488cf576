"""Directions in weight space along which a landscape is shown."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor

from torchstone.errors import SettingError
from torchstone.operators import ParameterSpace

Vectors = Literal["zero", "entries"]


def random_direction(
    space: ParameterSpace, generator: torch.Generator, names: frozenset[str] | None = None
) -> Tensor:
    """A standard normal direction, float64 (D,); zero in the parameters that `names` leaves out.

    Drawn on the CPU for every parameter, so that the draw does not depend on what is left out.
    """
    drawn = torch.randn(space.size, generator=generator, dtype=torch.float64)
    if names is not None:
        for name, part in space.slices.items():
            if name not in names:
                drawn[part] = 0
    return drawn.to(space.device)


def embedded(space: ParameterSpace, parts: Mapping[str, Tensor]) -> Tensor:
    """A direction given by parameter name (a gradient, an eigenvector's parts) as a vector; zero elsewhere."""
    vector = torch.zeros(space.size, dtype=torch.float64, device=space.device)
    for name, part in space.slices.items():
        if name in parts:
            vector[part] = parts[name].detach().reshape(-1).to(vector)
    return vector


def filter_normalised(
    space: ParameterSpace, direction: Tensor, weights: Tensor, *, vectors: Vectors = "zero"
) -> Tensor:
    r"""Each filter of a direction scaled to the norm of the network's own filter: d_f <- d_f |theta_f| / |d_f|.

    A filter is what makes one output: the row of a dense layer's matrix, a convolution's kernels of one output channel.
    A network of ReLU layers whose layers are multiplied by c and 1/c computes the same function, and its landscape along
    filter-normalised directions is the same too; along raw directions it looks flatter or sharper as you please. The
    same holds for a factor of its own for each unit only where normalisation, not a next layer, takes it up.

    Args:
        space: Where the parameters lie.
        direction: Direction (D,).
        weights: The network's weights (D,).
        vectors: "zero" leaves biases, gains and other vectors out, as the source does; "entries" treats each of their
            entries as a filter of its own.

    Returns:
        The scaled direction, float64 (D,). Filters in which the direction is zero stay zero.

    Source: Li, Xu, Taylor, Studer & Goldstein 2018, section 4.

    Example:
        >>> layer = torch.nn.Linear(2, 1, bias=False).double()
        >>> space = ParameterSpace(("weight",), (layer.weight,))
        >>> weights, d = torch.tensor([[3.0, 4.0], [0.0, 2.0]]).double()
        >>> filter_normalised(space, d, weights)
        tensor([0., 5.], dtype=torch.float64)
    """
    _check(space, direction, weights)
    parts = []
    for parameter, d, theta in _split(space, direction, weights):
        if parameter.ndim < 2 and vectors == "zero":
            parts.append(torch.zeros_like(d))
            continue
        own, scaled = _filters(parameter, theta), _filters(parameter, d)
        norms = scaled.norm(dim=1, keepdim=True)
        factor = torch.where(norms > 0, own.norm(dim=1, keepdim=True) / norms.clamp(min=1e-300), 0.0)
        parts.append((factor * scaled).reshape(-1))
    return torch.cat(parts)


def orthogonalised(space: ParameterSpace, direction: Tensor, other: Tensor) -> Tensor:
    """The direction made orthogonal to another one filter by filter, so that it stays so once filters are scaled.

    Filters with a single weight have no room for it and are left as they are.
    """
    _check(space, direction, other)
    parts = []
    for parameter, d, o in _split(space, direction, other):
        mine, theirs = _filters(parameter, d), _filters(parameter, o)
        square = theirs.square().sum(1, keepdim=True)
        along = torch.where(square > 0, (mine * theirs).sum(1, keepdim=True) / square.clamp(min=1e-300), 0.0)
        parts.append((mine if mine.shape[1] == 1 else mine - along * theirs).reshape(-1))
    return torch.cat(parts)


def _split(space: ParameterSpace, first: Tensor, second: Tensor) -> list[tuple[Tensor, Tensor, Tensor]]:
    sizes = list(space.sizes)
    return list(zip(space.parameters, first.double().split(sizes), second.double().split(sizes), strict=True))


def _filters(parameter: Tensor, part: Tensor) -> Tensor:
    """One row a filter; the entries of a vector are filters of one weight."""
    return (
        part.reshape(parameter.shape[0] if parameter.ndim else 1, -1) if part.numel() else part.reshape(0, 1)
    )


def _check(space: ParameterSpace, *vectors: Tensor) -> None:
    for vector in vectors:
        if vector.shape != (space.size,):
            raise SettingError(
                f"A direction must have one entry a weight, shape ({space.size},)",
                f"shape {tuple(vector.shape)}",
                "Flatten it with space.flatten().",
            )
