"""How many directions a representation uses: the spectrum of its covariance and what is read from it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from torchstone.errors import NumericalError, SettingError


def covariance_spectrum(features: Tensor, centre: bool = True, chunk: int = 4096) -> Tensor:
    r"""Eigenvalues of the covariance of features, largest first.

    :math:`\Sigma = \frac{1}{N-1} \sum_i (x_i - \bar x)(x_i - \bar x)^\top`, or :math:`\frac{1}{N}\sum_i x_i x_i^\top`
    uncentred. The smaller of the d x d and N x N Gram matrices is formed, in float64.

    Cost: :math:`O(N d \min(N, d))` time, :math:`O(\min(N, d)^2)` memory beyond the features.
    Accuracy: eigenvalues are right to about :math:`10^{-15}` of the *largest*; smaller ones are rounding.
    Bias: with N examples of isotropic features the sample's eigenvalues spread over
    :math:`(1 \pm \sqrt{d/N})^2` (Marchenko & Pastur 1967), so the quantities below look less isotropic than the truth.

    Args:
        features: (N, d), finite; (N, ...) is flattened.
        centre: Whether to subtract the mean.
        chunk: Rows (or columns) converted to float64 at once.

    Returns:
        All d eigenvalues (d,) in float64, non-negative; those beyond the rank of the sample are zero.

    Raises:
        SettingError: Fewer than 2 examples.
        NumericalError: NaN or infinite features.

    Example:
        >>> covariance_spectrum(torch.tensor([[1.0, 0.0], [-1.0, 0.0]])).tolist()
        [2.0, 0.0]
    """
    x = _checked_features(features)
    n, d = x.shape
    mean = _mean(x, chunk) if centre else torch.zeros(d, dtype=torch.float64, device=x.device)
    gram = torch.zeros(min(n, d), min(n, d), dtype=torch.float64, device=x.device)
    if d <= n:
        for rows in x.split(chunk):
            part = rows.double() - mean
            gram += part.T @ part
    else:
        for columns, means in zip(x.split(chunk, dim=1), mean.split(chunk), strict=True):
            part = columns.double() - means
            gram += part @ part.T
    values = torch.linalg.eigvalsh(gram / (n - 1 if centre else n)).flip(0)
    values = _without_rounding(values, x)
    return torch.cat([values, values.new_zeros(d - len(values))])


def effective_rank(spectrum: Tensor) -> float:
    r"""Exponential of the entropy of the normalised spectrum, :math:`\exp(-\sum_i p_i \ln p_i)`, between 1 and d.

    Applied here to covariance eigenvalues. Roy & Vetterli define it on the singular values of a matrix: pass
    `spectrum.sqrt()` for the effective rank of the feature matrix itself, which is larger.

    Args:
        spectrum: Non-negative values (d,), in any order.

    Returns:
        The number of directions; d when all are equal.

    Raises:
        NumericalError: Negative, NaN or all-zero values.

    Example:
        >>> round(effective_rank(torch.tensor([1.0, 1.0, 0.0])), 6)
        2.0

    Source: Roy & Vetterli 2007 (EUSIPCO), section 2.
    """
    p = _checked_spectrum(spectrum)
    p = p / p.sum()
    return float(torch.special.entr(p).sum().exp())


def participation_ratio(spectrum: Tensor) -> float:
    r"""Number of directions that share the variance, :math:`(\sum_i \lambda_i)^2 / \sum_i \lambda_i^2`, between 1 and d.

    Never above the effective rank (the entropies of Renyi decrease with their order).

    Bias: for isotropic Gaussian features in d dimensions the sample's value tends to :math:`d / (1 + d/N)`.

    Args:
        spectrum: Non-negative values (d,).

    Returns:
        The number of directions.

    Raises:
        NumericalError: Negative, NaN or all-zero values.
    """
    values = _checked_spectrum(spectrum)
    return float(values.sum().square() / values.square().sum())


def stable_rank(spectrum: Tensor) -> float:
    r"""Trace over the largest eigenvalue: :math:`\|X\|_F^2 / \|X\|_2^2` of the centred feature matrix.

    Args:
        spectrum: Covariance eigenvalues (d,).

    Returns:
        A number between 1 and the rank.

    Raises:
        NumericalError: Negative, NaN or all-zero values.

    Source: Rudelson & Vershynin 2007, remark 1.3.
    """
    values = _checked_spectrum(spectrum)
    return float(values.sum() / values.max())


def condition_number(spectrum: Tensor, floor: float = 1e-14) -> float:
    """Largest over smallest eigenvalue; infinite where the smallest is below `floor` of the largest (rounding).

    Args:
        spectrum: Covariance eigenvalues (d,).
        floor: Relative size below which an eigenvalue counts as zero.

    Returns:
        A number of at least 1, or infinity for a singular covariance.

    Raises:
        NumericalError: Negative, NaN or all-zero values.
    """
    values = _checked_spectrum(spectrum)
    ratio = float(values.min() / values.max())
    return 1 / ratio if ratio > floor else float("inf")


def isotropy(spectrum: Tensor) -> float:
    r"""Participation ratio over the dimension, in [1/d, 1]; 1 exactly when the covariance is a multiple of I.

    The relative distance to isotropy :math:`\|\Sigma / \bar\lambda - I\|_F / \sqrt d` equals
    :math:`\sqrt{1/\mathrm{isotropy} - 1}`.

    Args:
        spectrum: All d covariance eigenvalues, zeros included.

    Returns:
        The share of directions in use.

    Raises:
        NumericalError: Negative, NaN or all-zero values.

    Source: the statistic of John 1972's test of sphericity is 1/isotropy - 1.
    """
    return participation_ratio(spectrum) / len(spectrum)


@dataclass(frozen=True)
class Whitening:
    """An affine map fitted to features: `apply` centres and decorrelates them.

    Args:
        mean: (d,) in float64.
        matrix: Symmetric (d, d) in float64.
        rank: Directions kept; below d the output's covariance is a projection of that rank.
    """

    mean: Tensor
    matrix: Tensor
    rank: int

    def apply(self, x: Tensor) -> Tensor:
        """Whitened features (N, d) in float64."""
        return (x.flatten(1).double() - self.mean) @ self.matrix


def zca_whitening(features: Tensor, regularisation: float = 0.0, floor: float = 1e-12) -> Whitening:
    r"""The symmetric whitening :math:`W = (\Sigma + \epsilon \bar\lambda I)^{-1/2}`: the one that moves the data least.

    With no regularisation the fitted features have covariance I; directions whose variance is below `floor` of the
    largest hold only rounding and are mapped to zero (pseudo-inverse).

    Cost: :math:`O(N d^2 + d^3)` time, three d x d matrices.

    Args:
        features: (N, d), finite, N >= 2.
        regularisation: :math:`\epsilon`, relative to the mean eigenvalue :math:`\bar\lambda`.
        floor: Relative variance below which a direction counts as empty.

    Returns:
        The map.

    Raises:
        SettingError: Fewer than 2 examples or a negative regularisation.
        NumericalError: NaN, infinite or constant features.

    Source: Bell & Sejnowski 1997; Kessy, Lewin & Strimmer 2018, section 3.
    """
    if regularisation < 0:
        raise SettingError(
            "regularisation must be non-negative", str(regularisation), "Use 0 for exact whitening."
        )
    x = _checked_features(features).double()
    mean = x.mean(dim=0)
    centred = x - mean
    values, vectors = torch.linalg.eigh(centred.T @ centred / (len(x) - 1))
    values = _without_rounding(values, x)
    _checked_spectrum(values)
    shifted = values + regularisation * values.mean()
    keep = shifted > floor * values.max()
    root = torch.where(keep, shifted.clamp(min=0).rsqrt(), torch.zeros_like(shifted))
    return Whitening(mean, (vectors * root) @ vectors.T, int(keep.sum()))


def _mean(x: Tensor, chunk: int) -> Tensor:
    total = torch.zeros(x.shape[1], dtype=torch.float64, device=x.device)
    for rows in x.split(chunk):
        total += rows.double().sum(dim=0)
    return total / len(x)


def _without_rounding(values: Tensor, x: Tensor) -> Tensor:
    """Sets to zero what centring constant features leaves: variances of order (machine epsilon x size)^2."""
    noise = 64 * x.shape[1] * (torch.finfo(torch.float64).eps * float(x.abs().max())) ** 2
    return torch.where(values > noise, values, torch.zeros_like(values))


def _checked_features(features: Tensor) -> Tensor:
    if features.ndim < 2 or len(features) < 2:
        raise SettingError(
            "A covariance needs features (N, d) of at least 2 examples",
            f"shape {tuple(features.shape)}",
            "Pass more examples, one row each.",
        )
    features = features.detach().flatten(1)
    if not bool(torch.isfinite(features).all()):
        raise NumericalError(
            "Features must be finite", "NaN or infinity", "Find the layer that produced them."
        )
    return features


def _checked_spectrum(spectrum: Tensor) -> Tensor:
    values = spectrum.detach().double()
    good = values.ndim == 1 and bool(torch.isfinite(values).all()) and bool((values >= 0).all())
    if not good or not float(values.sum()) > 0:
        raise NumericalError(
            "A spectrum must hold non-negative finite values, one of them positive",
            f"{spectrum.numel()} values, sum {float(values.sum())}",
            "Constant features have no spectrum: nothing varies between examples.",
        )
    return values / values.max()
