"""Records as MLflow metrics."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torchstone.watching.loggers.extra import load, scalars, tag
from torchstone.watching.record import Alert, Header, Record

_MOST = 500  # characters that every MLflow store takes as a value


class MLflow:
    """Logs metrics under `watch/` and alerts as tags of the active run, or of a run of its own; needs `torchstone[mlflow]`.

    Args:
        layers: Whether to log what is known by layer too.

    Raises:
        SettingError: mlflow is not installed.
    """

    def __init__(self, *, layers: bool = True) -> None:
        self._layers = layers
        self._mlflow = load("mlflow", "mlflow", "MLflow()")
        self._owned = False
        self._said = 0

    def start(self, header: Header) -> None:
        """Parameters of the run."""
        if self._mlflow.active_run() is None:
            self._mlflow.start_run()
            self._owned = True
        about = {name: getattr(header, name) for name in ("model", "parameters", "optimizer", "lr")}
        self._mlflow.log_params({f"watch.{name}": str(value)[:_MOST] for name, value in about.items()})

    def record(self, record: Record) -> None:
        """All numbers in one request."""
        found = scalars(record.values, record.layers if self._layers else {})
        metrics = {f"watch/{name}": value for name, value in found.items()}
        self._mlflow.log_metrics(metrics, step=record.step)

    def alert(self, alert: Alert) -> None:
        """A tag, numbered, as MLflow keeps one value a name."""
        self._said += 1
        said = f"step {alert.step}: {alert.message} {alert.remedy}"
        self._mlflow.set_tag(f"watch.alert.{self._said:03}.{tag(alert.kind)}", said[:_MOST])

    def finish(self, summary: Mapping[str, Any]) -> None:
        """End the run that was started here."""
        self._mlflow.set_tag("watch.ended", str(summary.get("ended", "")))
        if self._owned:
            self._mlflow.end_run("FINISHED" if summary.get("ended") == "finished" else "FAILED")
