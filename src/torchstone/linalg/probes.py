"""Random vectors for the estimators, drawn from an explicit generator."""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from torchstone.errors import SettingError
from torchstone.linalg.linear_map import LinearMap
from torchstone.linalg.sampling import require_generator

Distribution = Literal["rademacher", "gaussian"]


def draw_probes(
    A: LinearMap, count: int, generator: torch.Generator, distribution: Distribution = "gaussian"
) -> Float[Tensor, "n k"]:
    """`count` random columns (n, k) that A can take: independent entries of mean 0 and variance 1.

    They are drawn on the generator's device and moved, so a CPU generator gives the same numbers for every device.

    Accuracy: independent as far as PyTorch's generators are.

    Cost: count n random numbers, and memory for as many; no product.

    Args:
        A: The map they are for.
        count: How many columns.
        generator: The source of randomness.
        distribution: "rademacher" (+1 or -1) or "gaussian".

    Raises:
        SettingError: Another distribution, or no generator.
    """
    require_distribution(distribution)
    require_generator(generator)
    rows = torch.empty(count, A.shape[1], dtype=A.dtype, device=generator.device)
    if distribution == "gaussian":
        rows.normal_(generator=generator)
    else:
        rows.bernoulli_(0.5, generator=generator).mul_(2).sub_(1)
    return rows.to(A.device).T


def require_distribution(distribution: str) -> None:
    """Refuse the name of another distribution.

    Raises:
        SettingError: Naming the two there are.
    """
    if distribution not in ("rademacher", "gaussian"):
        raise SettingError(
            "distribution must be rademacher or gaussian", repr(distribution), "Pick one of them."
        )
