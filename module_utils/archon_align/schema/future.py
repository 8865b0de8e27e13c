"""Tables as they will be once the plan is carried out, as something that can be read before: what is asked of the rows (is this
unique, does it refer to something) is asked of the values that they will have."""

from __future__ import annotations

import re

from .compare import MISSING, Comparison
from .conversion import conversion, type_of, way_there
from .ddl import Writer, ident
from .decided import Decided
from .mapping import Mapping
from .model import Column, Domain, Key, Kind

# What gives every row a value of its own, or cannot be called without leaving a trace.
_OF_EACH_ROW = re.compile(
    r"\b(nextval|setval|\w*random\w*|\w*uuid\w*|clock_timestamp|timeofday|statement_timestamp)\(", re.IGNORECASE
)
_EXTENSION_CALL = re.compile("\ue000")


class Future:
    """Reads the current database's tables with the columns that `comparison` and `decided` will give them."""

    def __init__(self, comparison: Comparison, decided: Decided) -> None:
        self.desired, self.current = comparison.desired, comparison.current
        self.decided = decided
        self.writer = Writer(self.current.extension_schemas)
        self.aspects: dict[Key, set[str]] = {}
        for difference in comparison.differences:
            if difference.key.kind is Kind.COLUMN:
                self.aspects.setdefault(difference.key, set()).add(difference.aspect)
        self.shapes = {
            table: Mapping(decided, self.desired, table) for table in decided.shapes if table in self.desired.objects
        }
        self.relabelled = {
            user
            for enum in decided.remaps
            for user in self.current.dependents.get(enum, ())
            if user.kind is Kind.COLUMN
        }

    def knows(self, column: Key) -> bool:
        """Can it be said what will be in this column?"""
        new, old = self.desired.column(column), self.current.column(column)
        if new is not None and (shape := self.shapes.get(column.table)) is not None:
            return column.part in shape.columns or new.generated != "" or self._default(new) is not None
        if new is None or column in self.decided.backfills:
            return old is not None or new is not None
        if MISSING not in self.aspects.get(column, ()):
            return old is not None
        return new.generated != "" or self._default(new) is not None

    def source(self, table: Key) -> str | None:
        """A FROM item that reads `table` with its future values; None when a plain name does."""
        if (shape := self.shapes.get(table)) is not None:
            return self._shaped(shape)
        found = self.current.table(table)
        wanted = self.desired.table(table)
        columns = {name: ident(name) for name in found.columns} if found is not None else {}
        changed, computed = {}, {}
        for column in wanted.columns.values() if wanted is not None else ():
            aspects = self.aspects.get(column.key, set())
            if column.generated and aspects & {MISSING, "default", "type", "generated"}:
                computed[column.key.part] = f"CAST(({self.writer.text(column.default or '')}) AS {self._type(column)})"
            elif (text := self._value(column, aspects)) is not None:
                changed[column.key.part] = text
        plain = self.decided.source(table)
        if not changed and not computed:
            return plain
        read = plain or ident(table.schema, table.name)
        shown = {name: text for name, text in {**columns, **changed}.items() if name not in computed}
        read = f"(SELECT ctid{_listed(shown)} FROM {read}) AS {ident(table.name)}"  # noqa: S608 - composed of identifiers
        if computed:
            # Over the others' future values, as the server will compute them.
            shown = {name: ident(name) for name in shown} | computed
            read = f"(SELECT ctid{_listed(shown)} FROM {read}) AS {ident(table.name)}"  # noqa: S608 - likewise
        return read

    def _shaped(self, shape: Mapping) -> str:
        table, values, computed = shape.new.key, {}, {}
        for name, column in shape.new.columns.items():
            if column.generated:
                computed[name] = f"CAST(({self.writer.text(column.default or '')}) AS {self._type(column)})"
            elif (mapped := shape.columns.get(name)) is not None:
                values[name] = mapped.value
            elif (default := self._default(column)) is not None:
                values[name] = f"CAST(({default}) AS {self._type(column)})"
        read = f"(SELECT ctid{_listed(values)} FROM {shape.read()}) AS {ident(table.name)}"  # noqa: S608 - composed of identifiers
        if computed:
            shown = {name: ident(name) for name in values} | computed
            read = f"(SELECT ctid{_listed(shown)} FROM {read}) AS {ident(table.name)}"  # noqa: S608 - likewise
        return read

    def _type(self, column: Column) -> str:
        return self.writer.text(column.type)

    def _value(self, new: Column, aspects: set[str]) -> str | None:
        """The expression over the table as it is that gives the column's future value; None when it stays what it is."""
        column, old = new.key, self.current.column(new.key)
        if (given := self.decided.conversions.get(column)) is not None:
            value = f"({given})"
        elif old is None:
            fill = self.decided.backfills.get(column)
            if fill is None and (MISSING not in aspects or (fill := self._default(new)) is None):
                return None
            value = f"({fill})"
        elif (remap := self.decided.relabelling(old)) is not None and column in self.relabelled:
            return remap
        elif column in self.decided.backfills and new.not_null and not old.not_null:
            value = f"coalesce({ident(column.part)}, ({self.decided.backfills[column]}))"
        elif "type" in aspects and not old.generated and conversion(old, new, self.desired, self.current).using:
            return way_there(old, new, self.current)
        else:
            return None
        return f"CAST({value} AS {self._type(new)})"

    def _default(self, new: Column) -> str | None:
        """What a new column will hold in every row that exists; None when each gets a value of its own, or nobody can say."""
        if new.identity:
            return None
        default, domain = new.default, type_of(self.desired, new)
        needed = self.desired.depends.get(Key(Kind.DEFAULT, *new.key[1:]), ())
        calls = any(one.kind in (Kind.FUNCTION, Kind.SEQUENCE) for one in needed)
        if default is None and isinstance(domain, Domain):
            default = domain.default
        if default is None:
            return "NULL"
        if calls or _OF_EACH_ROW.search(default) or _EXTENSION_CALL.search(default):
            return None
        return self.writer.text(default)


def _listed(columns: dict[str, str]) -> str:
    return "".join(f", {text} AS {ident(name)}" for name, text in columns.items())
