"""Loss, learning rate, and sizes of gradients, weights and updates: what a step itself tells."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import ClassVar

from torchstone.errors import NotApplicableError
from torchstone.watching.quantities.base import Quantity
from torchstone.watching.record import Series
from torchstone.watching.state import HALF, NO_GRADIENT, Measured, State, norms


class Loss(Quantity):
    """Mean training loss since the last record, and the learning rate."""

    name = "loss"
    series: ClassVar[Mapping[str, Series]] = {
        "loss": Series("Training loss", "loss", "mean over the steps since the last record"),
        "lr": Series("Learning rate", "", "first parameter group", log=True),
    }
    cost = 0.0

    def measure(self, state: State) -> Measured:
        """Read both."""
        values = {"lr": float(state.optimizer.param_groups[0].get("lr", math.nan))}
        if state.loss is not None:
            values["loss"] = state.loss
        return Measured(values)


class Gradient(Quantity):
    """Norms of the gradient and of the update, in total and by parameter.

    The relative update |w' - w| / |w'| says how much of a layer a step changes: below the rounding of its type nothing
    happens, above 0.1 nothing stays. Of weights in half precision, where parts of an update are lost in rounding long
    before, the share of entries that changed is told as well.
    """

    name = "gradient"
    series: ClassVar[Mapping[str, Series]] = {
        "gradient_norm": Series(
            "Gradient norm", "loss / weight", "as the optimiser saw it, unscaled", log=True
        ),
        "update_norm": Series("Update norm", "weight", "change of all parameters by the step", log=True),
        "update_ratio": Series("Relative update", "share of the weight", "|w' - w| / |w'|", log=True),
        "weight_norm": Series("Weight norm", "weight", "all parameters", log=True),
        "moved": Series(
            "Smallest share of a half-precision weight that moves", "share", "entries that the step changes"
        ),
    }
    cost = 0.3
    of_step = True

    def measure(self, state: State) -> Measured:
        """One fused pass over gradients, parameters and updates."""
        assert state.gradient_norms is not None
        assert state.before is not None
        if not state.parameters:
            raise NotApplicableError("the optimiser holds none of the model's trainable parameters")
        used = [i for i, norm in enumerate(state.gradient_norms) if norm != NO_GRADIENT]
        gradient_norms = [state.gradient_norms[i] for i in used]
        weights = state.weight_norms
        changes = state.take_updates()
        updates = norms(changes)
        ratios = [u / w if w > 0 else math.nan for u, w in zip(updates, weights, strict=True)]
        whole = lambda parts: math.sqrt(math.fsum(part * part for part in parts))
        values = {
            "gradient_norm": whole(gradient_norms),
            "update_norm": whole(updates),
            "weight_norm": whole(weights),
            "update_ratio": whole(updates) / whole(weights) if whole(weights) > 0 else math.nan,
        }
        layers = {
            "gradient_norm": {state.names[i]: norm for i, norm in zip(used, gradient_norms, strict=True)},
            "update_norm": dict(zip(state.names, updates, strict=True)),
            "update_ratio": {n: r for n, r in zip(state.names, ratios, strict=True) if not math.isnan(r)},
            "weight_norm": dict(zip(state.names, weights, strict=True)),
        }
        half = {n: c for n, c in zip(state.names, changes, strict=True) if c.dtype in HALF and c.ndim > 1}
        moved = {
            name: float(change.count_nonzero()) / max(1, change.numel()) for name, change in half.items()
        }
        moved = {name: share for name, share in moved.items() if layers["gradient_norm"].get(name, 0.0) > 0}
        if moved:
            values["moved"], layers["moved"] = min(moved.values()), moved
        return Measured(values, layers)
