"""The lab as a person and as other tests use it: up, reset, status, down, and what survives mistreatment."""

from __future__ import annotations

import json
import os
import signal
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import psutil
import psycopg
import pytest
from archon_align.database.target import Target
from archon_align.errors import AlignError

from lab.__main__ import main
from lab.databases import ADMIN
from lab.state import StateFolder
from lab.world import Lab

REPOSITORY = Path(__file__).parents[3]
COUNTS = {
    "archon_sources": 8,
    "archon_crawled_pages": 93,
    "archon_projects": 7,
    "archon_tasks": 120,
    "archon_document_versions": 40,
    "archon_project_sources": 20,
}


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Lab, Path]]:
    folder = tmp_path_factory.mktemp("a lab") / "of %41 its own"
    lab = Lab(folder, archon=False)
    try:
        lab.up()
        yield lab, folder
    finally:
        lab.remove()


@pytest.fixture
def lab(running: tuple[Lab, Path]) -> Lab:
    running[0].up()
    return running[0]


@pytest.fixture
def folder(running: tuple[Lab, Path]) -> Path:
    return running[1]


def ask(lab: Lab, world: str, query: str) -> list[tuple[object, ...]]:
    with psycopg.connect(lab.dsn(world)) as connection:
        return connection.execute(query.encode()).fetchall()


def processes(folder: Path) -> list[psutil.Process]:
    """Everything that runs for the lab in this folder, found by its command line."""
    data = {str(world._server.data) for world in Lab(folder)._worlds.values()}
    return [
        process
        for process in psutil.process_iter(["cmdline"])
        if any(part in data or part == str(folder) for part in process.info["cmdline"] or [])
    ]


def test_prod_starts_as_the_plan_describes_it(lab: Lab) -> None:
    for table, count in COUNTS.items():
        assert ask(lab, "prod", f"SELECT count(*) FROM {table}") == [(count,)], table
    for table in ("archon_crawled_pages", "archon_code_examples"):
        assert ask(lab, "prod", f"SELECT count(embedding) FROM {table}") == [(0,)]
        shape = "SELECT format_type(atttypid, atttypmod) FROM pg_attribute WHERE attname = 'embedding' AND attrelid = "
        assert ask(lab, "prod", f"{shape} '{table}'::regclass") == [("vector(1536)",)]
        assert ask(
            lab, "prod", f"SELECT count(*) FROM pg_indexes WHERE tablename = '{table}' AND indexdef LIKE '%ivfflat%lists=''100''%'"
        ) == [(1,)]  # fmt: skip
    assert ask(lab, "prod", "SELECT count(*) >= 12 FROM archon_code_examples") == [(True,)]
    tables = {row[0] for row in ask(lab, "prod", "SELECT tablename FROM pg_tables WHERE schemaname = 'public'")}
    missing = {
        "archon_components",
        "archon_component_dependencies",
        "archon_template_definitions",
        "archon_credentials",
    }
    assert not tables & missing
    columns = "SELECT column_name FROM information_schema.columns WHERE table_name = 'archon_tasks'"
    assert not {("component_id",), ("template_metadata",)} & set(ask(lab, "prod", columns))
    settings = dict(ask(lab, "prod", "SELECT key, value FROM archon_settings WHERE category = 'rag_strategy'"))
    assert (settings["LLM_PROVIDER"], settings["EMBEDDING_MODEL"]) == ("openai", "text-embedding-3-small")
    assert "EMBEDDING_DIMENSIONS" not in settings
    assert ask(lab, "prod", "SELECT count(DISTINCT status), count(DISTINCT archived) FROM archon_tasks") == [(4, 2)]
    assert ask(lab, "prod", "SELECT max(length(sources::text)) > 50000 FROM archon_tasks") == [(True,)]
    grandchildren = "SELECT count(*) > 0 FROM archon_tasks c JOIN archon_tasks p ON p.id = c.parent_task_id JOIN archon_tasks g ON g.id = p.parent_task_id"
    assert ask(lab, "prod", grandchildren) == [(True,)]


