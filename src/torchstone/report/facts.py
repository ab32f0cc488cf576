"""The plain facts of an examination in words: what was examined, when, on what, and what it took."""

from __future__ import annotations

import math
from collections.abc import Iterable
from datetime import UTC, datetime

from torchstone.examination import Examination
from torchstone.reading import Cost, Level, Reading, Setting
from torchstone.report.marks import MARKS, ORDER
from torchstone.report.words import counted, duration, listed, plain, size


def tally(readings: Iterable[Reading]) -> str:
    """How many readings there are at each level, the urgent ones first."""
    return ", ".join(f"{amount} {MARKS[level].word.lower()}" for level, amount in levels_of(readings))


def levels_of(readings: Iterable[Reading]) -> list[tuple[Level, int]]:
    """The verdict levels that occur and how often, the urgent ones first."""
    levels = [reading.verdict.level for reading in readings]
    return [(level, levels.count(level)) for level in ORDER if level in levels]


def facts(examination: Examination) -> list[str]:
    """What was examined, in a few short phrases."""
    card, plan = examination.specimen, examination.plan
    frozen = "" if card.trainable == card.parameters else f" ({plain(card.trainable)} trainable)"
    task = (
        f"{card.task}, {counted(len(card.class_names), 'class', 'classes')}"
        if card.class_names
        else card.task
    )
    seen = [
        f"{plain(amount)} {name}" + (f" (at most {plain(limit)} used)" if limit and limit < amount else "")
        for name, amount, limit in (
            ("training examples", card.train_examples, plan.train_examples),
            ("test examples", card.test_examples, plan.test_examples),
        )
        if amount is not None
    ]
    return [
        f"{card.model}, {counted(card.layers, 'layer')}",
        f"{counted(card.parameters, 'parameter')}{frozen}",
        task,
        listed(seen) + (" and no test set" if card.test_examples is None else ""),
        f"{card.dtype.removeprefix('torch.')} on {card.device}",
        f"measured in {duration(examination.seconds)}",
    ]


def started(examination: Examination) -> str:
    """The date and time of the examination, in words; as it stands if it is none."""
    try:
        moment = datetime.fromisoformat(examination.started)
    except ValueError:
        return examination.started
    if moment.tzinfo is not None:
        moment = moment.astimezone(UTC)
    return f"{moment.day} {moment:%B %Y, %H:%M} UTC"


def circumstances(examination: Examination) -> list[tuple[str, str]]:
    """Everything a repetition must share."""
    made, card = examination.environment, examination.specimen
    rows = [
        ("Seed", str(examination.seed)),
        ("Versions", f"torchstone {made.torchstone}, torch {made.torch}, Python {made.python}"),
        ("Machine", f"{made.platform}; {made.processor}; {counted(made.threads, 'thread')}"),
        ("Accelerator", made.accelerator or "none"),
        ("Plan", f"{examination.plan.name}, memory budget {size(examination.plan.memory_bytes)}"),
        ("Format", f"examination.json, schema {examination.schema}"),
    ]
    if card.recipe:
        rows.append(("Recipe", ", ".join(f"{name} {setting(value)}" for name, value in card.recipe.items())))
    if card.class_names:
        shown = ", ".join(card.class_names[:12])
        more = len(card.class_names) - 12
        rows.append(("Classes", shown + (f" and {more} more" if more > 0 else "")))
    return rows


def cost_of(cost: Cost) -> str:
    """What a measurement took."""
    parts = [duration(cost.seconds)]
    passes = [(cost.forward_passes, "forward"), (cost.backward_passes, "backward")]
    made = [f"{plain(amount)} {name}" for amount, name in passes if amount]
    if made:
        one = sum(amount for amount, _ in passes) == 1
        parts.append(f"{listed(made)} {'pass' if one else 'passes'} over the training set")
    if cost.peak_bytes:
        parts.append(f"{size(cost.peak_bytes)} at its peak")
    return ", ".join(parts)


def setting(value: Setting) -> str:
    """One setting, as one would write it."""
    if isinstance(value, tuple):
        return "(" + ", ".join(setting(item) for item in value) + ")"
    if isinstance(value, float) and math.isfinite(value):
        return f"{value:g}"
    return str(value)
