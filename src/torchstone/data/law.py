"""Laws of binary data whose conditional probabilities are known, so that a classifier's true risk is too."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from torchstone.errors import SettingError

Classifier = Callable[[Tensor], Tensor]
"""From inputs (N, d) to class indices 0 or 1, shape (N,)."""


class BinaryLaw(Protocol):
    """A joint law of inputs and labels 0 or 1."""

    def sample(self, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Independent draws: inputs (N, d) in float64 and labels (N,)."""
        ...

    def eta(self, x: Tensor) -> Tensor:
        """P(Y = 1 | X = x) for inputs (N, d), shape (N,)."""
        ...

    def bayes_error(self) -> float:
        """R*, the risk of the best classifier: E[min(eta, 1 - eta)]."""
        ...


@dataclass(frozen=True)
class RiskEstimate:
    """A Monte Carlo estimate of a risk.

    Args:
        value: The estimate, unbiased.
        standard_error: Of the draws of inputs.
    """

    value: float
    standard_error: float


def estimate_risk(
    law: BinaryLaw, classifier: Classifier, count: int, generator: torch.Generator
) -> RiskEstimate:
    """True risk of a classifier by drawing inputs only; the labels are integrated out.

    R(h) = E[eta(X) 1{h(X) = 0} + (1 - eta(X)) 1{h(X) = 1}]. Its variance is that of counting errors less
    E[eta(1 - eta)], the noise of the labels (Rao-Blackwell).

    Args:
        law: The law of the data.
        classifier: Gives classes 0 or 1.
        count: Number of inputs to draw, at least 2.
        generator: Where they come from.

    Returns:
        The estimate and its standard error.

    Raises:
        SettingError: Fewer than two draws, or a classifier that gives anything but classes 0 and 1.
    """
    if count < 2:
        raise SettingError("estimate_risk needs at least two draws", str(count), "Pass for example 10000.")
    x, _ = law.sample(count, generator)
    chance = conditional_risk(law.eta(x), predicted(classifier, x))
    return RiskEstimate(float(chance.mean()), float(chance.std() / count**0.5))


def conditional_risk(eta: Tensor, classes: Tensor) -> Tensor:
    """Chance of an error at each input: eta where the class is 0, 1 - eta where it is 1."""
    return torch.where(classes == 1, 1 - eta, eta)


def predicted(classifier: Classifier, x: Tensor) -> Tensor:
    """The classifier's classes at x (N, d), checked.

    Raises:
        SettingError: Not one class 0 or 1 per input.
    """
    classes = classifier(x)
    if classes.shape != (len(x),) or not bool(((classes == 0) | (classes == 1)).all()):
        raise SettingError(
            f"A classifier must return one class, 0 or 1, per input: shape ({len(x)},)",
            f"shape {tuple(classes.shape)}, values such as {classes.flatten()[:3].tolist()}",
            "End it with .argmax(dim=1) or with a comparison.",
        )
    return classes
