"""Intervals for error rates: one proportion, the mean of a bounded quantity, the difference of two proportions."""

from __future__ import annotations

import math

from torchstone.bounds.interval import Interval, check_confidence
from torchstone.bounds.risk_bound import check_count
from torchstone.errors import SettingError


def clopper_pearson(successes: int, trials: int, confidence: float = 0.95) -> Interval:
    r"""Exact interval for a binomial proportion.

    The ends invert the two one-sided binomial tests at level :math:`\alpha / 2` each:
    :math:`[B^{-1}(\alpha/2; k, n-k+1),\ B^{-1}(1-\alpha/2; k+1, n-k)]` with :math:`B^{-1}` the quantile of the Beta law.

    Coverage is at least `confidence` for every proportion and every number of trials, often by a few percent more.
    The trials must be independent given the classifier: test examples are, leave-one-out errors are not.
    A one-sided limit at level :math:`1-\alpha` is an end of the interval at confidence :math:`1-2\alpha`.

    Args:
        successes: Number of successes (or errors), 0 to `trials`.
        trials: Number of independent trials, at least 1.
        confidence: Least coverage.

    Returns:
        The interval, inside [0, 1].

    Raises:
        SettingError: Counts that no experiment could give.

    Example:
        >>> interval = clopper_pearson(0, 10)
        >>> interval.low, round(interval.high, 4)
        (0.0, 0.3085)

    Source: Clopper & Pearson 1934.
    """
    from scipy.special import betaincinv

    _check_counts(successes, trials)
    tail = (1 - check_confidence(confidence)) / 2
    failures = trials - successes
    low = 0.0 if successes == 0 else float(betaincinv(successes, failures + 1, tail))
    high = 1.0 if failures == 0 else float(betaincinv(successes + 1, failures, 1 - tail))
    return Interval(low, high, confidence, "Clopper-Pearson")


def wilson(successes: int, trials: int, confidence: float = 0.95) -> Interval:
    r"""Score interval for a binomial proportion, :math:`\{p : |\hat p - p| \le z \sqrt{p(1-p)/n}\}`.

    Approximate: coverage averages to about `confidence` over proportions and dips below it at some of them.

    Args:
        successes: Number of successes, 0 to `trials`.
        trials: Number of independent trials, at least 1.
        confidence: Nominal coverage.

    Returns:
        The interval, inside [0, 1].

    Raises:
        SettingError: Counts that no experiment could give.

    Source: Wilson 1927.
    """
    from scipy.special import ndtri

    _check_counts(successes, trials)
    z = float(ndtri((1 + check_confidence(confidence)) / 2))
    share = successes / trials
    centre = (share + z * z / (2 * trials)) / (1 + z * z / trials)
    half = z / (1 + z * z / trials) * math.sqrt(share * (1 - share) / trials + (z / (2 * trials)) ** 2)
    low = 0.0 if successes == 0 else max(0.0, centre - half)
    high = 1.0 if successes == trials else min(1.0, centre + half)
    return Interval(low, high, confidence, "Wilson score")


def hoeffding(
    mean: float, n: int, confidence: float = 0.95, support: tuple[float, float] = (0.0, 1.0)
) -> Interval:
    r"""Interval for the mean of a quantity bounded in [a, b]: :math:`\hat\mu \pm (b-a)\sqrt{\ln(2/\alpha) / (2n)}`.

    Coverage is at least `confidence` for every law on the support, at any n; wide where the variance is small.

    Args:
        mean: Mean of the sample, in the unit of the quantity.
        n: Number of independent values.
        confidence: Least coverage.
        support: The least and greatest value that the quantity can take.

    Returns:
        The interval, cut to the support.

    Raises:
        SettingError: An empty sample, or a mean outside the support.

    Source: Hoeffding 1963, theorem 2.
    """
    low, high = support
    check_count("n", n)
    if not (math.isfinite(low) and math.isfinite(high) and low <= mean <= high):
        raise SettingError(
            "hoeffding needs a mean inside a bounded support",
            f"mean {mean}, support [{low}, {high}]",
            "Pass the true range of the quantity, or clip the quantity.",
        )
    half = (high - low) * math.sqrt(math.log(2 / (1 - check_confidence(confidence))) / (2 * n))
    return Interval(mean - half, mean + half, confidence, "Hoeffding").clipped(low, high)


def newcombe_difference(
    successes_a: int, trials_a: int, successes_b: int, trials_b: int, confidence: float = 0.95
) -> Interval:
    r"""Interval for :math:`p_a - p_b` of two independent samples, from the two Wilson intervals.

    .. math:: \hat d - \sqrt{(\hat p_a - l_a)^2 + (u_b - \hat p_b)^2},\quad
              \hat d + \sqrt{(u_a - \hat p_a)^2 + (\hat p_b - l_b)^2}

    Approximate: close to nominal on average, below it at some proportions. Where the interval must never be
    too short use `bonferroni_difference`. Wrong for two classifiers on the *same* examples, whose errors correlate.

    Args:
        successes_a: Successes of the first sample.
        trials_a: Trials of the first sample.
        successes_b: Successes of the second sample.
        trials_b: Trials of the second sample.
        confidence: Nominal coverage.

    Returns:
        The interval for the difference, inside [-1, 1].

    Raises:
        SettingError: Counts that no experiment could give.

    Source: Newcombe 1998 (interval estimation for the difference between independent proportions), method 10.
    """
    a, b = wilson(successes_a, trials_a, confidence), wilson(successes_b, trials_b, confidence)
    share_a, share_b = successes_a / trials_a, successes_b / trials_b
    difference = share_a - share_b
    low = difference - math.hypot(share_a - a.low, b.high - share_b)
    high = difference + math.hypot(a.high - share_a, share_b - b.low)
    return Interval(low, high, confidence, "Newcombe hybrid score").clipped(-1, 1)


def bonferroni_difference(
    successes_a: int, trials_a: int, successes_b: int, trials_b: int, confidence: float = 0.95
) -> Interval:
    r"""Conservative interval for :math:`p_a - p_b`: each Clopper-Pearson interval at level :math:`1-\alpha/2`.

    Coverage is at least `confidence` for all proportions and sizes, and also for *dependent* samples, such as two
    classifiers on the same examples. Wider than `newcombe_difference` by about 1.6 times for equal sizes.

    Args:
        successes_a: Successes of the first sample.
        trials_a: Trials of the first sample.
        successes_b: Successes of the second sample.
        trials_b: Trials of the second sample.
        confidence: Least coverage.

    Returns:
        The interval for the difference, inside [-1, 1].

    Raises:
        SettingError: Counts that no experiment could give.
    """
    each = (1 + check_confidence(confidence)) / 2
    a, b = clopper_pearson(successes_a, trials_a, each), clopper_pearson(successes_b, trials_b, each)
    return Interval(a.low - b.high, a.high - b.low, confidence, "Clopper-Pearson, Bonferroni")


def _check_counts(successes: int, trials: int) -> None:
    if trials < 1 or not 0 <= successes <= trials or successes != int(successes) or trials != int(trials):
        raise SettingError(
            "A proportion needs whole numbers with 0 <= successes <= trials and at least one trial",
            f"{successes} of {trials}",
            "Count the successes among the trials.",
        )
