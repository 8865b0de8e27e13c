"""Tables of another shape: PROD's moves to the quarantine schema, whole, DEV's takes its place, and its rows are copied as decided.

The copy runs right after CREATE TABLE, before constraints, triggers and row-level security exist, so that none of them meets it.
"""

# ruff: noqa: S608 - texts are composed of quoted identifiers and of checked expressions

from __future__ import annotations

from dataclasses import replace

from ..database.target import Table as TableName
from ..findings import Finding
from ..plan import Statement
from ..preservation.carried import Carried
from .aside import acts
from .compare import MISSING
from .ddl import ident, literal
from .decisions import QUARANTINE
from .draft import Draft
from .evidence import SHAPE, Answer, misfits
from .mapping import Mapping
from .model import Catalog, Column, Constraint, Index, Key, Kind, Policy, Sequence, Table
from .removal import asked_for, drop_recorded, move
from .snippets import deciding


def choose(draft: Draft) -> None:
    """Set the tables of another shape aside, and drop what depends on them, to be put back on DEV's; or refuse."""
    for key in sorted(draft.decided.shapes):
        if key not in draft.desired.objects:
            draft.refuse("needs_out_of_scope", key, "its other shape was decided, but the scope leaves it out")
            continue
        shape = Mapping(draft.decided, draft.desired, key)
        if _is_refused(draft, shape):
            continue
        parts = draft.decided.whole.on_table.get(key, ())
        for part in sorted(parts):
            if acts(draft.decided.whole, part) and part not in draft.decided.quarantine:
                drop_recorded(draft, part)
        draft.kept[key] = move(draft, key)
        for one in _lives_there(draft, shape):
            for dependent in sorted(draft.current.dependents.get(one, ())):
                draft.closure.drop(dependent, key)
        _carry(draft, shape)
        draft.notes.append(_told(draft, shape))


def _lives_there(draft: Draft, shape: Mapping) -> list[Key]:
    """The table, its columns, and whatever else of it others may depend on."""
    key, whole = shape.new.key, draft.decided.whole
    owned = [
        one
        for one, value in whole.objects.items()
        if isinstance(value, Sequence) and value.owned_by is not None and value.owned_by.table == key
    ]
    return [key, *(column.key for column in shape.old.columns.values()), *whole.on_table.get(key, ()), *owned]


def _is_refused(draft: Draft, shape: Mapping) -> bool:
    key, before = shape.new.key, len(draft.refused)
    kin = any(one.kind is Kind.TABLE for one in draft.decided.whole.dependents.get(key, ()))
    for table in (shape.old, shape.new):
        if kin or table.parents or table.bound or table.partition_key or table.typed:
            draft.refuse("table_form", key, "a table that inherits, or is partitioned, cannot be given another shape")
    for one in _lives_there(draft, shape):
        if names := draft.decided.whole.strangers.get(one):
            draft.refuse("in_the_way", key, f"{', '.join(names)} depends on {one}, and is not among what is compared")
    for name, column in shape.new.columns.items():
        given = draft.decided.shapes[key].get(name)
        if given is not None and column.generated:
            draft.refuse("shape_loses", column.key, "DEV computes this column: no value can be given for it")
        for aspect in (SHAPE, "not null"):
            if (answer := draft.evidence.against(column.key, aspect)) is not None:
                what = f" ({given})" if given is not None else ""
                remedy = (
                    f"Give an expression in shapes, {key.qualified}, {name}, that fits every row; nothing was changed."
                )
                draft.refuse("shape_loses", column.key, f"{answer.reason}{what}: {answer.text}", remedy)
    return len(draft.refused) > before


def is_echo(draft: Draft, key: Key, answer: Answer) -> bool:
    """Could this constraint or index only not be asked about because an expression fails, which is refused anyway?"""
    value = draft.desired.objects.get(key)
    table = value.table if isinstance(value, Index) else key.table
    shape = draft.desired.table(table)
    return (
        table in draft.decided.shapes
        and shape is not None
        and answer.error != ""
        and any(
            draft.evidence.against(column.key, aspect) is not None
            for column in shape.columns.values()
            for aspect in (SHAPE, "not null")
        )
    )


