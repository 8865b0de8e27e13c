"""Backups restored into empty databases, compared by pg_dump: an oracle that shares no code with the core."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
import pyrage
import pytest
from archon_align.backup import phase, restore
from archon_align.backup.choice import find
from archon_align.context import Context, Run
from archon_align.database.target import Target
from archon_align.embedded.server import EmbeddedServer
from archon_align.errors import AlignError
from archon_align.outcome import PhaseOutcome
from psycopg import sql

from tests.conftest import OWNER
from tests.integration.backup.conftest import WORLD

RUN = "20260101-000000-abcdef"
PARALLEL = "20260101-000001-abcdef"
SEALED = "20260101-000002-abcdef"
ODD = 'Odd "schema" 100%; ü'
_MORE = f"""
CREATE SCHEMA "{ODD.replace('"', '""')}";
CREATE TABLE "{ODD.replace('"', '""')}".t (a int PRIMARY KEY, b public.task_status);
INSERT INTO "{ODD.replace('"', '""')}".t VALUES (1, 'todo');
COMMENT ON SCHEMA "{ODD.replace('"', '""')}" IS 'odd';
ALTER DEFAULT PRIVILEGES IN SCHEMA "{ODD.replace('"', '""')}" GRANT SELECT ON TABLES TO anon;
"""
_SUPABASE = """
CREATE SCHEMA auth; GRANT USAGE ON SCHEMA auth TO PUBLIC;
CREATE FUNCTION auth.role() RETURNS text LANGUAGE sql STABLE AS $$ SELECT 'service_role' $$;
CREATE EXTENSION vector;
"""
_REFUSES = """
CREATE FUNCTION public.refuse() RETURNS event_trigger LANGUAGE plpgsql AS $$ BEGIN {} END $$;
CREATE SCHEMA aside; ALTER FUNCTION public.refuse() SET SCHEMA aside;
CREATE EVENT TRIGGER refuse ON ddl_command_end WHEN TAG IN ('CREATE INDEX') EXECUTE FUNCTION aside.refuse();
"""


@dataclass(frozen=True)
class Backups:
    """PROD with a backup in one file, one in a folder and one that is encrypted, and how to restore them."""

    server: EmbeddedServer
    prod: str
    root: Path
    key: Path

    def restore(self, dsn: str, run: str = RUN, *, check: bool = False, **options: Any) -> PhaseOutcome:
        run_id = "20260102-000000-abcdef" + ("-check" if check else "")
        context = Context(
            run=Run(run_id, self.root / run_id),
            prod=Target("TARGET", dsn, "restore_dsn"),
            dev=Target("DEV", ""),
            phase="restore",
            protected_names=(),
            connect_timeout=30,
        )
        options = {"live": {"PROD": self.prod}, "backup": run, **options}
        return restore.run(context, restore.Options(artifacts_root=self.root, **options))

    def refused(self, dsn: str, run: str = RUN, **options: Any) -> AlignError:
        """The refusal, after which everything is as it was."""
        before = self.dump(dsn)
        with pytest.raises(AlignError) as raised:
            self.restore(dsn, run, **options)
        assert self.dump(dsn) == before
        return raised.value

    def dump(self, dsn: str, *options: str) -> str:
        command = [str(self.server.bin / "pg_dump"), "--restrict-key=oracle", *options, f"--dbname={dsn}"]
        return subprocess.run(command, capture_output=True, text=True, timeout=600, check=True).stdout

    def take(self, run: str, **options: Any) -> None:
        context = Context(
            run=Run(run, self.root / run),
            prod=Target("PROD", self.prod),
            dev=Target("DEV", ""),
            phase="backup",
            schemas=("public", ODD),
        )
        phase.run(context, phase.Options(**options))


@pytest.fixture(scope="module")
def backups(server: EmbeddedServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Backups]:
    folder = tmp_path_factory.mktemp("backups")
    identity = pyrage.x25519.Identity.generate()
    (folder / "key").write_text(f"{identity}\n")
    with database(server, "restored_from", _SUPABASE + f"ALTER SCHEMA public OWNER TO {OWNER}") as dsn:
        with psycopg.connect(f"{dsn} user={OWNER}", autocommit=True) as owner:
            owner.execute(WORLD.encode())
            owner.execute(_MORE.encode())
        made = Backups(server, dsn, folder / "artifacts", folder / "key")
        made.take(RUN)
        made.take(PARALLEL, parallel_mb=0)
        made.take(SEALED, recipients=(str(identity.to_public()),))
        yield made


@contextmanager
def database(server: EmbeddedServer, name: str, statements: str = "", options: str = "") -> Iterator[str]:
    """The superuser's DSN of a new database that the owner owns."""
    with psycopg.connect(server.dsn(), autocommit=True) as admin:
        admin.execute(f"CREATE DATABASE {name} OWNER {OWNER} {options}".encode())
        try:
            with psycopg.connect(server.dsn(name), autocommit=True) as connection:
                connection.execute(statements.encode())
            yield server.dsn(name)
        finally:
            admin.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))


