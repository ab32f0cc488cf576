import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from torchstone.data.digits import digits
from torchstone.errors import SettingError


def rows(x: torch.Tensor, y: torch.Tensor) -> list[tuple[int, ...]]:
    """Each example as its original grey levels and its label."""
    levels = x.double() * 6 + 5
    assert float((levels - levels.round()).abs().max()) < 1e-5
    return [(*map(int, row), int(label)) for row, label in zip(levels.round().flatten(1), y, strict=True)]


def test_every_image_of_scikit_learn_is_in_exactly_one_part():
    data = digits()
    images, labels = load_digits(return_X_y=True)
    published = [(*map(int, row), int(label)) for row, label in zip(images, labels, strict=True)]
    assert sorted(rows(*data.train) + rows(*data.test)) == sorted(published)
    assert len(data.train_x) == 1400
    assert data.test_x.shape == (397, 1, 8, 8)
    assert data.train_x.dtype == torch.float32


def test_classes_have_their_shares_in_both_parts():
    data = digits(seed=3)
    whole = np.bincount(load_digits(return_X_y=True)[1])
    # Stratified: within one example of the exact share.
    assert np.abs(torch.bincount(data.train_y).numpy() - whole * 1400 / 1797).max() < 1
    assert np.abs(torch.bincount(data.test_y).numpy() - whole * 397 / 1797).max() < 1


def test_pixels_are_standardised():
    x = digits().train_x
    assert abs(float(x.mean())) < 0.05
    assert abs(float(x.std()) - 1) < 0.05


def test_noise_changes_only_the_recorded_training_labels():
    clean, noisy = digits(seed=2), digits(seed=2, label_noise=0.1)
    assert torch.equal(clean.train_x, noisy.train_x)
    assert torch.equal((clean.train_y != noisy.train_y).nonzero().flatten(), noisy.flipped)
    assert len(noisy.flipped) == 140
    assert torch.equal(clean.test_y, noisy.test_y)
    assert len(clean.flipped) == 0


def test_the_seed_decides_everything():
    assert digits(seed=1, label_noise=0.1).sha256() == digits(seed=1, label_noise=0.1).sha256()
    assert digits(seed=1).sha256() != digits(seed=2).sha256()


def test_impossible_noise_is_refused():
    with pytest.raises(SettingError, match="label_noise"):
        digits(label_noise=2.0)
