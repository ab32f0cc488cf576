r"""How much of random labels does a training procedure fit? A lower bound on the complexity of what it can reach.

For networks the inner supremum of the Rademacher complexity is out of reach, but any trainer that is given signs
:math:`\sigma` and returns a member :math:`h_\sigma` of the class gives

.. math:: \frac1n \sum_i \sigma_i h_\sigma(x_i) \le \sup_{h \in H} \frac1n \sum_i \sigma_i h(x_i),

so its mean is at most the complexity, however badly or randomly it trains. **It bounds from below only**: it can show
that a class is too rich for a bound to be of use, and never that it is poor enough.

The supremum over a class with values in [-1, 1] moves by at most 2/n when a sign flips, so the mean of m suprema stays within
:math:`\sqrt{2 \ln(1/\alpha) / (mn)}` of its expectation from above with probability :math:`1 - \alpha`. The mean of m *trained* values is
below that mean of suprema, hence

.. math:: \hat{\mathfrak R}(H) \ge \frac1m \sum_{k=1}^m \frac1n \sum_i \sigma^k_i h_{\sigma^k}(x_i) - \sqrt{\frac{2 \ln (1/\alpha)}{mn}}

with that probability, already for one training, and whatever the spread over trainings.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from torchstone.bounds.interval import check_confidence
from torchstone.bounds.rademacher import random_signs
from torchstone.bounds.risk_bound import check_count
from torchstone.errors import NumericalError, SettingError


@dataclass(frozen=True)
class TrainedRademacher:
    """What a trainer reached on random signs: a lower bound on the class's Rademacher complexity.

    Args:
        value: Mean correlation of the trained outputs with their signs; its expectation is at most the complexity.
        lower: Limit that the complexity is above with probability `confidence` over the signs.
        confidence: Of `lower`.
        correlations: One a training, (m,), in [-1, 1]; for outputs of +-1 it is 1 - 2 x the error on random labels.
        n: Examples.
    """

    value: float
    lower: float
    confidence: float
    correlations: tuple[float, ...]
    n: int


def trained_rademacher(
    train: Callable[[Tensor], Tensor],
    n: int,
    generator: torch.Generator,
    draws: int = 5,
    confidence: float = 0.95,
) -> TrainedRademacher:
    r"""A lower bound on the complexity of a class, by fitting random signs.

    Cost: `draws` trainings, handed out in one call so that they can be trained as one.
    Bias: low by what training leaves unfitted; the statistical limit `lower` is on top of it.

    Args:
        train: Maps signs (m, n) of :math:`\pm 1`, float64, to outputs (m, n) in [-1, 1] on the same n inputs: row k of a member
            of the class trained on labels sign[k]. The class must not depend on the signs: a fixed architecture
            with a fixed range of outputs (`sign`, `tanh`).
        n: Number of inputs.
        generator: The source of the signs; the trainer has its own randomness.
        draws: m, sign vectors and trainings.
        confidence: Of the lower limit.

    Returns:
        The lower bound.

    Raises:
        SettingError: Outputs of the wrong shape or outside [-1, 1], or counts below 1.
        NumericalError: Outputs that are NaN.

    Example:
        >>> import torch
        >>> memorises = lambda signs: signs
        >>> found = trained_rademacher(memorises, n=1000, generator=torch.Generator().manual_seed(0))
        >>> found.value, round(found.lower, 3)
        (1.0, 0.965)

    Source: Zhang et al. 2017, section 2.2 (fitting random labels); the inequality is the definition in Bartlett & Mendelson 2002;
    the limit is McDiarmid 1989 applied to the mean of suprema.
    """
    check_count("n", n)
    check_count("draws", draws)
    check_confidence(confidence)
    signs = random_signs(draws, n, generator)
    outputs = train(signs.clone())
    if outputs.shape != signs.shape:
        raise SettingError(
            "train() must return one output an example and a sign vector",
            f"shape {tuple(outputs.shape)} for signs {tuple(signs.shape)}",
            "Return the outputs on the training inputs, shape (m, n).",
        )
    outputs = outputs.detach().double().cpu()
    if bool(torch.isnan(outputs).any()):
        raise NumericalError(
            "trained_rademacher needs outputs that are numbers", "NaN", "Lower the learning rate."
        )
    if bool((outputs.abs() > 1).any()):
        raise SettingError(
            "trained_rademacher needs outputs in [-1, 1]",
            f"an output of size {float(outputs.abs().max()):.3g}",
            "Take the sign, or squash the outputs.",
        )
    correlations = (signs * outputs).mean(dim=1)
    value = float(correlations.mean())
    reach = math.sqrt(2 * math.log(1 / (1 - confidence)) / (draws * n))
    return TrainedRademacher(value, value - reach, confidence, tuple(correlations.tolist()), n)
