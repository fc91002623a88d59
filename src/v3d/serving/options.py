"""Settings from plain values: a line of a manifest, the fields of a request."""

from __future__ import annotations

import dataclasses
import math
import types
import typing
from collections.abc import Mapping
from typing import Any, TypeVar

from v3d.errors import V3DError

Settings = TypeVar("Settings")


def with_options(settings: Settings, options: Mapping[str, Any]) -> Settings:
    """The settings (a dataclass) with some of their fields replaced.

    Args:
        settings: what holds where an option is not given.
        options: name of a field, with - or _, -> its value: of its own type, or the text of one. Text of a
            list has spaces or commas between its values; "" and null leave a field as it is.

    Raises:
        V3DError: there is no such field, or a value does not fit it.
    """
    assert dataclasses.is_dataclass(settings) and not isinstance(settings, type)
    kinds = typing.get_type_hints(type(settings))
    changed = {}
    for name, value in options.items():
        field = str(name).strip().replace("-", "_")
        if field not in kinds:
            known = ", ".join(kinds)
            raise V3DError(f"There is no option {name}; there are {known}.")
        if value is not None and value != "":
            changed[field] = _value(field, kinds[field], value)
    return typing.cast(Settings, dataclasses.replace(settings, **changed))


def _value(name: str, kind: Any, value: Any) -> Any:
    """The value as one of its field's type.

    Raises:
        V3DError: it is none.
    """
    origin, parts = typing.get_origin(kind), typing.get_args(kind)
    if origin in (types.UnionType, typing.Union):  # something or None
        kind = next(part for part in parts if part is not type(None))
        return _value(name, kind, value)
    if origin is typing.Literal:
        if value not in parts:
            raise V3DError(f"{name} cannot be {value!r}; it is one of {', '.join(map(str, parts))}.")
        return value
    if origin is tuple:
        values = value.replace(",", " ").split() if isinstance(value, str) else value
        if not isinstance(values, (list, tuple)):
            raise V3DError(f"{name} is a list, not {value!r}.")
        return tuple(_value(name, parts[0], v) for v in values)
    if kind is bool:
        word = str(value).strip().lower()
        if word not in ("true", "false", "yes", "no", "on", "off", "1", "0"):
            raise V3DError(f"{name} is true or false, not {value!r}.")
        return word in ("true", "yes", "on", "1")
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        raise V3DError(f"{name} cannot be {value!r}.")
    try:
        number = kind(value)
    except (ValueError, OverflowError):
        number = math.nan
    if kind is not str and (not math.isfinite(number) or (isinstance(value, float) and number != value)):
        raise V3DError(f"{name} is a number{' without fraction' if kind is int else ''}, not {value!r}.")
    return number
