"""The awkward modules of the zoo."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

WIDTH, CLASSES = 5, 3


class Tied(nn.Module):
    """Two layers share one weight."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.head = (
            nn.Linear(WIDTH, WIDTH),
            nn.Linear(WIDTH, WIDTH),
            nn.Linear(WIDTH, CLASSES),
        )
        self.second.weight = self.first.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.tanh(self.second(torch.tanh(self.first(x)))))


class Reused(nn.Module):
    """One layer and one activation are called three times, with residual connections."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.activation, self.head = nn.Linear(WIDTH, WIDTH), nn.ReLU(), nn.Linear(WIDTH, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        for _ in range(3):
            x = x + self.activation(self.layer(x))
        return self.head(x)


class Recurrent(nn.Module):
    """An LSTM over sequences (N, T, d)."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm, self.head = nn.LSTM(WIDTH, 6, batch_first=True), nn.Linear(6, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.lstm(x)[0][:, -1])


class Attending(nn.Module):
    """Calls `scaled_dot_product_attention`, whose fused kernels have no second derivative."""

    def __init__(self) -> None:
        super().__init__()
        self.query, self.key, self.value = nn.Linear(WIDTH, 8), nn.Linear(WIDTH, 8), nn.Linear(WIDTH, 8)
        self.head = nn.Linear(8, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.scaled_dot_product_attention(self.query(x), self.key(x), self.value(x)).mean(1))


class Encoder(nn.Module):
    """A transformer encoder, batch first or sequence first; its fast path in eval mode skips its own submodules."""

    def __init__(self, batch_first: bool) -> None:
        super().__init__()
        self.batch_first = batch_first
        layer = nn.TransformerEncoderLayer(4, 2, 8, batch_first=batch_first)
        self.into, self.head = nn.Linear(WIDTH, 4), nn.Linear(4, CLASSES)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)

    def forward(self, x: Tensor) -> Tensor:
        x = self.into(x)
        x = self.encoder(x if self.batch_first else x.transpose(0, 1))
        return self.head(x.mean(1 if self.batch_first else 0))


class TwoInputs(nn.Module):
    """Takes two named inputs and returns a dict."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(WIDTH, CLASSES)

    def forward(self, left: Tensor, right: Tensor) -> dict[str, Tensor]:
        return {"logits": self.layer(left) + right.mean(1, keepdim=True)}


class ReturnsTuple(nn.Module):
    """Returns its scores and something else."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(WIDTH, CLASSES)

    def forward(self, x: Tensor) -> tuple[Tensor, dict[str, Any]]:
        scores = self.layer(x)
        return scores, {"regularisation": scores.square().sum()}


@dataclass
class Output:
    """What `ReturnsDataclass` returns; the scores are not the first field."""

    hidden: Tensor
    logits: Tensor


class ReturnsDataclass(nn.Module):
    """Returns a dataclass."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.head = nn.Linear(WIDTH, 4), nn.Linear(4, CLASSES)

    def forward(self, x: Tensor) -> Output:
        hidden = torch.relu(self.layer(x))
        return Output(hidden, self.head(hidden))


class SingleParameter(nn.Module):
    """One number is all that can be trained."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(0.5))

    def forward(self, x: Tensor) -> Tensor:
        return x[:, :CLASSES] * self.scale


class NoParameters(nn.Module):
    """Nothing can be trained."""

    def forward(self, x: Tensor) -> Tensor:
        return 2 * x[:, :CLASSES]


class UnusedParameter(nn.Module):
    """Holds a layer that forward never calls."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.unused = nn.Linear(WIDTH, CLASSES), nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x)


class Counting(nn.Module):
    """Counts its calls in a buffer and its examples in another."""

    calls: Tensor
    mean: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(WIDTH, CLASSES)
        self.register_buffer("calls", torch.zeros((), dtype=torch.long))
        self.register_buffer("mean", torch.zeros(WIDTH))

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1  # in place
        self.mean = 0.9 * self.mean + 0.1 * x.detach().mean(0)  # another tensor under the same name
        return self.layer(x)


class Misbehaving(nn.Module):
    """Prints, raises, writes into its input or returns NaN, as told."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how, self.layer = how, nn.Linear(WIDTH, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        if self.how == "prints":
            print("forward")  # noqa: T201 - that is what is awkward about it
        if self.how == "raises":
            raise RuntimeError("no such luck")
        if self.how == "writes":
            x = x.mul_(2)
        return self.layer(x) * (float("nan") if self.how == "nan" else 1.0)


class LanguageModel(nn.Module):
    """Embedding, GRU and head over a vocabulary of 11."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.gru, self.head = (
            nn.Embedding(11, 8),
            nn.GRU(8, 8, batch_first=True),
            nn.Linear(8, 11),
        )

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(self.gru(self.embedding(tokens))[0])
