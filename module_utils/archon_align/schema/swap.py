"""A rebuilt column of vectors takes the place of the old one, whose values are kept in quarantine. Pure.

It is a change of the schema like any other: what depends on the column is dropped and put back, and the catalogues are
compared afterwards. No row is written, so that it takes as long as copying the old vectors does.
"""

# ruff: noqa: S608 - texts are composed of quoted identifiers

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace

from ..database.target import Table as TableName
from ..database.transaction import LockMode
from ..preservation.carried import Carried
from . import quarantine, vectors
from .columns import set_default, set_not_null
from .compare import compare
from .ddl import ident, literal
from .decided import quarantine_name
from .decisions import QUARANTINE
from .draft import Draft
from .evidence import Evidence, misfits
from .model import RELATIONS, Catalog, Column, Constraint, Key, Kind, Object, Table
from .plan import SchemaPlan, plan
from .widening import split


@dataclass(frozen=True, slots=True)
class Swap:
    """`plan` puts `beside` in the place of `column` and keeps the old vectors in `kept`. `indexes` are the vector indexes that
    the column has then, `rewrites` says that a computed column is made anew, so that the table gets another file."""

    plan: SchemaPlan
    column: Key
    beside: Key
    kept: TableName
    indexes: tuple[str, ...]
    rewrites: bool


def with_column_beside(desired: Catalog, current: Catalog, column: Key) -> Catalog:
    """`current` as the schema phase will leave it: with a column beside `column`, in the type that `desired` has."""
    planned = vectors.with_beside(desired, current, [column])
    key = vectors.beside(desired, planned, column)
    table, there = current.table(column.table), planned.column(key) if key is not None else None
    assert key is not None
    assert table is not None
    assert there is not None
    return replace(
        current,
        objects={**current.objects, table.key: replace(table, columns={**table.columns, key.part: there})},
        comments={**current.comments, key: planned.comments[key]},
    )


def plan_swap(
    desired: Catalog,
    current: Catalog,
    column: Key,
    *,
    old_indexes: Sequence[str],
    built: Sequence[str],
    names: Iterable[str],
    note: str,
    protected: frozenset[Key],
    counted: bool,
) -> Swap:
    """The plan for `column` of `current`, beside which there is a filled one in the type that `desired` (DEV) has.

    `old_indexes` are the vector indexes on the old column, which go with it; those `built` on the new one get the first of
    `names` (endless) that are free then. `note` becomes the comment on the copy. `counted`: the server counts a transaction's
    writes; where it does not, or where the table is rewritten, all other columns are proved by reading them.
    """
    beside = vectors.beside(desired, current, column)
    table = current.table(column.table)
    assert beside is not None
    assert table is not None
    old = table.columns[column.part]
    declared = split(old.type)[1]
    wanted = "_".join((f"{column.name}__{column.part}", *map(str, declared)))
    kept = TableName(QUARANTINE, quarantine_name(wanted, set(current.quarantined)))
    renames = _renames(current, column, {*old_indexes, *built}, built, names)
    comparison = compare(_afterwards(desired, current, column, beside), current, vector_indexes=False)
    gone: list[str] = []

    def seed(draft: Draft) -> None:
        draft.aspects.pop(column, None)
        draft.lock(column.table, LockMode.ALTER)
        draft.node(column, draft.desired)
        for one in sorted(current.dependents.get(column, ())):
            own_default = one.kind is Kind.DEFAULT and one.part == column.part
            if not own_default and not (one.kind is Kind.INDEX and one.name in old_indexes):
                draft.closure.drop(one, column)
        gone.extend(one.part for one in draft.closure.dropped if one.kind is Kind.COLUMN)
        quarantine.prepare(draft, column)
        _keep(draft, column, quarantine.free_name(draft, wanted), note)
        _change_places(draft, column, beside, old_indexes, renames)

    made = plan(comparison, Evidence(), protected=protected, seed=seed)
    if gone or not counted:
        name = TableName(column.schema, column.name)
        unread = frozenset({column.part, beside.part, *gone})
        made = replace(made, carried={**made.carried, name: Carried(name, computed=unread)})
    return Swap(made, column, beside, kept, tuple(sorted(renames.values())), bool(gone))


def _renames(
    current: Catalog, column: Key, freed: Collection[str], built: Sequence[str], names: Iterable[str]
) -> dict[str, str]:
    taken = {key.name for key in current.objects if key.kind in RELATIONS and key.schema == column.schema} - {*freed}
    found: dict[str, str] = {}
    wanted = iter(names)
    for one in built:
        found[one] = next(name for name in wanted if name not in taken)
        taken.add(found[one])
    return found


