"""Read a database's structure: a handful of set-based catalogue queries, put together into one Catalog."""

from __future__ import annotations

import gc
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import psycopg
from psycopg.pq import TransactionStatus

from ..database.failures import server_error
from ..database.session import Session
from ..database.tries import pause
from ..errors import AlignError
from . import queries
from .ddl import COMPRESSION, STORAGE, storage_options
from .decisions import QUARANTINE
from .model import (
    Available,
    Catalog,
    Column,
    Composite,
    Constraint,
    Domain,
    Enum,
    Extension,
    Function,
    Index,
    Key,
    Kind,
    Object,
    Policy,
    Schema,
    Table,
    Trigger,
    View,
)
from .model import (
    Sequence as SequenceObject,
)
from .others import read_others
from .portable import Portable
from .reading import Class, Reading, Row
from .surroundings import comments, default_grants, dependencies, grants, sizes, unmodelled

_VIEW_KINDS = {"v": Kind.VIEW, "m": Kind.MATVIEW}
_GONE = "???"  # how format_type names a type that is not there
_TYPE_KINDS = {"e": Kind.ENUM, "d": Kind.DOMAIN}


def inspect(session: Session, schemas: Sequence[str]) -> Catalog:
    """The structure of `schemas`, without what belongs to extensions. Missing schemas are simply absent.

    Several queries are read as one picture only inside a transaction that holds locks or a snapshot; callers that need
    more than a look take care of that. Raises AlignError when the catalogue cannot be read.
    """
    if QUARANTINE in schemas:
        raise AlignError(
            "What is set aside is never aligned.",
            object_name="archon_schema_names",
            expected="schemas of the application",
            found=f"{QUARANTINE}, which holds what decisions have set aside",
            remedy=f"Leave {QUARANTINE} out of archon_schema_names.",
            code="bad_schema_names",
        )
    for attempt in range(1, session.context.lock_attempts + 1):
        try:
            with _uncollected():
                return _Reader(session, tuple(schemas)).catalog()
        except psycopg.Error as error:
            # Definitions are put into words under a lock on their table, which somebody may be rewriting just now.
            waiting = isinstance(error, psycopg.errors.LockNotAvailable) and attempt < session.context.lock_attempts
            if not waiting or session.connection.info.transaction_status != TransactionStatus.IDLE:
                raise server_error(session.target, error, doing="reading the system catalogues") from error
            pause()
    raise AssertionError("unreachable: the last attempt either returned or raised")


def inspect_both(one: Session, other: Session, schemas: Sequence[str]) -> tuple[Catalog, Catalog]:
    """The structure of two databases, read at the same time: their servers work while the other's answers are put together."""
    with ThreadPoolExecutor(1) as second:
        pending = second.submit(inspect, other, schemas)
        return inspect(one, schemas), pending.result()


