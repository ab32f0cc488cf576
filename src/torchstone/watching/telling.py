"""What a watcher tells: records to its loggers, alerts to whoever trains; nothing in it may end the run."""

from __future__ import annotations

import contextlib
import sys
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from torchstone.watching.loggers.base import Logger
from torchstone.watching.loggers.json_lines import JsonLines
from torchstone.watching.record import Alert

_INNER = ("torchstone", "torch", "contextlib")


class TrainingWarning(UserWarning):
    """Something about a training run that its owner should know."""


class Telling:
    """Of several processes only the first one tells anything.

    Args:
        loggers: Where records go; one that fails is dropped.
        folder: For a `watch.jsonl`, or None.
        show: Whether alerts are warnings too.
    """

    def __init__(self, loggers: Sequence[Logger], folder: str | Path | None, show: bool) -> None:
        alone = not (torch.distributed.is_available() and torch.distributed.is_initialized())
        self._leads = alone or torch.distributed.get_rank() == 0
        all_loggers = [*loggers, *([JsonLines(folder)] if folder is not None else [])]
        self._loggers = all_loggers if self._leads else []
        self._show = show
        self._said: set[str] = set()

    def tell(self, event: str, content: Any) -> None:
        """Call one method of all loggers."""
        for logger in list(self._loggers):
            try:
                getattr(logger, event)(content)
            except Exception as error:  # noqa: BLE001 - whatever it is, training goes on
                self._loggers.remove(logger)
                name = type(logger).__name__
                self.say_once(name, f"{name} takes no more records: {in_words(error)}")

    def tell_alerts(self, alerts: Sequence[Alert]) -> None:
        """Each to the loggers; as warnings, one for all layers of which the same is said."""
        for alert in alerts:
            self.tell("alert", alert)
        alike: dict[str, list[Alert]] = {}
        for alert in alerts:
            alike.setdefault(alert.kind, []).append(alert)
        for first, *others in alike.values() if self._show else ():
            more = f" The same in {len(others)} more layer{'s' if len(others) > 1 else ''}." if others else ""
            self._warn(f"step {first.step:,}: {first.message}{more} {first.remedy}".strip())

    def say_once(self, key: str, message: str) -> None:
        """Warn, unless something was said under this key before."""
        if key not in self._said:
            self._said.add(key)
            self._warn(message)

    @contextlib.contextmanager
    def never_killing(self, what: str) -> Iterator[None]:
        """Say of whatever fails that it does, once."""
        try:
            yield
        except Exception as error:  # noqa: BLE001 - whatever it is, training goes on
            self.say_once(what, f"{what} failed and goes on without this step: {in_words(error)}")

    def _warn(self, message: str) -> None:
        if self._leads:
            with contextlib.suppress(Warning):  # also where a user turns warnings into errors
                warnings.warn(message, TrainingWarning, stacklevel=_level_of_the_loop())


def _level_of_the_loop() -> int:
    """How far up the training loop is from the function that asks: its line is what a warning should show."""
    frame, level = sys._getframe(1), 1
    while frame.f_back is not None and frame.f_globals.get("__name__", "").split(".")[0] in _INNER:
        frame, level = frame.f_back, level + 1
    return level


def in_words(error: Exception) -> str:
    """An error's message in one line; its kind where it has none."""
    return " ".join(str(error).split()) or type(error).__name__