def test_dev_is_modern_and_its_search_works(lab: Lab) -> None:
    assert ask(lab, "dev", "SELECT count(*), count(embedding) FROM archon_crawled_pages") == [(4, 4)]
    settings = dict(ask(lab, "dev", "SELECT key, value FROM archon_settings WHERE category = 'rag_strategy'"))
    assert settings["EMBEDDING_BASE_URL"] == settings["LLM_BASE_URL"] == lab.embedding_base_url
    assert (settings["EMBEDDING_MODEL"], settings["EMBEDDING_DIMENSIONS"]) == ("nomic-embed-text", "768")
    body = {"model": "nomic-embed-text", "input": "which values count as false in a condition"}
    vector = httpx.post(f"{lab.embedding_base_url}/embeddings", json=body, timeout=600).json()["data"][0]["embedding"]
    best = ask(lab, "dev", f"SELECT content, similarity FROM match_archon_crawled_pages('{vector}', 1)")
    assert str(best[0][0]).startswith("Truth Value Testing")
    assert ask(lab, "dev", "SELECT to_regclass('archon_credentials')") == [(None,)]
    definitions = "SELECT count(*), count(parent_template_id) FROM archon_template_definitions WHERE is_active"
    assert ask(lab, "dev", definitions) == [(5, 3)]


def test_every_placeholder_of_devs_templates_has_its_component(lab: Lab) -> None:
    unresolved = """
        SELECT t.name, p.name[1] FROM archon_template_definitions AS t,
            regexp_matches(t.template_data ->> 'template_content', '\\{\\{([^}]*)\\}\\}', 'g') AS p (name)
        WHERE p.name[1] <> 'USER_TASK'
            AND NOT EXISTS (SELECT FROM archon_template_components AS c WHERE c.name = p.name[1] AND c.is_active)"""
    assert ask(lab, "dev", unresolved) == []
    default = "SELECT regexp_count(template_data ->> 'template_content', '\\{\\{') FROM archon_template_definitions WHERE name = 'workflow_default'"
    assert ask(lab, "dev", default) == [(11,)]


def test_devs_dependency_trigger_refuses_everything_as_archons_does(lab: Lab) -> None:
    with pytest.raises(psycopg.errors.SyntaxError, match="no destination for result data"):
        ask(lab, "dev", "INSERT INTO archon_component_dependencies DEFAULT VALUES RETURNING id")


@pytest.mark.parametrize("world", ["dev", "prod"])
def test_the_owner_is_no_superuser_and_anon_sees_no_settings(lab: Lab, world: str) -> None:
    owner = "SELECT current_user, rolsuper, rolcreaterole FROM pg_roles WHERE rolname = current_user"
    assert ask(lab, world, owner) == [("archon", False, False)]
    assert ask(lab, world, "SELECT count(*) > 0 FROM archon_settings WHERE is_encrypted") == [(True,)]
    with psycopg.connect(lab.dsn(world)) as connection:
        connection.execute("SET ROLE anon")
        assert connection.execute("SELECT count(*) FROM archon_settings").fetchone() == (0,)
        assert connection.execute("SELECT count(*) > 0 FROM archon_crawled_pages").fetchone() == (True,)
        connection.execute("SELECT set_config('request.jwt.claim.role', 'service_role', false)")
        assert connection.execute("SELECT count(*) > 0 FROM archon_settings").fetchone() == (True,)


def dump(lab: Lab, world: str) -> bytes:
    server = lab._worlds[world]._server
    return subprocess.run(
        [str(server.bin / "pg_dump"), "--restrict-key=lab", lab.dsn(world)], check=True, capture_output=True, timeout=60
    ).stdout


def test_reset_brings_back_the_very_same_state_whatever_was_done(lab: Lab) -> None:
    before = {world: dump(lab, world) for world in ("dev", "prod")}
    ask(lab, "prod", "UPDATE archon_tasks SET title = 'changed' RETURNING 1")
    ask(lab, "prod", "WITH gone AS (DELETE FROM archon_crawled_pages RETURNING 1) SELECT count(*) FROM gone")
    with psycopg.connect(lab.dsn("dev"), autocommit=True) as user:
        user.execute("DROP TABLE archon_template_definitions CASCADE")
        with psycopg.connect(lab.dsn("prod")) as reader:
            reader.execute("SELECT count(*) FROM archon_tasks")
            lab.reset()
            with pytest.raises(psycopg.OperationalError):
                reader.execute("SELECT 1")
    assert {world: dump(lab, world) for world in ("dev", "prod")} == before


