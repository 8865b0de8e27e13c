"""Columns of vectors that change their number of dimensions. Pure, but for one question to the rows.

Vectors cannot be converted: they are computed anew from their texts. Where the embeddings phase does that, a new column is
put beside the old one, which stays in use until the new one is filled and takes its place. The new column is known by its
comment and its type, wherever a killed run may have left it.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from psycopg import sql

from ..database.session import Session
from ..embedding.kinds import COLUMN, KINDS
from .ddl import ident
from .model import VECTOR_INDEX_METHODS, Catalog, Column, Index, Key, Kind, readable
from .portable import extensions_in
from .widening import split

if TYPE_CHECKING:
    from .draft import Draft

COMPUTE_ANEW = (
    "Let the playbook's phases schema and embeddings do it (--tags schema,embeddings): they compute the vectors anew and keep"
    " the old ones until the new ones have proved right. Or set the column to NULL where its vectors are worthless, then run"
    " again; nothing was changed."
)
_NAME_BYTES = 63
_SUFFIX = "_rebuilt"
_MOST_INDEXED = {"vector": 2000, "halfvec": 4000}
# Made of the column's type and name in ways that only hold once the new column is in its place.
_FOLLOWERS = frozenset({Kind.VIEW, Kind.MATVIEW, Kind.FUNCTION, Kind.CONSTRAINT})


def marker(column: str) -> str:
    """The comment by which a column that gathers the new vectors of `column` is known."""
    return (
        f'archon-align gathers the new vectors of column "{column}" here; the embeddings phase puts them in its place.'
    )


def free_name(column: str, taken: Collection[str]) -> str:
    """A name for the column beside `column`, within 63 bytes, that is not `taken`."""
    for number in itertools.count(1):
        suffix = _SUFFIX if number == 1 else f"{_SUFFIX}{number}"
        name = column.encode()[: _NAME_BYTES - len(suffix)].decode(errors="ignore") + suffix
        if name not in taken:
            return name
    raise AssertionError("unreachable: numbers do not end")


def changes_dimensions(old: Column, new: Column) -> bool:
    """Are both of the same one of pgvector's types, with another number of dimensions (or none declared)?"""
    same = split(old.type)[::2] == split(new.type)[::2]
    return same and old.type != new.type and "vector" in extensions_in(new.type)


def misfit(old: Column, new: Column, column: str, extension_schemas: Mapping[str, str]) -> str | None:
    """The condition that is true for a vector of `column` (as SQL) that cannot be one of `new`; None when all can be."""
    (_, limit, array), (_, declared, _) = split(new.type), split(old.type)
    if not limit and not array:
        return None
    if declared or array or split(new.type)[0].endswith(".sparsevec"):
        return f"{column} IS NOT NULL"
    dimensions = sql.Identifier(extension_schemas.get("vector", "public"), "vector_dims").as_string(None)
    return f"{dimensions}({column}) <> {limit[0]}"


def require_indexable(draft: Draft, column: Key, new: Column) -> None:
    """Refuse dimensions for which PROD's indexes on `column` could not be built again."""
    base, limit, _ = split(new.type)
    most = _MOST_INDEXED.get(base.rpartition(".")[2])
    if not limit or most is None or limit[0] <= most:
        return
    for key in draft.current.on_table.get(column.table, ()):
        found = draft.current.objects[key]
        if not isinstance(found, Index) or found.method not in VECTOR_INDEX_METHODS or key in draft.closure.dropped:
            continue
        opening = f" USING {found.method} ("
        if any(f"{opening}{name} " in found.definition for name in (column.part, ident(column.part))):
            draft.refuse(
                "vector_index_limit",
                key,
                f"{found.method} takes at most {most} dimensions, and {column} is to have {limit[0]}",
                f"DROP INDEX {ident(key.schema, key.name)} on PROD, as DEV cannot have it either, then run again; nothing was changed.",
            )


# -- the column beside -----------------------------------------------------------------------------------------------


def to_rebuild(session: Session, desired: Catalog, current: Catalog, protected: frozenset[Key]) -> frozenset[Key]:
    """The columns that the embeddings phase fills whose vectors in `current` (the session's database) do not fit `desired`."""
    return frozenset(
        key
        for key in _rebuildable(desired, current, protected)
        if beside(desired, current, key) is not None or _holds_misfits(session, desired, current, key)
    )


def _rebuildable(desired: Catalog, current: Catalog, protected: frozenset[Key]) -> Iterator[Key]:
    for kind in KINDS:
        schema = next((one for one in current.schemas if Key(Kind.TABLE, one, kind.table) in current.objects), None)
        if schema is None:
            continue
        key = Key(Kind.COLUMN, schema, kind.table, COLUMN)
        new, old, table = desired.column(key), current.column(key), current.table(key.table)
        if new is None or old is None or table is None or key.table in protected:
            continue
        kin = table.parents or any(one.kind is Kind.TABLE for one in current.dependents.get(key.table, ()))
        plain = split(new.type)[0].endswith(".vector") and split(new.type)[1] and not (new.generated or old.generated)
        if changes_dimensions(old, new) and plain and not kin and table.partition_key is None:
            yield key


