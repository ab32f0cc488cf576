r"""PAC-Bayes bounds: the risk of a random predictor by how far its law moved away from a law fixed beforehand.

Let the prior P be a law over predictors that does not depend on the sample S of n independent examples, the loss lie in
[0, 1], :math:`R(Q) = E_{h \sim Q} R(h)` be the risk of a predictor drawn from the posterior Q for every example, and
:math:`\hat R(Q)` its mean on S. With probability at least :math:`1 - \delta` over S, for *all* posteriors Q at once,

.. math:: \mathrm{kl}(\hat R(Q) \| R(Q)) \le \frac{\mathrm{KL}(Q \| P) + \ln(2 \sqrt n / \delta)}{n}.

Proof in three lines (Maurer 2004). By Donsker and Varadhan's change of measure and the convexity of kl,
:math:`n\,\mathrm{kl}(\hat R(Q) \| R(Q)) \le \mathrm{KL}(Q \| P) + \ln E_{h \sim P}\, e^{n\,\mathrm{kl}(\hat R(h) \| R(h))}`. The last
expectation is over P, which ignores S, so by Markov's inequality it is below :math:`\xi(n)/\delta` with probability
:math:`1 - \delta`, where :math:`\xi(n) = \sum_k \binom nk (k/n)^k (1-k/n)^{n-k}` is its mean over S (for losses inside [0, 1] at
most that). And :math:`\xi(n) \le 2 \sqrt n` for n of at least 8 by Maurer's estimate, and for n = 1, ..., 7 by adding it up.

The others follow: Pinsker's inequality gives `mcallester`, the refined one :math:`p - q \le \sqrt{2 p\,\mathrm{kl}(q \| p)}` gives
`quadratic`. `catoni` rests on another exponential moment, has no square root of n, and a strength to be fixed before.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from torchstone.bounds.binary_kl import kl_inverse_upper
from torchstone.bounds.risk_bound import check_at_least, check_count, check_delta, check_mean_loss

STRENGTHS = tuple(0.01 * 2 ** (k / 2) for k in range(20))
"""Of Catoni's bound, from 0.01 to 7.2."""


@dataclass(frozen=True)
class PacBayesBound:
    r"""A number that the risk of a stochastic predictor exceeds with probability at most `delta`.

    Args:
        value: The bound on R(Q), also where it is vacuous.
        form: "kl", "McAllester", "quadratic" or "Catoni".
        empirical: :math:`\hat R(Q)`, or an upper bound of it that holds with a probability of its own.
        divergence: KL(Q || P) in nats.
        n: Examples that the prior has not seen.
        delta: Largest probability of failure over the sample.
        assumes: What has to hold, one sentence.
    """

    value: float
    form: str
    empirical: float
    divergence: float
    n: int
    delta: float
    assumes: str = "independent examples of one law, a loss in [0, 1], and a prior that does not depend on these examples"

    @property
    def vacuous(self) -> bool:
        """Whether every predictor satisfies it on every law."""
        return self.value >= 1


def pac_bayes_kl(empirical: float, divergence: float, n: int, delta: float = 0.05) -> PacBayesBound:
    r"""The tightest one without a parameter: :math:`\mathrm{kl}^{-1}(\hat R(Q), (\mathrm{KL} + \ln(2\sqrt n/\delta))/n)`.

    Args:
        empirical: :math:`\hat R(Q)`, mean loss in [0, 1] of the stochastic predictor on the n examples.
        divergence: KL(Q || P) in nats; infinity is allowed.
        n: Independent examples that the prior has not seen.
        delta: Largest probability of failure.

    Returns:
        The bound, at most 1.

    Raises:
        SettingError: Numbers that no experiment could give.

    Example:
        >>> round(pac_bayes_kl(0.05, divergence=20.0, n=1000).value, 4)
        0.1173

    Source: Seeger 2002, theorem 1; the constant is Maurer's, 2004, theorem 5.
    """
    budget = _price(empirical, divergence, n, delta) / n
    return PacBayesBound(kl_inverse_upper(empirical, budget), "kl", empirical, divergence, n, delta)


