"""The protected tables alone: a script that restores them anywhere, and lines that a person can read."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from archon_align.backup import phase
from archon_align.backup.manifest import verify_manifest
from archon_align.context import PROTECTED_TABLES, Context
from archon_align.embedded.server import EmbeddedServer
from psycopg import sql

MakeContext = Callable[..., Context]

# What the four tables need, near and far: by columns, by bodies of functions, in other schemas; and what they do without.
_WORLD = '''
CREATE TYPE mood AS ENUM ('it''s fine', 'bad');
CREATE TYPE "a ""pair""" AS (left_one int, "right %s" text);
CREATE TYPE never_needed AS ENUM ('x');
CREATE TABLE archon_sources (source_id text PRIMARY KEY);
CREATE TABLE shaped (width int CHECK (width > 0), height numeric);
CREATE FUNCTION shout(t text) RETURNS text LANGUAGE plpgsql IMMUTABLE AS $$ BEGIN RETURN upper(t); END $$;
CREATE FUNCTION judged(t text) RETURNS text LANGUAGE plpgsql IMMUTABLE AS
  $$ DECLARE m public.mood := 'bad'; BEGIN RETURN public.shout(t) || m; END $$;
CREATE FUNCTION stamp() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN NEW.updated_at := now(); RETURN NEW; END $$;
CREATE FUNCTION all_sources() RETURNS SETOF archon_sources LANGUAGE sql AS 'SELECT * FROM public.archon_sources';
CREATE DOMAIN short AS text CHECK (shout(VALUE) <> 'NO');
CREATE SEQUENCE shared START 100;
CREATE TABLE archon_projects (id uuid PRIMARY KEY DEFAULT gen_random_uuid(), title short, owner uuid DEFAULT hosted.uid(),
  pinned json, pair "a ""pair""", outline shaped, number bigint DEFAULT nextval('shared'), updated_at timestamptz DEFAULT now());
CREATE TABLE archon_tasks (id bigserial PRIMARY KEY, project_id uuid REFERENCES archon_projects, parent bigint REFERENCES archon_tasks,
  source_id text REFERENCES archon_sources, mood mood, word text DEFAULT 'w', said text GENERATED ALWAYS AS (judged(word)) STORED, v vector(2));
CREATE TABLE archon_document_versions (day date, n int GENERATED ALWAYS AS IDENTITY, PRIMARY KEY (day, n)) PARTITION BY RANGE (day);
CREATE TABLE versions_2025 PARTITION OF archon_document_versions FOR VALUES FROM ('2025-01-01') TO ('2026-01-01');
CREATE TABLE "versions ""rest""" PARTITION OF archon_document_versions DEFAULT;
CREATE INDEX ON archon_document_versions (n);
CREATE INDEX ON archon_tasks (judged(said)) WHERE mood = 'bad';
CREATE TABLE archon_project_sources (note text, other text);
CREATE TABLE "Odd ""name"" 100%; ü 🐘/../x" (a text);
CREATE TRIGGER stamped BEFORE UPDATE ON archon_projects FOR EACH ROW EXECUTE FUNCTION stamp();
CREATE TRIGGER told AFTER INSERT ON archon_projects FOR EACH ROW EXECUTE FUNCTION hosted.tell();
CREATE POLICY mine ON archon_projects USING (owner = hosted.uid());
CREATE RULE quiet AS ON DELETE TO archon_project_sources DO INSTEAD NOTHING;
CREATE VIEW glance AS SELECT id FROM archon_tasks;
INSERT INTO archon_sources VALUES ('s');
INSERT INTO archon_projects (title, pinned, pair, outline) SELECT E'Projekt\\n"' || n, E'{"a":\\n\\r 1}', (n, 'ß')::"a ""pair""",
  (n, 0.5)::shaped
  FROM generate_series(1, 5) n;
INSERT INTO archon_tasks (project_id, source_id, mood, v) SELECT (SELECT id FROM archon_projects LIMIT 1), 's', 'it''s fine', '[1,2]'
  FROM generate_series(1, 12) n;
