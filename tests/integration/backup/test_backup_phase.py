"""Backups of a real database, proved by restoring them."""

from __future__ import annotations

import json
import stat
import subprocess
import threading
import time
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

import psycopg
import pytest
from archon_align.backup import phase
from archon_align.backup.manifest import verify_manifest
from archon_align.context import Context
from archon_align.embedded.server import EmbeddedServer
from archon_align.errors import AlignError

MakeContext = Callable[..., Context]
FakeDump = Callable[[str], str]


def files(context: Context) -> set[str]:
    folder = context.run.artifacts / "backup"
    return {path.name for path in folder.iterdir()} if folder.exists() else set()


def private(folder: Path) -> None:
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    for path in folder.rglob("*"):
        assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600), path


def test_everything_survives(prod: str, make_context: MakeContext) -> None:
    context = make_context(prod, phase="backup")
    outcome = phase.run(context, phase.Options())
    assert (outcome.status, outcome.changed) == ("aligned", False)
    backup = outcome.details["backup"]
    assert backup["verified"] is True
    assert backup["rows"] == 6 + 120 + 93 + 60 + 2 + 2 + 2
    folder = context.run.artifacts / "backup"
    private(folder)
    assert {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()} == {
        "public.dump",
        "manifest.json",
        "restore.list",
        "preamble.sql",
        "objects.json",
        "surroundings.json",
        "critical.sql",
        "critical/archon_projects.jsonl",
        "critical/archon_tasks.jsonl",
    }
    manifest = verify_manifest(folder)
    assert manifest["dump"] == {"path": "public.dump", "format": "custom", "jobs": 1}
    assert manifest["files"]["public.dump"]["bytes"] == backup["bytes"]
    assert backup["manifest_sha256"] == sha256((folder / "manifest.json").read_bytes()).hexdigest()
    assert {table["name"]: table["rows"] for table in manifest["tables"]} == {
        "archon_projects": 6,
        "archon_tasks": 120,
        "archon_crawled_pages": 93,
        "parts": 60,
        "scratch_pad": 2,
        "nothing_in_it": 0,
        "without_columns": 2,
        'Odd "name" 100%; ü 🐘': 2,
    }
    assert manifest["objects"]["policy"] == 2
    before = json.loads((context.run.artifacts / "snapshot-before.json").read_text())
    assert before["protected"]["public.archon_tasks"]["columns"][0] == "id"
    assert before["tables"]["public.parts"] == 60
    assert outcome.details["protected_before"]["public.archon_projects"]["rows"] == 6
    (point,) = outcome.details["restore_points"]
    assert (context.run.artifacts / point["path"]).exists()


def test_postgresql_16_is_backed_up_too(tmp_path: Path, make_context: MakeContext) -> None:
    world = (Path(__file__).parent / "world.sql").read_text()
    with EmbeddedServer(tmp_path / "old", version=16) as old:
        with psycopg.connect(old.dsn(), autocommit=True) as admin:
            admin.execute("CREATE ROLE anon; CREATE ROLE authenticated; CREATE ROLE service_role; CREATE ROLE keeper")
            admin.execute("CREATE SCHEMA auth; CREATE SCHEMA extensions; CREATE EXTENSION vector SCHEMA extensions")
            admin.execute("CREATE FUNCTION auth.role() RETURNS text LANGUAGE sql STABLE AS 'SELECT current_user::text'")
            admin.execute("SET search_path = public, extensions")
            admin.execute(world.replace("OPERATOR(public.<=>)", "OPERATOR(extensions.<=>)").encode())
        context = make_context(old.dsn(), phase="backup")
        outcome = phase.run(context, phase.Options())
        assert outcome.details["backup"]["critical"]["verified"] is True
        # There is no transaction_timeout before PostgreSQL 17.
        with psycopg.connect(old.dsn(), autocommit=True) as admin:
            admin.execute("CREATE DATABASE alone")
        script = context.run.artifacts / "backup" / "critical.sql"
        ended = subprocess.run(
            [old.bin / "psql", "-Xq", "-f", script, old.dsn("alone")], capture_output=True, text=True, check=False
        )
        assert (ended.returncode, ended.stderr) == (0, "")


