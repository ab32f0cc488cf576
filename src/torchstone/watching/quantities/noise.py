r"""How noisy the gradient is: noise scale, signal-to-noise, and the tests that choose a batch size.

With per-example gradients g_n of N probe examples, mean g and covariance trace tr(S):

    noise scale          B_simple = tr(S) / |g|^2                     (the critical batch size: McCandlish et al. 2018, (2.9))
    signal-to-noise      |g| / sqrt(tr(S) / B)                        of a batch of B
    norm test            tr(S) / (B |g|^2) <= theta^2                 (Byrd et al. 2012)
    inner product test   Var(<g_n, g>) / (B |g|^4) <= theta^2         (Bollapragada et al. 2018)
    orthogonality test   E|g_n - <g_n, g> g / |g|^2|^2 / (B |g|^2)    (the same, section 3)

|g|^2, |g|^4 and E<g_n, g>^2 are estimated without bias by U-statistics: means of <g_n, g_m>, <g_n, g_m> <g_k, g_l> and
<g_n, g_m> <g_n, g_k> over different examples. With the mean gradient in place of g, each example would meet itself in it,
which swamps the tests as soon as the noise scale exceeds N. The estimate of |g|^2 can be negative where there is nothing but
noise; then the ratios are infinite. Its standard error is the jackknife's.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from torchstone.errors import NotApplicableError
from torchstone.operators import gradient_gram
from torchstone.watching.alerts import NOISY
from torchstone.watching.quantities.base import Quantity
from torchstone.watching.record import Alert, Series
from torchstone.watching.state import Measured, State

THETA = (
    0.9  # of the inner product test, and tan(80 degrees) of the orthogonality test, as their paper has them
)
NU = 5.67
FEW = 10
"""Batches in the critical size from which on a step is dominated by noise: its mean square is ten times the signal's."""


@dataclass(frozen=True)
class GradientNoise:
    """Noise of the gradient on a set of examples.

    Attributes:
        squared_norm: Unbiased estimate of |g|^2.
        squared_norm_error: Its standard error.
        covariance_trace: tr(S).
        inner_variance: Variance of <g_n, g>.
        orthogonal: Mean squared norm of g_n's part orthogonal to g.
    """

    squared_norm: float
    squared_norm_error: float
    covariance_trace: float
    inner_variance: float
    orthogonal: float

    @property
    def noise_scale(self) -> float:
        """B_simple, the critical batch size; infinite where no signal is seen."""
        return self.covariance_trace / self.squared_norm if self.squared_norm > 0 else math.inf

    @property
    def surely_at_least(self) -> float:
        """What the noise scale surely exceeds: with |g|^2 three standard errors above its estimate."""
        above = self.squared_norm + 3 * self.squared_norm_error
        return self.covariance_trace / above if above > 0 else 0.0

    def batch_sizes(self) -> dict[str, float]:
        """The batch size at which each test is just passed."""
        if self.squared_norm <= 0:
            return dict.fromkeys(("norm", "inner_product", "orthogonality"), math.inf)
        return {
            "norm": self.covariance_trace / self.squared_norm / THETA**2,
            "inner_product": self.inner_variance / self.squared_norm**2 / THETA**2,
            "orthogonality": self.orthogonal / self.squared_norm / NU**2,
        }


def gradient_noise(gram: Float[Tensor, "n n"]) -> GradientNoise:
    """All of it from the inner products <g_n, g_m> of at least four examples' gradients, none of which is formed."""
    gram = gram.double()
    n = len(gram)
    squares = gram.diagonal()
    others = gram - torch.diag(squares)
    rows, products = others.sum(1), float(others.square().sum())
    total = float(rows.sum())
    signal = total / (n * (n - 1))
    without = (total - 2 * rows) / ((n - 1) * (n - 2))
    error = math.sqrt((n - 1) / n * float((without - without.mean()).square().sum()))
    along = (float(rows.square().sum()) - products) / (n * (n - 1) * (n - 2))
    fourth = total**2 - 4 * float(rows.square().sum()) + 2 * products
    fourth /= n * (n - 1) * (n - 2) * (n - 3)
    size = float(squares.mean())
    orthogonal = max(0.0, size - along / signal) if signal > 0 else size
    return GradientNoise(signal, error, max(0.0, size - signal), max(0.0, along - fourth), orthogonal)


class Noise(Quantity):
    """Gradient noise on the probe's training examples.

    Source: McCandlish et al. 2018, section 2.2; Byrd et al. 2012; Bollapragada, Byrd & Nocedal 2018.
    """

    name = "noise"
    series: ClassVar[Mapping[str, Series]] = {
        "noise_scale": Series(
            "Critical batch size", "examples", "tr(S) / |g|^2, McCandlish et al. 2018", log=True
        ),
        "signal_to_noise": Series("Signal-to-noise of a batch", "", "|g| / sqrt(tr(S) / B)", log=True),
        "norm_test": Series("Batch size by the norm test", "examples", "Byrd et al. 2012", log=True),
        "inner_product_test": Series(
            "Batch size by the inner product test", "examples", "Bollapragada et al. 2018", log=True
        ),
        "orthogonality_test": Series(
            "Batch size by the orthogonality test", "examples", "Bollapragada et al. 2018", log=True
        ),
    }
    cost = 6.0
    kinds = (NOISY,)
    of_probe = True

    def measure(self, state: State) -> Measured:
        """Inner products of the probe's gradients, and what follows."""
        assert state.bench is not None
        specimen = state.bench.specimen
        if specimen.size("train") < 4:
            raise NotApplicableError("needs at least four examples")
        noise = gradient_noise(gradient_gram(specimen).matrix)
        size = specimen.recipe.batch_size if specimen.recipe is not None else None
        values = {"noise_scale": noise.noise_scale}
        values |= {f"{name}_test": value for name, value in noise.batch_sizes().items()}
        if size:
            signal = math.sqrt(max(0.0, noise.squared_norm))
            spread = math.sqrt(noise.covariance_trace / size)
            values["signal_to_noise"] = signal / spread if spread else math.inf
        return Measured(values, alerts=_alerts(state.step, noise, size))


def _alerts(step: int, noise: GradientNoise, size: int | None) -> list[Alert]:
    """Noise-dominated where a batch is surely a tenth of the critical size or less.

    Where steps of rate eta no longer make progress, noise and curvature balance: along an eigenvector of curvature h with
    noise s, the gradient's mean square is s eta h / (B (2 - eta h)). The critical size is then 2 / (eta h) - 1 batches, h
    averaged over the noise, whatever the batch: about ten where the rate is a tenth of the largest stable one.
    """
    if not size or noise.surely_at_least < FEW * size:
        return []
    message = (
        f"Steps are dominated by noise, and the loss no longer falls: the critical batch size is at least "
        f"{noise.surely_at_least:,.0f} examples, a batch has {size:,}."
    )
    remedy = "Lower the learning rate, average the weights, or take larger batches."
    return [Alert(step, NOISY, "attention", "", message, remedy)]
