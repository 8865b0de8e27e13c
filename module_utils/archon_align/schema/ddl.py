"""Statement texts: each object's CREATE, DROP, COMMENT and GRANT. Every identifier and literal is composed by psycopg.sql."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from psycopg import sql

from .model import (
    CALLED,
    PUBLIC,
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
    Other,
    Policy,
    Schema,
    Sequence,
    Table,
    Trigger,
    View,
)
from .portable import rendered

STORAGE = {"p": "PLAIN", "e": "EXTERNAL", "x": "EXTENDED", "m": "MAIN"}
COMPRESSION = {"p": "pglz", "l": "lz4"}
_ENABLED = {"O": "ENABLE", "D": "DISABLE", "R": "ENABLE REPLICA", "A": "ENABLE ALWAYS"}
_IDENTITY = {"a": "ALWAYS", "d": "BY DEFAULT"}
_GRANT_ON = {
    Kind.TABLE: "TABLE", Kind.VIEW: "TABLE", Kind.MATVIEW: "TABLE", Kind.SEQUENCE: "SEQUENCE", Kind.FUNCTION: "ROUTINE",
    Kind.ENUM: "TYPE", Kind.DOMAIN: "TYPE", Kind.COMPOSITE: "TYPE", Kind.RANGE: "TYPE", Kind.SCHEMA: "SCHEMA", Kind.COLUMN: "TABLE",
    Kind.AGGREGATE: "ROUTINE",
}  # fmt: skip
_NOUN = {
    Kind.ENUM: "TYPE", Kind.COMPOSITE: "TYPE", Kind.DOMAIN: "DOMAIN", Kind.FUNCTION: "ROUTINE", Kind.MATVIEW: "MATERIALIZED VIEW",
    Kind.VIEW: "VIEW", Kind.TABLE: "TABLE", Kind.SEQUENCE: "SEQUENCE", Kind.INDEX: "INDEX", Kind.SCHEMA: "SCHEMA",
    Kind.COLUMN: "COLUMN", Kind.CONSTRAINT: "CONSTRAINT", Kind.TRIGGER: "TRIGGER", Kind.POLICY: "POLICY", Kind.RULE: "RULE",
    Kind.COLLATION: "COLLATION", Kind.RANGE: "TYPE", Kind.DICTIONARY: "TEXT SEARCH DICTIONARY", Kind.CONFIGURATION: "TEXT SEARCH CONFIGURATION",
    Kind.AGGREGATE: "ROUTINE", Kind.OPERATOR: "OPERATOR", Kind.CAST: "CAST", Kind.STATISTICS: "STATISTICS",
}  # fmt: skip
# What a new object of a kind is granted without anybody's doing, besides the owner's rights.
BUILT_IN_GRANTS = {
    Kind.FUNCTION: frozenset({Grant(PUBLIC, "EXECUTE")}),
    Kind.ENUM: frozenset({Grant(PUBLIC, "USAGE")}),
    Kind.DOMAIN: frozenset({Grant(PUBLIC, "USAGE")}),
    Kind.COMPOSITE: frozenset({Grant(PUBLIC, "USAGE")}),
    Kind.RANGE: frozenset({Grant(PUBLIC, "USAGE")}),
    Kind.AGGREGATE: frozenset({Grant(PUBLIC, "EXECUTE")}),
}
DEFAULT_GRANT_LETTER = {
    Kind.TABLE: "r", Kind.VIEW: "r", Kind.MATVIEW: "r", Kind.SEQUENCE: "S", Kind.FUNCTION: "f", Kind.ENUM: "T", Kind.DOMAIN: "T",
    Kind.COMPOSITE: "T", Kind.RANGE: "T", Kind.AGGREGATE: "f", Kind.SCHEMA: "n",
}  # fmt: skip


def ident(*parts: str) -> str:
    """A quoted, qualified identifier."""
    return sql.Identifier(*parts).as_string()


def storage_options(options: Iterable[str]) -> str:
    """Storage parameters or view options, from the catalogue's `name=value`."""
    return ", ".join(f"{name}={literal(value)}" for name, _, value in (option.partition("=") for option in options))


def literal(value: str) -> str:
    return sql.Literal(value).as_string().strip()


