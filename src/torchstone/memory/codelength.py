r"""How many bits an autoencoder needs for an example: features, reconstruction, and what noisy features give back."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from torchstone.errors import NumericalError, SettingError
from torchstone.memory.span_projection import checked_rows

LOG_2PI = math.log(2 * math.pi)


@dataclass(frozen=True)
class Codelength:
    r"""Bits of each example, in three parts that add up to an upper bound on :math:`-\log_2 p(x)`.

    Densities stand for probabilities: with inputs known to a precision of h a coordinate, add d log2(1/h). So a codelength
    may be negative, and only differences for the same inputs mean anything.

    Attributes:
        reconstruction: :math:`E_y[-\log_2 g_y(x)]`, the input given its features, (N,).
        features: :math:`E_y[-\log_2 \rho(y)]`, the features, (N,).
        noise: Minus the entropy of the features' noise, which bits-back coding returns: :math:`-\frac12 \log_2\det(2\pi e
            S)`, (N,).
    """

    reconstruction: Float[Tensor, " n"]
    features: Float[Tensor, " n"]
    noise: Float[Tensor, " n"]

    @property
    def total(self) -> Float[Tensor, " n"]:
        """The sum of the three parts, (N,)."""
        return self.reconstruction + self.features + self.noise


def linear_codelength(
    x: Tensor, codes: Tensor, noise_covariance: Tensor, decoder: Tensor, mean: Tensor, noise_variance: float
) -> Codelength:
    r"""Bits of x under a linear decoder with Gaussian features and Gaussian output noise, for any encoder; exact.

    The decoder says :math:`x = W y + \mu + s\epsilon` with :math:`y \sim N(0, I)`; the encoder proposes
    :math:`y \sim N(f(x), S)`. Then :math:`L(x) = E_y[-\log_2 g_y(x) - \log_2 \rho(y)] - H(N(f(x), S)) \ge -\log_2 p(x)`,
    with equality exactly at the posterior: :math:`f(x) = S W^T (x - \mu) / s^2`, :math:`S = (I + W^T W / s^2)^{-1}`.

    Cost: products (N, d) x (d, k).

    Args:
        x: (N, d).
        codes: f(x), (N, k).
        noise_covariance: S, (k, k), positive definite.
        decoder: W, (d, k).
        mean: mu, (d,).
        noise_variance: s^2, positive.

    Returns:
        The three parts, bits an example, float64.

    Raises:
        SettingError: Shapes that do not fit, or a variance that is not positive.
        NumericalError: S is not positive definite.

    Source: Ollivier 2014, sections 2 and 3 (bounds by noisy features); Hinton & van Camp 1993 (bits back).
    """
    x, y, W = checked_rows(x, "x"), checked_rows(codes, "codes"), checked_rows(decoder, "decoder")
    (n, d), k = x.shape, W.shape[1]
    if y.shape != (n, k) or len(W) != d or mean.shape != (d,) or noise_covariance.shape != (k, k):
        raise SettingError(
            "codes (N, k), decoder (d, k), mean (d,) and noise_covariance (k, k) must fit x (N, d)",
            ", ".join(str(tuple(part.shape)) for part in (codes, decoder, mean, noise_covariance, x)),
            "Pass an example a row.",
        )
    check_variance(noise_variance)
    S = noise_covariance.to(torch.float64)
    residual = x - mean.to(torch.float64) - y @ W.T
    spread = float((W.T @ W * S).sum())  # the trace of W S W^T
    error = residual.square().sum(1) + spread
    reconstruction = gaussian_bits(error, d, noise_variance)
    features = gaussian_bits(y.square().sum(1) + S.trace(), k, 1.0)
    return Codelength(reconstruction, features, -entropy_bits(S).expand(n))


def gaussian_bits(squared: Tensor, dimensions: int, variance: float) -> Tensor:
    r"""Bits of a vector of a round normal law: :math:`\frac{1}{\ln 2}(\frac d2 \ln(2\pi v) + |r|^2 / 2v)`.

    Args:
        squared: |r|^2 of each vector, or its mean over what is random in it, (N,).
        dimensions: d.
        variance: v, positive.
    """
    check_variance(variance)
    nats = 0.5 * dimensions * (LOG_2PI + math.log(variance)) + squared / (2 * variance)
    return nats / math.log(2)


def entropy_bits(covariance: Tensor) -> Tensor:
    r"""Differential entropy of a normal law, :math:`\frac12 \log_2 \det(2\pi e S)`, in bits.

    Raises:
        NumericalError: S is not positive definite.
    """
    factor, failed = torch.linalg.cholesky_ex(covariance.to(torch.float64))
    if bool(failed.any()):
        raise NumericalError(
            "The covariance of a normal law is positive definite",
            "one that is not",
            "Add a small multiple of the identity.",
        )
    log_det = 2 * factor.diagonal(dim1=-2, dim2=-1).log().sum(-1)
    return 0.5 * (covariance.shape[-1] * (1 + LOG_2PI) + log_det) / math.log(2)


def check_variance(variance: float) -> None:
    """The variance must be positive and finite.

    Raises:
        SettingError: It is not.
    """
    if not 0 < variance < math.inf:
        raise SettingError(
            "noise_variance must be positive and finite", repr(variance), "Pass a variance, not a deviation."
        )
