"""How far does one training example move what is learned?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from torchstone.bounds.interval import Interval
from torchstone.bounds.mean import mean_interval
from torchstone.bounds.power_law import PowerLaw, fit_power_law
from torchstone.bounds.sgd_stability import convex_stability
from torchstone.details import Axis, Curve, Detail, Line, Scalar, Scalars, numbers
from torchstone.errors import NotApplicableError, TorchstoneError
from torchstone.instruments.settings import require_count
from torchstone.operators import gradient_norms
from torchstone.reading import CostClass, Level, Meta, Need, Question, Reading, Remedy, Uncertainty, Verdict
from torchstone.training.twins import TwinCurves, TwinWatch
from torchstone.workbench import Workbench
from torchstone.workbench.retraining import train_many
from torchstone.workbench.siblings import Siblings

NOTED = 12
"""Epochs at which distances are taken, evenly spaced in their logarithm."""


@dataclass(frozen=True)
class Stability:
    """Twin trainings that differ in a single example: how far apart they end, and how fast they drift.

    Both twins have the same initial weights and order of examples; one of them sees another example in one place. The
    value is the exponent b of |w - w'| ~ t^b. The change of the loss on the two exchanged examples, averaged over pairs,
    is an unbiased estimate of the expected generalization gap: both are the same number by symmetry.

    Cost: 2 `pairs` trainings, as one where the network can be mapped. Bias: none for trainings by this recipe on as many
    examples less `pairs`. Variance: of the pairs, in the intervals.
    Source: Hardt, Recht & Singer 2016, sections 3 and 5; Bousquet & Elisseeff 2002; Shalev-Shwartz et al. 2010, lemma 7.
    """

    META: ClassVar[Meta] = Meta(
        id="stability",
        question=Question.GENERALIZATION,
        title="Stability of the training",
        asks="How far does one training example move what is learned?",
        cost=CostClass.RETRAINING,
        needs=(Need.TRAIN, Need.PARAMETERS, Need.RETRAINING, Need.INDEPENDENT_EXAMPLES),
        unit="exponent",
        source="Hardt, Recht & Singer 2016, sections 3 and 5",
    )
    pairs: int = 6

    def __post_init__(self) -> None:
        require_count(self, "pairs", 2, 1000)

    def measure(self, bench: Workbench) -> Reading:
        """Train the twins, fit the drift and compare losses on the exchanged examples."""
        trained = _train(bench, self.pairs, self.META.id)
        law = _drift(trained.curves)
        verdict = judge(law)
        end = trained.curves.normalised[:, -1]
        apart = float(end.mean())
        said = trained.curves.disagreement
        changed = (
            ""
            if said is None
            else f"; the twins disagree on {float(said[:, -1].mean()):.1%} of the {trained.split} data"
        )
        grown = f", growing like steps^{law.exponent:.2f}" if law else ""
        return Reading.of(
            self.META,
            value=None if law is None else law.exponent,
            uncertainty=None if law is None or law.interval is None else _uncertainty(law.interval),
            verdict=verdict,
            headline=(
                f"Exchanging one of {trained.rows.shape[1]:,} training examples moves the weights by {apart:.1%} of their "
                f"size{grown}{changed}."
            ),
            explanation=(
                f"{len(end)} pairs of trainings by the recipe, each pair from the same initial weights in the same order, with one "
                "example exchanged. The distance is |w - w'| / sqrt(|w|^2 + |w'|^2); its drift is fitted by a power of the "
                "number of steps. Stable training generalizes: the mean change of the loss on the exchanged examples "
                "estimates the generalization gap, and no bound on it can be smaller."
            ),
            remedies=_remedies(verdict),
            details=(
                _distances(trained.curves, law),
                _layers(trained.curves),
                *_functions(trained.curves, trained.split),
                _gaps(bench, trained),
            ),
            notes=trained.notes,
        )


def judge(law: PowerLaw | None) -> Verdict:
    """Good below linear growth, attention above it, each beyond the spread of the pairs."""
    threshold = "distance grows more slowly than the number of steps (exponent below 1)"
    source = "Hardt, Recht & Singer 2016: at most linear for convex losses; sublinear in their measurements (figure 4)"
    if law is None or law.interval is None:
        return Verdict(Level.INFORMATIVE, "the twins' distances have no exponent", threshold, source)
    if law.interval.high < 1:
        return Verdict(Level.GOOD, f"exponent {law.exponent:.2f}, below 1", threshold, source)
    if law.interval.low > 1:
        return Verdict(Level.ATTENTION, f"exponent {law.exponent:.2f}, above 1", threshold, source)
    return Verdict(
        Level.INFORMATIVE, f"exponent {law.exponent:.2f}, not distinguishable from 1", threshold, source
    )


@dataclass(frozen=True)
class _Trained:
    """The twins that stayed finite.

    Args:
        curves: Their distances.
        runs: Losses (P, N) on the training data under the networks trained on S, and on S'.
        test: Test losses (P, M) under those trained on S; None without test data.
        rows: Of S and S', (2P, n): first all S, then all S'.
        exchanged: The example of S that S' lacks, and the one it holds instead, (P, 2).
        split: On which outputs were compared.
        notes: The effort.
    """

    curves: TwinCurves
    runs: tuple[Tensor, Tensor]
    test: Tensor | None
    rows: Tensor
    exchanged: Tensor
    split: str
    notes: tuple[str, ...]


def _train(bench: Workbench, pairs: int, name: str) -> _Trained:
    specimen, generator = bench.specimen, bench.generator(name)
    count = specimen.size("train")
    if count < 4 * pairs:
        raise NotApplicableError(f"needs at least {4 * pairs} training examples for {pairs} pairs")
    drawn = torch.randperm(count, generator=generator)
    seeds = torch.randint(2**31, (pairs,), generator=generator).tolist()
    exchanged = torch.stack([drawn[:pairs], drawn[-pairs:]], dim=1)
    rows = drawn[:-pairs].sort().values.repeat(pairs, 1)
    twin = torch.where(rows == exchanged[:, :1], exchanged[:, 1:], rows)
    split = "test" if specimen.has("test") else "training"
    epochs = specimen.recipe.epochs if specimen.recipe is not None else None
    watch = TwinWatch(epochs=_spaced(epochs or 1))
    first, second = (
        train_many(specimen, seeds, rows=some, on_epoch=_noting(watch, note, bench, split))
        for some, note in ((rows, watch.remember), (twin, watch.compare))
    )
    assert first.run is not None
    assert second.run is not None
    lost = {*first.run.diverged, *second.run.diverged}
    kept = torch.tensor([k for k in range(pairs) if k not in lost])
    if len(kept) < 2:
        raise NotApplicableError(f"needs two pairs that stay finite; {len(lost)} of {pairs} diverged")
    way = f"{first.run.way}{f' ({first.run.reason})' if first.run.reason else ''}"
    notes = [f"{2 * pairs} trainings by the recipe on {rows.shape[1]:,} examples, {way}."]
    notes += [f"{len(lost)} pairs diverged and are left out."] if lost else []
    return _Trained(
        _some(watch.curves(), kept),
        (first.losses("train")[kept], second.losses("train")[kept]),
        first.losses("test")[kept] if specimen.has("test") else None,
        torch.cat([rows[kept], twin[kept]]),
        exchanged[kept],
        split,
        tuple(notes),
    )


def _spaced(epochs: int) -> set[int]:
    return {round(float(e)) for e in torch.logspace(0, torch.tensor(float(epochs)).log10().item(), NOTED)}


def _noting(watch: TwinWatch, note: Any, bench: Workbench, split: str) -> Any:
    """A callback that hands networks and what they say to the watch."""
    which = "test" if split == "test" else "train"

    def on_epoch(epoch: Any, siblings: Siblings) -> None:
        if watch.wants(epoch.index):
            classes = not bench.lacks(Need.SCORES)
            note(epoch, siblings.scores(which) if classes else None)

    return on_epoch


def _some(curves: TwinCurves, kept: Tensor) -> TwinCurves:
    def of(values: Tensor | None) -> Tensor | None:
        return None if values is None else values[kept]

    return TwinCurves(
        curves.epochs,
        curves.steps,
        {name: values[kept] for name, values in curves.squares.items()},
        {name: values[kept] for name, values in curves.sizes.items()},
        of(curves.outputs),
        of(curves.disagreement),
    )


def _drift(curves: TwinCurves) -> PowerLaw | None:
    """The exponent of growth; None where twins never part or there is a single time."""
    distance = curves.distance
    usable = (distance > 0).all(0) & distance.isfinite().all(0)
    if int(usable.sum()) < 2:
        return None
    return fit_power_law(curves.steps[usable], distance[:, usable])


def on_average_stability(exchanged: Tensor, losses: Tensor, twin_losses: Tensor) -> Tensor:
    r"""How much a pair's loss on an exchanged example rises where it was not trained on, (P,).

    .. math:: \tfrac12 \bigl[\ell(w'; z) - \ell(w; z) + \ell(w; z') - \ell(w'; z')\bigr]

    for z in S only and z' in S' only. Its expectation is the expected generalization gap.

    Args:
        exchanged: Rows of z and z', (P, 2).
        losses: Of all examples under the networks trained on S, (P, N).
        twin_losses: Under those trained on S'.

    Source: Shalev-Shwartz, Shamir, Srebro & Sridharan 2010, lemma 7.
    """
    change = (twin_losses - losses).gather(1, exchanged.to(losses.device))
    return (change[:, 0] - change[:, 1]) / 2


def _gaps(bench: Workbench, trained: _Trained) -> Scalars:
    """The gap as measured, as the exchanged examples estimate it, and as bounds say."""
    own, twin = trained.runs
    changes = on_average_stability(trained.exchanged, own, twin)
    items = [_scalar("mean change on exchanged examples", changes)]
    if trained.test is not None:
        seen = own.gather(1, trained.rows[: len(own)])
        items.append(_scalar("measured gap of the same networks", trained.test.mean(1) - seen.mean(1)))
    items += _bounds(bench, trained)
    return Scalars(
        "Generalization gap and stability",
        tuple(items),
        caption="The first two estimate the same number: the expected gap. Their intervals cover pairs; the first one's is wide "
        "where few examples are memorised. Bounds use the largest gradient norm of a training example at the "
        "examined weights, which along the path may be larger; a convex loss is what the theorem assumes and a network lacks.",
    )


def _bounds(bench: Workbench, trained: _Trained) -> list[Scalar]:
    try:
        lipschitz = float(gradient_norms(bench.specimen).norms.max())
    except TorchstoneError:
        return []
    moved = float(trained.curves.distance[:, -1].mean())
    items = [Scalar("largest gradient norm times distance", lipschitz * moved, "loss")]
    recipe = bench.specimen.recipe
    if (
        recipe is None
        or recipe.schedule is not None
        or not recipe.learning_rates
        or not 0 < lipschitz < float("inf")
    ):
        return items
    steps = int(trained.curves.steps[-1])
    rate = recipe.learning_rates[0] / (1 - recipe.heavy_ball)
    # The smoothness only bounds the steps the theorem allows; what it would say were the loss convex is asked for here.
    bound = convex_stability([rate] * steps, trained.rows.shape[1], lipschitz, smoothness=2 / rate)
    return [*items, Scalar("theorem for convex losses", bound.value, "loss")]


def _scalar(name: str, values: Tensor) -> Scalar:
    interval = mean_interval(values)
    return Scalar(name, float(values.mean()), "loss", interval.low, interval.high)


def _uncertainty(interval: Interval) -> Uncertainty:
    return Uncertainty(interval.low, interval.high, "pairs", interval.method, interval.confidence)


def _distances(curves: TwinCurves, law: PowerLaw | None) -> Curve:
    distance = curves.distance
    lines = [Line("mean of the pairs", *_band(curves, distance))]
    if law is not None:
        fit = law.coefficient * curves.steps.double() ** law.exponent
        lines.append(Line(f"fitted power, steps^{law.exponent:.2f}", numbers(curves.steps), numbers(fit)))
    shown = bool((distance > 0).all())
    return Curve(
        "Distance of twins in weights",
        Axis("steps", log=True),
        Axis("|w - w'|", log=shown),
        tuple(lines),
        caption="One training example differs, all randomness is shared. The band spans the pairs. A straight line is a power law; "
        "slope 1 is the growth that theory allows for convex losses.",
    )


def _band(curves: TwinCurves, values: Tensor) -> tuple[tuple[float, ...], ...]:
    low, high = values.min(0).values, values.max(0).values
    return numbers(curves.steps), numbers(values.mean(0)), numbers(low), numbers(high)


def _layers(curves: TwinCurves) -> Curve:
    layers = list(curves.normalised_layers.items())
    lines = [
        Line(f"layer {name}", numbers(curves.steps), numbers(values.mean(0))) for name, values in layers[:12]
    ]
    lines.append(Line("all layers", *_band(curves, curves.normalised)))
    return Curve(
        "Normalised distance by layer",
        Axis("steps", log=True),
        Axis("|w - w'| / sqrt(|w|^2 + |w'|^2)"),
        tuple(lines),
        caption="0 for equal weights, 1 for unrelated ones, sqrt 2 for opposite ones."
        + (f" The first 12 of {len(layers)} layers." if len(layers) > 12 else ""),
    )


def _functions(curves: TwinCurves, split: str) -> tuple[Detail, ...]:
    if curves.disagreement is None:
        return ()
    return (
        Curve(
            "Distance of twins in what they say",
            Axis("steps", log=True),
            Axis(f"{split} examples with another prediction", "%"),
            (Line("mean of the pairs", *_band(curves, 100 * curves.disagreement)),),
            caption="Weights can move without the function: predictions that change are what stability is about.",
        ),
    )


def _remedies(verdict: Verdict) -> tuple[Remedy, ...]:
    if verdict.level is not Level.ATTENTION:
        return ()
    return (
        Remedy(
            "Lower the learning rate or decay it as 1/t: distances then grow sublinearly for any smooth loss."
        ),
        Remedy(
            "Train for fewer epochs, or with weight decay, which contracts distances.", "torch.optim.AdamW"
        ),
        Remedy("Average the weights along the training.", "torch.optim.swa_utils.AveragedModel"),
    )


INSTRUMENT = Stability
