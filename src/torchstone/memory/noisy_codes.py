"""Bits of examples under a decoder that is known only by its values, with Gaussian features and noisy codes."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from torchstone.errors import SettingError
from torchstone.memory.codelength import LOG_2PI, Codelength, entropy_bits, gaussian_bits
from torchstone.memory.span_projection import checked_rows

ROUNDS = 50


@dataclass(frozen=True)
class CodeModel:
    r"""Gaussian features :math:`y \sim N(m, A)`, outputs :math:`x = g(y) + \sqrt v\,\epsilon`, codes sent as N(f(x), S).

    Attributes:
        mean: m, (k,).
        covariance: A, (k, k).
        noise_covariance: S, (k, k).
        noise_variance: v.
    """

    mean: Float[Tensor, " k"]
    covariance: Float[Tensor, "k k"]
    noise_covariance: Float[Tensor, "k k"]
    noise_variance: float


def fit_code_model(
    codes: Tensor, squared_errors: Tensor, gram: Tensor, dimensions: int, *, least_variance: float
) -> CodeModel:
    r"""The law of features and noises that suits given codes, reconstruction errors and the decoder's slope.

    Each is the best given the others, in turns: :math:`A = \mathrm{cov} f(x) + S`, to second order
    :math:`S = (A^{-1} + G / v)^{-1}`, and :math:`v = (E|x - g(f(x))|^2 + \mathrm{tr}(G S)) / d`, with G the mean of J'J for
    the decoder's Jacobian J. At the linear optimum this is probabilistic PCA. Any other values would still give a bound,
    only a larger one.

    Args:
        codes: f(x) of the training examples, (N, k).
        squared_errors: |x - g(f(x))|^2 of them, (N,).
        gram: G, (k, k).
        dimensions: d.
        least_variance: Floor of v, positive; networks that interpolate would reach 0.

    Raises:
        SettingError: Shapes that do not fit, or a floor that is not positive.
        NumericalError: Codes that are not finite.

    Source: Ollivier 2014, section 3 (noise from the second derivative of the codelength).
    """
    rows = checked_rows(codes, "codes")
    n, k = rows.shape
    if gram.shape != (k, k) or squared_errors.shape != (n,) or not least_variance > 0:
        raise SettingError(
            "A code model needs codes (N, k), errors (N,), gram (k, k) and a positive least variance",
            f"{tuple(codes.shape)}, {tuple(squared_errors.shape)}, {tuple(gram.shape)}, {least_variance}",
            "Pass one error a code.",
        )
    centred = rows - rows.mean(0)
    spread = centred.T @ centred / n
    eye = torch.eye(k, dtype=spread.dtype, device=spread.device)
    spread = spread + max(1e-9 * float(spread.trace()) / k, 1e-12) * eye  # dead features have no variance
    G, error = gram.to(spread.dtype), float(squared_errors.double().mean())
    A, v = spread, max(error / dimensions, least_variance)
    S = torch.linalg.inv(torch.linalg.inv(A) + G / v)
    for _ in range(ROUNDS):
        A, v = spread + S, max((error + float((G * S).sum())) / dimensions, least_variance)
        S = torch.linalg.inv(torch.linalg.inv(A) + G / v)
    S = (S + S.T) / 2
    return CodeModel(rows.mean(0), spread + S, S, v)


def noisy_code_bits(
    decode: Callable[[Tensor], Tensor],
    x: Tensor,
    codes: Tensor,
    model: CodeModel,
    *,
    draws: int,
    generator: torch.Generator,
) -> Codelength:
    r"""Bits of each example in three parts; the mean over draws of codes is an unbiased estimate of an upper bound.

    Cost: `draws` evaluations of the decoder on all codes.

    Args:
        decode: g, from codes (N, k) to reconstructions (N, d).
        x: (N, d).
        codes: f(x), (N, k).
        model: Laws of features and noises.
        draws: Codes drawn an example, at least 1.
        generator: Draws them, on the CPU.

    Returns:
        The three parts; the reconstruction is a mean over the draws, the others exact.

    Raises:
        SettingError: No draw, or shapes that do not fit.

    Source: Ollivier 2014, sections 2 and 3.
    """
    (n, d), k = x.shape, codes.shape[1]
    if draws < 1 or len(codes) != n or model.mean.shape != (k,):
        raise SettingError(
            "Codelengths need one code an example and at least one draw",
            f"{n} examples, codes {tuple(codes.shape)}, {draws} draws",
            "Pass f(x) for each x.",
        )
    y, S, A = codes.double(), model.noise_covariance, model.covariance
    root = torch.linalg.cholesky(S)
    squared = torch.zeros(n, dtype=torch.float64, device=y.device)
    for _ in range(draws):
        noise = torch.randn(n, k, generator=generator, dtype=torch.float64).to(y.device)
        squared += (x.double() - decode(y + noise @ root.T).double()).square().sum(1) / draws
    away = y - model.mean
    distance = (away * torch.linalg.solve(A, away.T).T).sum(1) + torch.linalg.solve(A, S).trace()
    features = 0.5 * (k * LOG_2PI + torch.linalg.slogdet(A).logabsdet + distance) / math.log(2)
    return Codelength(gaussian_bits(squared, d, model.noise_variance), features, -entropy_bits(S).expand(n))
