"""MNIST-1D's published accuracies: the quickest network in full, the others for a step."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest
import torch

from torchstone.data.mnist1d import mnist1d
from torchstone.training.evaluation import cross_entropy
from torchstone.training.fit import fit

SCRIPT = Path(__file__).parents[2] / "examples" / "mnist1d_table.py"


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("mnist1d_table", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_logistic_regression_is_within_three_points_of_the_published_accuracy(script: ModuleType) -> None:
    end, best = script.accuracies("logistic", 0)
    assert abs(end - script.PUBLISHED["logistic"]) <= 3
    assert best >= end


# The published sizes: greydanus/mnist1d, notebooks/models.py prints them.
@pytest.mark.parametrize(
    ("name", "parameters"), [("logistic", 410), ("mlp", 78858), ("cnn", 5210), ("gru", 5134)]
)
def test_the_networks_have_the_published_sizes_and_train(
    script: ModuleType, name: str, parameters: int
) -> None:
    model = script.NETWORKS[name]()
    assert sum(p.numel() for p in model.parameters()) == parameters
    x, y = mnist1d().train
    history = fit(
        model,
        cross_entropy,
        x.flatten(1),
        y,
        optimizer=lambda p: torch.optim.Adam(p, lr=0.01),
        batch_size=100,
        steps=41,
        generator=torch.Generator(),
    )
    assert history["train_loss"][1] < history["train_loss"][0]
