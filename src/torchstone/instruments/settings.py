"""Checks of instruments' settings, each with an error that names the setting."""

from __future__ import annotations

import math
from typing import Any

from torchstone.errors import SettingError


def require_between(owner: Any, name: str, low: float, high: float) -> None:
    """The setting must be a finite number in [low, high].

    Raises:
        SettingError: Naming the instrument, the setting and the range.
    """
    value = getattr(owner, name)
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or not math.isfinite(value) or not low <= value <= high:
        raise SettingError(
            f"{owner.META.id}.{name} must be a number from {low:g} to {high:g}",
            repr(value),
            "Change the setting.",
        )


def require_count(owner: Any, name: str, low: int, high: int = 10**9) -> None:
    """The setting must be a whole number in [low, high].

    Raises:
        SettingError: Naming the instrument, the setting and the range.
    """
    value = getattr(owner, name)
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
        raise SettingError(
            f"{owner.META.id}.{name} must be a whole number from {low} to {high}",
            repr(value),
            "Change the setting.",
        )


def require_choice(owner: Any, name: str, choices: tuple[str, ...]) -> None:
    """The setting must be one of `choices`.

    Raises:
        SettingError: Naming the instrument, the setting and the choices.
    """
    value = getattr(owner, name)
    if value not in choices:
        raise SettingError(
            f"{owner.META.id}.{name} must be one of {', '.join(choices)}", repr(value), "Change the setting."
        )
