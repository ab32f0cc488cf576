r"""Algorithmic stability: a procedure that hardly moves when one example changes cannot fit chance.

A procedure has uniform stability :math:`\beta` when removing any one of its n examples changes the loss on no example whatever by more
than :math:`\beta`. The bounds hold for the procedure, not for a class, so the number of parameters does not enter. Losses lie in [0, M].
`torchstone.bounds.sgd_stability` has the stability of gradient descent.
"""

from __future__ import annotations

import math

from torchstone.bounds.risk_bound import RiskBound, check_at_least, check_count, check_delta, check_mean_loss

_ASSUMES = (
    "Independent examples of one law, losses in [0, largest_loss] whatever the sample, and a deterministic procedure "
    "that treats examples alike and has the stability given."
)


def expected_stability_gap(beta: float) -> float:
    r"""The mean gap :math:`E[R - \hat R]` of a procedure is at most :math:`2\beta`, and with replacement of an example at most :math:`\beta`.

    Args:
        beta: Uniform stability under removal.

    Returns:
        :math:`2 \beta`.

    Raises:
        SettingError: A negative number.

    Source: Bousquet & Elisseeff 2002, lemma 7 and theorem 12.
    """
    return 2 * check_at_least("beta", beta)


def stability_bound(
    empirical_risk: float,
    beta: float,
    n: int,
    delta: float = 0.05,
    largest_loss: float = 1.0,
    leave_one_out: bool = False,
) -> RiskBound:
    r"""The exponential bound from uniform stability, by McDiarmid's inequality.

    .. math:: R \le \hat R + 2 \beta + (4 n \beta + M) \sqrt{\frac{\ln (1/\delta)}{2n}}, \qquad
              R \le \hat R_{loo} + \beta + (4 n \beta + M) \sqrt{\frac{\ln (1/\delta)}{2n}}

    Of use for :math:`\beta = O(1/n)` only.

    Args:
        empirical_risk: Mean training loss, or the leave-one-out estimate.
        beta: Uniform stability under removal of one example.
        n: Number of examples.
        delta: Probability of failure.
        largest_loss: M.
        leave_one_out: Whether `empirical_risk` is the leave-one-out estimate (second form).

    Returns:
        The bound; vacuous values are kept.

    Raises:
        SettingError: An argument out of range.

    Example:
        >>> bound = stability_bound(0.1, beta=1e-4, n=10_000, delta=0.05)
        >>> round(bound.value, 4)
        0.1614

    Source: Bousquet & Elisseeff 2002, theorem 12.
    """
    check_mean_loss(empirical_risk, largest_loss)
    check_count("n", n)
    check_at_least("beta", beta)
    deviation = (4 * n * beta + largest_loss) * math.sqrt(math.log(1 / check_delta(delta)) / (2 * n))
    mean = beta if leave_one_out else 2 * beta
    return RiskBound(empirical_risk, mean, deviation, delta, largest_loss, _ASSUMES)


def hypothesis_stability_bound(
    empirical_risk: float,
    beta: float,
    n: int,
    delta: float = 0.05,
    largest_loss: float = 1.0,
    leave_one_out: bool = False,
) -> RiskBound:
    r"""The polynomial bound, from stability *on average* over samples, by Chebyshev's inequality.

    .. math:: R \le \hat R + \sqrt{\frac{M^2 + 12 M n \beta}{2 n \delta}}, \qquad
              R \le \hat R_{loo} + \sqrt{\frac{M^2 + 6 M n \beta}{2 n \delta}}

    The first form needs pointwise hypothesis stability (the mean change of the loss on a training example that is
    removed), the second hypothesis stability (on a fresh example). Weaker in :math:`\delta`, but nearest neighbours have it.

    Args:
        empirical_risk: Mean training loss, or the leave-one-out estimate.
        beta: The stability, a mean over samples.
        n: Number of examples.
        delta: Probability of failure.
        largest_loss: M.
        leave_one_out: Whether `empirical_risk` is the leave-one-out estimate.

    Returns:
        The bound; all of it stands in `deviation`.

    Raises:
        SettingError: An argument out of range.

    Source: Bousquet & Elisseeff 2002, theorem 11; Devroye & Wagner 1979.
    """
    check_mean_loss(empirical_risk, largest_loss)
    check_at_least("beta", beta)
    factor = 6 if leave_one_out else 12
    squared = largest_loss**2 + factor * largest_loss * check_count("n", n) * beta
    deviation = math.sqrt(squared / (2 * n * check_delta(delta)))
    return RiskBound(empirical_risk, 0.0, deviation, delta, largest_loss, _ASSUMES)


def regularised_stability(admissibility: float, largest_kernel: float, penalty: float, n: int) -> float:
    r"""Uniform stability of :math:`\arg\min_f \frac1n \sum_i \ell(f, z_i) + \lambda \|f\|_k^2`: :math:`\beta \le \frac{\sigma^2 \kappa^2}{2 \lambda n}`.

    Args:
        admissibility: :math:`\sigma`, Lipschitz constant of the convex loss in the prediction: 1 for the hinge, and 2B for the squared loss
            where predictions and targets differ by at most B.
        largest_kernel: :math:`\kappa^2 = \sup_x k(x, x)`; for linear functions the largest squared norm of an input.
        penalty: :math:`\lambda`, positive, of this objective (no factor 1/2, mean of losses).
        n: Number of examples.

    Returns:
        :math:`\beta`.

    Raises:
        SettingError: An argument out of range.

    Example:
        >>> regularised_stability(admissibility=1.0, largest_kernel=1.0, penalty=0.01, n=1000)
        0.05

    Source: Bousquet & Elisseeff 2002, theorem 22.
    """
    check_at_least("penalty", penalty, strictly=True)
    squared = check_at_least("admissibility", admissibility) ** 2
    return squared * check_at_least("largest_kernel", largest_kernel) / (2 * penalty * check_count("n", n))
