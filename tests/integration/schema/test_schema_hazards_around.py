"""What stands around a change, with rows and every table protected: put back as it was, or refused and nothing changed."""

from __future__ import annotations

import pytest
from hazard_cases import ROWS, Bench, Case, Judged, T, expect
from schema_worlds import Side

UUID = "'00000000-0000-0000-0000-000000000001'"
TRIGGER = "CREATE FUNCTION g() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NEW; END $$;"
AROUND = """CREATE INDEX gi ON t (g); CREATE VIEW v WITH (security_invoker = true) AS SELECT id, a FROM t; COMMENT ON VIEW v IS 'it''s'; CREATE VIEW w AS SELECT count(id) AS n, max(id) AS m FROM v; GRANT SELECT ON v TO anon;
  CREATE MATERIALIZED VIEW mv AS SELECT id FROM t; CREATE UNIQUE INDEX mvi ON mv (id); CREATE FUNCTION f(t) RETURNS bigint LANGUAGE sql STABLE AS $$ SELECT ($1).id::bigint $$; CREATE TRIGGER tr BEFORE UPDATE OF id ON t FOR EACH ROW WHEN (NEW.id > 1) EXECUTE FUNCTION g();
  ALTER TABLE t DISABLE TRIGGER tr; ALTER TABLE t ENABLE ROW LEVEL SECURITY; CREATE POLICY p ON t FOR SELECT TO anon USING (id > 3); CREATE FUNCTION b() RETURNS bigint LANGUAGE sql BEGIN ATOMIC SELECT max(id)::bigint FROM t; END; CREATE STATISTICS st ON id, a FROM t;
  ALTER TABLE t CLUSTER ON t_pkey; GRANT SELECT (id) ON t TO authenticated; COMMENT ON COLUMN t.id IS E'\\\\ "%s" $1';"""
WIDE = (
    "CREATE TABLE t (id {0} PRIMARY KEY, a text, g bigint GENERATED ALWAYS AS (id * 2) STORED, CONSTRAINT pos CHECK (id > 0)); CREATE TABLE c (tid {0} REFERENCES t ON DELETE CASCADE);"
    + TRIGGER
    + AROUND
)
FILL = "INSERT INTO t (id, a) SELECT n, 'v' || n FROM generate_series(1, 9) n; INSERT INTO c VALUES (4); REFRESH MATERIALIZED VIEW mv;"

