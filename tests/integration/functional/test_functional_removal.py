"""Removing what validation created: exactly those rows, whoever writes meanwhile, and only as long as they are ours."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator

import psycopg
import pytest
from archon_align.context import Context
from archon_align.database import gate
from archon_align.database.own_rows import OwnRows
from archon_align.database.session import Session, open_session
from archon_align.database.target import Table
from archon_align.errors import AlignError, GateRefused
from archon_align.validate.functional.marker import Journal, new_marker
from archon_align.validate.functional.removal import find, remove

SCHEMA = """
CREATE TABLE archon_projects (id uuid PRIMARY KEY DEFAULT gen_random_uuid(), title text NOT NULL, docs jsonb DEFAULT '[]');
CREATE TABLE archon_tasks (id uuid PRIMARY KEY DEFAULT gen_random_uuid(), title text, updated_at timestamptz DEFAULT now(),
  project_id uuid REFERENCES archon_projects ON DELETE CASCADE, parent_task_id uuid REFERENCES archon_tasks ON DELETE CASCADE);
CREATE TABLE archon_document_versions (id uuid PRIMARY KEY DEFAULT gen_random_uuid(), content text,
  project_id uuid REFERENCES archon_projects ON DELETE CASCADE, task_id uuid REFERENCES archon_tasks ON DELETE SET NULL);
CREATE TABLE archon_project_sources (id uuid PRIMARY KEY DEFAULT gen_random_uuid(), source_id text,
  project_id uuid REFERENCES archon_projects ON DELETE CASCADE);
CREATE TABLE archon_sources (source_id text PRIMARY KEY);
CREATE TABLE archon_crawled_pages (id bigserial PRIMARY KEY, url text, source_id text REFERENCES archon_sources, embedding vector(3));
CREATE TABLE archon_code_examples (id bigserial PRIMARY KEY, url text, source_id text REFERENCES archon_sources);
INSERT INTO archon_projects (title) SELECT 'prøject "' || n || '" 100% archon-align-canary' FROM generate_series(1, 5) n;
INSERT INTO archon_projects (title) VALUES ('archon-align-canary-20260101-000000-abcdef-'),
  ('Copy of archon-align-canary-20260101-000000-abcdef-0123456789abcdef'), ('archon-align-canary-20260101-000000-abcdef-0123456789abcdeF');
INSERT INTO archon_tasks (title, project_id) SELECT 'täsk', id FROM archon_projects;
INSERT INTO archon_document_versions (project_id, content) SELECT id, 'x' FROM archon_projects;
INSERT INTO archon_project_sources (project_id, source_id) SELECT id, 'one' FROM archon_projects;
INSERT INTO archon_sources VALUES ('one'), ('file_archon-align-canary-notes_txt_1700000000');
INSERT INTO archon_crawled_pages (url, source_id) SELECT 'file://archon-align-canary-notes.txt', source_id FROM archon_sources;
"""
TABLES = ("projects", "tasks", "document_versions", "project_sources", "sources", "crawled_pages", "code_examples")
STRAY = "archon-align-canary-20251231-235959-fedcba-0123456789abcdef"


@pytest.fixture
def prod(new_database: Callable[[str], str]) -> str:
    return new_database(SCHEMA)


@pytest.fixture
def session(prod: str, make_context: Callable[..., Context], hold_run_lock: Callable) -> Iterator[Session]:
    hold_run_lock(prod)
    context = make_context(prod)
    with open_session(context, context.prod) as opened:
        yield opened


@pytest.fixture
def owner(prod: str) -> Iterator[psycopg.Connection]:
    with psycopg.connect(prod, autocommit=True) as connection:
        yield connection


def rows(owner: psycopg.Connection) -> dict[str, list]:
    return {
        name: owner.execute(f"SELECT t::text FROM archon_{name} t ORDER BY 1".encode()).fetchall() for name in TABLES
    }


def litter(owner: psycopg.Connection, marker: str) -> str:
    """Everything that validation may leave, under `marker`; the project's id."""
    source = f"file_{marker}_txt_1700000000"
    owner.execute("INSERT INTO archon_sources VALUES (%s)", (source,))
    owner.execute("INSERT INTO archon_crawled_pages (url, source_id) VALUES (%s, %s)", (f"file://{marker}.txt", source))
    owner.execute("INSERT INTO archon_code_examples (url, source_id) VALUES (%s, %s)", (f"file://{marker}.txt", source))
    (project,) = owner.execute(
        "INSERT INTO archon_projects (title) VALUES (%s) RETURNING id::text", (marker,)
    ).fetchone()
    (task,) = owner.execute(
        "INSERT INTO archon_tasks (title, project_id) VALUES (%s, %s), (%s, %s) RETURNING id", (marker, project) * 2
    ).fetchone()
    owner.execute(
        "INSERT INTO archon_document_versions (project_id, task_id) VALUES (%s, NULL), (%s, %s)",
        (project, project, task),
    )
    owner.execute("INSERT INTO archon_project_sources (project_id, source_id) VALUES (%s, %s)", (project, source))
    return str(project)