def test_up_leaves_what_runs_and_what_was_changed_as_it_is(lab: Lab, folder: Path) -> None:
    ask(lab, "prod", "UPDATE archon_projects SET description = 'kept' RETURNING 1")
    before = (folder / "state.json").read_text(), {process.pid for process in processes(folder)}
    lab.up()
    assert ((folder / "state.json").read_text(), {process.pid for process in processes(folder)}) == before
    assert ask(lab, "prod", "SELECT DISTINCT description FROM archon_projects") == [("kept",)]
    lab.reset()


def test_the_state_file_serves_the_inventory_and_holds_no_password(lab: Lab, folder: Path) -> None:
    state = json.loads((folder / "state.json").read_text())
    password = StateFolder(folder).password()
    assert len(password) >= 20
    assert password not in (folder / "state.json").read_text()
    for path in (folder / "state.json", folder / "passfile"):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert set(state) == {"dev", "prod", "embedding", "variant", "archon"}
    assert state["variant"] == "standard"
    for world in ("dev", "prod"):
        assert state[world]["dsn"] == lab.dsn(world)
        assert state[world]["admin_dsn"] == lab.dsn(world, ADMIN)
        assert state[world]["host"] == "127.0.0.1"
        for name, role in (("dsn", "archon"), ("admin_dsn", "archon_admin")):
            with psycopg.connect(state[world][name]) as connection:
                assert (connection.info.port, connection.info.user) == (state[world]["port"], role)
        assert Target(world.upper(), state[world]["dsn"])
    assert httpx.get(state["embedding"]["base_url"] + "/models").status_code == 200
    with pytest.raises(psycopg.OperationalError, match="password"):
        psycopg.connect(lab.dsn("prod").partition("?")[0], passfile="/nonexistent")
    psql = [str(lab._worlds["prod"]._server.bin / "psql"), lab.dsn("prod"), "-Atc", "SELECT count(*) FROM archon_tasks"]
    assert subprocess.run(psql, capture_output=True, text=True, check=True).stdout == "120\n"


def kill_server(lab: Lab, folder: Path) -> None:
    os.kill(int(lab._worlds["prod"]._server.pid() or 0), signal.SIGKILL)


def kill_service(lab: Lab, folder: Path) -> None:
    os.kill(json.loads((folder / "state.json").read_text())["embedding"]["pid"], signal.SIGKILL)


def reuse_pids(lab: Lab, folder: Path) -> None:
    """As after a reboot: nothing runs, and the recorded pids belong to somebody else."""
    state = (folder / "state.json").read_text()
    lab.down()
    content = json.loads(state)
    content["embedding"]["pid"] = os.getpid()
    (folder / "state.json").write_text(json.dumps(content))
    data = lab._worlds["dev"]._server.data
    (data / "postmaster.pid").write_text(f"{os.getpid()}\n{data}\n1\n5432\n\n127.0.0.1\n\nready\n")


def lose_state(lab: Lab, folder: Path) -> None:
    (folder / "state.json").unlink()


def lose_password(lab: Lab, folder: Path) -> None:
    (folder / "passfile").unlink()


def damage_state(lab: Lab, folder: Path) -> None:
    (folder / "state.json").write_text('{"dev": 5}')


def drop_database(lab: Lab, folder: Path) -> None:
    port = lab._worlds["prod"].port
    assert port is not None
    with psycopg.connect(lab._worlds["prod"].superuser_dsn(port), autocommit=True) as admin:
        admin.execute("DROP DATABASE archon WITH (FORCE)")
        admin.execute("CREATE DATABASE archon_building")


def damage_files(lab: Lab, folder: Path) -> None:
    lab.down()
    (lab._worlds["dev"]._server.data / "global" / "pg_control").write_bytes(b"nonsense")


