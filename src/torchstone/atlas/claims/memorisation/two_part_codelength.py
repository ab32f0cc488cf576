r"""Features plus reconstruction, less the noise given back: an upper bound on -log2 p(x) that is exact at one autoencoder.

With Gaussian features and output noise around a linear decoder, an encoder that sends y ~ N(f(x), S) pays

    E_y[-log2 g_y(x)] + E_y[-log2 rho(y)] - H(N(f(x), S)) = -log2 p(x) + KL(N(f(x), S) || p(y | x)) / ln 2.

The last term of the left side holds log det S: without it, features of infinite precision would cost nothing, and
the sum is no codelength. Trained, encoder and decoder reach probabilistic PCA, where bound and codelength agree.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from torchstone.atlas import Claim, Evidence, Scale, Theme
from torchstone.atlas.claims.memorisation._fitting import descend
from torchstone.details import Axis, Curve, Line, Marker, numbers
from torchstone.memory import ProbabilisticPCA, linear_codelength

EXAMPLES, WIDTH, FEATURES = 200, 6, 2


@dataclass(frozen=True)
class Bounds:
    """Mean bits an example.

    Args:
        trained: The bound that gradient descent reached over encoder, decoder and noises.
        steps: The bound on the way there.
    """

    trained: float
    steps: list[float]


def run(scale: Scale, generator: torch.Generator) -> Evidence:
    """All three terms."""
    return experiment(scale, generator, with_noise=True)


def counterexample(scale: Scale, generator: torch.Generator) -> Evidence:
    """Without the log-determinant term: reconstruction and features alone."""
    return experiment(scale, generator, with_noise=False)


def experiment(scale: Scale, generator: torch.Generator, with_noise: bool) -> Evidence:
    """At the PCA optimum, at disturbed encoders and decoders, and by training from random weights."""
    draw = lambda *shape: torch.randn(*shape, generator=generator, dtype=torch.float64)
    x = draw(EXAMPLES, FEATURES) @ (2 * draw(FEATURES, WIDTH)) + 0.5 * draw(EXAMPLES, WIDTH) + draw(WIDTH)
    law = ProbabilisticPCA.fit(x, FEATURES)
    exact = law.exact_bits(x)
    at_optimum = law.codelength(x)
    total = at_optimum.total if with_noise else at_optimum.reconstruction + at_optimum.features
    least = float(exact.mean())
    over_encoders, over_decoders = disturbed(
        law, x, 20 if scale is Scale.QUICK else 500, generator, with_noise
    )
    trained = trained_bound(x, generator, with_noise)
    return Evidence.all_of(
        Evidence.close("bits at the PCA optimum, each example", total, exact, absolute=1e-6),
        Evidence.at_least("least excess over -log2 p(x), other encoders", over_encoders, 0.0),
        Evidence.at_least("least mean excess over the optimum, other decoders", over_decoders, 0.0),
        Evidence.close(
            "mean bits reached by training from random weights", trained.trained, least, absolute=1e-6
        ),
        figures=(training_curve(trained, least), noise_curve(law, x, least)),
    )


def disturbed(
    law: ProbabilisticPCA, x: Tensor, draws: int, generator: torch.Generator, with_noise: bool
) -> tuple[float, float]:
    """Least excess of the bound: over the exact bits with other encoders; of its mean over the best with other decoders."""
    encoders, decoders = [], []
    exact = law.exact_bits(x)
    for number in range(draws):
        size = 10.0 ** -(number % 4)
        draw = lambda *shape, size=size: size * torch.randn(*shape, generator=generator, dtype=torch.float64)
        codes = law.encode(x) + draw(len(x), FEATURES)
        factor = torch.linalg.cholesky(law.posterior_covariance) + draw(FEATURES, FEATURES).tril()
        S = factor @ factor.T + 1e-12 * torch.eye(FEATURES, dtype=torch.float64)
        bound = linear_codelength(x, codes, S, law.decoder, law.mean, law.noise_variance)
        total = bound.total if with_noise else bound.reconstruction + bound.features
        encoders.append(float((total - exact).min()))
        moved = law.decoder + draw(WIDTH, FEATURES), law.mean + draw(WIDTH)
        other = ProbabilisticPCA(*moved, law.noise_variance * math.exp(float(draw(1))))
        decoders.append(float(other.codelength(x).total.mean() - exact.mean()))
    return min(encoders), min(decoders)


def trained_bound(x: Tensor, generator: torch.Generator, with_noise: bool) -> Bounds:
    """Minimise the mean bound over an affine encoder, its noise, the decoder and the output noise, by L-BFGS."""
    draw = lambda *shape: 0.3 * torch.randn(*shape, generator=generator, dtype=torch.float64)
    encoder, shift, factor = draw(FEATURES, WIDTH), draw(FEATURES), draw(FEATURES, FEATURES)
    decoder, mean, log_variance = draw(WIDTH, FEATURES), draw(WIDTH), draw(1)
    parameters = [one.requires_grad_(True) for one in (encoder, shift, factor, decoder, mean, log_variance)]

    def bits() -> Tensor:
        # Diagonal exp, the rest free: a Cholesky factor of S.
        lower = factor.tril(-1) + factor.diagonal().exp().diag()
        S, codes = lower @ lower.T, x @ encoder.T + shift
        residual = x - mean - codes @ decoder.T
        error = residual.square().sum(1).mean() + (decoder.T @ decoder * S).sum()
        variance = log_variance.exp()
        nats = 0.5 * WIDTH * (math.log(2 * math.pi) + log_variance) + error / (2 * variance)
        nats = nats + 0.5 * (FEATURES * math.log(2 * math.pi) + codes.square().sum(1).mean() + S.trace())
        if with_noise:
            nats = nats - 0.5 * FEATURES * (1 + math.log(2 * math.pi)) - factor.diagonal().sum()
        return nats.sum() / math.log(2)

    path = descend(parameters, bits, 600)
    return Bounds(float(bits().detach()), path)


def training_curve(bounds: Bounds, least: float) -> Curve:
    """The bound during training, less the optimum."""
    excess = [max(one - least, 1e-12) for one in bounds.steps]
    return Curve(
        "Training an autoencoder for its codelength",
        Axis("evaluations"),
        Axis("bits an example above the optimum", log=True),
        (Line("trained from random weights", numbers(range(len(excess))), numbers(excess)),),
        (Marker("tolerance of the check", 1e-6),),
        caption="The bound falls to the exact codelength of probabilistic PCA and not below.",
    )


def noise_curve(law: ProbabilisticPCA, x: Tensor, least: float) -> Curve:
    """The parts of the bound over the size of the features' noise."""
    scales = [2.0**k for k in range(-8, 5)]
    parts: dict[str, list[float]] = {"reconstruction and features": [], "with the noise given back": []}
    for scale in scales:
        S = scale**2 * law.posterior_covariance
        found = linear_codelength(x, law.encode(x), S, law.decoder, law.mean, law.noise_variance)
        parts["reconstruction and features"].append(float((found.reconstruction + found.features).mean()))
        parts["with the noise given back"].append(float(found.total.mean()))
    return Curve(
        "Precision of the features",
        Axis("deviation of the features' noise over that of the posterior", log=True),
        Axis("mean bits an example"),
        tuple(Line(name, numbers(scales), numbers(values)) for name, values in parts.items()),
        (Marker("-log2 p(x)", least),),
        caption="The whole bound touches -log2 p(x) at 1. Without the noise term nothing stops ever more precise features.",
    )


CLAIM = Claim(
    id="two_part_codelength",
    theme=Theme.MEMORISATION,
    title="Codelength of autoencoders",
    statement=(
        "Reconstruction plus features less the entropy of the features' noise bounds -log2 p(x) from above. For a linear "
        "Gaussian autoencoder it is exact at probabilistic PCA and its posterior, and larger everywhere else."
    ),
    source="Ollivier 2014, sections 2 and 3; Tipping & Bishop 1999 (the optimum)",
    assumptions=(
        "Features are Gaussian, outputs have Gaussian noise of one variance around a linear decoder.",
        "Codelengths are of densities: for inputs known to a precision h add log2(1/h) a coordinate.",
    ),
    refuted_by="a bound below -log2 p(x), or more than 1e-6 bits above it at the optimum",
    run=run,
    counterexample=counterexample,
    rows=("M13",),
)
