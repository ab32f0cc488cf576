"""Which training examples are learned and forgotten again, and which never learned?"""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from torchstone.details import (
    Axis,
    Bars,
    Curve,
    Detail,
    Histogram,
    Images,
    Line,
    Scalar,
    Scalars,
    Table,
    numbers,
)
from torchstone.errors import FormatError, NotApplicableError, SettingError
from torchstone.instruments.memory.leakage import picture
from torchstone.instruments.settings import require_count
from torchstone.reading import CostClass, Level, Meta, Need, Question, Reading, Remedy, Uncertainty, Verdict
from torchstone.training.forgetting import Forgetting, count_forgetting, from_ledger
from torchstone.workbench import Workbench
from torchstone.workbench.retraining import train_many
from torchstone.workbench.siblings import wrong

NEVER = 0.02
SHOWN = 30
LOG_NAME = "watch.jsonl"


@dataclass(frozen=True)
class ExampleForgetting:
    """Forgetting events of each training example over a few trainings by the recipe.

    An event is an example that was right at one presentation (in a minibatch, before the update) and wrong at its next.
    Examples that are wrong at every presentation were never learned. The value is the share of examples that were never
    learned, or forgotten at least once, in a training, averaged over trainings.

    Cost: `runs` trainings, trained as one where the network can be mapped; none where the ledger of a watched run is
    given. Bias: none for trainings by this recipe; a watcher that measures seldom misses events.
    Source: Toneva et al. 2019, section 3.
    """

    META: ClassVar[Meta] = Meta(
        id="forgetting",
        question=Question.MEMORY,
        title="Forgotten examples",
        asks="Which training examples are learned and forgotten again, and which never learned?",
        cost=CostClass.RETRAINING,
        needs=(Need.TRAIN, Need.LABELS, Need.SCORES),
        unit="share of training examples",
        source="Toneva et al. 2019, section 3",
    )
    runs: int = 3
    """Trainings, each from its own seed."""
    watched: str = ""
    """Folder or log of a watched run whose probe held every training example, to read instead of training again."""

    def __post_init__(self) -> None:
        require_count(self, "runs", 1, 1000)
        if not isinstance(self.watched, str):
            raise SettingError(
                "forgetting.watched must be a path", repr(self.watched), "Pass a folder's name."
            )

    def measure(self, bench: Workbench) -> Reading:
        """Train again with a ledger, or read one, and count."""
        labels = bench.labels("train")
        record, notes = self._read(len(labels)) if self.watched else self._train(bench)
        found = record if isinstance(record, Forgetting) else count_forgetting(record)
        shares = (~found.unforgettable).double().mean(1)
        value, never = float(shares.mean()), (~found.learned).all(0)
        verdict = judge(float(never.double().mean()))
        runs = len(shares)
        return Reading.of(
            self.META,
            value=value,
            uncertainty=_over_runs(shares),
            verdict=verdict,
            headline=(
                f"A training forgets {float((found.learned & (found.events > 0)).double().mean()):.1%} of the training "
                f"examples at least once; {_learned(int(never.sum()), len(labels))}."
            ),
            explanation=(
                f"Counted over {runs} training{'s' * (runs > 1)}: an example is forgotten when it was classified rightly "
                "at one presentation and wrongly at its next. Examples with wrong labels, and rare or ambiguous ones, are "
                "learned last and forgotten most; those never forgotten can be left out of training at little cost."
            ),
            remedies=_remedies(verdict, found),
            details=_details(bench, found, labels, record if not isinstance(record, Forgetting) else None),
            notes=notes,
        )

    def _train(self, bench: Workbench) -> tuple[Tensor, tuple[str, ...]]:
        """What was right at each presentation, (K, T, N), NaN where nothing was presented."""
        for need in (Need.RETRAINING, Need.PARAMETERS):
            if bench.lacks(need):
                raise NotApplicableError(f"needs {need}, or the ledger of a watched run")
        seeds = torch.randint(2**31, (self.runs,), generator=bench.generator(self.META.id)).tolist()
        siblings = train_many(bench.specimen, seeds, ledger=wrong(bench.specimen.objective))
        run = siblings.run
        assert run is not None
        assert run.ledger is not None
        if not bool(run.finite.any()):
            raise NotApplicableError("every training by the recipe diverged")
        notes = [f"{self.runs} trainings by the recipe, {run.way}{f' ({run.reason})' if run.reason else ''}."]
        if run.diverged:
            notes.append(f"{len(run.diverged)} of them diverged and are left out.")
        record = 1 - run.ledger[run.finite].double()
        return record, tuple(notes)

    def _read(self, count: int) -> tuple[Forgetting, tuple[str, ...]]:
        ledger = read_watched(self.watched)
        if len(ledger) != count:
            raise SettingError(
                f"forgetting.watched must hold one count for each of {count:,} training examples",
                f"{len(ledger):,}",
                f"Watch with examples={count} and examine the same data.",
            )
        note = f"Read from {Path(self.watched).name}: events between a watcher's measurements, which misses some."
        return from_ledger(torch.tensor(ledger)), (note,)


