r"""Internal covariate shift measured: how the gradient of a layer changes because the layers before it have stepped.

G_i is the gradient of layer i at weights w_t, G'_i the same with layers 1, ..., i - 1 already at w_{t+1}. The shift |G_i - G'_i| is 0
where the earlier layers stand still. Batch normalisation was introduced to lower it (Ioffe & Szegedy 2015); Santurkar et al.
(2018) found it no lower with batch normalisation than without, and networks that train well although noise behind the
normalisation makes moments jump at every step. The table here reports the shift for both and judges neither; what is tested is
that noisy normalisation still trains faster than none, each at its own best rate out of one grid.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from torchstone.atlas import Claim, Evidence, Scale, Theme
from torchstone.atlas.claims.signal._normalised import Kind, batch, dense, move, next_step, slope
from torchstone.details import Axis, Curve, Line, Table, numbers
from torchstone.objectives import Classification
from torchstone.specimen import Specimen
from torchstone.workbench.gradient_shift import GradientShift, gradient_shifts

DEPTH, WIDTH, BATCH = 10, 32, 128
RATES = (0.03, 0.1, 1.0)
SPREAD, TOO_NOISY = 0.3, 3.0  # of the noise behind the normalisation
SHIFT_RATE = 0.1  # of the step that the shift is measured with, the same for all
FROZEN = 3  # layers
T_95 = {3: 4.303, 10: 2.262}  # 97.5% quantile of Student's t with one degree less than so many seeds


class Training(NamedTuple):
    """One run: mean loss over its updates, and the shifts measured on the way."""

    loss: float
    shifts: list[GradientShift]


def run(scale: Scale, generator: torch.Generator) -> Evidence:
    """Earlier layers frozen, and noise of moderate size."""
    return experiment(scale, generator, frozen=FROZEN, spread=SPREAD)


def counterexample(scale: Scale, generator: torch.Generator) -> Evidence:
    """Earlier layers that do move, and noise that drowns the signal."""
    return experiment(scale, generator, frozen=0, spread=TOO_NOISY)


def experiment(scale: Scale, generator: torch.Generator, frozen: int, spread: float) -> Evidence:
    """The shift behind frozen layers, then training with each kind of normalisation at each rate."""
    updates, seeds = (20, 3) if scale is Scale.QUICK else (150, 10)
    behind = max(behind_frozen(kind, frozen, generator) for kind in Kind)
    starts = torch.randint(2**48, (seeds,), generator=generator).tolist()
    runs = {
        (kind, rate): [train(kind, rate, updates, spread, seed) for seed in starts]
        for kind in Kind
        for rate in RATES
    }
    losses = {key: torch.tensor([one.loss for one in found]) for key, found in runs.items()}
    best = {kind: min(RATES, key=lambda rate, kind=kind: float(losses[kind, rate].mean())) for kind in Kind}
    measured = {
        kind: [train(kind, best[kind], updates, spread, seed, measuring=True) for seed in starts]
        for kind in Kind
    }
    gain = losses[Kind.PLAIN, best[Kind.PLAIN]] - losses[Kind.NOISY, best[Kind.NOISY]]
    low = float(gain.mean()) - half_width(gain)
    return Evidence.all_of(
        Evidence.at_most(
            f"largest |G - G'| behind {FROZEN} frozen layers, three kinds of network", behind, 1e-12, "0"
        ),
        Evidence.at_least(
            "mean loss over training, plain less noisy normalisation, best rates, lower end of the 95% interval",
            low,
            0.0,
            "noisy normalisation trains faster",
        ),
        figures=(
            table(measured, best),
            curve(losses),
        ),
    )


def behind_frozen(kind: Kind, frozen: int, generator: torch.Generator) -> float:
    """|G - G'| of the first layer that moves where FROZEN ones before it are said not to; float64."""
    model = dense(kind, DEPTH, WIDTH, generator).double().train()
    layers = [layer for layer in model if isinstance(layer, nn.Linear)]
    first = list(model).index(layers[FROZEN])
    for module in list(model)[: first if frozen else 0]:
        module.requires_grad_(False)
    found = {one.layer: one.change for one in shifts(model, *batch(BATCH, generator), layers=DEPTH)}
    return found[str(first)]


