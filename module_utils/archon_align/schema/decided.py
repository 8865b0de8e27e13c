"""Decisions brought together with the two catalogues: what PROD's structure is once the renames are made, and what the planner
may do besides what it does by itself. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from ..findings import Finding
from ..plan import Statement
from .aside import without
from .ddl import ident, literal
from .decisions import VARIABLE, Decisions, Names, unusable
from .model import Catalog, Column, Domain, Enum, Key, Kind, Table
from .renaming import Renames, renamed

_COLUMN = frozenset({Kind.COLUMN})
_TABLE = frozenset({Kind.TABLE})
_ENUM = frozenset({Kind.ENUM})
_QUARANTINED = frozenset(Kind) - {Kind.SCHEMA, Kind.EXTENSION, Kind.DEFAULT}
# What cannot live in another schema than what it belongs to: its definition is kept, and a column's values.
DROPPED = frozenset(
    {
        Kind.COLUMN, Kind.CONSTRAINT, Kind.INDEX, Kind.TRIGGER, Kind.POLICY, Kind.DOMAIN_CONSTRAINT,
        Kind.RULE, Kind.STATISTICS, Kind.CAST, Kind.OPERATOR,
    }
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Decided:
    """`found` is PROD's structure as read, `current` as it is after `opening` (the renames, run first in the transaction)
    and after tables of another shape and quarantined objects were set aside; `renamed` still has these.

    `origin` maps a table's or column's key in `current` to the one it was read under, where they differ. The other fields
    are the decisions that apply, by key: columns to expressions, enums to labels (old to new; `relabelled` are mere renames),
    tables to DEV's columns as expressions, objects to set aside. `findings` tell of decisions that apply to nothing.
    """

    found: Catalog
    current: Catalog
    opening: tuple[Statement, ...] = ()
    origin: Mapping[Key, Key] = field(default_factory=dict)
    relabelled: Mapping[Key, Mapping[str, str]] = field(default_factory=dict)
    backfills: Mapping[Key, str] = field(default_factory=dict)
    conversions: Mapping[Key, str] = field(default_factory=dict)
    remaps: Mapping[Key, Mapping[str, str]] = field(default_factory=dict)
    shapes: Mapping[Key, Mapping[str, str]] = field(default_factory=dict)
    quarantine: frozenset[Key] = frozenset()
    findings: tuple[Finding, ...] = ()
    renamed: Catalog | None = None

    @property
    def whole(self) -> Catalog:
        """PROD's structure after the renames, with what is set aside."""
        return self.renamed or self.current

    def as_read(self, key: Key) -> Key:
        """The key under which a table or column of `current` was read."""
        return self.origin.get(key, key)

    def relabelling(self, column: Column) -> str | None:
        """An expression for a column's labels as text (or text array) once they are what was decided; None when nothing
        was decided about its enum."""
        pairs = {
            old: new
            for decided in (self.remaps, self.relabelled)
            for enum, labels in decided.items()
            if column.key in self.whole.dependents.get(enum, ())
            for old, new in labels.items()
        }
        return _relabelled(column, pairs) if pairs else None

    def label_as_read(self, column: Column) -> str | None:
        """An expression for a column's labels as they were read, when some of them were merely renamed."""
        pairs = {
            new: old
            for enum, labels in self.relabelled.items()
            if column.key in self.whole.dependents.get(enum, ())
            for old, new in labels.items()
        }
        return _relabelled(column, pairs) if pairs else None

    def source(self, table: Key) -> str | None:
        """A FROM item that reads a renamed `table` as it was read, by its present and by its former names; None when a
        plain name does."""
        found = self.whole.table(table)
        names = {key.part: self.origin[key].part for key in _columns(found) if key in self.origin}
        if table not in self.origin and not any(new != old for new, old in names.items()):
            return None
        old = self.as_read(table)
        besides = "".join(f", t.{ident(was)} AS {ident(now)}" for now, was in names.items() if now != was)
        # Every part is a quoted identifier.
        return f"(SELECT t.ctid, t.*{besides} FROM {ident(old.schema, old.name)} AS t) AS {ident(table.name)}"  # noqa: S608