class Writer:
    """Renders objects for the database in which extensions live in `extension_schemas`; `identities` are the names of the
    sequences that are known by their column."""

    def __init__(self, extension_schemas: Mapping[str, str], identities: Mapping[Key, str] | None = None) -> None:
        self.extension_schemas = extension_schemas
        self.identities = identities or {}

    def text(self, portable: str) -> str:
        return rendered(portable, self.extension_schemas, ident)

    # -- names -------------------------------------------------------------------------------------------------------

    def name(self, key: Key) -> str:
        """The name as it stands in statements about the object itself (a column's or constraint's is bare)."""
        if key.kind in (Kind.SCHEMA, Kind.EXTENSION):
            return ident(key.name)
        if key.kind is Kind.OPERATOR:
            return f"{ident(key.schema)}.{key.name}({self.text(key.part)})"
        if key.kind is Kind.CAST:
            return self.text(key.name)
        if key.kind in CALLED:
            return f"{ident(key.schema, key.name)}({self.text(key.part)})"
        if key.kind is Kind.SEQUENCE and key.part:
            return ident(key.schema, self.identities[key])
        if key.part:
            return ident(key.part)
        return ident(key.schema, key.name)

    def target(self, key: Key) -> str:
        """The object as COMMENT ON and DROP name it: `TABLE a.b`, `TRIGGER t ON a.b`."""
        if key.kind is Kind.COLUMN:
            return f"COLUMN {ident(key.schema, key.name, key.part)}"
        if key.kind is Kind.DOMAIN_CONSTRAINT:
            return f"CONSTRAINT {ident(key.part)} ON DOMAIN {ident(key.schema, key.name)}"
        if key.kind in (Kind.CONSTRAINT, Kind.TRIGGER, Kind.RULE, Kind.POLICY):
            return f"{_NOUN[key.kind]} {ident(key.part)} ON {ident(key.schema, key.name)}"
        return f"{_NOUN[key.kind]} {self.name(key)}"

    # -- whole objects -----------------------------------------------------------------------------------------------

    def create(self, value: Object, *, with_data: bool = True) -> list[str]:
        """The statements that make the object, without comment and grants."""
        match value:
            case Schema(key):
                return [f"CREATE SCHEMA {self.name(key)}"]
            case Extension(key, schema):
                return [
                    f"CREATE EXTENSION {self.name(key)} SCHEMA {ident(self.extension_schemas.get(key.name, schema))}"
                ]
            case Enum(key, labels):
                return [f"CREATE TYPE {self.name(key)} AS ENUM ({', '.join(map(literal, labels))})"]
            case Composite(key, attributes):
                return [f"CREATE TYPE {self.name(key)} AS ({', '.join(map(self.attribute, attributes.values()))})"]
            case Domain():
                return self._domain(value)
            case Sequence():
                return [self._sequence(value)]
            case Function():
                return [self.text(value.definition).rstrip()]
            case Table():
                return self._table(value)
            case Constraint(key, definition=definition):
                made = f"ALTER TABLE {self.name(key.table)} ADD CONSTRAINT {ident(key.part)} {self.text(definition)}"
                options = [self.index_options(value)] if value.options else []
                return [made, *options, *([self.clustered(value)] if value.clustered else [])]
            case Index(key):
                made = f"CREATE {'UNIQUE ' if value.unique else ''}INDEX {ident(key.name)} ON {self.text(value.definition)}"
                statistics = [self.index_statistics(value, *one) for one in value.statistics]
                return [made, *statistics, *([self.clustered(value)] if value.clustered else [])]
            case View(key):
                noun = _NOUN[key.kind]
                settings = [
                    f"ALTER {noun} {self.name(key)} ALTER COLUMN {ident(column)} {self.text(words)}"
                    for column, words in value.settings
                ]
                return [self.view(value, replace=False, with_data=with_data), *settings]
            case Trigger(key):
                made = self.text(value.definition)
                return [made] if value.enabled == "O" else [made, self.trigger_state(value)]
            case Policy():
                return [self._policy(value)]
            case Other():
                return [self.text(value.definition), *map(self.text, value.settings)]
            case Column(key):
                return [
                    f"ALTER TABLE {self.name(key.table)} ADD COLUMN {self.column(value)}",
                    *self._column_settings(value),
                ]

    def drop(self, key: Key) -> str:
        """DROP without CASCADE: what stands in the way must have been planned for."""
        if key.kind is Kind.CONSTRAINT:
            return f"ALTER TABLE {self.name(key.table)} DROP CONSTRAINT {ident(key.part)}"
        if key.kind is Kind.DEFAULT:
            return f"ALTER TABLE {self.name(key.table)} ALTER COLUMN {ident(key.part)} DROP DEFAULT"
        return f"DROP {self.target(key)}"

    def attribute(self, column: Column) -> str:
        collation = f" COLLATE {self.text(column.collation)}" if column.collation else ""
        return f"{ident(column.key.part)} {self.text(column.type)}{collation}"

    def clustered(self, value: Index | Constraint) -> str:
        table = value.table if isinstance(value, Index) else value.key.table
        noun = "MATERIALIZED VIEW" if table.kind is Kind.MATVIEW else "TABLE"
        return f"ALTER {noun} {self.name(table)} CLUSTER ON {ident(value.key.part or value.key.name)}"

    def index_options(self, value: Constraint) -> str:
        """Storage parameters of the index behind a constraint."""
        return f"ALTER INDEX {ident(value.key.schema, value.key.part)} SET ({storage_options(value.options)})"

    def index_statistics(self, value: Index, number: int, target: int) -> str:
        return f"ALTER INDEX {self.name(value.key)} ALTER COLUMN {number} SET STATISTICS {target}"

    def _domain(self, value: Domain) -> list[str]:
        parts = [f"CREATE DOMAIN {self.name(value.key)} AS {self.text(value.base)}"]
        if value.collation:
            parts.append(f"COLLATE {self.text(value.collation)}")
        if value.default is not None:
            parts.append(f"DEFAULT {self.text(value.default)}")
        if value.not_null:
            parts.append("NOT NULL")
        added = []
        for name, (text, _) in value.constraints.items():
            constraint = f"CONSTRAINT {ident(name)} {self.text(text)}"
            # CREATE DOMAIN knows no constraint that stored values may break.
            if text.endswith(" NOT VALID"):
                added.append(f"ALTER DOMAIN {self.name(value.key)} ADD {constraint}")
            else:
                parts.append(constraint)
        return [" ".join(parts), *added]

    def _sequence(self, value: Sequence) -> str:
        unlogged = "UNLOGGED " if value.persistence == "u" else ""
        return f"CREATE {unlogged}SEQUENCE {self.name(value.key)} AS {value.type} {value.options}"

    def column(self, column: Column, *, default: bool = True) -> str:
        """A column's definition as in CREATE TABLE and ADD COLUMN."""
        parts = [ident(column.key.part), self.text(column.type)]
        if column.collation:
            parts.append(f"COLLATE {self.text(column.collation)}")
        if column.generated:
            kind = "STORED" if column.generated == "s" else "VIRTUAL"
            parts.append(f"GENERATED ALWAYS AS ({self.text(column.default or '')}) {kind}")
        elif column.identity:
            parts.append(self.identity(column))
        elif default and column.default is not None:
            parts.append(f"DEFAULT {self.text(column.default)}")
        if column.not_null:
            parts.append("NOT NULL")
        return " ".join(parts)

    def identity(self, column: Column) -> str:
        name = ident(column.key.schema, column.identity_sequence)
        options = f" (SEQUENCE NAME {name} {column.identity_options})" if column.identity_sequence else ""
        return f"GENERATED {_IDENTITY[column.identity]} AS IDENTITY{options}"

    def _column_settings(self, column: Column) -> list[str]:
        found = []
        start = f"ALTER TABLE ONLY {self.name(column.key.table)} ALTER COLUMN {ident(column.key.part)}"
        if column.storage:
            found.append(f"{start} SET STORAGE {STORAGE[column.storage]}")
        if column.compression:
            found.append(f"{start} SET COMPRESSION {COMPRESSION[column.compression]}")
        if column.statistics >= 0:
            found.append(f"{start} SET STATISTICS {column.statistics}")
        if column.options:
            found.append(f"{start} SET ({storage_options(column.options)})")
        return found

    def _table(self, table: Table) -> list[str]:
        name = self.name(table.key)
        unlogged = "UNLOGGED " if table.persistence == "u" else ""
        own = [column for column in table.columns.values() if not column.inherited]
        # A default may call a function that needs the table: defaults that do so are set afterwards (plan.py decides).
        body = ",\n".join(f"  {self.column(column)}" for column in own)
        parts = [f"CREATE {unlogged}TABLE {name}"]
        if table.bound:
            parts.append(f"PARTITION OF {table.parents[0]} {self.text(table.bound)}")
        else:
            parts.append(f"(\n{body}\n)" if own else "()")
            if table.parents:
                parts.append(f"INHERITS ({', '.join(table.parents)})")
        if table.partition_key:
            parts.append(f"PARTITION BY {self.text(table.partition_key)}")
        if table.method not in ("heap", None):
            parts.append(f"USING {ident(table.method)}")
        if table.options:
            parts.append(f"WITH ({storage_options(table.options)})")
        made = [" ".join(parts)]
        for column in table.columns.values():  # a child inherits no statistics target
            made += self._column_settings(column)
        for flag, words in ((table.row_security, "ENABLE"), (table.force_row_security, "FORCE")):
            if flag:
                made.append(f"ALTER TABLE {name} {words} ROW LEVEL SECURITY")
        return made

    def view(self, view: View, *, replace: bool, with_data: bool = True) -> str:
        noun = "MATERIALIZED VIEW" if view.key.kind is Kind.MATVIEW else "VIEW"
        columns = ", ".join(ident(name) for name, _ in view.columns)
        options = f" WITH ({storage_options(view.options)})" if view.options else ""
        data = "" if view.key.kind is Kind.VIEW or (view.populated and with_data) else "\nWITH NO DATA"
        verb = "CREATE OR REPLACE" if replace else "CREATE"
        method = f" USING {ident(view.method)}" if view.method not in ("heap", None) else ""
        return (
            f"{verb} {noun} {self.name(view.key)} ({columns}){method}{options} AS\n{self.text(view.definition)}{data}"
        )

    def trigger_state(self, trigger: Trigger) -> str:
        return (
            f"ALTER TABLE {self.name(trigger.key.table)} {_ENABLED[trigger.enabled]} TRIGGER {ident(trigger.key.part)}"
        )

    def _policy(self, policy: Policy) -> str:
        roles = ", ".join(role_name(role) for role in policy.roles)
        kind = "PERMISSIVE" if policy.permissive else "RESTRICTIVE"
        parts = [f"CREATE {self.target(policy.key)} AS {kind} FOR {policy.command} TO {roles}"]
        if policy.using is not None:
            parts.append(f"USING ({self.text(policy.using)})")
        if policy.check is not None:
            parts.append(f"WITH CHECK ({self.text(policy.check)})")
        return " ".join(parts)

    # -- attachments -------------------------------------------------------------------------------------------------

    def comment(self, key: Key, text: str) -> str:
        return f"COMMENT ON {self.target(key)} IS {literal(text)}"

    def owner(self, key: Key, owner: str) -> str:
        return f"ALTER {self.target(key)} OWNER TO {ident(owner)}"

    def grants(self, key: Key, wanted: frozenset[Grant], found: frozenset[Grant]) -> list[str]:
        """GRANT and REVOKE statements that turn `found` into `wanted`, one per role."""
        made = []
        for given, taken, verb, word in (
            (found - wanted, wanted, "REVOKE", "FROM"),
            (wanted - found, found, "GRANT", "TO"),
        ):
            for role in sorted({grant.role for grant in given}):
                for grantable in (False, True):
                    names = sorted(g.privilege for g in given if g.role == role and g.grantable is grantable)
                    if verb == "REVOKE":
                        kept = {g.privilege for g in taken if g.role == role}
                        names = [] if grantable and kept.issuperset(names) else [n for n in names if n not in kept]
                    if names:
                        option = " WITH GRANT OPTION" if grantable and verb == "GRANT" else ""
                        made.append(f"{verb} {self._privileges(key, names)} {word} {role_name(role)}{option}")
        return made

    def _privileges(self, key: Key, names: list[str]) -> str:
        if key.kind is Kind.COLUMN:
            listed = ", ".join(f"{name} ({ident(key.part)})" for name in names)
            return f"{listed} ON TABLE {self.name(key.table)}"
        return f"{', '.join(names)} ON {_GRANT_ON[key.kind]} {self.name(key)}"


def role_name(role: str) -> str:
    return PUBLIC if role == PUBLIC else ident(role)
