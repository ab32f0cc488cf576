"""Quantities by name."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from torchstone.errors import SettingError
from torchstone.instruments.catalogue import catalogue
from torchstone.watching.quantities.base import Quantity
from torchstone.watching.quantities.forgetting import Forgetting
from torchstone.watching.quantities.instrument import InstrumentQuantity
from torchstone.watching.quantities.noise import Noise
from torchstone.watching.quantities.step_curvature import StepCurvature
from torchstone.watching.quantities.stopping import EarlyStopping
from torchstone.watching.quantities.training import Gradient, Loss
from torchstone.watching.quantities.weights import Balance, StableRanks

CHEAP = ("loss", "gradient", "balance")
OWN = (*CHEAP, "stable_rank", "noise", "step", "forgetting", "stopping")
INSTRUMENTS = ("stability_edge", "activation_health", "effective_rank")
ALL = (*OWN, *INSTRUMENTS)


def chosen_quantities(
    asked: str | Sequence[str | Quantity] | None, model: nn.Module, *, probed: bool
) -> list[Quantity]:
    """What a watcher of a model watches.

    Args:
        asked: Names, or quantities; None for all that can be watched.
        model: The model.
        probed: Whether there is data to measure on.

    Raises:
        SettingError: An unknown name, or a quantity that needs data where there is none.
    """
    wanted = asked if asked is not None else ALL if probed else (*CHEAP, "stable_rank")
    chosen: list[Quantity] = []
    for one in (wanted,) if isinstance(wanted, str) else wanted:
        chosen += [one] if isinstance(one, Quantity) else choose(one, model)
    missing = [] if probed else [one.key for one in chosen if one.of_probe]
    if not missing:
        return chosen
    if asked is None or isinstance(asked, str):
        return [one for one in chosen if not one.of_probe]
    raise SettingError(
        f"{missing[0]} needs data to measure on", "none", "Pass a Specimen or a batch to watch()."
    )


def choose(names: str | tuple[str, ...], model: nn.Module) -> list[Quantity]:
    """Quantities by name: "cheap", "all", or names of quantities and ids of instruments.

    Raises:
        SettingError: An unknown name.
    """
    if isinstance(names, str):
        names = {"cheap": CHEAP, "all": ALL}.get(names, (names,))
    makers = {
        "loss": Loss,
        "gradient": Gradient,
        "balance": lambda: Balance(model),
        "stable_rank": StableRanks,
        "noise": Noise,
        "step": StepCurvature,
        "forgetting": Forgetting,
        "stopping": EarlyStopping,
    }
    chosen: list[Quantity] = []
    for name in dict.fromkeys(names):
        if name in makers:
            chosen.append(makers[name]())
        elif name in catalogue():
            chosen.append(InstrumentQuantity(name))
        else:
            raise SettingError(
                "quantities must be names",
                repr(name),
                f"Choose from {', '.join(OWN)}, or an instrument's id (torchstone instruments).",
            )
    return chosen
