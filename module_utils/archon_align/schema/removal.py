"""Setting aside on explicit request, by name: what can live in the quarantine schema moves there, the rest is recorded there and
dropped, values and definitions kept. Pure."""

# ruff: noqa: S608 - texts are composed of quoted identifiers and literals

from __future__ import annotations

from ..database.target import Table as TableName
from ..database.transaction import LockMode
from ..preservation.carried import Carried
from .aside import going_along
from .ddl import ident, literal
from .decided import DROPPED, quarantine_name
from .decisions import QUARANTINE
from .draft import Draft, Way
from .model import Column, Constraint, Domain, Index, Key, Kind, Sequence, Table
from .quarantine import prepare, set_aside_column
from .snippets import deciding, snippet

RECORDS = "removed_objects"
_RELATIONS = frozenset({Kind.TABLE, Kind.VIEW, Kind.MATVIEW, Kind.SEQUENCE})


def choose(draft: Draft) -> None:
    """Set aside what was named, dependents first; what cannot be is refused by name."""
    wanted = draft.decided.quarantine
    moved = {key for key in wanted if key.kind not in DROPPED}
    for key in _dependents_first(draft, wanted - moved):
        if relation_of(draft, key) not in moved:
            _remove(draft, key)
    for key in sorted(moved):
        _move_asked(draft, key)


def relation_of(draft: Draft, key: Key) -> Key:
    """The table or view that an object lives on; itself, if on none."""
    value = draft.decided.whole.objects.get(key)
    if isinstance(value, Index):
        return value.table
    return key.table if key.kind in DROPPED and key.kind is not Kind.DOMAIN_CONSTRAINT else key


def asked_for(key: Key) -> str:
    """The decision by which an object would be set aside."""
    return snippet("quarantine", [str(key)])


def _dependents_first(draft: Draft, wanted: frozenset[Key]) -> list[Key]:
    result: list[Key] = []

    def visit(key: Key) -> None:
        if key in result:
            return
        for dependent in sorted(draft.decided.whole.dependents.get(key, ())):
            if dependent in wanted:
                visit(dependent)
        result.append(key)

    for key in sorted(wanted):
        visit(key)
    return result


# -- what is dropped -------------------------------------------------------------------------------------------------


def _remove(draft: Draft, key: Key) -> None:
    whole, table = draft.decided.whole, relation_of(draft, key)
    if key.kind is Kind.COLUMN and table in draft.protected:
        draft.refuse("protected_table", key, "its table is protected: none of its columns is ever dropped")
        return
    inherited = key.kind is Kind.COLUMN and (len(draft.current.with_heirs(key)) > 1 or whole.parents_of(key))
    if inherited:
        draft.refuse("in_the_way", key, "it is inherited, and would have to be dropped with all its kin")
        return
    along = going_along(whole, draft.decided.quarantine)
    own = Key(Kind.DEFAULT, *key[1:])
    left = sorted(one for one in whole.dependents.get(key, ()) if one not in along and one != own)
    names = [*map(str, left), *whole.strangers.get(key, ())]
    if names:
        remedy = deciding("Set aside what depends on it, too,", asked_for(left[0])) if left else ""
        draft.refuse("in_the_way", key, f"{', '.join(names)} depends on it", remedy or "Drop that by hand first.")
        return
    draft.lock(table, LockMode.ALTER)
    drop_recorded(draft, key)


def drop_recorded(draft: Draft, key: Key) -> None:
    """Drop one part of a table, or of a domain, after its definition (and a column's values) was kept."""
    whole = draft.decided.whole
    value = whole.objects.get(key) or whole.column(key)
    if isinstance(value, Constraint) and value.references is not None:
        draft.lock(value.references, LockMode.ALTER)
    if isinstance(value, Column):
        set_aside_column(draft, key)
        for one in sorted(whole.objects):
            sequence = whole.objects[one]
            if isinstance(sequence, Sequence) and sequence.owned_by == key:
                text = f"ALTER SEQUENCE {draft.writer.name(one)} OWNED BY NONE"
                draft.setting_aside.append(draft.statement(text, one, f"{one} outlives {key}"))
                move(draft, one)
    _record(draft, key, _definition(draft, key))
    if isinstance(value, Column):
        draft.ways.setdefault(key.table, Way()).computed.add(key.part)
        text = f"ALTER TABLE {draft.writer.name(key.table)} DROP COLUMN {ident(key.part)}"
    elif key.kind is Kind.DOMAIN_CONSTRAINT:
        text = f"ALTER DOMAIN {ident(key.schema, key.name)} DROP CONSTRAINT {ident(key.part)}"
    else:
        text = draft.writer.drop(key)
    dropping = draft.statement(text, key, f"drop {key}, recorded in {QUARANTINE}", proves=isinstance(value, Column))
    draft.setting_aside.append(dropping)


