"""Kinds that are known by the statements that make them: made in order, put back, made anew, or told of and refused by name."""

from __future__ import annotations

from collections.abc import Callable

import psycopg
import pytest
from hazard_cases import Bench, Case, Judged, expect
from psycopg import sql
from schema_worlds import Side, World

F = "CREATE FUNCTION add2(int, int) RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT $1 + $2';"
HELP = (
    F
    + """CREATE TABLE t (a int); CREATE FUNCTION sub2(int, int) RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT $1 - $2';
    CREATE FUNCTION count_of(text[], text[]) RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT 1'; CREATE FUNCTION keep(anyarray, anyelement) RETURNS anyarray LANGUAGE sql IMMUTABLE AS 'SELECT $1';"""
)
EQ = "CREATE FUNCTION same(int, text) RETURNS bool LANGUAGE sql IMMUTABLE AS 'SELECT $1::text = $2'; CREATE FUNCTION same(text, int) RETURNS bool LANGUAGE sql IMMUTABLE AS 'SELECT $1 = $2::text';"
AB = "CREATE TABLE t (a int, b int);"
N = "CREATE TABLE t (a int, n int);"
WIDE = N.replace("n int", "n bigint")
ROW = "INSERT INTO t VALUES (1, 2);"

# What stands in the way of a column's change, in both databases.
IN_THE_WAY = {
    "statistics on it": "CREATE STATISTICS stat (ndistinct) ON a, (n + 1) FROM t; ALTER STATISTICS stat SET STATISTICS 50; COMMENT ON STATISTICS stat IS 'c';",
    "statistics on a computed column": "ALTER TABLE t ADD g int GENERATED ALWAYS AS (n * 2) STORED; CREATE STATISTICS stat ON a, g FROM t;",
    "statistics on a materialised view": "CREATE MATERIALIZED VIEW m AS SELECT a, n FROM t; CREATE STATISTICS stat ON a, n FROM m;",
    "rule of its table": """CREATE TABLE u (n bigint); CREATE RULE "r ü" AS ON INSERT TO t DO ALSO INSERT INTO u VALUES (new.n); ALTER TABLE t DISABLE RULE "r ü"; COMMENT ON RULE "r ü" ON t IS 'c';""",
    "rule of another table": "CREATE TABLE u (n bigint); CREATE RULE r AS ON INSERT TO u DO ALSO UPDATE t SET n = new.n;",
    "rule of a view": "CREATE VIEW v AS SELECT n FROM t; CREATE RULE r AS ON INSERT TO v DO INSTEAD INSERT INTO t (n) VALUES (new.n); COMMENT ON RULE r ON v IS 'c';",
}  # fmt: skip