def decide(desired: Catalog, found: Catalog, decisions: Decisions) -> Decided:
    """What `decisions` mean for these two databases. Raises AlignError for a decision that cannot be what was meant.

    A decision whose object is nowhere to be found is told by a finding: it was carried out before, or is misspelt.
    """
    if not decisions:
        return Decided(found, found)
    return _Deciding(desired, found, decisions).decided()


class _Deciding:
    def __init__(self, desired: Catalog, found: Catalog, decisions: Decisions) -> None:
        self.desired = desired
        self.found = found
        self.decisions = decisions
        self.unused: list[str] = []

    def decided(self) -> Decided:
        renames = self._renames()
        current, opening, origin = renamed(self.desired, self.found, renames)
        names = Names(_all_keys(current))
        here = Names([*_all_keys(current), *_all_keys(self.desired)])
        shapes = {
            key: columns
            for name, columns in self.decisions.shapes.items()
            if (key := self._find(names, name, _TABLE)) is not None and self._shape_applies(key, columns, current)
        }
        quarantine = frozenset(self._quarantine(current))
        dropped = {key for key in quarantine if key.kind in DROPPED}
        return Decided(
            self.found,
            without(current, shapes, quarantine - dropped, dropped),
            opening,
            origin,
            renames.labels,
            self._expressions(self.decisions.backfills, here),
            self._expressions(self.decisions.conversions, here),
            self._remaps(names, current),
            shapes,
            quarantine,
            tuple(self._told()),
            current,
        )

    def _find(self, names: Names, name: str, kinds: frozenset[Kind]) -> Key | None:
        key = names.find(name, kinds)
        if key is None:
            self.unused.append(name)
        return key

    def _renames(self) -> Renames:
        names = Names(_all_keys(self.found))
        tables: dict[Key, str] = {}
        columns: dict[Key, str] = {}
        labels: dict[Key, dict[str, str]] = {}
        for rename in self.decisions.renames:
            key = self._find(names, rename.name, frozenset({rename.kind}))
            if key is None:
                continue
            if key.kind is Kind.ENUM:
                enum, wanted = self.found.objects[key], self.desired.objects.get(key)
                assert isinstance(enum, Enum)
                if rename.label not in enum.labels:
                    self.unused.append(f"{rename.name} label {rename.label!r}")
                elif rename.to in enum.labels:
                    raise unusable(str(key), "a new label that the enum does not have yet", repr(rename.to))
                elif not isinstance(wanted, Enum) or rename.to not in wanted.labels:
                    raise unusable(str(key), "a label that DEV has", repr(rename.to))
                else:
                    labels.setdefault(key, {})[rename.label] = rename.to
            elif key.kind is Kind.TABLE:
                tables[self._renamed_to(key, Key(Kind.TABLE, key.schema, rename.to))] = rename.to
            else:
                columns[key] = rename.to
        for key, to in columns.items():
            # A column may be renamed together with its table.
            table = tables.get(key.table, key.name)
            self._renamed_to(key, Key(Kind.COLUMN, key.schema, table, to))
        return Renames(tables, columns, labels)

    def _renamed_to(self, old: Key, new: Key) -> Key:
        """`old`, when it may take the name of `new`; raises AlignError when not."""
        wanted, taken = (
            catalog.column(new) if new.kind is Kind.COLUMN else catalog.objects.get(new)
            for catalog in (self.desired, self.found)
        )
        if wanted is None:
            raise unusable(str(old), f"a {new.kind} that DEV has", new.qualified)
        if taken is not None:
            raise unusable(str(old), "a name that is free on PROD", f"PROD has a {new.kind} {new.qualified} already")
        return old

    def _expressions(self, given: Mapping[str, str], names: Names) -> dict[Key, str]:
        return {
            key: text for name, text in given.items() if (key := self._find(names, name, _COLUMN)) is not None
        }  # fmt: skip

    def _remaps(self, names: Names, current: Catalog) -> dict[Key, dict[str, str]]:
        found: dict[Key, dict[str, str]] = {}
        for name, labels in self.decisions.label_remaps.items():
            key = self._find(names, name, _ENUM)
            wanted = self.desired.objects.get(key) if key is not None else None
            if key is None or not isinstance(wanted, Enum):
                continue
            enum = current.objects[key]
            assert isinstance(enum, Enum)
            for old, new in labels.items():
                if new not in wanted.labels:
                    raise unusable(str(key), "labels that DEV has to take the place of others", repr(new))
                if old in wanted.labels:
                    raise unusable(str(key), "labels that DEV does not have to be replaced", repr(old))
                if old in enum.labels:
                    found.setdefault(key, {})[old] = new
                else:
                    self.unused.append(f"{name} label {old!r}")
        return found

    def _shape_applies(self, key: Key, columns: Mapping[str, str], current: Catalog) -> bool:
        """A shape is taken over as long as PROD's table lacks one of the columns, or has it otherwise."""
        wanted, table = self.desired.table(key), current.table(key)
        if wanted is None:
            raise unusable(str(key), "a table that DEV has too", "a table that only PROD has")
        unknown = sorted(columns.keys() - wanted.columns.keys())
        if unknown:
            raise unusable(str(key), "columns that DEV's table has", ", ".join(unknown))
        assert table is not None
        return any(
            name not in table.columns or table.columns[name].type != wanted.columns[name].type for name in columns
        )

    def _quarantine(self, current: Catalog) -> list[Key]:
        names = Names([*_all_keys(current), *_domain_constraints(current)])
        wanted = {*_all_keys(self.desired), *_domain_constraints(self.desired)}
        found = []
        for name in self.decisions.quarantine:
            key = self._find(names, name, _QUARANTINED)
            if key is None:
                continue
            if key in wanted:
                raise unusable(str(key), "an object that only PROD has", "DEV has it too")
            found.append(key)
        return found

    def _told(self) -> list[Finding]:
        return [
            Finding(
                "decision_without_object",
                "info",
                name,
                "a decision names it, but PROD has nothing (more) of that name to which it applies",
                f"Nothing to do if it was carried out before; otherwise correct {VARIABLE}.",
            )
            for name in self.unused
        ]


