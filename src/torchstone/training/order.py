"""The randomness of one epoch: the order of examples, and a seed for everything else that is drawn in it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class EpochOrder:
    """Drawn at once, so that the state of the generator between epochs is all there is to keep.

    Args:
        rows: A permutation of the examples, (N,).
        seed: For dropout and whatever else draws from the global generators.
    """

    rows: Tensor
    seed: int

    @classmethod
    def draw(cls, count: int, generator: torch.Generator) -> EpochOrder:
        """The next epoch's order of `count` examples."""
        rows = torch.randperm(count, generator=generator)
        return cls(rows, int(torch.randint(2**62, (), generator=generator)))


@contextlib.contextmanager
def seeded(device: torch.device, seed: int) -> Iterator[None]:
    """The global generators, dropout knows no other, seeded and restored after."""
    cuda = (
        [device.index if device.index is not None else torch.cuda.current_device()]
        if device.type == "cuda"
        else []
    )
    with torch.random.fork_rng(devices=cuda):
        torch.default_generator.manual_seed(seed)
        for index in cuda:
            torch.cuda.default_generators[index].manual_seed(seed)
        yield


@contextlib.contextmanager
def seeded_epoch(model: nn.Module, device: torch.device, seed: int) -> Iterator[None]:
    """Train mode and `seeded` for this epoch, eval mode after."""
    with seeded(device, seed):
        model.train()
        try:
            yield
        finally:
            model.eval()
