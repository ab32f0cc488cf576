"""The exact trace of the Hessian against the usual estimate from 100 probes, on the digits network.

Run it with `make bench` or `python benchmarks/hessian_trace.py`. Figures are of one run on this machine.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

import torch

from torchstone.linalg import hutchinson_trace
from torchstone.operators import Hessian, hessian_trace
from torchstone.specimens.digits import build

Result = TypeVar("Result")


def timed(function: Callable[[], Result]) -> tuple[Result, float]:
    """The function's result and its seconds, after one call to warm up."""
    function()
    start = time.perf_counter()
    result = function()
    return result, time.perf_counter() - start


def main() -> None:
    specimen = build(epochs=3)
    generator = lambda: torch.Generator().manual_seed(0)
    exact, exact_seconds = timed(lambda: hessian_trace(specimen, generator=generator()))
    hessian = Hessian(specimen)
    usual, usual_seconds = timed(lambda: hutchinson_trace(hessian, probes=100, generator=generator()))
    _, gradient_seconds = timed(specimen.gradient)
    print(f"one gradient:          {gradient_seconds:.3f} s")
    print(f"exact trace:           {exact_seconds:.2f} s, {exact.value:.4f} (exact: {exact.exact})")
    print(f"100 Hutchinson probes: {usual_seconds:.2f} s, {usual.value:.4f} +- {usual.standard_error:.4f}")
    print(f"one product:           {usual_seconds / 100 / gradient_seconds:.1f} gradients")
    print(f"ratio:                 {usual_seconds / exact_seconds:.0f}x")


if __name__ == "__main__":
    main()
