r"""The spectrally-normalised margin bound with every constant written out.

**Statement.** Fix maps :math:`\sigma_i` that are :math:`\rho_i`-Lipschitz with :math:`\sigma_i(0) = 0`, and references
:math:`M_i`. With probability at least :math:`1 - \delta` over n independent examples, for *every* network A and margin
:math:`\theta > 0` at once,

.. math:: P[\arg\max_j f(x)_j \ne y] \le \hat R_\theta(f) + \frac{24 K}{n}\Big(1 + \ln^+ \frac{n}{3K}\Big)
    + 3 \sqrt{\frac{\ln(2 / \delta) + \ln(1/p)}{2n}},\qquad
    K = \frac{2 \|X\|_F R_A}{\theta} \sqrt{\ln(2 W^2)},

with :math:`R_A` and :math:`\theta` rounded outwards to a grid and p the prior weight of the grid's cell (step 5).

**Derivation.** The constants of Bartlett, Foster & Telgarsky 2017 (their appendix) are larger and hold a factor
ln n; the steps are theirs, with these made tight.

1. *Ramp loss* (their lemma 3.1). The ramp loss of the margin is at least the 0-1 loss, lies in [0, 1], and is
   :math:`\sqrt 2/\theta`-Lipschitz in the outputs' 2-norm: the margin changes by at most
   :math:`|\Delta_y| + \max_{j \ne y} |\Delta_j| \le \sqrt 2 \|\Delta\|_2`. By the Rademacher bound (Mohri, Rostamizadeh & Talwalkar
   2018, theorem 3.3, equation 3.4) the risk is at most
   :math:`\hat R_\theta + 2 \hat{\mathfrak R}_S + 3\sqrt{\ln(2/\delta) / (2n)}`. The empirical complexity is of the sample,
   so :math:`\|X\|_F` may be that of the sample.
2. *One layer* (their lemma 3.2, by Maurey's sparsification). :math:`\{X B : \|B\|_{2,1} \le b\}`, B of size d x m, has a
   cover of radius :math:`\epsilon` in the Frobenius norm with log-size
   :math:`\lceil b^2 \|X\|_F^2 / \epsilon^2 \rceil \ln(2dm)`, and of size 1 when :math:`b \|X\|_F \le \epsilon`. Hence at most
   :math:`2 b^2 \|X\|_F^2 \ln(2W^2) / \epsilon^2` always (:math:`\lceil x \rceil \le 2x` for :math:`x \ge 1`): the factor 2 is the
   price of the ceiling, which their theorem 3.3 leaves out.
3. *All layers* (their theorem 3.3). Cover layer after layer, each on the covered outputs of the one before. The
   covers need not lie in the class: projecting a cover of :math:`\{A_i \hat F\}` on the ball of radius
   :math:`\|A_i\|_{op} \|\hat F\|_F`, which contains that set, keeps it a cover and keeps later inputs bounded. Errors grow by the
   *network's* norms only. Splitting the radius in proportion to
   :math:`(b_i / s_i)^{2/3}` gives log-size :math:`2 \ln(2W^2) \|X\|_F^2 R_A^2 / \epsilon^2` for the outputs, and with the
   Lipschitz constant of step 1, :math:`K^2 / \epsilon^2` for the losses on the sample.
4. *Dudley's integral* (in their appendix):
   :math:`\hat{\mathfrak R}_S \le \inf_\alpha \frac{4 \alpha}{\sqrt n} + \frac{12}{n} \int_\alpha^{\sqrt n} \frac K \epsilon d\epsilon`. The best
   :math:`\alpha = 3K / \sqrt n` gives :math:`\frac{12 K}{n}(1 + \ln \frac{n}{3K})` for :math:`3K \le n`. Beyond, the bound exceeds 8 and
   any larger number is true; :math:`12 K / n` goes on continuously, so that vacuous values still compare networks.
5. *All networks at once.* The class of steps 2-4 is fixed before the data; norms and :math:`\theta` are read after. Each
   :math:`s_i`, :math:`b_i` is rounded up and :math:`\theta` down to :math:`e^{k h}`, k an integer, and :math:`\delta` is shared among the
   cells with weights :math:`\prod \frac{1}{2(|k|+1)(|k|+2)}`, which sum to at most 1. Steps h = 0.05/L for the :math:`s_i` and
   0.05 for the rest raise K by less than 17%, at a cost in :math:`\ln(1/p)` of about :math:`2 \ln |k|` a norm.

The bound concerns fresh examples of the same law as the n training ones, each drawn independently; augmented copies
are not independent. It is almost always vacuous (above 1): its use is to compare networks.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from torchstone.bounds.grid import cell_above, cell_below
from torchstone.bounds.margin import margin_choices
from torchstone.bounds.spectral import SpectralComplexity, log_complexity
from torchstone.errors import NumericalError, SettingError

_STEP = 0.05


def ramp_loss(margins: Tensor, theta: float) -> Tensor:
    r"""Ramp loss of margins: 1 at or below 0, :math:`1 - m/\theta` between, 0 at or above :math:`\theta`.

    Args:
        margins: (n,), in the unit of the logits.
        theta: Margin asked for, positive, in the same unit.

    Returns:
        Losses (n,) in [0, 1], float64.

    Raises:
        SettingError: A margin that is not positive and finite.

    Example:
        >>> ramp_loss(torch.tensor([-1.0, 0.5, 3.0]), theta=2.0).tolist()
        [1.0, 0.75, 0.0]

    Source: Bartlett, Foster & Telgarsky 2017, section 3.1.
    """
    check_theta(theta)
    return (1 - margins.detach().double() / theta).clamp(0, 1)


@dataclass(frozen=True)
class SpectralMarginBound:
    r"""A bound on the test error and its three parts.

    Args:
        empirical: Ramp risk :math:`\hat R_\theta` of the training sample.
        log_complexity_term: Logarithm of twice the Rademacher complexity's bound.
        deviation: The term of the sample's chance and of the choice among classes.
        theta: Margin it was evaluated at (rounded down to the grid).
        delta: Probability of failure.
    """

    empirical: float
    log_complexity_term: float
    deviation: float
    theta: float
    delta: float

    @property
    def complexity_term(self) -> float:
        """Twice the Rademacher complexity's bound; infinite where it exceeds the range of float64."""
        return math.exp(self.log_complexity_term) if self.log_complexity_term < 709.78 else math.inf

    @property
    def value(self) -> float:
        """Bound on the error; vacuous above 1, where it is still given."""
        return self.empirical + self.complexity_term + self.deviation


