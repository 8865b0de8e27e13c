"""How one column's type becomes another: the USING expression, and the condition that finds values that would not survive."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from .ddl import Writer, ident, literal
from .model import Catalog, Column, Domain, Enum, Key, Kind
from .portable import extensions_in
from .vectors import changes_dimensions
from .vectors import misfit as vectors_misfit
from .widening import assumes_time_zone, keeps_values, loses_precision, rewrites, split

_STRINGS = ("text", "character varying", "character")
_NUMBERS = ("smallint", "integer", "bigint", "numeric", "real", "double precision")
_FLOATS = ("real", "double precision")
_RANGES = {"smallint": 2**15, "integer": 2**31, "bigint": 2**63}
# Types among which a value may be written otherwise and still be the same. Any other change must leave its text alone: a cast
# there and back could pass 65 as "A" or 1 as \x00000001.
_SAME_VALUES = (
    frozenset((*_NUMBERS, "money")),
    frozenset(("boolean", *_RANGES)),
    frozenset(("date", "timestamp without time zone")),
    frozenset(("inet", "cidr")),
    frozenset(("macaddr", "macaddr8")),
)
_C = 'COLLATE pg_catalog."C"'
INPUT_IS_VALID_SINCE = 160000


@dataclass(frozen=True, slots=True)
class Conversion:
    """`using` is empty when the server needs none. `misfit` is true for a stored value that would not survive (None: no
    value can be lost), and `reason` says so in words."""

    using: str
    misfit: str | None
    reason: str
    hazards: tuple[str, ...]


def type_of(catalog: Catalog, column: Column) -> Enum | Domain | None:
    """The user-defined enum or domain that a column is of (not: an array of it)."""
    return None if column.type.endswith("[]") else _kind_of(catalog, column)


def _kind_of(catalog: Catalog, column: Column) -> Enum | Domain | None:
    """The enum or domain that a column or its elements are of."""
    for key in catalog.depends.get(column.key, ()):
        found = catalog.objects.get(key)
        if isinstance(found, (Enum, Domain)):
            return found
    return None


def conversion(old: Column, new: Column, desired: Catalog, current: Catalog) -> Conversion:
    """How `old` (of `current`) becomes `new` (of `desired`)."""
    writer = Writer(current.extension_schemas)
    column, kind = ident(old.key.part), type_of(desired, new)
    rewriting = ("rewrites_table",) if rewrites(old.type, new.type) or kind is not None else ()
    hazards = ("takes_exclusive_lock", *rewriting)
    if old.type == new.type:
        return Conversion("", None, "", hazards)
    new_type = writer.text(new.type)
    proven = keeps_values(old.type, new.type)
    if proven:
        return Conversion("", None, "", hazards)
    hazards = (*hazards, "narrows_type", "validates_rows")
    if loses_precision(old.type, new.type):
        hazards = (*hazards, "loses_precision")
    forward = _cast(current, old, new, column, writer)

    def only_null(reason: str) -> Conversion:
        return Conversion(forward, f"{column} IS NOT NULL", reason, hazards)

    if changes_dimensions(old, new):
        lost = vectors_misfit(old, new, column, current.extension_schemas)
        return Conversion(forward, lost, "a vector of another dimension has to be computed anew", hazards)
    if assumes_time_zone(old.type, new.type):
        return only_null("a time zone would have to be assumed, which no row states")
    element = _kind_of(desired, new)
    arrays = old.type.endswith("[]") and new.type.endswith("[]")
    if isinstance(element, Enum) and (arrays or element is kind):
        text = f"CAST({column} AS text{'[]' if arrays else ''})"
        unknown = f"{column} IS NOT NULL AND {_no_label(text, element, current, arrays=arrays)}"
        return Conversion(forward, unknown, f"the value is no label of {element.key.qualified}", hazards)
    probe = new
    if isinstance(kind, Domain):
        # The domain may not exist yet: its base type is tried, and its conditions are asked besides.
        probe = Column(new.key, kind.base, split(kind.base)[0])
    elif _is_unknown(current, desired, new):
        return only_null(f"{new_type} does not exist there yet, so nothing can be tried")
    misfit = _misfit(old, probe, column, current, writer)
    if isinstance(kind, Domain) and (
        refused := domain_refuses(kind, _cast(current, old, probe, column, writer), writer)
    ):
        misfit = f"CASE WHEN {misfit} THEN true ELSE {refused} END"
    return Conversion(
        forward,
        misfit,
        f"the value would not be the same as {new_type}",
        hazards,
    )


def _no_label(text: str, enum: Enum, current: Catalog, *, arrays: bool) -> str:
    found = current.objects.get(enum.key)
    labels = dict.fromkeys((*enum.labels, *(found.labels if isinstance(found, Enum) else ())))
    listed = f"ARRAY[{', '.join(map(literal, labels))}]::text[]"
    if arrays:
        return f"EXISTS (SELECT FROM unnest({text}) AS held (label) WHERE label {_C} <> ALL ({listed}))"
    return f"{text} {_C} <> ALL ({listed})"


def users_of_domain(catalog: Catalog, domain: Key) -> Iterator[Column]:
    """The stored columns that hold values of a domain: as they are, as a domain over it, or within arrays and composite values."""
    pending, seen = [domain], {domain}
    while pending:
        for user in sorted(catalog.dependents.get(pending.pop(), ())):
            column = catalog.column(user) if user.kind is Kind.COLUMN else None
            if column is not None:
                yield column
            elif user.kind in (Kind.DOMAIN, Kind.COMPOSITE) and user not in seen:
                seen.add(user)
                pending.append(user)


def way_there(old: Column, new: Column, current: Catalog) -> str:
    """The expression that turns a value of `old` into the one of `new` that it becomes."""
    return _cast(current, old, new, ident(old.key.part), Writer(current.extension_schemas))


def way_back(old: Column, new: Column, current: Catalog, value: str = "") -> str:
    """The expression that turns a value of `new` (the column's, if none is given) into the one of `old` that it was: by it
    the change is proved."""
    return _cast(current, new, old, value or ident(new.key.part), Writer(current.extension_schemas))


def in_proof(old: Column, value: str, current: Catalog) -> str:
    """How a value of `old` is written where it is proved that it stays the same: a number of any scale without idle zeros."""
    kind = type_of(current, old)
    of_any_scale = (kind.base if isinstance(kind, Domain) else old.type) == "numeric"
    return f"pg_catalog.trim_scale({value})" if of_any_scale else value


def replaced(new: Column, desired: Catalog, current: Catalog) -> str:
    """A condition that is true where computing the column as `new` would replace a stored value by another."""
    column = ident(new.key.part)
    stored = f"{column} IS NOT NULL"
    for key in desired.depends.get(Key(Kind.DEFAULT, *new.key[1:]), frozenset()) - {new.key}:
        one, other = desired.column(key), current.column(key)
        same = one.type == other.type if one and other else desired.objects.get(key) == current.objects.get(key)
        if not same:  # what the expression needs is not there yet
            return stored
    if _is_unknown(current, desired, new):
        return stored
    writer = Writer(current.extension_schemas)
    computed = f"CAST(({writer.text(new.default or '')}) AS {writer.text(new.type)})"
    return f"{stored} AND {_differs(f'CAST({column} AS text)', f'CAST({computed} AS text)')}"


def domain_refuses(domain: Domain, value: str, writer: Writer) -> str | None:
    """A condition that is true when the domain does not accept `value`; None when it accepts everything."""
    conditions = [f"NOT ({writer.text(condition)})" for _, condition in domain.constraints.values()]
    if domain.not_null:
        conditions.append("VALUE IS NULL")
    if not conditions:
        return None
    held = f"(SELECT CAST({value} AS {writer.text(domain.base)}) AS value) AS held"
    return f"EXISTS (SELECT FROM {held} WHERE {' OR '.join(conditions)})"


def _is_unknown(current: Catalog, desired: Catalog, column: Column) -> bool:
    needed = (key for key in desired.depends.get(column.key, ()) if key.kind is not Kind.TABLE)
    if any(key not in current.objects for key in needed):
        return True
    return not extensions_in(column.type) <= current.extension_schemas.keys()


def _castable(current: Catalog, old: Column, new: Column) -> bool:
    (one, _, one_array), (other, _, other_array) = split(old.base), split(new.base)
    if one_array != other_array:
        return False
    return one == other or one in _STRINGS or other in _STRINGS or (one, other) in current.casts


def _cast(current: Catalog, old: Column, new: Column, value: str, writer: Writer) -> str:
    target = writer.text(new.type)
    if _castable(current, old, new):
        return f"CAST({value} AS {target})"
    through = "text[]" if old.type.endswith("[]") and new.type.endswith("[]") else "text"
    return f"CAST(CAST({value} AS {through}) AS {target})"


def _misfit(old: Column, new: Column, column: str, current: Catalog, writer: Writer) -> str:
    domain = type_of(current, old)
    old_base, new_base = split(domain.base if isinstance(domain, Domain) else old.type)[0], split(new.type)[0]
    if old_base in _NUMBERS and new_base in _RANGES and "[]" not in old.type + new.type:
        # Asked without a cast, which would fail on the first value out of range.
        limit = _RANGES[new_base]
        outside = f"{column} NOT BETWEEN {-limit} AND {limit - 1}"
        fraction = f" OR {column} <> trunc({column})" if old_base not in _RANGES else ""
        if old_base in _FLOATS:
            fraction += f" OR CAST({column} AS text) = '-0'"  # equal to 0, yet not the same
        return f"{column} IS NOT NULL AND ({outside}{fraction})"
    there = _cast(current, old, new, column, writer)
    back = _cast(current, new, old, there, writer)
    if old_base in _NUMBERS and new_base in _NUMBERS and old_base not in _FLOATS:
        lost = f"{back} IS DISTINCT FROM {column}"
    else:
        lost = _differs(f"CAST({back} AS text)", f"CAST({column} AS text)")
    if old_base != new_base and not any({old_base, new_base} <= same for same in _SAME_VALUES):
        lost = f"({lost} OR {_differs(f'CAST({there} AS text)', f'CAST({column} AS text)')})"
    if current.version < INPUT_IS_VALID_SINCE:
        return f"{column} IS NOT NULL AND {lost}"
    readable = f"pg_input_is_valid(CAST({column} AS text), {literal(writer.text(new.type))})"
    if old_base in ("boolean", "bytea", "money"):
        readable = "true"  # their text is no input of the types they can be cast to
    return f"CASE WHEN {column} IS NULL THEN false WHEN NOT {readable} THEN true ELSE {lost} END"


def _differs(one: str, other: str) -> str:
    return f"{one} {_C} IS DISTINCT FROM {other} {_C}"
