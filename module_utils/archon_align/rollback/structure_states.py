"""A catalogue taken apart: each object, comment, set of grants by its key, so that one can be put back without the others.

A table and its columns are apart, too: what became of one column says nothing about the table's others.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from ..schema.model import Catalog, Grant, Key, Kind, Object, Table
from .structure_codec import decode_grants, decode_key, decode_object, encode


@dataclass(frozen=True, slots=True)
class State:
    """What is known of one key; `value` is None for what has comments, grants or needs, but is no object by itself
    (a view's column, a default). `owner` and `depends` do not count when states are compared."""

    value: Object | None = None
    comment: str | None = None
    grants: frozenset[Grant] = frozenset()
    owner: str | None = None
    depends: frozenset[Key] = frozenset()

    def same(self, other: State | None) -> bool:
        """Is it the same but for the owner and for what it needs?"""
        return other is not None and (self.value, self.comment, self.grants) == (
            other.value,
            other.comment,
            other.grants,
        )


class Change(NamedTuple):
    """What became of one key: None is absence."""

    key: Key
    before: State | None
    after: State | None


def states(catalog: Catalog) -> dict[Key, State]:
    """The catalogue by key, tables without their columns."""
    values: dict[Key, Object | None] = dict.fromkeys(
        [*catalog.comments, *catalog.grants, *(key for key in catalog.depends if key.kind is Kind.DEFAULT)]
    )
    for key, value in catalog.objects.items():
        if isinstance(value, Table):
            values[key] = replace(value, columns={})
            values.update({column.key: column for column in value.columns.values()})
        else:
            values[key] = value
    nothing: frozenset[Any] = frozenset()
    return {
        key: State(
            value,
            catalog.comments.get(key),
            catalog.grants.get(key, nothing),
            catalog.owners.get(key),
            catalog.depends.get(key, nothing),
        )
        for key, value in values.items()
    }


def catalog_of(found: Mapping[Key, State], model: Catalog) -> Catalog:
    """A catalogue made of states; all else is as in `model`. Columns come in `model`'s order, others after them."""
    objects: dict[Key, Object] = {}
    columns: dict[Key, dict[str, Any]] = {}
    for key, state in found.items():
        if key.kind is Kind.COLUMN and state.value is not None:
            columns.setdefault(key.table, {})[key.part] = state.value
        elif state.value is not None:
            objects[key] = state.value
    for key, there in columns.items():
        table, before = objects.get(key), model.table(key)
        order = {name: place for place, name in enumerate(before.columns)} if before is not None else {}
        if isinstance(table, Table):
            sorted_names = sorted(there, key=lambda name: order.get(name, len(order)))
            objects[key] = replace(table, columns={name: there[name] for name in sorted_names})
    return replace(
        model,
        objects=objects,
        comments={key: state.comment for key, state in found.items() if state.comment is not None},
        grants={key: state.grants for key, state in found.items() if state.grants},
        owners={key: state.owner for key, state in found.items() if state.owner is not None},
        depends={
            **{key: needed for key, needed in model.depends.items() if key not in found and key.kind is Kind.COLUMN},
            **{key: state.depends for key, state in found.items() if state.depends},
        },
    )


def changes(before: Catalog, after: Catalog) -> list[Change]:
    """What differs between two readings of one database, in the order of the keys."""
    return list(_changes(states(before), states(after)))


def _changes(before: Mapping[Key, State], after: Mapping[Key, State]) -> Iterator[Change]:
    for key in sorted(before.keys() | after.keys()):
        one, other = before.get(key), after.get(key)
        if one == other:
            continue
        # What an object needs may be known by other names though it is the same; of a default it is all there is.
        if one is not None and one.same(other) and key.kind is not Kind.DEFAULT:
            continue
        yield Change(key, one, other)


def encode_change(change: Change) -> dict[str, Any]:
    """Plain JSON types only."""
    return {"key": encode(change.key), "before": _encode(change.before), "after": _encode(change.after)}


def decode_change(told: Mapping[str, Any]) -> Change:
    """The change that encode_change wrote. Raises ValueError, TypeError or KeyError for anything else."""
    change = Change(decode_key(told["key"]), _decode(told["before"]), _decode(told["after"]))
    for state in change[1:]:
        if isinstance(state, State) and state.value is not None and state.value.key != change.key:
            raise ValueError(f"{state.value.key} under the key of {change.key}")
    return change


def _encode(state: State | None) -> dict[str, Any] | None:
    if state is None:
        return None
    made: dict[str, Any] = {}
    if state.value is not None:
        made["object"] = encode(state.value)
    if state.comment is not None:
        made["comment"] = state.comment
    if state.grants:
        made["grants"] = encode(state.grants)
    if state.owner is not None:
        made["owner"] = state.owner
    if state.depends:
        made["depends"] = encode(state.depends)
    return made


def _decode(told: Any) -> State | None:
    if told is None:
        return None
    comment, owner = told.get("comment"), told.get("owner")
    if not isinstance(comment, str | None) or not isinstance(owner, str | None):
        raise TypeError("a comment and an owner are texts")
    return State(
        decode_object(told["object"]) if "object" in told else None,
        comment,
        decode_grants(told.get("grants", [])),
        owner,
        frozenset(decode_key(one) for one in told.get("depends", [])),
    )
