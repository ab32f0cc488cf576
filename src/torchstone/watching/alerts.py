"""What goes wrong, judged from the records: pure functions of numbers, each with its threshold and where it comes from."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from torchstone.watching.progress import Progress
from torchstone.watching.record import Alert, Record

# An update below half the spacing of numbers around the weight changes nothing (IEEE 754, round to nearest).
ROUNDING = {
    "torch.float64": 2.0**-53,
    "torch.float32": 2.0**-24,
    "torch.bfloat16": 2.0**-9,
    "torch.float16": 2.0**-12,
}
WARM_UP = 20
TOO_LARGE = 0.1
UNREACHED = 1e-3
KEPT = 0.1

PAST_EDGE = "past the stability edge"
NOISY = "noise-dominated"
PATIENCE = {"diverging": 1, "exploding": 1, "stuck": 1, "large steps": 10, NOISY: 10}
"""Judgements in a row until something is said, and until it may be said anew; 3 where nothing else is told."""


@dataclass(frozen=True)
class Weight:
    """What judging a parameter takes.

    Attributes:
        rounding: The relative update that its type can just hold.
        entries: How many numbers it has.
        matrix: Whether it has at least two dimensions. Biases and scales may rest, and start at zero.
    """

    rounding: float = ROUNDING["torch.float32"]
    entries: int = 1
    matrix: bool = True


def diverging(progress: Progress) -> list[Alert]:
    """A loss that is not finite, has risen by half, or has lost half of what was gained (poor)."""
    remedy = "Go back to the last good weights and divide the learning rate by 3; clip the gradient's norm."
    if progress.last and not math.isfinite(progress.last[-1]):
        return [Alert(0, "diverging", "poor", "", f"The loss is {progress.last[-1]}.", remedy)]
    head, tail = progress.head, progress.tail
    if progress.has_risen:
        message = f"The loss has risen from {progress.first[0]:.3g} to {progress.last[-1]:.3g}."
        return [Alert(0, "diverging", "poor", "", message, remedy)]
    if progress.has_fallen_back:
        message = f"The loss had fallen from {head:.3g} to {progress.lowest:.3g} and is back at {tail:.3g}."
        return [Alert(0, "diverging", "poor", "", message, remedy)]
    return []


def stuck(progress: Progress) -> list[Alert]:
    """No progress while the gradient has all but vanished (attention): a plateau or a saddle."""
    if not progress.rests:
        return []
    message = (
        f"The loss stays at {progress.tail:.3g} and the gradient has all but vanished: a plateau, a saddle, or all "
        "that this network can do."
    )
    remedy = "Ask negative_curvature; raise the learning rate, add momentum or noise, or initialise anew."
    return [Alert(0, "stuck", "attention", "", message, remedy)]


def vanishing(record: Record, weights: Mapping[str, Weight]) -> list[Alert]:
    """Weights that rounding keeps from moving because the gradient hardly reaches them, others it does (poor).

    An entry's gradient has to lie below a thousandth of that of the best reached parameter: where the learning rate is
    small, or the run has converged, all updates are, and nothing is wrong.
    """
    gradients = {
        layer: norm / math.sqrt(max(1, weights.get(layer, Weight()).entries))
        for layer, norm in record.layers.get("gradient_norm", {}).items()
    }
    most = max((one for one in gradients.values() if math.isfinite(one)), default=0.0)
    found = []
    for layer, ratio in record.layers.get("update_ratio", {}).items():
        weight = weights.get(layer, Weight())
        if not weight.matrix or not ratio < weight.rounding or layer not in gradients:
            continue
        if gradients[layer] < UNREACHED * most:
            message = (
                f"{layer} hardly moves: a step changes it by {ratio:.1e} of its size, less than its type can hold."
                if ratio > 0
                else f"{layer} does not move: no gradient reaches it."
            )
            remedy = "Initialise for the depth (torchstone.init), normalise, or add skip connections."
            found.append(Alert(record.step, "vanishing", "poor", layer, message, remedy))
    return found


def lost_in_rounding(record: Record, progress: Progress) -> list[Alert]:
    """Weights in half precision of which a step changes less than a tenth of the entries (attention): a rule of thumb.

    Not once the learning rate has been lowered below a tenth of its largest.
    """
    if not progress.lr >= 0.1 * progress.largest_lr > 0:
        return []
    remedy = "Keep the weights in float32 and compute in half precision by torch.autocast."
    return [
        Alert(
            record.step,
            "lost in rounding",
            "attention",
            layer,
            f"A step changes only {share:.1%} of {layer}: the rest of the update is lost in rounding.",
            remedy,
        )
        for layer, share in record.layers.get("moved", {}).items()
        if share < KEPT
    ]


def exploding(record: Record, weights: Mapping[str, Weight]) -> list[Alert]:
    """Steps that change a weight by more than a tenth after the first steps (attention), or gradients not finite (poor)."""
    found = []
    remedy = "Clip the gradient's norm, lower the learning rate, or warm it up."
    for layer, norm in record.layers.get("gradient_norm", {}).items():
        if not math.isfinite(norm):
            message = f"The gradient of {layer} is {norm}."
            found.append(Alert(record.step, "exploding", "poor", layer, message, remedy))
    if record.step > WARM_UP:
        for layer, ratio in record.layers.get("update_ratio", {}).items():
            # Biases and scales that start at zero have no size to compare with.
            if ratio > TOO_LARGE and weights.get(layer, Weight()).matrix:
                message = f"A step changes {layer} by {ratio:.0%} of its size."
                found.append(Alert(record.step, "large steps", "attention", layer, message, remedy))
    return found


@dataclass
class _Standing:
    """What was found: how often in a row, how often not since, and whether it was said."""

    found: int = 0
    missed: int = 0
    said: bool = False


@dataclass
class Alerts:
    """Says each thing once, when it lasts, and again only after it has been gone as long.

    Steps past the edge of stability are said when the loss rises, dominant noise when it does not fall: either alone is
    how many sound runs look.
    """

    standing: dict[tuple[str, str], _Standing] = field(default_factory=dict)
    progress: Progress = field(default_factory=Progress)
    waiting: dict[str, Alert] = field(default_factory=dict)

    def after(
        self,
        record: Record,
        found: Sequence[Alert] = (),
        asked: Sequence[str] = (),
        weights: Mapping[str, Weight] | None = None,
    ) -> list[Alert]:
        """The new ones.

        Args:
            record: The newest.
            found: What quantities found by themselves at this step.
            asked: Kinds that were judged by quantities at this step, whether found or not.
            weights: About the parameters, by name.
        """
        weights = weights or {}
        progress = self.progress
        progress.add(record)
        mine = [*diverging(progress), *stuck(progress), *vanishing(record, weights)]
        mine += [*exploding(record, weights), *lost_in_rounding(record, progress)]
        judged = {*asked, *(alert.kind for alert in found)}
        mine += self._by_progress(found, judged)
        judged -= {PAST_EDGE, NOISY}
        if "loss" in record.values:
            judged |= {"diverging", "stuck", PAST_EDGE, NOISY}
        if "update_ratio" in record.layers:
            judged |= {"vanishing", "exploding", "large steps", "lost in rounding"}
        now = {(alert.kind, alert.layer): alert for alert in mine}
        return [_at(now[key], record.step) for key in self._new(now, judged)]

    def _by_progress(self, found: Sequence[Alert], judged: set[str]) -> list[Alert]:
        """What was found, where the loss bears it out."""
        for kind in (PAST_EDGE, NOISY):
            if kind in judged:
                self.waiting.pop(kind, None)
        self.waiting |= {alert.kind: alert for alert in found if alert.kind in (PAST_EDGE, NOISY)}
        rate_is_high = self.progress.lr >= 0.1 * self.progress.largest_lr  # else it has been lowered already
        borne_out = {PAST_EDGE: self.progress.rising, NOISY: rate_is_high and not self.progress.falling}
        waiting = [alert for kind, alert in self.waiting.items() if borne_out[kind]]
        return [*(alert for alert in found if alert.kind not in (PAST_EDGE, NOISY)), *waiting]

    def _new(self, now: Mapping[tuple[str, str], Alert], judged: set[str]) -> list[tuple[str, str]]:
        for key in list(self.standing):
            if key[0] in judged and key not in now:
                one = self.standing[key]
                one.missed += 1
                if not one.said or one.missed >= PATIENCE.get(key[0], 3):
                    del self.standing[key]
        new = []
        for key in now:
            if key[0] not in judged:
                continue
            one = self.standing.setdefault(key, _Standing())
            one.found, one.missed = one.found + 1, 0
            if not one.said and one.found >= PATIENCE.get(key[0], 3):
                one.said = True
                new.append(key)
        return new


def _at(alert: Alert, step: int) -> Alert:
    return Alert(step, alert.kind, alert.severity, alert.layer, alert.message, alert.remedy)
