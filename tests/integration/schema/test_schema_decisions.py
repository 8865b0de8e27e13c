"""Decisions by name: without one the plan says what it needs and nothing changes; with it PROD becomes what DEV has."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
from archon_align.errors import AlignError
from schema_worlds import World, decide


@dataclass(frozen=True)
class Case:
    """`decisions` speak of schema `«s»`, which stands for the world's own. `keeps` are asked on PROD afterwards."""

    name: str
    dev: str
    prod: str
    decisions: dict[str, Any]
    refused: str = ""
    keeps: dict[str, object] = field(default_factory=dict)
    only_in_prod: int = 0


CASES = [
    Case(
        "a column is renamed under everything that speaks of it",
        """CREATE TABLE t (id int PRIMARY KEY, "full näme" text NOT NULL, n int, CONSTRAINT k CHECK (length("full näme") > 0));
        CREATE INDEX i ON t (lower("full näme")) WHERE "full näme" <> ''; CREATE VIEW v AS SELECT id, "full näme" FROM t;
        ALTER TABLE t ENABLE ROW LEVEL SECURITY; CREATE POLICY p ON t USING ("full näme" <> 'x'); GRANT SELECT ("full näme") ON t TO anon;""",
        """CREATE TABLE t (id int PRIMARY KEY, name text NOT NULL, n int, CONSTRAINT k CHECK (length(name) > 0));
        CREATE INDEX i ON t (lower(name)) WHERE name <> ''; CREATE VIEW v AS SELECT id, name FROM t;
        ALTER TABLE t ENABLE ROW LEVEL SECURITY; CREATE POLICY p ON t USING (name <> 'x'); INSERT INTO t VALUES (1, 'ä', 2), (2, 'b', NULL);""",
        {"renames": [{"kind": "column", "from": "«s».t.name", "to": "full näme"}]},
        refused="rows_in_the_way",
        keeps={"""SELECT string_agg("full näme", ',' ORDER BY id) FROM v""": "ä,b"},
    ),
    Case(
        "a table is renamed, and its serial goes on",
        """CREATE TABLE "new ""name" (id serial PRIMARY KEY, a bigint); CREATE TABLE c (t int REFERENCES "new ""name" ON DELETE CASCADE);
        CREATE TRIGGER g BEFORE UPDATE ON "new ""name" FOR EACH ROW EXECUTE FUNCTION suppress_redundant_updates_trigger(); COMMENT ON TABLE "new ""name" IS 'x';""",
        """CREATE TABLE t (id serial PRIMARY KEY, a int); CREATE TABLE c (t int REFERENCES t ON DELETE CASCADE);
        CREATE TRIGGER g BEFORE UPDATE ON t FOR EACH ROW EXECUTE FUNCTION suppress_redundant_updates_trigger();
        INSERT INTO t (a) VALUES (7), (8), (9); DELETE FROM t WHERE a = 9; INSERT INTO c VALUES (1), (2);""",
        {"renames": [{"kind": "table", "from": "«s».t", "to": 'new "name'}]},
        keeps={
            """INSERT INTO "new ""name" (a) VALUES (1) RETURNING id""": 4,
            """SELECT sum(a) FROM "new ""name" """: 16,
            "SELECT count(*) FROM c": 2,
        },
    ),
    Case(
        "a table and its column are renamed and retyped at once",
        "CREATE TABLE b (id bigint PRIMARY KEY, y numeric(12, 2) NOT NULL);",
        "CREATE TABLE a (id int PRIMARY KEY, x int NOT NULL); INSERT INTO a SELECT n, n * 3 FROM generate_series(1, 9) n;",
        {
            "renames": [
                {"kind": "table", "from": "«s».a", "to": "b"},
                {"kind": "column", "from": "column «s».a.x", "to": "y"},
            ]
        },
        keeps={"SELECT sum(y)::text FROM b": "135.00"},
    ),
    Case(
        "an inherited column is renamed with its heirs",
        "CREATE TABLE p (id int, b int NOT NULL DEFAULT 1); CREATE TABLE c () INHERITS (p);",
        "CREATE TABLE p (id int, a int NOT NULL DEFAULT 1); CREATE TABLE c () INHERITS (p); INSERT INTO c VALUES (1, 5); INSERT INTO p VALUES (2, 6);",
        {"renames": [{"kind": "column", "from": "«s».p.a", "to": "b"}]},
        keeps={"SELECT sum(b) FROM p": 11},
    ),
    Case(
        "an enum's label is renamed",
        "CREATE TYPE mood AS ENUM ('sad', 'fine'); CREATE TABLE t (id int PRIMARY KEY, m mood DEFAULT 'fine', CHECK (m <> 'sad' OR id > 0));",
        """CREATE TYPE mood AS ENUM ('sad', 'ok'); CREATE TABLE t (id int PRIMARY KEY, m mood DEFAULT 'ok', CHECK (m <> 'sad' OR id > 0));
        INSERT INTO t VALUES (1, 'ok'), (2, 'sad'), (3, NULL);""",
        {"renames": [{"kind": "label", "from": "«s».mood", "label": "ok", "to": "fine"}]},
        keeps={"SELECT string_agg(m::text, ',' ORDER BY id) FROM t": "fine,sad"},
    ),
    Case(
        "a new NOT NULL column is filled, and no trigger fires",
        """CREATE FUNCTION touch() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN NEW.updated = 'touched'; RETURN NEW; END $$;
        CREATE TABLE t (id int PRIMARY KEY, a text, updated text, b text NOT NULL UNIQUE);
        CREATE TRIGGER g BEFORE UPDATE ON t FOR EACH ROW EXECUTE FUNCTION touch();""",
        """CREATE FUNCTION touch() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN NEW.updated = 'touched'; RETURN NEW; END $$;
        CREATE TABLE t (id int PRIMARY KEY, a text, updated text); CREATE TRIGGER g BEFORE UPDATE ON t FOR EACH ROW EXECUTE FUNCTION touch();
        INSERT INTO t SELECT n, 'A' || n, 'never' FROM generate_series(1, 9) n;""",
        {"backfills": {"«s».t.b": "lower(a) || '%s'"}},
        refused="rows_in_the_way",
        keeps={"SELECT count(*) FROM t WHERE b = lower(a) || '%s' AND updated = 'never'": 9},
    ),
    Case(
        "NULLs are filled, and remembered",
        "CREATE TABLE t (id int PRIMARY KEY, a bigint NOT NULL);",
        "CREATE TABLE t (id int PRIMARY KEY, a int); INSERT INTO t VALUES (1, 10), (2, NULL);",
        {"backfills": {"«s».t.a": "id * -1"}},
        refused="nulls_in_the_way",
        keeps={"SELECT sum(a) FROM t": 8, "SELECT count(*) FROM archon_quarantine.t__a WHERE a IS NULL AND id = 2": 1},
    ),
    Case(
        "text is shortened as decided, and kept whole",
        "CREATE TABLE t (id int PRIMARY KEY, a varchar(3)); CREATE VIEW v AS SELECT id, a FROM t;",
        "CREATE TABLE t (id int PRIMARY KEY, a text); CREATE VIEW v AS SELECT id, a FROM t; INSERT INTO t VALUES (1, 'long text'), (2, 'ab'), (3, NULL);",
        {"conversions": {"«s».t.a": "left(a, 3)"}},
        refused="type_change_loses",
        keeps={
            "SELECT string_agg(a, ',' ORDER BY id) FROM v": "lon,ab",
            "SELECT string_agg(a, ',' ORDER BY id) FROM archon_quarantine.t__a_2": "long text,ab",
        },
    ),
    Case(
        "a label that DEV does not have gives way, in arrays and defaults too",
        """CREATE TYPE mood AS ENUM ('sad', 'fine'); CREATE TABLE t (id int PRIMARY KEY, m mood DEFAULT 'sad', l mood[]);
        CREATE VIEW v AS SELECT m FROM t WHERE m = 'fine';""",
        """CREATE TYPE mood AS ENUM ('sad', 'meh', 'fine'); CREATE TABLE t (id int PRIMARY KEY, m mood DEFAULT 'sad', l mood[], extra mood DEFAULT 'meh');
        CREATE VIEW v AS SELECT m FROM t WHERE m = 'fine'; INSERT INTO t VALUES (1, 'meh', '{meh,fine}', 'meh'), (2, 'fine', NULL, NULL);""",
        {"label_remaps": {"«s».mood": {"meh": "sad"}}},
        keeps={
            "SELECT string_agg(m::text, ',' ORDER BY id) FROM t": "sad,fine",
            "SELECT l::text || extra::text FROM t WHERE id = 1": "{sad,fine}sad",
            "SELECT count(*) FROM pg_enum e WHERE enumtypid = 'mood'::regtype": 2,
            "SELECT m::text FROM archon_quarantine.t__m WHERE id = 1": "meh",
        },
        only_in_prod=1,
    ),
]


