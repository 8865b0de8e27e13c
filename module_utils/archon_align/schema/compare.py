"""Compare two catalogues by meaning. Pure: no database is asked."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, replace
from typing import get_args

from .model import (
    OWNER,
    PUBLIC,
    VECTOR_INDEX_METHODS,
    Catalog,
    Column,
    Composite,
    Constraint,
    Domain,
    Enum,
    Extension,
    Grant,
    Index,
    Key,
    Kind,
    Object,
    Other,
    Sequence,
    Table,
    View,
    readable,
)
from .portable import same_meaning
from .vectors import half_way

MISSING = "missing"
UNMODELLED = "unmodelled"
# What is told of but is no object of its own: circumstances of objects, or of the whole database.
NO_OBJECTS = frozenset(
    {
        "default privileges", "special NOT NULL constraint", "foreign key that is switched off", "large objects",
        "trigger of a partition in a state of its own", "place of storage", "inheritance across the aligned schemas",
        "dependency on an extension", "schema outside the aligned ones", "security label", "setting of the database",
        "comment on an extension", "privileges withheld from the owner",
    }
)  # fmt: skip
MAINTAIN_SINCE = 170000
# Kinds that PostgreSQL opens to PUBLIC by itself: where DEV has closed one, PROD's openness is nobody's wish.
_OPEN_BY_DEFAULT = frozenset({Kind.FUNCTION, Kind.AGGREGATE, Kind.ENUM, Kind.DOMAIN, Kind.COMPOSITE, Kind.RANGE})
# Before this version everybody may create in schema public, unless somebody forbids it.
_CLOSED_PUBLIC_SINCE = 150000
# Not compared here: what is compared elsewhere (a table's columns one by one).
_UNCOMPARED = {
    "key", "columns", "estimated_rows", "keys", "predicate", "expression", "signature",
    "kind", "defaults", "base", "identity_sequence", "inherited", "nulls_equal", "method", "unique", "references",
    "referenced_columns", "validated", "attributes", "version", "schema", "unproved", "type_storage", "accepts",
    "relation", "privileged", "obstacle",
}  # fmt: skip
_TEXTS = {"definition", "default", "using", "check", "bound", "partition_key"}


@dataclass(frozen=True, slots=True, order=True)
class Difference:
    """One thing that DEV has and PROD lacks (`aspect` is `missing`) or has otherwise."""

    key: Key
    aspect: str
    desired: str = ""
    current: str = ""

    def __str__(self) -> str:
        if self.aspect == MISSING:
            return f"{self.key}: missing"
        return f"{self.key}: {self.aspect}: {readable(self.current) or 'none'} → {readable(self.desired) or 'none'}"


@dataclass(frozen=True, slots=True)
class Comparison:
    """`differences`: what `desired` has and `current` lacks or has otherwise. `only_in_prod`: names of what `current` has besides.

    `renamed` maps a desired constraint or index to the current one of the same meaning under another name.
    """

    desired: Catalog
    current: Catalog
    differences: tuple[Difference, ...]
    only_in_prod: tuple[str, ...]
    extra: frozenset[Key]
    renamed: dict[Key, Key]
    vector_indexes: bool


def compare(desired: Catalog, current: Catalog, *, vector_indexes: bool = True) -> Comparison:
    """Compare what is with what should be; with `vector_indexes=False` ivfflat and hnsw indexes are left out."""
    return _Comparer(desired, current, vector_indexes).comparison()


class _Comparer:
    def __init__(self, desired: Catalog, current: Catalog, vector_indexes: bool) -> None:
        self.desired = desired
        self.current = current
        self.vector_indexes = vector_indexes
        self.same_version = desired.version // 10000 == current.version // 10000
        self.only: list[str] = []
        self.half_way = half_way(desired, current)
        self.unlike = {
            key
            for one, other in ((desired.comments, current.comments), (desired.grants, current.grants))
            for key in one.keys() | other.keys()
            if one.get(key) != other.get(key)
        }

    def comparison(self) -> Comparison:
        desired, current = self.desired.objects, self.current.objects
        wanted = {key for key, value in desired.items() if self._counts(value)}
        missing = {key for key in wanted if key not in current}
        extra = {key for key, value in current.items() if key not in desired and self._counts(value)}
        renamed = self._renamed(missing, extra)
        differences = [Difference(key, MISSING) for key in missing - renamed.keys()]
        extra -= set(renamed.values())
        for new, old in renamed.items():
            differences.append(Difference(new, "name", new.part or new.name, old.part or old.name))
            differences += self._aspects(desired[new], current[old])
            differences += self._attachments(new, old)
        for key in wanted - missing:
            one, other = desired[key], current[key]
            if type(one) in _SPECIAL or one != other:
                differences += self._aspects(one, other)
            differences += self._attachments(key, key)
        # A table that only PROD has says enough: its parts are not named one by one.
        self.only += [str(key) for key in extra - self.half_way if self._owner_of(key) not in extra]
        known = {(one.kind, one.name) for one in self.desired.unmodelled}
        self.only += [
            f"{one.kind} {one.name}"
            for one in self.current.unmodelled
            if (one.kind, one.name) not in known and one.kind not in NO_OBJECTS
        ]
        return Comparison(
            self.desired,
            self.current,
            tuple(sorted(differences)),
            tuple(sorted(self.only)),
            frozenset(extra),
            renamed,
            self.vector_indexes,
        )

    def _counts(self, value: Object) -> bool:
        return self.vector_indexes or not (isinstance(value, Index) and value.method in VECTOR_INDEX_METHODS)

    def _owner_of(self, key: Key) -> Key | None:
        value = self.current.objects[key]
        if isinstance(value, Index):
            return value.table
        if isinstance(value, Sequence) and value.owned_by is not None:
            return value.owned_by.table
        if isinstance(value, Other) and value.relation is not None:
            return value.relation
        return key.table if key.kind in (Kind.CONSTRAINT, Kind.TRIGGER, Kind.POLICY) else None

    def _renamed(self, missing: set[Key], extra: set[Key]) -> dict[Key, Key]:
        """Constraints and indexes that exist under another name, each extra one used once."""
        pool: dict[tuple[object, ...], list[Key]] = {}
        for key in sorted(extra):
            if (identity := _identity(self.current.objects[key])) is not None:
                pool.setdefault(identity, []).append(key)
        found: dict[Key, Key] = {}
        for key in sorted(missing):
            identity = _identity(self.desired.objects[key])
            if identity is not None and pool.get(identity):
                found[key] = pool[identity].pop(0)
        return found

    def _same(self, one: str, other: str) -> bool:
        return same_meaning(one, other, same_version=self.same_version)

    def _aspects(self, desired: Object, current: Object) -> Iterator[Difference]:
        """Differences of two objects with the same key."""
        key = desired.key
        if type(desired) is not type(current):  # cannot be: a kind belongs to one class
            raise TypeError(f"{key} is of two kinds")
        special = _SPECIAL.get(type(desired))
        if special is not None:
            yield from special(self, desired, current)
        for name in _COMPARED[type(desired)]:
            one, other = getattr(desired, name), getattr(current, name)
            if one == other:
                continue
            if name in _TEXTS and one is not None and other is not None and self._same(one, other):
                continue
            yield Difference(key, name.replace("_", " "), _shown(one), _shown(other))

    # -- kinds with rules of their own -------------------------------------------------------------------------------

    def _table(self, desired: Table, current: Table) -> Iterator[Difference]:
        for name, column in desired.columns.items():
            found = current.columns.get(name)
            if found is None:
                if not column.inherited:
                    yield Difference(column.key, MISSING)
                continue
            wanted = column
            if column.inherited and found.inherited:
                # Follows its parent, but for what a child may have otherwise.
                wanted = replace(
                    column,
                    type=found.type,
                    not_null=column.not_null if self._own_not_null(column, found) else found.not_null,
                    generated=found.generated,
                    collation=found.collation,
                )
            if wanted != found:
                yield from self._aspects(wanted, found)
            yield from self._attachments(column.key, found.key)
            if column.identity:
                yield from self._attachments(column.sequence, found.sequence)
        self.only += [
            str(column.key)
            for name, column in current.columns.items()
            if name not in desired.columns and column.key not in self.half_way
        ]
        for aspect in ("row_security", "force_row_security"):
            one, other = getattr(desired, aspect), getattr(current, aspect)
            if one and not other:
                yield Difference(desired.key, aspect.replace("_", " "), "on", "off")
            elif other and not one:
                # Security that only PROD has is never loosened.
                self.only.append(f"{aspect.replace('_', ' ')} of {desired.key}")
        if desired.method != current.method:
            yield Difference(desired.key, "access method", desired.method or "", current.method or "")

    def _own_not_null(self, desired: Column, current: Column) -> bool:
        """Is NOT NULL the child's own matter on the side that has it? A parent's comes with the parent."""
        side, column = (self.desired, desired) if desired.not_null else (self.current, current)
        return not any(parent.not_null for parent in side.parents_of(column.key))

    def _enum(self, desired: Enum, current: Enum) -> Iterator[Difference]:
        lacking = [label for label in desired.labels if label not in current.labels]
        shared = [label for label in current.labels if label in desired.labels]
        if lacking or shared != [label for label in desired.labels if label in current.labels]:
            yield Difference(desired.key, "labels", _shown(desired.labels), _shown(current.labels))
        self.only += [f"label {label!r} of {desired.key}" for label in current.labels if label not in desired.labels]

    def _composite(self, desired: Composite, current: Composite) -> Iterator[Difference]:
        for name in desired.attributes.keys() & current.attributes.keys():
            column = Key(Kind.COLUMN, desired.key.schema, desired.key.name, name)
            yield from self._attachments(column, column)
        one, other = (
            tuple(
                f"{name} {one.type}{f' COLLATE {one.collation}' if one.collation else ''}"
                for name, one in found.attributes.items()
            )
            for found in (desired, current)
        )
        if one != other:
            yield Difference(desired.key, "attributes", _shown(one), _shown(other))

    def _domain(self, desired: Domain, current: Domain) -> Iterator[Difference]:
        if desired.base != current.base:
            yield Difference(desired.key, "base type", desired.base, current.base)
        for name, (definition, _) in desired.constraints.items():
            found = current.constraints.get(name)
            if found is None or not self._same(definition, found[0]):
                yield Difference(desired.key, f"constraint {name}", definition, found[0] if found else "")
            constraint = Key(Kind.DOMAIN_CONSTRAINT, desired.key.schema, desired.key.name, name)
            yield from self._attachments(constraint, constraint)
        self.only += [
            f"constraint {name} of {desired.key}" for name in current.constraints if name not in desired.constraints
        ]

    def _index(self, desired: Index, current: Index) -> Iterator[Difference]:
        if (desired.unique, desired.definition) != (current.unique, current.definition):
            yield Difference(desired.key, "definition", desired.definition, current.definition)
        elif desired.valid and not current.valid:
            yield Difference(desired.key, "valid", "yes", "no: left behind by a build that failed")
        elif current.valid and not desired.valid:
            self.only.append(f"validity of {current.key}")

    def _column(self, desired: Column, current: Column) -> Iterator[Difference]:
        if desired.not_null and current.not_null:
            if current.unproved and not desired.unproved:
                yield Difference(desired.key, "not null", "yes", "not validated")
            elif desired.unproved and not current.unproved:
                self.only.append(f"validity of the NOT NULL of {current.key}")

    def _view(self, desired: View, current: View) -> Iterator[Difference]:
        if desired.columns != current.columns:
            yield Difference(desired.key, "columns", _shown(desired.columns), _shown(current.columns))
        for name in {name for name, _ in desired.columns} & {name for name, _ in current.columns}:
            column = Key(Kind.COLUMN, desired.key.schema, desired.key.name, name)
            yield from self._attachments(column, column)
        if desired.populated and not current.populated:
            yield Difference(desired.key, "populated", "yes", "no")
        elif current.populated and not desired.populated:
            self.only.append(f"rows of {current.key}")
        if desired.method != current.method:
            yield Difference(desired.key, "access method", desired.method or "", current.method or "")

    # -- comments, grants --------------------------------------------------------------------------------------------

    def _attachments(self, desired: Key, current: Key) -> Iterator[Difference]:
        if desired == current and desired not in self.unlike:
            return
        wanted, found = self.desired.comments.get(desired), self.current.comments.get(current)
        if wanted is not None and wanted != found:
            yield Difference(desired, "comment", wanted, found or "")
        elif found is not None and wanted is None:
            self.only.append(f"comment on {current}")
        if self.desired.grants.get(desired) != self.current.grants.get(current):
            yield from self._grants(desired, current)

    def _grants(self, desired: Key, current: Key) -> Iterator[Difference]:
        wanted, found = self.known(self.desired, desired), self.known(self.current, current)
        for grant in sorted(wanted - found):
            # A grant option covers the plain privilege.
            if not grant.grantable and grant._replace(grantable=True) in found:
                continue
            yield Difference(desired, f"grant {grant.privilege} to {grant.role}", _grant(grant), "")
        for grant in sorted(found - wanted):
            withheld = grant.role == PUBLIC and desired.kind in _OPEN_BY_DEFAULT and not self._has(wanted, grant)
            forbidden = (desired, grant.role) in self.desired.forbidden
            if withheld or forbidden:
                yield Difference(desired, f"grant {grant.privilege} to {grant.role}", "", _grant(grant))
            elif not self._has(wanted, grant):
                self.only.append(f"grant {grant.privilege} to {grant.role} on {current}")
            elif grant.grantable:
                self.only.append(f"grant {grant.privilege} to {grant.role} on {current}: its grant option")

    @staticmethod
    def _has(grants: frozenset[Grant], grant: Grant) -> bool:
        return not grants.isdisjoint({grant._replace(grantable=True), grant._replace(grantable=False)})

    def known(self, catalog: Catalog, key: Key) -> frozenset[Grant]:
        """An object's grants, without the privilege that one of the two servers does not know, and owners by role."""
        grants = catalog.grants.get(key, frozenset())
        if min(self.desired.version, self.current.version) < MAINTAIN_SINCE:
            grants = frozenset(grant for grant in grants if grant.privilege != "MAINTAIN")
        before_15 = [one.version < _CLOSED_PUBLIC_SINCE for one in (self.desired, self.current)]
        if key.kind is Kind.SCHEMA and any(before_15) and not all(before_15):
            grants -= {Grant(PUBLIC, "CREATE")}
        return frozenset(grant for grant in grants if grant.role != OWNER)


