r"""What does a small surrogate loss say about the 0-1 error? Calibration and psi-transforms of margin losses.

A margin loss :math:`\phi(y f(x))` stands in for the error of sign f. At a point with :math:`P(y = 1 | x) = \eta` the conditional risk is
:math:`C_\eta(a) = \eta \phi(a) + (1 - \eta) \phi(-a)`. For convex :math:`\phi` with :math:`\phi'(0) < 0` (and only then, among convex ones) the wrong sign
costs something, :math:`\psi(2\eta - 1) = \phi(0) - \inf_a C_\eta(a)`, and for every law and every f

.. math:: \psi(R(f) - R^*) \le R_\phi(f) - R_\phi^*.

The inequality is about the whole space of functions. Within a small class the minimiser of the surrogate risk may have a
larger error than the best member, however small its optimisation error.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from torchstone.bounds.risk_bound import check_at_least
from torchstone.errors import NumericalError, SettingError


@dataclass(frozen=True)
class MarginLoss:
    r"""A margin loss with its closed forms.

    Args:
        name: The field's name.
        loss: :math:`\phi`, elementwise on margins.
        psi: :math:`\psi` on [0, 1], elementwise, in the unit of the loss.
    """

    name: str
    loss: Callable[[Tensor], Tensor]
    psi: Callable[[Tensor], Tensor]

    def conditional_risk(self, eta: Tensor, score: Tensor) -> Tensor:
        r""":math:`\eta \phi(a) + (1 - \eta) \phi(-a)`."""
        return eta * self.loss(score) + (1 - eta) * self.loss(-score)

    def least_conditional_risk(self, eta: Tensor) -> Tensor:
        r""":math:`\inf_a C_\eta(a) = \phi(0) - \psi(|2\eta - 1|)`."""
        return self.loss(torch.zeros_like(eta)) - self.psi((2 * eta - 1).abs())

    def error_bound(self, excess: float) -> float:
        r"""Largest excess error :math:`R - R^*` that an excess surrogate risk allows: the inverse of :math:`\psi`, at most 1.

        Args:
            excess: :math:`R_\phi(f) - R_\phi^*`, not negative.

        Returns:
            The excess error; 1 where the surrogate excess says nothing.

        Raises:
            SettingError: A negative excess.

        Example:
            >>> round(HINGE.error_bound(0.03), 12), round(SQUARED.error_bound(0.04), 12)
            (0.03, 0.2)

        Source: Bartlett, Jordan & McAuliffe 2006, theorem 1.
        """
        from scipy.optimize import brentq

        excess = check_at_least("excess", excess)
        psi = lambda t: float(self.psi(torch.tensor(t, dtype=torch.float64)))
        if excess >= psi(1.0):
            return 1.0
        found: Any = brentq(lambda t: psi(t) - excess, 0.0, 1.0, xtol=1e-15)
        return float(found)


def _logistic_psi(t: Tensor) -> Tensor:
    # ln 2 minus the entropy of (1 + t) / 2, in nats.
    return (torch.special.xlogy(1 + t, 1 + t) + torch.special.xlogy(1 - t, 1 - t)) / 2


HINGE = MarginLoss("hinge", lambda m: (1 - m).clamp(min=0), lambda t: t)
LOGISTIC = MarginLoss("logistic", lambda m: torch.nn.functional.softplus(-m), _logistic_psi)
SQUARED = MarginLoss("squared", lambda m: (1 - m) ** 2, lambda t: t**2)
EXPONENTIAL = MarginLoss("exponential", lambda m: torch.exp(-m), lambda t: 1 - (1 - t**2).clamp(min=0).sqrt())
MARGIN_LOSSES = (HINGE, LOGISTIC, SQUARED, EXPONENTIAL)


def psi_transform(loss: Callable[[Tensor], Tensor], theta: float, reach: float = 50.0) -> float:
    r""":math:`\psi(\theta) = \phi(0) - \inf_a C_{(1+\theta)/2}(a)` of a convex margin loss, by numerical minimisation.

    Cost: some dozens of evaluations of the loss.
    Accuracy: about 1e-8 times the loss's slope, where the least value lies at a kink.

    Args:
        loss: Convex :math:`\phi`, elementwise.
        theta: :math:`2\eta - 1` in [0, 1].
        reach: Scores are searched in [-reach, reach]; for :math:`\theta` = 1 the infimum of some losses lies at infinity.

    Returns:
        The value, in the unit of the loss, at least 0.

    Raises:
        SettingError: An argument outside [0, 1].
        NumericalError: A loss that is not finite where it is searched.

    Example:
        >>> import torch
        >>> round(psi_transform(lambda m: (1 - m).clamp(min=0) ** 2, 0.3), 6)  # squared hinge: theta^2
        0.09

    Source: Bartlett, Jordan & McAuliffe 2006, definition 2 and theorem 2 (the formula for convex losses).
    """
    from scipy.optimize import minimize_scalar

    if not 0 <= theta <= 1:
        raise SettingError("theta = 2 eta - 1 must lie in [0, 1]", str(theta), "By symmetry take its size.")
    eta = (1 + theta) / 2

    def risk(score: float) -> float:
        signed = loss(torch.tensor([score, -score], dtype=torch.float64))
        # Not 0 * inf for a loss that explodes where the probability is 0.
        return sum(p * float(v) for p, v in zip((eta, 1 - eta), signed, strict=True) if p)

    at_zero = risk(0.0)
    solved: Any = minimize_scalar(risk, bounds=(-reach, reach), method="bounded", options={"xatol": 1e-10})
    least = min(float(solved.fun), at_zero)
    if not math.isfinite(at_zero - least):
        raise NumericalError(
            "psi_transform needs a finite loss", f"{least} at score {solved.x:g}", "Lower reach."
        )
    return at_zero - least


def is_calibrated(loss: Callable[[Tensor], Tensor], step: float = 1e-6) -> bool:
    r"""Whether a convex margin loss is classification-calibrated: differentiable at 0 with :math:`\phi'(0) < 0`.

    Slopes to the left and right of 0 are compared numerically.

    Args:
        loss: Convex :math:`\phi`, elementwise.
        step: Distance from 0 at which slopes are taken; kinks nearer than this are taken for kinks at 0.

    Returns:
        Whether a function whose surrogate risk tends to the least one also has an error that tends to the Bayes error, on every law.

    Raises:
        NumericalError: A loss that is not finite near 0.

    Example:
        >>> import torch
        >>> is_calibrated(torch.nn.functional.softplus), is_calibrated(lambda m: torch.nn.functional.softplus(-m))
        (False, True)
        >>> is_calibrated(lambda m: (-m).clamp(min=0))  # the perceptron's: a score of 0 is as good as any
        False

    Source: Bartlett, Jordan & McAuliffe 2006, theorem 2.
    """
    points = torch.tensor([-2 * step, -step, 0.0, step, 2 * step], dtype=torch.float64)
    values = loss(points)
    if not bool(torch.isfinite(values).all()):
        raise NumericalError(
            "is_calibrated needs a loss that is finite near 0", "NaN or infinity", "Check the loss."
        )
    slopes = values.diff() / step
    scale = float(slopes.abs().max())
    smooth = float(slopes[2] - slopes[1]) <= 1e-3 * scale
    return smooth and float(slopes[2]) < 0 and float(slopes[1]) < 0


@dataclass(frozen=True)
class SurrogateExcess:
    """Both sides of the inequality for one predictor under one discrete law.

    Args:
        error: Excess 0-1 risk above the Bayes risk.
        psi_of_error: Its psi-transform, which is at most `surrogate`.
        surrogate: Excess surrogate risk above the least one.
    """

    error: float
    psi_of_error: float
    surrogate: float


def surrogate_excess(loss: MarginLoss, law: Tensor, eta: Tensor, scores: Tensor) -> SurrogateExcess:
    r"""Excess error and excess surrogate risk of real-valued scores under a law on finitely many points, exactly.

    A score of 0 counts as an error whatever the label would suggest, as in the theory's convention for the worst case.

    Args:
        loss: The margin loss.
        law: Probabilities of the points (k,).
        eta: :math:`P(y = 1)` at each point, (k,).
        scores: f at each point, (k,).

    Returns:
        Both excesses.

    Raises:
        SettingError: Shapes that do not match, or numbers that are no probabilities.

    Example:
        >>> import torch
        >>> found = surrogate_excess(HINGE, torch.tensor([1.0]), torch.tensor([0.75]), torch.tensor([-1.0]))
        >>> found.error, found.surrogate
        (0.5, 1.0)

    Source: Bartlett, Jordan & McAuliffe 2006, theorem 1.
    """
    p, q, f = (t.detach().double().cpu() for t in (law, eta, scores))
    shapes = p.ndim == 1 and p.shape == q.shape == f.shape and len(p) > 0
    proper = (
        shapes
        and abs(float(p.sum()) - 1) < 1e-6
        and bool((p >= 0).all() and (q >= 0).all() and (q <= 1).all())
    )
    if not proper:
        raise SettingError(
            "surrogate_excess needs probabilities of k points that sum to 1, k values of eta in [0, 1] and k scores",
            f"shapes {tuple(law.shape)}, {tuple(eta.shape)}, {tuple(scores.shape)}, sum {float(law.sum()):.6g}",
            "Normalise the law.",
        )
    wrong = f * (2 * q - 1) <= 0
    error = float((p * (2 * q - 1).abs() * wrong).sum())
    excess = loss.conditional_risk(q, f) - loss.least_conditional_risk(q)
    psi = float(loss.psi(torch.tensor(min(1.0, error), dtype=torch.float64)))
    return SurrogateExcess(error, psi, float((p * excess).sum()))
