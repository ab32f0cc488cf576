"""From the command line's TARGET to a specimen: a built-in name, `file.py:function` or `package.module:function`."""

from __future__ import annotations

import ast
import difflib
import importlib
import importlib.util
import inspect
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

from torchstone.errors import TargetError, TorchstoneError
from torchstone.specimen import Specimen
from torchstone.specimens.catalogue import built_in


def load_target(target: str, options: dict[str, Any] | None = None, seed: int = 0) -> Specimen:
    """The specimen a target names.

    Args:
        target: A built-in specimen, or where to find a function that returns one (or a specimen itself).
        options: Keyword arguments for that function.
        seed: Passed on to functions that take a `seed` and were given none.

    Raises:
        TargetError: Nothing of that name, or something that gives no specimen.
    """
    known = built_in()
    if target in known:
        found: Any = known[target].load()
    elif ":" in target:
        found = _find(target)
    else:
        close = difflib.get_close_matches(target, known, n=2)
        hint = f"Did you mean {' or '.join(close)}?" if close else f"Built in are {', '.join(known)}."
        raise TargetError(
            "TARGET must be a built-in specimen, file.py:function or package.module:function",
            repr(target),
            hint,
        )
    specimen = _call(found, target, dict(options or {}), seed)
    if not isinstance(specimen, Specimen):
        raise TargetError(
            f"{target} must return a torchstone.Specimen",
            type(specimen).__name__,
            "End the function with `return Specimen(model, Classification(), train, test)`.",
        )
    return specimen


def parse_options(pairs: list[str]) -> dict[str, Any]:
    """Keyword arguments out of texts such as "label_noise=0.05"; values are Python literals, else text.

    >>> parse_options(["label_noise=0.05", "name=mine"])
    {'label_noise': 0.05, 'name': 'mine'}
    """
    options: dict[str, Any] = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals or not key.strip():
            raise TargetError("An option is written name=value", repr(pair), "For example label_noise=0.05.")
        try:
            options[key.strip()] = ast.literal_eval(value)
        except (ValueError, SyntaxError):
            options[key.strip()] = value
    return options


def _find(target: str) -> Any:
    place, _, name = target.rpartition(":")
    is_file = place.endswith(".py") or "/" in place
    module = _module_from_file(Path(place), target) if is_file else _module(place, target)
    if not hasattr(module, name):
        candidates = [
            key for key, value in vars(module).items() if inspect.isfunction(value) and key[0] != "_"
        ]
        close = difflib.get_close_matches(name, candidates, n=2) or candidates[:5]
        raise TargetError(
            f"{place} must define {name!r}",
            "no such name in it",
            f"It has {', '.join(close)}." if close else "Define a function that returns a Specimen.",
        )
    return getattr(module, name)


def _module_from_file(path: Path, target: str) -> ModuleType:
    if not path.is_file():
        raise TargetError(
            f"The file in {target!r} must exist", f"no file {path.absolute()}", "Check the path."
        )
    spec = importlib.util.spec_from_file_location(f"_torchstone_target_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise TargetError("The file must be a Python source file", str(path), "Name it something.py.")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses and pickling workers look their module up
    sys.path.insert(0, str(path.parent.absolute()))
    with _Telling(f"{path} must be importable"):
        spec.loader.exec_module(module)
    return module


def _module(name: str, target: str) -> ModuleType:
    sys.path.insert(0, str(Path.cwd()))
    try:
        found = importlib.util.find_spec(name)
    except (ImportError, ValueError):
        found = None
    if found is None:
        raise TargetError(
            f"The module in {target!r} must be importable from here",
            f"no module {name!r}",
            "Run from the project's folder, install it, or use file.py:function.",
        )
    with _Telling(f"{name} must be importable"):
        return importlib.import_module(name)


def _call(found: Any, target: str, options: dict[str, Any], seed: int) -> Any:
    if isinstance(found, Specimen):
        return found
    if not callable(found):
        raise TargetError(
            f"{target} must be a function or a Specimen", type(found).__name__, "Name a function."
        )
    takes = inspect.signature(found).parameters
    takes_any = any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in takes.values())
    for name in options:
        if name not in takes and not takes_any:
            raise TargetError(
                f"{target} takes the options {', '.join(takes) or '(none)'}",
                repr(name),
                "Check --with name=value.",
            )
    if "seed" in takes:
        options.setdefault("seed", seed)
    required = [
        name
        for name, parameter in takes.items()
        if parameter.default is parameter.empty
        and parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)
        and name not in options
    ]
    if required:
        raise TargetError(
            f"{target} must run without further arguments",
            f"required arguments {', '.join(required)}",
            "Give them defaults, or pass --with name=value.",
        )
    with _Telling(f"{target}() must return a Specimen"):
        return found(**options)


class _Telling:
    """Turns whatever a user's code raises into a TargetError that says where."""

    def __init__(self, expected: str) -> None:
        self.expected = expected

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: Any) -> None:
        if (
            error is None
            or not isinstance(error, Exception | SystemExit)
            or isinstance(error, TorchstoneError)
        ):
            return
        while trace.tb_next is not None:
            trace = trace.tb_next
        where = f"{trace.tb_frame.f_code.co_filename}:{trace.tb_lineno}"
        raise TargetError(
            self.expected, f"{type(error).__name__}: {error} ({where})", "Fix that line and run again."
        ) from error