@pytest.fixture
def empty(server: EmbeddedServer) -> Iterator[Callable[..., str]]:
    """Call with SQL for the superuser's DSN of an empty database in which that has been run."""
    from contextlib import ExitStack

    with ExitStack() as stack:
        yield lambda statements="", options="": stack.enter_context(
            database(server, "restored_into", statements, options)
        )


def owned(dsn: str) -> str:
    return f"{dsn} user={OWNER}"


@pytest.mark.parametrize("run", [RUN, PARALLEL, SEALED], ids=["one file", "a folder", "encrypted"])
def test_what_is_restored_is_what_was_dumped(run: str, backups: Backups, empty: Callable[..., str]) -> None:
    target = empty(f"{_SUPABASE} ALTER SCHEMA public OWNER TO {OWNER}")
    key = {"identity": backups.key} if run == SEALED else {}
    before = backups.dump(target)
    predicted = backups.restore(owned(target), run, check=True, **key)
    assert (predicted.status, predicted.changed) == ("drift", True)
    assert backups.dump(target) == before
    outcome = backups.restore(owned(target), run, **key)
    assert (outcome.status, outcome.changed) == ("changed", True)
    assert list(outcome.statements) == list(predicted.statements) == []
    assert outcome.details["restore"]["rows"] == 6 + 120 + 93 + 60 + 2 + 2 + 2 + 1
    assert outcome.details["restore"]["tables"] == 9
    assert set(outcome.details["restore"]["seconds"]) == {"restore", "proof"}
    own = ("--schema=public", '--schema="' + ODD.replace('"', '""') + '"')
    assert backups.dump(target, *own) == backups.dump(backups.prod, *own)
    for check in (True, False):
        again = backups.restore(owned(target), run, check=check, **key)
        assert (again.status, again.changed) == ("aligned", False)
        assert [finding.code for finding in again.findings] == ["already_restored"]


def test_what_is_needed_is_made_where_the_role_may(backups: Backups, empty: Callable[..., str]) -> None:
    target = empty()
    predicted = backups.restore(target, check=True)
    outcome = backups.restore(target)
    assert [statement.sql for statement in predicted.statements] == [statement.sql for statement in outcome.statements]
    assert [statement.object for statement in outcome.statements] == ["vector", "auth", "auth.role()"]
    with psycopg.connect(target, autocommit=True) as connection:
        assert connection.execute("SELECT auth.role()").fetchone() == ("service_role",)
        assert connection.execute("SELECT count(*) FROM match_pages('[1,2,3]')").fetchone() == (5,)


def test_what_is_missing_is_named_before_anything_is_made(
    backups: Backups, empty: Callable[..., str], server: EmbeddedServer
) -> None:
    with psycopg.connect(server.dsn(), autocommit=True) as admin:
        admin.execute("CREATE ROLE stranger LOGIN")
        try:
            target = empty(
                "GRANT CREATE ON DATABASE restored_into TO stranger; GRANT CREATE ON SCHEMA public TO stranger"
            )
            error = backups.refused(f"{target} user=stranger")
            assert error.code == "target_lacks"
            assert f"membership in role {OWNER}, which owns objects" in error.found
            target_owner = backups.refused(owned(target))
            assert (target_owner.code, target_owner.object_name.split()[-1]) == ("target_lacks", "vector")
            assert "Must be superuser" in target_owner.found or "permission denied" in target_owner.found
            predicted = backups.restore(owned(target), check=True)
            assert "extension_may_be_refused" in {finding.code for finding in predicted.findings}
        finally:
            admin.execute("DROP DATABASE IF EXISTS restored_into WITH (FORCE)")
            admin.execute("CREATE DATABASE restored_into")
            admin.execute("DROP ROLE stranger")


