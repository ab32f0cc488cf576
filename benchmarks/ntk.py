"""The empirical tangent kernel against the usual recipe of per-example Jacobians, on an MLP 784-512-512-10.

    python benchmarks/ntk.py [--jax /path/to/python] [--write]

With the interpreter of an environment that holds neural-tangents (see shared/neural_tangents_worker.py), its structured
derivatives are timed in turn on the same weights. Figures are of one run on this machine, in CPU seconds.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from torchstone.operators import ntk
from torchstone.specimens.networks import mlp

EXAMPLES = 128
MORE = 1000


def seconds(function: Callable[[], object], rounds: int) -> float:
    """CPU seconds of the shortest of several runs."""
    taken = []
    for _ in range(rounds):
        start = time.process_time()
        function()
        taken.append(time.process_time() - start)
    return min(taken)


def by_neural_tangents(interpreter: str, model: nn.Module, x: Tensor) -> tuple[Tensor, float]:
    """Its kernel (N, M, C, C) and CPU seconds, from another interpreter on the same weights."""
    import subprocess
    import tempfile

    import numpy as np

    layers = [layer for layer in model.modules() if isinstance(layer, nn.Linear)]
    given = {"x": x.numpy()}
    for k, layer in enumerate(layers):
        given |= {f"weight{k}": layer.weight.detach().numpy(), f"bias{k}": layer.bias.detach().numpy()}
    with tempfile.TemporaryDirectory() as folder:
        np.savez(f"{folder}/problem.npz", **given)
        worker = Path(__file__).parent / "shared" / "neural_tangents_worker.py"
        command = [interpreter, str(worker), f"{folder}/problem.npz", f"{folder}/answer.npz"]
        subprocess.run(command, check=True)
        answer = np.load(f"{folder}/answer.npz")
        return torch.from_numpy(answer["kernel"]), float(answer["cpu_seconds"])


def by_jacobians(model: nn.Module, x: Tensor) -> Tensor:
    """As in the tutorial of torch.func: Jacobians of every example, contracted."""
    parameters = {name: parameter.detach() for name, parameter in model.named_parameters()}

    def single(values: dict[str, Tensor], one: Tensor) -> Tensor:
        return torch.func.functional_call(model, values, (one[None],))[0]

    jacobians = torch.func.vmap(torch.func.jacrev(single), (None, 0))(parameters, x)
    flat = [part.flatten(2) for part in jacobians.values()]
    total = torch.einsum("ncp,mdp->nmcd", flat[0], flat[0])
    for part in flat[1:]:
        total += torch.einsum("ncp,mdp->nmcd", part, part)
    return total


def main() -> None:
    """Print the table, and write it with --write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--jax", help="interpreter of an environment with neural-tangents")
    parser.add_argument("--write", action="store_true", help="write benchmarks/results/ntk.md")
    options = parser.parse_args()
    generator = torch.Generator().manual_seed(0)
    model = mlp([784, 512, 512, 10], generator=generator)
    x = torch.randn(MORE, 784, generator=generator)
    few = x[:EXAMPLES]
    ours = ntk(model, few)
    assert ours.plan is not None
    mine = seconds(lambda: ntk(model, few), 5)
    lines = [
        f"# Tangent kernel, MLP 784-512-512-10, {torch.get_num_threads()} threads, PyTorch {torch.__version__}",
        "",
        "| what | who | CPU seconds | over ours | MB | relative distance to ours |",
        "|---|---|---|---|---|---|",
        f"| {EXAMPLES} examples, all outputs | torchstone | {mine:.3f} | | {ours.plan.peak_bytes / 1e6:.0f} | |",
    ]
    start = time.process_time()
    theirs = by_jacobians(model, few)
    taken = time.process_time() - start
    jacobian = 4 * EXAMPLES * 10 * sum(parameter.numel() for parameter in model.parameters())
    lines.append(_row("torch.func, per-example Jacobians", taken, mine, jacobian, theirs, ours.values))
    if options.jax:
        found, taken = by_neural_tangents(options.jax, model, few)
        lines.append(_row("neural-tangents, structured derivatives", taken, mine, None, found, ours.values))
    traced = seconds(lambda: ntk(model, few, outputs="trace"), 5)
    lines.append(f"| {EXAMPLES} examples, summed over outputs | torchstone | {traced:.3f} | | | |")
    large = ntk(model, x, outputs="all")
    assert large.plan is not None
    taken = seconds(lambda: ntk(model, x), 1)
    lines.append(
        f"| {MORE} examples, all outputs | torchstone | {taken:.2f} | | {large.plan.peak_bytes / 1e6:.0f}, the kernel "
        f"itself {large.plan.result_bytes / 1e6:.0f} | |"
    )
    print("\n".join(lines))
    if options.write:
        (Path(__file__).parent / "results" / "ntk.md").write_text("\n".join(lines) + "\n")


def _row(who: str, taken: float, mine: float, used: int | None, theirs: Tensor, ours: Tensor) -> str:
    distance = float((ours - theirs).norm() / theirs.norm())
    memory = f"{used / 1e6:.0f} of Jacobians" if used else ""
    what = f"{EXAMPLES} examples, all outputs"
    return f"| {what} | {who} | {taken:.3f} | {taken / mine:.1f}x | {memory} | {distance:.0e} |"


if __name__ == "__main__":
    main()
