"""How few non-negative parts of its activations does the network need to recognise a class?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from torchstone.bounds.mean import mean_interval
from torchstone.details import Axis, Curve, Line, Marker, Table, numbers, thin
from torchstone.errors import NotApplicableError
from torchstone.instruments.settings import require_count
from torchstone.operators.batch_jacobian import restricted
from torchstone.reading import CostClass, Level, Meta, Need, Question, Reading, Uncertainty, Verdict
from torchstone.workbench import Workbench
from torchstone.workbench.rank_curve import (
    RankCurve,
    nonnegative_parts,
    principal_parts,
    random_units,
    rank_curve,
)
from torchstone.workbench.replacing import Activations, nonnegative_activations, scores_replacing


@dataclass(frozen=True)
class NmfLinearity:
    r"""Training accuracy when a layer's activations of one class are replaced by a non-negative matrix of rank k.

    The activations of a class, (examples x positions) by units, are factorised as A ~ U V with non-negative U and V of k
    parts, put back, and the rest of the network answers. The area under accuracy over log2 k is 1 where one part is enough.
    Networks that memorised need more parts in every layer than networks that found what a class shares. Beside it stand
    the truncated singular value decomposition, the best that any rank k can do for the activations, and random units.
    The value is the smallest area of a layer; a dense layer right before the outputs is near 1 in every trained network.

    Cost: some twenty forward passes of a few hundred examples a layer, and as many factorisations of each class.
    Bias: the factorisation is a local minimum, which can only lower the area.
    Source: Collins, Bigdeli & Susstrunk 2018 (detecting memorisation in ReLU networks), sections 3 and 4.
    """

    META: ClassVar[Meta] = Meta(
        id="nmf_linearity",
        question=Question.REPRESENTATION,
        title="Parts of a class",
        asks="How few parts make up a class in each layer?",
        cost=CostClass.MINUTES,
        needs=(Need.TRAIN, Need.LABELS, Need.SCORES),
        unit="area under accuracy",
        source="Collins, Bigdeli & Susstrunk 2018",
    )
    classes: int = 6
    examples: int = 16
    """Of each class."""
    layers: int = 4
    rank: int = 16
    """Largest rank that is tried."""
    cells: int = 2048
    """Most rows (examples x positions) of a class's matrix."""

    def __post_init__(self) -> None:
        require_count(self, "classes", 2, 1000)
        require_count(self, "examples", 2)
        require_count(self, "layers", 2, 24)
        require_count(self, "rank", 1, 512)
        require_count(self, "cells", 16)

    def measure(self, bench: Workbench) -> Reading:
        """Curves of up to `layers` layers, evenly chosen by depth, the deepest among them."""
        rows = self._rows(bench)
        part = restricted(bench.specimen, "train", rows)
        labels = bench.labels("train")[rows]
        known = nonnegative_activations(part)
        if not known:
            raise NotApplicableError("needs a layer whose outputs are never negative (ReLU as a module)")
        chosen = [known[i] for i in thin(len(known), self.layers)]
        generator = bench.generator(self.META.id)
        methods = {
            "non-negative parts": nonnegative_parts,
            "principal components": principal_parts,
            "random units": random_units(generator),
        }

        def curve(layer: Activations, method: str) -> RankCurve:
            answer = lambda values: scores_replacing(part, layer.name, values)
            return rank_curve(layer, labels, answer, methods[method], largest=self.rank, cells=self.cells)

        curves = {layer.name: {method: curve(layer, method) for method in methods} for layer in chosen}
        mean = {name: float(one["non-negative parts"].areas.mean()) for name, one in curves.items()}
        lowest = min(mean, key=lambda name: mean[name])
        value = mean[lowest]
        return Reading.of(
            self.META,
            value=value,
            uncertainty=_uncertainty(curves[lowest]["non-negative parts"].areas),
            verdict=judge(value),
            headline=_headline(lowest, curves[lowest]["non-negative parts"], value),
            explanation=(
                "The activations of one class's training examples are replaced by a product of two non-negative matrices "
                "of rank k, for every class at once, and the rest of the network answers. What a class shares takes few "
                "parts; what was memorised of single examples takes many."
            ),
            details=(_areas(curves), _accuracy(lowest, curves[lowest]), _table(curves, chosen)),
            notes=(
                f"{len(labels.unique())} classes with up to {self.examples} training examples each.",
                "Compare it with a network of the same shape on the same data, or along one run: a fall of the area while "
                "the training accuracy rises is a sign of memorising, and a time to stop.",
            ),
        )

    def _rows(self, bench: Workbench) -> Tensor:
        """Increasing indices of some examples of some classes."""
        labels = bench.labels("train")
        generator = bench.generator(f"{self.META.id} examples")
        known, counts = labels.unique(return_counts=True)
        usable = known[counts >= 2]
        if len(usable) < 2:
            raise NotApplicableError("needs two classes with at least two training examples each")
        some = usable[torch.randperm(len(usable), generator=generator)[: self.classes]]
        picked = []
        for c in some.sort().values:
            members = (labels == c).nonzero().squeeze(1)
            picked.append(members[torch.randperm(len(members), generator=generator)[: self.examples]])
        return torch.cat(picked).sort().values