def _definition(draft: Draft, key: Key) -> str:
    whole = draft.decided.whole
    if key.kind is Kind.DOMAIN_CONSTRAINT:
        domain = whole.objects[Key(Kind.DOMAIN, key.schema, key.name)]
        assert isinstance(domain, Domain)
        added = draft.writer.text(domain.constraints[key.part][0])
        return f"ALTER DOMAIN {ident(key.schema, key.name)} ADD CONSTRAINT {ident(key.part)} {added}"
    value = whole.objects.get(key) or whole.column(key)
    assert value is not None
    return ";\n".join(draft.writer.create(value))


def _record(draft: Draft, key: Key, definition: str) -> None:
    prepare(draft, key)
    table = ident(QUARANTINE, RECORDS)
    if RECORDS not in draft.quarantined:
        draft.quarantined.add(RECORDS)
        columns = "object text NOT NULL, definition text NOT NULL, comment text, removed_at timestamptz NOT NULL DEFAULT now()"
        made = draft.statement(f"CREATE TABLE {table} ({columns})", key, "what is dropped is recorded here")
        draft.setting_aside.append(made)
    comment = draft.decided.whole.comments.get(key)
    values = ", ".join((literal(str(key)), literal(definition), literal(comment) if comment is not None else "NULL"))
    text = f"INSERT INTO {table} (object, definition, comment) VALUES ({values})"
    draft.setting_aside.append(draft.statement(text, key, f"record {key}"))


# -- what moves ------------------------------------------------------------------------------------------------------


def _move_asked(draft: Draft, key: Key) -> None:
    value = draft.decided.whole.objects[key]
    if key in draft.protected:
        draft.refuse("protected_table", key, "it is protected, so it stays where it is")
        return
    if isinstance(value, Sequence) and value.owned_by is not None:
        if not {value.owned_by, value.owned_by.table} & draft.decided.quarantine:
            draft.refuse("in_the_way", key, f"it belongs to {value.owned_by} and moves with it")
        return
    name = move(draft, key)
    if isinstance(value, Table):
        read = draft.decided.as_read(key)
        draft.moved[TableName(read.schema, read.name)] = Carried(TableName(QUARANTINE, name))


def move(draft: Draft, key: Key) -> str:
    """Move an object and what belongs to it to the quarantine schema; its name there."""
    prepare(draft, key)
    draft.lock(key, LockMode.ALTER)
    table = draft.decided.whole.table(key)
    for part in sorted(_named_along(draft, key)):
        _make_unique(draft, part, key)
    name = _make_unique(draft, key, key)
    there = Key(key.kind, key.schema, name, key.part)
    text = f"ALTER {draft.writer.target(there)} SET SCHEMA {ident(QUARANTINE)}"
    summary = f"set {key} aside as {QUARANTINE}.{name}"
    draft.moving.append(draft.statement(text, key, summary, proves=table is not None))
    return name


def _make_unique(draft: Draft, part: Key, moved: Key) -> str:
    name = _free(draft, part)
    if name != part.name:
        text = f"ALTER {draft.writer.target(part)} RENAME TO {ident(name)}"
        summary = f"{part.name} is taken in {QUARANTINE}"
        draft.moving.append(draft.statement(text, moved, summary, proves=part == moved))
    return name


def _named_along(draft: Draft, key: Key) -> set[Key]:
    """What belongs to the object and takes a name of its own in the schema: indexes (as such) and sequences."""
    whole, found = draft.decided.whole, set[Key]()
    if key.kind not in _RELATIONS:
        return found
    for one in going_along(whole, [key]) - {key}:
        value = whole.objects.get(one)
        if isinstance(value, Constraint) and value.type in ("p", "u", "x"):
            found.add(Key(Kind.INDEX, one.schema, one.part))
        elif isinstance(value, (Index, Sequence)):
            found.add(one)
    table = whole.table(key)
    for column in table.columns.values() if table is not None else ():
        if column.identity:
            found.add(Key(Kind.SEQUENCE, key.schema, column.identity_sequence))
    return found


def _free(draft: Draft, key: Key) -> str:
    """The object's own name, or another that is free both where it is and in the quarantine schema."""
    name, reserved = key.name, {*draft.quarantined, RECORDS}
    if name in reserved:
        here = {
            name for one in draft.decided.whole.objects if one.schema == key.schema for name in (one.name, one.part)
        }
        name = quarantine_name(name, reserved | here)
    draft.quarantined.add(name)
    draft.names_aside[key] = name
    return name
