"""The published accuracies on MNIST-1D, trained again by `fit`: logistic regression, dense, convolutional, recurrent.

    python examples/mnist1d_table.py [logistic] [mlp] [cnn] [gru] [--seeds 3]

Greydanus & Kobak 2024 report 32, 68, 94 and 91 per cent of the test examples, single runs. The settings are theirs: Adam at
0.01, batches of 100, 6,000 updates, the published 4,000 + 1,000 examples. About 10 minutes for three seeds on two cores.
"""

# ruff: noqa: T201

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable

import torch
from torch import Tensor, nn

from torchstone.data.mnist1d import mnist1d
from torchstone.training.evaluation import cross_entropy, mean_over, misclassified
from torchstone.training.fit import Epoch, fit

PUBLISHED = {"logistic": 32, "mlp": 68, "cnn": 94, "gru": 91}
UPDATES, BATCH, RATE = 6000, 100, 0.01


class Dense(nn.Module):
    """Two hidden layers of 256 units, the second around a skip connection."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.last = nn.Linear(40, 256), nn.Linear(256, 256), nn.Linear(256, 10)

    def forward(self, x: Tensor) -> Tensor:
        """(N, 40) to scores (N, 10)."""
        hidden = self.first(x).relu()
        return self.last(hidden + self.second(hidden).relu())


class Recurrent(nn.Module):
    """A GRU of six units in each direction over the 40 points, read out at all of them."""

    def __init__(self) -> None:
        super().__init__()
        self.gru, self.last = nn.GRU(1, 6, batch_first=True, bidirectional=True), nn.Linear(40 * 12, 10)

    def forward(self, x: Tensor) -> Tensor:
        """(N, 40) to scores (N, 10)."""
        return self.last(self.gru(x[..., None])[0].flatten(1))


def convolutional() -> nn.Module:
    """Three convolutions of 25 channels and stride 2."""
    return nn.Sequential(
        nn.Unflatten(1, (1, 40)),
        *(nn.Conv1d(1, 25, 5, stride=2, padding=1), nn.ReLU()),
        *(nn.Conv1d(25, 25, 3, stride=2, padding=1), nn.ReLU()),
        *(nn.Conv1d(25, 25, 3, stride=2, padding=1), nn.ReLU()),
        *(nn.Flatten(), nn.Linear(125, 10)),
    )


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "logistic": lambda: nn.Linear(40, 10),
    "mlp": Dense,
    "cnn": convolutional,
    "gru": Recurrent,
}


def accuracies(name: str, seed: int, progress: bool = False) -> tuple[float, float]:
    """Test accuracy in per cent at the end, and the best one seen after any epoch."""
    data = mnist1d()
    x, y = (part.flatten(1) if part.ndim > 2 else part for part in data.train)
    test_x, test_y = (part.flatten(1) if part.ndim > 2 else part for part in data.test)
    with torch.random.fork_rng():
        torch.default_generator.manual_seed(seed)
        model = NETWORKS[name]()

    def on_epoch(epoch: Epoch) -> dict[str, float]:
        return {"accuracy": 100 * (1 - mean_over(epoch.model, misclassified, test_x, test_y))}

    history = fit(
        model,
        cross_entropy,
        x,
        y,
        optimizer=lambda parameters: torch.optim.Adam(parameters, lr=RATE),
        batch_size=BATCH,
        steps=UPDATES,
        generator=torch.Generator().manual_seed(seed),
        on_epoch=on_epoch,
        progress=f"{name}, seed {seed}" if progress else None,
    )
    return history["accuracy"][-1], max(history["accuracy"])


def main() -> None:
    """Print a line for each network."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("networks", nargs="*", choices=[*NETWORKS, []], default=[])
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args()
    print("| network | published | at the end | best of a run | seeds |\n|---|---|---|---|---|")
    for name in options.networks or NETWORKS:
        found = [accuracies(name, seed, progress=True) for seed in range(options.seeds)]
        end, best = (statistics.mean(column) for column in zip(*found, strict=True))
        print(f"| {name} | {PUBLISHED[name]} | {end:.1f} | {best:.1f} | {options.seeds} |", flush=True)


if __name__ == "__main__":
    main()
