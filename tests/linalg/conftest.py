from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

Seeded = Callable[[int], torch.Generator]


@pytest.fixture(scope="session")
def seeded() -> Seeded:
    return lambda seed: torch.Generator().manual_seed(seed)


@pytest.fixture(scope="session")
def with_spectrum(seeded: Seeded) -> Callable[..., Tensor]:
    """A dense symmetric float64 matrix with given eigenvalues and random eigenvectors."""

    def make(eigenvalues: Tensor, seed: int = 0) -> Tensor:
        n = eigenvalues.shape[0]
        vectors = torch.linalg.qr(torch.randn(n, n, generator=seeded(seed), dtype=torch.float64)).Q
        matrix = (vectors * eigenvalues.double()) @ vectors.T
        return (matrix + matrix.T) / 2

    return make
