"""Changes of type with rows, every table protected: a value stays what it is, or the change is refused and nothing is changed."""

from __future__ import annotations

import pytest
from hazard_cases import Bench, Case, Judged, expect
from schema_worlds import Side


def change(old: str, new: str, *values: str, refused: str = "", before: str = "") -> Case:
    """A column's type changes over these values."""
    rows = "".join(f"INSERT INTO t VALUES ({number}, {value});" for number, value in enumerate(values))
    table = before + "CREATE TABLE t (id int PRIMARY KEY, a {});"
    name = f"{old} to {new}: {', '.join(values)}"
    # The same number, day or truth may be written otherwise; what it is compared with then is its way back.
    through = "CAST(a AS text)" if "range" in old else "a"
    back = {
        f"SELECT count(*) FROM t WHERE CAST({through} AS {old}) IS NOT DISTINCT FROM {value}": 1 for value in values[:1]
    }
    return Case(
        name, table.format(new), table.format(old) + rows, refused, keeps={} if refused else back, computed=("a",)
    )


LOSES = "type_change_loses"
CASES = [
    change("varchar(50)", "varchar(5)", "'abc'"), change("varchar(50)", "varchar(2)", "'abc'", refused=LOSES), change("text", "varchar(200000)", "repeat('täx', 50000)"),
    change("text", "int", "'12'", "NULL"), change("text", "int", "'12'", "'x'", refused=LOSES), change("text", "int", "'007'", refused=LOSES), change("text", "int", "' 7'", refused=LOSES),
    change("text", "boolean", "'true'"), change("text", "boolean", "'yes'", refused=LOSES), change("boolean", "int", "true", "false"), change("int", "boolean", "1", "0"), change("int", "boolean", "2", refused=LOSES),
    change("int", "bytea", "1", refused=LOSES), change("int", '"char"', "65", refused=LOSES), change("int", "int[]", "1", refused=LOSES), change("int[]", "bigint[]", "'{1,NULL}'"),
    change("timestamp", "timestamptz", "'2025-01-01 10:00'", refused=LOSES), change("timestamptz", "timestamp", "'2025-01-01 10:00+00'", refused=LOSES), change("timestamptz", "date", "'2025-01-01+00'", refused=LOSES),
    change("timestamp", "date", "'2025-01-01'"), change("timestamp", "date", "'2025-01-01 10:00'", refused=LOSES), change("date", "timestamp", "'2025-01-01'"), change("timestamptz", "timestamptz(0)", "'2025-01-01 10:00:00.5+00'", refused=LOSES),
    change("date", "int", "'2025-01-01'", refused=LOSES), change("bigint", "timestamp", "1000", refused=LOSES), change("time", "timetz", "'10:00'", refused=LOSES), change("interval", "interval(0)", "'2.5 s'", refused=LOSES), change("interval", "interval day", "'1 day 2 hours'", refused=LOSES),
    change("numeric(10,2)", "numeric(12,4)", "1.25"), change("numeric(10,2)", "numeric(10,1)", "1.25", refused=LOSES), change("numeric", "numeric(10,1)", "'NaN'", "1"), change("int", "numeric(3)", "1000", refused=LOSES),
    change("double precision", "real", "0.1", refused=LOSES), change("double precision", "real", "0.5"), change("real", "double precision", "0.5"), change("double precision", "numeric(10,2)", "2.25"), change("double precision", "numeric(10,2)", "0.123", refused=LOSES),
    change("money", "numeric(10,2)", "'12.34'::money"), change("numeric(10,2)", "money", "12.34"), change("oid", "bigint", "4294967295"),
    change("char(5)", "text", "'ab'"), change("text", "char(5)", "'ab'"), change("text", "char(5)", "'ab '", refused=LOSES), change("bit(3)", "varbit", "B'101'"), change("bit(3)", "bit(5)", "B'101'", refused=LOSES),
    change("text", "uuid", "'00000000-0000-0000-0000-00000000000A'", refused=LOSES), change("text", "jsonb", "'{\"a\": 1}'"), change("json", "jsonb", "'{\"a\":1,\"a\":2}'", refused=LOSES), change("jsonb", "text", "'{\"a\": 1}'"),
    change("text", "bytea", r"'a\\b'", refused=LOSES), change("inet", "cidr", "'10.0.0.0/8'"), change("int4range", "int8range", "'[1,3)'"), change("tsvector", "text", "'a b:1'"), change("vector(3)", "halfvec(3)", "'[1,2,3.5]'"),
    change("numeric(8,2)", "d", "2.5", before="CREATE DOMAIN d AS numeric(10,4);"), change("d", "numeric(10,4)", "2.5", before="CREATE DOMAIN d AS numeric(8,2);"), change("text", "d", "'xy'", before="CREATE DOMAIN d AS text CHECK (VALUE ~ '@');", refused=LOSES),
    change("text[]", "e[]", "'{a,NULL}'", before="CREATE TYPE e AS ENUM ('a', 'b');"), change("text[]", "e[]", "'{a,x}'", before="CREATE TYPE e AS ENUM ('a', 'b');", refused=LOSES), change("e[]", "text[]", "'{a,b}'", before="CREATE TYPE e AS ENUM ('a', 'b');"),
    Case("an array of an enum that only DEV has", "CREATE TYPE e AS ENUM ('a', 'b'); CREATE TABLE t (id int PRIMARY KEY, x e[] DEFAULT '{b}');", "CREATE TABLE t (id int PRIMARY KEY, x text[]); INSERT INTO t VALUES (1, '{a,NULL}');"),
    Case("an enum's new label in an array's default", "CREATE TYPE e AS ENUM ('a', 'b', 'c'); CREATE TABLE t (id int PRIMARY KEY, x e[] DEFAULT '{b}');", "CREATE TYPE e AS ENUM ('a', 'c'); CREATE TABLE t (id int PRIMARY KEY, x e[] DEFAULT '{a}'); INSERT INTO t VALUES (1, '{a,c,NULL}');"),
    Case("values that become equal under a key", "CREATE TABLE t (id int PRIMARY KEY, a numeric UNIQUE);", "CREATE TABLE t (id int PRIMARY KEY, a text UNIQUE); INSERT INTO t VALUES (1, '1'), (2, '1.0');", refused="rows_in_the_way"),
    Case("plain becomes generated, the same values stored", "CREATE TABLE t (id int, g bigint GENERATED ALWAYS AS (id * 2) STORED);", "CREATE TABLE t (id int, g int); INSERT INTO t VALUES (1, 2), (2, 4);"),
    Case("virtual becomes plain, values kept", "CREATE TABLE t (id int, g int NOT NULL DEFAULT 3); CREATE VIEW v AS SELECT g FROM t; CREATE INDEX i ON t (g);", "CREATE TABLE t (id int, g int GENERATED ALWAYS AS (id * 2) VIRTUAL); CREATE VIEW v AS SELECT g FROM t; INSERT INTO t VALUES (1), (7);"),
    Case("virtual becomes plain, and what it is computed from changes", "CREATE TABLE t (n numeric(9,4), g text NOT NULL DEFAULT 'z');", "CREATE TABLE t (n numeric(8,2), g text GENERATED ALWAYS AS (n::text || 'x') VIRTUAL); INSERT INTO t VALUES (2.5);", refused="values_not_stored"),
    Case("generated becomes plain, and what it is computed from changes", "CREATE TABLE t (n numeric(9,4), g text NOT NULL DEFAULT 'z');", "CREATE TABLE t (n numeric(8,2), g text GENERATED ALWAYS AS (n::text || 'x') STORED); INSERT INTO t VALUES (2.5);", keeps={"SELECT n::text || g FROM t": "2.50002.50x"}, computed=("n",)),
]  # fmt: skip


@pytest.fixture(scope="module")
def bench(sides: tuple[Side, Side], tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return Bench(*sides, "type", CASES, tmp_path_factory.mktemp("hazards"), all_protected=True)


@pytest.fixture(scope="module")
def judged(bench: Bench) -> dict[str, Judged]:
    return bench.judged()


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_hazard(case: Case, judged: dict[str, Judged], bench: Bench) -> None:
    expect(judged[case.name], bench.prod)


def test_pg_dump_agrees(judged: dict[str, Judged], bench: Bench) -> None:
    """The witness that owes nothing to our inspection: whatever DEV's dump says of an aligned schema, PROD's says too."""
    assert bench.unequal() == []