def as_shaped(draft: Draft, table: Table) -> Table:
    """DEV's table with the row-level security that PROD's had: that is never loosened."""
    old = draft.decided.whole.table(table.key)
    assert old is not None
    return replace(
        table,
        row_security=table.row_security or old.row_security,
        force_row_security=table.force_row_security or old.force_row_security,
    )


def policies_only_here(draft: Draft, table: Key) -> list[Policy]:
    """PROD's own policies that fit DEV's table: they are put over to it. A restrictive one that does not fit is refused."""
    found = []
    for key in sorted(draft.decided.whole.on_table.get(table, ())):
        policy = draft.decided.whole.objects[key]
        if not isinstance(policy, Policy) or key in draft.desired.objects or key in draft.decided.quarantine:
            continue
        lacking = _lacking(draft, key, draft.decided.whole)
        if not lacking:
            found.append(policy)
        elif not policy.permissive:
            message = f"only PROD has this restrictive policy, and it needs {', '.join(map(str, lacking))}"
            draft.refuse("in_the_way", key, message, deciding("Do without it, by naming it", asked_for(key)))
    return found


def _lacking(draft: Draft, key: Key, source: Catalog) -> list[Key]:
    """What an object needs that goes with an old shape."""
    found = []
    for one in sorted(source.depends.get(key, ())):
        table = one.table if one.kind in (Kind.COLUMN, Kind.CONSTRAINT) else one
        if table in draft.decided.shapes:
            gone = one.kind is Kind.COLUMN and draft.desired.column(one) is None
            found += [one] if gone or (one.kind is Kind.CONSTRAINT and not _still_unique(draft, one)) else []
        elif draft.decided.whole.objects.get(one) is not None and one not in draft.current.objects:
            found += [one] if one not in draft.desired.objects else []
    return found


def _still_unique(draft: Draft, key: Key) -> bool:
    """Are the columns of a key that goes with an old shape a key of DEV's table, too?"""
    old = draft.decided.whole.objects.get(key)
    new = (draft.desired.objects[one] for one in draft.desired.on_table.get(key.table, ()))
    return isinstance(old, Constraint) and any(
        isinstance(one, Constraint) and one.type in ("p", "u") and set(one.columns) == set(old.columns) for one in new
    )


def refuse_put_back(draft: Draft, key: Key) -> bool:
    """Is there a reason that something only PROD has cannot be made again, once what it needs is set aside?"""
    lacking = _lacking(draft, key, draft.current)
    if lacking:
        message = f"only PROD has it, and it needs {', '.join(map(str, lacking))}, which is set aside"
        draft.refuse("in_the_way", key, message, deciding("Set it aside, too,", asked_for(key)))
    found = draft.current.objects.get(key)
    answer = draft.evidence.against(key, MISSING)
    if isinstance(found, Constraint) and found.references in draft.decided.shapes and answer is not None:
        message = f"only PROD has it, and {answer.reason}: {answer.text}"
        draft.refuse("rows_in_the_way", key, message, deciding("Do without it, by naming it", asked_for(key)))
        return True
    return bool(lacking)


# -- the copy --------------------------------------------------------------------------------------------------------


