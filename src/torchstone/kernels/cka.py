r"""Centred kernel alignment: do two representations see the same similarities between examples?

With Gram matrices :math:`K = X X^\top`, :math:`L = Y Y^\top` of centred features,
:math:`\mathrm{CKA} = \mathrm{HSIC}(K, L) / \sqrt{\mathrm{HSIC}(K, K)\, \mathrm{HSIC}(L, L)}`: 1 for representations equal up
to rotation and scale, invariant to these and to nothing more (Kornblith et al. 2019, section 2).

The plain estimate is biased upwards, by about :math:`1/n` times the product of the effective dimensions' roots: two
*independent* wide representations of few examples come out near 1. The unbiased HSIC (a U-statistic) removes that.

All statistics are read off one set of row sums, so that each costs the smaller of :math:`n d_x d_y` (feature space)
and :math:`n^2 (d_x + d_y)` (Gram matrices).
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from torchstone.errors import NumericalError, SettingError


@dataclass(frozen=True)
class AlignmentEstimate:
    """Unbiased CKA and its error bar over the choice of examples.

    Args:
        value: The estimate; may fall slightly outside [0, 1].
        standard_error: From the jackknife.
        low: Lower end of the interval.
        high: Upper end of the interval.
        confidence: Nominal coverage.
    """

    value: float
    standard_error: float
    low: float
    high: float
    confidence: float


def linear_cka(x: Tensor, y: Tensor) -> float:
    r"""Linear CKA, :math:`\|Y^\top X\|_F^2 / (\|X^\top X\|_F \|Y^\top Y\|_F)` of centred features.

    Invariant to rotations and scalings of either side, not to other invertible maps.

    Bias: upwards where features are not far fewer than examples; see `unbiased_linear_cka`.
    Cost: the smaller of :math:`n (d_x + d_y)^2` and :math:`n^2 (d_x + d_y)`; float64 copies of the features.

    Args:
        x: Features (n, d_x), n >= 2; (n, ...) is flattened.
        y: Features (n, d_y) of the same examples, in the same order.

    Returns:
        A number in [0, 1].

    Raises:
        SettingError: Different or too few examples.
        NumericalError: NaN, infinite or constant features.

    Example:
        >>> x = torch.tensor([[1.0, 0.0], [0.0, 1.0], [2.0, 3.0]])
        >>> round(linear_cka(x, 5 * x.flip(1)), 9)
        1.0

    Source: Kornblith, Norouzi, Lee & Hinton 2019, equation 5 and section 3.
    """
    x, y = _centred(x, y, least=2)
    if x.shape[1] + y.shape[1] <= 2 * len(x):
        cross, own_x, own_y = (x.T @ y).square().sum(), (x.T @ x).norm(), (y.T @ y).norm()
    else:
        gram_x, gram_y = x @ x.T, y @ y.T
        cross, own_x, own_y = (gram_x * gram_y).sum(), gram_x.norm(), gram_y.norm()
    return float(cross / (own_x * own_y))


def unbiased_hsic(gram_x: Tensor, gram_y: Tensor) -> float:
    r"""Unbiased estimate of the Hilbert-Schmidt independence criterion from two Gram matrices, of any kernels.

    With zeroed diagonals, :math:`\frac{1}{n(n-3)} \big[\mathrm{tr}(\tilde K \tilde L)
    + \frac{1^\top \tilde K 1\, 1^\top \tilde L 1}{(n-1)(n-2)} - \frac{2}{n-2} 1^\top \tilde K \tilde L 1\big]`.

    Cost: :math:`O(n^2)`. Bias: none; it is negative about half of the time for independent representations.

    Args:
        gram_x: (n, n), symmetric, n >= 4; not necessarily centred.
        gram_y: (n, n), symmetric.

    Returns:
        The estimate, in the product of the kernels' units.

    Raises:
        SettingError: Not two square matrices of one size, or fewer than 4 examples.
        NumericalError: NaN or infinite entries.

    Source: Song, Smola, Gretton, Bedo & Borgwardt 2012, equation 5.
    """
    if (
        gram_x.ndim != 2
        or gram_x.shape[0] != gram_x.shape[1]
        or gram_x.shape != gram_y.shape
        or len(gram_x) < 4
    ):
        raise SettingError(
            "unbiased_hsic needs two (n, n) Gram matrices of the same n >= 4 examples",
            f"{tuple(gram_x.shape)} and {tuple(gram_y.shape)}",
            "Compute both kernels on the same batch.",
        )
    if not bool(torch.isfinite(gram_x).all() and torch.isfinite(gram_y).all()):
        raise NumericalError("Gram matrices must be finite", "NaN or infinity", "Check the features.")
    k, l = gram_x.detach().double(), gram_y.detach().double()
    k, l = k - torch.diag(k.diagonal()), l - torch.diag(l.diagonal())
    rows = _RowSums(k.sum(1), l.sum(1), (k * l).sum(1), torch.zeros(()), torch.zeros(()))
    return float(rows.hsic())


def unbiased_linear_hsic(x: Tensor, y: Tensor) -> float:
    """Unbiased HSIC of two representations under linear kernels, without Gram matrices where features are few.

    Args:
        x: Features (n, d_x), n >= 4.
        y: Features (n, d_y) of the same examples.

    Returns:
        The estimate; its mean is the squared Frobenius norm of the cross-covariance.

    Raises:
        SettingError: Different or too few examples.
        NumericalError: NaN or infinite features.

    Source: Song et al. 2012, equation 5.
    """
    return float(_row_sums(*_centred(x, y, least=4, varying=False)).hsic())


def unbiased_linear_cka(x: Tensor, y: Tensor) -> float:
    r"""Linear CKA from unbiased HSIC estimates: about 0 for independent representations of any width.

    It estimates :math:`\|\Sigma_{xy}\|_F^2 / (\|\Sigma_{xx}\|_F \|\Sigma_{yy}\|_F)` of the law of the examples; as a ratio it
    keeps a bias of order 1/n times the value.

    Args:
        x: Features (n, d_x), n >= 4.
        y: Features (n, d_y) of the same examples.

    Returns:
        At most about 1, slightly negative at times.

    Raises:
        SettingError: Different or too few examples.
        NumericalError: NaN, infinite or constant features, or too few examples to see any variance.

    Source: Nguyen, Raghu & Kornblith 2021, section 2; Song et al. 2012.
    """
    x, y = _centred(x, y, least=4)
    return _ratio(*(float(_row_sums(*pair).hsic()) for pair in ((x, y), (x, x), (y, y))))


def minibatch_linear_cka(batches: Iterable[tuple[Tensor, Tensor]]) -> float:
    """Linear CKA from unbiased HSIC averaged over batches: features of all examples are never held together.

    Batches are weighted by their size. Examples of one batch should be a random sample.

    Args:
        batches: Pairs (features x, features y) of the same examples, at least 4 a batch.

    Returns:
        The ratio of averages, an estimate of the same quantity as `unbiased_linear_cka` with a larger variance.

    Raises:
        SettingError: No batches, or one of fewer than 4 examples.
        NumericalError: NaN, infinite or constant features.

    Source: Nguyen, Raghu & Kornblith 2021, equation 2.
    """
    totals, seen = [0.0, 0.0, 0.0], 0
    for features_x, features_y in batches:
        x, y = _centred(features_x, features_y, least=4, varying=False)
        for i, pair in enumerate(((x, y), (x, x), (y, y))):
            totals[i] += len(x) * float(_row_sums(*pair).hsic())
        seen += len(x)
    if seen == 0:
        raise SettingError("minibatch_linear_cka needs at least one batch", "none", "Pass pairs of features.")
    return _ratio(*totals)


def linear_cka_interval(x: Tensor, y: Tensor, confidence: float = 0.95) -> AlignmentEstimate:
    r"""Unbiased linear CKA with a jackknife interval over the choice of examples.

    Each example is left out in turn; all n estimates follow from row sums, so the cost is that of one estimate.
    :math:`se^2 = \frac{n-1}{n} \sum_i (c_i - \bar c)^2`, and the interval is Student's with n - 1 degrees.

    The bootstrap is no option here: a repeated example is similar to itself, which raises every alignment.
    The jackknife is consistent for smooth functions of U-statistics; for independent representations, where the U-statistic
    degenerates, its variance is too large (Efron & Stein 1981), so the interval is conservative there.

    Args:
        x: Features (n, d_x), n >= 5.
        y: Features (n, d_y) of the same examples, which must be independent.
        confidence: Nominal coverage.

    Returns:
        The estimate with its standard error and interval; the interval is cut to [-1, 1].

    Raises:
        SettingError: Different or too few examples, or a confidence out of range.
        NumericalError: NaN, infinite or constant features.

    Source: Arvesen 1969 (jackknifing U-statistics); Efron & Stein 1981.
    """
    from scipy.special import stdtrit

    if not 0 < confidence < 1:
        raise SettingError("confidence must lie strictly between 0 and 1", str(confidence), "Use 0.95.")
    x, y = _centred(x, y, least=5)
    cross, own_x, own_y = (_row_sums(*pair) for pair in ((x, y), (x, x), (y, y)))
    value = _ratio(float(cross.hsic()), float(own_x.hsic()), float(own_y.hsic()))
    left_out = cross.hsic_without_each() / own_x.hsic_without_each().sqrt() / own_y.hsic_without_each().sqrt()
    if not bool(torch.isfinite(left_out).all()):
        raise NumericalError(
            "linear_cka_interval needs features that vary without any single example",
            f"{int((~torch.isfinite(left_out)).sum())} undefined leave-one-out values",
            "Use more examples.",
        )
    n = len(x)
    error = math.sqrt((n - 1) / n * float((left_out - left_out.mean()).square().sum()))
    half = float(stdtrit(n - 1, (1 + confidence) / 2)) * error
    return AlignmentEstimate(value, error, max(-1.0, value - half), min(1.0, value + half), confidence)


@dataclass(frozen=True)
class _RowSums:
    """Row sums of two Gram matrices with zero diagonals, from which HSIC and its leave-one-out values follow."""

    k: Tensor  # K 1
    l: Tensor  # L 1
    product: Tensor  # (K * L) 1
    k_of_l: Tensor  # K L 1
    l_of_k: Tensor  # L K 1

    def hsic(self) -> Tensor:
        """The U-statistic."""
        return _hsic(self.product.sum(), self.k.sum(), self.l.sum(), (self.k * self.l).sum(), len(self.k))

    def hsic_without_each(self) -> Tensor:
        """The U-statistic of the other n - 1 examples, for each example (n,)."""
        # Leaving out row and column i of K and L; the diagonal is zero, so nothing is counted twice.
        trace = self.product.sum() - 2 * self.product
        both = (self.k * self.l).sum() - self.k * self.l - self.k_of_l - self.l_of_k + self.product
        return _hsic(trace, self.k.sum() - 2 * self.k, self.l.sum() - 2 * self.l, both, len(self.k) - 1)


def _hsic(trace: Tensor, sum_k: Tensor, sum_l: Tensor, both: Tensor, n: int) -> Tensor:
    return (trace + sum_k * sum_l / ((n - 1) * (n - 2)) - 2 / (n - 2) * both) / (n * (n - 3))


def _row_sums(x: Tensor, y: Tensor) -> _RowSums:
    """Row sums for linear kernels of centred features, in feature space or with Gram matrices."""
    n, dx, dy = len(x), x.shape[1], y.shape[1]
    own_x, own_y = x.square().sum(1), y.square().sum(1)
    if dx * dy <= n * (dx + dy):
        product = ((x @ (x.T @ y)) * y).sum(1) - own_x * own_y
    else:
        product = ((x @ x.T) * (y @ y.T)).sum(1) - own_x * own_y
    k, l = x @ x.sum(0) - own_x, y @ y.sum(0) - own_y
    return _RowSums(k, l, product, x @ (x.T @ l) - own_x * l, y @ (y.T @ k) - own_y * k)


def _ratio(cross: float, own_x: float, own_y: float) -> float:
    if not (own_x > 0 and own_y > 0):
        raise NumericalError(
            "CKA needs representations whose own unbiased HSIC is positive",
            f"{own_x} and {own_y}",
            "Use more examples, or drop a layer whose features are nearly constant.",
        )
    # Two roots, since the product of fourth powers of small or large features leaves the range first.
    return cross / math.sqrt(own_x) / math.sqrt(own_y)


def _centred(x: Tensor, y: Tensor, least: int, varying: bool = True) -> tuple[Tensor, Tensor]:
    """Both representations as centred float64 matrices; centring changes no U-statistic."""
    if x.ndim < 2 or y.ndim < 2 or len(x) != len(y) or len(x) < least:
        raise SettingError(
            f"CKA needs features (n, d) of the same n >= {least} examples",
            f"shapes {tuple(x.shape)} and {tuple(y.shape)}",
            "Pass both layers' features of one batch.",
        )
    return _centred_one(x, varying), _centred_one(y, varying)


def _centred_one(x: Tensor, varying: bool) -> Tensor:
    x = x.detach().flatten(1).double()
    if not bool(torch.isfinite(x).all()):
        raise NumericalError(
            "Features must be finite", "NaN or infinity", "Find the layer that produced them."
        )
    centred = x - x.mean(0)
    rounding = 8 * torch.finfo(torch.float64).eps * float(x.abs().max()) * math.sqrt(x.numel())
    if varying and float(centred.norm()) <= rounding:
        raise NumericalError(
            "CKA needs features that vary", "constant features", "Drop this layer: it is dead."
        )
    return centred
