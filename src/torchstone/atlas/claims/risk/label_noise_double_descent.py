"""Double descent of trained networks: with noisy targets the test error peaks where a network can just fit them.

Networks of one hidden layer, trained to the end by Adam on all their examples at once, for several widths. Narrow ones
cannot fit the noise, very wide ones fit it without much harm, and in between, where the training error first reaches zero,
the test error is the highest. Weight decay removes the peak, and there is hardly one without noise.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from torchstone.atlas import Claim, Evidence, Scale, Theme
from torchstone.details import Axis, Curve, Line, Marker, Table, numbers
from torchstone.training.evaluation import squared_error
from torchstone.training.fit_many import fit_many

EXAMPLES, INPUTS, NOISE = 40, 5, 1.0
TESTS = 400
DECAY = 0.03  # of the counterexample
WIDTHS = {Scale.QUICK: (1, 3, 8, 16, 64), Scale.FULL: (1, 2, 3, 4, 6, 8, 10, 12, 16, 24, 32, 64)}
SETS = {Scale.QUICK: 12, Scale.FULL: 20}
STEPS = {Scale.QUICK: 700, Scale.FULL: 1500}
FITTED = 0.05  # share of the variance of the noise up to which noisy targets count as fitted


def run(scale: Scale, generator: torch.Generator) -> Evidence:
    """No weight decay."""
    return experiment(scale, generator, decay=0.0)


def counterexample(scale: Scale, generator: torch.Generator) -> Evidence:
    """Weight decay: the peak is gone."""
    return experiment(scale, generator, decay=DECAY)


@dataclass(frozen=True)
class Swept:
    """Results (widths, sets) of networks trained on noisy or clean targets."""

    train: Tensor
    test: Tensor

    def error(self, first: int, second: int) -> float:
        """Standard error of the difference of the mean test errors of two widths."""
        return float((self.test[first] - self.test[second]).std()) / self.test.shape[1] ** 0.5


def experiment(scale: Scale, generator: torch.Generator, decay: float) -> Evidence:
    """Train all widths on noisy and on clean targets."""
    widths = WIDTHS[scale]
    noisy, clean = trained(scale, decay, generator)
    means = noisy.test.mean(1)
    peak, last = int(means.argmax()), len(widths) - 1
    fitted = [
        width for width, loss in zip(widths, noisy.train.mean(1).tolist(), strict=True) if loss <= FITTED
    ]
    threshold = min(fitted, default=2 * max(widths))
    return Evidence.all_of(
        Evidence.at_least(
            "test error at the peak minus at the widest",
            means[peak] - means[last],
            2 * noisy.error(peak, last),
            "two standard errors",
        ),
        Evidence.at_least(
            "test error at the peak minus at the narrowest",
            means[peak] - means[0],
            2 * noisy.error(peak, 0),
            "two standard errors",
        ),
        Evidence.at_most(
            "peak's width against the least that fits the noise, octaves apart",
            abs(math.log2(widths[peak] / threshold)),
            1.0,
        ),
        Evidence.at_most(
            "height of the peak without noise over that with noise",
            (clean.test.mean(1)[peak] - clean.test.mean(1)[last]) / (means[peak] - means[last]),
            0.15,
            "noise is what the peak is made of",
        ),
        figures=(curve(widths, noisy, clean, threshold), table(widths, noisy, clean)),
    )


class Masked(nn.Module):
    """A network of one hidden layer of which only the first units count, so that all widths train as one."""

    mask: Tensor

    def __init__(self, width: int, top: int, generator: torch.Generator) -> None:
        super().__init__()
        draw = lambda scale, *shape: nn.Parameter(scale * torch.randn(*shape, generator=generator))
        self.inner = draw((2 / INPUTS) ** 0.5, INPUTS, top)
        self.bias = nn.Parameter(torch.zeros(top))
        self.outer = draw(width**-0.5, top, 1)
        self.register_buffer("mask", (torch.arange(top) < width).float())

    def forward(self, x: Tensor) -> Tensor:
        """Outputs (N, 1)."""
        return ((x @ self.inner + self.bias).relu() * self.mask) @ self.outer


def trained(scale: Scale, decay: float, generator: torch.Generator) -> tuple[Swept, Swept]:
    """Networks of every width on the same training sets, with noisy and with clean targets."""
    widths, sets, n = WIDTHS[scale], SETS[scale], EXAMPLES
    gaussian = lambda *shape: torch.randn(*shape, generator=generator)
    teacher = gaussian(INPUTS, 1) / INPUTS**0.5
    truth = lambda x: torch.tanh(2 * x @ teacher)
    x, tests = gaussian(sets * n, INPUTS), gaussian(TESTS, INPUTS)
    noise = NOISE * gaussian(sets * n, 1)
    members = 2 * len(widths) * sets
    rows = torch.arange(sets * n).reshape(sets, n)
    # Noisy examples first, then the same ones clean: the rows say which a member sees.
    every = torch.cat([rows.repeat(len(widths), 1), sets * n + rows.repeat(len(widths), 1)])
    models = [Masked(width, max(widths), generator) for width in widths for _ in range(sets)]
    run = fit_many(
        models + models,
        squared_error,
        torch.cat([x, x]),
        torch.cat([truth(x) + noise, truth(x)]),
        optimizer=lambda parameters: torch.optim.Adam(parameters, lr=0.02, weight_decay=decay),
        batch_size=n,
        steps=STEPS[scale],
        generators=[torch.Generator().manual_seed(k) for k in range(members)],
        rows=every,
    )
    test = run.ensemble.evaluate(squared_error, tests, truth(tests)).mean(1)
    noisy, clean = (
        Swept(
            *(found.reshape(2, len(widths), sets)[part] for found in (run.series["train_loss"][:, -1], test))
        )
        for part in (0, 1)
    )
    return noisy, clean


def curve(widths: tuple[int, ...], noisy: Swept, clean: Swept, threshold: int) -> Curve:
    """Test and training error over width."""
    lines, x = [], tuple(float(width) for width in widths)
    named = (
        ("test, noisy targets", noisy.test),
        ("training, noisy targets", noisy.train),
        ("test, clean targets", clean.test),
    )
    for name, values in named:
        mean, half = values.mean(1), 2 * values.std(1) / values.shape[1] ** 0.5
        low, high = (mean - half).clamp_min(1e-4), (mean + half).clamp_min(1e-4)
        lines.append(Line(name, x, numbers(mean.clamp_min(1e-4)), numbers(low), numbers(high)))
    markers = (Marker("least width that fits the noise", float(threshold), "x"),)
    return Curve(
        "Error of trained networks over width",
        Axis("hidden units", log=True),
        Axis("squared error (below 1e-4 shown as 1e-4)", log=True),
        tuple(lines),
        markers if threshold <= max(widths) else (),
        caption="Mean over training sets with two standard errors; test errors without noise in the test targets. The peak "
        "is where the training error reaches zero.",
    )


def table(widths: tuple[int, ...], noisy: Swept, clean: Swept) -> Table:
    """Every width."""
    columns = ("hidden units", "parameters per example", "training", "test", "test, clean targets")
    rows = tuple(
        (
            width,
            width * (INPUTS + 2) / EXAMPLES,
            float(noisy.train[i].mean()),
            float(noisy.test[i].mean()),
            float(clean.test[i].mean()),
        )
        for i, width in enumerate(widths)
    )
    return Table("Squared errors", columns, rows)


CLAIM = Claim(
    id="label_noise_double_descent",
    theme=Theme.RISK,
    title="Double descent of trained networks",
    statement=(
        "The test error of small networks trained to the end on noisy targets peaks at the width that just fits the noise and "
        "falls again for wider ones; weight decay removes the peak."
    ),
    source="Belkin, Hsu, Ma & Mandal 2019, section 3; Nakkiran et al. 2020, section 5; Nakkiran, Venkat, Kakade & Ma 2021 "
    "(penalties)",
    assumptions=(
        "Training goes on until wide networks fit their targets, without a penalty.",
        "The targets are noisy: noise is what the peak is made of.",
    ),
    refuted_by="no fall of the test error beyond the width that fits the noise, or a peak far from that width",
    run=run,
    counterexample=counterexample,
    rows=("R16",),
)
