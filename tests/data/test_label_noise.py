import pytest
import torch
from scipy.stats import chisquare

from torchstone.data.label_noise import flip_labels
from torchstone.errors import SettingError


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("fraction", [0.0, 0.05, 0.3, 1.0])
def test_exactly_the_recorded_labels_are_wrong(fraction):
    labels = torch.randint(7, (1003,), generator=generator(1))
    noisy, flipped = flip_labels(labels, fraction, 7, generator())
    assert torch.equal((noisy != labels).nonzero().flatten(), flipped)
    assert len(flipped) == round(1003 * fraction)
    assert 0 <= int(noisy.min()) <= int(noisy.max()) <= 6


def test_each_other_class_and_each_example_is_as_likely():
    labels = torch.zeros(40_000, dtype=torch.int64)
    noisy, flipped = flip_labels(labels, 0.5, 5, generator())
    assert chisquare(torch.bincount(noisy[flipped], minlength=5)[1:].numpy()).pvalue > 0.001
    assert chisquare(torch.histc(flipped.double(), 20, 0, 40_000).numpy()).pvalue > 0.001


def test_two_classes_exchange_and_the_input_is_left_alone():
    labels = torch.tensor([0, 1, 1])
    noisy, _ = flip_labels(labels, 1.0, 2, generator())
    assert noisy.tolist() == [1, 0, 0]
    assert labels.tolist() == [0, 1, 1]


@pytest.mark.parametrize(
    ("fraction", "classes", "message"),
    [
        (-0.1, 3, "label_noise must lie in"),
        (1.5, 3, "label_noise must lie in"),
        (float("nan"), 3, "label_noise must lie in"),
        (0.1, 1, "at least two classes"),
    ],
)
def test_impossible_noise_is_refused(fraction, classes, message):
    with pytest.raises(SettingError, match=message):
        flip_labels(torch.zeros(4, dtype=torch.int64), fraction, classes, generator())