CASES = [
    Case("an identifier widens under everything at once", WIDE.format("bigint"), WIDE.format("int") + FILL, keeps={"SELECT sum(id) FROM mv": 45, "SELECT m FROM w": 9, "SELECT tid FROM c": 4, "SELECT g FROM t WHERE id = 9": 18}),
    Case("what looks like a renamed column is two", "CREATE TABLE t (id int PRIMARY KEY, prompt text);", "CREATE TABLE t (id int PRIMARY KEY, prompt_content text); INSERT INTO t VALUES (1, 'x');", only_in_prod=("column",), keeps={"SELECT prompt_content FROM t WHERE prompt IS NULL": "x"}),
    Case("text with a check becomes an enum", "CREATE TYPE e AS ENUM ('a', 'b'); CREATE TABLE t (id int PRIMARY KEY, x e DEFAULT 'a');", "CREATE TABLE t (id int PRIMARY KEY, x text DEFAULT 'a' CHECK (x IN ('a', 'b') AND lower(x) <> 'ü')); INSERT INTO t VALUES (1, 'b');", only_in_prod=("constraint",)),
    Case("what only PROD has over a type of another kind", "CREATE TABLE t (id int PRIMARY KEY, a uuid);", f"CREATE TABLE t (id int PRIMARY KEY, a text CHECK (a ~ '^0'), g text GENERATED ALWAYS AS (upper(a)) STORED); INSERT INTO t VALUES (1, {UUID}); CREATE POLICY p ON t USING (t.a = 'x'); CREATE INDEX i ON t (a DESC, id);", only_in_prod=("column", "constraint", "index", "policy")),
    Case("an index that only PROD has over a type of another kind", "CREATE TABLE t (id int PRIMARY KEY, a uuid);", f"CREATE TABLE t (id int PRIMARY KEY, a text); INSERT INTO t VALUES (1, {UUID}); CREATE INDEX i ON t (lower(a));", refused="in_the_way"),
    Case("operators of text in an index over a type of another kind", "CREATE TABLE t (id int PRIMARY KEY, a uuid);", f"CREATE TABLE t (id int PRIMARY KEY, a text); INSERT INTO t VALUES (1, {UUID}); CREATE INDEX i ON t (a text_pattern_ops);", refused="in_the_way"),
    Case("a key that only PROD has over a type without order", "CREATE TABLE t (id int PRIMARY KEY, a json);", "CREATE TABLE t (id int PRIMARY KEY, a text UNIQUE);", refused="in_the_way"),
    Case("a function's body changes under what it computed", "CREATE FUNCTION f(a int) RETURNS int IMMUTABLE LANGUAGE sql AS 'SELECT a + 2'; CREATE TABLE t (id int CHECK (f(id) > 0), g int GENERATED ALWAYS AS (f(id)) STORED); CREATE INDEX i ON t (f(id));",
         "CREATE FUNCTION f(a int) RETURNS int IMMUTABLE LANGUAGE sql AS 'SELECT a + 1'; CREATE TABLE t (id int CHECK (f(id) > 0), g int GENERATED ALWAYS AS (f(id)) STORED); CREATE INDEX i ON t (f(id)); INSERT INTO t SELECT generate_series(1, 500);",
         keeps={"SELECT count(*) FROM t WHERE g = f(id)": 500}, computed=("g",)),
    Case("a procedure becomes a function that not everybody may call", "CREATE FUNCTION f(x int) RETURNS int LANGUAGE sql AS 'SELECT 1'; REVOKE ALL ON FUNCTION f FROM PUBLIC;", "CREATE PROCEDURE f(x int) LANGUAGE sql AS 'SELECT 1';"),
    Case("a function that would write protected rows is only defined", T + "CREATE FUNCTION f() RETURNS void LANGUAGE sql BEGIN ATOMIC DELETE FROM t WHERE id = 1; UPDATE t SET a = 'x'; END;", T + ROWS, keeps={"SELECT count(*) FROM t": 9}),
    Case("replication goes by an index that is new", "CREATE TABLE t (id int PRIMARY KEY, a text NOT NULL); CREATE UNIQUE INDEX u ON t (a); ALTER TABLE t REPLICA IDENTITY USING INDEX u;", T + ROWS),
    Case("replication goes by an index that changes", "CREATE TABLE t (id int PRIMARY KEY, a text NOT NULL); CREATE UNIQUE INDEX u ON t (a, id); ALTER TABLE t REPLICA IDENTITY USING INDEX u;", "CREATE TABLE t (id int PRIMARY KEY, a text NOT NULL); CREATE UNIQUE INDEX u ON t (a); ALTER TABLE t REPLICA IDENTITY USING INDEX u;" + ROWS),
    Case("a new column's default under a key", T + "ALTER TABLE t ADD b int DEFAULT 3 UNIQUE;", T + ROWS, refused="rows_in_the_way"),
    Case("a new column's default under a check", T + "ALTER TABLE t ADD b int DEFAULT 0 CHECK (b > 0);", T + ROWS, refused="rows_in_the_way"),
    Case("a new column's default under a foreign key", T + "CREATE TABLE u (id int PRIMARY KEY); ALTER TABLE t ADD b int DEFAULT 7 REFERENCES u;", T + ROWS + "CREATE TABLE u (id int PRIMARY KEY);", refused="rows_in_the_way"),
    Case("a new computed column under a key", "CREATE TABLE t (id int PRIMARY KEY, a text, g text GENERATED ALWAYS AS (lower(a)) STORED UNIQUE);", T + "INSERT INTO t VALUES (1, 'A'), (2, 'a');", refused="rows_in_the_way"),
    Case("a computed column that changes under a key", "CREATE TABLE t (id int PRIMARY KEY, a text, g text GENERATED ALWAYS AS (lower(a)) STORED UNIQUE);", "CREATE TABLE t (id int PRIMARY KEY, a text, g text GENERATED ALWAYS AS (a || '!') STORED); INSERT INTO t VALUES (1, 'A'), (2, 'a');", refused="rows_in_the_way"),
    Case("a value of its own in every row of a new key", T + "ALTER TABLE t ADD b uuid NOT NULL DEFAULT gen_random_uuid() UNIQUE, ADD n serial UNIQUE;", T + ROWS, keeps={"SELECT count(DISTINCT b) + max(n) FROM t": 18}),
    Case("an inherited column would have to be computed", "CREATE TABLE a (id int, g int GENERATED ALWAYS AS (id * 2) STORED); CREATE TABLE b () INHERITS (a);", "CREATE TABLE a (id int, g int); CREATE TABLE b () INHERITS (a);", refused="in_the_way"),
    Case("rows of a new partition are in the default one", "CREATE TABLE p (id int, d date) PARTITION BY RANGE (d); CREATE TABLE p25 PARTITION OF p FOR VALUES FROM ('2025-01-01') TO ('2026-01-01'); CREATE TABLE pd PARTITION OF p DEFAULT;",
         "CREATE TABLE p (id int, d date) PARTITION BY RANGE (d); CREATE TABLE pd PARTITION OF p DEFAULT; INSERT INTO p VALUES (1, '2025-05-05'), (2, '2024-05-05');", refused="rows_in_the_way"),
    Case("a new partition, its rows not there yet", "CREATE TABLE p (id int, d date) PARTITION BY RANGE (d); CREATE TABLE p25 PARTITION OF p FOR VALUES FROM ('2025-01-01') TO ('2026-01-01'); CREATE TABLE pd PARTITION OF p DEFAULT;",
         "CREATE TABLE p (id int, d date) PARTITION BY RANGE (d); CREATE TABLE pd PARTITION OF p DEFAULT; INSERT INTO p VALUES (2, '2024-05-05');", keeps={"SELECT id FROM pd": 2}),
    Case("a partitioned table gets its key, and is referred to", "CREATE TABLE p (id int, d date, PRIMARY KEY (id, d)) PARTITION BY RANGE (d); CREATE TABLE p1 PARTITION OF p FOR VALUES FROM ('2025-01-01') TO ('2026-01-01'); CREATE TABLE p2 PARTITION OF p FOR VALUES FROM ('2026-01-01') TO ('2027-01-01'); CREATE TABLE c (id int, d date, FOREIGN KEY (id, d) REFERENCES p);" + TRIGGER + "CREATE TRIGGER x BEFORE INSERT ON p FOR EACH ROW EXECUTE FUNCTION g();",
         "CREATE TABLE p (id int, d date) PARTITION BY RANGE (d); CREATE TABLE p1 PARTITION OF p FOR VALUES FROM ('2025-01-01') TO ('2026-01-01'); INSERT INTO p VALUES (1, '2025-02-02'); CREATE TABLE c (id int, d date); INSERT INTO c VALUES (1, '2025-02-02');"),
    Case("another partition key", "CREATE TABLE p (id int, d date) PARTITION BY RANGE (id);", "CREATE TABLE p (id int, d date) PARTITION BY RANGE (d);", refused="table_form"),
    Case("exclusion, deferred keys and unproved references", "CREATE TABLE t (id int PRIMARY KEY, r int4range, u int UNIQUE DEFERRABLE INITIALLY DEFERRED, EXCLUDE USING gist (r WITH &&)); CREATE TABLE c (x int); ALTER TABLE c ADD CONSTRAINT k FOREIGN KEY (x) REFERENCES t NOT VALID;",
         "CREATE TABLE t (id int PRIMARY KEY, r int4range, u int UNIQUE); INSERT INTO t VALUES (1, '[1,3)', 1), (2, '[5,7)', 2); CREATE TABLE c (x int); INSERT INTO c VALUES (77);"),
    Case("a key moves to other columns under a foreign key", "CREATE TABLE t (id int UNIQUE, a text, b uuid PRIMARY KEY DEFAULT gen_random_uuid()); CREATE TABLE c (x int REFERENCES t (id));", T + "CREATE TABLE c (x int REFERENCES t);" + ROWS + "INSERT INTO c VALUES (1);"),
    Case("a materialised view that only DEV has emptied is filled again", "CREATE TABLE t (id bigint); CREATE MATERIALIZED VIEW m AS SELECT id FROM t WITH NO DATA;", "CREATE TABLE t (id int); CREATE MATERIALIZED VIEW m AS SELECT id FROM t; INSERT INTO t VALUES (1); REFRESH MATERIALIZED VIEW m;", keeps={"SELECT id FROM m": 1}, unequal=("MATERIALIZED",)),
    Case("a check that only PROD has over what no cast leads back from", "CREATE TABLE t (id int PRIMARY KEY, a text[]);", "CREATE TABLE t (id int PRIMARY KEY, a bigint CHECK (a > 0)); INSERT INTO t VALUES (1, NULL);", only_in_prod=("constraint",)),
    Case("a number instead of an array of them", "CREATE TABLE t (id int PRIMARY KEY, a bigint);", "CREATE TABLE t (id int PRIMARY KEY, a int[]); INSERT INTO t VALUES (1, '{1}');", refused="type_change_loses"),
    Case("reserved and odd names widen", 'CREATE TABLE "Select" ("From" bigint PRIMARY KEY, "ünï 🎈" varchar(9), "a""b" int); CREATE VIEW "View" AS SELECT "From" FROM "Select";', 'CREATE TABLE "Select" ("From" int PRIMARY KEY, "ünï 🎈" varchar(5), "a""b" smallint); CREATE VIEW "View" AS SELECT "From" FROM "Select"; INSERT INTO "Select" VALUES (1, \'ü\', 3);'),
]  # fmt: skip


@pytest.fixture(scope="module")
def bench(sides: tuple[Side, Side], tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return Bench(*sides, "around", CASES, tmp_path_factory.mktemp("hazards"), all_protected=True)


@pytest.fixture(scope="module")
def judged(bench: Bench) -> dict[str, Judged]:
    return bench.judged()


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_hazard(case: Case, judged: dict[str, Judged], bench: Bench) -> None:
    expect(judged[case.name], bench.prod)


def test_pg_dump_agrees(judged: dict[str, Judged], bench: Bench) -> None:
    """The witness that owes nothing to our inspection: whatever DEV's dump says of an aligned schema, PROD's says too."""
    assert bench.unequal() == []
