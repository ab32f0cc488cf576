r"""Complexity measures order generalization gaps where labels differ in noise, and counting parameters does not.

A pool of 24 networks, two widths x three weight decays x four shares of wrong training labels, is trained on digits. For every
complexity measure Kendall's tau says whether it orders their gaps, and the granulated score counts only pairs that
differ in a single setting. A bound's template is sqrt(C/n) (C/n for networks without training error), so that both
have the same order and the same tau.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from torchstone.atlas import Claim, Erratum, Evidence, Scale, Theme
from torchstone.bounds.rank_correlation import kendall_tau
from torchstone.data.digits import digits
from torchstone.data.label_noise import flip_labels
from torchstone.details import Axis, Scatter, Table, numbers
from torchstone.objectives import Classification
from torchstone.specimen import Specimen
from torchstone.specimens.networks import mlp
from torchstone.training.evaluation import cross_entropy, misclassified
from torchstone.training.fit_many import fit_many
from torchstone.workbench.complexity import NAMES, Panel, complexity_panel
from torchstone.workbench.complexity_pool import ranked

WIDTHS = (32, 96)
DECAYS = (0.0, 1e-3, 3e-3)
NOISES = (0.0, 0.15, 0.3, 0.45)
SHAPE = (len(WIDTHS), len(DECAYS), len(NOISES))
EXAMPLES = 300
DISTANCE, MARGIN = "squared distance from initialisation", "1 / margin²"
COUNT = "number of parameters"

Gaps = Callable[[Tensor, torch.Generator], Tensor]


@dataclass(frozen=True)
class Trained:
    """One network: its place in the table, its gap and its measures."""

    setting: tuple[int, float, float]
    gap: float
    panel: Panel


def run(scale: Scale, generator: torch.Generator) -> Evidence:
    """The gaps of the networks themselves."""
    return experiment(scale, generator, lambda gaps, _: gaps)


def counterexample(scale: Scale, generator: torch.Generator) -> Evidence:
    """The gaps of other networks: dealt out at random, which no measure of these can order."""
    return experiment(
        scale, generator, lambda gaps, source: gaps[torch.randperm(len(gaps), generator=source)]
    )


def experiment(scale: Scale, generator: torch.Generator, dealt: Gaps) -> Evidence:
    """Train the pool, measure it, and rank the measures."""
    examples, epochs = (EXAMPLES, 60) if scale is Scale.QUICK else (1000, 150)
    pool = [one for width in WIDTHS for one in trained(width, examples, epochs, generator)]
    gaps = dealt(torch.tensor([one.gap for one in pool], dtype=torch.float64), generator)
    panels = [one.panel for one in pool]
    rankings = {one.name: one for one in ranked(panels, gaps, SHAPE)}
    unmeasured = sum(
        name not in panel.logs or math.isnan(panel.logs[name]) for panel in panels for name in NAMES
    )
    return Evidence.all_of(
        Evidence.at_most("empty cells in the table of 24 networks and 18 measures", unmeasured, 0),
        Evidence.at_least(
            f"lower limit of tau, {DISTANCE}", rankings[DISTANCE].interval.low, 0.0, "jointly for all at 95%"
        ),
        Evidence.at_least(
            f"granulated tau, {DISTANCE}",
            rankings[DISTANCE].granulated,
            2 * chance_deviation(SHAPE),
            "two standard deviations of random orders",
        ),
        Evidence.at_least(f"tau, {MARGIN}", rankings[MARGIN].tau, 0.0),
        Evidence.at_most(
            f"tau along weight decay, {MARGIN}",
            rankings[MARGIN].axes[1],
            0.0,
            "decay shrinks margins and gaps alike, which is what the granulated score is for",
        ),
        Evidence.at_most(
            f"|tau|, {COUNT}", abs(rankings[COUNT].tau), 0.3, "width is not what the gaps follow"
        ),
        Evidence.close(
            "tau of C/n against tau of sqrt(C/n), largest difference",
            max(template_difference(panels, gaps, examples, name) for name in NAMES),
            0.0,
            absolute=1e-12,
        ),
        figures=(table(panels, gaps), scatter(pool, gaps)),
    )


def chance_deviation(shape: Sequence[int]) -> float:
    """Standard deviation of the granulated tau of a random order.

    It is a weighted sum of products of signs, one a pair of cells on a line; of variance 1, and of covariance 1/9 where two pairs
    share a cell (1/3 for each of the two orders), 0 where they share none.
    """
    cells, axes = math.prod(shape), len(shape)
    pairs = [
        cells // m * (m * (m - 1) // 2) for m in shape
    ]  # along each axis, each of weight 1 / (axes * pairs)
    own = math.fsum(1 / (axes**2 * count) for count in pairs)
    at_a_cell = math.fsum((m - 1) / (axes * count) for m, count in zip(shape, pairs, strict=True))
    return math.sqrt(own + (cells * at_a_cell**2 - 2 * own) / 9)


def trained(width: int, examples: int, epochs: int, generator: torch.Generator) -> list[Trained]:
    """Networks of one width, all decays and shares of wrong labels, from the same initial weights."""
    data = digits()
    x, clean = data.train_x[:examples].flatten(1), data.train_y[:examples]
    settings = [(width, decay, noise) for decay in DECAYS for noise in NOISES]
    labels = {noise: flip_labels(clean, noise, 10, generator)[0] for noise in NOISES}
    targets = torch.stack([labels[noise] for _, _, noise in settings])
    start = mlp([64, width, 10], generator=generator)
    seed = int(torch.randint(2**31, (), generator=generator))
    run = fit_many(
        [start] * len(settings),
        cross_entropy,
        x,
        clean,
        optimizer=lambda parameters: torch.optim.SGD(parameters, lr=0.05, momentum=0.9),
        batch_size=50,
        epochs=epochs,
        generators=[torch.Generator().manual_seed(seed) for _ in settings],
        targets=targets,
        weight_decay=[decay for _, decay, _ in settings],
    )
    initial = {name: value.clone() for name, value in start.state_dict().items()}
    test = run.ensemble.evaluate(misclassified, data.test_x.flatten(1), data.test_y).mean(1)
    found = []
    for k, setting in enumerate(settings):
        model = run.ensemble.member(k)
        fitted = float(misclassified(model, x, targets[k]).double().mean())
        gap = noisy_risk(float(test[k]), setting[2]) - fitted
        specimen = Specimen(model, Classification(), (x, targets[k]))
        found.append(Trained(setting, gap, complexity_panel(specimen, initial, generator)))
    return found


def noisy_risk(error: float, noise: float, classes: int = 10) -> float:
    """Error on test labels of which a share is wrong, as in training, from that on right labels."""
    return (1 - error) * noise + error * (1 - noise / (classes - 1))


def template_difference(panels: Sequence[Panel], gaps: Tensor, n: int, name: str) -> float:
    """How much the two templates' taus differ: a monotone function of C orders as C does."""
    values = torch.tensor([panel.value(name) for panel in panels], dtype=torch.float64)
    if not bool(torch.isfinite(values).all()) or len(values.unique()) < 2:
        return 0.0
    return abs(kendall_tau(values / n, gaps) - kendall_tau((values / n).sqrt(), gaps))


