"""Progress of an examination with a remaining time, and nothing where nobody looks."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Self

from torchstone.reading import CostClass

# Seconds each cost class is expected to take before anything was measured; corrected by what was.
_PRIOR = {CostClass.INSTANT: 0.2, CostClass.SECONDS: 2.0, CostClass.MINUTES: 10.0, CostClass.RETRAINING: 60.0}


def remaining_seconds(done: Sequence[tuple[CostClass, float]], left: Sequence[CostClass]) -> float:
    """Expected seconds for what is left: the prior of each cost class, scaled by how wrong it has been so far."""
    expected = sum(_PRIOR[cost] for cost, _ in done)
    scale = (sum(seconds for _, seconds in done) + 1.0) / (expected + 1.0)
    return scale * sum(_PRIOR[cost] for cost in left)


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes:02}:{rest:02}"


class Progress(AbstractContextManager["Progress"]):
    """A line on standard error that names the running instrument and the remaining time; silent off a terminal."""

    def __init__(self, *, show: bool | None = None) -> None:
        from rich.console import Console

        console = Console(stderr=True, force_terminal=show or None)
        self._show = console.is_terminal if show is None else show
        self._console, self._live, self._task = console, None, None

    def __enter__(self) -> Self:
        if self._show:
            from rich.progress import BarColumn, TextColumn, TimeElapsedColumn
            from rich.progress import Progress as RichProgress

            columns = (
                TextColumn("{task.description:<34}"),
                BarColumn(bar_width=30),
                TextColumn("{task.completed:.0f}/{task.total:.0f}"),
                TimeElapsedColumn(),
                TextColumn("{task.fields[left]}"),
            )
            self._live = RichProgress(*columns, console=self._console, transient=True)
            self._live.start()
            self._task = self._live.add_task("preparing", total=1, left="")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.stop()

    def step(self, name: str, done: Sequence[tuple[CostClass, float]], left: Sequence[CostClass]) -> None:
        """Say what runs now, what is done and what is left (the running one included)."""
        if self._live is None or self._task is None:
            return
        seconds = remaining_seconds(done, left)
        about = f"about {_clock(seconds)} left" if left else ""
        self._live.update(
            self._task,
            description=name,
            completed=len(done),
            total=len(done) + len(left),
            left=about,
            refresh=True,
        )