def test_another_encoding(server: EmbeddedServer, make_context: MakeContext) -> None:
    with psycopg.connect(server.dsn(), autocommit=True) as admin:
        admin.execute("CREATE DATABASE latin ENCODING 'LATIN1' LOCALE 'C' TEMPLATE template0")
        try:
            with psycopg.connect(server.dsn("latin"), autocommit=True) as latin:
                latin.execute("CREATE TABLE archon_projects (title text); INSERT INTO archon_projects VALUES ('Übung')")
            outcome = phase.run(make_context(server.dsn("latin"), phase="backup"), phase.Options())
        finally:
            admin.execute("DROP DATABASE latin WITH (FORCE)")
    assert outcome.details["backup"]["verified"] is True


@pytest.mark.parametrize(
    ("option", "found"),
    [
        ("--exclude-table-data=archon_tasks", "public.archon_tasks"),
        ("--exclude-table=nothing_in_it", "public.nothing_in_it"),
        ("--no-policies", "policy service on public.archon_projects: missing"),
        ("--no-comments", "comment on index public.tasks_by_word: missing"),
        ("--no-privileges", "grant on relation"),
    ],
)
def test_a_dump_that_lacks_something_is_not_proved(
    prod: str, make_context: MakeContext, fake_pg_dump: FakeDump, option: str, found: str
) -> None:
    context = make_context(prod, phase="backup")
    with pytest.raises(AlignError) as raised:
        phase.run(context, phase.Options(pg_dump=fake_pg_dump(f'exec "$REAL" {option} "$@"')))
    assert raised.value.code == "backup_not_proved"
    assert found in str(raised.value)
    with pytest.raises(AlignError, match="cannot be relied on"):
        verify_manifest(context.run.artifacts / "backup")


def test_the_dump_holds_the_snapshot_of_the_fingerprints(
    prod: str, make_context: MakeContext, fake_pg_dump: FakeDump
) -> None:
    """A row that is committed just before pg_dump connects is in neither."""
    insert = f"\"$BIN/psql\" -qd '{prod}' -c \"INSERT INTO public.archon_tasks (title) VALUES ('late')\""
    context = make_context(prod, phase="backup")
    outcome = phase.run(context, phase.Options(pg_dump=fake_pg_dump(f'{insert} || exit 9; exec "$REAL" "$@"')))
    assert outcome.details["protected_before"]["public.archon_tasks"]["rows"] == 120
    with psycopg.connect(prod) as owner:
        assert owner.execute("SELECT count(*) FROM archon_tasks").fetchone() == (121,)


def test_a_damaged_archive(prod: str, make_context: MakeContext, fake_pg_dump: FakeDump) -> None:
    shorten = (
        'for a in "$@"; do case "$a" in --file=*) f="${a#--file=}";; esac; done; "$REAL" "$@" && truncate -s -2000 "$f"'
    )
    with pytest.raises(AlignError) as raised:
        phase.run(make_context(prod, phase="backup"), phase.Options(pg_dump=fake_pg_dump(shorten)))
    assert raised.value.code == "backup_not_proved"


def test_a_hanging_pg_dump_is_killed(prod: str, make_context: MakeContext, fake_pg_dump: FakeDump) -> None:
    context = make_context(prod, phase="backup")
    started = time.monotonic()
    with pytest.raises(AlignError) as raised:
        phase.run(context, phase.Options(pg_dump=fake_pg_dump("exec sleep 60"), timeout=1.0))
    assert raised.value.code == "backup_timeout"
    assert time.monotonic() - started < 50
    assert files(context) == set()


def test_no_space_left(prod: str, make_context: MakeContext, fake_pg_dump: FakeDump) -> None:
    context = make_context(prod, phase="backup")
    full = '"$REAL" "$@"; echo "pg_dump: error: could not write to file: No space left on device" >&2; exit 1'
    with pytest.raises(AlignError) as raised:
        phase.run(context, phase.Options(pg_dump=fake_pg_dump(full)))
    assert raised.value.code == "disk_full"
    assert files(context) == set()


def test_an_older_pg_dump_is_refused(prod: str, make_context: MakeContext, fake_pg_dump: FakeDump) -> None:
    path = Path(fake_pg_dump(""))
    path.write_text('#!/bin/sh\necho "pg_dump (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)"\n')
    with pytest.raises(AlignError) as raised:
        phase.run(make_context(prod, phase="backup"), phase.Options(pg_dump=str(path)))
    assert raised.value.code == "pg_dump_too_old"
    assert "15.18" in raised.value.found
    assert "18.4" in raised.value.expected


