"""Every instrument there is: one a file in the question folders, and those of other packages.

A file `instruments/<question>/<id>.py` defines `INSTRUMENT`, a frozen dataclass whose `META.id` is the file's name.
Another package adds its own under the entry point group "torchstone.instruments".
"""

from __future__ import annotations

import difflib
import functools
import importlib
import pkgutil
from dataclasses import fields
from importlib.metadata import entry_points
from typing import Any, ClassVar, Protocol

from torchstone.errors import SettingError, blaming
from torchstone.reading import Meta, Question, Reading
from torchstone.workbench import Workbench


class Instrument(Protocol):
    """Settings with defaults, what it asks (`META`), and one measurement."""

    META: ClassVar[Meta]

    def measure(self, bench: Workbench) -> Reading:
        """Answer the question on what lies on the bench."""
        ...


@functools.cache
def catalogue() -> dict[str, type[Instrument]]:
    """Instrument classes by id, in the order of the report's questions, cheap ones first."""
    found: dict[str, type[Instrument]] = {}
    for question in Question:
        package = importlib.import_module(f"torchstone.instruments.{question}")
        for module in pkgutil.iter_modules(package.__path__):
            name = f"{package.__name__}.{module.name}"
            _add(found, importlib.import_module(name).INSTRUMENT, name, module.name)
    for point in entry_points(group="torchstone.instruments"):
        where = f"entry point {point.value}"
        with blaming(SettingError, f"{where} must load", "Repair or uninstall the package that brings it."):
            kind = point.load()
        _add(found, kind, where, point.name)
    order = list(Question)
    ranked = sorted(
        found.items(), key=lambda item: (order.index(item[1].META.question), item[1].META.cost, item[0])
    )
    return dict(ranked)


def _add(found: dict[str, type[Instrument]], instrument: type[Instrument], where: str, name: str) -> None:
    meta = getattr(instrument, "META", None)
    if not isinstance(meta, Meta) or meta.id != name or name in found:
        raise SettingError(
            f"{where} must hold an instrument with a META of id {name!r}, used once",
            repr(getattr(meta, "id", meta)),
            "Rename the file, the entry point or the id.",
        )
    found[name] = instrument


def make(identifier: str, settings: dict[str, Any] | None = None) -> Instrument:
    """The instrument of that id with settings changed from their defaults.

    Raises:
        SettingError: No such instrument or setting, or a value out of range.
    """
    known = catalogue()
    if identifier not in known:
        close = difflib.get_close_matches(identifier, known, n=3)
        raise SettingError(
            "An instrument must be one of those `torchstone instruments` lists",
            repr(identifier),
            f"Did you mean {' or '.join(close)}?" if close else "Run `torchstone instruments`.",
        )
    kind = known[identifier]
    names = [field.name for field in fields(kind)]  # pyright: ignore[reportArgumentType]
    for name in settings or {}:
        if name not in names:
            raise SettingError(
                f"{identifier} has the settings {', '.join(names) or 'none'}", repr(name), "Pick one of them."
            )
    return kind(**(settings or {}))