def copy(draft: Draft, table: Table) -> list[Statement]:
    """Fill DEV's new table from PROD's old one; sequences go on where they were, and after the values."""
    if table.key not in draft.kept:
        return []
    shape, key = Mapping(draft.decided, draft.desired, table.key), table.key
    kept = f"{ident(QUARANTINE, draft.kept[key])} AS {ident(key.name)}"
    names = ", ".join(map(ident, shape.columns))
    values = ", ".join(one.value for one in shape.columns.values())
    text = f"INSERT INTO {draft.writer.name(key)} ({names}) OVERRIDING SYSTEM VALUE SELECT {values} FROM {kept}"
    made = [
        draft.statement(
            text, key, f"the rows of {key} in DEV's shape", "moves_rows", "changes_values", "needs_decision"
        )
    ]
    lost = [f"({one.lost})" for one in shape.columns.values() if one.lost is not None]
    if lost:
        query = misfits(key, " OR ".join(lost), draft.decided.whole, kept)
        summary = f"{key}: every value survives as decided (no row may come back)"
        made.append(draft.guard(query, key, summary, "a value would not be the same"))
    for column in table.columns.values():
        made += _go_on(draft, shape, column)
    return made


def _go_on(draft: Draft, shape: Mapping, column: Column) -> list[Statement]:
    new, old_column = _sequence(draft.desired, column), shape.origin(column.key.part)
    if new is None or column.key.part not in shape.columns:
        return []
    made, name = [], literal(ident(*new))
    old = _sequence(draft.decided.whole, old_column) if old_column is not None else None
    if old is not None:
        there = f"SELECT pg_catalog.setval({name}::regclass, last_value, is_called) FROM {ident(QUARANTINE, _kept_as(draft, old))}"
        made.append(draft.statement(there, column.key, f"the sequence of {column.key} goes on where it was"))
    value = ident(column.key.part)
    behind = (
        f"SELECT pg_catalog.setval({name}::regclass, max({value})) FROM {draft.writer.name(shape.new.key)}"
        f" HAVING max({value}) >= (SELECT greatest(last_value, 1) FROM {ident(*new)})"
    )
    made.append(draft.statement(behind, column.key, f"the sequence of {column.key} goes on after its values"))
    return made


def _sequence(catalog: Catalog, column: Column) -> tuple[str, str] | None:
    """Schema and name of the sequence that belongs to a column."""
    if column.identity:
        return column.key.schema, column.identity_sequence
    for key in sorted(catalog.depends.get(Key(Kind.DEFAULT, *column.key[1:]), ())):
        value = catalog.objects.get(key)
        if isinstance(value, Sequence) and value.owned_by == column.key:
            return key.schema, key.name
    return None


def _kept_as(draft: Draft, sequence: tuple[str, str]) -> str:
    return draft.names_aside.get(Key(Kind.SEQUENCE, *sequence), sequence[1])


# -- proof and report ------------------------------------------------------------------------------------------------


def _carry(draft: Draft, shape: Mapping) -> None:
    key, decided = shape.new.key, draft.decided
    read = decided.as_read(key)
    names: dict[str, str] = {}
    for column in shape.old.columns.values():
        was, back = decided.as_read(column.key).part, decided.label_as_read(column)
        if back is not None or was != column.key.part:
            names[was] = back or ident(column.key.part)
    draft.moved[TableName(read.schema, read.name)] = Carried(
        TableName(key.schema, key.name),
        before={name: one.proof for name, one in shape.columns.items()},
        after={name: ident(name) for name in shape.columns},
        source=shape.read(),
        kept=TableName(QUARANTINE, draft.kept[key]),
        kept_as=names,
        columns=tuple(shape.columns),
    )


def _told(draft: Draft, shape: Mapping) -> Finding:
    key, whole = shape.new.key, draft.decided.whole
    besides = [f"column {name}" for name in shape.old.columns if name not in shape.new.columns]
    besides += [
        f"{one.kind} {one.part or one.name}" for one in sorted(whole.on_table.get(key, ()))
        if one not in draft.desired.objects and one.kind is not Kind.POLICY
    ]  # fmt: skip
    along = f"; with it goes what only PROD has: {', '.join(besides)}" if besides else ""
    place = f"{QUARANTINE}.{draft.kept[key]}"
    return Finding("set_aside", "info", str(key), f"PROD's table of another shape is kept whole as {place}{along}", f"Drop {place} when nobody needs it any more.")  # fmt: skip