def mcallester(empirical: float, divergence: float, n: int, delta: float = 0.05) -> PacBayesBound:
    r""":math:`\hat R(Q) + \sqrt{(\mathrm{KL} + \ln(2\sqrt n/\delta))/(2n)}`: never below `pac_bayes_kl`.

    Args:
        empirical: See `pac_bayes_kl`.
        divergence: KL(Q || P) in nats.
        n: Independent examples that the prior has not seen.
        delta: Largest probability of failure.

    Raises:
        SettingError: Numbers that no experiment could give.

    Source: McAllester 1999, theorem 1, with the constant of Maurer 2004.
    """
    half = _price(empirical, divergence, n, delta) / (2 * n)
    return PacBayesBound(empirical + math.sqrt(half), "McAllester", empirical, divergence, n, delta)


def quadratic(empirical: float, divergence: float, n: int, delta: float = 0.05) -> PacBayesBound:
    r""":math:`(\sqrt{\hat R(Q) + B} + \sqrt B)^2` with :math:`B = (\mathrm{KL} + \ln(2\sqrt n/\delta))/(2n)`.

    Of the order B where the network fits its data, :math:`\sqrt B` where it does not: both rates in one formula.

    Args:
        empirical: See `pac_bayes_kl`.
        divergence: KL(Q || P) in nats.
        n: Independent examples that the prior has not seen.
        delta: Largest probability of failure.

    Raises:
        SettingError: Numbers that no experiment could give.

    Source: Rivasplata, Tankasali & Szepesvari 2019; Perez-Ortiz et al. 2021, equation (4).
    """
    half = _price(empirical, divergence, n, delta) / (2 * n)
    value = (math.sqrt(empirical + half) + math.sqrt(half)) ** 2
    return PacBayesBound(value, "quadratic", empirical, divergence, n, delta)


def catoni(
    empirical: float, divergence: float, n: int, strength: float, delta: float = 0.05
) -> PacBayesBound:
    r""":math:`\frac{1 - \exp(-C \hat R(Q) - (\mathrm{KL} + \ln(1/\delta))/n)}{1 - e^{-C}}`, with C fixed before the data.

    Its smallest value over C is the kl form with :math:`\ln(1/\delta)` for :math:`\ln(2\sqrt n/\delta)`; C may not be
    chosen by that, but see `catoni_grid`.

    Args:
        empirical: See `pac_bayes_kl`.
        divergence: KL(Q || P) in nats.
        n: Independent examples that the prior has not seen.
        strength: C, positive.
        delta: Largest probability of failure.

    Raises:
        SettingError: Numbers that no experiment could give.

    Source: Catoni 2007, theorem 1.2.6; Germain et al. 2009, corollary 2.2.
    """
    check_at_least("strength", strength, strictly=True)
    exponent = strength * empirical + _price(empirical, divergence, n, delta, moment=1.0) / n
    value = math.expm1(-exponent) / math.expm1(-strength)
    return PacBayesBound(value, "Catoni", empirical, divergence, n, delta)


def catoni_grid(
    empirical: float,
    divergence: float,
    n: int,
    delta: float = 0.05,
    strengths: Sequence[float] = STRENGTHS,
) -> PacBayesBound:
    r"""The best of Catoni's bounds over strengths fixed beforehand, each at :math:`\delta` over their number.

    Args:
        empirical: See `pac_bayes_kl`.
        divergence: KL(Q || P) in nats.
        n: Independent examples that the prior has not seen.
        delta: Largest probability of failure of all of them together.
        strengths: Positive numbers, at least one, chosen without the data.

    Raises:
        SettingError: No strengths, or numbers that no experiment could give.
    """
    share = check_delta(delta) / check_count("number of strengths", len(strengths))
    best = min(catoni(empirical, divergence, n, strength, share).value for strength in strengths)
    return PacBayesBound(best, "Catoni", empirical, divergence, n, delta)


def _price(empirical: float, divergence: float, n: int, delta: float, moment: float | None = None) -> float:
    """KL + ln(moment / delta), after checking all arguments; the moment is 2 sqrt n unless told."""
    check_mean_loss(empirical, 1.0)
    if divergence != math.inf:
        check_at_least("divergence", divergence)
    check_count("n", n)
    return divergence + math.log((2 * math.sqrt(n) if moment is None else moment) / check_delta(delta))
