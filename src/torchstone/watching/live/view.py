"""What the live page shows, made anew only when the log has grown."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

from torchstone.errors import FormatError
from torchstone.report.live_page import live_state
from torchstone.report.words import plain
from torchstone.watching.log import LogReader, WatchLog, latest
from torchstone.watching.report import name_of, run_page

SHARE = 0.1
"""Of the time that making the state may take: of a long run it is made less often, as training needs the processor."""
LITTLE = 0.1
"""Seconds of the processor that a state may always take: a page asks once a second."""
POINTS = 300
"""Of a line on the live page."""
TILES = (
    "loss",
    "test_loss",
    "probe_accuracy",
    "stability_edge",
    "update_ratio",
    "gradient_norm",
    "noise_scale",
)


class View:
    """The state of one run for any number of browsers.

    Args:
        place: The run's folder or its log; it need not exist yet.
    """

    def __init__(self, place: str | Path) -> None:
        self._name = name_of(place)
        self._reader = LogReader(place)
        self._lock = threading.Lock()
        self._version = 0
        self._state: dict[str, Any] | None = None
        self._not_before = 0.0

    def state(self, after: str = "") -> dict[str, Any] | None:
        """The state, or None where it is that of version `after` still, or where there is none yet."""
        with self._lock:
            if time.monotonic() >= self._not_before:
                first = self._state is None  # it also loads what it draws with, which does not come again
                began = time.thread_time()
                self._renew()
                taken = time.thread_time() - began
                wait = 0.0 if first or taken < LITTLE else taken * (1 / SHARE - 1)
                self._not_before = time.monotonic() + wait
            if self._state is None or self._state["version"] == after:
                return None
            return self._state

    def _renew(self) -> None:
        try:
            changed = self._reader.read()
            if changed and self._reader.log is not None:
                self._version += 1
                self._state = self._made(self._reader.log)
        except FormatError as error:
            self._version += 1
            self._state = {"problem": str(error), "running": False, "version": str(self._version)}

    def _made(self, log: WatchLog) -> dict[str, Any]:
        page = run_page(log, self._name, points=POINTS)
        tiles = [
            (log.described(name).title, plain(latest(log.series(name)[1])))
            for name in TILES
            if name in log.names
        ]
        state = live_state(page, tuple(tiles[:6]))
        running = log.summary is None
        if running:
            state["standing"] = ""
        return {**state, "running": running, "version": str(self._version)}
