"""What only PROD has, set aside on explicit request: kept whole, dependents safe, and never without a name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import pytest
from archon_align.errors import AlignError
from archon_align.schema.decisions import QUARANTINE
from schema_worlds import World
from test_schema_shapes import AGAIN, decide

RECORDED = "SELECT string_agg(split_part(object, ' ', 1), ',' ORDER BY removed_at, object) FROM archon_quarantine.removed_objects"


@dataclass(frozen=True)
class Case:
    """`quarantine` names objects of schema `«s»` (`«S»`). `refused` is a refusal's code and a part of its message."""

    name: str
    prod: str
    quarantine: list[str]
    dev: str = "CREATE TABLE t (id int PRIMARY KEY, a text); CREATE DOMAIN d AS text;"
    keeps: dict[str, object] = field(default_factory=dict)
    refused: tuple[str, str] | None = None
    only_in_prod: int = 0


T = "CREATE TABLE t (id int PRIMARY KEY, a text); CREATE DOMAIN d AS text; INSERT INTO t VALUES (1, 'ä%s'), (2, NULL); "

CASES = [
    Case(
        "a table with its serial and indexes, whose names are taken there, and a view that follows it",
        T + """CREATE TABLE "o ""ld" (id serial PRIMARY KEY, b text UNIQUE, t int REFERENCES t); CREATE INDEX "i %s" ON "o ""ld" (b); INSERT INTO "o ""ld" (b) VALUES ('x');
        CREATE VIEW v AS SELECT b FROM "o ""ld"; CREATE SCHEMA archon_quarantine; CREATE TABLE archon_quarantine."o ""ld" (id serial PRIMARY KEY); CREATE TABLE archon_quarantine."i %s" ();""",
        ['table «s»."o ""ld"'],
        keeps={"""SELECT b FROM archon_quarantine."o ""ld_2" WHERE id = 1""": "x", "SELECT b FROM v": "x", "SELECT count(*) FROM pg_class WHERE relname LIKE 'i %s%' AND relkind = 'i'": 1},
        only_in_prod=1,
    ),
    Case(
        "views, functions, sequences and types",
        T + """CREATE VIEW v AS SELECT a FROM t; CREATE MATERIALIZED VIEW m AS SELECT a FROM v; CREATE INDEX mi ON m (a); CREATE FUNCTION f(int, text[]) RETURNS int LANGUAGE sql AS 'SELECT 1';
        CREATE PROCEDURE p() LANGUAGE sql AS 'SELECT 1'; CREATE SEQUENCE "s %s"; SELECT nextval('"s %s"'); CREATE TYPE e AS ENUM ('x'); CREATE TYPE c AS (x int); CREATE DOMAIN dd AS int;""",
        ["view «s».v", "«s».m", "function «S».f(integer, text[])", "function «S».p()", 'sequence «s»."s %s"', "enum «s».e", "composite type «s».c", "domain «s».dd"],
        keeps={"SELECT count(*) FROM archon_quarantine.v": 2, "SELECT count(*) FROM archon_quarantine.m": 2, "SELECT archon_quarantine.f(1, '{}')": 1, """SELECT last_value FROM archon_quarantine."s %s" """: 1,
               "SELECT 'x'::archon_quarantine.e::text": "x"},
    ),
    Case(
        "parts of a table: definitions are recorded, a column's values kept, its sequence too",
        T + """ALTER TABLE t ADD "o d" text DEFAULT 'q', ADD s serial; UPDATE t SET "o d" = NULL WHERE id = 2; ALTER TABLE t ADD CONSTRAINT k CHECK ("o d" <> 'x'); CREATE INDEX ix ON t ("o d"); COMMENT ON INDEX ix IS 'fast';
        CREATE FUNCTION tf() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NEW; END $$; CREATE TRIGGER g BEFORE UPDATE ON t FOR EACH ROW EXECUTE FUNCTION tf();
        CREATE POLICY p ON t USING (true); ALTER DOMAIN d ADD CONSTRAINT dk CHECK (VALUE <> 'no');""",
        ['column «s».t."o d"', "column «s».t.s", "constraint «s».t.k", "index «s».ix", "trigger «s».t.g", "policy «s».t.p", "domain constraint «s».d.dk", "function «S».tf()"],
        keeps={
            """SELECT string_agg("o d", ',' ORDER BY id) FROM archon_quarantine."t__o d" """: "q",
            "SELECT sum(s) FROM archon_quarantine.t__s": 3,
            "SELECT last_value FROM archon_quarantine.t_s_seq": 2,
            "SELECT count(*) FROM archon_quarantine.removed_objects": 7,
            "SELECT comment FROM archon_quarantine.removed_objects WHERE object LIKE 'index%'": "fast",
            "SELECT count(*) FROM archon_quarantine.removed_objects WHERE definition LIKE 'ALTER TABLE%ADD CONSTRAINT%CHECK%'": 1,
        },
    ),
    Case("a key that another table refers to", T + "CREATE UNIQUE INDEX u ON t (a); CREATE TABLE o (a text REFERENCES t (a));", ["index «s».u"], refused=("in_the_way", "o_a_fkey depends on it"), only_in_prod=2),
    Case("a key with what refers to it", T + "CREATE UNIQUE INDEX u ON t (a); CREATE TABLE o (a text REFERENCES t (a));", ["index «s».u", "constraint «s».o.o_a_fkey"], keeps={"SELECT count(*) FROM archon_quarantine.removed_objects": 2}, only_in_prod=1),
    Case("a column under an index", T + "ALTER TABLE t ADD b int; CREATE INDEX ib ON t (b);", ["column «s».t.b"], refused=("in_the_way", "ib depends on it")),
    Case("a sequence that belongs to a column", T + "CREATE TABLE o (id serial);", ["sequence «s».o_id_seq"], refused=("in_the_way", "moves with it")),
    Case("a protected table", T + "CREATE TABLE guarded (id int);", ["table «s».guarded"], refused=("protected_table", "stays where it is")),
    Case("a protected table's column", T.replace("CREATE TABLE t", "CREATE TABLE guarded (id int, b int); CREATE TABLE t"), ["column «s».guarded.b"], dev="CREATE TABLE guarded (id int); CREATE TABLE t (id int PRIMARY KEY, a text); CREATE DOMAIN d AS text;", refused=("protected_table", "ever dropped")),
    Case("an inherited column", T + "ALTER TABLE t ADD b int; CREATE TABLE child () INHERITS (t);", ["column «s».t.b"], refused=("in_the_way", "inherited")),
    Case("a view in the way of a column's type", T + "CREATE VIEW v AS SELECT id FROM t;", ["view «s».v"], dev="CREATE TABLE t (id bigint PRIMARY KEY, a text); CREATE DOMAIN d AS text;", refused=("in_the_way", "is set aside")),
]  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_what_is_set_aside(case: Case, make_world: Callable[..., World]) -> None:
    world = make_world(case.dev, "")
    world.prod.run(world.schema, AGAIN)
    world.prod.run(world.schema, case.prod)
    before, decisions = world.prod.picture(world.schema), {"quarantine": case.quarantine}
    protected = ("guarded",)
    predicted = decide(world, decisions, check=True, protected=protected)
    assert world.prod.picture(world.schema) == before
    if case.refused is not None:
        code, part = case.refused
        assert predicted.status == "decision_needed"
        assert part in " ".join(one.message for one in predicted.findings if one.code == code)
        return
    assert predicted.status == "drift", [one for one in predicted.findings if one.severity == "error"]
    outcome = decide(world, decisions, protected=protected)
    assert outcome.status == "changed", str(outcome.error)
    assert [one.sql for one in outcome.statements] == [one.sql for one in predicted.statements]
    assert all(proof.preserved for proof in outcome.proofs)
    assert len(outcome.details["schema"]["only_in_prod"]) == case.only_in_prod, outcome.details["schema"][
        "only_in_prod"
    ]
    again = decide(world, decisions, protected=protected)
    assert (again.status, again.statements) == ("aligned", ())
    assert not [one for one in again.findings if QUARANTINE in one.object + one.message]
    for query, expected in case.keeps.items():
        assert world.prod.value(world.schema, query) == expected, query


def test_what_dev_has_too_is_never_set_aside(make_world: Callable[..., World]) -> None:
    world = make_world("CREATE TABLE t (id int);", "CREATE TABLE t (id int);")
    with pytest.raises(AlignError) as raised:
        decide(world, {"quarantine": ["table «s».t"]})
    assert raised.value.code == "bad_decision"


def test_the_quarantine_schema_is_never_aligned(make_world: Callable[..., World]) -> None:
    world = make_world("CREATE TABLE t (id int);", "CREATE TABLE t (id int);")
    with pytest.raises(AlignError) as raised:
        World(world.dev, world.prod, (world.schema, QUARANTINE), world.artifacts).align(check=True)
    assert raised.value.code == "bad_schema_names"
