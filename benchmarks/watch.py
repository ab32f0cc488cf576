"""What watching costs: the same training steps bare, watched within a budget, and watched at every step.

    python benchmarks/watch.py [mlp] [2c2d] [3c3d] [resnet] [--steps 50] [--rounds 20] [--write]

The networks are those of DeepOBS that cockpit's own benchmark uses, on random data of the same shapes. Goals: 1.10 with
every="auto", 1.5 with the cheap quantities at every step. Cockpit 1.0.2's economy configuration at every step took 5.7 times
the bare loop on 3c3d and 62.8 times on the MLP by its authors' logs.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from shared.resnet import Block
from torch import Tensor, nn

import torchstone
from torchstone.watching import TrainingWarning

RESULTS = Path(__file__).parent / "results" / "watch.md"
BATCH = 128
HEADER = [
    "| network | parameters | bare ms a step | bare again | every=auto | every step, cheap | records with auto |",
    "|---|---|---|---|---|---|---|",
]


def mlp() -> tuple[nn.Module, tuple[int, ...]]:
    """784-1000-500-100-10."""
    sizes = (784, 1000, 500, 100, 10)
    layers = [part for a, b in itertools.pairwise(sizes) for part in (nn.Linear(a, b), nn.ReLU())]
    return nn.Sequential(nn.Flatten(), *layers[:-1]), (1, 28, 28)


def two_convolutions() -> tuple[nn.Module, tuple[int, ...]]:
    """2c2d: 3.3 million parameters."""
    return nn.Sequential(
        *(nn.Conv2d(1, 32, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(32, 64, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Flatten(), nn.Linear(64 * 7 * 7, 1024), nn.ReLU(), nn.Linear(1024, 10)),
    ), (1, 28, 28)


def three_convolutions() -> tuple[nn.Module, tuple[int, ...]]:
    """3c3d: 0.9 million parameters."""
    return nn.Sequential(
        *(nn.Conv2d(3, 64, 5), nn.ReLU(), nn.MaxPool2d(3, 2, 1)),
        *(nn.Conv2d(64, 96, 3), nn.ReLU(), nn.MaxPool2d(3, 2, 1)),
        *(nn.Conv2d(96, 128, 3, padding=1), nn.ReLU(), nn.MaxPool2d(3, 2, 1)),
        *(
            nn.Flatten(),
            nn.Linear(128 * 9, 512),
            nn.ReLU(),
            nn.Linear(512, 256),
            nn.ReLU(),
            nn.Linear(256, 10),
        ),
    ), (3, 32, 32)


def resnet() -> tuple[nn.Module, tuple[int, ...]]:
    """Three stages of one block, width 16."""
    return nn.Sequential(
        *(nn.Conv2d(3, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU()),
        *(Block(16, 16, 1), Block(16, 32, 2), Block(32, 64, 2)),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10)),
    ), (3, 32, 32)


NETWORKS: dict[str, Callable[[], tuple[nn.Module, tuple[int, ...]]]] = {
    "mlp": mlp,
    "2c2d": two_convolutions,
    "3c3d": three_convolutions,
    "resnet": resnet,
}


class Loop:
    """One training run on fixed random batches."""

    def __init__(self, name: str) -> None:
        generator = torch.Generator().manual_seed(0)
        self.model, shape = NETWORKS[name]()
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=1e-3, momentum=0.9)
        self.batches = [
            (
                torch.randn(BATCH, *shape, generator=generator),
                torch.randint(10, (BATCH,), generator=generator),
            )
            for _ in range(4)
        ]

    def watched(self, **options: Any) -> Any:
        """A watcher on a batch as its probe."""
        return torchstone.watch(self.model, self.optimizer, self.batches[0], batch_size=BATCH, **options)

    def step(self, index: int) -> Tensor:
        """A training step."""
        x, y = self.batches[index % len(self.batches)]
        loss = nn.functional.cross_entropy(self.model(x), y)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        return loss


def seconds(loop: Loop, steps: int, watcher: Any = None) -> float:
    """Time of that many steps."""
    start = time.perf_counter()
    for index in range(steps):
        loss = loop.step(index)
        if watcher is not None:
            watcher.step(loss)
    return time.perf_counter() - start


def measure(name: str, steps: int, rounds: int) -> str:
    """Bare, watched, and bare again as a control, in short turns whose order changes."""
    kinds = ("bare", "again", "auto", "cheap")
    loops = {kind: Loop(name) for kind in kinds}
    parameters = sum(p.numel() for p in loops["bare"].model.parameters())
    for loop in loops.values():
        seconds(loop, 3)
    times: dict[str, list[float]] = {kind: [] for kind in kinds}
    with (
        loops["auto"].watched(show=False) as by_budget,
        loops["cheap"].watched(quantities="cheap", every=1, show=False) as at_each,
    ):
        watchers = {"auto": by_budget, "cheap": at_each}
        for turn in range(rounds):
            for kind in (*kinds[turn % 4 :], *kinds[: turn % 4]):
                times[kind].append(in_turn(loops[kind], steps, watchers.get(kind)))
        records = len(by_budget.records)
    # The budget evens out over the run, so that the sums over all turns are compared.
    ratios = [sum(times[kind]) / sum(times["bare"]) for kind in kinds[1:]]
    cells = (
        name,
        f"{parameters:,}",
        f"{1000 * statistics.median(times['bare']) / steps:.1f}",
        *(f"{ratio:.2f}x" for ratio in ratios),
        f"{records} of {rounds * steps}",
    )
    return "| " + " | ".join(cells) + " |"


def in_turn(loop: Loop, steps: int, watcher: Any) -> float:
    """As `seconds`; the watcher's clock stands still while the other loops run."""
    if watcher is None:
        return seconds(loop, steps)
    now = time.perf_counter()
    if hasattr(watcher, "paused_at"):
        watcher._started += now - watcher.paused_at
    spent = seconds(loop, steps, watcher)
    watcher.paused_at = time.perf_counter()
    return spent


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("networks", nargs="*", default=list(NETWORKS))
    parser.add_argument("--steps", type=int, default=50, help="steps a turn")
    parser.add_argument("--rounds", type=int, default=20, help="turns of each kind")
    parser.add_argument("--write", action="store_true", help="write the table to benchmarks/results/")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore", TrainingWarning)
    about = f"batches of {BATCH}, {arguments.rounds} turns of {arguments.steps} steps, {torch.get_num_threads()} threads, PyTorch {torch.__version__}"
    print(about, *HEADER, sep="\n", flush=True)
    rows = []
    for name in arguments.networks:
        rows.append(measure(name, arguments.steps, arguments.rounds))
        print(rows[-1], flush=True)
    if arguments.write:
        RESULTS.parent.mkdir(exist_ok=True)
        RESULTS.write_text("\n".join(["# Overhead of watching", "", about, "", *HEADER, *rows, ""]))


if __name__ == "__main__":
    main()
