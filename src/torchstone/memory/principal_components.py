r"""Probabilistic principal component analysis: the linear-Gaussian autoencoder whose best fit is known in closed form."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from torchstone.errors import SettingError
from torchstone.memory.codelength import LOG_2PI, Codelength, linear_codelength
from torchstone.memory.span_projection import checked_rows


@dataclass(frozen=True)
class ProbabilisticPCA:
    r"""The law :math:`x = W y + \mu + s\epsilon`, :math:`y \sim N(0, I_k)`, :math:`\epsilon \sim N(0, I_d)`.

    Attributes:
        decoder: W, float64 (d, k).
        mean: mu, (d,).
        noise_variance: s^2.

    Source: Tipping & Bishop 1999.
    """

    decoder: Float[Tensor, "d k"]
    mean: Float[Tensor, " d"]
    noise_variance: float

    @classmethod
    def fit(cls, x: Tensor, components: int, *, least_variance: float = 1e-12) -> ProbabilisticPCA:
        r"""The maximum-likelihood fit: :math:`W = U_k (\Lambda_k - s^2 I)^{1/2}`, s^2 the mean of the other eigenvalues.

        Args:
            x: (N, d), N >= 2.
            components: k, 1 to d - 1.
            least_variance: Floor of s^2, as a share of the largest eigenvalue of the covariance (degenerate data).

        Returns:
            The law, float64.

        Raises:
            SettingError: Too few examples or components out of range.
            NumericalError: An entry is NaN or infinite.

        Source: Tipping & Bishop 1999, equations 7 and 8.
        """
        rows = checked_rows(x, "x")
        n, d = rows.shape
        if n < 2 or not 1 <= components < d:
            raise SettingError(
                "Principal components need two examples and 1 <= components < d",
                f"{n} examples, d = {d}, components = {components}",
                "Use fewer components.",
            )
        mean = rows.mean(0)
        _, singular, directions = torch.linalg.svd(rows - mean, full_matrices=False)
        values = torch.zeros(d, dtype=torch.float64, device=rows.device)
        values[: len(singular)] = singular.square() / n
        floor = least_variance * max(float(values[0]), torch.finfo(torch.float64).tiny)
        noise = max(float(values[components:].mean()), floor)
        kept = (values[:components] - noise).clamp(min=0).sqrt()
        decoder = torch.zeros(d, components, dtype=torch.float64, device=rows.device)
        found = min(components, len(directions))
        decoder[:, :found] = directions[:found].T * kept[:found]
        return cls(decoder, mean, noise)

    @property
    def posterior_covariance(self) -> Float[Tensor, "k k"]:
        """S = (I + W'W / s^2)^-1, the same for every x."""
        W = self.decoder
        eye = torch.eye(W.shape[1], dtype=W.dtype, device=W.device)
        return torch.linalg.inv(eye + W.T @ W / self.noise_variance)

    def encode(self, x: Tensor) -> Float[Tensor, "n k"]:
        """The posterior mean of the features, (N, k)."""
        return (
            (x.to(torch.float64) - self.mean) @ self.decoder @ self.posterior_covariance / self.noise_variance
        )

    def exact_bits(self, x: Tensor) -> Float[Tensor, " n"]:
        """-log2 p(x) of each example from its d x d covariance W W' + s^2 I, (N,)."""
        d = len(self.mean)
        covariance = self.decoder @ self.decoder.T + self.noise_variance * torch.eye(
            d, dtype=torch.float64, device=self.mean.device
        )
        factor = torch.linalg.cholesky(covariance)
        white = torch.linalg.solve_triangular(factor, (x.to(torch.float64) - self.mean).T, upper=False)
        nats = 0.5 * (d * LOG_2PI + white.square().sum(0)) + factor.diagonal().log().sum()
        return nats / math.log(2)

    def codelength(self, x: Tensor) -> Codelength:
        """The two-part bound with the exact posterior as encoder: its total equals `exact_bits`."""
        return linear_codelength(
            x, self.encode(x), self.posterior_covariance, self.decoder, self.mean, self.noise_variance
        )
