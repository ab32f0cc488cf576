"""A small language model for claims on what language models give away."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class WindowModel(nn.Module):
    """Scores of the next token from the last few tokens: embeddings, one hidden layer.

    Args:
        vocabulary: Number of tokens; one more stands for what is before the first.
        window: Tokens looked at.
        width: Hidden units.
        generator: Where the initial weights come from.

    Source: Bengio, Ducharme, Vincent & Jauvin 2003.
    """

    def __init__(
        self, vocabulary: int, window: int = 5, width: int = 64, *, generator: torch.Generator
    ) -> None:
        super().__init__()
        self.vocabulary, self.window = vocabulary, window
        with torch.device("meta"):  # the layers' own initialisation would draw from the global generator
            self.embedding = nn.Embedding(vocabulary + 1, 12)
            self.hidden, self.head = nn.Linear(12 * window, width), nn.Linear(width, vocabulary)
        self.to_empty(device="cpu")
        with torch.no_grad():
            for parameter in self.parameters():
                scale = parameter.shape[-1] ** -0.5 if parameter is not self.embedding.weight else 1.0
                parameter.copy_(scale * torch.randn(parameter.shape, generator=generator))

    def forward(self, tokens: Tensor) -> Tensor:
        """Scores (N, T, V) for token ids (N, T)."""
        before = tokens.new_full((len(tokens), self.window - 1), self.vocabulary)
        windows = torch.cat([before, tokens], dim=1).unfold(1, self.window, 1)
        return self.head(torch.tanh(self.hidden(self.embedding(windows).flatten(2))))


def next_token_losses(model: nn.Module, tokens: Tensor, _: Tensor) -> Tensor:
    """Mean cross-entropy of the next tokens of each sequence, (N,), in nats."""
    scores = model(tokens)[:, :-1]
    return nn.functional.cross_entropy(scores.transpose(1, 2), tokens[:, 1:], reduction="none").mean(1)
