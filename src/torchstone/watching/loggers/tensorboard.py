"""Records as TensorBoard scalars."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torchstone.watching.loggers.extra import load, scalars
from torchstone.watching.record import Alert, Header, Record


class TensorBoard:
    """Writes scalars under `watch/`, alerts and what is watched as texts; needs `torchstone[tensorboard]`.

    Args:
        folder: For the event files.
        layers: Whether to write what is known by layer too.
        writer: A `SummaryWriter` to write with instead of a new one; it is not closed.

    Raises:
        SettingError: tensorboard is not installed.
    """

    def __init__(self, folder: str | Path = "runs", *, layers: bool = True, writer: Any = None) -> None:
        self._layers, self._owned = layers, writer is None
        # tensorboard itself first: without it, torch's error names no remedy.
        load("tensorboard", "tensorboard", "TensorBoard()")
        maker = load("torch.utils.tensorboard", "tensorboard", "TensorBoard()").SummaryWriter
        self.writer = writer if writer is not None else maker(str(folder))

    def start(self, header: Header) -> None:
        """What is watched, as a text."""
        lines = [f"- `{name}`: {one.title}. {one.source}" for name, one in header.series.items()]
        about = f"{header.model}, {header.parameters:,} parameters, {header.optimizer}"
        self.writer.add_text("watch/about", "\n".join([about, "", *lines]), 0)

    def record(self, record: Record) -> None:
        """A scalar a number."""
        found = scalars(record.values, record.layers if self._layers else {})
        for name, value in found.items():
            self.writer.add_scalar(f"watch/{name}", value, record.step)

    def alert(self, alert: Alert) -> None:
        """A text, on disk at once."""
        self.writer.add_text(f"watch/alerts/{alert.kind}", f"{alert.message} {alert.remedy}", alert.step)
        self.writer.flush()

    def finish(self, summary: Mapping[str, Any]) -> None:
        """Close the file."""
        self.writer.add_text("watch/summary", f"```\n{dict(summary)}\n```")
        self.writer.flush()
        if self._owned:
            self.writer.close()
