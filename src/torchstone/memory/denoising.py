r"""Denoising autoencoders: the best reconstruction from noisy inputs points along the score, the gradient of log density."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from torchstone.errors import NumericalError, SettingError
from torchstone.memory.span_projection import checked_rows


@dataclass(frozen=True)
class LinearDenoiser:
    """r(x) = mean + W (x - mean).

    Attributes:
        weight: W, float64 (d, d), for columns.
        mean: (d,).
    """

    weight: Float[Tensor, "d d"]
    mean: Float[Tensor, " d"]

    def __call__(self, x: Tensor) -> Tensor:
        """Reconstructions of rows (B, d)."""
        return self.mean + (x.to(torch.float64) - self.mean) @ self.weight.T


def linear_denoiser(covariance: Tensor, noise_variance: float, mean: Tensor | None = None) -> LinearDenoiser:
    r"""The affine map that reconstructs best from inputs with Gaussian noise: :math:`W = \Sigma (\Sigma + s^2 I)^{-1}`.

    It minimises :math:`E|r(x + s\epsilon) - x|^2` over all affine r for any law with this mean and covariance, and over all
    functions where the law is Gaussian.

    Cost: a Cholesky decomposition d x d.

    Args:
        covariance: Sigma, (d, d), symmetric and positive semi-definite.
        noise_variance: s^2, positive, a coordinate.
        mean: (d,); None for 0.

    Returns:
        The denoiser, float64.

    Raises:
        SettingError: A noise variance that is not positive, or shapes that do not fit.
        NumericalError: A covariance that is not finite, symmetric and positive semi-definite.

    >>> linear_denoiser(torch.eye(1), 1.0)(torch.tensor([[3.0]]))
    tensor([[1.5000]], dtype=torch.float64)

    Source: Vincent, Larochelle, Bengio & Manzagol 2008 (the criterion); Wiener 1949 (the linear optimum).
    """
    sigma = checked_rows(covariance, "covariance")
    d = len(sigma)
    centre = torch.zeros(d, dtype=torch.float64) if mean is None else mean.detach().to(torch.float64)
    if not 0 < noise_variance < float("inf") or sigma.shape != (d, d) or centre.shape != (d,):
        raise SettingError(
            "A denoiser needs a covariance (d, d), a mean (d,) and a positive noise variance",
            f"{tuple(sigma.shape)}, {tuple(centre.shape)}, {noise_variance}",
            "Pass the variance of the noise, not its deviation.",
        )
    size = torch.linalg.matrix_norm(sigma)
    least = float(torch.linalg.eigvalsh((sigma + sigma.T) / 2)[0])
    if float((sigma - sigma.T).norm()) > 1e-8 * size or least < -1e-8 * size:
        raise NumericalError(
            "A covariance is symmetric and positive semi-definite",
            f"smallest eigenvalue {least:.3g}",
            "Compute it from data, or symmetrise it.",
        )
    sigma = (sigma + sigma.T) / 2
    noisy = sigma + noise_variance * torch.eye(d, dtype=torch.float64, device=sigma.device)
    # W = Sigma A^-1 with symmetric A: its transpose is A^-1 Sigma.
    weight = torch.cholesky_solve(sigma, torch.linalg.cholesky(noisy)).T
    return LinearDenoiser(weight, centre.to(sigma.device))


def score_from_denoiser(reconstructed: Tensor, noisy: Tensor, noise_variance: float) -> Tensor:
    r"""The score that a denoiser implies: :math:`(r(y) - y) / s^2`.

    For the optimal denoiser r(y) = E[x | y] it is exactly :math:`\nabla \log p_s(y)`, the score of the *noisy* law
    :math:`p_s = p * N(0, s^2 I)`, at every s. It tends to the score of p itself only as s -> 0, with an error of order s^2.

    Args:
        reconstructed: r(y), (B, ...).
        noisy: y, (B, ...).
        noise_variance: s^2, positive.

    Returns:
        (B, ...).

    Raises:
        SettingError: Shapes that differ, or a variance that is not positive.

    Source: Miyasawa 1961; Efron 2011, equation 1.4 (Tweedie's formula); Alain & Bengio 2014, theorem 1 (s -> 0).
    """
    if reconstructed.shape != noisy.shape or not noise_variance > 0:
        raise SettingError(
            "A score needs reconstructions and inputs of one shape, and a positive noise variance",
            f"{tuple(reconstructed.shape)}, {tuple(noisy.shape)}, {noise_variance}",
            "Pass r(y), y and the variance of the noise.",
        )
    return (reconstructed - noisy) / noise_variance


def gaussian_score(x: Tensor, covariance: Tensor, mean: Tensor | None = None) -> Float[Tensor, "b d"]:
    r"""Gradient of the log density of a normal law: :math:`-\Sigma^{-1}(x - \mu)`.

    Args:
        x: (B, d).
        covariance: (d, d), positive definite.
        mean: (d,); None for 0.

    Returns:
        Float64 (B, d).
    """
    centred = x.to(torch.float64) - (0 if mean is None else mean.to(torch.float64))
    return -torch.linalg.solve(covariance.to(torch.float64), centred.T).T


def mixture_score(
    x: Tensor, centres: Tensor, variance: float, weights: Tensor | None = None
) -> Float[Tensor, "b d"]:
    r"""Score of a mixture of round normal laws: :math:`\sum_k p(k|x) (c_k - x) / v`.

    With the training examples as centres and the noise variance as v, it is the score that a denoiser learns from finitely
    many examples: the reconstruction moves to a weighted mean of training examples.

    Args:
        x: (B, d).
        centres: (K, d).
        variance: v, positive.
        weights: (K,), positive; None for equal ones.

    Returns:
        Float64 (B, d).

    Raises:
        SettingError: A variance that is not positive.
    """
    if not variance > 0:
        raise SettingError("variance must be positive", repr(variance), "Pass a variance, not a deviation.")
    x, centres = x.to(torch.float64), centres.to(torch.float64)
    logits = -torch.cdist(x, centres).square() / (2 * variance)
    if weights is not None:
        logits = logits + weights.to(torch.float64).log()
    return (logits.softmax(1) @ centres - x) / variance
