"""Frozen dataclasses to JSON and back, and their JSON Schema, all from the same type annotations.

Handles what readings are made of: dataclasses, tuples, dicts with text keys, enums, optional and union types. A member
of a union of dataclasses carries its class name under "type". JSON has no NaN or infinity; they are written as
{"type": "float", "value": "NaN"}, so that a text "NaN" stays a text.
"""

from __future__ import annotations

import math
import types
from dataclasses import MISSING, fields, is_dataclass
from enum import Enum
from functools import cache
from typing import Any, Union, get_args, get_origin, get_type_hints

from torchstone.errors import FormatError, TorchstoneError

_DAMAGED = "The file is damaged or was edited; run the examination again."
_NON_FINITE = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}


def to_plain(value: Any) -> Any:
    """Nested dicts, lists, text and numbers that `json.dumps(allow_nan=False)` accepts."""
    if is_dataclass(value) and not isinstance(value, type):
        body = {field.name: to_plain(getattr(value, field.name)) for field in fields(value)}
        return {"type": type(value).__name__, **body}
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, bool) or value is None or isinstance(value, int | str):
        return value
    if isinstance(value, float):
        if math.isfinite(value):
            return value
        name = "NaN" if math.isnan(value) else ("Infinity" if value > 0 else "-Infinity")
        return {"type": "float", "value": name}
    if isinstance(value, dict):
        return {str(key): to_plain(item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return [to_plain(item) for item in value]
    raise TypeError(f"cannot write {type(value).__name__} as JSON")


def from_plain(kind: Any, data: Any, where: str = "$") -> Any:
    """The inverse of `to_plain` for a value of type `kind`.

    Raises:
        FormatError: The data does not have that shape; the message names the place.
    """
    origin, arguments = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):
        return _from_union(arguments, data, where)
    if is_dataclass(kind):
        return _from_object(kind, data, where)
    if origin is tuple:
        _expect(isinstance(data, list), where, "a list", data)
        return tuple(from_plain(arguments[0], item, f"{where}[{i}]") for i, item in enumerate(data))
    if origin is dict:
        _expect(isinstance(data, dict), where, "an object", data)
        return {key: from_plain(arguments[1], item, f"{where}.{key}") for key, item in data.items()}
    if kind is Any:
        return data
    return _from_leaf(kind, data, where)


def _from_leaf(kind: Any, data: Any, where: str) -> Any:
    if kind is float:
        if (special := _non_finite(data)) is not None:
            return special
        _expect(isinstance(data, int | float) and not isinstance(data, bool), where, "a number", data)
        return _as_float(data, where)
    if isinstance(kind, type) and issubclass(kind, Enum):
        try:
            return kind(data)
        except ValueError:
            raise _damaged(where, f"one of {[member.value for member in kind]}", data) from None
    if kind is types.NoneType:
        _expect(data is None, where, "null", data)
        return None
    _expect(type(data) is kind, where, kind.__name__, data)
    return data


def _from_object(kind: Any, data: Any, where: str) -> Any:
    _expect(isinstance(data, dict), where, f"a {kind.__name__} object", data)
    hints, values = _hints(kind), {}
    for field in fields(kind):
        if field.name in data:
            values[field.name] = from_plain(hints[field.name], data[field.name], f"{where}.{field.name}")
        elif field.default is MISSING and field.default_factory is MISSING:
            raise _damaged(where, f"a field {field.name!r}", "none of that name")
    try:
        return kind(**values)
    except FormatError:
        raise
    except TorchstoneError as error:  # series of different lengths, a plan out of range
        raise FormatError(f"At {where}: {error.expected}", error.got, _DAMAGED) from None


def _from_union(members: tuple[Any, ...], data: Any, where: str) -> Any:
    if data is None and types.NoneType in members:
        return None
    if float in members and (special := _non_finite(data)) is not None:
        return special
    if isinstance(data, dict):
        named = {
            member.__name__: member for member in members if isinstance(member, type) and is_dataclass(member)
        }
        name = data.get("type")
        known = isinstance(name, str) and name in named
        _expect(known, where, f"one of {sorted(named)} under 'type'", name)
        return _from_object(named[str(name)], data, where)
    if isinstance(data, list) and any(map(_is_recursive, members)):  # a tuple of settings
        return tuple(_from_union(members, item, f"{where}[{i}]") for i, item in enumerate(data))
    # A number keeps its kind: 1 stays an int and 1.0 a float, so that reading back gives what was written.
    if any(type(data) is member for member in members):
        return data
    _expect(type(data) is int and float in members, where, f"one of {members}", data)
    return _as_float(data, where)


def _as_float(data: Any, where: str) -> float:
    try:
        return float(data)
    except OverflowError:
        raise _damaged(where, "a number that fits float64", data) from None


def _non_finite(data: Any) -> float | None:
    return (
        _NON_FINITE.get(str(data.get("value")))
        if isinstance(data, dict) and data.get("type") == "float"
        else None
    )


@cache
def _hints(kind: Any) -> dict[str, Any]:
    return get_type_hints(kind)


def _expect(condition: bool, where: str, expected: str, got: Any) -> None:
    if not condition:
        raise _damaged(where, expected, got)


def _damaged(where: str, expected: str, got: Any) -> FormatError:
    shown = repr(got)
    return FormatError(
        f"Saved examination: expected {expected} at {where}",
        shown if len(shown) < 80 else shown[:77] + "...",
        _DAMAGED,
    )


def json_schema(kind: Any) -> dict[str, Any]:
    """JSON Schema (draft 2020-12) of `to_plain` of a value of dataclass `kind`, with one definition a class."""
    definitions: dict[str, Any] = {}
    reference = _schema(kind, definitions)
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **reference, "$defs": definitions}


def _schema(kind: Any, definitions: dict[str, Any]) -> dict[str, Any]:
    origin, arguments = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):
        plain = [argument for argument in arguments if not _is_recursive(argument)]
        return {"anyOf": [_schema(argument, definitions) for argument in plain] + _lists(arguments)}
    if is_dataclass(kind):
        return _object_schema(kind, definitions)
    if origin is tuple:
        return {"type": "array", "items": _schema(arguments[0], definitions)}
    if origin is dict:
        return {"type": "object", "additionalProperties": _schema(arguments[1], definitions)}
    if isinstance(kind, type) and issubclass(kind, Enum):
        return {"enum": [member.value for member in kind]}
    if kind is float:
        named = {
            "type": "object",
            "properties": {"type": {"const": "float"}, "value": {"enum": list(_NON_FINITE)}},
        }
        return {"anyOf": [{"type": "number"}, {**named, "required": ["type", "value"]}]}
    names = {str: "string", int: "integer", bool: "boolean", types.NoneType: "null"}
    return {"type": names[kind]} if kind in names else {}


def _is_recursive(argument: Any) -> bool:
    return get_origin(argument) is tuple


def _lists(arguments: tuple[Any, ...]) -> list[dict[str, Any]]:
    return [{"type": "array"}] if any(_is_recursive(argument) for argument in arguments) else []


def _object_schema(kind: Any, definitions: dict[str, Any]) -> dict[str, Any]:
    name = kind.__name__
    if name not in definitions:
        definitions[name] = {}  # reserves the name while its fields are walked
        hints = _hints(kind)
        properties = {field.name: _schema(hints[field.name], definitions) for field in fields(kind)}
        definitions[name] = {
            "type": "object",
            "description": (kind.__doc__ or name).strip().splitlines()[0],
            "properties": {"type": {"const": name}, **properties},
            "required": ["type", *properties],
            "additionalProperties": False,
        }
    return {"$ref": f"#/$defs/{name}"}