def table(panels: Sequence[Panel], gaps: Tensor) -> Table:
    """Every measure's taus, best first."""
    rows = tuple(
        (
            one.name,
            NAMES[one.name],
            None if math.isnan(one.tau) else one.tau,
            one.interval.low,
            one.interval.high,
            *one.axes,
            one.granulated,
        )
        for one in ranked(panels, gaps, SHAPE)
    )
    columns = (
        "measure",
        "family",
        "tau",
        "low",
        "high",
        "tau along width",
        "tau along weight decay",
        "tau along wrong labels",
        "granulated",
    )
    return Table(
        "Which measures order the gaps of 24 networks",
        columns,
        rows,
        caption="Intervals hold for all measures together (95%). The granulated score is the mean over the three axes.",
    )


def scatter(pool: Sequence[Trained], gaps: Tensor) -> Scatter:
    """The distance from initialisation against the gaps."""
    name = DISTANCE
    return Scatter(
        f"Gaps against the {name}",
        Axis(f"log10 of {name}"),
        Axis("gap of errors"),
        numbers(one.panel.logs[name] / math.log(10) for one in pool),
        numbers(gaps),
        groups=tuple(f"{one.setting[2]:.0%} wrong labels" for one in pool),
        texts=tuple(f"width {one.setting[0]}, decay {one.setting[1]:g}" for one in pool),
        caption="One point a network. A measure that orders the gaps rises to the right, also within one group.",
    )


CLAIM = Claim(
    id="measures_rank_gaps",
    theme=Theme.RISK,
    title="Complexity measures and generalization gaps",
    statement=(
        "Over 24 networks of two widths, three weight decays and four shares of wrong labels, the distance from "
        "initialisation orders the generalization gaps, also one setting at a time, and the number of parameters does not; "
        "the inverse margin orders them over all and weight decays the wrong way."
    ),
    source="Jiang, Neyshabur, Mobahi, Krishnan & Bengio 2020, sections 2 and 6; Dziugaite et al. 2020; Neyshabur, Bhojanapalli, "
    "McAllester & Srebro 2017 (wrong labels)",
    assumptions=(
        "Networks differ in settings that move their gaps, here mostly the share of wrong labels.",
        "The gap is that of the error, on test labels as noisy as the training labels.",
        "No measure orders gaps everywhere: the statement is about this pool.",
    ),
    refuted_by="an interval of the distance's tau that reaches 0, a granulated tau that random orders reach, a tau of the number of "
    "parameters beyond 0.3, or an empty cell",
    run=run,
    counterexample=counterexample,
    rows=("R17",),
    errata=(
        Erratum(
            id="E04",
            stated="The usual form of a bound is test error <= training error + C/n.",
            correct="The usual rate is sqrt(C/n); C/n holds for networks without training error, or for localised classes.",
        ),
    ),
)
