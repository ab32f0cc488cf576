r"""One set of running statistics does not fit a recurrent network whose signal changes over time.

Batch normalisation inside h_t = tanh(norm(W h_{t-1} + U x_t)) normalises step t in training by the mean mu_t of the batch at
that step, in evaluation by one running mean of all steps. Both agree only where the signal is stationary:

    drift = max over steps and units of |mu_t - mu_shared| / sigma

is 0 then, and well above 1 where the first steps differ from the later ones. What was learned is then not what is evaluated.
Statistics of their own for each step agree again, and layer normalisation has none.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from torchstone.atlas import Claim, Evidence, Scale, Theme
from torchstone.details import Axis, Curve, Line, Marker, Table, numbers
from torchstone.layers.normalisation import StepwiseBatchNorm

UNITS, INPUTS = 24, 4
STEPS = 12
SETTLING = 8  # steps before a stationary sequence counts: the state starts at 0
SIGNAL = 0.4  # of the class in the first input, in deviations of the noise
MOMENTUM = 0.005

Level = Callable[[int], float]


def decaying(step: int) -> float:
    """A level of the inputs that dies out."""
    return 6 * 0.8**step


def constant(step: int) -> float:
    """No change over time."""
    return 0.0 * step


class Shared(nn.Module):
    """Batch normalisation with one set of statistics."""

    def __init__(self, steps: int) -> None:
        super().__init__()
        del steps
        self.norm = nn.BatchNorm1d(UNITS, momentum=MOMENTUM)

    def forward(self, x: Tensor, step: int) -> Tensor:
        """Normalise, whatever the step."""
        del step
        return self.norm(x)


class OwnStatistics(StepwiseBatchNorm):
    """Batch normalisation with statistics of each step, scale 1 at the start as the others have."""

    def __init__(self, steps: int) -> None:
        super().__init__(UNITS, steps, momentum=0.05)
        nn.init.ones_(self.weight)  # pyright: ignore[reportArgumentType]


class OverUnits(nn.Module):
    """Layer normalisation."""

    def __init__(self, steps: int) -> None:
        super().__init__()
        del steps
        self.norm = nn.LayerNorm(UNITS)

    def forward(self, x: Tensor, step: int) -> Tensor:
        """Normalise each example by itself."""
        del step
        return self.norm(x)


KINDS = {
    "batch normalisation, shared": Shared,
    "batch normalisation, a step each": OwnStatistics,
    "layer normalisation": OverUnits,
}


class Recurrent(nn.Module):
    """h_t = tanh(norm(W h_{t-1} + U x_t)), two scores of the last state."""

    def __init__(self, kind: type[nn.Module], steps: int, generator: torch.Generator) -> None:
        super().__init__()
        draw = lambda *shape: torch.randn(*shape, generator=generator)
        self.recurrent = nn.Parameter(0.9 * torch.linalg.qr(draw(UNITS, UNITS)).Q)
        self.entering = nn.Parameter(draw(UNITS, INPUTS) / INPUTS**0.5)
        self.leaving = nn.Parameter(draw(UNITS, 2) / UNITS**0.5)
        self.norm = kind(steps)

    def forward(self, x: Tensor) -> Tensor:
        """Scores (N, 2) of sequences (N, T, INPUTS)."""
        return self.states(x)[1] @ self.leaving

    def states(self, x: Tensor) -> tuple[list[Tensor], Tensor]:
        """What enters the normalisation at each step, and the last state."""
        h, entering = x.new_zeros(len(x), UNITS), []
        for step in range(x.shape[1]):
            entering.append(h @ self.recurrent.T + x[:, step] @ self.entering.T)
            h = torch.tanh(self.norm(entering[-1], step))
        return entering, h


@dataclass(frozen=True)
class Outcome:
    """Drift over time (T,) and test errors in training and in evaluation mode, percent."""

    drift: Tensor
    training: float
    evaluation: float


def run(scale: Scale, generator: torch.Generator) -> Evidence:
    """Inputs whose level dies out, against stationary ones."""
    return experiment(scale, generator, decaying)


def counterexample(scale: Scale, generator: torch.Generator) -> Evidence:
    """Stationary inputs in both: shared statistics fit every step, and evaluation is what was trained."""
    return experiment(scale, generator, constant)


def experiment(scale: Scale, generator: torch.Generator, level: Level) -> Evidence:
    """Networks with each normalisation on transient inputs, and with shared statistics on stationary ones."""
    seeds, batches = (1, 80) if scale is Scale.QUICK else (5, 600)
    found = {
        name: [trained(kind, level, 0, batches, generator) for _ in range(seeds)]
        for name, kind in KINDS.items()
    }
    still = [trained(Shared, constant, SETTLING, batches, generator) for _ in range(seeds)]
    shared, own, layer = (average(found[name], "evaluation") for name in KINDS)
    shared_drift = [float(one.drift.max()) for one in found["batch normalisation, shared"]]
    return Evidence.all_of(
        Evidence.at_least("drift of the means, transient", min(shared_drift), 1.0, "max |mu_t - mu| / sigma"),
        Evidence.at_least(
            "evaluation error with shared statistics less that with layer normalisation, points",
            shared - layer,
            5.0,
        ),
        Evidence.at_least(
            "evaluation error with shared statistics less that with a step's own, points", shared - own, 5.0
        ),
        Evidence.at_most(
            "evaluation less training mode, a step's own statistics, points",
            abs(own - average(found["batch normalisation, a step each"], "training")),
            5.0,
        ),
        Evidence.at_most(
            "drift of the means, stationary", max(float(one.drift.max()) for one in still), 0.05
        ),
        Evidence.at_most(
            "evaluation less training mode, shared statistics, stationary, points",
            abs(average(still, "evaluation") - average(still, "training")),
            5.0,
        ),
        figures=(drift_curve(found["batch normalisation, shared"][0], still[0]), table(found, still)),
    )


def sequences(
    count: int, level: Level, settling: int, generator: torch.Generator, steps: int = STEPS
) -> tuple[Tensor, Tensor]:
    """Noise around a level, the first input shifted by the class: (N, settling + steps, INPUTS) and labels (N,)."""
    labels = torch.randint(2, (count,), generator=generator)
    levels = torch.tensor([level(max(step - settling, 0)) for step in range(settling + steps)])
    x = torch.randn(count, settling + steps, INPUTS, generator=generator) + levels[None, :, None]
    x[:, :, 0] += SIGNAL * (2 * labels[:, None] - 1)
    return x, labels


def trained(
    kind: type[nn.Module], level: Level, settling: int, batches: int, generator: torch.Generator
) -> Outcome:
    """Train one network and measure it on new sequences."""
    model = Recurrent(kind, settling + STEPS, generator)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    for _ in range(batches):
        x, labels = sequences(64, level, settling, generator)
        optimizer.zero_grad()
        nn.functional.cross_entropy(model.train()(x), labels).backward()
        optimizer.step()
    x, labels = sequences(20_000, level, settling, generator)
    with torch.no_grad():
        evaluation = error(model.eval()(x), labels)
        # In training mode, where each step is normalised by its own batch: the states that were learned.
        entering, last = model.train().states(x)
        training = error(last @ model.leaving, labels)
    return Outcome(drift(torch.stack(entering[settling:])), training, evaluation)


def drift(entering: Tensor) -> Tensor:
    """Largest |mu_t - mu| / sigma over the units at each step, of (T, N, units); sigma over all steps and examples."""
    shared, sigma = entering.mean((0, 1)), entering.flatten(0, 1).std(0)
    return ((entering.mean(1) - shared).abs() / sigma).amax(1)


def error(scores: Tensor, labels: Tensor) -> float:
    """Percent misclassified."""
    return 100 * float((scores.argmax(1) != labels).double().mean())


def average(outcomes: list[Outcome], field: str) -> float:
    """Mean over seeds."""
    return sum(getattr(one, field) for one in outcomes) / len(outcomes)


def drift_curve(transient: Outcome, still: Outcome) -> Curve:
    """How far each step's means are from the shared ones."""
    return Curve(
        "Means of the time steps against the shared mean",
        Axis("time step"),
        Axis("largest |mu_t - mu| / sigma over the units"),
        (
            Line("level dies out", numbers(range(1, STEPS + 1)), numbers(transient.drift)),
            Line("stationary", numbers(range(1, STEPS + 1)), numbers(still.drift)),
        ),
        (Marker("a deviation", 1.0),),
        caption="Where the first steps lie deviations away from the average, shared statistics normalise no step rightly.",
    )