@pytest.mark.parametrize("protected", [(), ("t", "a", "p", "c")], ids=["", "protected"])
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_decision(case: Case, protected: tuple[str, ...], make_world: Callable[..., World]) -> None:
    world = make_world(case.dev, case.prod)
    world.prod.run(world.schema, "DROP SCHEMA IF EXISTS archon_quarantine CASCADE")
    if case.name.startswith("text is shortened"):
        world.prod.run(world.schema, "CREATE SCHEMA archon_quarantine CREATE TABLE t__a (taken int)")
    before = world.prod.picture(world.schema)
    if case.refused:
        outcome = world.align(protected=protected)
        assert outcome.status == "decision_needed"
        assert case.refused in {finding.code for finding in outcome.findings}
        assert world.prod.picture(world.schema) == before
    predicted = decide(world, case.decisions, check=True, protected=protected)
    assert predicted.status == "drift", str(predicted.findings)
    assert world.prod.picture(world.schema) == before
    outcome = decide(world, case.decisions, protected=protected)
    assert outcome.status == "changed", str(outcome.error)
    assert [one.sql for one in outcome.statements] == [one.sql for one in predicted.statements]
    assert all(proof.preserved for proof in outcome.proofs)
    assert outcome.details["schema"]["differences_after"] == 0
    assert len(outcome.details["schema"]["only_in_prod"]) == case.only_in_prod
    again = decide(world, case.decisions, protected=protected)
    assert (again.status, again.statements) == ("aligned", ())
    for query, expected in case.keeps.items():
        assert world.prod.value(world.schema, query) == expected, query


