"""Where records go."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

from torchstone.watching.record import Alert, Header, Record


@runtime_checkable
class Logger(Protocol):
    """Takes what is measured. Whatever it raises is said once, and it is dropped; training goes on."""

    def start(self, header: Header) -> None:
        """Called once, before anything else."""
        ...

    def record(self, record: Record) -> None:
        """A record."""
        ...

    def alert(self, alert: Alert) -> None:
        """An alert."""
        ...

    def finish(self, summary: Mapping[str, Any]) -> None:
        """Called once at the end, also when training raised."""
        ...