def table(found: dict[str, list[Outcome]], still: list[Outcome]) -> Table:
    """Errors by normalisation."""
    rows = [(name, average(one, "training"), average(one, "evaluation")) for name, one in found.items()]
    rows.append(
        ("batch normalisation, shared; stationary", average(still, "training"), average(still, "evaluation"))
    )
    return Table(
        "Errors on new sequences",
        ("normalisation", "training mode (%)", "evaluation (%)"),
        tuple(rows),
        "Training mode normalises each step by its own batch. Where both columns differ, evaluation is another network.",
    )


CLAIM = Claim(
    id="recurrent_statistics",
    theme=Theme.SIGNAL,
    title="Batch normalisation in recurrent networks",
    statement=(
        "Where the signal of a recurrent network changes over time, the means of single steps lie more than a deviation from the "
        "shared running mean, and batch normalisation with shared statistics evaluates worse than layer normalisation or "
        "statistics of each step. On stationary signals shared statistics fit."
    ),
    source="Laurent et al. 2016, section 4; Cooijmans et al. 2017, sections 3 and 4; Ba, Kiros & Hinton 2016, section 3.1",
    assumptions=(
        "The signal is transient: the level of the inputs changes over the sequence.",
        "Sequences at test time are as long as in training, or the last step's statistics serve what is longer.",
    ),
    refuted_by="a drift below 1 or shared statistics as good as layer normalisation on transient signals; a drift above 0.05 on "
    "stationary ones",
    run=run,
    counterexample=counterexample,
    rows=("S12",),
)
