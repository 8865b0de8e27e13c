"""Enum types: labels added in place or, where order or use forbids it, the type replaced inside the transaction."""

from __future__ import annotations

import re
from collections.abc import Iterable

from ..database.transaction import LockMode
from ..plan import Statement
from .compare import Comparison
from .ddl import ident, literal
from .draft import Draft
from .making import attach
from .model import Enum, Key, Kind
from .quarantine import keep_old_type, set_aside_column
from .steps import Node

_REPLACED = "_replaced"
_ARRAY = re.compile(r"'(\{(?:[^']|'')*\})'")


def labels(draft: Draft, key: Key) -> tuple[Enum, Enum]:
    wanted, found = draft.desired.objects[key], draft.current.objects[key]
    assert isinstance(wanted, Enum)
    assert isinstance(found, Enum)
    return wanted, found


def merged(wanted: Enum, found: Enum) -> tuple[str, ...]:
    """DEV's labels in DEV's order; each that only PROD has stays behind the one it follows there."""
    result = list(wanted.labels)
    for place, label in enumerate(found.labels):
        if label not in wanted.labels:
            result.insert(result.index(found.labels[place - 1]) + 1 if place else 0, label)
    return tuple(result)


def reordered(wanted: Enum, found: Enum) -> bool:
    """Are the labels that both have in another order?"""
    return [one for one in found.labels if one in wanted.labels] != [
        one for one in wanted.labels if one in found.labels
    ]


def added_labels(comparison: Comparison, replaced: frozenset[Key]) -> dict[Key, set[str]]:
    """New labels of the enums that are extended in place."""
    found = {}
    for difference in comparison.differences:
        if difference.aspect == "labels" and difference.key not in replaced:
            wanted, current = comparison.desired.objects[difference.key], comparison.current.objects[difference.key]
            if isinstance(wanted, Enum) and isinstance(current, Enum) and not reordered(wanted, current):
                found[difference.key] = set(wanted.labels) - set(current.labels)
    return found


def uses(statements: Iterable[Statement], new: set[str]) -> bool:
    """Would a statement evaluate one of the labels? Bodies kept as strings, comments and other types do not."""
    texts = [literal(label) for label in new]
    inner = [text[text.index("'") + 1 : -1] for text in texts]  # an array's literal holds labels without quotes
    return any(
        any(text in statement.sql for text in texts)
        or any(label in array for array in _ARRAY.findall(statement.sql) for label in inner)
        for statement in statements
        if not statement.sql.startswith(("ALTER TYPE", "CREATE TYPE", "COMMENT ON"))
        and not (statement.sql.startswith("CREATE OR REPLACE") and "\nAS $" in statement.sql)
    )


def extend(draft: Draft, key: Key) -> list[Statement]:
    """ALTER TYPE … ADD VALUE for each lacking label, in its place."""
    wanted, found = labels(draft, key)
    there, made = list(found.labels), []
    for place, label in enumerate(wanted.labels):
        if label in there:
            continue
        following = next((one for one in wanted.labels[place + 1 :] if one in there), None)
        where = ""
        if place:
            where = f" AFTER {literal(wanted.labels[place - 1])}"
        elif following is not None:
            where = f" BEFORE {literal(following)}"
        there.append(label)
        text = f"ALTER TYPE {draft.writer.name(key)} ADD VALUE {literal(label)}{where}"
        made.append(draft.statement(text, key, f"{key}: label {label!r}"))
    return made


def choose_replacement(draft: Draft, key: Key) -> None:
    """Everything that mentions the type is dropped and put back; its columns are converted."""
    for dependent in sorted(draft.current.dependents.get(key, ())):
        if dependent.kind is Kind.COLUMN:
            column = draft.current.column(dependent)
            if column is not None and column.generated:
                draft.closure.drop(dependent, key)
            else:
                draft.closure.retype(dependent)
        elif dependent.kind is not Kind.DEFAULT:
            draft.closure.drop(dependent, key)


def replace_type(draft: Draft, node: Node) -> None:
    """Make the type anew under its name and convert its columns: the text of every value stays."""
    key = node.key
    wanted, found = labels(draft, key)
    old = key.name.encode()[: 63 - len(_REPLACED)].decode(errors="ignore") + _REPLACED
    gone = draft.decided.remaps.get(key, {})
    kept = [label for label in (wanted.labels if key in draft.exact else merged(wanted, found)) if label not in gone]
    name, listed = draft.writer.name(key), ", ".join(map(literal, kept))
    node.statements += [
        draft.statement(f"ALTER TYPE {name} RENAME TO {ident(old)}", key, f"free the name of {key}"),
        draft.statement(f"CREATE TYPE {name} AS ENUM ({listed})", key, f"{key} with all labels in order"),
    ]
    attach(draft, node, key, draft.desired, again=True)
    users = sorted(one for one in draft.current.dependents.get(key, ()) if one.kind is Kind.COLUMN)
    for user in users:
        _convert(draft, node, user)
    late = draft.late(key, "old type", {one for one in users if one in draft.nodes or one in draft.aspects})
    late.statements += keep_old_type(draft, key, old)


def _convert(draft: Draft, node: Node, user: Key) -> None:
    column = draft.current.column(user)
    retyped = "type" in draft.aspects.get(user, {})
    if column is None or column.inherited or retyped or user in draft.closure.dropped:
        return
    draft.lock(user.table, LockMode.ALTER)
    array = "[]" if column.type.endswith("[]") else ""
    place, type_name = ident(user.part), draft.writer.text(column.type)
    alter = f"ALTER TABLE {draft.writer.name(user.table)} ALTER COLUMN {place}"
    if column.default is not None:
        node.statements.append(draft.statement(f"{alter} DROP DEFAULT", user, f"{user}: default of the old type"))
    hazards: tuple[str, ...] = ("rewrites_table",)
    labels, summary = f"CAST({place} AS text{array})", "same labels, type made anew"
    if (decided := draft.decided.relabelling(column)) is not None:
        set_aside_column(draft, user)
        for one in draft.current.with_heirs(user):
            draft.carry(one, labels, decided)
        labels, summary, hazards = decided, "labels replaced as decided", (*hazards, "changes_values", "needs_decision")
    convert = f"{alter} TYPE {type_name} USING CAST({labels} AS {type_name})"
    node.statements.append(
        draft.statement(convert, user, f"{user}: {summary}", *hazards, "takes_exclusive_lock", proves=True)
    )
    if column.default is not None and "default" not in draft.aspects.get(user, {}):
        default = column.default
        for old, new in draft.decided.remaps.get(node.key, {}).items():
            default = default.replace(f"{literal(old)}::", f"{literal(new)}::")
        text = f"{alter} SET DEFAULT {draft.writer.text(default)}"
        node.statements.append(draft.statement(text, user, f"{user}: default"))
