r"""A denoising autoencoder knows the score: (r(y) - y) / s^2 is the gradient of the log density of noisy inputs.

For the optimal denoiser r(y) = E[x | y] this is an identity at every noise level s (Miyasawa; Tweedie's formula), about the
density p_s of *noisy* inputs. On Gaussian data the optimal denoiser is linear, Sigma (Sigma + s^2 I)^-1. For the density
of the clean data it is only a limit: the same vector is off by about s^2 / sigma^2.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from torchstone.atlas import Claim, Evidence, Scale, Theme
from torchstone.atlas.claims.memorisation._fitting import descend
from torchstone.details import Axis, Curve, Line, numbers
from torchstone.memory import (
    LinearDenoiser,
    gaussian_score,
    linear_denoiser,
    mixture_score,
    score_from_denoiser,
)

WIDTH, NOISE = 6, 0.5
CENTRES, SPREAD, MIXED_NOISE = (-1.5, 0.0, 2.0), 0.3, 0.25


@dataclass(frozen=True)
class Learnt:
    """A score learnt by a network on the line.

    Args:
        points: y, (M, 1).
        learnt: (r(y) - y) / s^2.
        true: The score at y.
        density: p_s(y), for weighing.
    """

    points: Tensor
    learnt: Tensor
    true: Tensor
    density: Tensor

    @property
    def error(self) -> float:
        """Root of the mean square error under p_s, relative to the score's own size."""
        weight = self.density / self.density.sum()
        size = (weight * self.true.square()[:, 0]).sum().sqrt()
        return float((weight * (self.learnt - self.true).square()[:, 0]).sum().sqrt() / size)


def run(scale: Scale, generator: torch.Generator) -> Evidence:
    """The score of the noisy density."""
    return experiment(scale, generator, noisy=True)


def counterexample(scale: Scale, generator: torch.Generator) -> Evidence:
    """The same vectors taken for the score of the clean density."""
    return experiment(scale, generator, noisy=False)


def experiment(scale: Scale, generator: torch.Generator, noisy: bool) -> Evidence:
    """A linear denoiser trained on Gaussian data, and a network trained on a mixture."""
    count = 50_000 if scale is Scale.QUICK else 500_000
    root = torch.randn(WIDTH, WIDTH, generator=generator, dtype=torch.float64)
    sigma = root @ root.T / WIDTH + 0.2 * torch.eye(WIDTH, dtype=torch.float64)
    x = torch.randn(count, WIDTH, generator=generator, dtype=torch.float64) @ torch.linalg.cholesky(sigma).T
    second_moment = x.T @ x / count
    weight = trained_linear(second_moment)
    y = x[:2000] + NOISE**0.5 * torch.randn(2000, WIDTH, generator=generator, dtype=torch.float64)
    learnt = score_from_denoiser(LinearDenoiser(weight, torch.zeros(WIDTH, dtype=torch.float64))(y), y, NOISE)
    extra = NOISE * torch.eye(WIDTH, dtype=torch.float64) if noisy else 0
    true = gaussian_score(y, sigma + extra)
    line = trained_on_a_mixture(scale, generator, noisy)
    return Evidence.all_of(
        Evidence.close(
            "trained linear denoiser against Sigma (Sigma + s^2 I)^-1 of its data",
            weight,
            linear_denoiser(second_moment, NOISE).weight,
            absolute=1e-6,
        ),
        Evidence.at_most(
            "relative error of the Gaussian score",
            (learnt - true).norm() / true.norm(),
            0.02,
            "sampling included",
        ),
        Evidence.at_most("relative error of the score of a mixture, learnt by a network", line.error, 0.02),
        figures=(scores(line),),
    )


def trained_linear(second_moment: Tensor) -> Tensor:
    """The weight that L-BFGS finds for E|W(x + s eps) - x|^2, the mean over the noise taken exactly."""
    weight = torch.zeros_like(second_moment, requires_grad=True)

    def loss() -> Tensor:
        off = weight - torch.eye(WIDTH, dtype=torch.float64)
        return (off @ second_moment * off).sum() + NOISE * weight.square().sum()

    descend([weight], loss, 500)
    return weight.detach()


