"""Pairs of databases' schemas at random, with rows in PROD: odd names everywhere, and one side changed against the other.

A pair is two lists of statements, each run by itself: what a server refuses is no part of the pair. So a generator need not know
what PostgreSQL allows, and every choice is drawn from hypothesis, which shrinks a failing pair to the few that matter.
"""

# ruff: noqa: S311 - chance, not secrets

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from random import Random

from psycopg import sql

NAMES = (
    "plain", "Sp ace", 'qu"ote', "ap'os", "per%cent", "%s", "{brace}", "üñí", "🎈", "select", "x" * 63, "ü" * 31 + "a", "back\\slash", "dot.ted",
    "-- c", "/*", "$1", ";semi", "user", "a=b", "vector", "text", "t", "%(schemas)s", "CamelCase", "$$", "order by",
)  # fmt: skip
VALUES = {
    "int": ("1", "2", "-7", "100000"), "bigint": ("1", "5", "9000000000"), "smallint": ("1", "2"), "text": ("'a'", "'täxt'", "'12'", "'it''s %s'", "''"),
    "varchar(5)": ("'a'", "'bcd'", "'12'"), "varchar(20)": ("'a'", "'bcdefghi'"), "char(4)": ("'ab'", "'cdef'"), "numeric": ("1.50", "2.255"),
    "numeric(8,2)": ("1.5", "7"), "numeric(10,4)": ("1.25", "3.0001"), "real": ("1.5", "0.1"), "double precision": ("0.1", "1e300"), "boolean": ("true", "false"),
    "date": ("'2025-01-01'",), "timestamp": ("'2025-01-01 10:00'", "'2025-01-01'"), "timestamptz": ("'2025-01-01 10:00+00'",), "timestamp(0)": ("'2025-01-01 10:00'",),
    "interval": ("'1 day'", "'2.5 s'"), "uuid": ("'00000000-0000-0000-0000-000000000001'",), "json": ("'{\"b\":1,\"a\":2}'", "'[1]'"), "jsonb": ("'{\"a\": 2}'", "'[1]'"),
    "bytea": ("'\\x00ff'",), "inet": ("'10.0.0.1'",), "cidr": ("'10.0.0.0/8'",), "text[]": ("'{a,b}'", "'{NULL}'"), "int[]": ("'{1,2}'",), "bit(3)": ("B'101'",),
    "int4range": ("'[1,3)'",), "money": ("'1.5'",), "tsvector": ("'a b'",), "vector(3)": ("'[1,2,3]'", "NULL"), '"char"': ("'a'",),
}  # fmt: skip
USUAL = ("int", "text", "bigint", "varchar(5)", "varchar(20)", "numeric(8,2)", "timestamptz", "boolean", "jsonb")
DEFAULTS = {
    "int": ("7", "(1+2)"), "bigint": ("7",), "text": ("'d'", "CURRENT_USER", "lower('X')"), "timestamptz": ("now()",), "uuid": ("gen_random_uuid()",),
    "boolean": ("false", "true"), "jsonb": ("'{}'",), "text[]": ("'{}'",), "numeric(8,2)": ("0",), "varchar(20)": ("'v'",),
}  # fmt: skip
LABELS = ("low", "mid", "hi gh", "o'k", "%s")
ROLES = ("anon", "authenticated", "service_role", "PUBLIC")
type Text = Callable[[Random], str]


def q(name: str) -> str:
    return sql.Identifier(name).as_string()


def lit(text: str) -> str:
    return sql.Literal(text).as_string()


@dataclass
class Pair:
    """The statements that make DEV and PROD."""

    dev: list[str] = field(default_factory=list)
    prod: list[str] = field(default_factory=list)


