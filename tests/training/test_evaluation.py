import pytest
import torch
from torch import nn
from torch.nn import functional

from torchstone.errors import ObjectiveError, SettingError
from torchstone.specimens.networks import mlp
from torchstone.training.evaluation import cross_entropy, mean_over, misclassified, squared_error


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


MODEL = mlp([5, 20, 4], generator=generator()).double()
X = torch.randn(1003, 5, generator=generator(1), dtype=torch.float64)
Y = torch.randint(4, (1003,), generator=generator(2))


@pytest.mark.parametrize("batch_size", [1, 64, 1003, 5000])
def test_the_mean_does_not_depend_on_the_batches(batch_size):
    whole = float(functional.cross_entropy(MODEL(X), Y).detach())
    assert abs(mean_over(MODEL, cross_entropy, X, Y, batch_size) - whole) < 1e-12


def test_float32_losses_are_summed_in_float64():
    # In float32, adding 1e-3 a million times to a running sum drifts by about 1%.
    x = torch.full((1_000_000,), 1e-3)
    mean = mean_over(nn.Identity(), lambda model, x, _: model(x), x, x, batch_size=100)
    assert mean == pytest.approx(1e-3, rel=1e-7)


def test_each_function_gives_its_definition():
    outputs = MODEL(X)
    log_probabilities = outputs - outputs.logsumexp(1, keepdim=True)
    assert torch.allclose(cross_entropy(MODEL, X, Y), -log_probabilities[torch.arange(1003), Y])
    assert misclassified(MODEL, X, outputs.argmax(1)).sum() == 0
    assert misclassified(MODEL, X, (outputs.argmax(1) + 1) % 4).tolist() == [1.0] * 1003
    targets = torch.randn(1003, 4, generator=generator(3), dtype=torch.float64)
    assert torch.allclose(squared_error(MODEL, X, targets), ((outputs - targets) ** 2).sum(1) / 4)
    assert torch.allclose(
        squared_error(nn.Flatten(0), X[:, :1], targets[:, 0]), (X[:, 0] - targets[:, 0]) ** 2
    )


def test_nothing_is_recorded_and_the_mode_stays():
    model = nn.Sequential(nn.Dropout(0.5), nn.Linear(5, 4).double()).train()
    mean_over(model, cross_entropy, X[:10], Y[:10])
    assert model.training
    assert all(parameter.grad is None for parameter in model.parameters())


def test_targets_never_broadcast_to_pairs():
    with pytest.raises(ObjectiveError, match=r"outputs' shape \(1003, 4\)"):
        squared_error(MODEL, X, torch.zeros(1003))


@pytest.mark.parametrize(
    ("x", "y", "batch_size", "message"),
    [
        (X[:0], Y[:0], 10, "at least one"),
        (X, Y[:5], 10, "same number of examples"),
        (X, torch.tensor(0), 10, "same number of examples"),
        (X, Y, 0, "batch_size must be at least 1"),
    ],
)
def test_impossible_data_are_refused(x, y, batch_size, message):
    with pytest.raises(SettingError, match=message):
        mean_over(MODEL, cross_entropy, x, y, batch_size)


def test_a_mean_loss_is_refused():
    with pytest.raises(ObjectiveError, match=r'shape \(10,\).*reduction="none"'):
        mean_over(MODEL, lambda model, x, y: cross_entropy(model, x, y).mean(), X[:10], Y[:10])
