"""A claim of the theory: a sentence, its conditions, a run that measures it, and what would refute it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

import torch

from torchstone.atlas.evidence import Evidence
from torchstone.atlas.theme import Theme
from torchstone.errors import SettingError


class Scale(StrEnum):
    """How large a claim's experiment is."""

    QUICK = "quick"
    """A few seconds on one core."""
    FULL = "full"
    """Minutes: more draws, larger problems, narrower error bars."""


Run = Callable[[Scale, torch.Generator], Evidence]


@dataclass(frozen=True)
class Erratum:
    """Where a statement often met is wrong or says too much: what is stated, and what is true instead."""

    id: str
    stated: str
    correct: str


@dataclass(frozen=True)
class Claim:
    """One statement of the theory that an experiment can refute.

    Both runs must depend on nothing but their scale and generator: the same seed gives the same bits.

    Args:
        id: Name of its file.
        theme: Name of its folder.
        title: A few words for headings.
        statement: The claim, one or two sentences.
        source: Paper, with its theorem, equation or section.
        assumptions: What must hold for the statement, one sentence each.
        refuted_by: The observation that would refute it, in words.
        run: The experiment.
        counterexample: The same experiment with one assumption broken or a wrong formula; its evidence must not hold.
            It shows that the experiment is able to refute, and often why an assumption is needed.
        rows: Ids of the topics it covers.
        errata: Statements often met that this claim corrects.

    Raises:
        SettingError: An id that is no Python name, an empty sentence, or a row of no theme.
    """

    id: str
    theme: Theme
    title: str
    statement: str
    source: str
    assumptions: tuple[str, ...]
    refuted_by: str
    run: Run
    counterexample: Run
    rows: tuple[str, ...]
    errata: tuple[Erratum, ...] = ()

    def __post_init__(self) -> None:
        if not self.id.isidentifier():
            raise SettingError("A claim's id is the name of its file", repr(self.id), "Rename it.")
        for field in ("title", "statement", "source", "refuted_by", "assumptions", "rows"):
            value = getattr(self, field)
            parts = (value,) if isinstance(value, str) else value
            if not isinstance(parts, tuple) or not parts or not all(part.strip() for part in parts):
                raise SettingError(
                    f"Claim {self.id!r} needs its {field}",
                    repr(value),
                    "Write the text, or a tuple of texts.",
                )
        for row in self.rows:
            Theme.of(row)
