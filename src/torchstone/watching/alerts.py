"""What goes wrong, judged from the records: pure functions of numbers, each with its threshold and where it comes from."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from torchstone.watching.excerpt import Excerpt
from torchstone.watching.record import Alert, Record

# An update below half the spacing of numbers around the weight changes nothing (IEEE 754, round to nearest).
ROUNDING = {
    "torch.float64": 2.0**-53,
    "torch.float32": 2.0**-24,
    "torch.bfloat16": 2.0**-9,
    "torch.float16": 2.0**-12,
}
WARM_UP = 20
WORSE = 1.5
TOO_LARGE = 0.1


def diverging(records: Sequence[Record]) -> list[Alert]:
    """A loss that is not finite (poor), or that stays above 1.5 times what it began with (poor)."""
    losses = [(record.step, record.values["loss"]) for record in records if "loss" in record.values]
    if not losses:
        return []
    step, last = losses[-1]
    remedy = "Go back to the last good weights and divide the learning rate by 3; clip the gradient's norm."
    if not math.isfinite(last):
        return [Alert(step, "diverging", "poor", "", f"The loss is {last} at step {step:,}.", remedy)]
    if len(losses) < 2 * WARM_UP:
        return []
    head, tail = (_median([loss for _, loss in part]) for part in (losses[:WARM_UP], losses[-WARM_UP:]))
    if tail > WORSE * head > 0:
        message = f"The loss has risen from {head:.3g} to {tail:.3g} (medians of {WARM_UP} records)."
        return [Alert(step, "diverging", "poor", "", message, remedy)]
    return []


def vanishing(record: Record, rounding: Mapping[str, float]) -> list[Alert]:
    """Layers whose update is lost in rounding (poor): the gradient does not reach them."""
    found = []
    for layer, ratio in record.layers.get("update_ratio", {}).items():
        if layer.endswith("bias"):  # one before a normalisation has no gradient, and needs none
            continue
        limit = rounding.get(layer, ROUNDING["torch.float32"])
        if record.layers.get("weight_norm", {}).get(layer, 0.0) > 0 and ratio < limit:
            message = (
                f"{layer} hardly moves: a step changes it by {ratio:.1e} of its size, less than its type can hold."
                if ratio > 0
                else f"{layer} does not move: no gradient reaches it."
            )
            remedy = "Initialise for the depth (torchstone.init), normalise, or add skip connections."
            found.append(Alert(record.step, "vanishing", "poor", layer, message, remedy))
    return found


def exploding(record: Record) -> list[Alert]:
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
            if ratio > TOO_LARGE and not layer.endswith("bias"):
                message = f"A step changes {layer} by {ratio:.0%} of its size."
                found.append(Alert(record.step, "large steps", "attention", layer, message, remedy))
    return found


def stuck(records: Sequence[Record]) -> list[Alert]:
    """No progress while the gradient has all but vanished (attention): a plateau or a saddle."""
    seen = [record for record in records if "loss" in record.values and "gradient_norm" in record.values]
    if len(seen) < 3 * WARM_UP:
        return []
    losses = [record.values["loss"] for record in seen]
    gradients = [record.values["gradient_norm"] for record in seen]
    early, late = _median(losses[-2 * WARM_UP : -WARM_UP]), _median(losses[-WARM_UP:])
    small = _median(gradients[-WARM_UP:]) < 1e-3 * max(gradients)
    if small and late > 0.5 * losses[0] and abs(early - late) < 1e-3 * early:
        message = (
            f"The loss stays at {late:.3g} and the gradient has all but vanished: a plateau or a saddle."
        )
        remedy = "Ask negative_curvature; raise the learning rate, add momentum or noise, or initialise anew."
        return [Alert(seen[-1].step, "stuck", "attention", "", message, remedy)]
    return []


@dataclass
class Alerts:
    """Says each thing once, and again only after it has gone away.

    Args:
        rounding: By parameter, the relative update that its type can just hold.
    """

    rounding: Mapping[str, float] = field(default_factory=dict)
    standing: dict[tuple[str, str], int] = field(default_factory=dict)
    losses: Excerpt = field(default_factory=lambda: Excerpt(("loss",)))
    progress: Excerpt = field(default_factory=lambda: Excerpt(("loss", "gradient_norm")))

    def after(self, records: Sequence[Record], found: Sequence[Alert], asked: Sequence[str]) -> list[Alert]:
        """The new ones.

        Args:
            records: All records, the newest last; called once with each of them as the newest.
            found: What quantities found by themselves at this step.
            asked: Kinds that were judged by quantities at this step, whether found or not.
        """
        record = records[-1]
        for excerpt in (self.losses, self.progress):
            excerpt.add(record)
        long = [*diverging(self.losses.first + list(self.losses.last)), *stuck(self.progress.records)]
        mine = [*long, *vanishing(record, self.rounding), *exploding(record)]
        now = {(alert.kind, alert.layer): alert for alert in [*mine, *found]}
        judged = {"diverging", "stuck", *asked}
        if "update_ratio" in record.layers:
            judged |= {"vanishing", "exploding", "large steps"}
        for key in [key for key in self.standing if key[0] in judged and key not in now]:
            del self.standing[key]
        new = [alert for key, alert in now.items() if key not in self.standing]
        self.standing |= {key: alert.step for key, alert in now.items() if key not in self.standing}
        return new


def _median(values: Sequence[float]) -> float:
    ordered = sorted(values)
    return ordered[len(ordered) // 2]
