"""What difference so many runs could have shown."""

from __future__ import annotations

import math

from torchstone.errors import SettingError


def minimal_detectable_difference(
    spread: float, runs: int, other_runs: int | None = None, *, alpha: float = 0.05, power: float = 0.8
) -> float:
    r"""The least difference of two means that a two-sided t test shows with a given power.

    :math:`\Delta = \delta\, s \sqrt{1/n_a + 1/n_b}` with :math:`\delta` the non-centrality at which the test of
    :math:`n_a + n_b - 2` degrees of freedom rejects with probability `power`. Claims below it need more runs.

    Args:
        spread: Standard deviation over seeds, of both.
        runs: Of A, at least 2.
        other_runs: Of B; as many as of A by default.
        alpha: Level of the test.
        power: Probability of seeing the difference.

    Returns:
        The difference, in the unit of the metric.

    Raises:
        SettingError: A negative spread, fewer than two runs, levels outside (0, 1) or a power below the level.

    Example:
        >>> round(minimal_detectable_difference(1.0, 17), 3)  # Cohen 1988: n = 17 a group for d = 1
        0.991

    Source: Cohen 1988, section 2.4; Colas, Sigaud & Oudeyer 2018.
    """
    other = runs if other_runs is None else other_runs
    if not (math.isfinite(spread) and spread >= 0) or min(runs, other) < 2:
        raise SettingError(
            "A detectable difference needs a spread of at least 0 and at least 2 runs of each",
            f"spread {spread}, {runs} and {other} runs",
            "Train more networks.",
        )
    return detectable_effect(runs + other - 2, alpha, power) * spread * math.sqrt(1 / runs + 1 / other)


def detectable_effect(degrees: float, alpha: float = 0.05, power: float = 0.8) -> float:
    """Non-centrality at which a two-sided t test at level alpha has a given power: 2.80 for many degrees of freedom.

    Infinite at levels that no test of so few runs can be told from 0 at, about 1e-16.

    Raises:
        SettingError: Levels outside (0, 1), or a power that is not above the level.
    """
    from scipy.optimize import brentq
    from scipy.special import gammaincinv, nctdtr, stdtrit

    if not (0 < alpha < 1 and alpha < power < 1):
        raise SettingError(
            "A test needs 0 < alpha < power < 1", f"alpha={alpha}, power={power}", "Use 0.05 and 0.8."
        )
    degrees = min(degrees, 1e5)
    critical = float(stdtrit(degrees, 1 - alpha / 2))
    if critical > 1e3:
        # Beside so large an effect the normal part of t is nothing: T > c iff effect / c > sqrt(chi^2 / degrees).
        return critical * math.sqrt(2 * float(gammaincinv(degrees / 2, power)) / degrees)

    def excess(effect: float) -> float:
        # Below -critical lies what would be shown with the wrong sign; scipy gives NaN where that is nothing.
        wrong = float(nctdtr(degrees, effect, -critical))
        return 1 - float(nctdtr(degrees, effect, critical)) + (0.0 if math.isnan(wrong) else wrong) - power

    high = 1.0
    while excess(high) < 0:
        high *= 2
    return float(brentq(excess, 0.0, high, xtol=1e-10))  # pyright: ignore[reportArgumentType]
