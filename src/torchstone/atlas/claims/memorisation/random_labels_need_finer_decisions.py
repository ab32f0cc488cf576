r"""Networks that fit random labels draw finer decision surfaces than those that fit real ones.

An input is critical when the box of radius r around it holds one with another decision; for a linear decision that is
|f(x)| <= r |w|_1 exactly. The critical sample ratio of held-out inputs is compared between networks that have fitted the
true labels of handwritten digits and the same labels shuffled.
"""

from __future__ import annotations

import torch
from torch import Tensor

from torchstone.atlas import Claim, Evidence, Scale, Theme
from torchstone.data.digits import digits
from torchstone.details import Axis, Curve, Line, Table, numbers
from torchstone.robust import langevin_search
from torchstone.specimens.networks import mlp
from torchstone.training.ensemble import Ensemble
from torchstone.training.evaluation import cross_entropy, misclassified
from torchstone.training.fit_many import MembersEpoch, fit_many

SEEDS, WIDTH, BATCH, EPOCHS, EXAMPLES = 5, 128, 32, 40, 300
RADIUS = 0.15  # in standard deviations of the inputs, which digits are scaled to
PROBE = 100  # held-out inputs


def run(scale: Scale, generator: torch.Generator) -> Evidence:
    """Shuffled labels against true ones."""
    return experiment(scale, generator, shuffled=True)


def counterexample(scale: Scale, generator: torch.Generator) -> Evidence:
    """True labels against true ones, from other seeds: no difference."""
    return experiment(scale, generator, shuffled=False)


def experiment(scale: Scale, generator: torch.Generator, shuffled: bool) -> Evidence:
    """Train twins on both labellings and search around held-out inputs as they train."""
    quick = scale is Scale.QUICK
    seeds, examples = SEEDS if quick else 4 * SEEDS, EXAMPLES
    data = digits(seed=int(torch.randint(2**31, (), generator=generator)))
    x, y, probe = data.train_x[:examples], data.train_y[:examples], data.test_x[:PROBE]
    order = torch.randperm(examples, generator=generator)
    labels = torch.stack([y] * seeds + [y[order] if shuffled else y] * seeds)
    begin = int(torch.randint(2**31, (), generator=generator))
    generators = [torch.Generator().manual_seed(begin + k) for k in range(2 * seeds)]
    noted: list[tuple[int, Tensor]] = []
    every = 20 if quick else 10

    def follow(epoch: MembersEpoch) -> None:
        if epoch.index % every == 0 or epoch.index in (1, 5):
            noted.append((epoch.index, critical(epoch.ensemble, probe, generator)))

    trained = fit_many(
        [mlp([64, WIDTH, 10], generator=own) for own in generators],
        cross_entropy,
        x,
        y,
        optimizer=lambda parameters: torch.optim.SGD(parameters, lr=0.05, momentum=0.9),
        batch_size=BATCH,
        epochs=EPOCHS if quick else 2 * EPOCHS,
        generators=generators,
        targets=labels,
        on_epoch=follow,
        memory_budget=2**32,
    )
    fitted = torch.stack(
        [trained.ensemble.evaluate(misclassified, x, one)[k].mean() for k, one in enumerate(labels)]
    )
    ratios = noted[-1][1]
    real, other = ratios[:seeds], ratios[seeds:]
    gap = other - real
    agreement = linear_agreement(generator)
    return Evidence.all_of(
        Evidence.at_least("agreement with |f| <= r |w|_1 on linear decisions", agreement, 0.99),
        Evidence.at_least(
            "critical sample ratio: smallest of random labels less largest of true ones",
            other.min() - real.max(),
            0.0,
            f"{float(other.mean()):.1%} against {float(real.mean()):.1%} over {seeds} seeds each",
        ),
        Evidence.at_least(
            "difference in standard errors", gap.mean() / gap.std().clamp(min=1e-9) * seeds**0.5, 4.0
        ),
        Evidence.at_most("training error of all networks", fitted.max(), 0.01, "both labellings are fitted"),
        figures=(_curve(noted, seeds), _table(real, other, fitted)),
    )


def critical(ensemble: Ensemble, probe: Tensor, generator: torch.Generator) -> Tensor:
    """Critical sample ratio of each network, (K,)."""
    found = []
    for k in range(len(ensemble)):
        search = langevin_search(ensemble.member(k), probe, RADIUS, generator=generator, steps=10)
        found.append(search.success.double().mean())
    return torch.stack(found)


def linear_agreement(generator: torch.Generator, draws: int = 2000, width: int = 64) -> Tensor:
    """How often the search agrees with the exact answer for a random linear decision."""
    weight = torch.randn(width, generator=generator, dtype=torch.float64)
    x = torch.randn(draws, width, generator=generator, dtype=torch.float64)
    radius = float(((x @ weight).abs() / weight.abs().sum()).median())  # half of the inputs are critical
    logits = lambda z: torch.stack([torch.zeros(len(z), dtype=z.dtype), z @ weight], 1)
    search = langevin_search(logits, x, radius, generator=generator)
    return (search.success == ((x @ weight).abs() <= radius * weight.abs().sum())).double().mean()


def _curve(noted: list[tuple[int, Tensor]], seeds: int) -> Curve:
    epochs = tuple(float(epoch) for epoch, _ in noted)
    ratios = torch.stack([found for _, found in noted])
    lines = []
    for name, part in (("true labels", ratios[:, :seeds]), ("other labels", ratios[:, seeds:])):
        low, high = part.amin(1), part.amax(1)
        lines.append(Line(name, epochs, numbers(part.mean(1)), numbers(low), numbers(high)))
    return Curve(
        "Critical samples along the training",
        Axis("passes over the training data"),
        Axis("critical sample ratio of held-out inputs", "share"),
        tuple(lines),
        caption="Mean and range over seeds. Fitting random labels needs another decision next to nearly every input; the "
        "ratio says so without a single held-out label.",
    )


def _table(real: Tensor, other: Tensor, fitted: Tensor) -> Table:
    rows = tuple(
        (k, float(real[k]), float(other[k]), float(fitted[k]), float(fitted[len(real) + k]))
        for k in range(len(real))
    )
    columns = (
        "network",
        "ratio, true labels",
        "ratio, other labels",
        "training error, true",
        "training error, other",
    )
    return Table("Critical sample ratios", columns, rows)


CLAIM = Claim(
    id="random_labels_need_finer_decisions",
    theme=Theme.MEMORISATION,
    title="Random labels need finer decision surfaces",
    statement=(
        "Networks that fit shuffled labels have a higher critical sample ratio on held-out inputs than networks that fit "
        "the true ones, seed by seed."
    ),
    source="Arpit et al. 2017 (critical sample ratio, Langevin adversarial sample search)",
    assumptions=(
        "Both labellings are fitted; the radius and the inputs are the same.",
        "The search may miss critical samples: exact for linear decisions, a lower bound for others.",
    ),
    refuted_by="a network with true labels whose ratio is that of one with random labels or higher, or a search that "
    "disagrees with the exact answer for 1% of the inputs of a linear decision",
    run=run,
    counterexample=counterexample,
    rows=("M06",),
)
