"""A residual network of 18 layers and width 64 for 32x32 images, with synthetic data it has been trained on a little."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from torchstone.objectives import Classification
from torchstone.specimen import Specimen


class Block(nn.Module):
    """Two 3x3 convolutions with batch normalisation and a shortcut."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.first = nn.Sequential(
            nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()
        )
        self.second = nn.Sequential(nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False), nn.BatchNorm2d(outputs))
        changed = stride != 1 or inputs != outputs
        self.shortcut = (
            nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))
            if changed
            else nn.Identity()
        )

    def forward(self, x: Tensor) -> Tensor:
        """The block's output."""
        return torch.relu(self.second(self.first(x)) + self.shortcut(x))


def resnet18(width: int = 64, classes: int = 10) -> nn.Module:
    """11.2 million parameters at width 64 (He et al. 2016, the variant for small images)."""
    layers: list[nn.Module] = [
        nn.Conv2d(3, width, 3, 1, 1, bias=False),
        nn.BatchNorm2d(width),
        nn.ReLU(),
    ]
    before = width
    for stage in range(4):
        for block in range(2):
            after = width * 2**stage
            layers.append(Block(before, after, 2 if stage and not block else 1))
            before = after
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(before, classes))


def build(images: int = 16, steps: int = 20) -> Specimen:
    """The network after a few steps on noisy prototypes of ten classes, with `images` of them as its data."""
    with torch.random.fork_rng():
        torch.set_rng_state(torch.Generator().manual_seed(0).get_state())
        model = resnet18()
        prototypes = torch.randn(10, 3, 32, 32)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.02, momentum=0.9)
        for _ in range(steps):
            labels = torch.randint(10, (32,))
            optimizer.zero_grad()
            outputs = model(prototypes[labels] + 2 * torch.randn(32, 3, 32, 32))
            nn.functional.cross_entropy(outputs, labels).backward()
            optimizer.step()
        labels = torch.arange(images) % 10
        data = (prototypes[labels] + 2 * torch.randn(images, 3, 32, 32), labels)
    return Specimen(model.eval(), Classification(), data, name="resnet18", batch_size=images)