def test_exactly_what_carries_a_marker_goes(
    session: Session, owner: psycopg.Connection, make_context: Callable
) -> None:
    before = rows(owner)
    litter(owner, new_marker(session.context.run))
    litter(owner, STRAY)
    journal = Journal(session.context.run)
    removed = remove(session, journal)
    assert rows(owner) == before
    assert removed.counts == {
        "public.archon_document_versions": 4, "public.archon_project_sources": 2, "public.archon_tasks": 4,
        "public.archon_projects": 2, "public.archon_code_examples": 2, "public.archon_crawled_pages": 2, "public.archon_sources": 2,
    }  # fmt: skip
    assert [(proof.table, proof.preserved, proof.strays_removed) for proof in removed.proofs] == [
        ("public.archon_document_versions", True, 2), ("public.archon_project_sources", True, 1),
        ("public.archon_projects", True, 1), ("public.archon_tasks", True, 2),
    ]  # fmt: skip
    assert b'"removed"' in journal.path.read_bytes()
    assert remove(session).total == 0


def test_a_project_that_somebody_uses_stays(session: Session, owner: psycopg.Connection) -> None:
    project = litter(owner, STRAY)
    owner.execute("INSERT INTO archon_tasks (title, project_id) VALUES ('mine', %s)", (project,))
    removed = remove(session)
    assert [finding.code for finding in removed.findings] == ["canary_kept"]
    assert project in removed.findings[0].object
    assert removed.counts["public.archon_tasks"] == 2
    left = owner.execute("SELECT title FROM archon_tasks WHERE project_id = %s", (project,)).fetchall()
    assert left == [("mine",)]


def test_a_task_with_somebodys_subtask_stays(session: Session, owner: psycopg.Connection) -> None:
    project = litter(owner, STRAY)
    before = rows(owner)
    elsewhere = owner.execute("SELECT id FROM archon_projects WHERE id <> %s", (project,)).fetchone()
    ours = owner.execute("SELECT id FROM archon_tasks WHERE project_id = %s", (project,)).fetchone()
    owner.execute(
        "INSERT INTO archon_tasks (title, project_id, parent_task_id) VALUES ('mine', %s, %s)", (*elsewhere, *ours)
    )
    removed = remove(session)
    assert [finding.code for finding in removed.findings] == ["canary_kept", "canary_kept"]
    assert removed.counts["public.archon_tasks"] == 1
    assert len(rows(owner)["tasks"]) == len(before["tasks"])
    assert len(rows(owner)["projects"]) == len(before["projects"])


