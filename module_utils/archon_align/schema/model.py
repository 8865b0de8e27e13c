"""What a database's structure is: one catalogue of keyed, frozen objects, independent of search_path and of oids.

Text that PostgreSQL deparsed is *portable*: names of objects that belong to an extension carry the extension's name in the
place of its schema (see portable.py), so that `public.vector` here equals `extensions.vector` there.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cached_property
from typing import NamedTuple

OWNER = "«owner»"  # a grantee: whoever owns the object; owners' names differ between environments
PUBLIC = "PUBLIC"
VECTOR_INDEX_METHODS = frozenset({"ivfflat", "hnsw"})


class Kind(StrEnum):
    """Kinds of objects, named as a person would."""

    SCHEMA = "schema"
    EXTENSION = "extension"
    ENUM = "enum"
    DOMAIN = "domain"
    COMPOSITE = "composite type"
    SEQUENCE = "sequence"
    FUNCTION = "function"
    TABLE = "table"
    COLUMN = "column"
    DEFAULT = "default"
    CONSTRAINT = "constraint"
    DOMAIN_CONSTRAINT = "domain constraint"
    INDEX = "index"
    VIEW = "view"
    MATVIEW = "materialised view"
    TRIGGER = "trigger"
    POLICY = "policy"
    COLLATION = "collation"
    RANGE = "range type"
    DICTIONARY = "text search dictionary"
    CONFIGURATION = "text search configuration"
    AGGREGATE = "aggregate"
    OPERATOR = "operator"
    CAST = "cast"
    STATISTICS = "extended statistics"
    RULE = "rule"


RELATIONS = frozenset({Kind.TABLE, Kind.VIEW, Kind.MATVIEW, Kind.SEQUENCE, Kind.INDEX, Kind.COMPOSITE})
TYPES = frozenset({Kind.ENUM, Kind.DOMAIN, Kind.COMPOSITE, Kind.RANGE})
# What is called with arguments, of which there may be several of one name.
CALLED = frozenset({Kind.FUNCTION, Kind.AGGREGATE, Kind.OPERATOR})


class Key(NamedTuple):
    """An object's identity. `name` is the table's for what lives on a table; `part` is then the object's own name,
    or the portable argument types of what is called. A tuple, because most of the work consists of hashing and ordering keys."""

    kind: Kind
    schema: str
    name: str
    part: str = ""

    def __str__(self) -> str:
        return f"{self.kind} {self.qualified}"

    @property
    def qualified(self) -> str:
        if self.kind in (Kind.SCHEMA, Kind.EXTENSION):
            return self.name
        if self.kind in CALLED:
            return f"{self.schema}.{self.name}({readable(self.part)})"
        return ".".join(part for part in (self.schema, self.name, self.part) if part)

    @property
    def table(self) -> Key:
        """The table that a column, default, constraint, trigger, rule or policy lives on."""
        return Key(Kind.TABLE, self.schema, self.name)


def readable(text: str) -> str:
    """Portable text for people: `extension:vector.vector(768)` instead of the marks."""
    return text.replace("\ue000", "extension:").replace("\ue001", "")


@dataclass(frozen=True, slots=True)
class Column:
    """`type` has its modifiers, `base` has not. `generated` is '', 's' (stored) or 'v' (virtual); `default` then holds the
    expression. `identity` is '', 'a' (always) or 'd' (by default). `inherited`: it comes from a parent table.
    `storage` is PostgreSQL's letter where it is not the type's own, `type_storage`. `unproved`: NOT NULL holds for new rows, while those that were there have not been looked at."""

    key: Key
    type: str
    base: str
    not_null: bool = False
    default: str | None = None
    generated: str = ""
    identity: str = ""
    identity_options: str = ""
    identity_sequence: str = ""
    collation: str | None = None
    storage: str = ""
    type_storage: str = ""
    compression: str = ""
    statistics: int = -1
    options: tuple[str, ...] = ()
    inherited: bool = False
    unproved: bool = False

    @property
    def sequence(self) -> Key:
        """An identity's sequence, which is known by its column: its own name is nobody's concern."""
        return Key(Kind.SEQUENCE, self.key.schema, self.key.name, self.key.part)


@dataclass(frozen=True, slots=True)
class Table:
    """`parents` are the tables inherited from or, with a `bound`, the one this is a partition of, which holds the rows
    that it `accepts`; `typed` is the composite type that it is OF."""

    key: Key
    columns: Mapping[str, Column] = field(default_factory=dict)
    partition_key: str | None = None
    bound: str | None = None
    accepts: str | None = None
    parents: tuple[str, ...] = ()
    persistence: str = "p"
    options: tuple[str, ...] = ()
    method: str | None = "heap"
    row_security: bool = False
    force_row_security: bool = False
    replica_identity: str = "d"
    typed: str = ""


@dataclass(frozen=True, slots=True)
class Sequence:
    """`owned_by` is the column of a serial; sequences of identity columns belong to the column and are not listed."""

    key: Key
    type: str
    options: str
    owned_by: Key | None = None
    persistence: str = "p"


@dataclass(frozen=True, slots=True)
class Constraint:
    """`type` is PostgreSQL's letter: p, u, f, c, x. `definition` is complete (NOT VALID, DEFERRABLE included), but for the
    storage `options` of the index behind it.

    `expression` is a check's condition, `references` a foreign key's target, with `referenced_columns`.
    """

    key: Key
    type: str
    definition: str
    columns: tuple[str, ...] = ()
    expression: str | None = None
    references: Key | None = None
    referenced_columns: tuple[str, ...] = ()
    nulls_equal: bool = False
    validated: bool = True
    options: tuple[str, ...] = ()
    clustered: bool = False


@dataclass(frozen=True, slots=True)
class Index:
    """`definition` is what follows the relation's name in CREATE INDEX; `keys` are the indexed expressions of a unique one, `statistics`
    the targets of some of them, by number."""

    key: Key
    table: Key
    definition: str
    method: str
    unique: bool = False
    nulls_equal: bool = False
    keys: tuple[str, ...] = ()
    predicate: str | None = None
    valid: bool = True
    clustered: bool = False
    statistics: tuple[tuple[int, int], ...] = ()


@dataclass(frozen=True, slots=True)
class Enum:
    key: Key
    labels: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Composite:
    key: Key
    attributes: Mapping[str, Column]


@dataclass(frozen=True, slots=True)
class Domain:
    """`constraints` maps names to (definition, condition)."""

    key: Key
    base: str
    not_null: bool = False
    default: str | None = None
    collation: str | None = None
    constraints: Mapping[str, tuple[str, str]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Function:
    """`signature` is what CREATE OR REPLACE cannot change: kind, result, argument names and modes, number of defaults."""

    key: Key
    kind: str
    definition: str
    signature: tuple[str, ...]
    defaults: int = 0


@dataclass(frozen=True, slots=True)
class View:
    """A view or materialised view; `columns` are (name, type) in order. `settings` are (column, what ALTER COLUMN said of
    it), `method` the access method of a materialised view."""

    key: Key
    definition: str
    options: tuple[str, ...] = ()
    columns: tuple[tuple[str, str], ...] = ()
    populated: bool = True
    settings: tuple[tuple[str, str], ...] = ()
    method: str | None = None


@dataclass(frozen=True, slots=True)
class Trigger:
    """`enabled` is PostgreSQL's letter: O (yes), D (no), R, A."""

    key: Key
    definition: str
    enabled: str = "O"


