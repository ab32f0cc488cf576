r"""How noisy the gradient is: noise scale, signal-to-noise, and the tests that choose a batch size.

With per-example gradients g_n of N probe examples, mean g and covariance trace tr(S):

    noise scale          B_simple = tr(S) / |g|^2                     (the critical batch size: McCandlish et al. 2018, (2.9))
    signal-to-noise      |g| / sqrt(tr(S) / B)                        of a batch of B
    norm test            tr(S) / (B |g|^2) <= theta^2                 (Byrd et al. 2012)
    inner product test   Var(<g_n, g>) / (B |g|^4) <= theta^2         (Bollapragada et al. 2018)
    orthogonality test   E|g_n - <g_n, g> g / |g|^2|^2 / (B |g|^2)    (the same, section 3)

|g|^2 is estimated without bias by (N |mean|^2 - mean |g_n|^2) / (N - 1), which can be negative where there is nothing but
noise; then the ratios are infinite.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from torchstone.operators import gradient_gram
from torchstone.watching.quantities.base import Quantity
from torchstone.watching.record import Alert, Series
from torchstone.watching.state import Measured, State

THETA = (
    0.9  # of the inner product test, and tan(80 degrees) of the orthogonality test, as their paper has them
)
NU = 5.67


@dataclass(frozen=True)
class GradientNoise:
    """Noise of the gradient on a set of examples.

    Attributes:
        squared_norm: Unbiased estimate of |g|^2.
        covariance_trace: tr(S).
        inner_variance: Variance of <g_n, g>.
        orthogonal: Mean squared norm of g_n's part orthogonal to g.
    """

    squared_norm: float
    covariance_trace: float
    inner_variance: float
    orthogonal: float

    @property
    def noise_scale(self) -> float:
        """B_simple, the critical batch size; infinite where no signal is seen."""
        return self.covariance_trace / self.squared_norm if self.squared_norm > 0 else math.inf

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
    """All of it from the inner products <g_n, g_m> of at least two examples' gradients, none of which is formed."""
    count = len(gram)
    squares, inner = gram.diagonal(), gram.mean(1)
    mean_square = float(inner.mean())
    trace = max(0.0, (float(squares.mean()) - mean_square) * count / (count - 1))
    # |mean of N|^2 exceeds |g|^2 by tr(S) / N on average.
    signal = mean_square - trace / count
    along = inner.square() / mean_square if mean_square > 0 else torch.zeros_like(inner)
    return GradientNoise(signal, trace, float(inner.var()), float((squares - along).clamp(min=0).mean()))


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
    of_probe = True

    def measure(self, state: State) -> Measured:
        """Inner products of the probe's gradients, and what follows."""
        assert state.bench is not None
        specimen = state.bench.specimen
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
    """Noise-dominated where a batch is a hundredth of the critical size or less."""
    if not size or noise.noise_scale < 100 * size:
        return []
    scale = (
        f"{noise.noise_scale:,.0f} examples" if math.isfinite(noise.noise_scale) else "not even measurable"
    )
    message = f"Steps are dominated by noise: the critical batch size is {scale}, a batch has {size:,}."
    return [
        Alert(
            step,
            "noise-dominated",
            "attention",
            "",
            message,
            "Lower the learning rate, average the weights, or take larger batches.",
        )
    ]
