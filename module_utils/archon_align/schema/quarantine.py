"""The quarantine schema: what a decision replaces or sets aside is kept there, whole, until a person removes it. Pure."""

# ruff: noqa: S608 - texts are composed of quoted identifiers

from __future__ import annotations

from ..plan import Statement
from .ddl import ident, literal
from .decided import quarantine_name
from .decisions import QUARANTINE
from .draft import Draft
from .model import TYPES, Constraint, Key, Kind
from .steps import Guard


def prepare(draft: Draft, because: Key) -> None:
    """Make sure that the schema is there, once per plan."""
    there = QUARANTINE in draft.current.all_schemas
    text = f"CREATE SCHEMA {ident(QUARANTINE)}"
    if (owner := _owner(draft, "")) is not None:
        text += f" AUTHORIZATION {ident(owner)}"
    if there or any(statement.sql == text for statement in draft.setting_aside):
        return
    if not draft.current.creates_schemas:
        draft.refuse(
            "not_allowed",
            because,
            f"old values are kept in schema {QUARANTINE}, which {draft.current.me} may not create",
            f"Have an administrator create schema {QUARANTINE} on PROD for {draft.current.me}, then run again.",
        )
    draft.setting_aside.append(Statement(text, QUARANTINE, "where old values are kept"))


def free_name(draft: Draft, wanted: str) -> str:
    """A name in the quarantine schema that is free, and is taken from now on."""
    name = quarantine_name(wanted, draft.quarantined)
    draft.quarantined.add(name)
    return name


def hand_over(draft: Draft, key: Key, name: str) -> list[Statement]:
    """What is kept of `key` in the quarantine schema belongs to whom the tables belong, not to a member who made it."""
    owner = _owner(draft, QUARANTINE)
    if owner is None:
        return []
    text = f"ALTER TABLE {ident(QUARANTINE, name)} OWNER TO {ident(owner)}"
    return [draft.statement(text, key, f"{QUARANTINE}.{name} belongs to the owner of the other tables")]


def _owner(draft: Draft, schema: str) -> str | None:
    """To whom something new is to be given, None when it is its maker's anyway."""
    owner = draft.current.maker(Key(Kind.TABLE, schema, ""))
    return None if owner == draft.current.me else owner


def set_aside_column(draft: Draft, key: Key) -> None:
    """Keep a column's values, with the primary key (or whole rows where there is none), before they are changed."""
    prepare(draft, key)
    name = free_name(draft, f"{key.name}__{key.part}")
    table, kept = draft.writer.name(key.table), ident(QUARANTINE, name)
    identity = next(
        (
            found.columns
            for one in draft.current.on_table.get(key.table, ())
            if isinstance(found := draft.current.objects[one], Constraint) and found.type == "p"
        ),
        (),
    )
    whole = draft.decided.whole.table(key.table)
    names = dict.fromkeys((*identity, key.part)) if identity or whole is None else whole.columns
    shown = ", ".join(_kept(draft, Key(Kind.COLUMN, key.schema, key.name, one)) for one in names)
    guard = (
        f"SELECT 1 AS violators, 'rows' AS key WHERE (SELECT count(*) FROM {table}) <> (SELECT count(*) FROM {kept})"
    )
    note = f"Values of {key.qualified} before they were changed as decided."
    draft.setting_aside += [
        draft.statement(f"CREATE TABLE {kept} AS SELECT {shown} FROM {table}", key, f"keep the values of {key}"),
        draft.statement(f"COMMENT ON TABLE {kept} IS {literal(note)}", key, f"what {QUARANTINE}.{name} is"),
        *hand_over(draft, key, name),
        Guard(guard, key.qualified, f"every row of {key.table} was kept (no row may come back)", reason="rows were not kept"),
    ]  # fmt: skip


def keep_old_type(draft: Draft, key: Key, name: str) -> list[Statement]:
    """What becomes of the old form of a replaced type, which now goes by `name`: it is dropped, unless tables that are set
    aside still hold values of it."""
    users = (one for one in draft.decided.whole.dependents.get(key, ()) if one.kind is Kind.COLUMN)
    before = any(f" {QUARANTINE}." in one for one in draft.current.strangers.get(key, ()))
    if not before and all(draft.current.column(one) is not None for one in users):
        return [draft.statement(f"DROP TYPE {ident(key.schema, name)}", key, f"the old form of {key}, now unused")]
    prepare(draft, key)
    free, made = free_name(draft, name), []
    if free != name:
        made.append(draft.statement(f"ALTER TYPE {ident(key.schema, name)} RENAME TO {ident(free)}", key, f"{name} is taken in {QUARANTINE}"))  # fmt: skip
    text = f"ALTER TYPE {ident(key.schema, free)} SET SCHEMA {ident(QUARANTINE)}"
    return [*made, draft.statement(text, key, f"the old form of {key}, for what is set aside")]


def _kept(draft: Draft, column: Key) -> str:
    """A column as it is kept: values of the database's own types as text, because those types may change or go."""
    found, name = draft.decided.whole.column(column), ident(column.part)
    if found is None or not any(one.kind in TYPES for one in draft.decided.whole.depends.get(column, ())):
        return name
    return f"CAST({name} AS {'text[]' if found.type.endswith('[]') else 'text'}) AS {name}"
