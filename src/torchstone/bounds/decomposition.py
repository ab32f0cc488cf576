"""Where the excess risk comes from: the class, the sample, or the training."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from torchstone.errors import NumericalError, SettingError

_ROUNDING = 1e-12


@dataclass(frozen=True)
class RiskDecomposition:
    r"""Excess risk of a trained predictor in three non-negative parts that add up to it.

    With the Bayes risk :math:`R^*`, the best predictor of the class :math:`h^* = \arg\min_{h \in H} R(h)`, an empirical
    minimiser :math:`\hat h` and the trained predictor h in H:

    - approximation :math:`R(h^*) - R^*`: of the class and the law alone; no sample enters it;
    - estimation :math:`\min(R(\hat h), R(h)) - R(h^*)`;
    - optimisation :math:`\max(R(h) - R(\hat h), 0)`.

    The textbook's optimisation error :math:`R(h) - R(\hat h)` (Bottou & Bousquet 2008, section 2.2) is negative whenever
    stopping short of the empirical minimum generalised better. That part is `regularisation_gain` here: the
    textbook's estimation error is `estimation + regularisation_gain`, its optimisation error
    `optimisation - regularisation_gain`, and the sum is the same.

    Args:
        bayes_risk: Risk of the best predictor of all.
        best_in_class_risk: Risk of the best predictor of the class.
        erm_risk: Risk of the empirical minimiser.
        trained_risk: Risk of the trained predictor.
    """

    bayes_risk: float
    best_in_class_risk: float
    erm_risk: float
    trained_risk: float

    @property
    def approximation(self) -> float:
        """Risk that no predictor of the class could avoid."""
        return max(self.best_in_class_risk - self.bayes_risk, 0.0)

    @property
    def estimation(self) -> float:
        """Risk from having seen a sample instead of the law."""
        return max(min(self.erm_risk, self.trained_risk) - self.best_in_class_risk, 0.0)

    @property
    def optimisation(self) -> float:
        """Risk from not having reached the empirical minimum."""
        return max(self.trained_risk - self.erm_risk, 0.0)

    @property
    def regularisation_gain(self) -> float:
        """Risk saved by not having reached the empirical minimum; zero where there is an optimisation error."""
        return max(self.erm_risk - self.trained_risk, 0.0)

    @property
    def excess(self) -> float:
        """Risk above the Bayes risk."""
        return self.trained_risk - self.bayes_risk


def risk_decomposition(
    bayes_risk: float, risks_of_class: Tensor, empirical_risks_of_class: Tensor, trained_risk: float
) -> RiskDecomposition:
    r"""Splits :math:`R(h) - R^*` by enumeration of a finite class.

    Where several predictors tie for the least empirical risk, the one whose risk is nearest to the trained one's is
    taken: a trained predictor that is itself an empirical minimiser has then no optimisation error.

    Cost: one pass over the class. Exact for exact risks; with risks from a fresh sample of m examples each part
    carries their sampling error, and `best_in_class_risk` is biased down by the search for a minimum.

    Args:
        bayes_risk: :math:`R^*`.
        risks_of_class: True risks (H,).
        empirical_risks_of_class: Empirical risks (H,), the same order.
        trained_risk: True risk of the trained predictor, which must belong to the class.

    Returns:
        The four risks; the parts are its properties.

    Raises:
        SettingError: Shapes that do not match, or risks out of order (a trained predictor outside the class, a
            "Bayes risk" that some predictor beats).
        NumericalError: A risk is NaN or infinite.

    Example:
        >>> parts = risk_decomposition(0.1, torch.tensor([0.2, 0.3]), torch.tensor([0.25, 0.2]), 0.3)
        >>> [round(p, 6) for p in (parts.approximation, parts.estimation, parts.optimisation)]
        [0.1, 0.1, 0.0]

    Source: Bottou & Bousquet 2008, section 2.2; Devroye, Gyorfi & Lugosi 1996, section 12.1.
    """
    if (
        risks_of_class.ndim != 1
        or risks_of_class.shape != empirical_risks_of_class.shape
        or not len(risks_of_class)
    ):
        raise SettingError(
            "risk_decomposition needs true and empirical risks of the same predictors, shape (H,), H >= 1",
            f"{tuple(risks_of_class.shape)} and {tuple(empirical_risks_of_class.shape)}",
            "Pass one risk per predictor.",
        )
    risks, empirical = risks_of_class.double(), empirical_risks_of_class.double()
    everything = torch.cat([risks, empirical, torch.tensor([bayes_risk, trained_risk], dtype=torch.float64)])
    if not torch.isfinite(everything).all():
        raise NumericalError(
            "Risks must be finite", "NaN or infinity", "Clip the loss or drop the predictor."
        )
    best = float(risks.min())
    minimisers = risks[empirical == empirical.min()]
    erm = float(minimisers[(minimisers - trained_risk).abs().argmin()])
    slack = _ROUNDING * max(1.0, abs(bayes_risk), abs(best))
    if best < bayes_risk - slack or trained_risk < best - slack:
        raise SettingError(
            "Risks must be ordered: Bayes risk <= least risk of the class <= risk of the trained predictor",
            f"{bayes_risk}, {best}, {trained_risk}",
            "Check that the trained predictor is in the class and that all risks are under the same law.",
        )
    return RiskDecomposition(bayes_risk, best, erm, trained_risk)


def bayes_risk_of_law(joint: Tensor) -> float:
    r"""Least error of any classifier under a known law: :math:`R^* = \sum_x (p(x) - \max_c p(x, c))`.

    Args:
        joint: Probabilities :math:`p(x, c)` (X, C), summing to 1.

    Returns:
        The Bayes risk for the 0-1 loss.

    Raises:
        SettingError: Not a probability table.
    """
    joint = _checked_law(joint)
    return float((joint.sum(dim=1) - joint.amax(dim=1)).sum())


def risks_under_law(predictions: Tensor, joint: Tensor) -> Tensor:
    r"""Exact error of each predictor of a finite class under a known law: :math:`\sum_x (p(x) - p(x, h(x)))`.

    Args:
        predictions: Class index of each predictor at each point, (H, X), integer.
        joint: Probabilities :math:`p(x, c)` (X, C), summing to 1.

    Returns:
        Risks (H,) in float64.

    Raises:
        SettingError: Not a probability table, or predictions of another number of points.
    """
    joint = _checked_law(joint)
    if predictions.ndim != 2 or predictions.shape[1] != len(joint):
        raise SettingError(
            f"predictions must have shape (H, {len(joint)}), one column a point of the law",
            str(tuple(predictions.shape)),
            "Evaluate every predictor at every point.",
        )
    hit = joint.T.gather(0, predictions.long())
    return (joint.sum(dim=1) - hit).sum(dim=1)


def empirical_risks(predictions: Tensor, points: Tensor, labels: Tensor) -> Tensor:
    """Share of the sample that each predictor of a finite class gets wrong.

    Args:
        predictions: Class index of each predictor at each point of the law, (H, X).
        points: Indices of the sampled points, (n,).
        labels: Their labels, (n,).

    Returns:
        Empirical risks (H,) in float64.

    Raises:
        SettingError: An empty sample, or points and labels that do not pair up.
    """
    if points.ndim != 1 or points.shape != labels.shape or not len(points):
        raise SettingError(
            "A sample needs points and labels of one shape (n,), n >= 1",
            f"{tuple(points.shape)} and {tuple(labels.shape)}",
            "Draw at least one example.",
        )
    return (predictions[:, points] != labels).double().mean(dim=1)


def _checked_law(joint: Tensor) -> Tensor:
    joint = joint.double()
    good = (
        joint.ndim == 2 and bool((joint >= 0).all()) and math.isclose(float(joint.sum()), 1.0, abs_tol=1e-9)
    )
    if not good:
        raise SettingError(
            "A law must be a table of probabilities (X, C) that sum to 1",
            f"shape {tuple(joint.shape)}, sum {float(joint.sum())}",
            "Normalise the table.",
        )
    return joint