@pytest.mark.parametrize("run", [RUN, PARALLEL], ids=["one transaction", "several connections"])
def test_a_restore_that_fails_half_way_leaves_the_target_empty(
    run: str, backups: Backups, empty: Callable[..., str]
) -> None:
    target = empty(_REFUSES.format("RAISE EXCEPTION 'not today';"))
    with pytest.raises(AlignError) as raised:
        backups.restore(target, run)
    assert raised.value.code == "restore_failed"
    assert "not today" in raised.value.found
    assert "empty again" in raised.value.what
    with psycopg.connect(target, autocommit=True) as connection:
        left = "SELECT oid::regclass::text FROM pg_class WHERE relnamespace::regnamespace::text IN ('public', %s)"
        assert connection.execute(left, (f'"{ODD}"',)).fetchall() == []
        assert connection.execute("SELECT extname FROM pg_extension ORDER BY 1").fetchall() == [("plpgsql",)]
        assert connection.execute("SELECT to_regprocedure('auth.role()')").fetchone() == (None,)
        connection.execute("DROP EVENT TRIGGER refuse")
    assert backups.restore(target, run).changed is True


def test_what_is_not_proved_stays_because_others_may_have_written_there(
    backups: Backups, empty: Callable[..., str]
) -> None:
    target = empty(_SUPABASE + _REFUSES.format("INSERT INTO public.nothing_in_it VALUES (1);"))
    with pytest.raises(AlignError) as raised:
        backups.restore(target)
    assert raised.value.code == "restore_not_proved"
    assert "table public.nothing_in_it: " in raised.value.found
    with psycopg.connect(target, autocommit=True) as connection:
        assert connection.execute("SELECT count(*) FROM archon_tasks").fetchone() == (120,)


def test_the_protected_tables_alone(backups: Backups, empty: Callable[..., str]) -> None:
    target = empty()
    before = backups.dump(target)
    assert backups.restore(target, what="critical", check=True).status == "drift"
    assert backups.dump(target) == before
    outcome = backups.restore(target, what="critical")
    assert (outcome.changed, outcome.details["restore"]["rows"]) == (True, 126)
    with psycopg.connect(target, autocommit=True) as there, psycopg.connect(backups.prod, autocommit=True) as here:
        for table in ("archon_projects", "archon_tasks"):
            rows = f"SELECT md5(string_agg(t::text, ',' ORDER BY id)) FROM {table} t"
            assert there.execute(rows.encode()).fetchone() == here.execute(rows.encode()).fetchone()
    assert backups.restore(target, what="critical").changed is False
    assert backups.refused(target).code == "target_not_empty"


def test_a_target_that_is_not_empty_is_refused(backups: Backups, empty: Callable[..., str]) -> None:
    target = empty(_SUPABASE + "CREATE TABLE notes (a int); INSERT INTO notes VALUES (1)")
    error = backups.refused(target)
    assert error.code == "target_not_empty"
    assert "table public.notes" in error.found


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE archon_projects SET title = title || '!'",
        "CREATE TABLE besides ()",
        "REVOKE SELECT ON archon_projects FROM anon",
    ],
)
def test_a_restored_database_that_was_changed_since_is_left_alone(
    change: str, backups: Backups, empty: Callable[..., str]
) -> None:
    target = empty(_SUPABASE)
    backups.restore(target)
    with psycopg.connect(target, autocommit=True) as connection:
        connection.execute("SET session_replication_role = replica")
        connection.execute(change.encode())
    assert backups.refused(target).code == "target_not_empty"


def test_prod_and_dev_are_no_targets(backups: Backups, empty: Callable[..., str]) -> None:
    assert backups.refused(backups.prod).code == "target_is_live"
    target = empty(_SUPABASE)
    error = backups.refused(target, live={"PROD": backups.prod, "lab-dev": f"{target} application_name=x"})
    assert (error.code, error.found.split(",")[0]) == ("target_is_live", "lab-dev")
    down = backups.prod.replace("host=", "host=/nowhere")
    by_identity = backups.refused(backups.prod, live={"PROD": down, "DEV": ""})
    assert (by_identity.code, RUN in by_identity.found) == ("target_is_live", True)
    assert backups.restore(target, live={"PROD": target}, allow_live=True).changed is True


