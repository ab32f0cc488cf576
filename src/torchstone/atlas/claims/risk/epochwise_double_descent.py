r"""Epoch-wise double descent: features learned at different speeds have their own bias-variance trade-offs in time.

Gradient descent from zero on :math:`\frac{1}{2n}\|X\theta - y\|^2`, with orthogonal columns of mean square
:math:`\lambda_i`, truth :math:`\theta_i` and noise of variance s^2, has after t steps of rate eta the mean excess risk

    R(t) = sum_i lambda_i theta_i^2 (1 - eta lambda_i)^(2t)  +  s^2/n sum_i (1 - (1 - eta lambda_i)^t)^2,

a falling bias and a rising variance for each feature. Fast features with little signal pass their minimum long before slow
ones with much signal are learned: the test error falls, rises and falls again, while the training loss only falls. With
rates that learn all features alike, eta / lambda_i, there is one minimum.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from torchstone.atlas import Claim, Evidence, Scale, Theme
from torchstone.details import Axis, Curve, Line, Marker, numbers, thin

EXAMPLES, NOISE = 200, 1.0
FAST, SLOW = 120, 20  # numbers of features
FAST_SIGNAL, SLOW_SIGNAL = 1.0, 1.0  # lambda |theta|^2 of each group
SLOW_RATE = 0.0025  # lambda of the slow features; that of the fast ones is 1
RATE, STEPS = 0.2, 8000


def run(scale: Scale, generator: torch.Generator) -> Evidence:
    """One learning rate for all features."""
    return experiment(scale, generator, alike=False)


def counterexample(scale: Scale, generator: torch.Generator) -> Evidence:
    """Rates that learn all features alike: one minimum."""
    return experiment(scale, generator, alike=True)


@dataclass(frozen=True)
class Law:
    """Mean squares of the features, the truth, and what each step multiplies what is left to learn by."""

    squares: Tensor
    truth: Tensor
    rates: Tensor

    @classmethod
    def made(cls, alike: bool, generator: torch.Generator) -> Law:
        """Fast features of little signal each, slow ones of much; `alike` divides each rate by the feature's square."""
        fast, slow = torch.ones(FAST).double(), torch.full((SLOW,), SLOW_RATE).double()
        squares = torch.cat([fast, slow])
        truth = torch.randn(FAST + SLOW, generator=generator, dtype=torch.float64)
        for group, signal in ((slice(0, FAST), FAST_SIGNAL), (slice(FAST, None), SLOW_SIGNAL)):
            energy = float((squares[group] * truth[group].square()).sum())
            truth[group] *= (signal / energy) ** 0.5
        return cls(squares, truth, RATE / squares if alike else torch.full_like(squares, RATE))

    def risk(self, steps: Tensor) -> Tensor:
        """Mean excess risk with one rate for all after so many steps (T,), (T,)."""
        left = (1 - RATE * self.squares) ** steps[:, None]
        bias = (self.squares * self.truth.square() * left.square()).sum(1)
        return bias + NOISE / EXAMPLES * (1 - left).square().sum(1)


def experiment(scale: Scale, generator: torch.Generator, alike: bool) -> Evidence:
    """Descend on several noisy samples and compare with the closed form."""
    law = Law.made(alike, generator)
    every = torch.arange(STEPS + 1).double()
    expected = law.risk(every)
    first, peak = turning_points(expected)
    draws = 40 if scale is Scale.QUICK else 400
    risks, losses = descended(law, draws, generator)
    rise, fall = risks[:, peak] - risks[:, first], risks[:, peak] - risks[:, -1]
    agreements = [
        Evidence.within_errors(f"excess risk after {t} steps", risks[:, t], expected[t], errors=4)
        for t in (first, peak, STEPS)
    ]
    errors = lambda values: 2 * float(values.std()) / draws**0.5
    return Evidence.all_of(
        Evidence.close("excess risk before training", risks[0, 0], expected[0], relative=1e-12),
        *agreements,
        Evidence.at_least(
            f"rise from step {first} to {peak}", rise.mean(), errors(rise), "two standard errors"
        ),
        Evidence.at_least(
            f"fall from step {peak} to {STEPS}", fall.mean(), errors(fall), "two standard errors"
        ),
        Evidence.at_most(
            "risk at the end over that of the first minimum",
            risks[:, -1].mean() / risks[:, first].mean(),
            0.9,
        ),
        Evidence.at_most("largest rise of a training loss at a step", losses.diff(dim=1).max(), 1e-12),
        figures=(curve(law, risks, losses, first, peak),),
    )