class Generator:
    """Draws one pair. `changed` is the chance that a choice falls otherwise on the two sides."""

    def __init__(self, random: Random, changed: float = 0.2) -> None:
        self.random = random
        self.changed = changed
        self.pair = Pair()
        self.used: set[str] = set()
        self.enums: list[str] = []
        self.domains: list[str] = []
        self.composites: list[str] = []
        self.functions: list[str] = []
        self.triggers: list[str] = []
        self.relations: dict[str, list[str]] = {}

    # -- choices -----------------------------------------------------------------------------------------------------

    def name(self) -> str:
        found = self.random.choice(NAMES)
        while found in self.used:
            found = f"{found[:20]}{len(self.used)}"
        self.used.add(found)
        return found

    def often(self, chance: float) -> bool:
        return self.random.random() < chance

    def both(self, text: Text, *, always: bool = False) -> None:
        """The same on both sides or, if chance will have it, otherwise, or on one side only."""
        seed = self.random.randrange(2**16)
        other = self.random.randrange(2**16) if self.often(self.changed) else seed
        sides = self.random.choice(("dev", "prod")) if not always and self.often(self.changed / 2) else "both"
        if sides != "prod":
            self.pair.dev.append(text(Random(seed)))
        if sides != "dev":
            self.pair.prod.append(text(Random(other)))

    def column_of(self, relation: str) -> str:
        return self.random.choice(self.relations[relation])

    def relation(self) -> str:
        return self.random.choice(list(self.relations))

    # -- objects -----------------------------------------------------------------------------------------------------

    def draw(self) -> Pair:
        for make, most in (
            (self.enum, 2),
            (self.domain, 1),
            (self.composite, 1),
            (self.function, 1),
            (self.sequence, 1),
        ):
            for _ in range(self.random.randint(0, most)):
                make()
        for _ in range(self.random.randint(1, 3)):
            self.table()
        for make, chance in ((self.partitioned, 0.25), (self.child, 0.2)):
            if self.often(chance):
                make()
        for make, most in (
            (self.function, 2),
            (self.trigger_function, 1),
            (self.view, 3),
            (self.extra, 6),
            (self.comment, 3),
        ):
            for _ in range(self.random.randint(0, most)):
                make()
        return self.pair

    def enum(self) -> None:
        name = self.name()
        self.enums.append(name)
        if self.often(self.changed):
            old = list(self.random.sample(LABELS, 3))
            new = [*old]
            new.insert(self.random.randint(0, 3), "new one")
            if self.often(0.3):
                old.insert(1, "prod only")
            for side, labels in ((self.pair.dev, new), (self.pair.prod, old)):
                side.append(f"CREATE TYPE {q(name)} AS ENUM ({', '.join(map(lit, labels))})")
            return
        self.both(lambda r: f"CREATE TYPE {q(name)} AS ENUM ({', '.join(map(lit, r.sample(LABELS, r.randint(2, 5))))})")

    def domain(self) -> None:
        name = self.name()
        self.domains.append(name)
        checks = ("", " CHECK (VALUE IS NOT NULL)", " CONSTRAINT dc CHECK (length(VALUE::text) < 5)")
        self.both(
            lambda r: (
                f"CREATE DOMAIN {q(name)} AS {r.choice(('int', 'text', 'varchar(9)', 'numeric(8,2)'))}{r.choice(('', ' DEFAULT 4', ' NOT NULL'))}{r.choice(checks)}"
            )
        )

    def composite(self) -> None:
        name = self.name()
        self.composites.append(name)
        self.both(
            lambda r: (
                f"CREATE TYPE {q(name)} AS (a {r.choice(('int', 'int', 'bigint'))}, b text{r.choice(('', ', c date'))})"
            )
        )

    def sequence(self) -> None:
        name = self.name()
        self.both(lambda r: f"CREATE SEQUENCE {q(name)} AS {r.choice(('int', 'bigint'))} INCREMENT {r.choice((1, 5))}")

    def column(self, r: Random, name: str, before: Sequence[str]) -> str:
        """A column's definition."""
        kind = r.random()
        if kind < 0.06:
            return f"{q(name)} {r.choice(('serial', 'bigserial'))}"
        if kind < 0.12:
            options = r.choice(("", " (START 10 INCREMENT 3)"))
            return f"{q(name)} {r.choice(('int', 'bigint'))} GENERATED {r.choice(('ALWAYS', 'BY DEFAULT'))} AS IDENTITY{options}"
        if kind < 0.17 and before:
            return f"{q(name)} text GENERATED ALWAYS AS (coalesce({q(before[0])}::text, '') || 'x') STORED"
        if kind < 0.21:
            return f"{q(name)} int GENERATED ALWAYS AS (id * {r.choice((2, 3))}) {r.choice(('STORED', 'VIRTUAL'))}"
        own = [*self.enums, *self.domains, *self.composites]
        enum = ""
        if own and r.random() < 0.25:
            enum = r.choice(own)
            type_name = q(enum) + r.choice(("", "", "[]"))
        else:
            type_name = r.choice(USUAL if r.random() < 0.5 else tuple(VALUES))
        parts = [q(name), type_name]
        if type_name in ("text", "varchar(20)") and r.random() < 0.15:
            parts.append('COLLATE "C"')
        if type_name in DEFAULTS and r.random() < 0.45:
            parts.append(f"DEFAULT {r.choice(DEFAULTS[type_name])}")
        elif enum in self.enums and r.random() < 0.5:
            parts.append(
                f"DEFAULT {r.choice(("'low'", "'new one'"))}" if "[" not in type_name else "DEFAULT '{\"new one\"}'"
            )
        elif self.functions and r.random() < 0.1:
            parts.append(f"DEFAULT {q(self.functions[0])}(3)")
        if r.random() < 0.25:
            parts.append("NOT NULL")
        if r.random() < 0.08:
            parts.append("UNIQUE")
        if r.random() < 0.08:
            parts.append(f"CHECK ({q(name)} > {r.choice(('-10', '0', "'a'", "'low'"))})")
        return " ".join(parts)

    def table(self) -> None:
        name = self.name()
        columns = [self.name() for _ in range(self.random.randint(1, 6))]
        ids = ("int PRIMARY KEY", "int PRIMARY KEY", "bigint PRIMARY KEY", "serial PRIMARY KEY", "int", "int GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY",
               "uuid PRIMARY KEY DEFAULT gen_random_uuid()")  # fmt: skip
        options = ("", "", "", " WITH (fillfactor=70)")
        self.both(
            lambda r: (
                f"CREATE {r.choice(('', '', '', 'UNLOGGED '))}TABLE {q(name)} (id {r.choice(ids)}){r.choice(options)}"
            )
        )
        for number, column in enumerate(columns):
            before = columns[:number]
            self.both(lambda r, c=column, b=before: f"ALTER TABLE {q(name)} ADD COLUMN {self.column(r, c, b)}")  # type: ignore[misc]
        self.relations[name] = ["id", *columns]

    def partitioned(self) -> None:
        name, one, two = self.name(), self.name(), self.name()
        self.both(
            lambda r: (
                f"CREATE TABLE {q(name)} (id int, k {r.choice(('text', 'varchar(20)'))}, CHECK (id < {r.choice((100, 200))})) PARTITION BY RANGE (id)"
            ),
            always=True,
        )
        self.both(lambda _: f"CREATE TABLE {q(one)} PARTITION OF {q(name)} FOR VALUES FROM (0) TO (10)")
        self.both(
            lambda r: (
                f"CREATE TABLE {q(two)} PARTITION OF {q(name)} {r.choice(('DEFAULT', 'DEFAULT', 'FOR VALUES FROM (10) TO (50)'))}"
            )
        )
        self.both(lambda _: f"ALTER TABLE {q(name)} ADD PRIMARY KEY (id)")
        self.both(lambda _: f"ALTER TABLE {q(one)} ALTER k SET DEFAULT 'p'")
        self.relations[name] = ["id", "k"]

    def child(self) -> None:
        name, parent, column = self.name(), self.relation(), self.name()
        self.both(lambda r: f"CREATE TABLE {q(name)} ({q(column)} {r.choice(('int', 'text'))}) INHERITS ({q(parent)})")
        self.relations[name] = ["id", column]

    def function(self) -> None:
        name = self.random.choice(self.functions) if self.functions and self.often(0.2) else self.name()
        tables = tuple(self.relations)

        def text(r: Random) -> str:
            result, options = (
                r.choice(("int", "text", "bigint")),
                r.choice(("", " IMMUTABLE", " STABLE", " STRICT SECURITY DEFINER", " SET search_path = ''")),
            )
            number, argument = r.choice((1, 2)), f"{r.choice(('a', 'b', ''))} int{r.choice(('', ' DEFAULT 1'))}"
            texts = [
                f"CREATE FUNCTION {q(name)}({argument}) RETURNS {result} LANGUAGE sql{options} AS $f$ SELECT {number}::{result} $f$",
                f"CREATE FUNCTION {q(name)}({argument}) RETURNS {result} LANGUAGE plpgsql{options} AS $f$ BEGIN RETURN {number}; END $f$",
                f"CREATE FUNCTION {q(name)}(int) RETURNS {result} LANGUAGE sql{options} BEGIN ATOMIC SELECT {number}::{result}; END",
                f"CREATE PROCEDURE {q(name)}(x int) LANGUAGE sql AS $f$ SELECT 1 $f$",
                f"CREATE FUNCTION {q(name)}(x text, VARIADIC y int[] DEFAULT '{{}}') RETURNS TABLE(o int, p text) LANGUAGE sql{options} AS $f$ SELECT 1, 'a' $f$",
            ]
            for table in tables[:1]:
                texts += [
                    f"CREATE FUNCTION {q(name)}(x {q(table)}) RETURNS text LANGUAGE sql{options} AS $f$ SELECT ''::text $f$",
                    f"CREATE FUNCTION {q(name)}() RETURNS bigint LANGUAGE sql BEGIN ATOMIC SELECT count(id) FROM {q(table)}; END",
                ]
            return r.choice(texts)

        self.both(text)
        self.functions.append(name)

    def trigger_function(self) -> None:
        name = self.name()
        self.triggers.append(name)
        self.both(
            lambda r: (
                f"CREATE FUNCTION {q(name)}() RETURNS trigger LANGUAGE plpgsql AS $f$ BEGIN RETURN {r.choice(('NEW', 'OLD'))}; END $f$"
            )
        )

    def view(self) -> None:
        name, source = self.name(), self.relation()
        column, materialised = q(self.column_of(source)), self.often(0.25)

        def text(r: Random) -> str:
            body = r.choice(
                (
                    f"SELECT * FROM {q(source)}",
                    f"SELECT id, {column} AS z FROM {q(source)} WHERE id IS NOT NULL",
                    f"SELECT count(*) AS n, max(id::text) AS id FROM {q(source)}",
                    f"SELECT a.id, b.id AS other FROM {q(source)} a JOIN {q(source)} b USING (id)",
                )
            )
            options = (
                "" if materialised else r.choice(("", "", " WITH (security_invoker=true)", " WITH (security_barrier)"))
            )
            return f"CREATE {'MATERIALIZED ' if materialised else ''}VIEW {q(name)}{options} AS {body}"

        self.both(text)
        self.relations[name] = ["id"]
        if materialised:
            self.both(lambda _: f"CREATE INDEX ON {q(name)} (id)")

    def extra(self) -> None:
        table, other, name = self.relation(), self.relation(), self.name()
        columns = tuple(self.relations[table])

        def column(r: Random) -> str:
            return q(r.choice(columns))

        start = f"ALTER TABLE {q(table)}"
        texts: list[Text] = [
            lambda r: (
                f"CREATE {r.choice(('', '', 'UNIQUE '))}INDEX {q(name)} ON {q(table)} ({column(r)}{r.choice(('', ' DESC'))}){r.choice(('', ' INCLUDE (id)'))}{r.choice(('', ' WHERE id IS NOT NULL'))}"
            ),
            lambda r: (
                f"CREATE INDEX {q(name)} ON {q(table)} (({column(r)}::text), lower({column(r)}::text) text_pattern_ops)"
            ),
            lambda r: f"CREATE INDEX {q(name)} ON {q(table)} USING {r.choice(('hash', 'brin', 'gin'))} ({column(r)})",
            lambda r: (
                f"{start} ADD CONSTRAINT {q(name)} FOREIGN KEY ({column(r)}) REFERENCES {q(other)} {r.choice(('', 'ON DELETE CASCADE', 'DEFERRABLE INITIALLY DEFERRED'))}{r.choice(('', ' NOT VALID'))}"
            ),
            lambda r: (
                f"{start} ADD CONSTRAINT {q(name)} CHECK ({column(r)} IS NOT NULL OR id IS NOT NULL){r.choice(('', ' NOT VALID', ' NO INHERIT'))}"
            ),
            lambda r: f"{start} ADD CONSTRAINT {q(name)} UNIQUE {r.choice(('', 'NULLS NOT DISTINCT '))}({column(r)})",
            lambda r: (
                f"CREATE POLICY {q(name)} ON {q(table)} {r.choice(('', 'AS RESTRICTIVE'))} FOR {r.choice(('ALL', 'SELECT'))} TO {r.choice(ROLES)} USING ({column(r)} IS NOT NULL)"
            ),
            lambda _: f"{start} ENABLE ROW LEVEL SECURITY",
            lambda r: f"GRANT {r.choice(('SELECT', 'INSERT, UPDATE', 'ALL'))} ON {q(table)} TO {r.choice(ROLES)}",
            lambda r: f"GRANT {r.choice(('SELECT', 'UPDATE'))} ({column(r)}) ON {q(table)} TO anon",
            lambda r: f"{start} REPLICA IDENTITY {r.choice(('FULL', 'NOTHING'))}",
            lambda r: f"{start} ALTER {column(r)} SET STORAGE {r.choice(('EXTERNAL', 'MAIN'))}",
            lambda r: f"{start} ALTER {column(r)} SET STATISTICS {r.choice((100, 500))}",
        ]
        if self.triggers:
            trigger = q(self.triggers[0])
            texts.append(
                lambda r: (
                    f"CREATE TRIGGER {q(name)} {r.choice(('BEFORE', 'AFTER'))} {r.choice(('INSERT', 'UPDATE OF id'))} ON {q(table)}"
                    f" FOR EACH ROW EXECUTE FUNCTION {trigger}()"
                )
            )
        if self.functions:
            function = q(self.functions[0])
            texts.append(lambda _: f"REVOKE ALL ON ROUTINE {function} FROM PUBLIC")
        self.both(self.random.choice(texts))

    def comment(self) -> None:
        relation = self.relation()
        column = self.column_of(relation)
        target = self.random.choice(
            (f"TABLE {q(relation)}", f"COLUMN {q(relation)}.{q(column)}", f"VIEW {q(relation)}")
        )
        self.both(lambda r: f"COMMENT ON {target} IS {lit(r.choice(('a', "it's %s {} \\", 'ü')))}")
