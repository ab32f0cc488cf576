"""Planted wrong labels, and the record of where they are."""

from __future__ import annotations

import torch
from torch import Tensor

from torchstone.errors import SettingError


def flip_labels(
    labels: Tensor, fraction: float, classes: int, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Labels of which a fraction is replaced by a uniformly drawn different class (symmetric noise).

    Exactly round(fraction * N) labels change, so a network that memorises them all has that training error less.

    Args:
        labels: Class indices (N,).
        fraction: Share of wrong labels, in [0, 1].
        classes: Number of classes, at least 2.
        generator: Where the choice comes from.

    Returns:
        The new labels (N,) and the increasing indices of the wrong ones.

    Raises:
        SettingError: A fraction outside [0, 1] or fewer than two classes.

    Example:
        >>> labels = torch.arange(10) % 2
        >>> noisy, flipped = flip_labels(labels, 0.2, 2, torch.Generator().manual_seed(0))
        >>> torch.equal(noisy != labels, torch.isin(torch.arange(10), flipped)), len(flipped)
        (True, 2)

    Source: Zhang, Bengio, Hardt, Recht & Vinyals 2017, section 2.1 (partially corrupted labels; theirs may redraw the
        right class, these are always wrong).
    """
    if not 0 <= fraction <= 1:
        raise SettingError("label_noise must lie in [0, 1]", repr(fraction), "Pass for example 0.05.")
    if classes < 2:
        raise SettingError("Wrong labels need at least two classes", str(classes), "Leave label_noise at 0.")
    count = round(fraction * len(labels))
    flipped = torch.randperm(len(labels), generator=generator)[:count].sort().values
    # Adding 1..C-1 modulo C reaches each of the other classes alike.
    shift = torch.randint(1, classes, (count,), generator=generator)
    noisy = labels.clone()
    noisy[flipped] = (labels[flipped] + shift) % classes
    return noisy, flipped
