"""The differences as people read them: what lives on a table with its table, everything else by kind. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from .compare import MISSING, Comparison, Difference
from .model import Catalog, Column, Constraint, Enum, Index, Key, Kind, Other, Policy, Sequence, Trigger, View, readable

_ORDER = tuple(Kind)
_HOMES = (Kind.TABLE, Kind.VIEW, Kind.MATVIEW, Kind.COMPOSITE)
_GRANT = re.compile(r"grant \S+ to (?P<role>.*)", re.DOTALL)
_WIDTH = 100


@dataclass(frozen=True, slots=True)
class Entry:
    """One object. `new` says what is missing, as DEV has it; `changes` are (aspect, PROD's lines, DEV's lines)."""

    name: str
    new: str | None = None
    changes: tuple[tuple[str, tuple[str, ...], tuple[str, ...]], ...] = ()


@dataclass(slots=True)
class Group:
    """One table, or one kind. `missing`: the table itself is new."""

    heading: str
    missing: bool = False
    entries: list[Entry] = field(default_factory=list)


def grouped(comparison: Comparison) -> list[Group]:
    """The differences, in the order in which people look for them."""
    by_object: dict[Key, list[Difference]] = {}
    for difference in comparison.differences:
        by_object.setdefault(difference.key, []).append(difference)
    groups: dict[tuple[int, str], Group] = {}
    for key in sorted(by_object, key=lambda one: (_ORDER.index(one.kind), one)):
        home = _home(comparison, key)
        if home is not None:
            group = groups.setdefault((_ORDER.index(home.kind), str(home)), Group(str(home)))
            name = "" if key == home else f"{key.kind} {key.part or key.name}"
        else:
            group = groups.setdefault((_ORDER.index(key.kind), ""), Group(str(key.kind)))
            name = key.qualified
        _add(group, comparison.desired, key, name, by_object[key])
    return [groups[place] for place in sorted(groups)]


def _add(group: Group, desired: Catalog, key: Key, name: str, differences: Iterable[Difference]) -> None:
    changes: list[tuple[str, tuple[str, ...], tuple[str, ...]]] = []
    grants: dict[str, tuple[list[str], list[str]]] = {}
    for found in differences:
        if match := _GRANT.fullmatch(found.aspect):
            here, wanted = grants.setdefault(match["role"], ([], []))
            here += [found.current] if found.current else []
            wanted += [found.desired] if found.desired else []
        elif found.aspect == MISSING:
            group.missing |= not name
            group.entries += [Entry(name, _definition(desired, key))] if name else list(_columns(desired, key))
        else:
            changes.append((found.aspect, _lines(found.current), _lines(found.desired)))
    for role, (here, wanted) in grants.items():
        changes.append((f"grants to {role}", _lines(", ".join(here)), _lines(", ".join(wanted))))
    if changes:
        group.entries.append(Entry(name, changes=tuple(changes)))


def _home(comparison: Comparison, key: Key) -> Key | None:
    """The table (or view) with which a person would look for an object."""
    if key.kind is Kind.TABLE:
        return key
    value = comparison.desired.objects.get(key)
    if isinstance(value, Index):
        return value.table
    if isinstance(value, Other) and value.relation is not None:
        return value.relation
    if isinstance(value, Sequence):
        return value.owned_by.table if value.owned_by is not None else None
    if key.kind in (Kind.COLUMN, Kind.CONSTRAINT, Kind.TRIGGER, Kind.POLICY):
        homes = (Key(kind, key.schema, key.name) for kind in _HOMES)
        return next((home for home in homes if home in comparison.desired.objects), key.table)
    return None


def _columns(desired: Catalog, key: Key) -> Iterator[Entry]:
    """A new table's columns: they are no differences of their own."""
    table = desired.table(key)
    for column in table.columns.values() if table is not None else ():
        yield Entry(f"column {column.key.part}", _column(column))


def _definition(desired: Catalog, key: Key) -> str:
    """What a new object is, in a line; '' where that would be too long to help."""
    value = desired.objects.get(key) or desired.column(key)
    text = ""
    if isinstance(value, Column):
        text = _column(value)
    elif isinstance(value, Index):
        text = value.definition[value.definition.find("USING ") :]
    elif isinstance(value, (Constraint, Trigger, View, Other)):
        text = value.definition
    elif isinstance(value, Enum):
        text = ", ".join(value.labels)
    elif isinstance(value, Policy):
        text = f"{value.command} for {', '.join(value.roles)}"
    text = " ".join(readable(text).split())
    return text if len(text) <= _WIDTH else f"{text[:_WIDTH]} …"


def _column(column: Column) -> str:
    words = [column.type]
    if column.generated:
        words.append(f"generated as ({column.default})")
    elif column.identity:
        words.append("identity")
    elif column.default is not None:
        words.append(f"default {column.default}")
    return readable(" ".join([*words, *(["not null"] if column.not_null else [])]))


def _lines(text: str) -> tuple[str, ...]:
    return tuple(readable(text).splitlines()) or ("none",)


def side(groups: Iterable[Group], *, desired: bool) -> str:
    """One side of a before-and-after diff. Names stand in both, so that a tool finds what belongs together."""
    lines: list[str] = []
    for group in groups:
        if desired or not group.missing:
            lines.append(f"[{group.heading}]")
        for entry in group.entries:
            lines += _side_of(entry, desired=desired)
    return "\n".join(lines) + "\n" if lines else ""


def _side_of(entry: Entry, *, desired: bool) -> Iterator[str]:
    if entry.new is not None:
        if desired:
            yield f"  {entry.name}{f': {entry.new}' if entry.new else ''}"
        return
    if entry.name:
        yield f"  {entry.name}"
    for aspect, before, after in entry.changes:
        lines = after if desired else before
        if len(before) == len(after) == 1:
            yield f"    {aspect}: {lines[0]}"
        else:
            yield f"    {aspect}:"
            yield from (f"      {line}" for line in lines)
