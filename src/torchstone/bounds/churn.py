"""How often two trainings of one recipe disagree."""

from __future__ import annotations

import torch
from torch import Tensor

from torchstone.errors import SettingError


def churn(predictions: Tensor) -> Tensor:
    r"""How often two trainings disagree: for each example, the share of pairs of runs that predict different classes.

    :math:`1 - \sum_c \binom{k_c}{2} / \binom K2` with :math:`k_c` the runs that predict class c: the unbiased estimate of
    the probability that two further runs disagree.

    Cost: O(K N).

    Args:
        predictions: Predicted classes (K, N), K >= 2, whole numbers from 0.

    Returns:
        (N,), float64; its mean is the expected churn.

    Raises:
        SettingError: Fewer than two runs, or predictions that are no classes.

    Example:
        >>> import torch
        >>> churn(torch.tensor([[0, 1], [0, 2], [0, 1]])).tolist()
        [0.0, 0.6666666666666667]

    Source: Milani Fard, Cormier, Canini & Gupta 2016, section 2.
    """
    good = predictions.ndim == 2 and len(predictions) >= 2 and not predictions.is_floating_point()
    if not good or (predictions.numel() and int(predictions.min()) < 0):
        raise SettingError(
            "churn needs predicted classes (K, N) of at least 2 runs, whole numbers from 0",
            f"{predictions.dtype} of shape {tuple(predictions.shape)}",
            "Take the argmax of the scores.",
        )
    runs = len(predictions)
    same = torch.zeros(predictions.shape[1], dtype=torch.float64)
    for one in predictions.cpu():
        same += (predictions.cpu() == one).sum(0)
    return 1 - (same - runs) / (runs * (runs - 1))
