"""Time, passes and memory of each instrument on the digits network, and of the examination around them.

Run it with `make bench` or `python benchmarks/examine.py [specimen]`. Figures are of one run on this machine; the goals
stand beside them.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

from torchstone.examining import examine
from torchstone.instruments.catalogue import catalogue
from torchstone.plan import Plan
from torchstone.specimens.catalogue import built_in

GOALS = {"quick": 20.0, "standard": 60.0}


def import_seconds(statement: str) -> float:
    """Seconds that Python takes to run a statement, least of three."""
    times = []
    for _ in range(3):
        start = time.perf_counter()
        subprocess.run([sys.executable, "-c", statement], check=True)
        times.append(time.perf_counter() - start)
    return min(times)


def training_step_bytes(specimen_name: str) -> int:
    """Peak resident memory that one training step on a batch of 256 adds, in a process of its own."""
    code = f"""
import pathlib
from torchstone.specimens.catalogue import built_in
def resident(field):
    lines = pathlib.Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(field)).split()[1]) * 1024
specimen = built_in()[{specimen_name!r}].load()(epochs=1)
batch = next(specimen.batches("train"))
pathlib.Path("/proc/self/clear_refs").write_text("5")  # forget the peak so far
before = resident("VmRSS")
specimen.losses(specimen.forward(batch), batch).mean().backward()
print(resident("VmHWM") - before)
"""
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    return int(done.stdout.split()[-1])


def main() -> None:
    name = sys.argv[1] if len(sys.argv) > 1 else "digits"
    torch_only = import_seconds("import torch")
    ours = import_seconds("import torch, torchstone")
    print(f"import torchstone over import torch: {ours - torch_only:.2f} s (goal 0.5 s)")

    start = time.perf_counter()
    specimen = built_in()[name].load()()
    training = time.perf_counter() - start
    print(f"training {name}: {training:.1f} s, {torch.get_num_threads()} threads")

    for plan in ("quick", "standard"):
        with tempfile.TemporaryDirectory() as folder:
            start = time.perf_counter()
            examination = examine(specimen, plan, output=folder)
            seconds = time.perf_counter() - start
            start = time.perf_counter()
            page = examination.to_html()
            report = time.perf_counter() - start
            size = Path(folder, "report.html").stat().st_size / 1e6
        total = training + seconds
        print(
            f"\nplan {plan}: {seconds:.1f} s + training = {total:.1f} s (goal {GOALS[plan]:.0f} s with training)"
        )
        print(f"report: {report:.2f} s (goal 2 s), {size:.1f} MB (goal 6 MB), {len(page):,} characters")
    print(f"\n{'instrument':<22}{'seconds':>9}{'forward':>9}{'backward':>10}{'peak MiB':>10}  verdict")
    for identifier, reading in examination.readings.items():
        cost = reading.cost
        print(
            f"{identifier:<22}{cost.seconds:>9.2f}{cost.forward_passes:>9.2f}{cost.backward_passes:>10.2f}"
            f"{cost.peak_bytes / 2**20:>10.0f}  {reading.verdict.level}"
        )
    print(f"{len(examination.readings)} of {len(catalogue())} instruments")
    peak = max(reading.cost.peak_bytes for reading in examination.readings.values())
    step, budget = training_step_bytes(name), Plan.named("standard").memory_bytes
    allowed = 3 * step + budget
    print(
        f"largest peak {peak / 2**20:.0f} MiB; goal 3 x {step / 2**20:.0f} MiB (one step) + budget = {allowed / 2**20:.0f} MiB"
    )


if __name__ == "__main__":
    main()