CASES = [
    # made where PROD lacks them
    Case("aggregates", HELP + """CREATE AGGREGATE total(int) (sfunc = add2, stype = int, initcond = '0', combinefunc = add2, parallel = safe, msfunc = add2, minvfunc = sub2, mstype = int, minitcond = '0'); CREATE AGGREGATE rows(*) (sfunc = int8inc, stype = int8, initcond = 0);
         CREATE AGGREGATE most(x int) (sfunc = int4larger, stype = int, sortop = >); CREATE AGGREGATE "Odd ü"(VARIADIC a text[]) (sfunc = array_cat, stype = text[], finalfunc = count_of, finalfunc_extra);
         CREATE AGGREGATE mid(float8 ORDER BY anyelement) (sfunc = keep, stype = anyarray, initcond = '{}'); REVOKE EXECUTE ON FUNCTION total FROM PUBLIC; GRANT EXECUTE ON FUNCTION most TO anon; COMMENT ON AGGREGATE rows(*) IS 'c';
         CREATE VIEW v AS SELECT total(a), rows(*) FROM t;""",
         "CREATE TABLE t (a int); INSERT INTO t VALUES (2), (3);", keeps={"SELECT total::text || rows FROM v": "52"}),
    Case("collations", """CREATE COLLATION "Plain ü" FROM "POSIX"; CREATE COLLATION b (provider = libc, lc_collate = 'C', lc_ctype = 'POSIX'); COMMENT ON COLLATION b IS 'c'; CREATE DOMAIN d AS text COLLATE b;
         CREATE TABLE t (a text COLLATE "Plain ü", b d); CREATE INDEX i ON t (a COLLATE b); CREATE VIEW v AS SELECT max(a COLLATE b) AS x FROM t;""", "CREATE TABLE t (a text); INSERT INTO t VALUES ('x');", keeps={"SELECT x FROM v": "x"}),
    Case("ranges", """CREATE FUNCTION gap(text, text) RETURNS float8 LANGUAGE sql IMMUTABLE AS 'SELECT 1.0'; CREATE TYPE words AS RANGE (subtype = text, subtype_opclass = text_pattern_ops, collation = "C", subtype_diff = gap, multirange_type_name = "Words ü");
         CREATE TYPE span AS RANGE (subtype = float8, subtype_diff = float8mi); GRANT USAGE ON TYPE span TO anon; COMMENT ON TYPE span IS 'c'; CREATE FUNCTION wide(span) RETURNS bool LANGUAGE sql IMMUTABLE AS 'SELECT true';
         CREATE TABLE t (a int, s span DEFAULT span(1, 2), w words[], m "Words ü", CHECK (wide(s)), EXCLUDE USING gist (s WITH &&)); CREATE VIEW v AS SELECT span_multirange(s) AS x FROM t;""", "CREATE TABLE t (a int); INSERT INTO t VALUES (1);", keeps={"SELECT x::text FROM v": "{[1,2)}"}),
    Case("text search", """CREATE TEXT SEARCH DICTIONARY "Dict ü" (template = simple, accept = false); CREATE TEXT SEARCH CONFIGURATION conf (copy = english); ALTER TEXT SEARCH CONFIGURATION conf ALTER MAPPING FOR asciiword, "int" WITH "Dict ü", simple; COMMENT ON TEXT SEARCH CONFIGURATION conf IS 'c';
         CREATE TABLE t (a text, v tsvector GENERATED ALWAYS AS (to_tsvector('conf', a)) STORED);""", "CREATE TABLE t (a text); INSERT INTO t VALUES ('cats');", keeps={"SELECT v::text FROM t": "'cats':1"}),
    Case("operators and casts", EQ + """CREATE TABLE t (a int); CREATE OPERATOR === (leftarg = int, rightarg = text, function = same, commutator = ===, restrict = eqsel, join = eqjoinsel, hashes, merges); CREATE OPERATOR === (leftarg = text, rightarg = int, function = same, commutator = ===, hashes, merges);
         CREATE OPERATOR !!! (rightarg = int, function = abs); COMMENT ON OPERATOR !!! (NONE, int) IS 'c'; CREATE TYPE box2 AS (a int, b text); CREATE FUNCTION to_int(box2) RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT ($1).a';
         CREATE CAST (box2 AS int) WITH FUNCTION to_int(box2) AS IMPLICIT; CREATE CAST (box2 AS json) WITH INOUT AS ASSIGNMENT; COMMENT ON CAST (box2 AS int) IS 'c'; CREATE VIEW v AS SELECT !!! a AS x, a === '2' AS y, ROW(3, 'x')::box2::int AS z FROM t;""",
         "CREATE TABLE t (a int); INSERT INTO t VALUES (-2);", keeps={"SELECT concat(x, y, z) FROM v": "2f3"}),
    Case("statistics and rules", AB + """CREATE STATISTICS "stat ü" (dependencies, mcv) ON a, b FROM t; ALTER STATISTICS "stat ü" SET STATISTICS 30; CREATE STATISTICS exp ON (a + b) FROM t; CREATE TABLE u (a int); CREATE RULE r AS ON INSERT TO t DO ALSO (INSERT INTO u VALUES (new.a); NOTIFY x);
         CREATE RULE off AS ON DELETE TO u DO INSTEAD NOTHING; ALTER TABLE u ENABLE REPLICA RULE off;""", AB + ROW, keeps={"SELECT count(*) FROM u": 0}),
    # what stands in the way
    *(Case(name, WIDE + text, N + ROW + text, keeps={"SELECT n FROM t": 2}, computed=("g",)) for name, text in IN_THE_WAY.items()),
    Case("only PROD has what stands in the way", WIDE, N + ROW + IN_THE_WAY["statistics on it"] + IN_THE_WAY["rule of its table"].replace("r ü", "own"), only_in_prod=("extended statistics", "rule", "table"), keeps={"SELECT count(*) FROM pg_statistic_ext s WHERE stxnamespace = quote_ident(current_schema)::regnamespace": 1}),
    Case("an aggregate over a function that is made anew", F.replace("RETURNS int", "RETURNS int STRICT").replace("int, int", "a int, b int").replace("$1", "a") + N + "CREATE AGGREGATE total(int) (sfunc = add2, stype = int); CREATE VIEW v AS SELECT total(a) AS x FROM t;",
         F + N + ROW + "CREATE AGGREGATE total(int) (sfunc = add2, stype = int); CREATE VIEW v AS SELECT total(a) AS x FROM t;", keeps={"SELECT x FROM v": 1}),
    # made anew where they differ
    Case("otherwise, and made anew", N + "CREATE AGGREGATE total(int) (sfunc = int4pl, stype = int, initcond = '7'); CREATE VIEW v AS SELECT total(n) AS x FROM t; CREATE STATISTICS stat (mcv) ON a, n FROM t; CREATE RULE r AS ON DELETE TO t DO INSTEAD NOTHING; CREATE TYPE p AS (a int); CREATE CAST (p AS json) WITH INOUT;",
         N + ROW + "CREATE AGGREGATE total(int) (sfunc = int4pl, stype = int); CREATE VIEW v AS SELECT total(n) AS x FROM t; CREATE STATISTICS stat ON a, n FROM t; CREATE RULE r AS ON DELETE TO t DO ALSO NOTHING; ALTER TABLE t DISABLE RULE r; CREATE TYPE p AS (a int); CREATE CAST (p AS json) WITH INOUT AS IMPLICIT;", keeps={"SELECT x FROM v": 9}),
    # told of
    Case("otherwise, and left", "CREATE COLLATION c FROM \"C\"; CREATE TYPE span AS RANGE (subtype = float8); CREATE TEXT SEARCH CONFIGURATION conf (copy = simple); CREATE OPERATOR ==> (leftarg = int, rightarg = int, function = int4eq);",
         "CREATE COLLATION c (provider = libc, lc_collate = 'C', lc_ctype = 'POSIX'); CREATE TYPE span AS RANGE (subtype = float8, subtype_diff = float8mi); CREATE TEXT SEARCH CONFIGURATION conf (copy = english); CREATE OPERATOR ==> (leftarg = int, rightarg = int, function = int4ne);",
         findings=("unmodelled",), unequal=("COLLATION", "TYPE", "TEXT SEARCH", "OPERATOR")),
    Case("something else stands there", "CREATE TYPE span AS RANGE (subtype = float8);", "CREATE TYPE span AS ENUM ();", refused="name_taken"),
]  # fmt: skip