def lose_socket(lab: Lab, folder: Path) -> None:
    for path in lab._worlds["dev"]._server.socket_folder.iterdir():
        path.unlink()


@pytest.mark.parametrize(
    "mistreat",
    [kill_server, kill_service, reuse_pids, lose_state, lose_password, damage_state, drop_database, damage_files, lose_socket],
)  # fmt: skip
def test_up_recovers(lab: Lab, folder: Path, mistreat: Callable[[Lab, Path], None]) -> None:
    mistreat(lab, folder)
    lab.up()
    assert ask(lab, "prod", "SELECT count(*) FROM archon_tasks") == [(120,)]
    assert ask(lab, "dev", "SELECT count(*) FROM archon_tasks") == [(9,)]
    assert lab.status().embedding_base_url == lab.embedding_base_url
    names = [process.info["cmdline"] for process in processes(folder)]
    assert sum("-m" in name for name in names) == 1, names


def test_down_leaves_nothing_running_and_up_uses_the_same_ports(lab: Lab, folder: Path) -> None:
    ask(lab, "prod", "UPDATE archon_projects SET description = 'survives' RETURNING 1")
    before = lab.dsn("dev"), lab.dsn("prod"), lab.embedding_base_url
    lab.down()
    assert processes(folder) == []
    assert not (folder / "state.json").exists()
    assert [world.condition for world in lab.status().worlds] == ["not running", "not running"]
    for refused in (lambda: lab.dsn("dev"), lambda: lab.embedding_base_url):
        with pytest.raises(AlignError, match="not running"):
            refused()
    lab.down()
    lab.up()
    assert (lab.dsn("dev"), lab.dsn("prod"), lab.embedding_base_url) == before
    assert ask(lab, "prod", "SELECT DISTINCT description FROM archon_projects") == [("survives",)]


def test_two_at_once_make_one_lab(lab: Lab, folder: Path) -> None:
    lab.down()

    def up(_: int) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "lab", "up", "--folder", str(folder)]
        return subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=600, check=False)

    with ThreadPoolExecutor(2) as pool:
        ends = list(pool.map(up, range(2)))
    assert [end.returncode for end in ends] == [0, 0], ends
    assert ends[0].stdout == ends[1].stdout
    assert sum("-m" in process.info["cmdline"] for process in processes(folder)) == 1


