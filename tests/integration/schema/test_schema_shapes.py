"""Tables of another shape: refused with what to write, and carried over whole once a person said how the columns map."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
import yaml
from archon_align.database.session import open_session
from archon_align.report.protected import proofs_of, protected_section, reshaped
from archon_align.validate import state
from schema_worlds import World, decide

AGAIN = "DROP SCHEMA IF EXISTS archon_quarantine CASCADE"


@dataclass(frozen=True)
class Case:
    """`decisions` speak of schema `«s»`. `keeps` are asked on PROD afterwards, `refused` is what happens without a decision."""

    name: str
    dev: str
    prod: str
    decisions: dict[str, Any]
    refused: str = "rows_in_the_way"
    keeps: dict[str, object] = field(default_factory=dict)
    only_in_prod: int = 0


def shapes(**tables: dict[str, str]) -> dict[str, Any]:
    return {"shapes": {f"«s».{name}": {"columns": columns} for name, columns in tables.items()}}


CASES = [
    Case(
        "links under every kind of thing that depends on them",
        """CREATE TABLE p (id uuid PRIMARY KEY);
        CREATE TABLE t (id uuid PRIMARY KEY DEFAULT gen_random_uuid(), p uuid REFERENCES p ON DELETE CASCADE, source_id text NOT NULL, linked_at timestamptz DEFAULT now(),
          "by ""who" text DEFAULT 'system', notes text, g text GENERATED ALWAYS AS (upper(source_id)) STORED, UNIQUE (p, source_id), CHECK (source_id <> ''));
        CREATE INDEX i ON t (lower(notes)); CREATE TABLE c (t uuid REFERENCES t ON DELETE CASCADE, n int);
        CREATE VIEW v AS SELECT id, p FROM t; GRANT SELECT ON v TO anon; CREATE MATERIALIZED VIEW m AS SELECT count(*) AS n FROM t;
        CREATE FUNCTION f(t) RETURNS text LANGUAGE sql AS $$ SELECT $1.id::text $$; COMMENT ON FUNCTION f(t) IS 'of a row';
        CREATE FUNCTION touch() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN NEW.notes = 'touched'; RETURN NEW; END $$;
        CREATE TRIGGER g BEFORE INSERT OR UPDATE ON t FOR EACH ROW EXECUTE FUNCTION touch();
        ALTER TABLE c ENABLE ROW LEVEL SECURITY; CREATE POLICY pol ON c USING (EXISTS (SELECT FROM t WHERE t.id = c.t));
        COMMENT ON TABLE t IS 'links'; GRANT SELECT ON t TO authenticated; ALTER TABLE t ENABLE ROW LEVEL SECURITY; CREATE POLICY rw ON t USING (source_id <> '%s');""",
        """CREATE TABLE p (id uuid PRIMARY KEY);
        CREATE TABLE t (id uuid PRIMARY KEY DEFAULT gen_random_uuid(), p uuid REFERENCES p ON DELETE CASCADE, kind text NOT NULL CHECK (kind IN ('doc', 'repo')), "url %s" text NOT NULL,
          description text DEFAULT '', created timestamptz DEFAULT now(), up text GENERATED ALWAYS AS (upper(kind)) STORED);
        CREATE INDEX i ON t (kind); CREATE TABLE c (t uuid REFERENCES t ON DELETE CASCADE, n int);
        CREATE VIEW v AS SELECT id, p FROM t; GRANT SELECT ON v TO anon; CREATE MATERIALIZED VIEW m AS SELECT count(*) AS n FROM t; CREATE VIEW only_here AS SELECT p FROM t;
        CREATE FUNCTION f(t) RETURNS text LANGUAGE sql AS $$ SELECT $1.id::text $$;
        CREATE FUNCTION touch() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN NEW.notes = 'touched'; RETURN NEW; END $$;
        ALTER TABLE c ENABLE ROW LEVEL SECURITY; CREATE POLICY pol ON c USING (EXISTS (SELECT FROM t WHERE t.id = c.t));
        CREATE FUNCTION old_touch() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NEW; END $$; CREATE TRIGGER old BEFORE UPDATE ON t FOR EACH ROW EXECUTE FUNCTION old_touch();
        GRANT INSERT ON t TO anon; ALTER TABLE t ENABLE ROW LEVEL SECURITY; CREATE POLICY mine ON t USING (p IS NOT NULL);
        INSERT INTO p SELECT md5(n::text)::uuid FROM generate_series(1, 9) n;
        INSERT INTO t (id, p, kind, "url %s", description, created) SELECT md5('t' || n)::uuid, md5(n::text)::uuid, 'doc', 'https://ex.org/ä?' || n, NULLIF('d' || n, 'd3'), '2025-01-02' FROM generate_series(1, 9) n;
        INSERT INTO c SELECT id, 1 FROM t;""",
        shapes(t={"source_id": '"url %s"', "linked_at": "created", "notes": "coalesce(description, 'none')"}),
        keeps={
            "SELECT count(*) FROM t JOIN archon_quarantine.t old USING (id, p) WHERE source_id = \"url %s\" AND linked_at = created AND notes = coalesce(description, 'none') AND g = upper(source_id) AND \"by \"\"who\" = 'system'": 9,
            "SELECT count(*) FROM only_here": 9,
            "SELECT n FROM m": 9,
            "SELECT count(*) FROM v": 9,
            "SELECT has_table_privilege('anon', 't', 'INSERT') AND has_table_privilege('authenticated', 't', 'SELECT')": True,
            "SELECT count(*) FROM pg_policy WHERE polrelid = 't'::regclass": 2,
            "SELECT count(*) FROM archon_quarantine.removed_objects WHERE object LIKE '%old' OR object LIKE 'constraint%'": 2,
            "DELETE FROM p WHERE id = md5('1')::uuid RETURNING 1": 1,
            "SELECT count(*) FROM t": 8,
            "SELECT count(*) FROM archon_quarantine.t": 9,
        },
        only_in_prod=4,
    ),
    Case(
        "tables of another shape that refer to each other, and to themselves",
        """CREATE TYPE st AS ENUM ('new', 'retry', 'done'); CREATE TABLE "we ""x" (id int PRIMARY KEY, name text NOT NULL UNIQUE, of int REFERENCES "we ""x");
        CREATE TABLE e (id int PRIMARY KEY, we int NOT NULL REFERENCES "we ""x" ON DELETE CASCADE, progress numeric(5, 2) NOT NULL CHECK (progress <= 100), s st NOT NULL);
        CREATE TABLE st_e (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, e int NOT NULL REFERENCES e, name varchar(8) NOT NULL, s st DEFAULT 'new');""",
        """CREATE TYPE st AS ENUM ('new', 'gone', 'done'); CREATE TABLE "we ""x" (id int PRIMARY KEY, label text NOT NULL, of int REFERENCES "we ""x");
        CREATE TABLE e (id int PRIMARY KEY, of int NOT NULL REFERENCES "we ""x" ON DELETE CASCADE, done_of_8 int NOT NULL, s st NOT NULL);
        CREATE TABLE st_e (id bigserial PRIMARY KEY, exec int NOT NULL REFERENCES e, title text NOT NULL, s st);
        INSERT INTO "we ""x" VALUES (1, 'a', NULL), (2, 'b', 1); INSERT INTO e VALUES (1, 1, 3, 'gone'), (2, 2, 8, 'done');
        INSERT INTO st_e (exec, title, s) VALUES (1, 'x', 'new'), (2, 'y', 'gone'); SELECT setval('st_e_id_seq', 40);""",
        {
            **shapes(**{
                '"we ""x"': {"name": "label"},
                "e": {"we": "of", "progress": "done_of_8 * 12.5"},
                "st_e": {"e": "exec", "name": "left(title, 8)"},
            }),
            "label_remaps": {"«s».st": {"gone": "retry"}},
        },
        keeps={
            "SELECT string_agg(s::text || progress, ',' ORDER BY id) FROM e": "retry37.50,done100.00",
            "SELECT string_agg(s::text, ',' ORDER BY id) FROM archon_quarantine.st_e": "new,gone",
            "INSERT INTO st_e (e, name) VALUES (1, 'z') RETURNING id": 41,
            """SELECT count(*) FROM "we ""x" WHERE of = 1""": 1,
        },
    ),
    Case(
        "columns are renamed, retyped and computed with the shape, and an unmentioned one is converted",
        """CREATE DOMAIN word AS text CHECK (VALUE <> ''); CREATE TABLE "T ""x" (id bigserial PRIMARY KEY, "n w" text NOT NULL, k word NOT NULL, u uuid, arr text[] NOT NULL DEFAULT '{}', d text DEFAULT 'dflt');""",
        """CREATE TABLE "T ""x" (id serial PRIMARY KEY, "o d" text, k varchar(9), u text, w int);
        INSERT INTO "T ""x" ("o d", k, u, w) VALUES ('ä''%', 'k1', '00000000-0000-0000-0000-000000000001', 1), ('b', 'k2', NULL, NULL); SELECT setval('"T ""x_id_seq"', 7);""",
        {
            "renames": [{"kind": "column", "from": '«s»."T ""x"."o d"', "to": "n w"}],
            **shapes(**{'"T ""x"': {"arr": 'ARRAY["n w", w::text]'}}),
        },
        refused="",
        keeps={
            """SELECT arr::text || k || "n w" FROM "T ""x" WHERE u IS NOT NULL""": "{ä'%,1}k1ä'%",
            """INSERT INTO "T ""x" ("n w", k) VALUES ('x', 'x') RETURNING id""": 8,
            """SELECT "n w" FROM archon_quarantine."T ""x" WHERE w = 1""": "ä'%",
        },
    ),
]  # fmt: skip


@pytest.mark.parametrize("protected", [(), ("t", "e", 'we "x', 'T "x')], ids=["", "protected"])
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_shape(case: Case, protected: tuple[str, ...], make_world: Callable[..., World]) -> None:
    world = make_world(case.dev, case.prod)
    world.prod.run(world.schema, AGAIN)
    before = world.prod.picture(world.schema)
    if case.refused:
        outcome = world.align(protected=protected)
        assert outcome.status == "decision_needed"
        assert case.refused in {finding.code for finding in outcome.findings}
    predicted = decide(world, case.decisions, check=True, protected=protected)
    assert predicted.status == "drift", [one for one in predicted.findings if one.severity == "error"]
    assert world.prod.picture(world.schema) == before
    outcome = decide(world, case.decisions, protected=protected)
    assert outcome.status == "changed", str(outcome.error)
    assert [one.sql for one in outcome.statements] == [one.sql for one in predicted.statements]
    shaped = [proof for proof in outcome.proofs if proof.carried is not None and proof.carried.kept is not None]
    assert len(shaped) == len(case.decisions["shapes"])
    assert all(proof.preserved for proof in outcome.proofs)
    assert outcome.details["schema"]["differences_after"] == 0
    assert len(outcome.details["schema"]["only_in_prod"]) == case.only_in_prod
    again = decide(world, case.decisions, protected=protected)
    assert (again.status, again.statements) == ("aligned", ())
    for query, expected in case.keeps.items():
        assert world.prod.value(world.schema, query) == expected, query


REFUSED = [
    ({"a": "left(b, 2)", "n": "b"}, "shape_loses", "the value would not be the same as integer (b): 1 row (id=2)"),
    ({"a": "b", "n": "c * 1.5"}, "shape_loses", "the value would not be the same as integer (c * 1.5): 1 row (id=1)"),
    ({"a": "b", "n": "c"}, "shape_loses", "the value would not be the same as character varying(2) (b): 1 row (id=2)"),
    ({"a": "nullif(left(b, 1), 'x')", "n": "c"}, "shape_loses", "DEV's column must not be NULL, and this is (nullif(left(b, 1), 'x')): 1 row (id=2)"),
    ({"a": "nowhere", "n": "c"}, "shape_loses", 'column "nowhere" does not exist'),
    ({"a": "ARRAY[1]::int[] || b", "n": "c"}, "shape_loses", "operator does not exist"),
    ({"n": "c"}, "shape_loses", "has no default, and no expression is given: 2 rows (id=1; id=2)"),
    ({"a": "left(b, 1)", "n": "1"}, "rows_in_the_way", "the value occurs more than once: 1 row (1)"),
    ({"a": "left(b, 1)", "n": "c - 4"}, "rows_in_the_way", "the row does not meet the condition: 1 row (id=1)"),
    ({"a": "left(b, 1)", "n": "c", "r": "c"}, "rows_in_the_way", "the row refers to none in"),
    ({"a": "left(b, 1)", "n": "c", "g": "c"}, "shape_loses", "DEV computes this column"),
]  # fmt: skip


@pytest.mark.parametrize(("columns", "code", "problem"), REFUSED, ids=[one[2] for one in REFUSED])
def test_a_shape_that_would_not_do_is_refused_beforehand(
    columns: dict[str, str], code: str, problem: str, make_world: Callable[..., World]
) -> None:
    world = make_world(
        """CREATE TABLE r (id int PRIMARY KEY); CREATE TABLE t (id int PRIMARY KEY, a varchar(2) NOT NULL, n int UNIQUE CHECK (n > 0), r int REFERENCES r, g int GENERATED ALWAYS AS (n * 2) STORED);""",
        "CREATE TABLE r (id int PRIMARY KEY); CREATE TABLE t (id int PRIMARY KEY, b text, c int); INSERT INTO t VALUES (1, '7', 3), (2, 'xyz', 6);",
    )
    before = world.prod.picture(world.schema)
    for check in (True, False):
        outcome = decide(world, shapes(t=columns), check=check)
        assert outcome.status == "decision_needed"
        told = [one for one in outcome.findings if one.severity == "error" and one.code == code]
        assert problem in " ".join(one.message for one in told), [one.message for one in outcome.findings]
        assert world.prod.picture(world.schema) == before


IN_THE_WAY = [
    ("CREATE VIEW v AS SELECT b FROM t;", "view", "column"),
    ("CREATE TABLE o (b text REFERENCES t (b));", "constraint", "constraint"),
    ("CREATE POLICY p ON t AS RESTRICTIVE USING (b <> '');", "policy", "restrictive"),
    ("CREATE TABLE child () INHERITS (t);", "table", "inherits"),
    ("CREATE TABLE o (x t);", "table", "depends on it"),
    ("CREATE OPERATOR ### (LEFTARG = int, RIGHTARG = t, FUNCTION = first);", "table", "###"),
]


@pytest.mark.parametrize(("prod", "kind", "why"), IN_THE_WAY, ids=[one[0] for one in IN_THE_WAY])
def test_what_only_the_old_shape_can_bear_is_named(
    prod: str, kind: str, why: str, make_world: Callable[..., World]
) -> None:
    first = "CREATE FUNCTION first(int, t) RETURNS int LANGUAGE sql AS 'SELECT 1';" if "first" in prod else ""
    world = make_world(
        "CREATE TABLE t (id int PRIMARY KEY, a text NOT NULL);",
        f"CREATE TABLE t (id int PRIMARY KEY, b text UNIQUE); {first} {prod} INSERT INTO t VALUES (1, 'x');",
    )
    before = world.prod.picture(world.schema)
    outcome = decide(world, shapes(t={"a": "b"}))
    assert outcome.status == "decision_needed"
    told = [one for one in outcome.findings if one.severity == "error" and one.object.startswith(kind)]
    assert any(why in one.message for one in told), [one for one in outcome.findings if one.severity == "error"]
    assert world.prod.picture(world.schema) == before


def test_the_refusal_shows_what_to_write(make_world: Callable[..., World]) -> None:
    world = make_world(
        'CREATE TABLE t (id int PRIMARY KEY, "full näme" text NOT NULL, kind text NOT NULL, day date NOT NULL); CREATE TABLE o (id int, new text);',
        "CREATE TABLE t (id int PRIMARY KEY, name text, sort text, at date); INSERT INTO t VALUES (1, 'x', 'y', 'today');"
        "CREATE TABLE o (id int, old text); INSERT INTO o VALUES (1, 'x');",
    )
    findings = world.align(check=True).findings
    (refusal,) = (one for one in findings if one.severity == "error")
    assert refusal.object == f"table {world.schema}.t"
    assert "PROD has besides: name (text), sort (text), at (date)" in refusal.message
    written = yaml.safe_load(refusal.remedy.rpartition("or:")[2])["archon_schema_decisions"]
    assert written["shapes"] == {f"{world.schema}.t": {"columns": {"full näme": "?", "kind": "?", "day": "at"}}}
    (warning,) = (one for one in findings if one.code == "possible_rename")
    entry = yaml.safe_load(warning.remedy.partition(":\n")[2])["archon_schema_decisions"]
    assert entry == {"renames": [{"kind": "column", "from": f"{world.schema}.o.old", "to": "new"}]}


@pytest.mark.parametrize("touched", [False, True])
def test_validation_reads_reshaped_tables_through_the_proof(touched: bool, make_world: Callable[..., World]) -> None:
    world = make_world(
        "CREATE TABLE shaped (id int PRIMARY KEY, a text NOT NULL); CREATE TABLE moved (id bigint PRIMARY KEY, b text); CREATE TABLE given (id int, c varchar(2));",
        """CREATE TABLE shaped (id int PRIMARY KEY, b text, c int); CREATE TABLE "o ""ld" (id int PRIMARY KEY, a text); CREATE TABLE given (id int, c text);
        INSERT INTO shaped VALUES (1, 'x', 2); INSERT INTO "o ""ld" VALUES (1, 'x'); INSERT INTO given VALUES (1, 'abc');""",
    )
    world.prod.run(world.schema, AGAIN)
    protected = ("shaped", 'o "ld', "given")
    context = world.context(check=True, protected=protected)
    with open_session(context, context.prod) as session, session.transaction():
        before = state.protected(session, {}, {})
    decisions = {
        "renames": [{"kind": "table", "from": '«s»."o ""ld"', "to": "moved"}, {"kind": "column", "from": '«s»."o ""ld".a', "to": "b"}],
        "conversions": {"«s».given.c": "left(c, 2)"},
        **shapes(shaped={"a": "b || '!'"}),
    }  # fmt: skip
    outcome = decide(world, decisions, protected=protected)
    assert outcome.status == "changed", str(outcome.error)
    results = [json.loads(json.dumps(outcome.as_result()))]
    if touched:
        world.prod.run(world.schema, "UPDATE shaped SET a = 'y'; UPDATE moved SET b = 'y'; UPDATE given SET c = 'y';")
    with open_session(context, context.prod) as session, session.transaction():
        after = state.protected(session, before, reshaped(results))
    section = protected_section(before, proofs_of(results), after)
    assert {one.rpartition(".")[2] for one in section} == set(protected)
    assert [(one["preserved"], one["changed_by_users"]) for one in section.values()] == [(True, touched)] * 3
