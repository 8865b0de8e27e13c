"""Read a database's structure: a handful of set-based catalogue queries, put together into one Catalog."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import psycopg

from ..database.failures import server_error
from ..database.session import Session
from . import queries
from .model import (
    OWNER,
    Available,
    Catalog,
    Column,
    Composite,
    Constraint,
    Domain,
    Enum,
    Extension,
    Function,
    Grant,
    Index,
    Key,
    Kind,
    Object,
    Policy,
    Schema,
    Table,
    Trigger,
    Unmodelled,
    View,
)
from .model import (
    Sequence as SequenceObject,
)
from .portable import Portable

_CLASS, _PROC, _TYPE, _CONSTRAINT, _ATTRDEF, _REWRITE, _TRIGGER, _POLICY, _NAMESPACE, _EXTENSION = (
    1259,
    1255,
    1247,
    2606,
    2604,
    2618,
    2620,
    3256,
    2615,
    3079,
)  # fmt: skip - the catalogues' own oids, the same in every version
_VIEW_KINDS = {"v": Kind.VIEW, "m": Kind.MATVIEW}
_TYPE_KINDS = {"e": Kind.ENUM, "d": Kind.DOMAIN}

_DEFAULTS = {"r": "tables", "S": "sequences", "f": "functions", "T": "types", "n": "schemas", "L": "large objects"}

type _Row = dict[str, Any]


def inspect(session: Session, schemas: Sequence[str]) -> Catalog:
    """The structure of `schemas`, without what belongs to extensions. Missing schemas are simply absent.

    Several queries are read as one picture only inside a transaction that holds locks or a snapshot; callers that need
    more than a look take care of that. Raises AlignError when the catalogue cannot be read.
    """
    try:
        return _Reader(session, tuple(schemas)).catalog()
    except psycopg.Error as error:
        raise server_error(session.target, error, doing="reading the system catalogues") from error


class _Reader:
    """Gathers the objects and remembers under which oid each was found."""

    def __init__(self, session: Session, schemas: tuple[str, ...]) -> None:
        self.session = session
        self.schemas = schemas
        self.objects: dict[Key, Object] = {}
        self.owners: dict[Key, str] = {}
        self.keys: dict[tuple[int, int, int], Key] = {}
        self.inner: dict[tuple[int, int], Key] = {}
        self.columns: dict[int, list[_Row]] = {}
        self.environment: _Row = {}
        self.portable = Portable(())

    def _rows(self, query: Any) -> list[_Row]:
        return self.session.rows(query, {"schemas": list(self.schemas)})

    def _add(self, value: Object, row: _Row, catalog: int, owner: str | None = None) -> None:
        self.objects[value.key] = value
        self.keys[catalog, row["oid"], 0] = value.key
        if owner is not None:
            self.owners[value.key] = owner

    def catalog(self) -> Catalog:
        self.environment = self._rows(queries.ENVIRONMENT)[0]
        functions = self._rows(queries.FUNCTIONS)
        types = self._rows(queries.TYPES)
        self._extensions(functions, types)
        for row in self._rows(queries.SCHEMAS):
            self._add(Schema(Key(Kind.SCHEMA, "", row["schema"])), row, _NAMESPACE, row["owner"])
        for row in self._rows(queries.COLUMNS):
            self.columns.setdefault(row["relation"], []).append(row)
        sequences = self._rows(queries.SEQUENCES)
        identities = {(row["table_oid"], row["number"]): row for row in sequences if row["link"] == "i"}
        constraints = self._rows(queries.CONSTRAINTS)
        self._relations(identities)
        self._types(types, constraints)
        self._functions(functions)
        self._sequences(sequences)
        self._constraints(constraints)
        self._indexes()
        self._triggers()
        self._policies()
        defaults = self._rows(queries.DEFAULT_GRANTS)
        depends, strangers = self._depends()
        return Catalog(
            version=self.environment["version"],
            database=self.environment["database"],
            me=self.environment["me"],
            schemas=self.schemas,
            objects=self.objects,
            comments=self._comments(),
            grants=self._grants(),
            owners=self.owners,
            depends=depends,
            strangers=strangers,
            unmodelled=self._unmodelled(defaults),
            roles=frozenset(self.environment["roles"]),
            my_roles=frozenset(self.environment["my_roles"]),
            all_schemas=frozenset(self.environment["all_schemas"]),
            available=self._available(),
            casts=frozenset((self.portable(one), self.portable(other)) for one, other in self.environment["casts"]),
            default_grants=self._default_grants(defaults),
        )

    def _extensions(self, functions: Iterable[_Row], types: Iterable[_Row]) -> None:
        members = self._rows(queries.MEMBERS)
        own = [(row["schema"], row["name"]) for row in (*functions, *types)]
        self.portable = Portable(
            ((row["schema"], row["name"], row["extension"]) for row in members if row["name"] is not None), own
        )
        for row in members:
            if row["version"] is not None:
                key = Key(Kind.EXTENSION, "", row["extension"])
                self.objects[key] = Extension(key, row["schema"], row["version"])

    def _available(self) -> dict[str, Available]:
        may, superuser = self.environment["creates"], self.environment["superuser"]
        return {
            row["name"]: Available(
                row["name"], row["version"], superuser or (may and (row["trusted"] or not row["superuser"]))
            )
            for row in self._rows(queries.AVAILABLE)
        }

    def _column(self, owner: Key, row: _Row, identities: dict[tuple[int, int], _Row]) -> Column:
        identity = identities.get((row["relation"], row["number"]))
        key = Key(Kind.COLUMN, owner.schema, owner.name, row["name"])
        self.keys[_CLASS, row["relation"], row["number"]] = key
        if row["default_oid"] is not None:
            self.keys[_ATTRDEF, row["default_oid"], 0] = Key(Kind.DEFAULT, owner.schema, owner.name, row["name"])
        return Column(
            key=key,
            type=self.portable(row["type"]),
            base=self.portable(row["base"]),
            not_null=row["not_null"],
            default=self.portable.optional(row["default_text"]),
            generated=row["generated"],
            identity=row["identity"],
            identity_options=identity["options"] if identity else "",
            identity_sequence=identity["name"] if identity else "",
            collation=self.portable.optional(row["collation"]),
            storage=row["storage"],
            compression=row["compression"],
            statistics=row["statistics"],
            inherited=row["inherited"],
        )

    def _relations(self, identities: dict[tuple[int, int], _Row]) -> None:
        for row in self._rows(queries.RELATIONS):
            rows = self.columns.get(row["oid"], [])
            if row["kind"] in _VIEW_KINDS:
                key = Key(_VIEW_KINDS[row["kind"]], row["schema"], row["name"])
                self._inner(key, row["oid"], rows)
                view = View(
                    key,
                    self.portable(row["viewdef"]),
                    tuple(sorted(row["options"])),
                    tuple((column["name"], self.portable(column["type"])) for column in rows),
                    row["populated"],
                )
                self._add(view, row, _CLASS, row["owner"])
                continue
            key = Key(Kind.COMPOSITE if row["kind"] == "c" else Kind.TABLE, row["schema"], row["name"])
            columns = {column["name"]: self._column(key, column, identities) for column in rows}
            if row["kind"] == "c":
                self._add(Composite(key, columns), row, _CLASS, row["owner"])
                self._inner(key, row["oid"], rows)
                continue
            table = Table(
                key=key,
                columns=columns,
                partition_key=self.portable.optional(row["partition_key"]),
                bound=self.portable.optional(row["bound"]),
                parents=tuple(row["parents"]),
                persistence=row["persistence"],
                options=tuple(sorted(row["options"])),
                method=row["method"],
                row_security=row["row_security"],
                force_row_security=row["force_row_security"],
                replica_identity=row["replica_identity"],
                typed=row["typed"],
            )
            self._add(table, row, _CLASS, row["owner"])

    def _inner(self, key: Key, oid: int, columns: Iterable[_Row]) -> None:
        """Columns of views and composites are no objects of their own, but comments and grants can be theirs."""
        for column in columns:
            self.keys[_CLASS, oid, column["number"]] = key
            self.inner[oid, column["number"]] = Key(Kind.COLUMN, key.schema, key.name, column["name"])

    def _attached_to(self, row: _Row) -> Key | None:
        if row["class"] == _CLASS and (inner := self.inner.get((row["oid"], row["sub"]))) is not None:
            return inner
        return self.keys.get((row["class"], row["oid"], row["sub"]))

    def _types(self, rows: Iterable[_Row], constraints: Iterable[_Row]) -> None:
        checks: dict[tuple[str, str], dict[str, tuple[str, str]]] = {}
        for row in constraints:
            if row["domain"] is not None and row["type"] == "c":
                found = (self.portable(row["definition"]), self.portable(row["expression"]))
                checks.setdefault((row["schema"], row["domain"]), {})[row["name"]] = found
        for row in rows:
            if row["kind"] == "c":  # a table's or view's row type, or a composite that is known by its relation
                key = self.keys.get((_CLASS, row["relation"], 0))
                if key is not None:
                    self.keys[_TYPE, row["oid"], 0] = key
                    self.keys[_TYPE, row["array_oid"], 0] = key
                continue
            key = Key(_TYPE_KINDS[row["kind"]], row["schema"], row["name"])
            value: Object
            if row["kind"] == "e":
                value = Enum(key, tuple(row["labels"]))
            else:
                value = Domain(
                    key,
                    self.portable(row["base"]),
                    row["not_null"],
                    self.portable.optional(row["default_text"]),
                    self.portable.optional(row["collation"]),
                    checks.get((row["schema"], row["name"]), {}),
                )
            self._add(value, row, _TYPE, row["owner"])
            self.keys[_TYPE, row["array_oid"], 0] = key

    def _functions(self, rows: Iterable[_Row]) -> None:
        for row in rows:
            key = Key(Kind.FUNCTION, row["schema"], row["name"], self.portable(row["arguments"]))
            value = Function(
                key,
                row["kind"],
                self.portable(row["definition"]),
                tuple(map(self.portable, row["signature"])),
                row["defaults"],
                row["language"],
            )
            self._add(value, row, _PROC, row["owner"])

    def _sequences(self, rows: Iterable[_Row]) -> None:
        for row in rows:
            owned_by = (
                Key(Kind.COLUMN, row["table_schema"], row["table_name"], row["column_name"])
                if row["column_name"] is not None
                else None
            )
            if row["link"] == "i":
                if owned_by is not None:
                    self.keys[_CLASS, row["oid"], 0] = owned_by
                continue
            key = Key(Kind.SEQUENCE, row["schema"], row["name"])
            self._add(
                SequenceObject(key, row["type"], row["options"], owned_by, row["persistence"]),
                row,
                _CLASS,
                row["owner"],
            )

    def _constraints(self, rows: Iterable[_Row]) -> None:
        for row in rows:
            if row["relation"] is None or row["type"] == "n":
                continue
            key = Key(Kind.CONSTRAINT, row["schema"], row["relation"], row["name"])
            self._add(
                Constraint(
                    key=key,
                    type=row["type"],
                    definition=self.portable(row["definition"]),
                    columns=tuple(row["columns"]),
                    expression=self.portable.optional(row["expression"]),
                    references=Key(Kind.TABLE, row["foreign_schema"], row["foreign_name"])
                    if row["foreign_name"] is not None
                    else None,
                    referenced_columns=tuple(row["foreign_columns"]),
                    nulls_equal=row["nulls_equal"],
                    validated=row["validated"],
                ),
                row,
                _CONSTRAINT,
            )
            if row["type"] in ("p", "u", "x"):
                self.keys[_CLASS, row["index_oid"], 0] = key

    def _indexes(self) -> None:
        for row in self._rows(queries.INDEXES):
            table = Key(
                Kind.MATVIEW if row["table_kind"] == "m" else Kind.TABLE, row["table_schema"], row["table_name"]
            )
            opening = f"CREATE {'UNIQUE ' if row['is_unique'] else ''}INDEX {row['quoted']} ON "
            # On a partitioned table the server says ONLY; made so, the index would not reach the partitions.
            definition = row["definition"].removeprefix(opening).removeprefix("ONLY ")
            self._add(
                Index(
                    key=Key(Kind.INDEX, row["schema"], row["name"]),
                    table=table,
                    definition=self.portable(definition),
                    method=row["method"],
                    unique=row["is_unique"],
                    nulls_equal=row["nulls_equal"],
                    keys=tuple(map(self.portable, row["keys"])),
                    predicate=self.portable.optional(row["predicate"]),
                    valid=row["valid"],
                    clustered=row["clustered"],
                ),
                row,
                _CLASS,
            )

    def _triggers(self) -> None:
        for row in self._rows(queries.TRIGGERS):
            self._add(
                Trigger(
                    Key(Kind.TRIGGER, row["schema"], row["relation"], row["name"]),
                    self.portable(row["definition"]),
                    row["enabled"],
                    row["is_constraint"],
                    row["function"],
                    row["relation_kind"] == "v",
                ),
                row,
                _TRIGGER,
            )

    def _policies(self) -> None:
        for row in self._rows(queries.POLICIES):
            self._add(
                Policy(
                    Key(Kind.POLICY, row["schema"], row["relation"], row["name"]),
                    row["command"],
                    row["permissive"],
                    tuple(row["roles"]),
                    self.portable.optional(row["using_text"]),
                    self.portable.optional(row["check_text"]),
                ),
                row,
                _POLICY,
            )

    def _comments(self) -> dict[Key, str]:
        found = ((self._attached_to(row), row["text"]) for row in self._rows(queries.COMMENTS))
        return {key: text for key, text in found if key is not None and key.kind is not Kind.DEFAULT}

    def _grants(self) -> dict[Key, frozenset[Grant]]:
        found: dict[Key, set[Grant]] = {key: set() for key in self.owners}
        for row in self._rows(queries.GRANTS):
            key = self._attached_to(row)
            # An identity's sequence goes with its column, which knows none of a sequence's privileges.
            if key is not None and (key.kind is not Kind.COLUMN or row["sub"]):
                found.setdefault(key, set()).add(Grant(row["role"], row["privilege"], row["grantable"]))
        return {key: frozenset(grants) for key, grants in found.items()}

    def _unmodelled(self, defaults: Iterable[_Row]) -> tuple[Unmodelled, ...]:
        found = {Unmodelled(row["kind"], row["name"]) for row in self._rows(queries.UNMODELLED)}
        privileges: dict[tuple[str, str, str], set[str]] = {}
        for row in defaults:
            if row["privilege"] not in (None, "MAINTAIN") and row["role"] != OWNER:
                place = (_DEFAULTS[row["type"]], row["schema"] or "any schema", row["role"])
                privileges.setdefault(place, set()).add(row["privilege"])
        found |= {
            Unmodelled("default privileges", f"{', '.join(sorted(names))} on {what} in {where} to {role}")
            for (what, where, role), names in privileges.items()
        }
        return tuple(sorted(found))

    def _default_grants(self, rows: Iterable[_Row]) -> dict[tuple[str, str], frozenset[Grant]]:
        found: dict[tuple[str, str], set[Grant]] = {}
        for row in rows:
            if row["mine"]:
                grants = found.setdefault((row["schema"], row["type"]), set())
                if row["privilege"] is not None and row["role"] != OWNER:
                    grants.add(Grant(row["role"], row["privilege"], row["grantable"]))
        return {key: frozenset(grants) for key, grants in found.items()}

    def _depends(self) -> tuple[dict[Key, frozenset[Key]], dict[Key, tuple[str, ...]]]:
        for row in self._rows(queries.REWRITES):
            view = self.keys.get((_CLASS, row["relation"], 0))
            if view is not None:
                self.keys[_REWRITE, row["oid"], 0] = view
        found: dict[Key, set[Key]] = {}
        strangers: dict[tuple[int, int, int], set[Key]] = {}
        for row in self._rows(queries.DEPENDS):
            place = (row["class"], row["oid"], row["sub"])
            one = self.keys.get(place)
            other = self.keys.get((row["ref_class"], row["ref_oid"], row["ref_sub"]))
            if other is None or one == other:
                continue
            if one is not None:
                found.setdefault(one, set()).add(other)
            elif row["normal"]:
                strangers.setdefault(place, set()).add(other)
        return {key: frozenset(needed) for key, needed in found.items()}, self._strangers(strangers)

    def _strangers(self, strangers: dict[tuple[int, int, int], set[Key]]) -> dict[Key, tuple[str, ...]]:
        """Objects that are not compared but depend on some that are: nobody here could put them back."""
        if not strangers:
            return {}
        classes, oids, subs = (list(part) for part in zip(*strangers, strict=True))
        found: dict[Key, set[str]] = {}
        for row in self.session.rows(queries.DESCRIBE, {"classes": classes, "oids": oids, "subs": subs}):
            for key in strangers[row["class"], row["oid"], row["sub"]]:
                found.setdefault(key, set()).add(row["name"])
        return {key: tuple(sorted(names)) for key, names in found.items()}