def test_the_commands_tell_what_runs(lab: Lab, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lab.reset()
    assert main(["status", "--folder", str(folder)]) == 0
    shown = capsys.readouterr().out
    assert lab.dsn("dev") in shown
    assert lab.dsn("prod") in shown
    assert "PROD      broken: search finds nothing; 0 of 93 pages embedded as vector(1536), 8 sources" in shown
    assert "DEV       working; 4 of 4 pages embedded as vector(768), 2 sources" in shown
    assert lab.embedding_base_url in shown
    assert StateFolder(folder).password() not in shown


def test_status_survives_a_database_without_archon(lab: Lab) -> None:
    ask(lab, "prod", "UPDATE archon_tasks SET title = title RETURNING 1")
    with psycopg.connect(lab.dsn("prod"), autocommit=True) as owner:
        owner.execute("DROP TABLE archon_crawled_pages CASCADE")
    assert lab.status().worlds[1].condition.startswith('unusable: relation "archon_crawled_pages" does not exist')
    lab.reset()


@pytest.fixture
def restored(lab: Lab) -> Iterator[Lab]:
    yield lab
    lab.reset()


def test_a_variant_is_remembered_until_the_next_reset(
    restored: Lab, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lab = restored
    assert main(["reset", "--variant", "two-shapes", "--folder", str(folder)]) == 0
    rows = "SELECT count(source_url) FROM archon_project_sources"
    for change in (lambda: None, lab.down, lambda: drop_database(lab, folder), lambda: lose_state(lab, folder)):
        change()
        lab.up()
        assert lab.status().variant == "two-shapes"
        assert ask(lab, "prod", rows) == [(34,)]
    capsys.readouterr()
    assert main(["status", "--folder", str(folder)]) == 0
    assert "VARIANT   two-shapes: " in capsys.readouterr().out
    assert main(["reset", "--folder", str(folder)]) == 0
    assert "VARIANT   standard: " in capsys.readouterr().out
    assert ask(lab, "prod", "SELECT count(source_id) FROM archon_project_sources") == [(20,)]


def test_two_shapes_have_rows_that_only_the_other_shape_allows_or_demands(restored: Lab) -> None:
    lab = restored
    lab.reset("two-shapes")
    for table, count in {
        "archon_project_sources": 34,
        "archon_document_versions": 40,
        "archon_prompts": 12,
        "archon_workflow_templates": 12,
        "archon_workflow_executions": 12,
        "archon_workflow_step_executions": 30,
        "archon_workflow_template_versions": 24,
    }.items():
        assert ask(lab, "prod", f"SELECT count(*) FROM {table}") == [(count,)], table
    for trap in (
        "archon_project_sources WHERE metadata = '{}' AND source_url LIKE '%100\\%25'",
        "archon_document_versions WHERE project_id IS NOT NULL AND task_id IS NOT NULL",
        "archon_document_versions WHERE change_type = 'automatic' AND document_id IS NOT NULL",
        "archon_prompts WHERE prompt_content LIKE '%100 \\%%'",
        "archon_workflow_executions WHERE progress_percentage > 0 AND triggered_by = 'system'",
        "archon_workflow_step_executions WHERE length(step_name) > 255",
        "archon_workflow_step_executions WHERE status = 'cancelled' AND retry_count > 0 AND duration_ms IS NULL",
        "archon_workflow_template_versions WHERE change_type = 'automatic'",
    ):
        assert ask(lab, "prod", f"SELECT count(*) > 0 FROM {trap}") == [(True,)], trap
    assert ask(lab, "dev", "SELECT count(source_id) FROM archon_project_sources") == [(2,)]


def test_forced_row_level_security_stops_the_owner_but_not_the_admin(restored: Lab) -> None:
    lab = restored
    lab.reset("force-rls")
    pg_dump = str(lab._worlds["prod"]._server.bin / "pg_dump")
    for role, allowed in (("archon", False), (ADMIN, True)):
        with psycopg.connect(lab.dsn("prod", role), options="-c row_security=off") as connection:
            try:
                assert connection.execute("SELECT count(*) FROM archon_tasks").fetchone() == (120,)
            except psycopg.errors.InsufficientPrivilege:
                assert not allowed
            else:
                assert allowed
        dumped = subprocess.run([pg_dump, lab.dsn("prod", role)], capture_output=True, timeout=600, check=False)
        assert (dumped.returncode == 0) is allowed
    query = "SELECT rolsuper, rolbypassrls, pg_has_role(oid, 'archon', 'USAGE') FROM pg_roles WHERE rolname = 'archon_admin'"
    assert ask(lab, "prod", query) == [(False, True, True)]
    assert lab.status().worlds[1].condition.startswith("broken: search finds nothing; 0 of 93 pages")


def test_foreseeable_failures_are_told_without_a_traceback(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "file"
    file.touch()
    assert main(["up", "--folder", str(file)]) == 1
    assert main(["up", "--folder", str(file / "below")]) == 1
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    monkeypatch.setattr(os, "geteuid", lambda: theirs.stat().st_uid + 1)
    assert main(["down", "--folder", str(theirs)]) == 1
    told = capsys.readouterr().err
    assert told.count("remedy:") == 3
    assert "The lab's folder belongs to another user." in told
    assert "Traceback" not in told


def test_wrong_usage_ends_with_64(capsys: pytest.CaptureFixture[str]) -> None:
    for wrong in ([], ["sideways"], ["up", "--variant", "two-shapes"], ["reset", "--variant", "broken"]):
        with pytest.raises(SystemExit) as ended:
            main(wrong)
        assert ended.value.code == 64
    told = capsys.readouterr().err
    assert "usage:" in told
    assert all(name in told.splitlines()[-1] for name in ("standard", "two-shapes", "force-rls"))