def test_a_target_at_the_address_of_a_database_that_is_down_is_refused(
    backups: Backups, empty: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """PROD may refuse our role for a while; it is PROD all the same."""
    target = empty(_SUPABASE)
    error = backups.refused(target, live={"PROD": f"{target} user=nobody_knows"})
    assert (error.code, "address" in error.found) == ("target_is_live", True)


def test_prod_need_not_be_up(backups: Backups, empty: Callable[..., str]) -> None:
    live = {"PROD": "host=127.0.0.1 port=1 dbname=archon", "DEV": "host=127.0.0.1 port=1 dbname=dev"}
    assert backups.restore(empty(_SUPABASE), live=live).changed is True


def test_whoever_works_in_the_target_is_not_disturbed(
    backups: Backups, empty: Callable[..., str], hold_run_lock: Callable[[str], psycopg.Connection]
) -> None:
    target = empty(_SUPABASE)
    hold_run_lock(target)
    error = backups.refused(target)
    assert error.code == "run_active"
    assert "align keeper" in error.found


def test_a_target_that_cannot_be_reached(backups: Backups) -> None:
    for dsn, code in (
        ("host=127.0.0.1 port=1 dbname=x", "unreachable"),
        ("", "bad_dsn"),
        (backups.server.dsn("nowhere"), "no_database"),
    ):
        with pytest.raises(AlignError) as raised:
            backups.restore(dsn)
        assert raised.value.code == code


def test_text_is_stored_as_in_the_backup_or_not_at_all(backups: Backups, empty: Callable[..., str]) -> None:
    target = empty(options="TEMPLATE template0 ENCODING 'LATIN1' LOCALE 'C'")
    error = backups.refused(target)
    assert (error.code, error.expected, error.found) == ("other_encoding", "UTF8", "LATIN1")


def test_a_backup_that_is_not_as_it_was_written_restores_nothing(
    backups: Backups, empty: Callable[..., str], tmp_path: Path
) -> None:
    target = empty(_SUPABASE)
    for name, damage in (
        ("public.dump", lambda file: file.write_bytes(file.read_bytes()[:-1])),
        ("schemas.dump", Path.unlink),
        ("critical.sql", lambda file: file.write_bytes(file.read_bytes().replace(b"BEGIN;", b"COMMIT", 1))),
        ("manifest.json", lambda file: file.write_text("{")),
        ("surroundings.json", lambda file: file.write_text("{}")),
    ):
        copy = shutil.copytree(backups.root / RUN, tmp_path / f"of {name}")
        file = copy / "backup" / ("schemas.dump" if name == "public.dump" else name)
        damage(file)
        error = backups.refused(target, str(copy))
        assert (error.code, error.object_name) == ("backup_unusable", str(file))


def test_an_encrypted_backup_needs_its_key(backups: Backups, empty: Callable[..., str], tmp_path: Path) -> None:
    target = empty(_SUPABASE)
    other = tmp_path / "other"
    other.write_text(f"{pyrage.x25519.Identity.generate()}\n")
    assert backups.refused(target, SEALED).code == "key_needed"
    assert backups.refused(target, SEALED, identity=other).code == "wrong_key"
    folder = backups.root / SEALED / "backup"
    assert all(path.suffix == ".age" for path in folder.rglob("*") if path.is_file() and path.name != "manifest.json")


def test_the_latest_backup_and_a_path_are_found_too(backups: Backups, tmp_path: Path) -> None:
    (backups.root / "latest").symlink_to(RUN)
    for name in ("latest", RUN, str(backups.root / RUN), str(backups.root / RUN / "backup")):
        assert find(backups.root, name).resolve() == backups.root / RUN / "backup"
    (backups.root / "latest").unlink()


@pytest.mark.parametrize("name", ["", "20990101-000000-abcdef", "/nowhere", "."])
def test_a_backup_that_there_is_not(name: str, backups: Backups, empty: Callable[..., str]) -> None:
    error = backups.refused(empty(_SUPABASE), name)
    assert error.code == "no_backup"


def test_no_secret_is_to_be_seen(
    backups: Backups, empty: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tools = tmp_path / "bin"
    tools.mkdir()
    for name in ("pg_dump", "pg_restore", "psql"):
        (tools / name).write_text(
            f'#!/bin/sh\n(echo "$@"; env) >> {tmp_path}/seen\nexec "{backups.server.bin}/{name}" "$@"\n'
        )
        (tools / name).chmod(0o755)
    monkeypatch.setenv("PGPASSWORD", "se cret")
    backups.restore(f"{empty(_SUPABASE)} password='hid den'", pg_dump=str(tools / "pg_dump"))
    seen = (tmp_path / "seen").read_text()
    assert "dbname=restored_into" in seen
    assert "hid den" not in seen
    assert "se cret" not in seen
