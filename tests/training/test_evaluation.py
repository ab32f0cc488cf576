import pytest
import torch
from torch import nn
from torch.nn import functional

from torchstone.errors import ObjectiveError, SettingError
from torchstone.specimens.networks import mlp
from torchstone.training.evaluation import cross_entropy, evaluate, mean_over, misclassified, squared_error


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


def test_losses_come_back_in_order():
    per_example = evaluate(MODEL, cross_entropy, X.float().double(), Y, batch_size=64)
    whole = cross_entropy(MODEL, X.float().double(), Y).detach()
    assert per_example.shape == (1003,)
    assert torch.allclose(per_example, whole, rtol=0, atol=1e-13)
    assert not per_example.requires_grad


def test_dropout_is_off_and_every_mode_is_put_back():
    frozen, live = nn.BatchNorm1d(5).double().eval(), nn.Dropout(0.5)
    model = nn.Sequential(live, frozen, MODEL)
    model.training = True
    quiet = mean_over(nn.Sequential(frozen, MODEL).eval(), cross_entropy, X, Y)
    assert mean_over(model, cross_entropy, X, Y) == quiet
    assert (model.training, live.training, frozen.training) == (True, True, False)
    with pytest.raises(ZeroDivisionError):
        mean_over(model, lambda *_: X / (1 // 0), X, Y)
    assert (model.training, live.training, frozen.training) == (True, True, False)


def test_targets_never_broadcast_to_pairs():
    with pytest.raises(ObjectiveError, match=r"outputs' shape \(1003, 4\)"):
        squared_error(MODEL, X, torch.zeros(1003))


@pytest.mark.parametrize(
    ("x", "y", "batch_size", "message"),
    [
        (X[:0], Y[:0], 10, "at least one"),
        (X, Y[:5], 10, "same number of examples"),
        (X, torch.tensor(0), 10, "same number of examples"),
        (X, Y, 0, "batch_size must be a whole number, at least 1"),
    ],
)
def test_impossible_data_are_refused(x, y, batch_size, message):
    with pytest.raises(SettingError, match=message):
        mean_over(MODEL, cross_entropy, x, y, batch_size)


def test_a_mean_loss_is_refused():
    with pytest.raises(ObjectiveError, match=r'shape \(10,\).*reduction="none"'):
        mean_over(MODEL, lambda model, x, y: cross_entropy(model, x, y).mean(), X[:10], Y[:10])
