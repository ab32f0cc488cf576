"""Many dense networks trained as one by a loop written for just them: what PyTorch's eager operators can do at best.

No autograd, no optimiser object, no bookkeeping: about thirty operators a step on memory that is made once, softmax along
the quick direction, momentum and weights each one tensor. Whatever trains such networks for users does more than this.
"""

from __future__ import annotations

import itertools

import torch
from torch import Tensor

THRESHOLD = torch.ops.aten.threshold_backward


class DenseByHand:
    """K networks of linear layers and ReLUs under cross-entropy and SGD with momentum 0.9, rate 0.05.

    Args:
        members: K.
        sizes: Widths, inputs first.
        batch_size: Examples a step of each.
        x: Inputs (N, ...), read as vectors.
        y: Classes (N,).
        generator: Draws weights and orders.
    """

    def __init__(
        self,
        members: int,
        sizes: tuple[int, ...],
        batch_size: int,
        x: Tensor,
        y: Tensor,
        generator: torch.Generator,
    ) -> None:
        self.members, self.batch_size, self.generator = members, batch_size, generator
        self.x, self.y = x.flatten(1).contiguous(), y
        pairs = list(itertools.pairwise(sizes))
        shapes = [shape for a, b in pairs for shape in ((members, b, a), (members, b))]
        self.count = len(pairs)
        total = sum(torch.Size(shape).numel() for shape in shapes)
        self.flat = (0.1 * torch.randn(total, generator=generator)).to(x.device)
        self.slopes, self.momenta = torch.zeros_like(self.flat), torch.zeros_like(self.flat)
        own, theirs = self._views(self.flat, shapes), self._views(self.slopes, shapes)
        self.weights, self.biases = own[::2], own[1::2]
        self.by_weights, self.by_biases = theirs[::2], theirs[1::2]
        room = lambda width: torch.empty(members, batch_size, width, device=x.device)
        self.outputs = [room(b) for _, b in pairs]
        self.signals = [room(a) for a, _ in pairs]
        self.minus_one = torch.full((1, members * batch_size), -1.0, device=x.device)

    @staticmethod
    def _views(flat: Tensor, shapes: list[tuple[int, ...]]) -> list[Tensor]:
        parts = flat.split([torch.Size(shape).numel() for shape in shapes])
        return [part.view(shape) for part, shape in zip(parts, shapes, strict=True)]

    @torch.no_grad()
    def train(self, epochs: int) -> float:
        """Whole batches only; the mean loss of the last pass."""
        losses: list[Tensor] = []
        for _ in range(epochs):
            draws = [torch.randperm(len(self.x), generator=self.generator) for _ in range(self.members)]
            order = torch.stack(draws).to(self.x.device)
            whole = len(self.x) // self.batch_size * self.batch_size
            losses = [self._step(rows) for rows in order[:, :whole].split(self.batch_size, dim=1)]
        return float(torch.stack(losses).mean())

    def _step(self, rows: Tensor) -> Tensor:
        x = self.x.index_select(0, rows.flatten()).view(self.members, self.batch_size, -1)
        y = self.y.index_select(0, rows.flatten())[None]
        inputs = [x, *self.outputs[:-1]]
        for k, out in enumerate(self.outputs):
            torch.baddbmm(self.biases[k].unsqueeze(1), inputs[k], self.weights[k].mT, out=out)
            if k < self.count - 1:
                out.relu_()
        logs = torch.log_softmax(self.outputs[-1].flatten(0, 1).t(), 0)
        losses = logs.gather(0, y).neg_()
        slope = logs.exp_().scatter_add_(0, y, self.minus_one).mul_(1 / self.batch_size)
        signal = slope.t().reshape(self.outputs[-1].shape)
        for k in reversed(range(self.count)):
            torch.bmm(signal.mT, inputs[k], out=self.by_weights[k])
            torch.sum(signal, 1, out=self.by_biases[k])
            if k:
                signal = THRESHOLD(torch.bmm(signal, self.weights[k], out=self.signals[k]), inputs[k], 0)
        self.momenta.mul_(0.9).add_(self.slopes)
        self.flat.add_(self.momenta, alpha=-0.05)
        return losses.mean()
