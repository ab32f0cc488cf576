"""A watched run as plain data for its page: what went wrong, the curves, and what watching cost."""

from __future__ import annotations

from dataclasses import dataclass

from torchstone.details import Detail
from torchstone.examination import Examination
from torchstone.reading import Level


@dataclass(frozen=True)
class Notice:
    """Something that went wrong, wherever it did.

    Args:
        level: `Level.POOR` or `Level.ATTENTION`.
        title: What it is called.
        when: "step 12", or "from step 12".
        message: One sentence.
        places: The layers, where there are several.
        remedy: What to do.
    """

    level: Level
    title: str
    when: str
    message: str
    places: tuple[str, ...] = ()
    remedy: str = ""


@dataclass(frozen=True)
class Chapter:
    """Curves that answer one question.

    Args:
        id: For links.
        title: The question.
        details: What to draw.
    """

    id: str
    title: str
    details: tuple[Detail, ...]


@dataclass(frozen=True)
class RunPage:
    """What the page of a run shows.

    Args:
        name: The run's name.
        kicker: When and how it was watched.
        facts: What was trained, in a few short phrases.
        standing: Whether it goes on, ended or broke off, where that is worth saying.
        notices: What went wrong, the worst first.
        chapters: The curves.
        account: What was measured how often, and what it cost.
        circumstances: Named facts for the page's end.
        made_by: Version of torchstone.
        examination: An examination of the network that lies beside the log.
    """

    name: str
    kicker: str
    facts: tuple[str, ...]
    standing: str
    notices: tuple[Notice, ...]
    chapters: tuple[Chapter, ...]
    account: tuple[Detail, ...]
    circumstances: tuple[tuple[str, str], ...]
    made_by: str
    examination: Examination | None = None
