"""What PROD does not have and the plan does not make, or what its version does not know: found before anything runs, and refused
by name. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator

from .draft import Draft
from .model import CALLED, Column, Constraint, Index, Key, Kind, Object, Other, Sequence, Table, View

# Kinds of which some objects are made and some are not.
_MADE = CALLED | {Kind.RANGE, Kind.COLLATION, Kind.CAST, Kind.DICTIONARY, Kind.CONFIGURATION}
_SET_COLUMNS = re.compile(r" ON DELETE SET (NULL|DEFAULT) \(")


def refuse_unknown(draft: Draft) -> None:
    """Refuse what DEV has and PROD's version cannot have, naming the version that can."""
    version = draft.current.version // 10000
    for key in sorted(draft.aspects):
        value = draft.desired.objects.get(key) or draft.desired.column(key)
        for what, since in _features(value) if value is not None else ():
            if version < since:
                message = f"{what}: PostgreSQL {since} and later can have it, PROD is version {version}"
                remedy = f"Upgrade PROD to PostgreSQL {since}, or give {key.qualified} a form on DEV that both versions know; nothing was changed."
                draft.refuse("server_too_old", key, message, remedy)


def refuse_lacking(draft: Draft) -> None:
    """Refuse what this plan would make of something that PROD lacks and nobody here makes, naming both."""
    there = {f"{one.kind} {one.name}" for one in draft.current.unmodelled}
    made = {key for key in draft.nodes if draft.sources[key] is draft.desired} | {one.key for one in draft.stages}
    for key in sorted(made):
        names = {name for part in _parts(draft, key) for name in draft.desired.needs.get(part, ())} - there
        needed = {one for part in _parts(draft, key) for one in draft.desired.depends.get(part, ())}
        left = {one for one in needed if one.kind in _MADE and one not in draft.current.objects and one not in made}
        for name in sorted(names | set(map(str, left))):
            remedy = f"Create {name} on PROD by hand, or leave {key} out of the scope; nothing was changed."
            draft.refuse(
                "needs_unmodelled",
                key,
                f"it needs {name}, which PROD lacks and which is not made here",
                remedy,
            )


def _parts(draft: Draft, key: Key) -> Iterator[Key]:
    table = draft.desired.table(key)
    columns = [key] if key.kind is Kind.COLUMN else [one.key for one in table.columns.values()] if table else []
    yield from (key, *columns, *(Key(Kind.DEFAULT, *one[1:]) for one in columns))


def _features(value: Object) -> Iterator[tuple[str, int]]:
    match value:
        case Table():
            for column in value.columns.values():
                yield from _features(column)
                if column.identity and value.partition_key:
                    yield f"identity column {column.key.part} of a partitioned table", 17
            if value.partition_key and value.method not in (None, "heap"):
                yield "access method of a partitioned table", 17
        case Column(generated="v"):
            yield f"virtual generated column {value.key.part}", 18
        case Constraint():
            if value.definition.endswith(" NOT ENFORCED"):
                yield "NOT ENFORCED", 18
            if " WITHOUT OVERLAPS)" in value.definition or (value.type == "f" and ", PERIOD " in value.definition):
                yield "a key over periods of time", 18
            if value.nulls_equal:
                yield "NULLS NOT DISTINCT", 15
            if value.type == "f" and _SET_COLUMNS.search(value.definition):
                yield "ON DELETE SET of some columns", 15
        case Index(nulls_equal=True):
            yield "NULLS NOT DISTINCT", 15
        case View() if any(one.startswith("security_invoker=") for one in value.options):
            yield "security_invoker", 15
        case Other(key) if key.kind is Kind.COLLATION:
            if "provider = builtin" in value.definition:
                yield "a collation of the server's own", 17
            if ", rules = " in value.definition:
                yield "rules of a collation", 16
        case Sequence(persistence="u"):
            yield "an unlogged sequence", 15
        case _:
            return