@contextmanager
def _uncollected() -> Iterator[None]:
    """Spare Python's cycle collector: it would look through all that was read again and again, which takes a third of the time."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


class _Reader(Reading):
    """Reads the objects, family by family."""

    def __init__(self, session: Session, schemas: tuple[str, ...]) -> None:
        super().__init__(session, schemas)
        self.columns: dict[int, list[Row]] = {}
        self.unproved: set[tuple[int, str]] = set()
        self.environment: Row = {}

    def catalog(self) -> Catalog:
        self.environment = self.rows(queries.ENVIRONMENT)[0]
        functions = self.rows(queries.FUNCTIONS)
        types = self.rows(queries.TYPES)
        self._extensions(functions, types)
        for row in self.rows(queries.SCHEMAS):
            self.add(Schema(Key(Kind.SCHEMA, "", row["schema"])), row, Class.NAMESPACE, row["owner"])
        for row in self.rows(queries.COLUMNS):
            self.columns.setdefault(row["relation"], []).append(row)
        sequences = self.rows(queries.SEQUENCES)
        identities = {(row["table_oid"], row["number"]): row for row in sequences if row["link"] == "i"}
        constraints = self.rows(queries.CONSTRAINTS)
        self.unproved = {(row["relation_oid"], row["columns"][0]) for row in constraints if row["type"] == "n"}
        self._relations(identities)
        self._types(types, constraints)
        self._functions(functions)
        self._sequences(sequences)
        self._constraints(constraints)
        self._indexes()
        self._triggers()
        self._policies()
        read_others(self)
        defaults = self.rows(queries.DEFAULT_GRANTS)
        told = unmodelled(self, defaults)
        found = dependencies(self)
        return Catalog(
            version=self.environment["version"],
            database=self.environment["database"],
            me=self.environment["me"],
            schemas=self.schemas,
            objects=self.objects,
            comments=comments(self),
            grants=grants(self),
            owners=self.owners,
            makers={row["schema"]: row["owner"] for row in self.rows(queries.MAKERS)},
            depends=found.depends,
            strangers=found.strangers,
            needs=found.needs,
            unmodelled=told,
            roles=frozenset(self.environment["roles"]),
            my_roles=frozenset(self.environment["my_roles"]),
            all_schemas=frozenset(self.environment["all_schemas"]),
            available=self._available(),
            casts=frozenset((self.portable(one), self.portable(other)) for one, other in self.environment["casts"]),
            default_grants=default_grants(defaults),
            creates_schemas=self.environment["creates"],
            superuser=self.environment["superuser"],
            quarantined=frozenset(self.environment["quarantined"] or ()),
            sizes=sizes(self),
        )

    def _extensions(self, functions: Iterable[Row], types: Iterable[Row]) -> None:
        members = self.rows(queries.MEMBERS)
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
            for row in self.rows(queries.AVAILABLE)
        }

    def _column(self, owner: Key, row: Row, identities: dict[tuple[int, int], Row]) -> Column:
        identity = identities.get((row["relation"], row["number"]))
        key = Key(Kind.COLUMN, owner.schema, owner.name, row["name"])
        self.keys[Class.CLASS, row["relation"], row["number"]] = key
        if row["base"] == _GONE:
            raise AlignError(
                f"The catalogue of {self.session.target.name} is damaged.",
                object_name=str(key),
                expected="a column of a type that exists",
                found="its type is not in pg_type",
                remedy="Restore the database from a backup, or drop the column by hand; nothing was changed.",
                code="catalogue_damaged",
            )
        if row["default_oid"] is not None:
            self.keys[Class.ATTRDEF, row["default_oid"], 0] = Key(Kind.DEFAULT, owner.schema, owner.name, row["name"])
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
            type_storage=row["type_storage"],
            compression=row["compression"],
            statistics=row["statistics"],
            options=tuple(sorted(row["options"])),
            inherited=row["inherited"],
            unproved=(row["relation"], row["name"]) in self.unproved,
        )

    def _settings(self, row: Row) -> list[str]:
        """What ALTER COLUMN said of a view's or materialised view's column."""
        found = [f"SET DEFAULT {self.portable(row['default_text'])}"] if row["default_text"] is not None else []
        if row["storage"]:
            found.append(f"SET STORAGE {STORAGE[row['storage']]}")
        if row["compression"]:
            found.append(f"SET COMPRESSION {COMPRESSION[row['compression']]}")
        if row["statistics"] >= 0:
            found.append(f"SET STATISTICS {row['statistics']}")
        if row["options"]:
            found.append(f"SET ({storage_options(sorted(row['options']))})")
        return found

    def _relations(self, identities: dict[tuple[int, int], Row]) -> None:
        for row in self.rows(queries.RELATIONS):
            rows = self.columns.get(row["oid"], [])
            if row["kind"] in _VIEW_KINDS:
                key = Key(_VIEW_KINDS[row["kind"]], row["schema"], row["name"])
                self.add_inner(key, row["oid"], rows)
                self.keys |= {(Class.ATTRDEF, one["default_oid"], 0): key for one in rows if one["default_oid"]}
                view = View(
                    key,
                    self.portable(row["viewdef"]),
                    tuple(sorted(row["options"])),
                    tuple((column["name"], self.portable(column["type"])) for column in rows),
                    row["populated"],
                    tuple((one["name"], words) for one in rows for words in self._settings(one)),
                    row["method"],
                )
                self.add(view, row, Class.CLASS, row["owner"])
                continue
            key = Key(Kind.COMPOSITE if row["kind"] == "c" else Kind.TABLE, row["schema"], row["name"])
            columns = {column["name"]: self._column(key, column, identities) for column in rows}
            if row["kind"] == "c":
                self.add(Composite(key, columns), row, Class.CLASS, row["owner"])
                self.add_inner(key, row["oid"], rows)
                continue
            table = Table(
                key=key,
                columns=columns,
                partition_key=self.portable.optional(row["partition_key"]),
                bound=self.portable.optional(row["bound"]),
                accepts=self.portable.optional(row["accepts"]),
                parents=tuple(row["parents"]),
                persistence=row["persistence"],
                options=tuple(sorted(row["options"])),
                method=row["method"],
                row_security=row["row_security"],
                force_row_security=row["force_row_security"],
                replica_identity=row["replica_identity"],
                typed=self.portable(row["typed"]),
            )
            self.add(table, row, Class.CLASS, row["owner"])

    def _types(self, rows: Iterable[Row], constraints: Iterable[Row]) -> None:
        checks: dict[tuple[str, str], dict[str, tuple[str, str]]] = {}
        for row in constraints:
            if row["domain"] is not None and row["type"] == "c":
                self.keys[Class.CONSTRAINT, row["oid"], 0] = Key(
                    Kind.DOMAIN_CONSTRAINT, row["schema"], row["domain"], row["name"]
                )
                found = (self.portable(row["definition"]), self.portable(row["expression"]))
                checks.setdefault((row["schema"], row["domain"]), {})[row["name"]] = found
        for row in rows:
            if row["kind"] == "c":  # a table's or view's row type, or a composite that is known by its relation
                key = self.keys.get((Class.CLASS, row["relation"], 0))
                if key is not None:
                    self.keys[Class.TYPE, row["oid"], 0] = key
                    self.keys[Class.TYPE, row["array_oid"], 0] = key
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
            self.add(value, row, Class.TYPE, row["owner"])
            self.keys[Class.TYPE, row["array_oid"], 0] = key

    def _functions(self, rows: Iterable[Row]) -> None:
        for row in rows:
            key = Key(Kind.FUNCTION, row["schema"], row["name"], self.portable(row["arguments"]))
            value = Function(
                key,
                row["kind"],
                self.portable(row["definition"]),
                tuple(map(self.portable, row["signature"])),
                row["defaults"],
            )
            self.add(value, row, Class.PROC, row["owner"])

    def _sequences(self, rows: Iterable[Row]) -> None:
        for row in rows:
            owned_by = (
                Key(Kind.COLUMN, row["table_schema"], row["table_name"], row["column_name"])
                if row["column_name"] is not None
                else None
            )
            if row["link"] == "i":
                if owned_by is not None:
                    self.keys[Class.CLASS, row["oid"], 0] = owned_by
                    self.inner[row["oid"], 0] = Key(Kind.SEQUENCE, owned_by.schema, owned_by.name, owned_by.part)
                continue
            key = Key(Kind.SEQUENCE, row["schema"], row["name"])
            self.add(
                SequenceObject(key, row["type"], row["options"], owned_by, row["persistence"]),
                row,
                Class.CLASS,
                row["owner"],
            )

    def _constraints(self, rows: Iterable[Row]) -> None:
        for row in rows:
            if row["relation"] is None or row["type"] == "n":
                continue
            key = Key(Kind.CONSTRAINT, row["schema"], row["relation"], row["name"])
            self.add(
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
                    options=tuple(sorted(row["options"])),
                    clustered=row["clustered"],
                ),
                row,
                Class.CONSTRAINT,
            )
            if row["type"] in ("p", "u", "x"):
                self.keys[Class.CLASS, row["index_oid"], 0] = key

    def _indexes(self) -> None:
        for row in self.rows(queries.INDEXES):
            table = Key(
                Kind.MATVIEW if row["table_kind"] == "m" else Kind.TABLE, row["table_schema"], row["table_name"]
            )
            opening = f"CREATE {'UNIQUE ' if row['is_unique'] else ''}INDEX {row['quoted']} ON "
            # On a partitioned table the server says ONLY; made so, the index would not reach the partitions.
            definition = row["definition"].removeprefix(opening).removeprefix("ONLY ")
            self.add(
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
                    statistics=tuple((number, target) for number, target in row["statistics"]),
                ),
                row,
                Class.CLASS,
            )

    def _triggers(self) -> None:
        for row in self.rows(queries.TRIGGERS):
            self.add(
                Trigger(
                    Key(Kind.TRIGGER, row["schema"], row["relation"], row["name"]),
                    self.portable(row["definition"]),
                    row["enabled"],
                ),
                row,
                Class.TRIGGER,
            )

    def _policies(self) -> None:
        for row in self.rows(queries.POLICIES):
            self.add(
                Policy(
                    Key(Kind.POLICY, row["schema"], row["relation"], row["name"]),
                    row["command"],
                    row["permissive"],
                    tuple(row["roles"]),
                    self.portable.optional(row["using_text"]),
                    self.portable.optional(row["check_text"]),
                ),
                row,
                Class.POLICY,
            )
