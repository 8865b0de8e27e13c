"""Servers of other versions, a scratch server that is named, and what a target lacks but a backup can do without."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable, Iterator

import psycopg
import pytest
from archon_align.backup import phase, restore
from archon_align.context import Context, Run
from archon_align.database.target import Target
from archon_align.embedded.server import EmbeddedServer
from archon_align.errors import AlignError
from archon_align.outcome import PhaseOutcome

from tests.conftest import RUN_ID
from tests.integration.backup.conftest import WORLD

MakeContext = Callable[..., Context]
_SUPABASE = """
CREATE SCHEMA auth; CREATE EXTENSION vector;
CREATE FUNCTION auth.role() RETURNS text LANGUAGE sql STABLE AS $$ SELECT 'service_role' $$;
"""
_LEANS = """
CREATE TABLE auth.users (id int PRIMARY KEY); INSERT INTO auth.users VALUES (1);
CREATE TABLE owned (id int PRIMARY KEY, owner int REFERENCES auth.users);
COMMENT ON CONSTRAINT owned_owner_fkey ON owned IS 'theirs'; INSERT INTO owned VALUES (1, 1);
CREATE TYPE auth.level AS ENUM ('low');
"""


def run_all(dsn: str, *statements: str) -> None:
    with psycopg.connect(dsn, autocommit=True) as connection:
        for statement in statements:
            connection.execute(statement.encode())


@pytest.fixture(scope="module")
def old(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedServer]:
    """PostgreSQL 16 with PROD and an empty database."""
    with EmbeddedServer(tmp_path_factory.mktemp("old"), version=16) as server:
        roles = "CREATE ROLE anon; CREATE ROLE authenticated; CREATE ROLE service_role"
        run_all(server.dsn(), roles, "CREATE DATABASE prod", "CREATE DATABASE target", "CREATE DATABASE older")
        run_all(server.dsn("prod"), _SUPABASE, WORLD)
        yield server


@pytest.fixture(scope="module")
def outer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedServer]:
    """A scratch server that has some roles already."""
    with EmbeddedServer(tmp_path_factory.mktemp("outer")) as server:
        run_all(server.dsn(), "CREATE ROLE anon")
        yield server


def back_up(make_context: MakeContext, dsn: str, **options: object) -> PhaseOutcome:
    return phase.run(make_context(dsn, phase="backup"), phase.Options(**options))  # type: ignore[arg-type]


def restored(make_context: MakeContext, dsn: str, **options: object) -> PhaseOutcome:
    made = make_context(dsn, phase="restore", protected_names=())
    context = Context(
        run=Run("20260102-000000-abcdef", made.run.artifacts),
        prod=Target("TARGET", dsn, "restore_dsn"),
        dev=Target("DEV", ""),
        phase="restore",
        protected_names=(),
    )
    return restore.run(
        context,
        restore.Options(backup=str(made.run.artifacts), artifacts_root=made.run.artifacts.parent, **options),  # type: ignore[arg-type]
    )


def dump(server: EmbeddedServer, dsn: str) -> str:
    command = [str(server.bin / "pg_dump"), "--restrict-key=oracle", "--schema=public", f"--dbname={dsn}"]
    return subprocess.run(command, capture_output=True, text=True, timeout=600, check=True).stdout


def test_servers_before_17_get_what_they_understand(
    old: EmbeddedServer, server: EmbeddedServer, make_context: MakeContext, new_database: Callable[[str], str]
) -> None:
    back_up(make_context, old.dsn("prod"))
    target = old.dsn("target")
    refuse = (
        "CREATE FUNCTION refuse() RETURNS event_trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'not today'; END $$;"
        "CREATE SCHEMA aside; ALTER FUNCTION refuse() SET SCHEMA aside;"
        "CREATE EVENT TRIGGER refuse ON ddl_command_end WHEN TAG IN ('CREATE INDEX') EXECUTE FUNCTION aside.refuse()"
    )
    run_all(target, refuse)
    with pytest.raises(AlignError) as raised:
        restored(make_context, target)
    assert ("not today" in raised.value.found, "empty again" in raised.value.what) == (True, True)
    run_all(target, "DROP EVENT TRIGGER refuse")
    assert restored(make_context, target).changed is True
    assert dump(server, target) == dump(server, old.dsn("prod"))
    assert restored(make_context, target).changed is False


def test_an_older_server_is_no_target(
    old: EmbeddedServer, make_context: MakeContext, new_database: Callable[[str], str]
) -> None:
    back_up(make_context, new_database("CREATE TABLE archon_tasks (id int)"))
    with pytest.raises(AlignError) as raised:
        restored(make_context, old.dsn("older"))
    assert (raised.value.code, "PostgreSQL 18" in raised.value.expected) == ("target_too_old", True)


def test_what_leans_on_what_the_target_lacks_is_left_out_and_told(
    server: EmbeddedServer, make_context: MakeContext, new_database: Callable[[str], str]
) -> None:
    prod = new_database()
    admin = f"{prod} user=postgres"
    run_all(admin, _LEANS)
    back_up(make_context, admin)
    target = f"{new_database()} user=postgres"
    outcome = restored(make_context, target)
    (left,) = [finding for finding in outcome.findings if finding.code == "left_out_of_restore"]
    assert left.object == "owned_owner_fkey on public.owned"
    assert dump(server, target).count("owned_owner_fkey") == 0
    run_all(target, "DROP TABLE owned; CREATE TABLE auth.users (id int PRIMARY KEY); INSERT INTO auth.users VALUES (1)")
    assert [finding.code for finding in restored(make_context, target).findings] == ["restored"]
    assert dump(server, target) == dump(server, admin)


def test_the_proof_can_be_made_on_a_server_that_is_named(
    outer: EmbeddedServer, prod: str, make_context: MakeContext
) -> None:
    dead = "archon_align_scratch_20250101_000000_aaaaaa_00000000"
    run_all(outer.dsn(), f"CREATE DATABASE {dead}_backup")
    run_all(outer.dsn(), f"CREATE ROLE dead; COMMENT ON ROLE dead IS '{dead}'")
    with psycopg.connect(outer.dsn(), autocommit=True) as admin:
        looks = (
            "SELECT array_agg(datname::text ORDER BY datname) FROM pg_database",
            "SELECT array_agg(rolname::text ORDER BY rolname) FROM pg_roles WHERE rolname !~ '^pg_'",
        )
        outcome = back_up(make_context, prod, scratch_dsn=outer.dsn())
        assert outcome.details["backup"]["verified"] is True
        databases, roles = (admin.execute(look).fetchone() for look in looks)
        assert (databases, roles) == ((["postgres", "template0", "template1"],), (["anon", "postgres"],))


def test_a_failed_proof_leaves_nothing_on_the_named_server(
    outer: EmbeddedServer, prod: str, make_context: MakeContext, fake_pg_dump: Callable[[str], str]
) -> None:
    # The protected table's rows are lost on the way.
    tool = fake_pg_dump('exec "$REAL" "$@" --exclude-table-data=public.archon_tasks')
    with pytest.raises(AlignError) as raised:
        back_up(make_context, prod, scratch_dsn=outer.dsn(), pg_dump=tool)
    assert raised.value.code == "backup_not_proved"
    with psycopg.connect(outer.dsn(), autocommit=True) as admin:
        assert admin.execute("SELECT count(*) FROM pg_database").fetchone() == (3,)
        assert admin.execute("SELECT count(*) FROM pg_roles WHERE rolname = 'archon_owner'").fetchone() == (0,)


@pytest.mark.parametrize("which", ["PROD's", "DEV's", "old", "no superuser", "down"])
def test_a_server_that_is_no_scratch_server_is_refused_before_anything_is_dumped(
    which: str, outer: EmbeddedServer, old: EmbeddedServer, server: EmbeddedServer, prod: str, make_context: MakeContext
) -> None:
    if which == "no superuser":
        run_all(outer.dsn(), "CREATE ROLE mere LOGIN")
    dsn, dev, code = {
        "PROD's": (server.dsn(), "", "bad_scratch_server"),
        "DEV's": (outer.dsn(), outer.dsn(), "bad_scratch_server"),
        "old": (old.dsn(), "", "bad_scratch_server"),
        "no superuser": (f"{outer.dsn()} user=mere", "", "bad_scratch_server"),
        "down": ("host=127.0.0.1 port=1", "", "unreachable"),
    }[which]
    for check in (True, False):
        context = make_context(prod, dev, phase="backup", check=check)
        with pytest.raises(AlignError) as raised:
            phase.run(context, phase.Options(scratch_dsn=dsn))
        assert raised.value.code == code
        assert not (context.run.artifacts / "backup").exists()
    if which == "no superuser":
        run_all(outer.dsn(), "DROP ROLE mere")


def test_a_bad_recipient_is_refused_before_anything_is_read(make_context: MakeContext) -> None:
    context = make_context("host=/nowhere", phase="backup")
    with pytest.raises(AlignError) as raised:
        phase.run(context, phase.Options(recipients=("age1nonsense",)))
    assert raised.value.code == "bad_recipient"


def test_backups_that_need_not_be_kept_go_after_the_next_is_verified(
    new_database: Callable[[str], str], make_context: MakeContext
) -> None:
    prod = new_database("CREATE TABLE archon_tasks (id int)")
    back_up(make_context, prod)
    newest = make_context(prod).run.artifacts
    root = newest.parent / "all"
    for day in (1, 2, 3):
        run_id = f"2025010{day}-000000-abcdef"
        copy = shutil.copytree(newest, root / run_id)
        manifest = copy / "backup" / "manifest.json"
        manifest.write_text(manifest.read_text().replace(RUN_ID, run_id))
    found = {}
    for suffix in ("-check", ""):
        run = Run(RUN_ID + suffix, root / (RUN_ID + suffix))
        context = Context(run=run, prod=Target("PROD", prod), dev=Target("DEV", ""), phase="backup")
        outcome = phase.run(context, phase.Options(keep=phase.Keep(last=3)))
        found[suffix] = [
            (finding.code, finding.object) for finding in outcome.findings if finding.code.startswith("backup_")
        ]
        assert len(list(root.glob("*/backup"))) == 3
    gone = str(root / "20250101-000000-abcdef" / "backup")
    assert ("backup_would_be_removed", gone) in found["-check"]
    assert found[""] == [("backup_removed", gone)]


def test_a_role_that_may_make_roles_makes_those_that_own_nothing(
    outer: EmbeddedServer, prod: str, server: EmbeddedServer, make_context: MakeContext
) -> None:
    back_up(make_context, prod)
    run_all(
        outer.dsn(),
        "CREATE ROLE maker LOGIN CREATEROLE",
        "CREATE DATABASE made OWNER maker",
    )
    run_all(outer.dsn("made"), "CREATE EXTENSION vector")
    target = f"{outer.dsn('made')} user=maker"
    with pytest.raises(AlignError) as raised:
        restored(make_context, target)
    assert "role archon_owner, which owns objects" in raised.value.found
    run_all(outer.dsn(), "CREATE ROLE archon_owner", "GRANT archon_owner TO maker")
    with pytest.raises(AlignError) as raised:
        restored(make_context, target)
    assert "CREATE on schema public for role archon_owner" in raised.value.found
    run_all(outer.dsn("made"), "ALTER SCHEMA public OWNER TO archon_owner")
    try:
        outcome = restored(make_context, target)
        made = [statement.sql for statement in outcome.statements]
        assert [one for one in made if "ROLE" in one] == [
            'CREATE ROLE "authenticated" NOLOGIN',
            'CREATE ROLE "service_role" NOLOGIN',
        ]
        assert dump(server, outer.dsn("made")) == dump(server, f"{prod} user=postgres")
    finally:
        run_all(
            outer.dsn(), "DROP DATABASE made WITH (FORCE)", "DROP ROLE authenticated, service_role, archon_owner, maker"
        )


def test_a_role_to_whom_rows_would_be_hidden_is_told_before(
    new_database: Callable[[str], str], make_context: MakeContext
) -> None:
    prod = new_database(
        "CREATE TABLE shut (id int); ALTER TABLE shut ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY"
    )
    back_up(make_context, f"{prod} user=postgres")
    target = new_database()
    with pytest.raises(AlignError) as raised:
        restored(make_context, target)
    assert raised.value.code == "target_lacks"
    assert "public.shut has FORCE ROW LEVEL SECURITY" in raised.value.found
    assert restored(make_context, f"{target} user=postgres").changed is True
