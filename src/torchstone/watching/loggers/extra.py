"""Packages that only some loggers need."""

from __future__ import annotations

import importlib
from typing import Any

from torchstone.errors import SettingError


def load(module: str, extra: str, user: str) -> Any:
    """Import a package that an extra of this one brings.

    Args:
        module: What to import.
        extra: The extra's name.
        user: Who asks for it.

    Raises:
        SettingError: It is not installed.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise SettingError(
            f"{user} needs the package {extra}",
            f"{type(error).__name__}: {error}",
            f'Install it: pip install "torchstone[{extra}]".',
        ) from None


def scalars(values: Any, layers: Any) -> dict[str, float]:
    """Values under their names and layers' values under name/layer, as tags that every tracker takes.

    >>> scalars({"loss": 0.5}, {"gradient_norm": {"0.weight": 0.1}})
    {'loss': 0.5, 'gradient_norm/0.weight': 0.1}
    """
    by_layer = {f"{name}/{layer}": value for name, parts in layers.items() for layer, value in parts.items()}
    return {tag(name): float(value) for name, value in {**values, **by_layer}.items()}


def tag(name: str) -> str:
    """A name with nothing in it but letters, digits, blanks and `_-./`, as the strictest of trackers asks for.

    >>> tag("gradient_norm/0->2 (a)")
    'gradient_norm/0-_2 _a_'
    """
    kept = "".join(sign if (sign.isascii() and sign.isalnum()) or sign in "_-./ " else "_" for sign in name)
    return kept.strip("/ ") or "unnamed"
