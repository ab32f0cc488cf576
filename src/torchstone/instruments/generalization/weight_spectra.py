"""What do the spectra of its weights say of how well each layer is trained?"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch

from torchstone.bounds.interval import Interval
from torchstone.details import (
    Axis,
    Bars,
    Curve,
    Detail,
    Histogram,
    Line,
    Marker,
    Scalar,
    Scalars,
    Table,
    numbers,
    thin,
)
from torchstone.errors import NotApplicableError
from torchstone.instruments.settings import require_between, require_count
from torchstone.reading import CostClass, Level, Meta, Need, Question, Reading, Remedy, Uncertainty, Verdict
from torchstone.workbench import Workbench
from torchstone.workbench.layer_spectra import LayerSpectrum, layer_spectrum, shuffled
from torchstone.workbench.margins_and_calibration import margins_and_calibration
from torchstone.workbench.weight_matrices import matrices_of, weight_matrices

UNDER, OVER = 6.0, 2.0
_FEWEST_DRAWN = 20


@dataclass(frozen=True)
class WeightSpectra:
    r"""Tail exponent, outliers and stable rank of every weight matrix, beside those of its entries in random order.

    For each weight as a matrix (kernels as out x (in * positions)) the eigenvalues of W'W / max(n, p) are taken apart: the
    Marchenko-Pastur law fitted to their bulk, the eigenvalues above the Tracy-Widom threshold of pure noise, and the
    exponent alpha of a power law p(x) ~ x^-alpha fitted to their tail. The same matrix with its entries shuffled is the
    null model; the weights at initialisation stand beside where the recipe has them. The value is the mean alpha.

    Cost: no pass through the network; two eigendecompositions of the smaller side of each weight. Bias: alpha's error bar is
    by bootstrap with the start of the tail searched again, and takes the eigenvalues for independent, which repel each other
    and vary less; the ranges it is judged by are empirical.
    Source: Martin & Mahoney 2021, sections 3 to 5; Martin, Peng & Mahoney 2021; Clauset, Shalizi & Newman 2009.
    """

    META: ClassVar[Meta] = Meta(
        id="weight_spectra",
        question=Question.GENERALIZATION,
        title="Weight spectra",
        asks="Do the weights look well trained, layer by layer?",
        cost=CostClass.SECONDS,
        needs=(Need.TRAIN,),
        unit="exponent of the tail",
        source="Martin & Mahoney 2021; Martin, Peng & Mahoney 2021; Clauset, Shalizi & Newman 2009",
    )
    eigenvalues: int = 50
    """Fewest eigenvalues for a power law; below, its exponent is not to be trusted (Clauset et al. 2009, section 3.2)."""
    level: float = 0.01
    """Chance that noise shows an outlier."""
    layers: int = 24
    size: int = 2048
    """Largest smaller side of a weight that is decomposed."""

    def __post_init__(self) -> None:
        require_count(self, "eigenvalues", 20)
        require_between(self, "level", 1e-6, 0.5)
        require_count(self, "layers", 2, 1000)
        require_count(self, "size", 2)

    def measure(self, bench: Workbench) -> Reading:
        """Spectra of up to `layers` weights, evenly chosen by depth."""
        known = weight_matrices(bench.specimen)
        fitting = [name for name, matrix in known.items() if min(matrix.shape) <= self.size]
        names = [fitting[i] for i in thin(len(fitting), self.layers)]
        generator = bench.generator(self.META.id)
        take = lambda name, matrix: layer_spectrum(
            name, matrix, level=self.level, least=self.eigenvalues, generator=generator
        )
        trained = {name: one for name in names if (one := take(name, known[name])) is not None}
        if not trained:
            raise NotApplicableError("needs a weight matrix with at least two rows and columns that is not 0")
        null = {name: take(name, shuffled(known[name], generator)) for name in trained}
        recipe = bench.specimen.recipe
        state = (recipe.initial_state or {}) if recipe is not None else {}
        start = matrices_of(state, {name: known[name] for name in trained})
        initial = {name: take(name, matrix) for name, matrix in start.items()}
        verdict = judge(
            {name: one.exponent for name, one in trained.items() if one.exponent},
            _plain(trained),
            tuple(_like_shuffled(trained, null)),
        )
        value, error = mean_exponent(trained)
        return Reading.of(
            self.META,
            value=value,
            uncertainty=None
            if value is None
            else Uncertainty.from_standard_error(value, error, "eigenvalues", "bootstrap, normal, 95%"),
            verdict=verdict,
            headline=_headline(trained, value),
            explanation=(
                "Each weight's singular values are compared with those of independent random entries: how many stand out "
                "of the bulk, and how slowly their tail falls off. In large trained networks the exponents of good layers "
                "were found between 2 and 6. That is an observation across published models, not a theorem: compare "
                "layers, and checkpoints of one run, rather than trust the number."
            ),
            remedies=_remedies(verdict),
            details=(
                *_exponents(trained, null),
                *(_histogram(trained[name], null[name], initial.get(name)) for name in _drawn(trained)),
                _table(trained),
                _beside(trained, null, initial),
                *margins_and_calibration(bench),
            ),
            notes=_notes(len(known), len(fitting), trained, null, self),
        )


def judge(
    intervals: dict[str, Interval], random_like: tuple[str, ...], like_shuffled: tuple[str, ...] = ()
) -> Verdict:
    """Attention for layers whose exponent is beyond 2 to 6 with its interval, or that noise explains.

    Args:
        intervals: Of alpha, by layer; those with too few eigenvalues are not among them.
        random_like: Layers among them without an eigenvalue above the noise's.
        like_shuffled: Layers among them whose shuffled entries have the same exponent: it is no news of training there.
    """
    threshold = f"exponents between {OVER:g} and {UNDER:g}, and eigenvalues beyond those of noise"
    source = "Martin, Peng & Mahoney 2021: empirical, from published vision and language models"
    if not intervals:
        return Verdict(
            Level.INFORMATIVE, "no weight has enough eigenvalues for a power law", threshold, source
        )
    under = [name for name, one in intervals.items() if one.low > UNDER or name in random_like]
    over = [name for name, one in intervals.items() if one.high < OVER and name not in under]
    # A low severity: the ranges are heuristics, and wide layers may stay random-like in networks that generalise.
    if under or over:
        words = [
            f"{_some(names)} {'looks' if len(names) == 1 else 'look'} {what}"
            for names, what in ((under, "under-trained"), (over, "over-trained"))
            if names
        ]
        return Verdict(Level.ATTENTION, " and ".join(words), threshold, source, severity=0.2)
    if len(like_shuffled) == len(intervals):
        reason = "in the usual range, as the exponents of the same entries shuffled are"
        return Verdict(Level.INFORMATIVE, reason, threshold, source)
    return Verdict(
        Level.GOOD, "no layer's exponent is beyond the usual range with its error bar", threshold, source
    )


def mean_exponent(layers: dict[str, LayerSpectrum]) -> tuple[float | None, float]:
    """Mean of the finite exponents and its standard error; None where no layer has one.

    Maximum likelihood makes alpha - 1 too large by n / (n - 1), which a mean over many layers would not forgive: it is taken off.
    """
    found = [
        (1 + (tail.alpha - 1) * (tail.size - 1) / tail.size, one.error)
        for one in layers.values()
        if (tail := one.tail) is not None and math.isfinite(tail.alpha)
    ]
    if not found:
        return None, math.nan
    error = math.sqrt(math.fsum(error**2 for _, error in found)) / len(found)
    return math.fsum(alpha for alpha, _ in found) / len(found), error


def _plain(layers: dict[str, LayerSpectrum]) -> tuple[str, ...]:
    return tuple(name for name, one in layers.items() if one.tail is not None and one.is_random_like)


def _like_shuffled(layers: dict[str, LayerSpectrum], null: dict[str, LayerSpectrum | None]) -> list[str]:
    """Layers whose exponent is that of their shuffled entries, within both intervals."""
    found = []
    for name, layer in layers.items():
        other = null[name]
        one, same = layer.exponent, other and other.exponent
        if one is None or same is None:
            continue
        if one.low <= same.high and same.low <= one.high:
            found.append(name)
    return found


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _headline(layers: dict[str, LayerSpectrum], value: float | None) -> str:
    outliers = sum(one.bulk.outliers for one in layers.values())
    beyond = sum(not one.is_random_like for one in layers.values())
    first = (
        f"{beyond} of {len(layers)} weights have directions beyond random entries, {outliers} in all"
        if outliers
        else f"None of {len(layers)} weights has a direction beyond random entries"
    )
    fitted = [name for name, one in layers.items() if one.tail is not None]
    of = (
        f"tail exponent of {fitted[0]}"
        if len(fitted) == 1
        else f"mean tail exponent of {len(fitted)} weights"
    )
    return first + ("." if value is None else f"; the {of} is {value:.1f} (large trained networks: 2 to 6).")


def _drawn(layers: dict[str, LayerSpectrum]) -> list[str]:
    """The three weights with the most eigenvalues, in the order of depth; small ones make no histogram."""
    largest = sorted(layers, key=lambda name: -len(layers[name].eigenvalues))[:3]
    drawn = [name for name in layers if name in largest and len(layers[name].eigenvalues) >= _FEWEST_DRAWN]
    return drawn or largest[:1]


def _exponents(
    trained: dict[str, LayerSpectrum], null: dict[str, LayerSpectrum | None]
) -> tuple[Detail, ...]:
    tails = {
        name: (one.tail.alpha, ends)
        for name, one in trained.items()
        if one.tail and (ends := one.exponent) and math.isfinite(ends.high)
    }
    others = {
        name: (other.tail.alpha, ends)
        for name in tails
        if (other := null[name]) and other.tail and (ends := other.exponent)
    }
    if len(tails) < 2:
        items = [
            Scalar(f"{name}, {kind}", alpha, "", ends.low, ends.high)
            for kind, some in (("trained", tails), ("same entries, shuffled", others))
            for name, (alpha, ends) in some.items()
        ]
        caption = "With 95% intervals. Any spectrum has a best exponent."
        return (Scalars("Exponent of the tail", tuple(items), caption=caption),) if items else ()
    places = dict(zip(tails, numbers(range(1, len(tails) + 1)), strict=True))
    lines = [
        Line(
            name,
            tuple(places[weight] for weight in some),
            numbers(alpha for alpha, _ in some.values()),
            numbers(ends.low for _, ends in some.values()),
            numbers(ends.high for _, ends in some.values()),
        )
        for name, some in (("trained", tails), ("same entries, shuffled", others))
        if some
    ]
    return (
        Curve(
            "Exponent of the tail by layer",
            Axis("layer, input to output"),
            Axis("exponent alpha"),
            tuple(lines),
            (Marker("usual range ends: under-trained above", UNDER), Marker("over-trained below", OVER)),
            tuple(tails),
            caption="Bands are 95% intervals. Any spectrum has a best exponent: one that the shuffled entries show too says "
            "nothing of training.",
        ),
    )


def _histogram(trained: LayerSpectrum, null: LayerSpectrum | None, start: LayerSpectrum | None) -> Histogram:
    groups = {"trained": trained, "same entries, shuffled": null, "at initialisation": start}
    shown = {name: one for name, one in groups.items() if one is not None}
    floor = 1e-4 * trained.bulk.law.high
    logs = {name: one.eigenvalues.clamp(min=floor).log10() for name, one in shown.items()}
    everything = torch.cat(list(logs.values()))
    bins = max(10, min(40, round(2 * math.sqrt(len(trained.eigenvalues)))))
    edges = torch.linspace(
        float(everything.min()), float(everything.max()) + 1e-9, bins + 1, dtype=torch.float64
    )
    markers = [
        Marker("edge of the bulk", math.log10(trained.bulk.law.high), "x"),
        Marker("outliers from here", math.log10(trained.bulk.threshold), "x"),
    ]
    if trained.tail is not None:
        markers.append(Marker("power law from here", math.log10(max(trained.tail.start, floor)), "x"))
    return Histogram(
        f"Spectrum of {trained.name} ({trained.rows} x {trained.columns})",
        Axis("log10 of the eigenvalue of W'W / max(n, p)"),
        numbers(edges),
        tuple(Bars(name, numbers(torch.histogram(values, edges).hist)) for name, values in logs.items()),
        tuple(markers),
        caption="What training added is to the right of the shuffled entries, whose correlations are gone. Eigenvalues "
        "below a ten-thousandth of the bulk's edge are drawn there.",
        y=Axis("eigenvalues"),
    )


def _table(trained: dict[str, LayerSpectrum]) -> Table:
    rows = tuple(
        (
            name,
            f"{one.rows} x {one.columns}",
            one.bulk.outliers,
            one.bulk.share,
            one.bulk.distance,
            one.stable_rank,
            *(
                (None,) * 4
                if one.tail is None or (ends := one.exponent) is None
                else (one.tail.alpha, ends.low, ends.high, one.tail.size)
            ),
        )
        for name, one in trained.items()
    )
    columns = (
        "weight", "shape", "outliers", "their share", "distance of the bulk", "stable rank",
        "alpha", "low", "high", "tail",
    )  # fmt: skip
    caption = (
        "The share is of the sum of all eigenvalues; the distance is the Kolmogorov-Smirnov one from the fitted law; the tail "
        "is the number of eigenvalues the exponent is fitted to."
    )
    return Table("Weights", columns, rows, caption)


def _beside(
    trained: dict[str, LayerSpectrum],
    null: dict[str, LayerSpectrum | None],
    initial: dict[str, LayerSpectrum | None],
) -> Table:
    rows = []
    for name, one in trained.items():
        three = (one, null[name], initial.get(name))
        rows.append(
            (
                name,
                *(None if other is None else other.bulk.outliers for other in three),
                *(None if other is None else other.stable_rank for other in three),
                *(None if other is None or other.tail is None else other.tail.alpha for other in three),
            )
        )
    columns = (
        "weight", "outliers", "outliers, shuffled", "outliers, initial",
        "stable rank", "stable rank, shuffled", "stable rank, initial",
        "alpha", "alpha, shuffled", "alpha, initial",
    )  # fmt: skip
    return Table(
        "Beside the null models",
        columns,
        tuple(rows),
        "A layer that learned has outliers and a smaller stable rank than its shuffled entries and its initial weights.",
    )


def _notes(
    known: int,
    fitting: int,
    layers: dict[str, LayerSpectrum],
    null: dict[str, LayerSpectrum | None],
    settings: WeightSpectra,
) -> tuple[str, ...]:
    notes = [
        "Exponents are judged by ranges observed on large published models; there is no theorem behind them."
    ]
    tails = sum(one.tail is not None for one in layers.values())
    if tails:
        notes.append("The mean takes off the bias n / (n - 1) of the exponents that tables and plots show.")
    if same := len(_like_shuffled(layers, null)):
        notes.append(
            f"In {same} of {tails} weights the shuffled entries have the same exponent within its interval: there it "
            "says nothing of training."
        )
    if short := sum(one.tail is None for one in layers.values()):
        notes.append(
            f"{short} weights have fewer than {settings.eigenvalues} eigenvalues: no exponent for them."
        )
    if known > fitting:
        notes.append(
            f"{known - fitting} weights have a smaller side above {settings.size:,} and are left out."
        )
    if len(layers) < fitting:
        notes.append(f"{len(layers)} of {fitting} weights are shown.")
    return tuple(notes)


def _remedies(verdict: Verdict) -> tuple[Remedy, ...]:
    if verdict.level is not Level.ATTENTION:
        return ()
    return (
        Remedy(
            "Under-trained layers: train longer or with a larger learning rate for them, or make them narrower; compare "
            "the test error, not the exponent."
        ),
        Remedy(
            "Over-trained layers: stop earlier or add weight decay, and compare the test error.",
            "torch.optim.AdamW",
        ),
    )


INSTRUMENT = WeightSpectra
