"""The theory index: for every topic that is done, where it lives, what claims and tests stand behind it, where to read on.

The entries are tables in `index.toml`, one a topic under its id, in any order:

    [R16]
    title = "Double descent of minimum-norm least squares"
    objects = ["torchstone.atlas.claims.risk.double_descent.CLAIM"]
    claims = ["double_descent"]
    tests = ["tests/atlas/claims/risk/test_double_descent.py"]
    page = "docs/atlas/risk.md"

`objects` are import paths; `tests` and `page` are paths in the repository, a test optionally with `::name`.
"""

from __future__ import annotations

import functools
import importlib
import json
import re
import tomllib
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from torchstone.atlas.catalogue import modules
from torchstone.atlas.theme import Theme
from torchstone.errors import FormatError

_LISTS = ("objects", "claims", "tests")
_TEXTS = ("title", "page")
_FIX = "Correct index.toml; the module's docstring shows an entry."


@dataclass(frozen=True)
class Entry:
    """One topic that is done.

    Args:
        id: The topic's id.
        theme: Its theme, which follows from the id.
        title: What it is about.
        objects: Import paths of what implements it.
        claims: Ids of the claims that test its statements; may be empty.
        tests: Test files or test ids.
        page: The page of the documentation.
    """

    id: str
    theme: Theme
    title: str
    objects: tuple[str, ...]
    claims: tuple[str, ...]
    tests: tuple[str, ...]
    page: str


@dataclass(frozen=True)
class Coverage:
    """How many of a theme's topics are done."""

    theme: Theme
    done: int
    total: int


@functools.cache
def entries() -> tuple[Entry, ...]:
    """All entries, themes in their order, then by id.

    Raises:
        FormatError: An entry with a missing, empty or unknown field.
    """
    return parse((files("torchstone.atlas") / "index.toml").read_text("utf-8"))


def parse(text: str) -> tuple[Entry, ...]:
    """Entries out of TOML.

    Raises:
        FormatError: No TOML, an id twice, or an entry with a missing, empty or unknown field.
        SettingError: An id of no theme.
    """
    try:
        tables = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise FormatError("The theory index must be TOML with every id once", str(error), _FIX) from None
    order = list(Theme)
    found = [_entry(identifier, table) for identifier, table in tables.items()]
    return tuple(sorted(found, key=lambda entry: (order.index(entry.theme), entry.id)))


def _entry(identifier: str, table: Any) -> Entry:
    theme = Theme.of(identifier)
    fields = (*_LISTS, *_TEXTS)
    if not isinstance(table, dict) or set(table) != set(fields):
        got = f"the fields {', '.join(table)}" if isinstance(table, dict) else repr(table)
        raise FormatError(f"{identifier} in the theory index has the fields {', '.join(fields)}", got, _FIX)
    for field in fields:
        value = table[field]
        parts = value if field in _LISTS else [value]
        if not isinstance(parts, list) or not all(isinstance(part, str) and part.strip() for part in parts):
            kind = "a list of texts" if field in _LISTS else "a text"
            raise FormatError(f"{field} of {identifier} in the theory index is {kind}", repr(value), _FIX)
        if not parts and field != "claims":
            raise FormatError(f"{identifier} in the theory index needs {field}", "an empty list", _FIX)
    lists = {field: tuple(table[field]) for field in _LISTS}
    return Entry(id=identifier, theme=theme, title=table["title"], page=table["page"], **lists)


def coverage(listed: tuple[Entry, ...] | None = None) -> tuple[Coverage, ...]:
    """Topics done and in all, a theme each, in the themes' order."""
    listed = entries() if listed is None else listed
    count = lambda theme: sum(entry.theme is theme for entry in listed)
    return tuple(Coverage(theme, count(theme), theme.total) for theme in Theme)


def to_json(listed: tuple[Entry, ...] | None = None) -> str:
    """The entries as a JSON list of objects with the keys of `Entry`."""
    listed = entries() if listed is None else listed
    plain = [{**vars(entry), "theme": entry.theme.value} for entry in listed]
    return json.dumps(plain, indent=1, ensure_ascii=False)


def broken_references(entry: Entry, root: Path) -> tuple[str, ...]:
    """What the entry names that does not exist, one sentence each; empty when everything resolves.

    Cost: imports the entry's objects.

    Args:
        entry: To resolve.
        root: Folder of the repository, for tests and page.
    """
    missing = [f"{path} cannot be imported" for path in entry.objects if not _importable(path)]
    missing += [f"claim {name} is not in the catalogue" for name in entry.claims if name not in modules()]
    missing += [f"test {test} does not exist" for test in entry.tests if not _has_test(root, test)]
    if not (root / entry.page.partition("#")[0]).is_file():
        missing.append(f"page {entry.page} does not exist")
    return tuple(f"{entry.id}: {what}" for what in missing)


def _importable(path: str) -> bool:
    """Whether a dotted path names a module or something in one (such as a class's method)."""
    parts = path.split(".")
    for split in range(len(parts), 0, -1):
        name = ".".join(parts[:split])
        try:
            found: Any = importlib.import_module(name)
        except ModuleNotFoundError as error:
            # Only this very module may be missing; one that it imports is a fault of its own.
            if error.name is None or not f"{name}.".startswith(f"{error.name}."):
                raise
            continue
        return _has_attribute(found, parts[split:])
    return False


def _has_attribute(found: Any, path: list[str]) -> bool:
    for name in path:
        if not hasattr(found, name):
            return False
        found = getattr(found, name)
    return True


def _has_test(root: Path, test: str) -> bool:
    """Whether the test file exists and defines the named classes and functions."""
    path, *names = test.split("::")
    if not (root / path).is_file():
        return False
    source = (root / path).read_text("utf-8")
    return all(re.search(rf"^\s*(def|class) {re.escape(name)}\b", source, re.MULTILINE) for name in names)