@dataclass(frozen=True, slots=True)
class Policy:
    key: Key
    command: str
    permissive: bool
    roles: tuple[str, ...]
    using: str | None = None
    check: str | None = None


@dataclass(frozen=True, slots=True)
class Other:
    """What is known by the statements that make it: `definition`, then `settings`. `relation` is what a rule or extended
    statistics are on. `privileged` says why only a superuser can make it, `obstacle` why nobody can in one step."""

    key: Key
    definition: str
    settings: tuple[str, ...] = ()
    relation: Key | None = None
    privileged: str = ""
    obstacle: str = ""


@dataclass(frozen=True, slots=True)
class Extension:
    key: Key
    schema: str
    version: str


def is_older(one: str, other: str) -> bool:
    """Is version `one` before `other`? Numbers compare as numbers, whatever stands between them."""

    def parts(version: str) -> list[tuple[int, str]]:
        return [
            (int(part), "") if part.isdigit() else (-1, part) for part in re.findall(r"\d+|[a-z]+", version.lower())
        ]

    return parts(one) < parts(other)


@dataclass(frozen=True, slots=True)
class Schema:
    key: Key


type Object = (
    Table
    | Column
    | Sequence
    | Constraint
    | Index
    | Enum
    | Composite
    | Domain
    | Function
    | View
    | Trigger
    | Policy
    | Other
    | Extension
    | Schema
)


class Grant(NamedTuple):
    """A privilege held by `role` (a name, PUBLIC or OWNER)."""

    role: str
    privilege: str
    grantable: bool = False


@dataclass(frozen=True, slots=True, order=True)
class Unmodelled:
    """An object of a kind that is told of but not changed. `definition` is None where the name is all that is read;
    `attached` are its comment, grants and owner."""

    kind: str
    name: str
    definition: str | None = None
    attached: str = ""


