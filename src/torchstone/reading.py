"""A reading: the answer to one question about one network, as plain data.

A reading holds everything the report needs and nothing that computes: the number, its error bar, the verdict with the
threshold it was judged by, what to do, and what the measurement cost. It is made by an instrument, written to JSON,
and can be judged or drawn again without the network.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from enum import IntEnum, StrEnum
from typing import Any

from torchstone.details import Detail, number

Setting = str | int | float | bool | None | tuple["Setting", ...]


class Question(StrEnum):
    """The questions a report answers, in its order."""

    FIT = "fit"
    TRAINABILITY = "trainability"
    GENERALIZATION = "generalization"
    MEMORY = "memory"
    REPRESENTATION = "representation"
    ROBUSTNESS = "robustness"

    @property
    def asks(self) -> str:
        """The question in words."""
        return {
            Question.FIT: "Where does its error come from?",
            Question.TRAINABILITY: "Does it train well?",
            Question.GENERALIZATION: "Will it hold on new data?",
            Question.MEMORY: "What did it memorise, and is the data clean?",
            Question.REPRESENTATION: "What do its layers represent?",
            Question.ROBUSTNESS: "What breaks it?",
        }[self]


class CostClass(IntEnum):
    """What an instrument costs on a network that trains in minutes; plans choose by it."""

    INSTANT = 0
    SECONDS = 1
    MINUTES = 2
    RETRAINING = 3


class Need(StrEnum):
    """What an instrument needs of a specimen; the value completes the sentence 'needs ...'."""

    TRAIN = "training examples"
    TEST = "test examples"
    LABELS = "one class label per example"
    SCORES = "one row of class scores per example"
    FLOAT_INPUTS = "continuous inputs (integers such as token ids cannot be perturbed)"
    PARAMETERS = "at least one trainable parameter"
    LEARNING_RATE = "a recipe that says the learning rate (Specimen(recipe=Recipe(...)))"
    INDEPENDENT_EXAMPLES = "examples that do not influence each other (no batch statistics in training mode)"
    RETRAINING = "a recipe that can train the network again (Specimen(recipe=Recipe(build=...)))"


class Level(StrEnum):
    """How a number was judged."""

    GOOD = "good"
    ATTENTION = "attention"
    POOR = "poor"
    INFORMATIVE = "informative"
    NOT_APPLICABLE = "not_applicable"
    ERROR = "error"


@dataclass(frozen=True)
class Verdict:
    """A judgement: its level, the threshold it applied and where the threshold comes from.

    `reason` says why a question does not apply, or what error was met; for other levels it is one clause that says how
    the number stands to the threshold. `severity` in [0, 1] orders what to change first; by default it follows the level.
    """

    level: Level
    reason: str = ""
    threshold: str = ""
    source: str = ""
    severity: float = -1.0

    def __post_init__(self) -> None:
        if self.severity < 0:
            default = {Level.POOR: 0.8, Level.ATTENTION: 0.4}.get(self.level, 0.0)
            object.__setattr__(self, "severity", default)


@dataclass(frozen=True)
class Uncertainty:
    """An error bar and the sampling it covers.

    Args:
        low: Lower end of the interval.
        high: Upper end.
        covers: What was sampled: "examples", "probes", "seeds", or "residual" for a deterministic error bound.
        method: How it was made, e.g. "Clopper-Pearson".
        confidence: Nominal coverage; 1 for a bound that always holds.
        standard_error: Where the interval was made from one.
    """

    low: float
    high: float
    covers: str
    method: str
    confidence: float = 0.95
    standard_error: float | None = None

    def __post_init__(self) -> None:
        for name in ("low", "high", "standard_error"):
            if getattr(self, name) is not None:
                object.__setattr__(self, name, number(getattr(self, name)))

    @classmethod
    def from_standard_error(
        cls, value: float, standard_error: float, covers: str, method: str = "normal, 95%"
    ) -> Uncertainty:
        """The 95% normal interval around `value`."""
        half = 1.959963984540054 * standard_error
        return cls(value - half, value + half, covers, method, 0.95, number(standard_error))


@dataclass(frozen=True)
class Remedy:
    """What to change.

    Args:
        action: In words.
        block: Import path of the building block that does it, or empty.
        claim: Claim of the atlas that backs it, or empty.
        trial: How `torchstone examine --try` applies it, or empty.
    """

    action: str
    block: str = ""
    claim: str = ""
    trial: str = ""


@dataclass(frozen=True)
class Cost:
    """What a measurement took. A pass is one evaluation of as many examples as the training set holds."""

    seconds: float = 0.0
    forward_passes: float = 0.0
    backward_passes: float = 0.0
    peak_bytes: int = 0


@dataclass(frozen=True)
class Meta:
    """What an instrument is: everything about it that does not depend on a network.

    Args:
        id: Name of its file.
        question: Which of the report's questions it helps to answer.
        title: A few words for headings.
        asks: The question in one sentence.
        cost: Cost class; plans choose by it.
        needs: What a specimen must have.
        unit: Unit of the reading's value.
        source: Paper, with its equation or section.
        version: Raised whenever the number it returns for the same network changes.
    """

    id: str
    question: Question
    title: str
    asks: str
    cost: CostClass
    needs: tuple[Need, ...]
    unit: str
    source: str
    version: int = 1


@dataclass(frozen=True)
class Reading:
    """The answer of one instrument; the fields it copies are described in `Meta`.

    Args:
        value: The headline number, or None where there is none.
        uncertainty: Its error bar, or None where the number is exact.
        verdict: How it was judged.
        headline: One sentence a person can act on.
        explanation: How it was measured and how to read it, one short paragraph.
        remedies: What to change, most useful first.
        details: What to draw.
        notes: What the reader must know: subsampling, handled randomness, approximations.
        settings: The instrument's settings.
        seed: The examination's seed.
        cost: Time, passes and memory; not part of equality of measurements (`without_cost`).
    """

    id: str
    question: Question
    title: str
    asks: str
    unit: str
    source: str
    value: float | None
    verdict: Verdict
    headline: str
    version: int = 1
    uncertainty: Uncertainty | None = None
    explanation: str = ""
    remedies: tuple[Remedy, ...] = ()
    details: tuple[Detail, ...] = ()
    notes: tuple[str, ...] = ()
    settings: dict[str, Setting] = field(default_factory=dict)
    seed: int = 0
    cost: Cost = field(default_factory=Cost)

    def __post_init__(self) -> None:
        if self.value is not None:
            object.__setattr__(self, "value", number(self.value))

    @classmethod
    def of(
        cls,
        meta: Meta,
        *,
        value: float | None,
        verdict: Verdict,
        headline: str,
        uncertainty: Uncertainty | None = None,
        explanation: str = "",
        remedies: tuple[Remedy, ...] = (),
        details: tuple[Detail, ...] = (),
        notes: tuple[str, ...] = (),
        unit: str | None = None,
    ) -> Reading:
        """What an instrument returns; `unit` replaces the usual one. Settings, seed and cost are added by `measure`."""
        return cls(
            id=meta.id,
            question=meta.question,
            title=meta.title,
            asks=meta.asks,
            unit=meta.unit if unit is None else unit,
            source=meta.source,
            version=meta.version,
            value=value,
            verdict=verdict,
            headline=headline,
            uncertainty=uncertainty,
            explanation=explanation,
            remedies=remedies,
            details=details,
            notes=notes,
        )

    @classmethod
    def not_applicable(cls, meta: Meta, reason: str) -> Reading:
        """The question has no meaning for this specimen; costs nothing."""
        verdict = Verdict(Level.NOT_APPLICABLE, reason)
        return cls.of(meta, value=None, verdict=verdict, headline=f"Not applicable: {reason}")

    @classmethod
    def error(cls, meta: Meta, message: str) -> Reading:
        """The instrument failed; the examination goes on."""
        return cls.of(
            meta, value=None, verdict=Verdict(Level.ERROR, message), headline=f"Not measured: {message}"
        )

    def without_cost(self) -> Reading:
        """The same measurement with an empty cost, for comparing two runs."""
        return replace(self, cost=Cost())

    @property
    def measured(self) -> bool:
        """Whether there is a number or a finding to show."""
        return self.verdict.level not in (Level.NOT_APPLICABLE, Level.ERROR)


def plain_settings(values: dict[str, Any]) -> dict[str, Setting]:
    """Settings as JSON can hold them: numbers, text, booleans, None, tuples; enums become their values."""

    def plain(value: Any) -> Setting:
        if isinstance(value, StrEnum):
            return value.value
        if isinstance(value, float) and math.isnan(value):
            return math.nan
        if value is None or isinstance(value, str | int | float | bool):
            return value
        if isinstance(value, list | tuple):
            return tuple(plain(item) for item in value)
        return repr(value)

    return {key: plain(value) for key, value in values.items()}