def _columns(table: Table | None) -> list[Key]:
    return [column.key for column in table.columns.values()] if table is not None else []


def _domain_constraints(catalog: Catalog) -> list[Key]:
    return [
        Key(Kind.DOMAIN_CONSTRAINT, key.schema, key.name, name)
        for key, value in catalog.objects.items()
        if isinstance(value, Domain)
        for name in value.constraints
    ]


def _all_keys(catalog: Catalog) -> list[Key]:
    return [*catalog.objects, *(column for key in catalog.objects for column in _columns(catalog.table(key)))]


def _relabelled(column: Column, pairs: Mapping[str, str]) -> str:
    array = "[]" if column.type.endswith("[]") else ""
    value = f"CAST({ident(column.key.part)} AS text{array})"
    if array:
        for old, new in pairs.items():
            value = f"array_replace({value}, {literal(old)}, {literal(new)})"
        return value
    cases = " ".join(f"WHEN {literal(old)} THEN {literal(new)}" for old, new in pairs.items())
    return f"CASE {value} {cases} ELSE {value} END"


def quarantine_name(wanted: str, taken: frozenset[str] | set[str]) -> str:
    """A name in the quarantine schema that is free: `wanted`, cut to 63 bytes, with a number where it is taken."""
    for number in range(1, len(taken) + 2):
        suffix = "" if number == 1 else f"_{number}"
        name = wanted.encode()[: 63 - len(suffix)].decode(errors="ignore") + suffix
        if name not in taken:
            return name
    raise AssertionError("unreachable: one number more than names is free")
