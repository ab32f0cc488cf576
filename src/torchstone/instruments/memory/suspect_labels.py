"""Which training examples are probably labelled wrongly?"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from torchstone.bounds.margin import margins
from torchstone.bounds.proportion import clopper_pearson
from torchstone.details import Axis, Detail, Images, Marker, Scatter, Table, numbers
from torchstone.errors import NotApplicableError
from torchstone.instruments.memory.leakage import picture
from torchstone.instruments.settings import require_between, require_count
from torchstone.kernels.nearest import nearest_neighbours
from torchstone.reading import CostClass, Level, Meta, Need, Question, Reading, Remedy, Uncertainty, Verdict
from torchstone.workbench import Workbench


@dataclass(frozen=True)
class SuspectLabels:
    r"""Training examples whose neighbours, and where it has not memorised them the network, contradict their label.

    For each example and each of several feature spaces (the inputs and layers in the first half of the network, which
    memorise labels least), the k nearest other examples vote, weighted by 1/rank. The score is the share of votes for
    the most voted other class minus the share for the given label, averaged over the spaces and raised where the
    network's margin f_y - max_{j != y} f_j is negative. Suspect is a score above `threshold`.

    Cost: one forward pass and a neighbour search a space, O(N^2 d). Bias: whole regions of wrong labels look right;
    rare classes and border cases look wrong. So this is a list to look at, not to delete.
    Source: Wilson 1972 (edited nearest neighbours); Northcutt, Jiang & Chuang 2021 (confident learning); margins after
    Pleiss et al. 2020.
    """

    META: ClassVar[Meta] = Meta(
        id="suspect_labels",
        question=Question.MEMORY,
        title="Suspect labels",
        asks="Which training labels are probably wrong?",
        cost=CostClass.SECONDS,
        needs=(Need.TRAIN, Need.LABELS, Need.SCORES),
        unit="share of training examples",
        source="Wilson 1972; Northcutt, Jiang & Chuang 2021; Pleiss et al. 2020",
    )
    neighbours: int = 10
    threshold: float = 0.3
    spaces: int = 3
    """At most this many layers besides the inputs."""

    def __post_init__(self) -> None:
        require_count(self, "neighbours", 1, 1000)
        require_between(self, "threshold", 0.0, 1.0)
        require_count(self, "spaces", 0, 24)

    def measure(self, bench: Workbench) -> Reading:
        """Let neighbours vote in each space and compare with the given labels."""
        labels, scores = bench.labels("train"), bench.scores("train")
        found = find_suspects(
            _spaces(bench, self.spaces), labels, scores, neighbours=self.neighbours, threshold=self.threshold
        )
        suspects, count = len(found.rows), len(labels)
        interval = clopper_pearson(suspects, count)
        verdict = judge(suspects / count)
        return Reading.of(
            self.META,
            value=suspects / count,
            uncertainty=Uncertainty(interval.low, interval.high, "examples", "Clopper-Pearson"),
            verdict=verdict,
            headline=(
                f"{suspects:,} of {count:,} training labels look wrong; the network fits "
                f"{int((scores.argmax(1) == labels)[found.rows].sum()):,} of them as given."
                if suspects
                else "No training label looks wrong."
            ),
            explanation=(
                f"The {self.neighbours} nearest neighbours of each training example vote for its label in "
                f"{', '.join(found.spaces)}; a label is suspect where another class wins clearly. The share is of "
                "suspects, not of proven errors: on planted flips of handwritten digits nine in ten suspects were wrong."
            ),
            remedies=_remedies(verdict),
            details=_details(bench, found, labels),
        )


@dataclass(frozen=True)
class Suspects:
    """What the neighbours say of each label.

    Args:
        score: (N,) in [-1, 1]; above the threshold is suspect.
        proposed: (N,) class that the neighbours propose instead.
        margin: (N,) margin of the network on the given label.
        rows: Suspects, most suspicious first.
        spaces: Names of the feature spaces used.
    """

    score: Tensor
    proposed: Tensor
    margin: Tensor
    rows: Tensor
    spaces: tuple[str, ...]


def find_suspects(
    spaces: dict[str, Tensor], labels: Tensor, scores: Tensor, *, neighbours: int = 10, threshold: float = 0.3
) -> Suspects:
    """Combine the neighbours' votes over feature spaces with the network's margin.

    Args:
        spaces: Name -> features (N, d).
        labels: Given labels (N,).
        scores: The network's class scores (N, C).
        neighbours: Voters a space.
        threshold: Score above which a label is suspect.
    """
    count, classes = scores.shape
    voters = min(neighbours, count - 1)
    if voters < 1 or not spaces:
        raise NotApplicableError("needs at least two training examples and one feature space")
    votes = torch.zeros(count, classes, dtype=torch.float64)
    for features in spaces.values():
        near = nearest_neighbours(features, None, voters).indices.cpu()
        weights = 1 / torch.arange(1, voters + 1, dtype=torch.float64)
        votes.scatter_add_(1, labels[near], (weights / weights.sum()).expand(count, voters).contiguous())
    votes /= len(spaces)
    given = votes.gather(1, labels[:, None])[:, 0]
    others = votes.scatter(1, labels[:, None], -1.0)
    best, proposed = others.max(1)
    margin = margins(scores, labels)
    # A network that itself rejects the label is one more voter.
    against = (margin < 0) & (scores.argmax(1) == proposed)
    score = best - given + (1 - (best - given)) / 2 * against
    rows = (score > threshold).nonzero()[:, 0]
    rows = rows[score[rows].argsort(descending=True, stable=True)]
    return Suspects(score, proposed, margin, rows, tuple(spaces))


def judge(share: float) -> Verdict:
    """Attention above 2% suspects, poor above 5%: common benchmarks hold about 3% label errors."""
    threshold = "suspect labels below 2% (poor: 5%)"
    source = "Northcutt, Athalye & Mueller 2021: 3.3% label errors on average over ten common test sets"
    if share > 0.05:
        return Verdict(
            Level.POOR, f"{share:.1%} of the labels look wrong", threshold, source, min(1.0, 0.8 + share)
        )
    if share > 0.02:
        return Verdict(Level.ATTENTION, f"{share:.1%} of the labels look wrong", threshold, source)
    return Verdict(Level.GOOD, f"{share:.1%} of the labels look wrong", threshold, source)


def _spaces(bench: Workbench, most: int) -> dict[str, Tensor]:
    """The inputs, and layers from the first half of the network."""
    spaces: dict[str, Tensor] = {}
    with suppress(NotApplicableError, RuntimeError):  # token ids, or examples of different shapes
        spaces["the inputs"] = bench.inputs("train")
    if most:
        try:
            features = bench.features("train")
        except NotApplicableError:
            return spaces
        names = list(features)
        early = names[: max(1, len(names) // 2)]
        step = max(1, len(early) // most)
        spaces.update({name: features[name] for name in early[step - 1 :: step][:most]})
    return {name: values for name, values in spaces.items() if bool(values.isfinite().all())}


def _details(bench: Workbench, found: Suspects, labels: Tensor) -> tuple[Detail, ...]:
    names = getattr(bench.specimen.objective, "class_names", ())

    def called(label: Tensor) -> str:
        return str(names[int(label)]) if int(label) < len(names) else str(int(label))

    shown = found.rows[:30].tolist()
    rows = tuple(
        (
            row,
            called(labels[row]),
            called(found.proposed[row]),
            float(found.score[row]),
            float(found.margin[row]),
        )
        for row in shown
    )
    table = Table(
        "Most suspicious labels",
        ("training example", "given label", "neighbours say", "score", "network's margin"),
        rows,
        "Position in the training data as examined. A positive margin means that the network has memorised the label.",
    )
    details: list[Detail] = [table, _scatter(found)]
    try:
        shape = bench.input_shape()
        if shown and len(shape) == 3 and shape[0] in (1, 3) and shape[1] * shape[2] <= 64 * 64:
            inputs = bench.inputs("train")
            pictures = tuple(
                picture(
                    inputs[row].reshape(shape),
                    f"{row}: given {called(labels[row])}, looks like {called(found.proposed[row])}",
                )
                for row in shown[:12]
            )
            details.append(
                Images("Most suspicious examples", pictures, "Look at them: are they labelled wrongly?")
            )
    except NotApplicableError:
        pass
    return tuple(details)


def _scatter(found: Suspects) -> Scatter:
    # All suspects and an even share of the rest.
    rest = torch.ones(len(found.score), dtype=torch.bool)
    rest[found.rows] = False
    others = rest.nonzero()[:, 0]
    kept = torch.cat([found.rows[:500], others[:: max(1, len(others) // 1000)][:1000]])
    suspicious = torch.cat(
        [torch.ones(min(500, len(found.rows))), torch.zeros(len(kept) - min(500, len(found.rows)))]
    )
    return Scatter(
        "Neighbours against network",
        Axis("network's margin on the given label"),
        Axis("neighbours against the label (score)"),
        numbers(found.margin[kept]),
        numbers(found.score[kept]),
        tuple("suspect" if one else "other" for one in suspicious.tolist()),
        markers=(Marker("margin 0", 0.0, "x"),),
        caption="Top left: neighbours and network both reject the label. Top right: the network has memorised a label its "
        "neighbours reject.",
    )


def _remedies(verdict: Verdict) -> tuple[Remedy, ...]:
    if verdict.level is Level.GOOD:
        return ()
    return (
        Remedy(
            "Look at the listed examples, correct or drop wrong labels, train again and compare the test error."
        ),
        Remedy("Use a loss that trusts labels less.", "torch.nn.CrossEntropyLoss(label_smoothing=0.1)"),
    )


INSTRUMENT = SuspectLabels
