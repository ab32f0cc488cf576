"""A bar with the remaining time for a training, on a terminal and nowhere else."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any


def progress_bar(title: str | None, total: int) -> AbstractContextManager[Callable[[], None]]:
    """A context that gives a function to call after each of `total` pieces of work; draws on standard error.

    Args:
        title: What is going on; None draws nothing.
        total: Number of pieces.
    """
    if title is None:
        return nullcontext(_nothing)
    from rich.console import Console

    console = Console(stderr=True)
    if not console.is_terminal:
        return nullcontext(_nothing)
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    class Bar(Progress):
        def __enter__(self) -> Any:
            super().__enter__()
            task = self.add_task(title, total=total)
            return lambda: self.advance(task)

    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=30),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    return Bar(*columns, console=console, transient=True)


def _nothing() -> None:
    pass
