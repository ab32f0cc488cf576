"""Where in a tensor the examples of a batch lie, found by experiment."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

_TOLERANCE = 100.0  # roundings: scales are powers of two, so a right guess is off by reordered sums at most


@dataclass(frozen=True)
class Layout:
    """Dimension `axis` runs over examples and positions: examples outermost (`example_major`) or innermost."""

    axis: int
    example_major: bool

    def by_example(self, tensor: Tensor, examples: int) -> Tensor:
        """The tensor with the examples in front: (N, ...), where the positions that are left stand at `axis` + 1."""
        if self.example_major:
            split = tensor.unflatten(self.axis, (examples, -1))
            return split.movedim(self.axis, 0)
        return tensor.unflatten(self.axis, (-1, examples)).movedim(self.axis + 1, 0)


def find_layout(
    signal: Tensor, scaled: Tensor, scales: Float[Tensor, " examples"], axes: Sequence[int]
) -> Layout | None:
    """The layout in which `scaled` is `signal` with each example's part multiplied by its scale.

    Both are gradients at one place of the network, from cotangents that differ by these scales; where examples do not
    influence each other, one layout fits. None where none does: examples mix, or are not evenly laid out.

    Args:
        signal: Gradient for some cotangents.
        scaled: Gradient for the same cotangents, each example's multiplied by its scale.
        scales: Powers of two, different enough to tell examples apart.
        axes: Dimensions that may hold the examples.
    """
    examples = scales.shape[0]
    slack = _TOLERANCE * torch.finfo(signal.dtype).eps
    for axis in axes:
        if signal.shape[axis] % examples:
            continue
        for example_major in (True, False):
            layout = Layout(axis, example_major)
            parts = layout.by_example(signal, examples)
            expected = parts * scales.to(signal.dtype).reshape(-1, *(1,) * (parts.ndim - 1))
            size = expected.flatten(1).abs().amax(1)
            miss = (expected - layout.by_example(scaled, examples)).flatten(1).abs().amax(1)
            if bool((miss <= slack * size).all()):
                return layout
    return None


def draw_scales(examples: int, device: torch.device) -> Float[Tensor, " examples"]:
    """Powers of two from 1 to 128, one an example and different among eight in a row; the same for the same number."""
    generator = torch.Generator().manual_seed(examples)
    rounds = [torch.randperm(8, generator=generator) for _ in range(-(-examples // 8))]
    return 2.0 ** torch.cat(rounds)[:examples].to(device)
