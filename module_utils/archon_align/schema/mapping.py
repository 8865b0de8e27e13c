"""A table of another shape: how each of DEV's columns is had from PROD's rows. Pure.

What a person gives as expressions is taken as given; a column of the same name (or one that is merely named) is converted
as a change of type would be. Whatever would not survive is asked of the rows beforehand.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property

from .conversion import INPUT_IS_VALID_SINCE, conversion, domain_refuses, type_of, way_there
from .ddl import Writer, ident, literal
from .decided import Decided
from .model import Catalog, Column, Composite, Domain, Enum, Key, Table
from .widening import split

_BARE = re.compile(r'\s*(?:([A-Za-z_\u0080-\uffff][\w$]*)|"((?:[^"]|"")+)")\s*')
_INTEGERS = ("smallint", "integer", "bigint")
_INEXACT = "ARRAY['numeric', 'real', 'double precision']::regtype[]"
_TEXTS = "ARRAY['text', 'character varying', 'character', 'unknown']::regtype[]"
_STRINGS = ("text", "character varying", "character")


@dataclass(frozen=True, slots=True)
class Mapped:
    """One of DEV's columns. `value` gives what it will hold, `proof` the same in types that PROD has now; both are over PROD's
    table. `lost` is true for a row whose value would not survive (None: none can be lost, or it would fail by itself)."""

    column: Column
    value: str
    proof: str
    lost: str | None
    reason: str
    given: bool


class Mapping:
    """How the rows of `table` as PROD has it become those of DEV's."""

    def __init__(self, decided: Decided, desired: Catalog, table: Key) -> None:
        old, new = decided.whole.table(table), desired.table(table)
        assert old is not None
        assert new is not None
        self.decided, self.desired = decided, desired
        self.old: Table = old
        self.new: Table = new
        self.writer = Writer(decided.whole.extension_schemas)

    @cached_property
    def columns(self) -> dict[str, Mapped]:
        """DEV's columns that are filled from PROD's rows; the others get their default."""
        found = {}
        for name, column in self.new.columns.items():
            if not column.generated and (mapped := self._mapped(column)) is not None:
                found[name] = mapped
        return found

    @property
    def without_value(self) -> list[Column]:
        """DEV's columns that must not be NULL and get a value from nowhere."""
        return [
            column
            for name, column in self.new.columns.items()
            if name not in self.columns and column.not_null and not self._supplied(column)
        ]

    def read(self) -> str:
        """A FROM item for the expressions, on the database as it is before the plan."""
        key = self.old.key
        return self.decided.source(key) or f"{ident(key.schema, key.name)} AS {ident(key.name)}"

    def origin(self, name: str) -> Column | None:
        """The column of PROD's that one of DEV's merely takes over."""
        given = self.decided.shapes[self.new.key].get(name)
        return self.old.columns.get(name if given is None else self._bare(given))

    def _supplied(self, column: Column) -> bool:
        domain = type_of(self.desired, column)
        default = column.default is not None or (isinstance(domain, Domain) and domain.default is not None)
        return default or bool(column.identity or column.generated)

    def _mapped(self, column: Column) -> Mapped | None:
        name, key = column.key.part, column.key
        given = self.decided.shapes[self.new.key].get(name, self.decided.conversions.get(key))
        fill = self.decided.backfills.get(key)
        source = self.old.columns.get(name if given is None else self._bare(given))
        if source is None and given is None:
            given, fill = fill, None
        if source is None and given is None:
            return None
        mapped = self._taken_over(source, column) if source is not None else self._computed(given or "", column)
        if fill is not None:
            filled = self._computed(fill, column)
            return Mapped(
                column, f"coalesce({mapped.value}, {filled.value})", f"coalesce({mapped.proof}, {filled.proof})",
                mapped.lost, mapped.reason, given=True,
            )  # fmt: skip
        return mapped

    @staticmethod
    def _bare(expression: str) -> str:
        """The column that an expression merely names; empty when it is more than a name."""
        match = _BARE.fullmatch(expression)
        if match is None:
            return ""
        return match[1].lower() if match[1] is not None else match[2].replace('""', '"')

    def _enum(self, column: Column) -> Enum | None:
        for key in self.desired.depends.get(column.key, ()):
            found = self.desired.objects.get(key)
            if isinstance(found, Enum):
                return found
        return None

    def _exists(self, column: Column) -> bool:
        needed = self.desired.depends.get(column.key, ())
        return all(
            key in self.decided.whole.objects for key in needed if isinstance(self.desired.objects.get(key), Composite)
        )

    # -- a column of PROD's, as it is --------------------------------------------------------------------------------

    def _taken_over(self, old: Column, new: Column) -> Mapped:
        type_name = self.writer.text(new.type)
        array = "[]" if new.type.endswith("[]") else ""
        relabelled = self.decided.relabelling(old)
        if relabelled is not None:
            return Mapped(new, f"CAST({relabelled} AS {type_name})", relabelled, None, "", given=False)
        found = conversion(old, new, self.desired, self.decided.whole)
        if self._enum(new) is not None:
            # By its text, because the type may be made anew by the same plan.
            text = f"CAST({ident(old.key.part)} AS text{array})"
            return Mapped(new, f"CAST({text} AS {type_name})", text, found.misfit, found.reason, given=False)
        if old.type == new.type:
            value = ident(old.key.part)
            return Mapped(new, value, value, None, "", given=False)
        value = way_there(old, new, self.decided.whole)
        domain = type_of(self.desired, new)
        proof = value
        if isinstance(domain, Domain):
            proof = way_there(old, Column(new.key, domain.base, split(domain.base)[0]), self.decided.whole)
        return Mapped(new, value, proof, found.misfit, found.reason, given=False)

    # -- an expression -----------------------------------------------------------------------------------------------

    def _computed(self, expression: str, new: Column) -> Mapped:
        value, type_name = f"({expression})", self.writer.text(new.type)
        array = "[]" if new.type.endswith("[]") else ""
        kind, enum = type_of(self.desired, new), self._enum(new)
        if enum is not None:
            text = f"CAST({value} AS text{array})"
            return Mapped(new, f"CAST({text} AS {type_name})", text, self._no_label(text, enum, array), f"the value is no label of {enum.key.qualified}", given=True)  # fmt: skip
        cast = f"CAST({value} AS {type_name})"
        if isinstance(kind, Domain):
            base = f"CAST({value} AS {self.writer.text(kind.base)})"
            probe = Column(new.key, kind.base, split(kind.base)[0])
            refused = domain_refuses(kind, base, self.writer)
            lost = " OR ".join(f"({one})" for one in (self._lost(value, probe), refused) if one is not None) or None
            return Mapped(new, cast, base, lost, f"the value would not be the same as {type_name}", given=True)
        proof = cast if self._exists(new) else f"CAST({value} AS text)"
        return Mapped(new, cast, proof, self._lost(value, new), f"the value would not be the same as {type_name}", given=True)  # fmt: skip

    def _no_label(self, text: str, enum: Enum, array: str) -> str:
        found = self.decided.whole.objects.get(enum.key)
        gone = self.decided.remaps.get(enum.key, {})
        old = [label for label in found.labels if label not in gone] if isinstance(found, Enum) else []
        labels = ", ".join(map(literal, dict.fromkeys((*enum.labels, *old))))
        if array:
            return f"NOT {text} <@ ARRAY[{labels}]::text[]"
        return f"{text} <> ALL (ARRAY[{labels}]::text[])"

    def _lost(self, value: str, new: Column) -> str | None:
        """A condition for values that the cast to DEV's type would shorten, round or refuse."""
        base, modifiers, array = split(new.type)
        type_name = self.writer.text(new.type)
        cast, text = f"CAST({value} AS {type_name})", f"CAST({value} AS text)"
        lost = None
        if base == "character":
            lost = f"rtrim({text}) IS DISTINCT FROM CAST({cast} AS text)" if not array else None
        elif modifiers or new.type != new.base:
            unlimited = {"bit": "bit varying"}.get(new.base, self.writer.text(new.base))
            lost = f"CAST({value} AS {unlimited}) IS DISTINCT FROM CAST(CAST({value} AS {unlimited}) AS {type_name})"
        elif base in _INTEGERS and not array:
            exact = f"CAST({text} AS numeric) IS DISTINCT FROM CAST({cast} AS numeric)"
            lost = f"CASE WHEN pg_typeof({value}) = ANY ({_INEXACT}) THEN {exact} ELSE false END"
        if base in _STRINGS or array or self.decided.whole.version < INPUT_IS_VALID_SINCE:
            return lost
        unreadable = f"NOT pg_input_is_valid({text}, {literal(type_name)})"
        return (
            f"CASE WHEN {value} IS NULL THEN false WHEN pg_typeof({value}) = ANY ({_TEXTS}) AND {unreadable} THEN true"
            f" ELSE {lost or 'false'} END"
        )
