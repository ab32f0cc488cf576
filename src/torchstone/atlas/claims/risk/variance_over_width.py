r"""Bias and variance over width: networks are not high-bias, low-variance predictors, nor the reverse, by nature.

A hidden layer of N random ReLU units with a least-squares output layer of smallest norm is a network whose training ends
at a closed form. On D fresh training sets of n examples with M draws of the hidden layer each, the bias falls with N, while
the variance rises to a peak at N = n and falls again. Far beyond it what the draw of the hidden layer adds vanishes and
what the training set adds stays. Networks trained by gradient steps show the same change of sides.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from torchstone.atlas import Claim, Erratum, Evidence, Scale, Theme
from torchstone.bounds import BiasVariance, squared_bias_variance
from torchstone.details import Axis, Curve, Line, Marker, Table, numbers
from torchstone.training.evaluation import squared_error
from torchstone.training.fit_many import fit_many

EXAMPLES, INPUTS, NOISE = 60, 10, 0.5
WIDTHS = (5, 15, 30, 45, 60, 75, 90, 150, 300, 900)
TESTS = 300
PEAK_FREE = 0.05  # ridge penalty per example of the counterexample
TRAINED = (1, 4, 32)  # hidden units of the networks trained by gradient steps
TRAINED_EXAMPLES, TRAINED_INPUTS = 40, 5


def run(scale: Scale, generator: torch.Generator) -> Evidence:
    """Output layers of smallest norm."""
    return experiment(scale, generator, penalty=1e-10)


def counterexample(scale: Scale, generator: torch.Generator) -> Evidence:
    """A ridge penalty in place of the smallest norm: the variance has no peak."""
    return experiment(scale, generator, penalty=PEAK_FREE)


def experiment(scale: Scale, generator: torch.Generator, penalty: float) -> Evidence:
    """Split the error at every width."""
    sets, seeds = (24, 3) if scale is Scale.QUICK else (100, 5)
    found = random_features(sets, seeds, penalty, generator)
    trained = gradient_trained(8 if scale is Scale.QUICK else 24, generator)
    variance = {width: one.variance.value for width, one in found.items()}
    narrow, wide = found[WIDTHS[0]], found[WIDTHS[-1]]
    off = max(
        abs(sum(part.value for part in one.parts.values()) / one.risk.value - 1) for one in found.values()
    )
    rise = trained[TRAINED[-1]].share.value - trained[TRAINED[0]].share.value
    rise_error = sum(trained[width].share.error.total ** 2 for width in (TRAINED[0], TRAINED[-1])) ** 0.5
    return Evidence.all_of(
        Evidence.at_most("parts against the mean squared error, relative", off, 1e-10),
        Evidence.at_most(
            f"share of the variance, {WIDTHS[0]} units", share(narrow, 2), 0.5, "plus two standard errors"
        ),
        Evidence.at_least(
            "share of the variance, 150 units", share(found[150], -2), 0.9, "minus two standard errors"
        ),
        Evidence.close(
            "width of the largest variance over n",
            max(WIDTHS, key=lambda width: variance[width]) / EXAMPLES,
            1.0,
            absolute=0.0,
        ),
        Evidence.at_most("variance at 900 units over that at 45", variance[900] / variance[45], 0.7),
        Evidence.at_most("bias at 900 units over that at 5", wide.bias.value / narrow.bias.value, 0.05),
        Evidence.at_most("share of the seed in the variance, 900 units", of_seed(wide), 0.15),
        Evidence.at_least("share of the seed in the variance, 30 units", of_seed(found[30]), 0.5),
        Evidence.at_least(
            f"trained by gradient steps: share of the variance, {TRAINED[-1]} units",
            share(trained[TRAINED[-1]], -2),
            0.5,
            "minus two standard errors",
        ),
        Evidence.at_least(
            f"trained by gradient steps: its rise from {TRAINED[0]} unit", rise, 2 * rise_error
        ),
        figures=(curve(found), table(trained)),
    )


def share(found: BiasVariance, errors: float) -> float:
    """Share of the variance, plus so many standard errors."""
    return found.share.value + errors * found.share.error.total


def of_seed(found: BiasVariance) -> float:
    """Share of the hidden layer's draw in the variance."""
    return found.parts["initialisation"].value / found.variance.value


def random_features(
    sets: int, seeds: int, penalty: float, generator: torch.Generator
) -> dict[int, BiasVariance]:
    """Fits of N random ReLU units to a noisy linear teacher, for every N on the same data and seeds."""
    gaussian = lambda *shape: torch.randn(*shape, generator=generator, dtype=torch.float64)
    teacher, tests = gaussian(INPUTS, 1) / INPUTS**0.5, gaussian(TESTS, INPUTS)
    found = torch.empty(len(WIDTHS), sets, seeds, TESTS, dtype=torch.float64)
    unit = torch.eye(EXAMPLES, dtype=torch.float64)
    for k in range(sets):
        x = gaussian(EXAMPLES, INPUTS)
        y = x @ teacher + NOISE * gaussian(EXAMPLES, 1)
        for m in range(seeds):
            weights = gaussian(INPUTS, max(WIDTHS)) / INPUTS**0.5
            hidden, hidden_tests = (x @ weights).relu(), (tests @ weights).relu()
            for j, width in enumerate(WIDTHS):
                own, its = hidden[:, :width] / width**0.5, hidden_tests[:, :width] / width**0.5
                dual = torch.linalg.solve(own @ own.T + penalty * unit, y)
                found[j, k, m] = (its @ (own.T @ dual))[:, 0]
    truth = (tests @ teacher)[:, 0]
    return {width: squared_bias_variance(one, truth) for width, one in zip(WIDTHS, found, strict=True)}