def read_watched(place: str) -> list[int]:
    """The ledger of forgetting that a watched run wrote with its last line.

    Args:
        place: The run's folder or its log.

    Raises:
        FormatError: There is none.
    """
    path = Path(place)
    path = path if path.suffix == ".jsonl" else path / LOG_NAME
    found: Any = None
    with suppress(OSError):
        for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
            with suppress(ValueError, AttributeError):
                summary = json.loads(line).get("summary") or {}
                found = summary.get("forgetting", found)
    if not isinstance(found, list):
        raise FormatError(
            "forgetting.watched must be the log of a finished run that watched the quantity 'forgetting'",
            f"none in {path}",
            "Watch with quantities=['forgetting'], or leave the setting out to train again.",
        )
    return found


def _learned(never: int, count: int) -> str:
    return (
        f"all but {never:,} of {count:,} are learned in some training"
        if never
        else "all are learned in some training"
    )


def judge(never: float) -> Verdict:
    """Attention where more examples than a clean data set would have are never learned."""
    threshold = f"at most {NEVER:.0%} of the examples never learned"
    source = "convention of this report, from the 3% label errors of common benchmarks (Northcutt, Athalye & Mueller 2021)"
    if never > NEVER:
        return Verdict(Level.ATTENTION, f"{never:.1%} were never learned", threshold, source)
    reason = f"{never:.1%} were never learned" if never else "every example is learned in some training"
    return Verdict(Level.INFORMATIVE, reason, threshold, source)


def _over_runs(shares: Tensor) -> Uncertainty | None:
    if len(shares) < 2:
        return None
    from scipy.stats import t

    error = float(shares.std()) / len(shares) ** 0.5
    half = float(t.ppf(0.975, len(shares) - 1)) * error
    mean = float(shares.mean())
    return Uncertainty(
        max(0.0, mean - half), min(1.0, mean + half), "seeds", "Student's t over trainings", 0.95, error
    )


def _remedies(verdict: Verdict, found: Forgetting) -> tuple[Remedy, ...]:
    remedies = []
    if verdict.level is Level.ATTENTION:
        remedies.append(
            Remedy(
                "Look at the examples that are never learned: their labels may be wrong, or their inputs empty."
            )
        )
    spare = float(found.unforgettable.all(0).double().mean())
    if spare >= 0.3:
        remedies.append(
            Remedy(
                f"{spare:.0%} of the examples were never forgotten in any training: leave some out to train faster, and "
                "compare the test error with leaving out as many at random.",
                "torchstone.training.forgetting.count_forgetting",
                "unforgettable_examples_can_go",
            )
        )
    return tuple(remedies)


def _details(
    bench: Workbench, found: Forgetting, labels: Tensor, record: Tensor | None
) -> tuple[Detail, ...]:
    order = found.ranking().flip(0)
    details: list[Detail] = [_groups(found), _histogram(found)]
    if record is not None:
        details.append(_course(record))
    return (*details, _table(bench, found, labels, order), *_images(bench, found, labels, order))