def judge(area: float) -> Verdict:
    """Informative: there is no area that is right for every network."""
    return Verdict(
        Level.INFORMATIVE,
        f"the area is {area:.3g}; 1 where a single part is enough",
        "none: for comparing networks of one shape on the same data",
        "Collins, Bigdeli & Susstrunk 2018, section 4: areas are compared between true and random labels",
    )


def _uncertainty(areas: Tensor) -> Uncertainty:
    interval = mean_interval(areas).clipped(0.0, 1.0)
    return Uncertainty(interval.low, interval.high, "classes", interval.method)


def _headline(name: str, curve: RankCurve, value: float) -> str:
    accuracy, full = curve.accuracy.mean(0), float(curve.accuracy[:, -1].mean())
    enough = [rank for rank, one in zip(curve.ranks, accuracy.tolist(), strict=True) if one >= 0.95 * full]
    return (
        f"Layer {name!r} needs most: {enough[0]} of {curve.ranks[-1]} non-negative parts of a class keep 95% of the training "
        f"accuracy there; area {value:.3g}."
    )


def _areas(curves: dict[str, dict[str, RankCurve]]) -> Curve:
    x = numbers(range(1, len(curves) + 1))
    lines = []
    for method in next(iter(curves.values())):
        found = [one[method].areas for one in curves.values()]
        ends = [mean_interval(areas).clipped(0.0, 1.0) for areas in found]
        lines.append(
            Line(
                method,
                x,
                numbers(areas.mean() for areas in found),
                numbers(end.low for end in ends),
                numbers(end.high for end in ends),
            )
        )
    return Curve(
        "Area under accuracy by layer",
        Axis("layer, input to output"),
        Axis("area, 1 where one part is enough"),
        tuple(lines),
        ticks=tuple(curves),
        caption="Bands are 95% intervals over classes. The nearer to 1, the more a class's activations lie along few "
        "directions that the rest of the network goes by.",
    )


def _accuracy(name: str, curves: dict[str, RankCurve]) -> Curve:
    lines = tuple(
        Line(method, numbers(curve.ranks), numbers(curve.accuracy.mean(0)))
        for method, curve in curves.items()
    )
    full = float(next(iter(curves.values())).accuracy[:, -1].mean())
    return Curve(
        f"Accuracy with the outputs of {name!r} replaced",
        Axis("rank of what replaces it", log=True),
        Axis("accuracy on the training examples"),
        lines,
        (Marker("nothing replaced", full),),
        caption="Mean over classes. Random units keep as large a share of the units as the rank is of the full rank.",
    )


def _table(curves: dict[str, dict[str, RankCurve]], layers: list[Activations]) -> Table:
    rows = []
    for layer in layers:
        found = curves[layer.name]
        parts = found["non-negative parts"]
        rows.append(
            (
                layer.name,
                layer.values.shape[layer.axis],
                parts.ranks[-1],
                *(float(one.areas.mean()) for one in found.values()),
                float(parts.accuracy[:, 0].mean()),
                float(parts.errors[0]),
            )
        )
    columns = (
        "layer", "units", "full rank", "area, non-negative parts", "area, principal components",
        "area, random units", "accuracy with one part", "relative error with one part",
    )  # fmt: skip
    return Table("Layers", columns, tuple(rows))


INSTRUMENT = NmfLinearity