def turning_points(risk: Tensor) -> tuple[int, int]:
    """First local minimum of a series, and the highest point after it."""
    first = int((risk.diff() > 0).nonzero()[0])
    return first, first + int(risk[first:].argmax())


def descended(law: Law, draws: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Excess risks and training losses (draws, steps + 1) of gradient descent from zero."""
    count = len(law.squares)
    columns = torch.randn(EXAMPLES, count, generator=generator, dtype=torch.float64)
    x = torch.linalg.qr(columns).Q * (EXAMPLES * law.squares).sqrt()
    y = (x @ law.truth)[:, None] + NOISE**0.5 * torch.randn(
        EXAMPLES, draws, generator=generator, dtype=torch.float64
    )
    # The gradient X'(X theta - y)/n needs the moments only.
    moments, target = x.T @ x / EXAMPLES, x.T @ y / EXAMPLES
    rest = y.square().mean(0)
    theta = torch.zeros(count, draws, dtype=torch.float64)
    risks, losses = [], []
    for _ in range(STEPS + 1):
        pulled = moments @ theta
        risks.append((law.squares[:, None] * (theta - law.truth[:, None]).square()).sum(0))
        losses.append(0.5 * ((theta * pulled).sum(0) - 2 * (theta * target).sum(0) + rest))
        theta = theta - law.rates[:, None] * (pulled - target)
    return torch.stack(risks, 1), torch.stack(losses, 1)


def curve(law: Law, risks: Tensor, losses: Tensor, first: int, peak: int) -> Curve:
    """Risk and training loss over steps."""
    kept = sorted({round(10 ** (4 * i / 150)) for i in range(151)} & set(range(1, STEPS + 1)) | {STEPS})
    kept = [kept[i] for i in thin(len(kept), 200)]
    x = tuple(float(t) for t in kept)
    mean, half = risks.mean(0)[kept], 2 * risks.std(0)[kept] / len(risks) ** 0.5
    return Curve(
        "Risk over training",
        Axis("steps", log=True),
        Axis("squared error"),
        (
            Line("excess risk, measured", x, numbers(mean), numbers(mean - half), numbers(mean + half)),
            Line("excess risk, closed form", x, numbers(law.risk(torch.tensor(x).double()))),
            Line("training loss", x, numbers(losses.mean(0)[kept])),
        ),
        (Marker("first minimum", float(first), "x"), Marker("peak", float(max(peak, 1)), "x")),
        caption="Mean over noises with two standard errors. The fast features overfit before the slow ones are learned; "
        "stopping at the first minimum would miss the second.",
    )


CLAIM = Claim(
    id="epochwise_double_descent",
    theme=Theme.RISK,
    title="Epoch-wise double descent",
    statement=(
        "When features are learned at different speeds, the test error of gradient descent can fall, rise and fall again over "
        "training while the training loss only falls, as a closed form says; rates that learn all features alike leave one "
        "minimum."
    ),
    source="Heckel & Yilmaz 2021, theorem 1 and section 3; Nakkiran et al. 2020, section 6",
    assumptions=(
        "A linear model with orthogonal features, squared loss, gradient descent from zero.",
        "Fast features carry little signal for their number, slow ones much.",
        "The targets are noisy.",
    ),
    refuted_by="a risk more than four standard errors off the closed form, or no rise between two minima",
    run=run,
    counterexample=counterexample,
    rows=("R16", "R18"),
)