@pytest.mark.parametrize(
    ("decisions", "problem"),
    [
        ({"backfills": {"«s».t.b": "no_such_column"}}, 'column "no_such_column" does not exist'),
        ({"backfills": {"«s».t.b": "CASE WHEN id < 2 THEN 'x' END"}}, "the backfill gives NULL: 1 row (id=2)"),
        ({"backfills": {"«s».t.b": "a"}}, "the backfill gives NULL: 1 row (id=2)"),
        ({"conversions": {"«s».t.n": "a"}}, "invalid input syntax for type integer"),
    ],
)  # fmt: skip
def test_a_decision_that_would_not_do_is_refused_beforehand(
    decisions: dict[str, Any], problem: str, make_world: Callable[..., World]
) -> None:
    world = make_world(
        "CREATE TABLE t (id int PRIMARY KEY, a text, n int, b text NOT NULL);",
        "CREATE TABLE t (id int PRIMARY KEY, a text, n text); INSERT INTO t VALUES (1, 'x', '1'), (2, NULL, 'y');",
    )
    before = world.prod.picture(world.schema)
    outcome = decide(world, decisions, check=True)
    assert outcome.status == "decision_needed"
    assert problem in " ".join(finding.message for finding in outcome.findings)
    assert decide(world, decisions).status == "decision_needed"
    assert world.prod.picture(world.schema) == before


@pytest.mark.parametrize(
    "decisions",
    [
        {"renames": [{"kind": "column", "from": "«s».t.a", "to": "nowhere"}]},
        {"renames": [{"kind": "column", "from": "«s».t.a", "to": "n"}]},
        {"label_remaps": {"«s».mood": {"sad": "fine"}}},
        {"label_remaps": {"«s».mood": {"meh": "none"}}},
        {"shapes": {"«s».t": {"columns": {"nowhere": "a"}}}},
    ],
)
def test_a_decision_that_cannot_be_meant_is_an_error(
    decisions: dict[str, Any], make_world: Callable[..., World]
) -> None:
    world = make_world(
        "CREATE TYPE mood AS ENUM ('sad', 'fine'); CREATE TABLE t (id int PRIMARY KEY, n int);",
        "CREATE TYPE mood AS ENUM ('sad', 'meh', 'fine'); CREATE TABLE t (id int PRIMARY KEY, a text, n int);",
    )
    with pytest.raises(AlignError) as raised:
        decide(world, decisions)
    assert raised.value.code == "bad_decision"


def test_a_decision_about_nothing_is_told(make_world: Callable[..., World]) -> None:
    world = make_world("CREATE TABLE t (id int);", "CREATE TABLE t (id int);")
    outcome = decide(
        world, {"renames": [{"kind": "table", "from": "«s».tt", "to": "t"}], "backfills": {"«s».t.c": "1"}}
    )
    assert outcome.status == "aligned"
    assert [one.object.rpartition(".")[2] for one in outcome.findings if one.code == "decision_without_object"] == [
        "tt",
        "c",
    ]
