"""Two ways of doing one thing, timed in turns in one process, with the memory each adds at its peak."""

from __future__ import annotations

import gc
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


@dataclass
class Way:
    """One way: its name, what it does, and what was seen.

    Args:
        name: Who does it.
        call: Does it.
        describe: Says how good the results of all runs are.
    """

    name: str
    call: Callable[[], Any]
    describe: Callable[[list[Any]], str] = lambda _: ""

    def __post_init__(self) -> None:
        self.seconds: list[float] = []
        self.bytes = 0
        self.results: list[Any] = []

    @property
    def median(self) -> float:
        """Median CPU seconds over the runs."""
        return statistics.median(self.seconds)

    def run(self, calls: int = 1) -> None:
        """Once, timed and weighed. Time is the process's own on all its cores, so that a busy machine matters less.

        Args:
            calls: With more than one, the mean of all but the first, which finds the memory that the others use again.
        """
        gc.collect()
        before = _peak_from_here()
        result = self.call() if calls > 1 else None
        start = time.process_time()
        for _ in range(max(1, calls - 1)):
            result = self.call()
        self.seconds.append((time.process_time() - start) / max(1, calls - 1))
        self.bytes = max(self.bytes, _resident("VmHWM") - before)
        self.results.append(result)


def compare(
    title: str, ours: Way, peers: list[Way], runs: int, warm: bool = True, calls: int = 1
) -> list[str]:
    """Run all ways in turns; rows of a Markdown table.

    Args:
        title: What is done.
        ours: Our way.
        peers: Theirs.
        runs: How often each.
        warm: Whether to run each once before.
        calls: In a row at each turn.
    """
    ways = [ours, *peers]
    for way in ways if warm else ():  # so that what is made once is made
        way.call()
    for _ in range(runs):
        for way in ways:
            way.run(calls)
            print(f"  {title}, {way.name}: {way.seconds[-1]:.3g} s", file=sys.stderr, flush=True)
    rows = []
    for way in ways:
        ratio = "" if way is ours else f"{way.median / ours.median:.1f}x"
        row = (title, way.name, f"{way.median:.3g}", ratio, f"{way.bytes / 2**20:.0f}", str(runs))
        rows.append("| " + " | ".join((*row, way.describe(way.results))) + " |")
        print(rows[-1], flush=True)
    return rows


HEADER = [
    "| what | who | CPU seconds (median) | over ours | peak MiB | runs | result |",
    "|---|---|---|---|---|---|---|",
]


def _resident(field: str) -> int:
    if not STATUS.exists():
        return 0
    line = next(line for line in STATUS.read_text().splitlines() if line.startswith(field))
    return int(line.split()[1]) * 1024


def _peak_from_here() -> int:
    """Forget the peak of resident memory so far; what is resident now."""
    if CLEAR.exists():
        CLEAR.write_text("5")
    return _resident("VmRSS")
