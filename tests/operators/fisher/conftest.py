"""The sampled Fisher matrix with its labels drawn from a seed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from torchstone import Specimen
from torchstone.operators import Fisher


@pytest.fixture(scope="session")
def sampled() -> Callable[..., Fisher]:
    def make(specimen: Specimen, samples: int = 1, seed: int = 0, **options: Any) -> Fisher:
        generator = torch.Generator().manual_seed(seed)
        return Fisher(specimen, "sampled", samples=samples, generator=generator, **options)

    return make