def spectral_margin_bound(
    complexity: SpectralComplexity,
    margins: Tensor,
    data_norm: float,
    theta: float | None = None,
    delta: float = 0.05,
) -> SpectralMarginBound:
    r"""Bound on the error of a trained classifier from its norms and its training margins; see the module for the proof.

    It holds for all margins at once, so without `theta` the best of 32 quantiles of the positive margins is taken.

    Cost: none beyond the margins; memory of them.

    Args:
        complexity: From `spectral_complexity`; references fixed before the data.
        margins: Training margins (n,), from `margins`, of the network the complexity is of.
        data_norm: :math:`\|X\|_F = (\sum_i \|x_i\|^2)^{1/2}` of the n inputs as the first layer gets them, without the
            constant unit (it is added here where biases need it).
        theta: Margin, in the unit of the logits; None to choose the best.
        delta: Probability of failure.

    Returns:
        The bound, given even when vacuous.

    Raises:
        SettingError: An empty sample, or theta, delta or the data norm out of range.
        NumericalError: NaN among the margins.

    Source: Bartlett, Foster & Telgarsky 2017, theorem 1.1; constants derived in the module.
    """
    n = margins.numel()
    if n < 1 or not (math.isfinite(data_norm) and data_norm >= 0) or not 0 < delta < 1:
        raise SettingError(
            "spectral_margin_bound needs margins, a finite data norm and delta in (0, 1)",
            f"{n} margins, data norm {data_norm}, delta {delta}",
            "Pass the margins and the Frobenius norm of the same training inputs.",
        )
    values = margins.detach().double().flatten()
    if bool(torch.isnan(values).any()):
        raise NumericalError("Margins must not be NaN", "NaN", "Find the layer that produced it.")
    norm = math.hypot(data_norm, math.sqrt(n)) if complexity.augmented else data_norm
    cell = _Cell.of(complexity)
    if theta is not None:
        return _at(cell, complexity, values, norm, theta, delta)
    found = [_at(cell, complexity, values, norm, choice, delta) for choice in margin_choices(values)]
    return min(found, key=lambda bound: (bound.value, bound.log_complexity_term))


def rademacher_term(log_k: float, n: int) -> float:
    r"""Logarithm of :math:`\frac{24 K}{n}(1 + \ln^+ \frac{n}{3K})`: twice the bound of step 4.

    Args:
        log_k: :math:`\ln K`, where the loss class on the sample has log-covering numbers :math:`K^2/\epsilon^2`.
        n: Number of examples.

    Returns:
        The logarithm; it increases with K.
    """
    if log_k == -math.inf:
        return -math.inf
    surplus = max(0.0, math.log(n) - math.log(3) - log_k)
    return math.log(24) + log_k - math.log(n) + math.log1p(surplus)


@dataclass(frozen=True)
class _Cell:
    """The grid cell of a network's norms."""

    log_complexity: float
    log_price: float

    @classmethod
    def of(cls, complexity: SpectralComplexity) -> _Cell:
        depth = len(complexity.operator_norms)
        norms = [cell_above(norm, _STEP / depth) for norm in complexity.operator_norms]
        moves = [cell_above(norm, _STEP) for norm in complexity.two_one_norms]
        total = log_complexity(
            [each.value for each in norms], [each.value for each in moves], complexity.lipschitz
        )
        return cls(total, sum(each.log_price for each in (*norms, *moves)))


def _at(
    cell: _Cell, complexity: SpectralComplexity, margins: Tensor, norm: float, theta: float, delta: float
) -> SpectralMarginBound:
    n = margins.numel()
    below = cell_below(check_theta(theta), _STEP)
    log_norm = math.log(norm) if norm > 0 else -math.inf
    log_k = (
        math.log(2)
        + log_norm
        + cell.log_complexity
        - math.log(below.value)
        + 0.5 * math.log(math.log(2 * complexity.width**2))
    )
    price = math.log(2 / delta) + cell.log_price + below.log_price
    return SpectralMarginBound(
        empirical=float(ramp_loss(margins, below.value).mean()),
        log_complexity_term=rademacher_term(log_k, n),
        deviation=3 * math.sqrt(price / (2 * n)),
        theta=below.value,
        delta=delta,
    )


def check_theta(theta: float) -> float:
    """The margin itself, where it is positive and finite."""
    if not (math.isfinite(theta) and theta > 0):
        raise SettingError(
            "theta must be positive and finite", str(theta), "Use a quantile of the positive margins."
        )
    return theta
