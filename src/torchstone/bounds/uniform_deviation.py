r"""Over a whole class, how far do sample averages stray from their expectations, and what does that cost the minimiser?

For a finite class, Hoeffding's inequality and a union over its members give, with probability at least :math:`1 - \delta`,

.. math:: \sup_{h \in H} |R(h) - \hat R(h)| \le c \sqrt{\frac{\ln(2 |H| / \delta)}{2n}}

for losses in [0, c], and for the empirical minimiser :math:`\hat h` and the best member :math:`h^*`

.. math:: R(\hat h) - R(h^*) \le 2 \sup_{h \in H} |R(h) - \hat R(h)|.

The factor 2 is needed: :math:`\hat h` may look better than it is while :math:`h^*` looks worse, each by the supremum.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from torchstone.bounds.risk_bound import RiskBound, check_at_least, check_count, check_delta, check_mean_loss
from torchstone.errors import NumericalError, SettingError

_ASSUMES = (
    "Independent examples of one law, losses in [0, largest_loss], and a class fixed before the sample."
)


@dataclass(frozen=True)
class UniformDeviation:
    """How one sample misjudges a class.

    Args:
        supremum: Largest gap between risk and empirical risk over the class.
        excess: Risk of the empirical minimiser above the least risk; of tied minimisers the one with the largest risk.
        minimiser: Index of that minimiser.
        best: Index of a member of least risk.
    """

    supremum: float
    excess: float
    minimiser: int
    best: int


def uniform_deviation(risks: Tensor, empirical_risks: Tensor) -> UniformDeviation:
    """Supremum of the deviations over a finite class, and what empirical risk minimisation loses by them.

    Cost: one pass over the class. Exact for exact risks.

    Args:
        risks: True risks (H,).
        empirical_risks: Empirical risks (H,), the same order.

    Returns:
        The deviation; `excess` is at most twice `supremum`.

    Raises:
        SettingError: Shapes that do not match, or an empty class.
        NumericalError: Risks that are not finite.

    Example:
        >>> import torch
        >>> found = uniform_deviation(torch.tensor([0.45, 0.55]), torch.tensor([0.51, 0.49]))
        >>> round(found.supremum, 6), round(found.excess, 6)
        (0.06, 0.1)

    Source: Vapnik & Chervonenkis 1971; Devroye, Gyorfi & Lugosi 1996, lemma 8.2.
    """
    if risks.ndim != 1 or risks.shape != empirical_risks.shape or len(risks) == 0:
        raise SettingError(
            "uniform_deviation needs a risk and an empirical risk for each member",
            f"shapes {tuple(risks.shape)} and {tuple(empirical_risks.shape)}",
            "Pass two vectors (H,) in the same order.",
        )
    true, seen = risks.detach().double().cpu(), empirical_risks.detach().double().cpu()
    if not bool(torch.isfinite(true).all() and torch.isfinite(seen).all()):
        raise NumericalError("uniform_deviation needs finite risks", "NaN or infinity", "Check the losses.")
    tied = torch.nonzero(seen == seen.min())[:, 0]
    minimiser = int(tied[true[tied].argmax()])
    best = int(true.argmin())
    return UniformDeviation(
        float((true - seen).abs().max()), float(true[minimiser] - true[best]), minimiser, best
    )


def finite_class_deviation(cardinality: int, n: int, delta: float = 0.05, largest_loss: float = 1.0) -> float:
    r""":math:`c \sqrt{\ln(2|H|/\delta) / (2n)}`: exceeded by the supremum of deviations with probability at most :math:`\delta`.

    Args:
        cardinality: Members of the class; they may be very many, the bound grows with the logarithm.
        n: Number of independent examples.
        delta: Probability of failure.
        largest_loss: c, losses lie in [0, c].

    Returns:
        The bound on the supremum, in the unit of the loss; twice it bounds the excess risk of the empirical minimiser.

    Raises:
        SettingError: An argument out of its range.

    Example:
        >>> round(finite_class_deviation(1000, n=10_000), 5)
        0.02302

    Source: Hoeffding 1963, theorem 2, and a union bound; Mohri, Rostamizadeh & Talwalkar 2018, theorem 2.13.
    """
    scale = check_at_least("largest_loss", largest_loss, strictly=True)
    log = math.log(2) + math.log(check_count("cardinality", cardinality)) - math.log(check_delta(delta))
    return scale * math.sqrt(log / (2 * check_count("n", n)))


def finite_class_sample_size(
    cardinality: int, deviation: float, delta: float = 0.05, largest_loss: float = 1.0
) -> int:
    r"""Examples that keep the supremum of deviations within `deviation`: :math:`\lceil c^2 \ln(2|H|/\delta) / (2 \epsilon^2) \rceil`.

    Args:
        cardinality: Members of the class.
        deviation: :math:`\epsilon`, positive, in the unit of the loss. For an excess risk of at most e pass e / 2.
        delta: Probability of failure.
        largest_loss: c.

    Returns:
        The number of examples.

    Raises:
        SettingError: An argument out of its range.

    Example:
        >>> finite_class_sample_size(1000, deviation=0.02302)
        9999

    Source: Valiant 1984; Mohri, Rostamizadeh & Talwalkar 2018, theorem 2.13.
    """
    ratio = finite_class_deviation(cardinality, 1, delta, largest_loss) / check_at_least(
        "deviation", deviation, strictly=True
    )
    return max(1, math.ceil(ratio * ratio))


def finite_class_risk_bound(
    empirical_risk: float, cardinality: int, n: int, delta: float = 0.05, largest_loss: float = 1.0
) -> RiskBound:
    r"""A bound on the risk of all members of a finite class at once, :math:`\hat R(h) + c \sqrt{\ln(|H|/\delta) / (2n)}`.

    One-sided, so without the 2 of the supremum. A class listed with prior weights p(h) that sum to at most 1, finite or
    not, has 1 / p(h) in place of :math:`|H|` (see `occam_deviation`).

    Args:
        empirical_risk: Mean loss of the member on the sample.
        cardinality: Members of the class.
        n: Number of independent examples.
        delta: Probability of failure.
        largest_loss: c.

    Returns:
        The bound; `complexity` is what the class adds to the deviation of a single member.

    Raises:
        SettingError: An argument out of its range.

    Source: Mohri, Rostamizadeh & Talwalkar 2018, theorem 2.13.
    """
    check_mean_loss(empirical_risk, largest_loss)
    total = occam_deviation(-math.log(check_count("cardinality", cardinality)), n, delta, largest_loss)
    alone = occam_deviation(0.0, n, delta, largest_loss)
    return RiskBound(empirical_risk, total - alone, alone, delta, largest_loss, _ASSUMES)


def occam_deviation(log_weight: float, n: int, delta: float = 0.05, largest_loss: float = 1.0) -> float:
    r"""One-sided deviation of a member with prior weight p: :math:`c \sqrt{(\ln(1/p) + \ln(1/\delta)) / (2n)}`.

    Holds for all members of an enumerable class at once where the weights, fixed before the sample, sum to at most 1:
    with probability at least :math:`1 - \delta`, :math:`R(h) \le \hat R(h) +` this for every h. A prefix code of b bits has weight :math:`2^{-b}`.

    Args:
        log_weight: :math:`\ln p(h)`, at most 0.
        n: Number of independent examples.
        delta: Probability of failure.
        largest_loss: c.

    Returns:
        The deviation, in the unit of the loss.

    Raises:
        SettingError: An argument out of its range.

    Source: Blumer, Ehrenfeucht, Haussler & Warmuth 1987; Shalev-Shwartz & Ben-David 2014, theorem 7.4.
    """
    scale = check_at_least("largest_loss", largest_loss, strictly=True)
    log = check_at_least("-log_weight", -log_weight) - math.log(check_delta(delta))
    return scale * math.sqrt(log / (2 * check_count("n", n)))


def consistent_class_bound(cardinality: int, n: int, delta: float = 0.05) -> float:
    r"""Most error of any member without error on the sample, :math:`(\ln |H| + \ln(1/\delta)) / n`: rate 1/n, not its root.

    Args:
        cardinality: Members of the class.
        n: Number of independent examples.
        delta: Probability of failure.

    Returns:
        The bound on the error, which holds for all consistent members at once.

    Raises:
        SettingError: An argument out of its range.

    Source: Valiant 1984; Mohri, Rostamizadeh & Talwalkar 2018, theorem 2.5.
    """
    return (math.log(check_count("cardinality", cardinality)) - math.log(check_delta(delta))) / check_count(
        "n", n
    )