def _groups(found: Forgetting) -> Scalars:
    parts = {
        "never forgotten": found.unforgettable,
        "forgotten": found.learned & (found.events > 0),
        "never learned": ~found.learned,
    }
    items = tuple(Scalar(name, float(p.double().mean()), "share of examples") for name, p in parts.items())
    return Scalars("What becomes of an example in a training", items, stacked=True)


def _histogram(found: Forgetting) -> Histogram:
    most = int(found.events.max())
    width = max(1, -(-(most + 1) // 40))
    edges = torch.arange(0, most + 1 + width, width)
    groups = []
    for name, chosen in (("learned", found.learned), ("never learned", ~found.learned)):
        counts = torch.histc(found.events[chosen].double(), len(edges) - 1, -0.5, float(edges[-1]) - 0.5)
        groups.append(Bars(name, numbers(100 * counts / found.events.numel())))
    return Histogram(
        "Forgetting events of single examples",
        Axis("forgetting events in a training"),
        numbers(edges - 0.5),
        tuple(groups),
        caption="Percent of examples over all trainings. The bar at 0 are examples that, once learned, stay learned.",
        y=Axis("share of examples", "%"),
    )


def _course(record: Tensor) -> Curve:
    """Shares learned and forgotten at each pass, with the range over trainings."""
    before, now = record[:, :-1], record[:, 1:]
    seen = ~(before.isnan() | now.isnan())
    lines = []
    for name, event in (
        ("learned", seen & (before == 0) & (now == 1)),
        ("forgotten", seen & (before == 1) & (now == 0)),
    ):
        share = 100 * event.double().sum(2) / seen.sum(2).clamp(min=1)
        x = tuple(range(2, share.shape[1] + 2))[:2000]
        low, high = share.amin(0)[:2000], share.amax(0)[:2000]
        lines.append(Line(name, x, numbers(share.mean(0)[:2000]), numbers(low), numbers(high)))
    return Curve(
        "Learning and forgetting by pass over the data",
        Axis("pass over the training data"),
        Axis("examples that changed since their last presentation", "%"),
        tuple(lines),
        caption="Mean and range over trainings. Forgetting that does not fade means that the network cannot hold all "
        "examples, or steps too far.",
    )


def _called(bench: Workbench, label: Tensor) -> str:
    names: Any = getattr(bench.specimen.objective, "class_names", ())
    return str(names[int(label)]) if int(label) < len(names) else str(int(label))


def _table(bench: Workbench, found: Forgetting, labels: Tensor, order: Tensor) -> Table:
    events = torch.where(found.learned, found.events, 0).double().mean(0)
    unlearned = (~found.learned).sum(0)
    rows = tuple(
        (int(row), _called(bench, labels[row]), float(events[row]), int(unlearned[row]))
        for row in order[:SHOWN]
    )
    columns = (
        "training example",
        "label",
        "forgetting events (mean)",
        f"never learned in (of {len(found.learned)})",
    )
    return Table(
        "Hardest examples", columns, rows, "Positions in the training data as examined, most forgotten first."
    )


def _images(bench: Workbench, found: Forgetting, labels: Tensor, order: Tensor) -> tuple[Images, ...]:
    with suppress(NotApplicableError):
        shape = bench.input_shape()
        if len(shape) == 3 and shape[0] in (1, 3) and shape[1] * shape[2] <= 64 * 64:
            inputs, events = bench.inputs("train"), found.events.double().mean(0)

            def caption(row: int) -> str:
                fate = (
                    f"forgotten {events[row]:.1f} times"
                    if bool(found.learned[:, row].any())
                    else "never learned"
                )
                return f"{row}: labelled {_called(bench, labels[row])}, {fate}"

            hardest = order[:12].tolist()
            pictures = tuple(picture(inputs[row].reshape(shape), caption(row)) for row in hardest)
            return (
                Images(
                    "Hardest examples", pictures, "Wrong labels, rare forms and ambiguous images gather here."
                ),
            )
    return ()


INSTRUMENT = ExampleForgetting
