"""The empirical tangent kernel against the usual recipe of per-example Jacobians, on an MLP 784-512-512-10.

Run it with `make bench` or `python benchmarks/ntk.py`. Figures are of one run on this machine.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import torch
from torch import Tensor, nn

from torchstone.operators import ntk
from torchstone.specimens.networks import mlp

EXAMPLES = 128
MORE = 1000


def seconds(function: Callable[[], object], rounds: int) -> float:
    """The shortest of several runs."""
    taken = []
    for _ in range(rounds):
        start = time.perf_counter()
        function()
        taken.append(time.perf_counter() - start)
    return min(taken)


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
    generator = torch.Generator().manual_seed(0)
    model = mlp([784, 512, 512, 10], generator=generator)
    x = torch.randn(MORE, 784, generator=generator)
    few = x[:EXAMPLES]
    ours = ntk(model, few)
    ours_seconds = seconds(lambda: ntk(model, few), 5)
    start = time.perf_counter()
    theirs = by_jacobians(model, few)
    theirs_seconds = time.perf_counter() - start
    distance = float((ours.values - theirs).norm() / theirs.norm())
    assert ours.plan is not None
    jacobian = 4 * EXAMPLES * 10 * sum(parameter.numel() for parameter in model.parameters())
    print(f"{EXAMPLES} examples, all outputs: {ours_seconds:.3f} s, {ours.plan.peak_bytes / 1e6:.0f} MB")
    print(f"per-example Jacobians:    {theirs_seconds:.1f} s, {jacobian / 1e6:.0f} MB of Jacobians alone")
    print(f"ratio:                    {theirs_seconds / ours_seconds:.0f}x, relative distance {distance:.1e}")
    print(f"sum over outputs:         {seconds(lambda: ntk(model, few, outputs='trace'), 5):.3f} s")
    del theirs
    large = ntk(model, x, outputs="all")
    assert large.plan is not None
    print(
        f"{MORE} examples, all outputs: {seconds(lambda: ntk(model, x), 1):.1f} s, "
        f"{large.plan.peak_bytes / 1e6:.0f} MB, the kernel itself {large.plan.result_bytes / 1e6:.0f} MB"
    )


if __name__ == "__main__":
    main()
