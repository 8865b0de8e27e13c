"""Objects of a catalogue as plain JSON and back, exactly. What comes from a file is built of the model's own types or refused."""

from __future__ import annotations

import types
from collections.abc import Mapping
from dataclasses import MISSING, fields
from typing import Any, Union, get_args, get_origin, get_type_hints

from ..schema.model import (
    Column,
    Composite,
    Constraint,
    Domain,
    Enum,
    Extension,
    Function,
    Grant,
    Index,
    Key,
    Kind,
    Object,
    Other,
    Policy,
    Schema,
    Sequence,
    Table,
    Trigger,
    View,
)

# A restore point's folder is ours alone, but a file is a file: nothing deeper than the model itself is followed.
_OTHERS = {
    Kind.COLLATION, Kind.RANGE, Kind.DICTIONARY, Kind.CONFIGURATION, Kind.AGGREGATE, Kind.OPERATOR, Kind.CAST,
    Kind.STATISTICS, Kind.RULE,
}  # fmt: skip
_CLASSES: dict[Kind, type[Any]] = {
    Kind.SCHEMA: Schema, Kind.EXTENSION: Extension, Kind.ENUM: Enum, Kind.DOMAIN: Domain, Kind.COMPOSITE: Composite,
    Kind.SEQUENCE: Sequence, Kind.FUNCTION: Function, Kind.TABLE: Table, Kind.COLUMN: Column, Kind.CONSTRAINT: Constraint,
    Kind.INDEX: Index, Kind.VIEW: View, Kind.MATVIEW: View, Kind.TRIGGER: Trigger, Kind.POLICY: Policy,
    **dict.fromkeys(_OTHERS, Other),
}  # fmt: skip
_TUPLES = (Key, Grant)
_HINTS: dict[type[Any], dict[str, Any]] = {kind: get_type_hints(kind) for kind in {*_CLASSES.values(), *_TUPLES}}


def encode(value: object) -> Any:
    """An object, key, grant or container of the model as plain JSON types; fields that are as by default are left out."""
    if isinstance(value, Mapping):
        return {str(name): encode(one) for name, one in value.items()}
    if isinstance(value, frozenset):
        return [encode(one) for one in sorted(value)]
    if isinstance(value, tuple):
        return [encode(one) for one in value]
    if isinstance(value, Kind):
        return value.value
    if value is None or isinstance(value, (str, int, bool)):
        return value
    return {
        one.name: encode(found)
        for one in fields(value)  # type: ignore[arg-type]
        if (found := getattr(value, one.name)) != _default(one)
    }


def decode_object(told: object) -> Object:
    """The object that `encode` wrote. Raises ValueError, TypeError or KeyError for anything else."""
    if not isinstance(told, dict):
        raise TypeError(f"an object, not {type(told).__name__}")
    key = decode_key(told["key"])
    made: Object = _built(_CLASSES[key.kind], told)
    return made


def decode_key(told: object) -> Key:
    """The key that `encode` wrote. Raises as decode_object does."""
    key: Key = _decoded(Key, told)
    return key


def decode_grants(told: object) -> frozenset[Grant]:
    """The grants that `encode` wrote. Raises as decode_object does."""
    found: frozenset[Grant] = _decoded(frozenset[Grant], told)
    return found


def _default(one: Any) -> object:
    if one.default is not MISSING:
        return one.default
    return one.default_factory() if one.default_factory is not MISSING else MISSING


def _built(kind: type[Any], told: dict[str, Any]) -> Any:
    hints = _HINTS[kind]
    return kind(**{name: _decoded(hints[name], one) for name, one in told.items()})


def _decoded(wanted: Any, told: Any) -> Any:
    origin, inner = get_origin(wanted), get_args(wanted)
    if origin in (types.UnionType, Union):
        if told is None:
            return None
        return _decoded(next(one for one in inner if one is not type(None)), told)
    if wanted in _TUPLES:
        hints = list(_HINTS[wanted].values())
        return wanted(*(_decoded(hint, one) for hint, one in zip(hints, _list(told), strict=True)))
    if wanted is Kind:
        return Kind(told)
    if wanted in (str, int, bool):
        if type(told) is not wanted:
            raise TypeError(f"{wanted.__name__}, not {type(told).__name__}")
        return told
    if origin is tuple:
        given = _list(told)
        if len(inner) == 2 and inner[1] is Ellipsis:
            return tuple(_decoded(inner[0], one) for one in given)
        return tuple(_decoded(hint, one) for hint, one in zip(inner, given, strict=True))
    if origin is frozenset:
        return frozenset(_decoded(inner[0], one) for one in _list(told))
    if not isinstance(told, dict):
        raise TypeError(f"{wanted}, not {type(told).__name__}")
    if origin is not None:  # a mapping of names
        return {name: _decoded(inner[1], one) for name, one in told.items()}
    return _built(wanted, told)


def _list(told: object) -> list[Any]:
    if not isinstance(told, list):
        raise TypeError(f"a list, not {type(told).__name__}")
    return told
