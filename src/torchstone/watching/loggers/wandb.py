"""Records for Weights & Biases; offline unless asked otherwise."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torchstone.watching.loggers.extra import load, scalars
from torchstone.watching.record import Alert, Header, Record


class WeightsAndBiases:
    """Logs to a run under `watch/`; needs `torchstone[wandb]`.

    Nothing leaves the machine unless `mode="online"` is asked for, or a run is passed that is online.
    Steps are logged as the metric `watch/step`, as a run's own steps belong to the user.

    Args:
        folder: For the offline files.
        project: Name of the project.
        mode: "offline", "online" or "disabled".
        layers: Whether to log what is known by layer too.
        run: A run to log to instead of a new one; it is not finished.

    Raises:
        SettingError: wandb is not installed.
    """

    def __init__(
        self,
        folder: str | Path | None = None,
        *,
        project: str | None = None,
        mode: str = "offline",
        layers: bool = True,
        run: Any = None,
    ) -> None:
        self._wandb = load("wandb", "wandb", "WeightsAndBiases()")
        self._layers, self._run, self._owned = layers, run, run is None
        self._settings = {
            "dir": str(folder) if folder is not None else None,
            "project": project,
            "mode": mode,
        }

    def start(self, header: Header) -> None:
        """Begin a run, unless one was given."""
        about = {name: getattr(header, name) for name in ("model", "parameters", "optimizer", "lr")}
        if self._run is None:
            self._run = self._wandb.init(config={"watch": about}, **self._settings)
        self._run.define_metric("watch/step")
        self._run.define_metric("watch/*", step_metric="watch/step")

    def record(self, record: Record) -> None:
        """All numbers at once."""
        found = scalars(record.values, record.layers if self._layers else {})
        self._run.log(
            {"watch/step": record.step, **{f"watch/{name}": value for name, value in found.items()}}
        )

    def alert(self, alert: Alert) -> None:
        """An alert of the run."""
        level = "ERROR" if alert.severity == "poor" else "WARN"
        title = f"{alert.kind} at step {alert.step}"
        self._run.alert(title=title, text=f"{alert.message} {alert.remedy}".strip(), level=level)

    def finish(self, summary: Mapping[str, Any]) -> None:
        """End the run that was started here."""
        self._run.summary.update({"watch/ended": str(summary.get("ended", ""))})
        if self._owned:
            self._run.finish(exit_code=0 if summary.get("ended") == "finished" else 1)
