"""Singular values of the Jacobians of a 50-layer network, layer by layer, beside dense Jacobians by torch.func.

    python benchmarks/jacobian.py [convolutional] [dense] [--write]

For every tenth layer, the Jacobian of its output in the network's input. Both ways run in turns in one process. Theirs
gives the whole spectrum of a dense matrix; ours, by Golub-Kahan, the five largest singular values to 1%. The last column
compares them with the dense ones. Where the dense matrix is small, it is the faster way, and the one to take.
"""

from __future__ import annotations

import argparse
import platform
from functools import partial
from pathlib import Path
from typing import Any

import torch
from shared.side_by_side import HEADER, Way, compare
from torch import Tensor, nn

from torchstone.init import apply
from torchstone.linalg import singular_triplets
from torchstone.objectives import Regression
from torchstone.operators import LayerJacobian
from torchstone.specimen import Specimen

RESULTS = Path(__file__).parent / "results"
DEPTH = 50
K, TOLERANCE = 5, 1e-2


def generator() -> torch.Generator:
    """The same one each time."""
    return torch.Generator().manual_seed(0)


class Problem:
    """A network of 50 equal layers with ReLU, Kaiming weights, and one input.

    Args:
        name: "dense" (width 512) or "convolutional" (8 channels of 16 x 16 pixels).
    """

    def __init__(self, name: str) -> None:
        layers: list[nn.Module] = []
        for _ in range(DEPTH):
            layer = nn.Linear(512, 512) if name == "dense" else nn.Conv2d(8, 8, 3, padding=1)
            layers += [layer, nn.ReLU()]
        self.name, self.model = name, nn.Sequential(*layers)
        apply(self.model, "kaiming", generator=generator())
        shape = (512,) if name == "dense" else (8, 16, 16)
        self.x = torch.randn(1, *shape, generator=generator())
        self.specimen = Specimen(self.model, Regression(), (self.x, torch.zeros_like(self.x)))

    @property
    def size(self) -> int:
        """Rows and columns of every Jacobian."""
        return self.x.numel()

    def jacobians(self, layers: list[int]) -> list[LayerJacobian]:
        """From the input to what leaves the activation of each of these layers."""
        return [LayerJacobian(self.specimen, "0", str(2 * layer + 1), rows=0) for layer in layers]

    def largest(self, layers: list[int]) -> list[Tensor]:
        """The five largest singular values."""
        with self.specimen.measuring():  # once for all products
            return [
                singular_triplets(A, K, tolerance=TOLERANCE, generator=generator()).values
                for A in self.jacobians(layers)
            ]

    def theirs(self, layers: list[int]) -> list[Tensor]:
        """All singular values, densely."""
        found = []
        for layer in layers:
            part = self.model[: 2 * layer + 2]
            jacobian: Any = torch.func.jacrev(part)(self.x)
            found.append(torch.linalg.svdvals(jacobian.detach().reshape(self.size, self.size)))
        return found


def largest_words(reference: list[Tensor]) -> Any:
    """How far the largest singular values are from the dense ones."""

    def say(results: list[Any]) -> str:
        pairs = zip(results[-1], reference, strict=True)
        off = max(float(((a.double() - b[:K].double()) / b[0].double()).abs().max()) for a, b in pairs)
        return f"off by at most {off:.1e} of the largest"

    return say


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("networks", nargs="*", default=["convolutional", "dense"])
    parser.add_argument("--every", type=int, default=10, help="only every so many layers")
    parser.add_argument("--runs", type=int, default=1)
    parser.add_argument("--write", action="store_true", help="write the tables to benchmarks/results/")
    arguments = parser.parse_args()
    rows = []
    about = f"{DEPTH} layers, float32, {torch.get_num_threads()} threads, PyTorch {torch.__version__}, {platform.machine()}"
    print(about, *HEADER, sep="\n", flush=True)
    layers = list(range(arguments.every - 1, DEPTH, arguments.every))
    for name in arguments.networks:
        problem = Problem(name)
        reference = problem.theirs(layers)
        rows += compare(
            f"{name}, {len(layers)} Jacobians of {problem.size} x {problem.size}",
            Way(
                f"torchstone, {K} largest to {TOLERANCE:g}",
                partial(problem.largest, layers),
                largest_words(reference),
            ),
            [Way("torch.func.jacrev and svdvals, all", partial(problem.theirs, layers))],
            arguments.runs,
            warm=False,
        )
    if arguments.write:
        RESULTS.mkdir(exist_ok=True)
        (RESULTS / "jacobian.md").write_text("\n".join([f"# Jacobians, {about}", "", *HEADER, *rows, ""]))


if __name__ == "__main__":
    main()
