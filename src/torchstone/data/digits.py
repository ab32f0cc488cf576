"""Handwritten digits of 8x8 pixels, from the copy that scikit-learn carries."""

from __future__ import annotations

import numpy as np
import torch

from torchstone.data.label_noise import flip_labels
from torchstone.data.split import DataSplit

TRAIN_EXAMPLES = 1400
CENTRE, SPREAD = 5.0, 6.0
"""Mean and standard deviation of the grey levels (4.88 and 6.02), rounded."""


def digits(*, label_noise: float = 0.0, seed: int = 0) -> DataSplit:
    """1,400 training and 397 test images of shape (1, 8, 8), ten classes in equal shares.

    Grey levels 0..16 become (level - 5) / 6, of mean about 0 and standard deviation about 1. The constants are fixed, so
    nothing of the test set enters, and a perturbation of size 1/6 is one grey level whatever the seed.

    Args:
        label_noise: Share of the training labels that is replaced by a different class drawn uniformly; where is
            recorded in `flipped`. Without noise the same seed gives the same split with the right labels.
        seed: Of the split and of the noise.

    Returns:
        float32 images and int64 labels.

    Raises:
        SettingError: `label_noise` outside [0, 1].

    Example:
        >>> data = digits(label_noise=0.05)
        >>> data.train_x.shape, len(data.flipped)
        (torch.Size([1400, 1, 8, 8]), 70)

    Source: Alpaydin & Kaynak 1998, Optical Recognition of Handwritten Digits (the UCI test set, 1,797 images).
    """
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    images, labels = load_digits(return_X_y=True)
    train, test = train_test_split(
        np.arange(len(labels)), train_size=TRAIN_EXAMPLES, stratify=labels, random_state=seed
    )
    x = ((torch.from_numpy(images) - CENTRE) / SPREAD).float().reshape(-1, 1, 8, 8)
    y = torch.from_numpy(labels).long()
    noisy, flipped = flip_labels(y[train], label_noise, 10, torch.Generator().manual_seed(seed))
    return DataSplit(x[train], noisy, x[test], y[test], tuple("0123456789"), flipped)
