"""Every claim there is: one a file in the theme folders.

A file `claims/<theme>/<id>.py` defines `CLAIM`, whose `id` is the file's name and whose `theme` is the folder's. Finding
a claim imports its file and no other.
"""

from __future__ import annotations

import difflib
import functools
import importlib
from pathlib import Path

from torchstone.atlas.claim import Claim
from torchstone.atlas.theme import Theme
from torchstone.errors import SettingError

PACKAGE = "torchstone.atlas.claims"


@functools.cache
def modules(package: str = PACKAGE) -> dict[str, str]:
    """The module of every claim by id, themes in their order; imports none of them.

    Raises:
        SettingError: A folder that is no theme, or two files of one name.
    """
    found: dict[str, str] = {}
    for theme in _folders(package):
        files = sorted(path for root in _roots(package) for path in (root / theme.value).glob("*.py"))
        for name in [path.stem for path in files if not path.stem.startswith("_")]:
            if name in found:
                raise SettingError(
                    f"Every claim's file has a name of its own; {package}.{theme}.{name} does not",
                    f"{found[name]} too",
                    "Rename one of the two.",
                )
            found[name] = f"{package}.{theme}.{name}"
    return found


def claims(package: str = PACKAGE) -> dict[str, Claim]:
    """All claims by id, themes in their order.

    Raises:
        SettingError: A file without a `CLAIM` of its name and folder.
    """
    return {identifier: claim(identifier, package) for identifier in modules(package)}


def claim(identifier: str, package: str = PACKAGE) -> Claim:
    """The claim of that id.

    Raises:
        SettingError: No such claim; the message suggests close names. Or a file without a `CLAIM` of its name and folder.
    """
    known = modules(package)
    if identifier not in known:
        close = difflib.get_close_matches(identifier, known, n=3)
        raise SettingError(
            "A claim must be one of those `torchstone atlas list` shows",
            repr(identifier),
            f"Did you mean {' or '.join(close)}?" if close else "Run `torchstone atlas list`.",
        )
    return _load(known[identifier])


@functools.cache
def _load(module: str) -> Claim:
    found = getattr(importlib.import_module(module), "CLAIM", None)
    folder, name = module.split(".")[-2:]
    if not isinstance(found, Claim) or found.id != name or found.theme != folder:
        got = f"{found.theme}/{found.id}" if isinstance(found, Claim) else repr(found)
        raise SettingError(
            f"{module} must define CLAIM, a Claim with id {name!r} and theme {folder!r}",
            got,
            "Rename the file, the folder or the id.",
        )
    return found


def _roots(package: str) -> list[Path]:
    return [Path(path) for path in importlib.import_module(package).__path__]


def _folders(package: str) -> list[Theme]:
    names = {path.name for root in _roots(package) for path in root.iterdir() if path.is_dir()}
    names = {name for name in names if not name.startswith(("_", "."))}
    unknown = names - {theme.value for theme in Theme}
    if unknown:
        raise SettingError(
            f"The folders of {package} are themes: {', '.join(Theme)}",
            ", ".join(sorted(unknown)),
            "Move the claims, or add the theme to torchstone.atlas.theme.",
        )
    return [theme for theme in Theme if theme.value in names]