@dataclass(frozen=True, slots=True, order=True)
class Available:
    """An extension the server offers: may this role create it?"""

    name: str
    version: str
    creatable: bool


@dataclass(frozen=True, slots=True)
class Size:
    """About how many rows a table has, and how many bytes with its TOAST table but without its indexes."""

    rows: int = 0
    bytes: int = 0


@dataclass(frozen=True)
class Catalog:
    """The structure of one database's schemas as one session saw it.

    `depends` maps an object to the objects its definition needs; `strangers` maps one to the names of objects that need it
    but are outside the schemas or of a kind that is not compared; `needs` maps one to the names of the `unmodelled` objects
    that its own definition needs. `default_grants` maps (schema, PostgreSQL's object letter) to what a new object of this role
    is granted by ALTER DEFAULT PRIVILEGES; schema '' is the whole database.
    `makers` maps a schema to the role that new objects there shall belong to, '' being any new schema.
    `forbidden` holds (object, role) pairs for which no grant may exist. `quarantined` are the relations in archon_quarantine.
    """

    version: int
    database: str
    me: str
    schemas: tuple[str, ...]
    objects: Mapping[Key, Object]
    comments: Mapping[Key, str] = field(default_factory=dict)
    grants: Mapping[Key, frozenset[Grant]] = field(default_factory=dict)
    owners: Mapping[Key, str] = field(default_factory=dict)
    makers: Mapping[str, str] = field(default_factory=dict)
    depends: Mapping[Key, frozenset[Key]] = field(default_factory=dict)
    strangers: Mapping[Key, tuple[str, ...]] = field(default_factory=dict)
    needs: Mapping[Key, frozenset[str]] = field(default_factory=dict)
    unmodelled: tuple[Unmodelled, ...] = ()
    roles: frozenset[str] = frozenset()
    my_roles: frozenset[str] = frozenset()
    all_schemas: frozenset[str] = frozenset()
    available: Mapping[str, Available] = field(default_factory=dict)
    casts: frozenset[tuple[str, str]] = frozenset()
    default_grants: Mapping[tuple[str, str], frozenset[Grant]] = field(default_factory=dict)
    forbidden: frozenset[tuple[Key, str]] = frozenset()
    creates_schemas: bool = False
    superuser: bool = False
    quarantined: frozenset[str] = frozenset()
    sizes: Mapping[Key, Size] = field(default_factory=dict)

    @cached_property
    def extension_schemas(self) -> dict[str, str]:
        """Extension name to the schema it lives in."""
        return {found.key.name: found.schema for found in self.objects.values() if isinstance(found, Extension)}

    @cached_property
    def dependents(self) -> dict[Key, set[Key]]:
        """The reverse of `depends`."""
        found: dict[Key, set[Key]] = {}
        for key, needed in self.depends.items():
            for one in needed:
                found.setdefault(one, set()).add(key)
        return found

    @cached_property
    def on_table(self) -> dict[Key, list[Key]]:
        """Constraints, indexes, triggers, rules, policies and extended statistics by their table."""
        found: dict[Key, list[Key]] = {}
        for key, value in self.objects.items():
            if isinstance(value, Index):
                found.setdefault(value.table, []).append(key)
            elif key.kind in (Kind.CONSTRAINT, Kind.TRIGGER, Kind.RULE, Kind.POLICY):
                found.setdefault(key.table, []).append(key)
            elif isinstance(value, Other) and value.relation is not None:
                found.setdefault(value.relation, []).append(key)
        return found

    def maker(self, key: Key) -> str:
        """Who a new object shall belong to: the owner of the other tables, as whose member this role may be connected."""
        return self.makers.get(key.schema if key.schema in self.all_schemas else "", self.me)

    def parents_of(self, column: Key) -> list[Column]:
        """The columns of parent tables that `column` is inherited from."""
        own = self.column(column)
        if own is None or not own.inherited:
            return []
        parents = (self.table(key) for key in self.depends.get(column.table, ()) if key.kind is Kind.TABLE)
        return [
            parent.columns[column.part] for parent in parents if parent is not None and column.part in parent.columns
        ]

    def with_heirs(self, column: Key) -> list[Key]:
        """The column and the same column of every table that inherits it."""
        found, pending = [], [column.table]
        while pending:
            table = pending.pop()
            found.append(Key(Kind.COLUMN, table.schema, table.name, column.part))
            pending += [key for key in self.dependents.get(table, ()) if key.kind is Kind.TABLE]
        return found

    def table(self, key: Key) -> Table | None:
        found = self.objects.get(key)
        return found if isinstance(found, Table) else None

    def column(self, key: Key) -> Column | None:
        table = self.table(key.table)
        return table.columns.get(key.part) if table else None