class Masked(nn.Module):
    """A network of one hidden layer of which only the first units count: all widths train as one."""

    mask: Tensor

    def __init__(self, width: int, generator: torch.Generator) -> None:
        super().__init__()
        draw = lambda *shape: nn.Parameter(torch.randn(*shape, generator=generator))
        top = max(TRAINED)
        self.inner, self.outer, self.bias = draw(TRAINED_INPUTS, top), draw(top, 1), draw(top)
        with torch.no_grad():
            self.inner *= (2 / TRAINED_INPUTS) ** 0.5
            self.outer *= width**-0.5
            self.bias *= 0.0
        self.register_buffer("mask", (torch.arange(top) < width).float())

    def forward(self, x: Tensor) -> Tensor:
        """Outputs (N, 1)."""
        return ((x @ self.inner + self.bias).relu() * self.mask) @ self.outer


def gradient_trained(sets: int, generator: torch.Generator) -> dict[int, BiasVariance]:
    """Networks trained by Adam on all their examples at once, on `sets` training sets with two seeds each."""
    gaussian = lambda *shape: torch.randn(*shape, generator=generator)
    n, seeds = TRAINED_EXAMPLES, 2
    teacher = gaussian(TRAINED_INPUTS, 4) / TRAINED_INPUTS**0.5
    truth = lambda x: torch.tanh(2 * x @ teacher).sum(1, keepdim=True)
    x, tests = gaussian(sets * n, TRAINED_INPUTS), gaussian(TESTS, TRAINED_INPUTS)
    y = truth(x) + NOISE * gaussian(sets * n, 1)
    members = len(TRAINED) * sets * seeds
    trained = fit_many(
        [Masked(width, generator) for width in TRAINED for _ in range(sets * seeds)],
        squared_error,
        x,
        y,
        optimizer=lambda parameters: torch.optim.Adam(parameters, lr=0.03),
        batch_size=n,
        steps=300,
        generators=[torch.Generator().manual_seed(k) for k in range(members)],
        rows=torch.arange(sets * n).reshape(sets, n).repeat_interleave(seeds, 0).repeat(len(TRAINED), 1),
    )
    outputs = trained.ensemble.outputs(tests).reshape(len(TRAINED), sets, seeds, TESTS)
    return {
        width: squared_bias_variance(one, truth(tests)[:, 0])
        for width, one in zip(TRAINED, outputs, strict=True)
    }


def curve(found: dict[int, BiasVariance]) -> Curve:
    """The parts over width."""
    names = {
        "bias": "bias",
        "data": "variance: training set",
        "initialisation": "variance: hidden layer's draw",
    }
    lines = []
    for key, name in names.items():
        values = torch.tensor([found[width].parts[key].value for width in WIDTHS])
        errors = torch.tensor([2 * found[width].parts[key].error.total for width in WIDTHS])
        floor = 1e-4  # unbiased estimates of nothing may be negative
        band = [numbers((values + sign * errors).clamp_min(floor)) for sign in (-1, 1)]
        widths = tuple(float(width) for width in WIDTHS)
        lines.append(Line(name, widths, numbers(values.clamp_min(floor)), *band))
    return Curve(
        "Bias and variance of random-feature networks over width",
        Axis("hidden units", log=True),
        Axis("part of the expected squared error (below 1e-4 shown as 1e-4)", log=True),
        tuple(lines),
        (Marker("units = examples", float(EXAMPLES), "x"),),
        caption="With two standard errors. Narrow networks err by bias, all others by variance; beyond the peak the draw "
        "of the hidden layer matters less and less.",
    )


def table(trained: dict[int, BiasVariance]) -> Table:
    """The parts of networks trained by gradient steps."""
    rows = tuple(
        (width, one.risk.value, *(part.value for part in one.parts.values()), one.share.value)
        for width, one in trained.items()
    )
    columns = ("hidden units", "squared error", "bias", "training set", "seed", "share of the variance")
    return Table("Networks trained by gradient steps", columns, rows)


CLAIM = Claim(
    id="variance_over_width",
    theme=Theme.RISK,
    title="Variance over width",
    statement=(
        "Whether bias or variance makes up a network's error depends on its width: narrow networks err by bias, wider ones "
        "by variance, which peaks where units equal examples and falls again, while the part of the "
        "seed vanishes beyond it."
    ),
    source="Neal et al. 2018; Yang et al. 2020 (unimodal variance); d'Ascoli et al. 2020, section 3 (random features)",
    assumptions=(
        "Training ends at the fit of smallest norm; nothing else regularises.",
        "The targets are noisy, the noise is not counted as bias.",
        "Training sets are independent draws, seeds independent of them.",
    ),
    refuted_by="a share of the variance on the same side of one half at all widths, or no peak at units = examples",
    run=run,
    counterexample=counterexample,
    rows=("R20",),
    errata=(
        Erratum(
            "E05",
            "A neural network is a high-bias, low-variance classifier",
            "Neither holds in general: variance dominates the error of all but narrow networks here, and is unimodal in "
            "width; bias and variance are to be measured",
        ),
    ),
)
