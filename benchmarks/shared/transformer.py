"""An encoder of four layers on sequences of vectors, with attention that every peer can differentiate twice."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from torchstone.objectives import Classification
from torchstone.specimen import Specimen


class Layer(nn.Module):
    """Attention and a feed-forward network, each after a layer normalisation and beside a shortcut."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.before_attention, self.before_network = nn.LayerNorm(width), nn.LayerNorm(width)
        self.project, self.mix = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.network = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        """Vectors (N, T, width) to vectors."""
        parts = self.project(self.before_attention(x)).unflatten(-1, (3, self.heads, -1))
        q, k, v = parts.permute(2, 0, 3, 1, 4)
        weights = (q @ k.mT / q.shape[-1] ** 0.5).softmax(-1)
        x = x + self.mix((weights @ v).transpose(1, 2).flatten(2))
        return x + self.network(self.before_network(x))


class Encoder(nn.Module):
    """Four layers of width 256 with 8 heads, ten classes; 3.2 million parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.into, self.layers = nn.Linear(64, 256), nn.Sequential(*(Layer(256, 8) for _ in range(4)))
        self.read = nn.Sequential(nn.LayerNorm(256), nn.Linear(256, 10))

    def forward(self, x: Tensor) -> Tensor:
        """Sequences (N, T, 64) to logits."""
        return self.read(self.layers(self.into(x)).mean(1))


def build(sequences: int = 16, length: int = 64) -> Specimen:
    """The network as it is initialised, and random sequences."""
    with torch.random.fork_rng():
        torch.set_rng_state(torch.Generator().manual_seed(0).get_state())
        model, x = Encoder(), torch.randn(sequences, length, 64)
    data = (x, torch.arange(sequences) % 10)
    return Specimen(model.eval(), Classification(), data, name="transformer", batch_size=sequences)