def _holds_misfits(session: Session, desired: Catalog, current: Catalog, key: Key) -> bool:
    new, old = desired.column(key), current.column(key)
    assert new is not None
    assert old is not None
    condition = misfit(old, new, sql.Identifier(key.part).as_string(None), current.extension_schemas)
    if condition is None:
        return False
    query = sql.SQL("SELECT EXISTS (SELECT FROM {} WHERE {})").format(
        sql.Identifier(key.schema, key.name), sql.SQL(condition)
    )
    return bool(session.value(query))


def beside(desired: Catalog, current: Catalog, column: Key) -> Key | None:
    """The column of `current` that gathers the vectors of `column` in the type that `desired` has; None without one."""
    new, table = desired.column(column), current.table(column.table)
    if new is None or table is None:
        return None
    return next(
        (
            one.key
            for one in table.columns.values()
            if one.type == new.type and current.comments.get(one.key) == marker(column.part)
        ),
        None,
    )


def with_beside(desired: Catalog, current: Catalog, columns: Iterable[Key]) -> Catalog:
    """`desired` with a column beside each of `columns`: the one that `current` has, or one under a free name."""
    made = desired
    for column in columns:
        new, table, found = desired.column(column), desired.table(column.table), current.table(column.table)
        assert new is not None
        assert table is not None
        assert found is not None
        key = beside(desired, current, column) or column._replace(
            part=free_name(column.part, table.columns.keys() | found.columns.keys())
        )
        made = _with_column(made, column, key)
    return made


def _with_column(desired: Catalog, column: Key, key: Key) -> Catalog:
    new, table = desired.column(column), desired.table(column.table)
    assert new is not None
    assert table is not None
    # Its rows must lack a value until they are embedded, and everything else comes with the change of places.
    there = replace(new, key=key, not_null=False, default=None)
    return replace(
        desired,
        objects={**desired.objects, table.key: replace(table, columns={**table.columns, key.part: there})},
        comments={**desired.comments, key: marker(column.part)},
    )


def again(planned: Catalog, fresh: Catalog) -> Catalog:
    """`fresh`, a later reading of the desired database, with the columns beside that were `planned`."""
    for column, key in _pairs(planned):
        if fresh.column(column) is not None:
            fresh = _with_column(fresh, column, key)
    return fresh


def _pairs(catalog: Catalog) -> Iterator[tuple[Key, Key]]:
    """Each column with the one beside it."""
    for key, text in sorted(catalog.comments.items()):
        if key.kind is not Kind.COLUMN or not text.startswith("archon-align"):
            continue
        for name in getattr(catalog.table(key.table), "columns", ()):
            if text == marker(name):
                yield key._replace(part=name), key


def half_way(desired: Catalog, current: Catalog) -> frozenset[Key]:
    """What is in `current` only because a rebuild is under way: the columns beside, and their indexes.

    Once nothing is to be rebuilt any more, what a rebuild left behind is no part of this: it is named like anything else.
    """
    found = set()
    for column, key in _pairs(current):
        new, old = desired.column(column), current.column(column)
        if new and old and changes_dimensions(old, new) and beside(desired, current, column) == key:
            found.add(key)
            for one in current.on_table.get(key.table, ()):
                if isinstance(current.objects[one], Index) and current.depends.get(one, frozenset()) & {key}:
                    found.add(one)
    return frozenset(found)


# -- the plan --------------------------------------------------------------------------------------------------------


def leave_to_rebuild(draft: Draft) -> None:
    """Let the columns that are to be rebuilt, and what is made of their types, stay as they are, each with a finding."""
    for column, key in _pairs(draft.desired):
        old = draft.current.column(column)
        if old is None or "type" not in draft.aspects.get(column, {}):
            continue
        answer = draft.evidence.answers.get((column, "type"))
        count = answer.violators if answer is not None else None
        message = (
            f"{'its' if count is None else count} vectors ({readable(old.type).rpartition('.')[2]}) stay in use until the embeddings phase has"
            f" filled {key.part}, which then takes the column's place"
        )
        _leave(draft, column, ("type", "default"), "vectors_to_rebuild", message)
        followers = followers_of(draft.desired, column) | followers_of(draft.current, column)
        for one in sorted(followers & draft.aspects.keys()):
            structural = [name for name in draft.aspects[one] if name != "comment" and not name.startswith("grant ")]
            if one not in draft.current.objects:
                structural = list(draft.aspects[one])
            _leave(draft, one, structural, "waits_for_rebuild", f"it follows {column}, whose vectors are to be rebuilt")


def _leave(draft: Draft, key: Key, aspects: Iterable[str], code: str, message: str) -> None:
    remedy = "Run the embeddings phase (--tags embeddings), as a full run does."
    for aspect in aspects:
        if (difference := draft.aspects[key].pop(aspect, None)) is not None:
            draft.leave(code, difference, message, remedy)
    if not draft.aspects[key]:
        del draft.aspects[key]


def followers_of(catalog: Catalog, column: Key) -> frozenset[Key]:
    """Views, constraints and functions that are made of `column`, directly or through each other."""
    found: set[Key] = set()
    pending = [column]
    while pending:
        for one in catalog.dependents.get(pending.pop(), ()):
            if one.kind in _FOLLOWERS and one not in found:
                found.add(one)
                pending.append(one)
    return frozenset(found)
