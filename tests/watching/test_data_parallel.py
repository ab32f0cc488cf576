"""Watching under DistributedDataParallel: gradients are seen reduced, once, and one process writes."""

from __future__ import annotations

from contextlib import nullcontext
from datetime import timedelta
from pathlib import Path
from typing import Any, cast

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.algorithms.join import Join
from torch.multiprocessing.spawn import spawn
from torch.nn.parallel import DistributedDataParallel

from torchstone.specimens.networks import mlp
from torchstone.watching import watch

STEPS = 6


def data() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(STEPS, 8, 5, generator=generator), torch.randint(3, (STEPS, 8), generator=generator)


def run(
    share: slice, folder: Path, wrap: bool, every: int = 1, steps: int | None = None, **options: Any
) -> dict[str, Any]:
    """Train on a share of each batch; what the watcher recorded."""
    model: nn.Module = mlp([5, 7, 3], generator=torch.Generator().manual_seed(2))
    model = DistributedDataParallel(model) if wrap else model
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    x, y = data()
    probe = (x.flatten(0, 1), y.flatten())
    reductions = 0
    plain = dist.all_reduce

    def counted(*inputs: Any, **settings: Any) -> Any:
        nonlocal reductions
        reductions += 1
        return plain(*inputs, **settings)

    dist.all_reduce = counted
    try:
        alone = steps is None or not isinstance(model, DistributedDataParallel)
        joined = nullcontext() if alone else Join([cast(DistributedDataParallel, model)])
        with (
            joined,
            watch(model, optimizer, probe, every=every, folder=folder, show=False, **options) as watcher,
        ):
            for some_x, some_y in zip(x[:steps], y[:steps], strict=True):
                loss = nn.functional.cross_entropy(model(some_x[share]), some_y[share])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                watcher.step(loss)
    finally:
        dist.all_reduce = plain
    return {
        "gradient_norm": [record.values["gradient_norm"] for record in watcher.records],
        "layers": [record.layers["update_ratio"] for record in watcher.records],
        "names": sorted(watcher.records[-1].values),
        "reductions": reductions,
    }


def work(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    meeting = f"file://{folder}/meeting"
    dist.init_process_group(
        "gloo", init_method=meeting, rank=rank, world_size=2, timeout=timedelta(seconds=60)
    )
    found = run(slice(rank, None, 2), Path(folder) / f"run{rank}", wrap=True)
    # Clocks differ, and so does what "auto" chooses: each process measures when it likes, and nobody waits.
    share = slice(rank, None, 2)
    quantities = ("gradient", "noise", "forgetting")
    uneven = run(
        share, Path(folder) / "uneven", True, (1, 1000)[rank], STEPS - 2 * rank, quantities=quantities
    )
    torch.save({**found, "uneven": len(uneven["gradient_norm"])}, f"{folder}/{rank}.pt")
    dist.barrier()
    dist.destroy_process_group()


def test_two_processes_record_the_gradient_of_the_whole_batch(tmp_path: Path) -> None:
    spawn(work, (str(tmp_path),), nprocs=2)
    alone = run(slice(None), tmp_path / "alone", wrap=False)
    for rank in range(2):
        found = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        assert found["gradient_norm"] == pytest.approx(alone["gradient_norm"], rel=1e-4)
        for mine, its in zip(found["layers"], alone["layers"], strict=True):
            assert mine == pytest.approx(its, rel=1e-4)
        assert found["names"] == alone["names"]
        assert found["uneven"] == (STEPS, 1)[rank]
        assert found["reductions"] == 0  # DistributedDataParallel's own are not made by this function
    assert (tmp_path / "run0" / "watch.jsonl").exists()
    assert not (tmp_path / "run1" / "watch.jsonl").exists()
