r"""Is training procedure A really better than B? Two sets of runs compared, with the difference they could have shown."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import combinations, product

import torch
from torch import Tensor

from torchstone.bounds.detectable_difference import detectable_effect
from torchstone.bounds.interval import Interval, check_confidence
from torchstone.bounds.mean import checked_sample
from torchstone.bounds.proportion import clopper_pearson
from torchstone.errors import SettingError

EXACT = 20_000  # permutations that are enumerated rather than drawn
DRAWN = 20_000


@dataclass(frozen=True)
class SeedComparison:
    """Two sets of runs of a metric, A against B.

    Args:
        difference: Mean of A minus mean of B.
        interval: Of the difference over further seeds: Student's for pairs, Welch's otherwise.
        p_value: Two-sided permutation test that the two have one law (pairs: that swapping them changes nothing).
        outperforming: Share of runs in which A's metric is the larger one, ties counting half.
        outperforming_interval: Its interval.
        detectable: The least difference of the means that so many runs would show with power 0.8.
        paired: Whether run i of A and run i of B share what is random.
    """

    difference: float
    interval: Interval
    p_value: float
    outperforming: float
    outperforming_interval: Interval
    detectable: float
    paired: bool

    def better(self, least: float = 0.75) -> bool:
        """Whether A outperforms B beyond chance, and often enough to matter (Bouthillier et al. 2021: 0.75)."""
        return self.outperforming_interval.low > 0.5 and self.outperforming > least


def compare_seeds(
    a: Tensor,
    b: Tensor,
    generator: torch.Generator,
    *,
    paired: bool = False,
    confidence: float = 0.95,
) -> SeedComparison:
    r"""Compare a metric over runs of A with one over runs of B.

    The interval is Student's for the mean of the differences (`paired`) or Welch's for the difference of means, at
    degrees of freedom :math:`(v_a+v_b)^2/(v_a^2/(n_a-1)+v_b^2/(n_b-1))`, :math:`v = s^2/n`. The p-value is the share of
    all relabellings (sign flips for pairs) whose difference, in standard errors (Welch's t, so that unequal spreads do
    no harm for many runs), is at least the observed one; all of them up to 20,000, drawn ones beyond, the observed one
    always counted, so that it is at most alpha with probability at most alpha.

    Cost: at most 20,000 relabellings. Pairs gain where what they share (splits, seeds) moves both alike.

    Args:
        a: Metric of each run of A, (n_a,), at least 2.
        b: Metric of each run of B, (n_b,), at least 2; as many as A where paired.
        generator: On the CPU; for relabellings that are drawn.
        paired: Whether run i of both share seed, data split and so on.
        confidence: Nominal coverage of both intervals.

    Returns:
        The comparison.

    Raises:
        SettingError: Fewer than two runs, or pairs that do not pair up.
        NumericalError: A metric that is NaN or infinite.

    Example:
        >>> import torch
        >>> a, b = torch.tensor([0.91, 0.92, 0.93, 0.92]), torch.tensor([0.90, 0.91, 0.91, 0.90])
        >>> found = compare_seeds(a, b, torch.Generator(), paired=True)
        >>> round(found.difference, 3), found.p_value, found.outperforming
        (0.015, 0.125, 1.0)

    Source: Bouthillier et al. 2021, section 4 and appendix C; Welch 1947; Janssen 1997 (studentised permutations).
    """
    a, b = checked_sample(a, least=2).cpu(), checked_sample(b, least=2).cpu()
    if paired and len(a) != len(b):
        raise SettingError(
            "Paired runs must come in equal numbers",
            f"{len(a)} and {len(b)}",
            "Drop the runs without a partner.",
        )
    error, degrees = _error(a, b, paired)
    difference = float(a.mean() - b.mean())
    half = _t(degrees, (1 + check_confidence(confidence)) / 2) * error
    method = "Student t of pairs" if paired else "Welch t"
    p_value = _sign_flips(a - b, generator) if paired else _relabellings(a, b, generator)
    return SeedComparison(
        difference=difference,
        interval=Interval(difference - half, difference + half, confidence, method),
        p_value=p_value,
        outperforming=_share(a, b, paired),
        outperforming_interval=probability_of_outperforming(a, b, paired=paired, confidence=confidence),
        detectable=detectable_effect(degrees, 1 - confidence) * error,
        paired=paired,
    )


def probability_of_outperforming(
    a: Tensor, b: Tensor, *, paired: bool = False, confidence: float = 0.95
) -> Interval:
    r"""Interval for :math:`P(A > B) + \tfrac12 P(A = B)`.

    Pairs are independent trials: the exact binomial interval, whose lower end counts ties as losses and upper end as
    wins. Otherwise Brunner and Munzel's: the placements of each run among the other set have variances
    :math:`S_a^2, S_b^2`, and the estimate's logit is taken as Student with Satterthwaite's degrees of freedom. Where the
    sets do not overlap that variance is zero; the interval is then the exact one of min(n_a, n_b) runs paired at random.

    Args:
        a: Metric of each run of A, (n_a,), at least 2.
        b: Metric of each run of B, (n_b,), at least 2.
        paired: Whether run i of both share what is random.
        confidence: Coverage, nominal for independent sets, least for pairs.

    Returns:
        The interval, inside [0, 1]. The percentile bootstrap of the source is too short for few runs.

    Raises:
        SettingError: Fewer than two runs.
        NumericalError: A metric that is NaN or infinite.

    Source: Bouthillier et al. 2021, section 4.2; Brunner & Munzel 2000; Clopper & Pearson 1934.
    """
    a, b = checked_sample(a, least=2).cpu(), checked_sample(b, least=2).cpu()
    check_confidence(confidence)
    if paired:
        wins, ties, count = int((a > b).sum()), int((a == b).sum()), len(a)
        low = clopper_pearson(wins, count, confidence).low
        high = clopper_pearson(wins + ties, count, confidence).high
        return Interval(low, high, confidence, "Clopper-Pearson over pairs")
    above = (a[:, None] > b).double() + 0.5 * (a[:, None] == b)
    share = float(above.mean())
    of_a, of_b = float(above.mean(1).var()) / len(a), float(above.mean(0).var()) / len(b)
    if of_a + of_b == 0:
        least = min(len(a), len(b))
        ends = clopper_pearson(0 if share < 0.5 else least, least, confidence)
        low, high = (ends.low, ends.high) if share != 0.5 else (0.0, 1.0)
        return Interval(low, high, confidence, "Clopper-Pearson over random pairs")
    degrees = _satterthwaite(of_a, len(a), of_b, len(b))
    room = share * (1 - share)
    half = _t(degrees, (1 + confidence) / 2) * math.sqrt(of_a + of_b) / room if room > 0 else math.inf
    centre = math.log(share / (1 - share)) if room > 0 else 0.0
    squash = lambda z: 0.5 * (1 + math.tanh(z / 2))
    return Interval(squash(centre - half), squash(centre + half), confidence, "Brunner-Munzel, logit")


def _share(a: Tensor, b: Tensor, paired: bool) -> float:
    other = b if paired else b[None]
    own = a if paired else a[:, None]
    return float(((own > other).double() + 0.5 * (own == other)).mean())


def _error(a: Tensor, b: Tensor, paired: bool) -> tuple[float, float]:
    """Standard error of the difference, and its degrees of freedom."""
    if paired:
        return float((a - b).std()) / math.sqrt(len(a)), len(a) - 1
    of_a, of_b = float(a.var()) / len(a), float(b.var()) / len(b)
    return math.sqrt(of_a + of_b), _satterthwaite(of_a, len(a), of_b, len(b))


def _satterthwaite(of_a: float, runs_a: int, of_b: float, runs_b: int) -> float:
    below = of_a**2 / (runs_a - 1) + of_b**2 / (runs_b - 1)
    return (of_a + of_b) ** 2 / below if below > 0 else runs_a + runs_b - 2


def _t(degrees: float, level: float) -> float:
    from scipy.special import stdtrit

    return float(stdtrit(degrees, level))


def _sign_flips(differences: Tensor, generator: torch.Generator) -> float:
    """Two-sided p-value of the mean of differences that are symmetric around 0 if nothing differs."""
    count = len(differences)
    if 2**count <= EXACT:
        signs = torch.tensor(list(product((-1.0, 1.0), repeat=count)), dtype=torch.float64)
        return _as_extreme(signs @ differences, float(differences.sum()))
    signs = 2.0 * torch.randint(2, (DRAWN, count), generator=generator).double() - 1
    return _drawn(signs @ differences, float(differences.sum()))


def _relabellings(a: Tensor, b: Tensor, generator: torch.Generator) -> float:
    """Two-sided p-value of Welch's statistic over the ways to call so many of all runs A."""
    both, count = torch.cat([a, b]), len(a)
    everything = math.comb(len(both), count)
    if everything <= EXACT:
        chosen = torch.tensor(list(combinations(range(len(both)), count)))
    else:
        chosen = torch.rand(DRAWN, len(both), generator=generator).argsort(1)[:, :count]
    picked = torch.zeros(len(chosen), len(both), dtype=torch.float64).scatter_(1, chosen, 1.0)
    statistics = _welch(both, picked)
    observed = float(_welch(both, torch.cat([torch.ones_like(a), torch.zeros_like(b)])[None])[0])
    return (_as_extreme if everything <= EXACT else _drawn)(statistics, observed)


def _welch(values: Tensor, picked: Tensor) -> Tensor:
    """Welch's t of the values (n,) that are picked (r, n) against the others; 0 where nothing varies."""
    centred = values - values.mean()
    size = float(centred.abs().max()) or 1.0
    centred = centred / size
    means, variances = [], []
    for weights in (picked, 1 - picked):
        count = weights.sum(1)
        mean = weights @ centred / count
        means.append(mean)
        variances.append((weights * (centred - mean[:, None]).square()).sum(1) / (count - 1) / count)
    # A relabelling that separates tied values has no spread: the least one keeps it the most extreme.
    error = (variances[0] + variances[1]).sqrt().clamp_min(1e-12)
    return (means[0] - means[1]) / error


def _as_extreme(statistics: Tensor, observed: float) -> float:
    """Share at least as far from 0, up to rounding."""
    return float((statistics.abs() >= abs(observed) * (1 - 1e-9) - 1e-15).double().mean())


def _drawn(statistics: Tensor, observed: float) -> float:
    """The same for a sample of relabellings, the observed one counted among them (Phipson & Smyth 2010)."""
    return (1 + _as_extreme(statistics, observed) * len(statistics)) / (1 + len(statistics))