INSERT INTO archon_document_versions (day) SELECT date '2025-12-28' + n FROM generate_series(1, 9) n;
INSERT INTO archon_project_sources VALUES (NULL, '🍎'), ('', E'tab\\there'), (NULL, '🍎');
INSERT INTO "Odd ""name"" 100%; ü 🐘/../x" VALUES ('odd');
'''
_HOSTED = """
CREATE SCHEMA hosted;
CREATE FUNCTION hosted.uid() RETURNS uuid LANGUAGE sql AS $$ SELECT '00000000-0000-0000-0000-000000000000'::uuid $$;
CREATE FUNCTION hosted.tell() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END';
GRANT USAGE ON SCHEMA hosted TO PUBLIC;
"""
_ODD = 'Odd "name" 100%; ü 🐘/../x'


@pytest.fixture
def empty(server: EmbeddedServer) -> Iterator[str]:
    with psycopg.connect(server.dsn(), autocommit=True) as admin:
        admin.execute("CREATE DATABASE alone TEMPLATE template0")
        yield server.dsn("alone")
        admin.execute("DROP DATABASE alone WITH (FORCE)")


def psql(server: EmbeddedServer, dsn: str, file: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [server.bin / "psql", "-X", "-q", "-f", file, dsn], capture_output=True, text=True, check=False, timeout=600
    )


def rows(dsn: str, table: str) -> list[tuple[Any, ...]]:
    with psycopg.connect(dsn) as connection:
        query = sql.SQL("SELECT t::text FROM {} t ORDER BY 1").format(sql.Identifier("public", table))
        return connection.execute(query).fetchall()


def test_the_protected_tables_restore_alone(
    server: EmbeddedServer, new_database: Callable[[str], str], make_context: MakeContext, empty: str
) -> None:
    prod = new_database("")
    with psycopg.connect(server.dsn(prod.split("dbname=")[1].split()[0]), autocommit=True) as admin:
        admin.execute(_HOSTED)
    with psycopg.connect(prod, autocommit=True) as owner:
        owner.execute(_WORLD.encode())
    context = make_context(prod, phase="backup", protected_names=(*PROTECTED_TABLES, f"public.{_ODD}"))
    outcome = phase.run(context, phase.Options())
    folder = context.run.artifacts / "backup"
    manifest = verify_manifest(folder)
    assert manifest["critical"]["verified"] is True, manifest["critical"]

    ended = psql(server, empty, folder / "critical.sql")
    assert (ended.returncode, ended.stderr) == (0, "")
    for table in (*PROTECTED_TABLES, _ODD):
        assert rows(empty, table) == rows(prod, table), table
    with psycopg.connect(empty, autocommit=True) as restored:
        # It is a working database: triggers, sequences, keys.
        restored.execute("UPDATE archon_projects SET updated_at = '2000-01-01'")
        assert restored.execute("SELECT min(updated_at) > '2020-01-01' FROM archon_projects").fetchone() == (True,)
        restored.execute("INSERT INTO archon_tasks (mood) VALUES ('bad')")
        assert restored.execute("SELECT max(id), max(said) FROM archon_tasks").fetchone() == (13, "Wbad")
        assert restored.execute("INSERT INTO archon_projects DEFAULT VALUES RETURNING number").fetchone() == (105,)
        with pytest.raises(psycopg.errors.ForeignKeyViolation):
            restored.execute("INSERT INTO archon_tasks (parent) VALUES (4711)")
        there = {name for (name,) in restored.execute("SELECT relname FROM pg_class WHERE relkind IN ('r', 'v', 'p')")}
        assert {"shaped", "versions_2025", 'versions "rest"'} <= there  # the columns need the first
        assert {"archon_sources", "glance"}.isdisjoint(there)
        assert restored.execute("SELECT to_regtype('public.never_needed')").fetchone() == (None,)

    again = psql(server, empty, folder / "critical.sql")
    assert again.returncode == 3
    assert "already exists" in again.stderr

    left_out = {(item["kind"], item["object"]) for item in manifest["critical"]["left_out"]}
    assert left_out == {
        ("table constraint", "archon_tasks_source_id_fkey on public.archon_tasks"),
        ("trigger", "told on public.archon_projects"),
        ("policy", "mine on public.archon_projects"),
        ("rule", "quiet on public.archon_project_sources"),
    }
    (said,) = (finding for finding in outcome.findings if finding.code == "left_out_of_critical_dump")
    assert said.message.endswith("other tables: archon_tasks_source_id_fkey on public.archon_tasks.")

    lines = {item["name"]: folder / item["lines"] for item in manifest["critical"]["tables"]}
    assert {name: path.name for name, path in lines.items()} == {
        **{name: f"{name}.jsonl" for name in PROTECTED_TABLES},
        _ODD: "Odd__name__100___ü___.._x.jsonl",
    }
    read = {name: [json.loads(line) for line in path.read_text().splitlines()] for name, path in lines.items()}
    assert {item["name"]: item["rows"] for item in manifest["critical"]["tables"]} == {
        name: len(found) for name, found in read.items()
    }
    assert [row["id"] for row in read["archon_tasks"]] == list(range(1, 13))
    assert read["archon_projects"][0]["pinned"] == {"a": 1}
    assert read["archon_projects"][0]["title"].startswith('Projekt\n"')
    assert read["archon_project_sources"] == [
        {"note": None, "other": "🍎"},
        {"note": "", "other": "tab\there"},
        {"note": None, "other": "🍎"},
    ]
    assert "🍎" in lines["archon_project_sources"].read_text(encoding="utf-8")


def test_tables_that_cannot_be_alone_do_not_cost_the_backup(
    new_database: Callable[[str], str], make_context: MakeContext
) -> None:
    prod = new_database(
        "CREATE TABLE a_limits AS SELECT 3 AS most;"
        " CREATE FUNCTION within(n int) RETURNS bool LANGUAGE plpgsql AS"
        " $$ BEGIN RETURN n <= (SELECT most FROM public.a_limits); END $$;"
        " CREATE TABLE archon_tasks (n int CHECK (within(n))); INSERT INTO archon_tasks VALUES (1)"
    )
    context = make_context(prod, phase="backup")
    outcome = phase.run(context, phase.Options())
    assert outcome.details["backup"]["verified"] is True
    assert outcome.details["backup"]["critical"]["verified"] is False
    (said,) = (finding for finding in outcome.findings if finding.code == "critical_dump_not_proved")
    assert said.severity == "warning"
    assert 'relation "public.a_limits" does not exist' in said.message
    manifest = verify_manifest(context.run.artifacts / "backup")
    assert "a_limits" in manifest["critical"]["unverified_because"]


def test_without_protected_tables(new_database: Callable[[str], str], make_context: MakeContext) -> None:
    context = make_context(new_database("CREATE TABLE t AS SELECT 1 AS a"), phase="backup")
    outcome = phase.run(context, phase.Options())
    assert outcome.details["backup"]["critical"] == {
        "path": "backup/critical.sql",
        "tables": 0,
        "left_out": 0,
        "verified": True,
    }