@pytest.mark.parametrize(
    "trigger",
    [
        "CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN DELETE FROM public.archon_sources WHERE source_id LIKE '%notes%'; RETURN OLD; END $$",
        "CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN UPDATE public.archon_tasks SET title = 'gone' WHERE title = 'täsk'; RETURN OLD; END $$",
        "CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NULL; END $$",
    ],
)
def test_a_trigger_that_reaches_further_is_met(session: Session, owner: psycopg.Connection, trigger: str) -> None:
    owner.execute("DELETE FROM archon_crawled_pages")
    litter(owner, STRAY)
    owner.execute(trigger.encode())
    owner.execute("CREATE TRIGGER t BEFORE DELETE ON archon_projects FOR EACH ROW EXECUTE FUNCTION f()")
    before = rows(owner)
    with pytest.raises(AlignError):
        remove(session)
    assert rows(owner) == before


def test_users_who_write_meanwhile_lose_nothing(session: Session, owner: psycopg.Connection, prod: str) -> None:
    stop = threading.Event()
    written: list[int] = []

    def user() -> None:
        with psycopg.connect(prod, autocommit=True) as mine:
            while not stop.is_set():
                mine.execute("INSERT INTO archon_tasks (title) VALUES (%s)", (f"user {len(written)}",))
                written.append(1)

    litter(owner, STRAY)
    writer = threading.Thread(target=user)
    writer.start()
    try:
        removed = remove(session)
    finally:
        stop.set()
        writer.join()
    assert removed.total == 9
    (found,) = owner.execute("SELECT count(*) FROM archon_tasks WHERE title LIKE 'user %'").fetchone()
    assert found == len(written)


def test_nothing_goes_without_the_run_lock(prod: str, owner: psycopg.Connection, make_context: Callable) -> None:
    litter(owner, STRAY)
    context = make_context(prod)
    with open_session(context, context.prod) as session, pytest.raises(AlignError, match="run lock"):
        remove(session)
    assert len(rows(owner)["projects"]) == 9


def test_a_database_without_such_tables_has_nothing_to_remove(
    new_database: Callable[[str], str], make_context: Callable[..., Context]
) -> None:
    context = make_context(new_database(""))
    with open_session(context, context.prod) as session:
        assert find(session).rows == ()


PROTECTED = frozenset({("public", "archon_projects")})
OWN = OwnRows(Table("public", "archon_projects"), ("1", "2"), "title", STRAY)


@pytest.mark.parametrize(
    "statement",
    [
        "DELETE FROM public.archon_projects",
        OWN.text.replace("'1', '2'", "'1', '2', '3'"),
        OWN.text + " OR true",
        OWN.text.replace("archon_projects", "archon_tasks"),
        OWN.text + "; DELETE FROM public.archon_projects",
        f"WITH gone AS ({OWN.text} RETURNING *) SELECT * FROM gone",
    ],
)
def test_the_gate_lets_only_the_very_statement_through(statement: str) -> None:
    gate.inspect(OWN.text, read_only=False, protected=PROTECTED, own=OWN)
    with pytest.raises(GateRefused):
        gate.inspect(statement, read_only=False, protected=PROTECTED, own=OWN)
    with pytest.raises(GateRefused):
        gate.inspect(OWN.text, read_only=False, protected=PROTECTED)
    with pytest.raises(GateRefused):
        gate.inspect(OWN.text, read_only=True, protected=PROTECTED, own=OWN)


@pytest.mark.parametrize(
    "fields",
    [
        {"ids": ()},
        {"ids": ("",)},
        {"marker": "archon-align-canary"},
        {"marker": ""},
        {"marker": f"%{STRAY}"},
        {"marked": ""},
        {"owner": OWN, "belongs": "project_id"},
    ],
)
def test_rows_of_nobodys_cannot_be_named(fields: dict) -> None:
    wanted = {"table": OWN.table, "ids": OWN.ids, "marked": OWN.marked, "marker": OWN.marker, **fields}
    with pytest.raises(ValueError, match="rows"):
        OwnRows(**wanted)