def trained_on_a_mixture(scale: Scale, generator: torch.Generator, noisy: bool) -> Learnt:
    """A network on the line, trained on pairs of a clean number and a noisy one.

    The pairs are Gauss-Hermite nodes, of the clean law and of the noise, with their weights: the mean over all pairs there
    are. No pair holds anything but a clean number and that number plus noise.
    """
    centres = torch.tensor(CENTRES, dtype=torch.float64)[:, None]
    total = SPREAD**2 + MIXED_NOISE
    clean, clean_weight = normal_nodes(12 if scale is Scale.QUICK else 30)
    noise, noise_weight = normal_nodes(30 if scale is Scale.QUICK else 60)
    x = (centres + SPREAD * clean).flatten()[:, None]
    weight = (clean_weight / len(centres)).repeat(len(centres))[:, None] * noise_weight
    y = (x + MIXED_NOISE**0.5 * noise).reshape(-1, 1)
    target = x.expand(-1, len(noise)).reshape(-1, 1)
    model = tanh_network(generator)

    def loss() -> Tensor:
        return (weight.reshape(-1, 1) * (model(y) - target).square()).sum()

    descend([*model.parameters()], loss, 600 if scale is Scale.QUICK else 3000)
    between = torch.linspace(-3.2, 3.7, 400, dtype=torch.float64)[:, None]
    with torch.no_grad():
        learnt = score_from_denoiser(model(between), between, MIXED_NOISE)
    density = (-torch.cdist(between, centres).square() / (2 * total)).exp().mean(1)
    return Learnt(between, learnt, mixture_score(between, centres, total if noisy else SPREAD**2), density)


def normal_nodes(count: int) -> tuple[Tensor, Tensor]:
    """Nodes and weights of Gauss-Hermite quadrature for a standard normal law."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(count)
    return torch.from_numpy(nodes), torch.from_numpy(weights / weights.sum())


def tanh_network(generator: torch.Generator, units: int = 32) -> nn.Sequential:
    """A network on the line with one hidden layer."""
    first: Any = nn.utils.skip_init(nn.Linear, 1, units, dtype=torch.float64)
    last: Any = nn.utils.skip_init(nn.Linear, units, 1, dtype=torch.float64)
    model = nn.Sequential(first, nn.Tanh(), last)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
        last.weight.div_(units**0.5)
    return model


def scores(line: Learnt) -> Curve:
    """Learnt and true score on the line."""
    x = numbers(line.points[:, 0])
    return Curve(
        "The score that a denoising network learns",
        Axis("noisy input y"),
        Axis("gradient of the log density"),
        (
            Line("(r(y) - y) / s^2", x, numbers(line.learnt[:, 0])),
            Line("true score of the noisy density", x, numbers(line.true[:, 0])),
        ),
        caption="The curves cover each other. Zeros with falling score are modes of the noisy density.",
    )


CLAIM = Claim(
    id="denoising_score",
    theme=Theme.MEMORISATION,
    title="Denoising autoencoders learn the score",
    statement=(
        "The optimal denoiser of inputs with Gaussian noise of variance s^2 satisfies r(y) - y = s^2 grad log p_s(y), p_s the "
        "density of the noisy inputs; on Gaussian data it is Sigma (Sigma + s^2 I)^-1. Trained denoisers reach it."
    ),
    source="Miyasawa 1961; Efron 2011, equation 1.4; Alain & Bengio 2014, theorem 1 (the citation of this topic could not be "
    "resolved: the identity stands in for it)",
    assumptions=(
        "The denoiser minimises the expected squared error over the noise.",
        "The noise is Gaussian with the same variance in every coordinate.",
    ),
    refuted_by="a weight more than 1e-6 from the closed form, or a score that is 2% off",
    run=run,
    counterexample=counterexample,
    rows=("M12",),
)
