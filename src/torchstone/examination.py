"""An examination: all readings of one network, with what is needed to reproduce them, as plain data."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path

from torchstone.errors import FormatError
from torchstone.plan import Plan
from torchstone.reading import Level, Question, Reading
from torchstone.serialise import from_plain, json_schema, to_plain

SCHEMA = 1
"""Version of the JSON format; raised when a file of the old format could not be read by the new code."""


@dataclass(frozen=True)
class SpecimenCard:
    """What was examined, in words and numbers.

    Args:
        name: Its name.
        model: Class name of the model.
        task: "classification", "regression", "language model" or "custom".
        parameters: Number of parameters, shared ones counted once.
        trainable: How many of them require a gradient.
        layers: Number of leaf modules.
        train_examples: Size of the training set as given.
        test_examples: Size of the test set, or None.
        class_names: Names of the classes, where there are classes.
        device: Where it was measured.
        dtype: Its parameters' type.
        recipe: How it was trained, as far as it is known.
    """

    name: str
    model: str
    task: str
    parameters: int
    trainable: int
    layers: int
    train_examples: int
    test_examples: int | None
    class_names: tuple[str, ...]
    device: str
    dtype: str
    recipe: dict[str, str | int | float | bool | None] = field(default_factory=dict)


@dataclass(frozen=True)
class Environment:
    """Versions and hardware a measurement was made with."""

    torchstone: str
    torch: str
    python: str
    platform: str
    processor: str
    threads: int
    accelerator: str = ""


@dataclass(frozen=True)
class Examination:
    """The readings of one network.

    Args:
        specimen: What was examined.
        plan: How thoroughly.
        seed: Seed of everything random in it.
        started: ISO 8601, UTC.
        seconds: Wall-clock time, resumed parts included.
        complete: False when it was interrupted.
        command: A command that runs it again.
        environment: Versions and hardware.
        findings: What was noticed and handled before measuring (shuffling loaders, casts, batch coupling).
        readings: By instrument id, in the order of measurement.
        schema: Version of the JSON format.
    """

    specimen: SpecimenCard
    plan: Plan
    seed: int
    started: str
    seconds: float
    complete: bool
    command: str
    environment: Environment
    findings: tuple[str, ...]
    readings: dict[str, Reading]
    schema: int = SCHEMA

    def by_question(self) -> dict[Question, list[Reading]]:
        """Readings under each question that has any, in the report's order."""
        grouped = {
            question: [r for r in self.readings.values() if r.question is question] for question in Question
        }
        return {question: readings for question, readings in grouped.items() if readings}

    def to_change(self) -> list[Reading]:
        """What to change first: readings judged poor or attention, most severe first."""
        urgent = [r for r in self.readings.values() if r.verdict.level in (Level.POOR, Level.ATTENTION)]
        return sorted(urgent, key=lambda reading: -reading.verdict.severity)

    def to_json(self) -> str:
        """The whole examination as JSON; `from_json` gives back an equal one."""
        return json.dumps(to_plain(self), indent=1, allow_nan=False)

    @classmethod
    def from_json(cls, text: str) -> Examination:
        """Read what `to_json` wrote.

        Raises:
            FormatError: Not JSON, damaged, or of a newer schema.
        """
        try:
            data = json.loads(text)
        except (ValueError, RecursionError) as error:  # numbers of thousands of digits, brackets without end
            damage = isinstance(error, json.JSONDecodeError)
            raise FormatError(
                "An examination file must be JSON",
                f"{error.msg} at line {error.lineno}" if damage else str(error).split(";")[0],
                "Point to the examination.json that `torchstone examine` wrote, or run it again.",
            ) from None
        schema = data.get("schema") if isinstance(data, dict) else None
        if not isinstance(schema, int) or isinstance(schema, bool):
            raise FormatError(
                "An examination file must be an object with a whole number under 'schema'",
                repr(schema),
                "Point to the examination.json that `torchstone examine` wrote.",
            )
        if schema > SCHEMA:
            raise FormatError(
                f"This torchstone reads examination files up to schema {SCHEMA}",
                f"schema {schema}",
                "Update torchstone: pip install -U torchstone.",
            )
        return from_plain(cls, data)

    @classmethod
    def load(cls, path: str | Path) -> Examination:
        """Read an examination.json from disk."""
        try:
            text = Path(path).read_text(encoding="utf-8")
        except FileNotFoundError:
            raise FormatError(
                "An examination file must exist", f"no file {path}", "Check the path."
            ) from None
        except (OSError, UnicodeDecodeError) as error:
            raise FormatError(
                "An examination file must be readable text", f"{path}: {error}", "Check it."
            ) from None
        return cls.from_json(text)

    def to_html(self) -> str:
        """One self-contained HTML page that opens offline."""
        from torchstone.report.html import to_html

        return to_html(self)

    def to_markdown(self) -> str:
        """The report as Markdown."""
        from torchstone.report.markdown import to_markdown

        return to_markdown(self)

    def to_text(self) -> str:
        """The terminal summary, without colour."""
        from torchstone.report.terminal import to_text

        return to_text(self)

    def _repr_html_(self) -> str:
        from torchstone.report.html import to_notebook

        return to_notebook(self)


def schema_text() -> str:
    """The published JSON Schema of an examination file."""
    return json.dumps(json_schema(Examination), indent=1) + "\n"
