"""Are test examples (nearly) copies of training examples?"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from torchstone import batches
from torchstone.bounds.proportion import clopper_pearson
from torchstone.details import (
    Axis,
    Bars,
    Detail,
    Histogram,
    Images,
    Marker,
    Picture,
    Scalar,
    Scalars,
    Table,
    numbers,
)
from torchstone.errors import NotApplicableError
from torchstone.instruments.settings import require_between
from torchstone.kernels.nearest import nearest_neighbours
from torchstone.reading import CostClass, Level, Meta, Need, Question, Reading, Remedy, Uncertainty, Verdict
from torchstone.workbench import Workbench


@dataclass(frozen=True)
class Leakage:
    """Share of test examples that are near-duplicates of a training example, and what they do to the test error.

    A test example is a near-duplicate when its nearest training example is closer than `tolerance` times the median
    distance between a training example and its own nearest neighbour. Inputs that are not continuous (token ids) are
    compared exactly.

    Cost: two exact neighbour searches in input space, O(N^2 d). Bias: rotated, cropped or re-encoded copies are missed.
    Source: Barz & Denzler 2020 (3.3% and 10% duplicates in CIFAR's test sets).
    """

    META: ClassVar[Meta] = Meta(
        id="leakage",
        question=Question.MEMORY,
        title="Train-test leakage",
        asks="Are test examples copies of training examples?",
        cost=CostClass.SECONDS,
        needs=(Need.TRAIN, Need.TEST),
        unit="share of test examples",
        source="Barz & Denzler 2020, Do we train on test data?",
    )
    tolerance: float = 0.1

    def __post_init__(self) -> None:
        require_between(self, "tolerance", 0.0, 1.0)

    def measure(self, bench: Workbench) -> Reading:
        """Find each test example's nearest training example."""
        found = _exact(bench) if bench.lacks(Need.FLOAT_INPUTS) else _near(bench, self.tolerance)
        leaked, count = int(found.leaked.sum()), len(found.leaked)
        interval = clopper_pearson(leaked, count)
        verdict = judge(leaked, count)
        return Reading.of(
            self.META,
            value=leaked / count,
            uncertainty=Uncertainty(interval.low, interval.high, "examples", "Clopper-Pearson"),
            verdict=verdict,
            headline=(
                "No test example is a near-copy of a training example."
                if leaked == 0
                else f"{leaked:,} of {count:,} test examples are near-copies of training examples."
            ),
            explanation=found.how,
            remedies=_remedies(verdict),
            details=(*_error_table(bench, found.leaked), *found.details),
        )


@dataclass(frozen=True)
class _Found:
    leaked: Tensor
    how: str
    details: tuple[Detail, ...]


def judge(leaked: int, count: int) -> Verdict:
    """Attention for any copy, poor for more than 1%: enough to move a test error by a point."""
    threshold = "no near-copies (poor: more than 1% of the test set)"
    source = "Barz & Denzler 2020: 3.3% duplicates made CIFAR-10 errors up to 9% (relative) too small"
    if leaked > 0.01 * count:
        return Verdict(
            Level.POOR, f"{leaked / count:.1%} of the test set is in the training set", threshold, source
        )
    if leaked:
        return Verdict(Level.ATTENTION, f"{leaked} test examples are in the training set", threshold, source)
    return Verdict(Level.GOOD, "training and test examples are apart", threshold, source)


def _near(bench: Workbench, tolerance: float) -> _Found:
    try:
        train, test = bench.inputs("train"), bench.inputs("test")
    except RuntimeError:
        raise NotApplicableError("examples differ in shape, so they have no common distance") from None
    to_train = nearest_neighbours(test, train, 1)
    within = (
        nearest_neighbours(train, None, 1).distances[:, 0] if len(train) > 1 else to_train.distances[:, 0]
    )
    typical = float(within[within > 0].median()) if bool((within > 0).any()) else 0.0
    distances = to_train.distances[:, 0]
    leaked = (distances < tolerance * typical) | (distances == 0)
    how = (
        f"Euclidean distance in input space to the nearest training example, against the median {typical:.3g} between a "
        f"training example and its nearest neighbour; closer than {tolerance:g} of that is a near-copy."
    )
    details: list[Detail] = [_histogram(distances, within, typical, tolerance)] if typical > 0 else []
    if bool(leaked.any()):
        details += _pairs(bench, test, train, leaked, to_train.indices[:, 0])
    return _Found(leaked, how, tuple(details))


def _exact(bench: Workbench) -> _Found:
    def digests(split: str) -> list[bytes]:
        listed = []
        for batch in bench.specimen.batches(split):
            target = bench.specimen.objective.target(batch)
            listed += batches.row_digests([part for part in batches.tensors(batch) if part is not target])
        return listed

    known = Counter(digests("train"))
    leaked = torch.tensor([digest in known for digest in digests("test")])
    return _Found(leaked, "Inputs compared exactly, because they are not continuous.", ())


def _histogram(distances: Tensor, within: Tensor, typical: float, tolerance: float) -> Histogram:
    ratios = [numbers((values / typical).clamp(max=4.0)) for values in (distances, within)]
    edges = torch.linspace(0, 4, 41, dtype=torch.float64)
    groups = tuple(
        Bars(
            name,
            numbers(100 * torch.histogram(torch.tensor(ratio, dtype=torch.float64), edges).hist / len(ratio)),
        )
        for name, ratio in zip(("test to training", "training to training"), ratios, strict=True)
    )
    return Histogram(
        "Distance to the nearest training example",
        Axis("distance / median distance within the training set (4 and above together)"),
        numbers(edges),
        groups,
        (Marker("near-copy", tolerance, "x"),),
        caption="Percent of each set. Both shapes should agree; a peak at 0 in test only is leakage.",
        y=Axis("share of the set", "%"),
    )


def _pairs(bench: Workbench, test: Tensor, train: Tensor, leaked: Tensor, nearest: Tensor) -> list[Detail]:
    rows = leaked.nonzero()[:, 0][:20]
    table = Table(
        "Near-copies",
        ("test example", "training example"),
        tuple((int(row), int(nearest[row])) for row in rows),
        "Positions in the data as examined; at most 20 are listed.",
    )
    shape = bench.input_shape()
    if len(shape) != 3 or shape[0] not in (1, 3) or shape[1] * shape[2] > 64 * 64:
        return [table]
    pictures = []
    for row in rows[:4]:
        for name, values in (
            (f"test {int(row)}", test[row]),
            (f"training {int(nearest[row])}", train[nearest[row]]),
        ):
            pictures.append(picture(values.reshape(shape), name))
    return [
        table,
        Images("Near-copies", tuple(pictures), "Test example and its nearest training example, in pairs."),
    ]


def picture(values: Tensor, caption: str) -> Picture:
    """An image of shape (1 or 3, H, W), stretched to [0, 1]."""
    low, high = float(values.min()), float(values.max())
    scaled = (values - low) / (high - low) if high > low else torch.zeros_like(values)
    pixels: Any = scaled.permute(1, 2, 0).reshape(-1)
    return Picture(caption, int(values.shape[1]), int(values.shape[2]), numbers(pixels))


def _error_table(bench: Workbench, leaked: Tensor) -> tuple[Scalars, ...]:
    if bench.lacks(Need.LABELS) or bench.lacks(Need.SCORES) or not bool(leaked.any()) or bool(leaked.all()):
        return ()
    wrong = bench.errors("test")
    items = []
    for name, chosen in (("test error on near-copies", leaked), ("test error on the rest", ~leaked)):
        interval = clopper_pearson(int(wrong[chosen].sum()), int(chosen.sum()))
        rate = float(wrong[chosen].double().mean())
        items.append(Scalar(name, rate, "share of examples", interval.low, interval.high))
    return (Scalars("What leakage does to the test error", tuple(items)),)


def _remedies(verdict: Verdict) -> tuple[Remedy, ...]:
    if verdict.level is Level.GOOD:
        return ()
    return (
        Remedy(
            "Remove the listed examples from the test set (or their copies from training) and measure again."
        ),
        Remedy("Split by source (person, document, session), not by example."),
    )


INSTRUMENT = Leakage
