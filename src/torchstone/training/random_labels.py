r"""Random labels: drawing them, and what fitting them says of the capacity that a training procedure reaches."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from torchstone.errors import SettingError


@dataclass(frozen=True)
class FittedRandomLabels:
    r"""How much of m sets of random labels was fitted, on a scale from chance (0) to all (1).

    Args:
        value: Mean of :math:`(C a_k - 1) / (C - 1)` over the trainings, a_k the accuracy on the k-th random labels.
        lower: Limit that the capacity is above with probability `confidence` over the labels.
        confidence: Of `lower`.
        accuracies: a_k, (m,).
    """

    value: float
    lower: float
    confidence: float
    accuracies: tuple[float, ...]


def random_labels(count: int, classes: int, draws: int, generator: torch.Generator) -> Tensor:
    """Independent uniform labels, (draws, count) of int64.

    Raises:
        SettingError: Fewer than one example or draw, or fewer than two classes.
    """
    if count < 1 or draws < 1 or classes < 2:
        raise SettingError(
            "Random labels need at least one example, one draw and two classes",
            f"{count} examples, {draws} draws, {classes} classes",
            "Pass larger numbers.",
        )
    return torch.randint(classes, (draws, count), generator=generator)


def fitted_random_labels(
    accuracies: Tensor, count: int, classes: int, confidence: float = 0.95
) -> FittedRandomLabels:
    r"""A lower bound on how well the networks that a trainer can reach fit random labels.

    For labels :math:`\sigma` uniform over C classes,

    .. math:: \mathrm{cap} = E_\sigma \max_h \frac{C a_\sigma(h) - 1}{C - 1}, \qquad a_\sigma(h) = \frac1n \sum_i [h(x_i) = \sigma_i],

    is the Rademacher complexity of the class for C = 2 (with outputs :math:`\pm 1`), and 0 for a fixed function. What training reached is at most
    the maximum, so the mean over trainings is below cap in expectation. One label changes :math:`\max_h a_\sigma` by at most 1/n, hence

    .. math:: \mathrm{cap} \ge \frac{C}{C-1} \Bigl(\bar a - \sqrt{\frac{\ln (1/\alpha)}{2 m n}} - \frac1C\Bigr)

    with probability :math:`1 - \alpha`, whatever the spread over trainings.

    Bias: low by what training leaves unfitted.

    Args:
        accuracies: On the random labels that each was trained on, (m,), in [0, 1].
        count: n.
        classes: C.
        confidence: :math:`1 - \alpha`.

    Returns:
        The mean and the limit.

    Raises:
        SettingError: An argument out of its range.

    Example:
        >>> import torch
        >>> fitted = fitted_random_labels(torch.tensor([1.0, 0.9]), count=1000, classes=10)
        >>> round(fitted.value, 4), round(fitted.lower, 4)
        (0.9444, 0.914)

    Source: Zhang et al. 2017, section 2.2; McDiarmid 1989 for the deviation.
    """
    values = accuracies.double()
    good = values.ndim == 1 and len(values) > 0 and bool(((values >= 0) & (values <= 1)).all())
    if not good or count < 1 or classes < 2 or not 0 < confidence < 1:
        raise SettingError(
            "Needs accuracies (m,) in [0, 1], an example, two classes, and a confidence in (0, 1)",
            f"shape {tuple(values.shape)}, {count} examples, {classes} classes, confidence={confidence}",
            "Pass the share of random labels that each training fitted.",
        )
    scaled = lambda accuracy: (classes * accuracy - 1) / (classes - 1)
    mean = float(values.mean())
    away = math.sqrt(-math.log(1 - confidence) / (2 * len(values) * count))
    return FittedRandomLabels(scaled(mean), scaled(mean - away), confidence, tuple(values.tolist()))


def epochs_to_fit(accuracies: Tensor, level: float) -> Tensor:
    """The first epoch, from 1, after which the accuracy is at least `level`; NaN where none is.

    Args:
        accuracies: After each epoch, (K, E).
        level: In [0, 1].

    Returns:
        (K,), float64.

    Example:
        >>> import torch
        >>> epochs_to_fit(torch.tensor([[0.2, 0.9, 1.0], [0.1, 0.2, 0.3]]), 0.9).tolist()
        [2.0, nan]
    """
    reached = accuracies >= level
    first = reached.double().argmax(1).double() + 1
    return torch.where(reached.any(1), first, torch.nan)
