"""What must be dropped before something can change, and in which order: the dependents of what changes, by pg_depend."""

from __future__ import annotations

from collections.abc import Iterable

from .ddl import Writer, ident
from .model import Catalog, Constraint, Key, Kind

_DROPPABLE = frozenset(
    {
        Kind.FUNCTION, Kind.VIEW, Kind.MATVIEW, Kind.TRIGGER, Kind.POLICY, Kind.CONSTRAINT, Kind.INDEX, Kind.DEFAULT,
        Kind.AGGREGATE, Kind.CAST, Kind.STATISTICS, Kind.RULE,
    }
)  # fmt: skip
# What the server itself keeps in step when a column's type changes.
_FOLLOWS_TYPE = frozenset({Kind.INDEX, Kind.SEQUENCE, Kind.DEFAULT, Kind.TABLE})


class Closure:
    """Grows the set of objects to drop; nothing in it bears data of its own (a generated column's values are computed)."""

    def __init__(self, current: Catalog) -> None:
        self.current = current
        self.dropped: set[Key] = set()
        self.recomputed: set[Key] = set()
        self.released: set[Key] = set()
        self.refused: dict[Key, str] = {}

    def drop(self, key: Key, because: Key | None = None) -> None:
        """Drop `key`, and first whatever depends on it."""
        pending = [(key, because or key)]
        while pending:
            one, reason = pending.pop()
            if one in self.dropped:
                continue
            if self.releases(one):
                continue
            if self.computes(one):
                one = Key(Kind.COLUMN, one.schema, one.name, one.part)
                if one in self.dropped:
                    continue
            if one.kind is Kind.COLUMN and self._generated(one):
                if len(self.current.with_heirs(one)) > 1 or self.current.parents_of(one):
                    self.refused[reason] = (
                        f"{one} is computed and inherited, and would have to be dropped with all its kin"
                    )
                    continue
            elif one.kind not in _DROPPABLE:
                self.refused[reason] = f"{one} depends on it and cannot be dropped and put back"
                continue
            if self._strangers_in_the_way(one, reason):
                continue
            self.dropped.add(one)
            pending += [
                (dependent, reason)
                for dependent in self.current.dependents.get(one, ())
                if not (one.kind is Kind.COLUMN and dependent.kind is Kind.DEFAULT and dependent.part == one.part)
            ]

    def drop_recomputed(self, column: Key) -> None:
        """Drop a column that holds nothing but what it will compute (a guard makes sure), and whatever depends on it."""
        if len(self.current.with_heirs(column)) > 1 or self.current.parents_of(column):
            self.refused[column] = "it is inherited, and would have to be dropped with all its kin"
            return
        self.recomputed.add(column)
        self.dropped.add(column)
        for dependent in sorted(self.current.dependents.get(column, ())):
            if not (dependent.kind is Kind.DEFAULT and dependent.part == column.part):
                self.drop(dependent, column)

    def retype(self, column: Key) -> None:
        """Drop what the server refuses to change a column's type under; its own default is the column's matter."""
        for one in self.current.with_heirs(column):
            self._strangers_in_the_way(one, column)
            for dependent in sorted(self.current.dependents.get(one, ())):
                if dependent.kind is Kind.DEFAULT and dependent.part != one.part:
                    self.drop(dependent, column)  # a generated column
                elif dependent.kind is Kind.CONSTRAINT:
                    found = self.current.objects.get(dependent)
                    if isinstance(found, Constraint) and found.type == "f":
                        self.drop(dependent, column)
                elif dependent.kind not in _FOLLOWS_TYPE:
                    self.drop(dependent, column)

    def _strangers_in_the_way(self, key: Key, reason: Key) -> bool:
        names = self.current.strangers.get(key)
        if names:
            self.refused[reason] = f"{', '.join(names)} depends on {key}, and is not among what is compared"
        return bool(names)

    def computes(self, key: Key) -> bool:
        """Is `key` the expression of a computed column?"""
        return key.kind is Kind.DEFAULT and self._generated(key)

    def releases(self, key: Key) -> bool:
        """Is `key` an expression that is dropped first, so that its column keeps the computed values?"""
        return key.kind is Kind.DEFAULT and Key(Kind.COLUMN, *key[1:]) in self.released

    def _generated(self, key: Key) -> bool:
        column = self.current.column(Key(Kind.COLUMN, key.schema, key.name, key.part))
        return column is not None and column.generated != ""

    def order(self) -> list[Key]:
        """Dependents before what they depend on."""
        result: list[Key] = []
        state: dict[Key, bool] = {}
        for root in sorted(self.dropped):
            stack: list[tuple[Key, Iterable[Key] | None]] = [(root, None)]
            while stack:
                key, children = stack.pop()
                if children is None:
                    if key in state:
                        continue
                    state[key] = True
                    stack.append((key, ()))
                    stack += [(one, None) for one in self.current.dependents.get(key, ()) if one in self.dropped]
                else:
                    result.append(key)
        return result

    def drop_text(self, key: Key, writer: Writer) -> str:
        if key.kind is Kind.COLUMN:
            if not (self._generated(key) or key in self.recomputed):
                raise AssertionError(f"{key} bears data and is never dropped")
            return f"ALTER TABLE {writer.name(key.table)} DROP COLUMN {ident(key.part)}"
        return writer.drop(key)