def _afterwards(desired: Catalog, current: Catalog, column: Key, beside: Key) -> Catalog:
    """What the structure is to be: the new column in its place, and what is made of its type as DEV has it."""
    table = current.table(column.table)
    assert table is not None
    old, new = table.columns[column.part], table.columns[beside.part]
    columns = {name: one for name, one in table.columns.items() if name != beside.part}
    columns[column.part] = replace(new, key=column, not_null=old.not_null, default=old.default)
    followers = vectors.followers_of(desired, column) | vectors.followers_of(current, column)
    known = current.objects.keys() | followers
    taken: dict[Key, Object] = {
        one: desired.objects[one]
        for one in followers & desired.objects.keys()
        if all(_is_known(need, known, table) for need in desired.depends.get(one, ()))
    }
    return replace(
        current,
        objects={**current.objects, **taken, table.key: replace(table, columns=columns)},
        comments={
            **{key: text for key, text in current.comments.items() if key != beside and key not in taken},
            **{key: desired.comments[key] for key in taken.keys() & desired.comments.keys()},
        },
        grants={**current.grants, **{key: desired.grants.get(key, frozenset()) for key in taken}},
        depends={**current.depends, **{key: desired.depends.get(key, frozenset()) for key in taken}},
    )


def _is_known(need: Key, known: Iterable[Key], table: Table) -> bool:
    if need.kind in (Kind.COLUMN, Kind.DEFAULT):
        return need.table != table.key or need.part in table.columns
    return need in known


def _keep(draft: Draft, column: Key, name: str, note: str) -> None:
    """The copy of the old vectors, with the key of their rows, and the proof that it has each of them."""
    table, copy, part = draft.writer.name(column.table), ident(QUARANTINE, name), ident(column.part)
    identity = next(
        (
            found.columns
            for one in draft.current.on_table.get(column.table, ())
            if isinstance(found := draft.current.objects[one], Constraint) and found.type == "p"
        ),
        (),
    )
    shown = ", ".join(map(ident, dict.fromkeys(("id", *identity, column.part))))
    equal = f"OPERATOR({ident(draft.current.extension_schemas['vector'])}.=)"
    lost = (
        f"{part} IS NOT NULL AND NOT EXISTS (SELECT FROM {copy} AS kept WHERE kept.id = {table}.id"
        f" AND kept.{part} {equal} {table}.{part})"
    )
    draft.setting_aside += [
        draft.statement(
            f"CREATE TABLE {copy} AS SELECT {shown} FROM {table} WHERE {part} IS NOT NULL",
            column,
            f"keep the old vectors of {column}",
            "moves_rows",
        ),
        draft.statement(f"COMMENT ON TABLE {copy} IS {literal(note)}", column, f"what {QUARANTINE}.{name} is"),
        *quarantine.hand_over(draft, column, name),
        draft.guard(
            misfits(column.table, lost, draft.current),
            column,
            f"{column}: every vector was kept (no row may come back)",
            "the old vector was not kept",
        ),
    ]


def _change_places(draft: Draft, column: Key, beside: Key, dropped: Sequence[str], renames: dict[str, str]) -> None:
    table, schema = draft.writer.name(column.table), column.schema
    old, comment = draft.current.column(column), draft.current.comments.get(column)
    assert isinstance(old, Column)
    said = [(f"DROP INDEX {ident(schema, name)}", f"drop the index {name} of the old vectors") for name in dropped]
    said += [
        (
            f"ALTER TABLE {table} DROP COLUMN {ident(column.part)}",
            f"{column}: the old vectors go, kept in {QUARANTINE}",
        ),
        (
            f"ALTER TABLE {table} RENAME COLUMN {ident(beside.part)} TO {ident(column.part)}",
            f"{column}: the new vectors take their place",
        ),
    ]
    said += [
        (f"ALTER INDEX {ident(schema, one)} RENAME TO {ident(name)}", f"the index of the new vectors is {name}")
        for one, name in renames.items()
        if one != name
    ]
    draft.opening += [draft.statement(text, column, summary, "takes_exclusive_lock") for text, summary in said]
    if old.default is not None:
        draft.opening.append(set_default(draft, old))
    if old.not_null:
        draft.opening.append(set_not_null(draft, column))
    text = f"COMMENT ON COLUMN {table}.{ident(column.part)} IS {'NULL' if comment is None else literal(comment)}"
    draft.opening.append(draft.statement(text, column, f"comment on {column} as before"))
    for text in draft.writer.grants(column, draft.current.grants.get(column, frozenset()), frozenset()):
        draft.opening.append(draft.statement(text, column, f"privileges on {column} as before"))
