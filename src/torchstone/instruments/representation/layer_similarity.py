"""Which layers compute the same thing?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from torchstone.details import Axis, Surface, Table, thin
from torchstone.errors import NotApplicableError
from torchstone.instruments.settings import require_between, require_count
from torchstone.kernels.cka import linear_cka_interval, unbiased_linear_cka
from torchstone.reading import CostClass, Level, Meta, Need, Question, Reading, Remedy, Uncertainty, Verdict
from torchstone.workbench import Workbench


@dataclass(frozen=True)
class LayerSimilarity:
    """Debiased linear CKA between all pairs of recorded layers.

    1 means the same up to rotation and scale, 0 no relation. The value is the similarity of the first and the last
    hidden layer, with a jackknife interval over examples: how far the representation travels.

    Cost: one forward pass and a matrix product a pair of layers. Bias: of order 1/N (the estimate is debiased; the plain
    one would report wide independent layers as similar).
    Source: Kornblith et al. 2019; Nguyen, Raghu & Kornblith 2021 (debiased estimate, block structure); Song et al. 2012.
    """

    META: ClassVar[Meta] = Meta(
        id="layer_similarity",
        question=Question.REPRESENTATION,
        title="Layer similarity",
        asks="Which layers compute the same thing?",
        cost=CostClass.SECONDS,
        needs=(Need.TRAIN,),
        unit="CKA",
        source="Kornblith et al. 2019; Nguyen, Raghu & Kornblith 2021",
    )
    examples: int = 512
    layers: int = 16
    same: float = 0.99
    """CKA above which neighbouring layers count as one block."""

    def __post_init__(self) -> None:
        require_count(self, "examples", 8)
        require_count(self, "layers", 2, 24)
        require_between(self, "same", 0.0, 1.0)

    def measure(self, bench: Workbench) -> Reading:
        """Compare every pair of layers."""
        features = _varying(bench, self.examples, self.layers, self.META.id)
        names = list(features)
        matrix = [[1.0] * len(names) for _ in names]
        for i, first in enumerate(names):
            for j, second in enumerate(names[:i]):
                matrix[i][j] = matrix[j][i] = unbiased_linear_cka(features[first], features[second])
        hidden = names[:-1] if len(names) > 2 else names
        ends = linear_cka_interval(features[hidden[0]], features[hidden[-1]])
        block = longest_block([matrix[i][i + 1] for i in range(len(names) - 1)], self.same)
        verdict = judge(block, len(names))
        return Reading.of(
            self.META,
            value=ends.value,
            uncertainty=Uncertainty(
                ends.low, ends.high, "examples", "jackknife", ends.confidence, ends.standard_error
            ),
            verdict=verdict,
            headline=(
                f"The first and the last hidden layer have similarity {ends.value:.2f}; "
                + (
                    "no two neighbouring layers are the same."
                    if block < 2
                    else f"{block} layers in a row are the same."
                )
            ),
            explanation=(
                "Linear centred kernel alignment with the unbiased HSIC estimate, between the outputs of all pairs of "
                "layers on the same examples. Invariant to rotation and scale of a layer's units, not to other maps."
            ),
            remedies=_remedies(verdict),
            details=(_surface(names, matrix), _table(names, matrix)),
            notes=(f"Compared on {len(features[names[0]]):,} training examples.",),
        )


def judge(block: int, layers: int) -> Verdict:
    """Attention where more than three layers in a row, and half of all, are the same."""
    threshold = "no block of more than 3 equal layers that is half of the network"
    source = "Nguyen, Raghu & Kornblith 2021: block structure marks capacity beyond the task; the sizes are a convention"
    if block > 3 and block >= layers / 2:
        return Verdict(Level.ATTENTION, f"{block} of {layers} layers compute the same", threshold, source)
    return Verdict(Level.GOOD, "layers build on each other", threshold, source)


def longest_block(neighbours: list[float], same: float) -> int:
    """Most layers in a row whose neighbours' similarity is at least `same`; 1 where there is no such pair."""
    longest = current = 1
    for value in neighbours:
        current = current + 1 if value >= same else 1
        longest = max(longest, current)
    return longest


def _varying(bench: Workbench, examples: int, most: int, name: str) -> dict[str, Tensor]:
    """Features of a fixed sample, without layers that are constant or not finite."""
    count = bench.specimen.size("train")
    if count < 8:
        raise NotApplicableError("needs at least 8 training examples")
    rows = bench.sample("train", examples, name)
    features = {layer: values[rows].double() for layer, values in bench.features("train").items()}
    usable = {layer: values for layer, values in features.items() if _varies(values)}
    if len(usable) < 2:
        raise NotApplicableError("needs at least two layers whose outputs vary over examples")
    names = list(usable)
    names = [names[i] for i in thin(len(names), most)]
    return {layer: usable[layer] for layer in names}


def _varies(values: Tensor) -> bool:
    if not bool(values.isfinite().all()):
        return False
    # A layer that only one example moves has no similarity once that one is left out.
    return int(((values - values.median(0).values).abs().sum(1) > 0).sum()) >= 4


def _surface(names: list[str], matrix: list[list[float]]) -> Surface:
    positions = tuple(float(i + 1) for i in range(len(names)))
    return Surface(
        "Similarity of layers",
        Axis("layer, input to output"),
        Axis("layer, input to output"),
        Axis("CKA"),
        positions,
        positions,
        tuple(tuple(row) for row in matrix),
        caption="Bright squares on the diagonal are blocks of layers that compute the same; a dark corner means that the "
        "last layers are far from the first. Numbers are positions in the table below.",
    )


def _table(names: list[str], matrix: list[list[float]]) -> Table:
    rows = tuple(
        (i + 1, name, matrix[i][i + 1] if i + 1 < len(names) else None, matrix[i][-1])
        for i, name in enumerate(names)
    )
    return Table("Layers", ("position", "layer", "CKA with the next", "CKA with the last"), rows)


def _remedies(verdict: Verdict) -> tuple[Remedy, ...]:
    if verdict.level is not Level.ATTENTION:
        return ()
    return (Remedy("Try fewer layers: a block of equal layers can often be cut without losing accuracy."),)


INSTRUMENT = LayerSimilarity