@pytest.fixture(scope="module")
def bench(sides: tuple[Side, Side], tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return Bench(*sides, "kind", CASES, tmp_path_factory.mktemp("kinds"))


@pytest.fixture(scope="module")
def judged(bench: Bench) -> dict[str, Judged]:
    return bench.judged()


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_kind(case: Case, judged: dict[str, Judged], bench: Bench) -> None:
    expect(judged[case.name], bench.prod)


def test_pg_dump_agrees(judged: dict[str, Judged], bench: Bench) -> None:
    assert bench.unequal() == []


def _as_superuser(side: Side, schema: str, text: str) -> None:
    with psycopg.connect(side.server.dsn(side.database), autocommit=True) as admin:
        admin.execute(sql.SQL("SET search_path = {}").format(sql.Identifier(schema)))
        admin.execute(text.encode())


def test_what_is_not_made_is_refused_where_it_is_needed(make_world: Callable[..., World]) -> None:
    """An index over an operator class, a view over an aggregate that only a superuser can make: both named, nothing changed."""
    world = make_world("CREATE TABLE t (a int);", "CREATE TABLE t (a int);")
    _as_superuser(
        world.dev,
        world.schema,
        """CREATE OPERATOR CLASS ops FOR TYPE int4 USING hash AS OPERATOR 1 =, FUNCTION 1 hashint4(int4); CREATE INDEX i ON t USING hash (a ops);
        CREATE AGGREGATE average(numeric) (sfunc = numeric_accum, stype = internal, finalfunc = numeric_avg); CREATE VIEW v AS SELECT average(a) AS x FROM t;""",
    )
    before = world.prod.picture(world.schema)
    outcome = world.align()
    assert outcome.status == "decision_needed"
    refused = {
        (one.code, one.object.partition(" ")[0]): one.message for one in outcome.findings if one.severity == "error"
    }
    assert refused.keys() == {("needs_unmodelled", "index"), ("needs_unmodelled", "view")}
    assert "operator class" in refused["needs_unmodelled", "index"]
    assert "aggregate" in refused["needs_unmodelled", "view"]
    assert world.prod.picture(world.schema) == before