def train(
    kind: Kind, rate: float, updates: int, spread: float, seed: int, *, measuring: bool = False
) -> Training:
    """Gradient steps on minibatches; a loss above 10, or none, counts as 10. The shift is measured halfway if asked for."""
    generator = torch.Generator().manual_seed(seed)
    model = dense(kind, DEPTH, WIDTH, generator, spread=spread)
    total, seen = 0.0, []
    for update in range(updates):
        x, y = batch(BATCH, generator)
        if measuring and update == updates // 2:
            seen = shifts(model, x, y, layers=3)[1:]
        loss, g = slope(model, x, y)
        total += min(loss, 10.0) if loss == loss else 10.0
        move(model, -rate * g)
        next_step(model)
    return Training(total / updates, seen)


def shifts(model: nn.Module, x: Tensor, y: Tensor, layers: int) -> list[GradientShift]:
    """With the statistics of this one batch."""
    specimen = Specimen(model, Classification(), (x, y), batch_size=len(x), mode="as_is")
    return gradient_shifts(specimen, SHIFT_RATE, layers=layers)


def half_width(values: Tensor) -> float:
    """Half of the 95% interval of a mean over seeds, by Student's t."""
    return T_95[len(values)] * float(values.std()) / len(values) ** 0.5


def table(runs: dict[Kind, list[Training]], best: dict[Kind, float]) -> Table:
    """Loss and shift of each kind at its best rate, with 95% intervals over seeds."""
    rows = []
    for kind, found in runs.items():
        loss = torch.tensor([one.loss for one in found])
        change = torch.tensor([_mean([s.change / s.size for s in one.shifts if s.size > 0]) for one in found])
        cosine = torch.tensor(
            [_mean([s.cosine for s in one.shifts if s.size * s.after > 0]) for one in found]
        )
        absolute = torch.tensor([_mean([s.change for s in one.shifts]) for one in found])
        cells = [f"{v.mean():.3g} ± {half_width(v):.2g}" for v in (loss, change, absolute, cosine)]
        rows.append((kind.value, best[kind], *cells))
    return Table(
        "Training and internal covariate shift at each network's best rate",
        ("network", "rate", "mean loss over training", "|G - G'| / |G|", "|G - G'|", "cosine of G and G'"),
        tuple(rows),
        caption=f"Means over layers and seeds with 95% intervals; shifts by a step of rate {SHIFT_RATE:g} for all. Whether "
        "normalisation lowers the shift is disputed: the numbers are shown, and not judged.",
    )


def _mean(values: list[float]) -> float:
    return sum(values) / len(values) if values else 0.0


def curve(losses: dict[tuple[Kind, float], Tensor]) -> Curve:
    """Mean loss over training against the rate."""
    lines = []
    for kind in Kind:
        means = [float(losses[kind, rate].mean()) for rate in RATES]
        halves = [half_width(losses[kind, rate]) for rate in RATES]
        ends = [numbers(m + sign * h for m, h in zip(means, halves, strict=True)) for sign in (-1, 1)]
        lines.append(Line(kind.value, numbers(RATES), numbers(means), *ends))
    return Curve(
        "Speed of training",
        Axis("learning rate", log=True),
        Axis("mean loss over training (above 10 counted as 10)"),
        tuple(lines),
        caption="Lower is faster. Bands are 95% intervals over seeds. Noise behind the normalisation slows training down; at "
        "small rates it can be slower than the plain network.",
    )


CLAIM = Claim(
    id="internal_covariate_shift",
    theme=Theme.SIGNAL,
    title="Internal covariate shift, and what batch normalisation does without it",
    statement=(
        "The shift |G - G'| of a layer's gradient is 0 when the layers before it stand still. Batch normalisation whose "
        "outputs are shaken by noise at every step still trains a deep network faster than no normalisation, each at its "
        "best rate. Whether normalisation lowers the shift is reported, not claimed."
    ),
    source="Santurkar, Tsipras, Ilyas & Madry 2018, section 2 and definition 2.1; Ioffe & Szegedy 2015 for the contrary view",
    assumptions=(
        "Ten dense layers from Kaiming's weights, gradient steps on minibatches of digits, rates of one grid.",
        "The noise scales each unit by at most 1.3 and shifts it by at most 0.3 deviations, the same for a whole batch.",
        "At one small rate for all, noisy normalisation can be the slower one.",
    ),
    refuted_by="a shift above 1e-12 behind frozen layers, or a 95% interval of the loss saved by noisy normalisation that "
    "reaches below 0",
    run=run,
    counterexample=counterexample,
    rows=("S08",),
)
