"""What a watcher measures on."""

from __future__ import annotations

import torch

from torchstone.objectives import Classification
from torchstone.specimen import Specimen
from torchstone.specimen.processes import Processes
from torchstone.specimens.networks import mlp
from torchstone.watching.probe import probe


class Waiting(Processes):
    """One of two processes, of which the other never comes."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 2

    def require_same(self, what: str, here: object) -> None:
        raise AssertionError(f"waited for another process to compare {what}, {here}")


def test_a_shared_specimen_is_probed_by_each_process_alone() -> None:
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(12, 4, generator=generator), torch.arange(12) % 3
    model = mlp([4, 5, 3], generator=generator)
    specimen = Specimen(model, Classification(), (x, y))
    specimen.processes = waiting = Waiting()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    bench = probe(specimen, model, optimizer, None, None)
    assert bench is not None
    assert len(bench.losses("train")) == 12
    assert specimen.processes is waiting
