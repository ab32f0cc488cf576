"""How many directions does each layer really use?"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from torchstone.details import Axis, Curve, Line, Marker, Spectrum, Table, numbers, thin
from torchstone.instruments.settings import require_count
from torchstone.kernels.spectrum import (
    condition_number,
    covariance_spectrum,
    effective_rank,
    isotropy,
    participation_ratio,
)
from torchstone.reading import CostClass, Level, Meta, Need, Question, Reading, Remedy, Uncertainty, Verdict
from torchstone.workbench import Workbench


@dataclass(frozen=True)
class EffectiveRank:
    r"""Effective rank exp(H(p)) of each layer's feature covariance, p_i = lambda_i / sum lambda.

    Beside it: participation ratio (sum lambda)^2 / sum lambda^2, condition number, and isotropy. The value is that of the
    hidden layer with the least of what it needs, its error bar a delete-a-block jackknife over examples.

    Cost: one forward pass and an eigendecomposition of size min(N, d) a layer. Bias: with N examples the rank cannot
    exceed N - 1, and is biased down where N is not large against d; both are in the table.
    Source: Roy & Vetterli 2007; Huh et al. 2021 (low-rank bias of depth); Papyan, Han & Donoho 2020 (rank C - 1 at
    neural collapse).
    """

    META: ClassVar[Meta] = Meta(
        id="effective_rank",
        question=Question.REPRESENTATION,
        title="Effective rank",
        asks="How many directions does each layer use?",
        cost=CostClass.SECONDS,
        needs=(Need.TRAIN,),
        unit="directions",
        source="Roy & Vetterli 2007; Huh et al. 2021; Papyan, Han & Donoho 2020",
    )
    examples: int = 1000
    blocks: int = 10

    def __post_init__(self) -> None:
        require_count(self, "examples", 10)
        require_count(self, "blocks", 2, 1000)

    def measure(self, bench: Workbench) -> Reading:
        """Spectra of all recorded layers."""
        features = bench.features("train")
        rows = bench.sample("train", self.examples, self.META.id)
        spectra = {name: covariance_spectrum(values[rows]) for name, values in features.items()}
        ranks = {name: _rank(spectrum) for name, spectrum in spectra.items()}
        hidden = list(ranks)[:-1] or list(ranks)
        classes = None if bench.lacks(Need.SCORES) else bench.scores("train").shape[1]
        width = {name: features[name].shape[1] for name in hidden}
        lowest = min(hidden, key=lambda name: ranks[name] / needed(classes, width[name]))
        verdict = judge(ranks[lowest], classes, width[lowest])
        error = _jackknife(features[lowest][rows], self.blocks)
        return Reading.of(
            self.META,
            value=ranks[lowest],
            uncertainty=Uncertainty.from_standard_error(
                ranks[lowest], error, "examples", "jackknife, normal, 95%"
            ),
            verdict=verdict,
            headline=(
                f"The hidden layer nearest to a collapse, {lowest}, uses {ranks[lowest]:.3g} of its "
                f"{width[lowest]} dimension{'s' if width[lowest] > 1 else ''}."
            ),
            explanation=(
                "The exponential of the entropy of the normalised eigenvalues of each layer's feature covariance: the "
                "number of equally strong directions with the same entropy. Maps wider than 4096 values are averaged "
                "over positions, sequences always."
            ),
            remedies=_remedies(verdict),
            details=(
                *_curves(ranks, features),
                _spectrum(lowest, spectra[lowest]),
                _table(spectra, features),
            ),
            notes=()
            if len(rows) == bench.specimen.size("train")
            else (f"Spectra over {len(rows):,} examples.",),
        )


def needed(classes: int | None, width: int) -> float:
    """Half of C - 1, the rank that separating C classes by equal angles needs, 1.5 without classes; half of a narrower width."""
    wanted = 3.0 if classes is None else classes - 1.0
    return max(min(wanted, float(width)) / 2, 1.0)


def judge(rank: float, classes: int | None, width: int) -> Verdict:
    """Attention below what a layer of that width needs."""
    limit = needed(classes, width)
    if classes is None:
        threshold = f"effective rank of hidden layers at least {limit:g}"
    else:
        threshold = f"effective rank of hidden layers at least (C - 1)/2 = {max((classes - 1) / 2, 1.0):g}"
    if width < (3 if classes is None else classes - 1):
        threshold += f", or half of a narrower layer's width: here {limit:g}"
    source = (
        "Papyan, Han & Donoho 2020: C classes at equal angles span C - 1 directions; half of it is our margin"
    )
    if not rank >= limit * (1 - 1e-9):
        return Verdict(Level.ATTENTION, "a hidden layer has collapsed to few directions", threshold, source)
    return Verdict(Level.GOOD, "every hidden layer keeps enough directions", threshold, source)


def _rank(spectrum: Tensor) -> float:
    return effective_rank(spectrum) if float(spectrum.sum()) > 0 else 0.0


def _jackknife(features: Tensor, blocks: int) -> float:
    """Standard error of the effective rank by leaving out one block of examples at a time."""
    count = len(features)
    blocks = min(blocks, count)
    block = torch.arange(count) % blocks
    kept = [
        _rank(covariance_spectrum(features[block != b])) for b in range(blocks) if count - count // blocks > 2
    ]
    if len(kept) < 2:
        return math.nan
    values = torch.tensor(kept, dtype=torch.float64)
    return math.sqrt((blocks - 1) / blocks * float((values - values.mean()).square().sum()))


def _curves(ranks: dict[str, float], features: dict[str, Tensor]) -> tuple[Curve]:
    names = list(ranks)
    x = numbers(range(1, len(names) + 1))
    lines = (
        Line("effective rank", x, numbers(ranks.values())),
        Line("width of the layer", x, numbers(features[name].shape[1] for name in names)),
    )
    return (
        Curve(
            "Effective rank by layer",
            Axis("layer, input to output"),
            Axis("directions", log=True),
            lines,
            ticks=tuple(names),
            caption="Far below the width is usual and often good; a dip in the middle is a bottleneck.",
        ),
    )


def _spectrum(name: str, spectrum: Tensor) -> Spectrum:
    shares = spectrum / spectrum.sum().clamp(min=1e-300)
    kept = thin(len(shares), 200) if len(shares) > 200 else list(range(len(shares)))
    return Spectrum(
        f"Covariance spectrum of {name}",
        numbers(shares[kept].clamp(min=1e-16)),
        unit="share of the variance",
        log=True,
        markers=(Marker("equal shares", 1 / max(len(shares), 1)),),
        caption="Eigenvalues as shares of their sum, largest first. A steep fall means few directions carry it all.",
    )


def _table(spectra: dict[str, Tensor], features: dict[str, Tensor]) -> Table:
    rows = []
    for name, spectrum in spectra.items():
        if float(spectrum.sum()) > 0:
            measured = (
                _rank(spectrum),
                participation_ratio(spectrum),
                condition_number(spectrum),
                isotropy(spectrum),
            )
        else:
            measured = (0.0, 0.0, None, None)
        rows.append((name, features[name].shape[1], *measured))
    columns = ("layer", "width", "effective rank", "participation ratio", "condition number", "isotropy")
    return Table(
        "Layers", columns, tuple(rows), "Isotropy is 1 for equal eigenvalues in all directions, 0 for one."
    )


def _remedies(verdict: Verdict) -> tuple[Remedy, ...]:
    if verdict.level is not Level.ATTENTION:
        return ()
    return (
        Remedy("Widen the collapsed layer or normalise its input; look for dead units there first."),
        Remedy(
            "Initialise orthogonally: deep random networks lose rank layer by layer.",
            "torch.nn.init.orthogonal_",
        ),
    )


INSTRUMENT = EffectiveRank
