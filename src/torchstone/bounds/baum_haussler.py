r"""How many examples does a network of threshold units need, by counting its weights? Baum and Haussler's rule.

A network of N threshold units with W weights and biases in all gives at most :math:`(N e m / W)^W` labellings to m points. By
the relative deviation bound of Blumer et al. (theorem A3.1), the probability that *some* such network errs on a share
:math:`\epsilon` of new examples and on less than :math:`\epsilon/2` of the m is at most

.. math:: 8 \Big(\frac{2 N e m}{W}\Big)^W e^{-\epsilon m / 16}.

At :math:`m = \frac{32 W}{\epsilon} \ln \frac{32 N}{\epsilon}` this is :math:`8 e^{-W (\Lambda - \ln 2e - \ln \Lambda)}` with
:math:`\Lambda = \ln(32 N/\epsilon)`, so at most :math:`8 e^{-1.5 W}` for :math:`\epsilon \le 1/8`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from torchstone.bounds.growth import sauer_sum
from torchstone.bounds.risk_bound import check_at_least, check_count, check_delta
from torchstone.errors import SettingError


def baum_haussler_examples(weights: int, units: int, error: float) -> float:
    r"""The rule itself, :math:`m = \frac{32 W}{\epsilon} \ln \frac{32 N}{\epsilon}`; round it up to a count.

    A trained network of this size with training error at most :math:`\epsilon/2` on m independent examples then errs on less than a
    share :math:`\epsilon` of new ones, with the confidence of `baum_haussler_failure`. Sufficient, and far from necessary for networks
    with more weights than examples.

    Args:
        weights: W, weights and biases.
        units: N, threshold units, the output included.
        error: :math:`\epsilon`, in (0, 1/8].

    Returns:
        The number of examples as the formula gives it.

    Raises:
        SettingError: A count below 1, fewer weights than units, or an error outside (0, 1/8].

    Example:
        >>> round(baum_haussler_examples(weights=1000, units=50, error=0.1))
        3097710

    Source: Baum & Haussler 1989, theorem 7.
    """
    _check_network(weights, units)
    if not 0 < error <= 0.125:
        raise SettingError(
            "Baum and Haussler's rule is for errors in (0, 1/8]", str(error), "Ask for an error of 0.1."
        )
    return 32 * weights / error * math.log(32 * units / error)


def baum_haussler_failure(weights: int, units: int, error: float, examples: float) -> float:
    r"""Probability that some network of this size is better by half on the sample than it is in truth, at most.

    .. math:: 8 \Big(\frac{2 N e m}{W}\Big)^W e^{-\epsilon m / 16}

    Args:
        weights: W.
        units: N.
        error: :math:`\epsilon` in (0, 1]: the error in truth, while less than half of it is seen on the sample.
        examples: m, at least W / 2.

    Returns:
        The bound; above 1 it says nothing, and infinity is returned beyond float64.

    Raises:
        SettingError: An argument out of range.

    Source: Baum & Haussler 1989, theorem 5 and corollary 6; Blumer, Ehrenfeucht, Haussler & Warmuth 1989, theorem A3.1.
    """
    check_at_least("error", error, strictly=True)
    log_failure = (
        math.log(8) + threshold_log_growth(weights, units, 2 * examples) - min(error, 1.0) * examples / 16
    )
    return math.exp(log_failure) if log_failure < 709 else math.inf


def threshold_sample_size(weights: int, units: int, error: float, delta: float = 0.05) -> int:
    r"""The fewest examples for which `baum_haussler_failure` is at most :math:`\delta`.

    Smaller than the closed rule, which rounds up for the sake of a simple formula; the same guarantee at the confidence asked for.

    Args:
        weights: W.
        units: N.
        error: :math:`\epsilon` in (0, 1].
        delta: Probability of failure.

    Returns:
        m.

    Raises:
        SettingError: An argument out of range.

    Example:
        >>> threshold_sample_size(weights=1000, units=50, error=0.1)
        2123361
    """
    _check_network(weights, units)
    check_delta(delta)
    check_at_least("error", error, strictly=True)
    if error > 1:
        raise SettingError("error must be at most 1", str(error), "Pass a share of examples, such as 0.1.")
    enough = lambda m: baum_haussler_failure(weights, units, error, m) <= delta
    # Beyond 16 W / error the bound decreases.
    low = math.ceil(16 * weights / error)
    high = 2 * low
    while not enough(high):
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high


def threshold_log_growth(weights: int, units: int, examples: float) -> float:
    r"""Logarithm of the bound on labellings by a network of threshold units, :math:`W \ln(N e m / W)`.

    Args:
        weights: W.
        units: N.
        examples: m, at least W.

    Returns:
        The bound in nats.

    Raises:
        SettingError: A count below 1, fewer weights than units, or fewer examples than weights.

    Example:
        >>> round(threshold_log_growth(weights=6, units=2, examples=600), 6)
        37.789904

    Source: Baum & Haussler 1989, corollary 3.
    """
    _check_network(weights, units)
    if not (math.isfinite(examples) and examples >= weights):
        raise SettingError(
            "The growth bound (N e m / W)^W needs at least as many examples as weights",
            f"{examples} examples, {weights} weights",
            "With fewer, all 2^m labellings may occur.",
        )
    return weights * math.log(units * math.e * examples / weights)


def threshold_network_log_growth(fan_ins: Sequence[int], examples: int) -> float:
    r"""A tighter count, unit by unit: :math:`\sum_j \ln \sum_{k \le w_j} \binom{m}{k}`, each unit with its own :math:`w_j` weights.

    A threshold unit with :math:`w_j - 1` inputs and a bias has VC dimension :math:`w_j`, and the labellings of the network are at most the
    product over units of what each can do with the outputs of those before it.

    Args:
        fan_ins: :math:`w_j`, weights and bias of each unit.
        examples: m.

    Returns:
        The bound in nats.

    Raises:
        SettingError: No units, or a count below 1.

    Example:
        >>> threshold_network_log_growth([3, 3], 600) < threshold_log_growth(6, 2, 600)
        True

    Source: Baum & Haussler 1989, theorem 1; Cover 1968.
    """
    if not fan_ins:
        raise SettingError(
            "A network needs at least one threshold unit", "none", "Pass the weights of each unit."
        )
    return sum(math.log(sauer_sum(examples, check_count("A fan-in", w))) for w in fan_ins)


def _check_network(weights: int, units: int) -> None:
    check_count("units", units)
    check_count("weights", weights)
    if weights < units:
        raise SettingError(
            "Each unit has at least one weight", f"{weights} weights for {units} units", "Count the biases."
        )
