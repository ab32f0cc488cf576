r"""Enough examples for a network of threshold units: by counting its weights, Baum and Haussler's m = (32 W / eps) ln(32 N / eps).

A teacher of threshold units in R^5 labels m Gaussian points. Students of the same shape learn a few of them; each that
errs on at most eps/2 of all m must err on less than eps of new points. The rule speaks of *every* network of the shape, so the
teacher's own disturbances are tried too, as far from it as an error of eps/2 on the sample allows.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from torchstone.atlas import Claim, Evidence, Scale, Theme
from torchstone.bounds.baum_haussler import (
    baum_haussler_examples,
    baum_haussler_failure,
    threshold_log_growth,
    threshold_network_log_growth,
    threshold_sample_size,
)
from torchstone.details import Axis, Bars, Curve, Histogram, Line, Marker, numbers
from torchstone.training.fit_many import fit_many

DIMENSIONS, HIDDEN, ERROR, RUNS = 5, 2, 0.125, 50
UNITS = HIDDEN + 1
WEIGHTS = HIDDEN * (DIMENSIONS + 1) + HIDDEN + 1
FRESH, LEARNED = 8000, 1000
GAIN = 6.0  # of the smooth units that learning uses


def run(scale: Scale, generator: torch.Generator) -> Evidence:
    """As many examples as the rule asks for."""
    return experiment(scale, generator, math.ceil(baum_haussler_examples(WEIGHTS, UNITS, ERROR)))


def counterexample(scale: Scale, generator: torch.Generator) -> Evidence:
    """As many examples as there are weights: fitting them means little."""
    return experiment(scale, generator, WEIGHTS)


def experiment(scale: Scale, generator: torch.Generator, examples: int) -> Evidence:
    """Fifty teachers, each with students that learn from it and with disturbances of its own weights."""
    restarts, disturbances = (3, 8) if scale is Scale.QUICK else (10, 100)
    x = torch.randn(RUNS, examples, DIMENSIONS, generator=generator)
    teachers = random_networks(RUNS, generator)
    labels = teachers(x)
    students = [*learned(x, labels, restarts, generator), *disturbed(teachers, disturbances, generator)]
    fresh = torch.randn(RUNS, FRESH, DIMENSIONS, generator=generator)
    truth = teachers(fresh)
    seen = torch.stack([(one(x) != labels).double().mean(1) for one in students])
    true = torch.stack([(one(fresh) != truth).double().mean(1) for one in students])
    fits = seen <= ERROR / 2
    worst = torch.where(fits, true, torch.zeros(())).amax(0)
    failures = int((worst > ERROR).sum())
    rule = baum_haussler_examples(WEIGHTS, UNITS, ERROR)
    by_hand = 32 * WEIGHTS / ERROR * math.log(32 * UNITS / ERROR)
    return Evidence.all_of(
        Evidence.close("examples by the rule, calculator against formula", rule, by_hand, relative=1e-12),
        Evidence.at_least(
            "runs in which a student that learned fits the sample",
            float(fits[:restarts].any(0).sum()),
            0.9 * RUNS,
        ),
        Evidence.at_most(
            f"failures of {RUNS}: a network fits the sample and errs on more than {ERROR:.1%}",
            float(failures),
            0.0,
        ),
        Evidence.at_most(
            "probability of failure that the theory allows",
            baum_haussler_failure(WEIGHTS, UNITS, ERROR, rule),
            8 * math.exp(-1.5 * WEIGHTS),
        ),
        Evidence.at_most(
            "labellings unit by unit over the closed form (N e m / W)^W, nats",
            threshold_network_log_growth([DIMENSIONS + 1] * HIDDEN + [UNITS], math.ceil(rule))
            / threshold_log_growth(WEIGHTS, UNITS, rule),
            1.0,
        ),
        figures=(sizes_curve(), errors_histogram(true[fits], seen[fits])),
    )


class Threshold:
    """Networks of threshold units sign(b + a . sign(c + W x)), one a run."""

    def __init__(self, hidden: Tensor, offsets: Tensor, output: Tensor, offset: Tensor) -> None:
        self.hidden, self.offsets, self.output, self.offset = hidden, offsets, output, offset

    def __call__(self, x: Tensor) -> Tensor:
        """Labels (runs, n) in {0, 1} of inputs (runs, n, d)."""
        units = torch.where(x @ self.hidden.mT + self.offsets[:, None] > 0, 1.0, -1.0)
        return ((units * self.output[:, None]).sum(2) + self.offset[:, None] > 0).long()


def random_networks(count: int, generator: torch.Generator) -> Threshold:
    """Intersections or unions of two half-spaces whose borders pass near the middle."""
    hidden = torch.randn(count, HIDDEN, DIMENSIONS, generator=generator)
    offsets = 0.5 * torch.randn(count, HIDDEN, generator=generator)
    both = torch.randint(2, (count,), generator=generator) * 2.0 - 1
    return Threshold(hidden, offsets, torch.ones(count, HIDDEN), both)


class Smooth(nn.Module):
    """The same shape with tanh units, so that it can be learned by gradients."""

    def __init__(self, generator: torch.Generator) -> None:
        super().__init__()
        # On no device first: modules would draw their weights from the global generator.
        self.first = nn.Linear(DIMENSIONS, HIDDEN, device="meta").to_empty(device="cpu")
        self.last = nn.Linear(HIDDEN, 1, device="meta").to_empty(device="cpu")
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.copy_(0.5 * torch.randn(parameter.shape, generator=generator))

    def forward(self, x: Tensor) -> Tensor:
        """Logits (n, 2)."""
        score = self.last(torch.tanh(GAIN * self.first(x)))
        return torch.cat([-score, score], -1)


def learned(x: Tensor, labels: Tensor, restarts: int, generator: torch.Generator) -> list[Threshold]:
    """Students of each run from different starts, trained on some of its examples, with units made hard."""
    part = min(LEARNED, x.shape[1])
    total = restarts * RUNS
    trained = fit_many(
        [Smooth(generator) for _ in range(total)],
        logistic,
        x[0, :part],
        labels[0, :part],
        optimizer=lambda parameters: torch.optim.Adam(parameters, lr=0.03),
        batch_size=64,
        steps=250,
        generators=[torch.Generator().manual_seed(seed) for seed in range(total)],
        inputs=x[:, :part].repeat(restarts, 1, 1),
        targets=labels[:, :part].repeat(restarts, 1),
    )
    values = {name: value.detach() for name, value in trained.ensemble.parameters.items()}
    names = ("first.weight", "first.bias", "last.weight", "last.bias")
    pieces = zip(*(values[name].split(RUNS) for name in names), strict=True)
    return [
        Threshold(hidden, offsets, output[:, 0], offset[:, 0]) for hidden, offsets, output, offset in pieces
    ]


def logistic(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """Cross-entropy of the two logits."""
    return nn.functional.cross_entropy(model(x), y, reduction="none")


def disturbed(teachers: Threshold, count: int, generator: torch.Generator) -> list[Threshold]:
    """The teachers with noise on the weights, from none to as large as the weights."""
    found = []
    for k in range(count):
        size = (k + 1) / count
        noise = lambda like, size=size: like + size * torch.randn(like.shape, generator=generator)
        found.append(
            Threshold(noise(teachers.hidden), noise(teachers.offsets), teachers.output, teachers.offset)
        )
    return found


def sizes_curve() -> Curve:
    """What the rule asks for, and what its own bound asks for, over the error."""
    errors = tuple(2.0**-k for k in range(3, 11))
    rule = tuple(baum_haussler_examples(WEIGHTS, UNITS, error) for error in errors)
    least = tuple(float(threshold_sample_size(WEIGHTS, UNITS, error)) for error in errors)
    return Curve(
        f"Examples for a network of {WEIGHTS} weights",
        Axis("error allowed", log=True),
        Axis("examples", log=True),
        (Line("(32 W / eps) ln(32 N / eps)", errors, rule), Line("least m, 95% confidence", errors, least)),
        (Marker("of this experiment", ERROR, "x"),),
        caption="Both are sufficient, whatever the law of the inputs. Thousands of examples a weight: for networks with more "
        "weights than examples the rule has nothing to say.",
    )


def errors_histogram(true: Tensor, seen: Tensor) -> Histogram:
    """True and training errors of all networks that fit their sample."""
    edges = torch.linspace(0, 0.5, 51, dtype=torch.float64)
    groups = tuple(
        Bars(name, numbers(torch.histogram(values.double(), edges).hist))
        for name, values in (("on new points", true), ("on the sample", seen))
    )
    return Histogram(
        "Errors of the networks that fit the sample",
        Axis("error"),
        numbers(edges),
        groups,
        (Marker("allowed on new points", ERROR, "x"), Marker("allowed on the sample", ERROR / 2, "x")),
        caption="No network left of the limit on the sample may lie right of the limit on new points.",
        y=Axis("networks"),
    )


CLAIM = Claim(
    id="enough_examples",
    theme=Theme.RISK,
    title="Enough examples for the number of weights",
    statement=(
        "A network of N threshold units with W weights that errs on at most eps/2 of (32 W / eps) ln(32 N / eps) examples "
        "errs on less than eps of new ones, whichever of its shape it is."
    ),
    source="Baum & Haussler 1989, theorem 7; Blumer, Ehrenfeucht, Haussler & Warmuth 1989, theorem A3.1",
    assumptions=(
        "Examples are independent draws of the law that the error is measured on.",
        "There are as many of them as the rule asks for, far more than weights.",
    ),
    refuted_by="one network in fifty runs that fits the sample and errs on more than eps of new points",
    run=run,
    counterexample=counterexample,
    rows=("R11",),
)