def _grant(grant: Grant) -> str:
    return f"{grant.privilege}{' with grant option' if grant.grantable else ''}"


def _identity(value: Object) -> tuple[object, ...] | None:
    """What makes a constraint or index the same under another name."""
    if isinstance(value, Constraint):
        return (value.key.table, value.definition)
    if isinstance(value, Index) and value.valid:
        return ("index", value.table, value.unique, value.definition)
    return None


def _shown(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, tuple) and not isinstance(value, Key):
        return ", ".join(" ".join(map(str, item)) if isinstance(item, tuple) else str(item) for item in value)
    return str(value)


_SPECIAL: dict[type, Callable[..., Iterator[Difference]]] = {
    Table: _Comparer._table,
    Enum: _Comparer._enum,
    Composite: _Comparer._composite,
    Domain: _Comparer._domain,
    Index: _Comparer._index,
    Column: _Comparer._column,
    View: _Comparer._view,
}
_SPECIAL_FIELDS: dict[type, frozenset[str]] = {
    Table: frozenset({"row_security", "force_row_security", "columns"}),
    Enum: frozenset({"labels"}),
    Composite: frozenset({"attributes"}),
    Domain: frozenset({"base", "constraints"}),
    Index: frozenset({"table", "definition", "valid"}),
    # The version is the server's matter: both work with what their server offers (a finding tells of it).
    Extension: frozenset({"schema", "version"}),
    View: frozenset({"columns", "populated"}),
}
# The fields of each kind of objects that are compared one by one, and simply.
_COMPARED: dict[type, tuple[str, ...]] = {
    kind: tuple(
        field.name for field in fields(kind) if field.name not in _UNCOMPARED | _SPECIAL_FIELDS.get(kind, frozenset())
    )
    for kind in get_args(Object.__value__)
}
