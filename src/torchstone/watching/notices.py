"""Alerts as people want to read them: one notice for what is one thing, wherever and however often it was said."""

from __future__ import annotations

from collections.abc import Sequence

from torchstone.reading import Level
from torchstone.report.run import Notice
from torchstone.watching.log import WatchLog
from torchstone.watching.record import Alert

_LEVELS = {"poor": Level.POOR, "attention": Level.ATTENTION}
# The series in which a kind of alert shows; those of instruments show in the instrument's own.
_SERIES = {
    "diverging": ("loss", "gradient_norm"),
    "vanishing": ("update_ratio",),
    "exploding": ("gradient_norm",),
    "large steps": ("update_ratio",),
    "stuck": ("loss", "gradient_norm"),
    "noise-dominated": ("noise_scale", "signal_to_noise"),
    "overfitting": ("loss", "generalisation_loss"),
    "lost in rounding": ("moved",),
    "past the stability edge": ("sharpness", "stability_edge"),
    "dead units": ("activation_health",),
}


def notices(alerts: Sequence[Alert]) -> tuple[Notice, ...]:
    """One notice a kind and severity, the worst first, then in the order of their beginning.

    >>> alert = Alert(3, "vanishing", "poor", "0.weight", "0.weight hardly moves.", "Normalise.")
    >>> notices([alert])[0].when
    'step 3'
    """
    groups: dict[tuple[str, str], list[Alert]] = {}
    for alert in alerts:
        groups.setdefault((alert.severity, alert.kind), []).append(alert)
    ordered = sorted(groups.values(), key=lambda group: (group[0].severity != "poor", group[0].step))
    return tuple(_notice(group) for group in ordered)


def alerted_series(kind: str, log: WatchLog) -> tuple[str, ...]:
    """Names of the series in which a kind of alert shows."""
    titled = [name for name in log.names if log.described(name).title.lower() == kind]
    return _SERIES.get(kind, tuple(titled))


def _notice(group: Sequence[Alert]) -> Notice:
    last = group[-1]
    steps = sorted({alert.step for alert in group})
    places = tuple(dict.fromkeys(alert.layer for alert in group if alert.layer))
    if len(steps) == 1:
        when = f"step {steps[0]:,}"
    elif len(places) > 1:
        when = f"from step {steps[0]:,}"
    else:
        when = f"{len(steps)} times, from step {steps[0]:,} to {steps[-1]:,}"
    message = group[0].message if len(places) > 1 else last.message
    if len(places) > 1:
        message += f" The same in {len(places) - 1} more layer{'s' if len(places) > 2 else ''}."
    level = _LEVELS.get(last.severity, Level.ATTENTION)
    title = last.kind[:1].upper() + last.kind[1:]
    return Notice(level, title, when, message, places if len(places) > 1 else (), last.remedy)