def test_a_pg_dump_that_is_none(prod: str, make_context: MakeContext, tmp_path: Path) -> None:
    for path in ("/bin/true", str(tmp_path / "missing"), str(tmp_path)):
        with pytest.raises(AlignError) as raised:
            phase.run(make_context(prod, phase="backup"), phase.Options(pg_dump=path))
        assert raised.value.code == "pg_dump_unusable"


def test_check_mode_dumps_nothing(prod: str, make_context: MakeContext, fake_pg_dump: FakeDump) -> None:
    context = make_context(prod, phase="backup", check=True)
    outcome = phase.run(context, phase.Options(pg_dump=fake_pg_dump("exit 9")))
    assert (outcome.status, outcome.changed) == ("aligned", False)
    assert files(context) == set()
    assert outcome.details["backup"] == {
        "planned": True,
        "format": "custom",
        "predicted": None,
        "estimated_bytes": outcome.details["backup"]["estimated_bytes"],
        "tables": 8,
        "rows": 285,
        "verified": False,
    }
    before = json.loads((context.run.artifacts / "snapshot-before.json").read_text())
    assert before["tables"]["public.archon_crawled_pages"] == 93
    assert outcome.findings[0].code == "backup_planned"


def test_a_short_lock_costs_a_try(prod: str, make_context: MakeContext) -> None:
    with psycopg.connect(prod) as user:
        user.execute("LOCK TABLE archon_tasks IN ACCESS EXCLUSIVE MODE")
        release = threading.Timer(1.2, user.rollback)
        release.start()
        outcome = phase.run(make_context(prod, phase="backup"), phase.Options())
        release.join()
    assert outcome.details["backup"]["verified"] is True


def test_a_lasting_lock_is_an_error(prod: str, make_context: MakeContext) -> None:
    context = make_context(prod, phase="backup", lock_attempts=2, lock_timeout=0.1)
    with psycopg.connect(prod) as user:
        user.execute("LOCK TABLE archon_tasks IN ACCESS EXCLUSIVE MODE")
        with pytest.raises(AlignError) as raised:
            phase.run(context, phase.Options())
    assert raised.value.code == "lock_timeout"


def test_hidden_rows_are_refused(prod: str, make_context: MakeContext) -> None:
    with psycopg.connect(prod, autocommit=True) as owner:
        owner.execute("ALTER TABLE archon_projects FORCE ROW LEVEL SECURITY")
    with pytest.raises(AlignError) as raised:
        phase.run(make_context(prod, phase="backup"), phase.Options())
    assert raised.value.code == "rows_hidden"
    assert "public.archon_projects" in raised.value.object_name


def test_an_unreadable_table_is_named(prod: str, server: EmbeddedServer, make_context: MakeContext) -> None:
    with psycopg.connect(server.dsn(prod.split("dbname=")[1].split()[0]), autocommit=True) as admin:
        admin.execute("CREATE TABLE public.somebody_elses (a int)")
    with pytest.raises(AlignError) as raised:
        phase.run(make_context(prod, phase="backup"), phase.Options())
    assert raised.value.code == "missing_privilege"
    assert "public.somebody_elses" in raised.value.object_name


def test_a_missing_schema_is_named(prod: str, make_context: MakeContext) -> None:
    with pytest.raises(AlignError, match="does not exist") as raised:
        phase.run(make_context(prod, phase="backup", schemas=("public", "pubic")), phase.Options())
    assert raised.value.object_name == "PROD: pubic"


def test_a_full_disk_is_refused_beforehand(prod: str, make_context: MakeContext) -> None:
    context = make_context(prod, phase="backup")
    with pytest.raises(AlignError) as raised:
        phase.run(context, phase.Options(min_free_mb=2**40))
    assert raised.value.code == "disk_full"
    assert "1099511627776 MiB to spare" in raised.value.expected
    assert raised.value.found.endswith("MiB free")
    assert files(context) == set()


def test_an_unwritable_folder(prod: str, make_context: MakeContext) -> None:
    context = make_context(prod, phase="backup")
    context.run.artifacts.parent.mkdir(exist_ok=True)
    context.run.artifacts.write_text("a file in the way")
    with pytest.raises(AlignError) as raised:
        phase.run(context, phase.Options())
    assert raised.value.code == "artifacts_not_writable"
