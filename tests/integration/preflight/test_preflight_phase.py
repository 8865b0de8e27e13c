"""Preflight against real servers: each bad input is told in one clear error, several are told together."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import psycopg
import pytest
from archon_align.context import Context
from archon_align.embedded.server import EmbeddedServer
from archon_align.outcome import PhaseOutcome
from archon_align.preflight.phase import Options, run
from archon_align.preflight.surroundings import embedding_service
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict

from tests.support.ports import reserved

PASSWORD = "right-horse"
TABLES = "CREATE TABLE archon_projects (id int PRIMARY KEY); CREATE TABLE archon_tasks (id int PRIMARY KEY);"


@pytest.fixture
def look(make_context: Callable[..., Context]) -> Callable[..., PhaseOutcome]:
    """Call with the two DSNs and options of preflight; the artifacts folder exists, as after archon_run."""

    def do(prod: str, dev: str, *, check: bool = False, **options: object) -> PhaseOutcome:
        context = make_context(prod, dev, check=check, phase="preflight", connect_timeout=30.0)
        context.run.artifacts.mkdir(exist_ok=True)
        return run(context, Options(**options))  # type: ignore[arg-type]

    return do


@pytest.fixture
def pair(new_database: Callable[[str], str]) -> tuple[str, str]:
    return new_database(TABLES), new_database(TABLES)


@pytest.fixture
def stranger(server: EmbeddedServer) -> Iterator[str]:
    """A role that may log in and owns nothing."""
    with psycopg.connect(server.dsn(), autocommit=True) as admin:
        admin.execute("CREATE ROLE stranger LOGIN")
        yield "stranger"
        admin.execute("DROP ROLE stranger")


def codes(outcome: PhaseOutcome) -> list[str]:
    return [problem["code"] for problem in outcome.details["preflight"]["problems"]]


def as_admin(server: EmbeddedServer, dsn: str, statements: str) -> None:
    with psycopg.connect(server.dsn(str(conninfo_to_dict(dsn)["dbname"])), autocommit=True) as admin:
        admin.execute(statements.encode())


@pytest.mark.parametrize("check", [False, True])
def test_a_good_pair_passes_and_is_described(
    look: Callable[..., PhaseOutcome], pair: tuple[str, str], check: bool
) -> None:
    outcome = look(*pair, check=check)
    assert (outcome.status, outcome.changed, outcome.error, outcome.findings) == ("aligned", False, None, [])
    found = outcome.details["preflight"]
    assert found["prod"]["pgvector"] == found["dev"]["pgvector"] == "0.8.5"
    assert found["prod"]["pgvector_schema"] == "public"
    assert found["prod"]["version"].startswith("18.")
    assert found["prod"]["size_bytes"] > 1_000_000
    assert found["prod"]["connections_free"] > 10
    assert found["disk"]["needed_bytes"] > 2 * found["prod"]["size_bytes"]
    assert found["pg_dump"]["version"].startswith("18.")
    json.dumps(outcome.as_result())


def test_one_database_under_two_names_is_recognised(look: Callable[..., PhaseOutcome], pair: tuple[str, str]) -> None:
    same = look(pair[0], pair[0])
    assert codes(same) == ["same_database"]
    assert "the same DSN" in str(same.error)
    other_words = look(pair[0], pair[0] + " connect_timeout=9")
    assert codes(other_words) == ["same_database"]
    assert "two DSNs that lead to one database" in str(other_words.error)


def test_problems_of_both_databases_are_told_together(look: Callable[..., PhaseOutcome], pair: tuple[str, str]) -> None:
    outcome = look(pair[0] + " dbname=nobody_has_this", "", min_free_mb=10)
    assert codes(outcome) == ["no_database", "bad_dsn"]
    assert outcome.status == "failed"
    text = str(outcome.error)
    assert "1. PROD cannot be reached." in text
    assert "2. The DSN of DEV cannot be used." in text
    assert text.count("remedy:") == 2


def test_a_malformed_dsn_is_not_quoted(look: Callable[..., PhaseOutcome], pair: tuple[str, str]) -> None:
    outcome = look(pair[0], f"host=h password={PASSWORD} nonsense")
    assert codes(outcome) == ["bad_dsn"]
    assert PASSWORD not in json.dumps(outcome.as_result())


def test_demands_that_are_not_met_are_told_with_numbers(
    look: Callable[..., PhaseOutcome], pair: tuple[str, str], tmp_path: Path
) -> None:
    old = tmp_path / "pg_dump"
    old.write_text("#!/bin/sh\necho 'pg_dump (PostgreSQL) 9.6.24'\n")
    old.chmod(0o755)
    outcome = look(*pair, min_version=99, min_free_mb=10**9, pg_dump=str(old))
    assert codes(outcome) == ["server_too_old", "pg_dump_too_old", "disk_full", "server_too_old"]
    assert "pg_dump 9.6.24" in str(outcome.error)
    assert "MiB free" in str(outcome.error)


def test_a_mistyped_protected_table_is_refused(make_context: Callable[..., Context], pair: tuple[str, str]) -> None:
    """It would be protected in name only. The four that always are may be absent, as in an older PROD."""
    prod, dev = pair
    context = make_context(prod, dev, check=True, phase="preflight", protected_names=("archon_tasks", "archon_taskz"))
    context.run.artifacts.mkdir(parents=True)
    outcome = run(context, Options())
    assert codes(outcome) == ["protected_table_unknown"]
    assert "public.archon_taskz" in str(outcome.error)


def test_a_pg_dump_that_is_missing_is_told(look: Callable[..., PhaseOutcome], pair: tuple[str, str]) -> None:
    assert codes(look(*pair, pg_dump="/nowhere/pg_dump")) == ["pg_dump_unusable"]


def test_a_missing_pgvector_and_schema_are_told(
    look: Callable[..., PhaseOutcome],
    pair: tuple[str, str],
    server: EmbeddedServer,
    make_context: Callable[..., Context],
) -> None:
    as_admin(server, pair[0], "DROP EXTENSION vector")
    assert codes(look(*pair)) == ["no_pgvector"]
    context = make_context(pair[0], pair[1], schemas=("public", "we ird"))
    context.run.artifacts.mkdir(exist_ok=True)
    outcome = run(context, Options())
    # The owner of PROD's database may create the schema there; DEV must have it.
    assert codes(outcome) == ["no_pgvector", "no_schema"]
    assert "DEV: schema we ird" in str(outcome.error)


@pytest.mark.parametrize(("scope", "told"), [("ROLE", "ALTER ROLE archon_owner"), ("DATABASE", "ALTER DATABASE ")])
def test_a_read_only_default_is_told_with_its_place(
    look: Callable[..., PhaseOutcome], pair: tuple[str, str], server: EmbeddedServer, scope: str, told: str
) -> None:
    name = "archon_owner" if scope == "ROLE" else str(conninfo_to_dict(pair[0])["dbname"])
    alter = sql.SQL("ALTER {} {} {} default_transaction_read_only")
    identifier = sql.Identifier(name)
    with psycopg.connect(server.dsn(), autocommit=True) as admin:
        admin.execute(alter.format(sql.SQL(scope), identifier, sql.SQL("SET")) + sql.SQL(" = on"))
        try:
            outcome = look(*pair)
        finally:
            admin.execute(alter.format(sql.SQL(scope), identifier, sql.SQL("RESET")))
    assert codes(outcome) == ["read_only_server"] * (2 if scope == "ROLE" else 1)
    assert told in str(outcome.error)


def test_a_role_without_ownership_is_told_all_it_lacks(
    look: Callable[..., PhaseOutcome], pair: tuple[str, str], server: EmbeddedServer, stranger: str
) -> None:
    as_admin(
        server, pair[0], "ALTER TABLE archon_tasks ENABLE ROW LEVEL SECURITY; GRANT SELECT ON archon_tasks TO PUBLIC"
    )
    outcome = look(f"{pair[0]} user={stranger}", pair[1])
    assert codes(outcome) == ["missing_privilege", "not_owner", "missing_privilege", "rows_hidden"]
    text = str(outcome.error)
    assert "CREATE for role stranger" in text
    assert "public.archon_projects, public.archon_tasks" in text
    assert "GRANT archon_owner TO" in text
    assert "BYPASSRLS" in text


def test_forced_row_level_security_hides_rows_even_from_the_owner(
    look: Callable[..., PhaseOutcome], pair: tuple[str, str]
) -> None:
    with psycopg.connect(pair[0], autocommit=True) as owner:
        owner.execute("ALTER TABLE archon_tasks ENABLE ROW LEVEL SECURITY")
    assert codes(look(*pair)) == []
    with psycopg.connect(pair[0], autocommit=True) as owner:
        owner.execute("ALTER TABLE archon_tasks FORCE ROW LEVEL SECURITY")
    outcome = look(*pair)
    assert codes(outcome) == ["rows_hidden"]
    assert "NO FORCE ROW LEVEL SECURITY" in str(outcome.error)


def test_a_wrong_port_host_or_password_is_told_without_the_password(
    look: Callable[..., PhaseOutcome], tmp_path_factory: pytest.TempPathFactory
) -> None:
    with ExitStack() as stack:
        port, nobody = stack.enter_context(reserved()), stack.enter_context(reserved())
        settings = {"listen_addresses": "127.0.0.1", "port": str(port)}
        tcp = stack.enter_context(EmbeddedServer(tmp_path_factory.mktemp("tcp"), settings=settings))
        with psycopg.connect(f"{tcp.dsn()} port={port}", autocommit=True) as admin:
            admin.execute(f"CREATE ROLE someone LOGIN PASSWORD '{PASSWORD}'")
        here = f"host=127.0.0.1 user=someone dbname=postgres password={PASSWORD}"
        outcome = look(f"{here}-wrong port={port}", f"{here} port={nobody}")
        assert codes(outcome) == ["wrong_password", "unreachable"]
        assert PASSWORD not in json.dumps(outcome.as_result()) + str(outcome.error)
        assert codes(look(f"{here} port={port}", f"{here} port={port}"))[0] == "same_database"


class Service(BaseHTTPRequestHandler):
    """Answers every GET with what the test has put into `reply`."""

    reply: tuple[int, bytes] = (200, b"")

    def do_GET(self) -> None:
        status, body = self.reply
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.mark.parametrize(
    ("reply", "present", "found"),
    [
        ((200, b'{"data": [{"id": "nomic-embed-text:latest"}]}'), True, []),
        ((200, b'{"data": [{"id": "llama3"}]}'), False, ["embedding_model_missing"]),
        ((200, b'{"data": []}'), False, ["embedding_model_missing"]),
        ((401, b"who are you"), None, []),
        ((200, b"<html>"), None, []),
        ((200, b'{"data": [3]}'), None, []),
    ],
)
def test_the_embedding_service_is_only_described(
    reply: tuple[int, bytes], present: bool | None, found: list[str]
) -> None:
    service = HTTPServer(("127.0.0.1", 0), type("Replying", (Service,), {"reply": reply}))
    thread = threading.Thread(target=service.serve_forever, args=(0.02,))
    thread.start()
    try:
        state, findings = embedding_service(f"http://127.0.0.1:{service.server_port}/v1", "nomic-embed-text", 768)
    finally:
        service.shutdown()
        thread.join()
        service.server_close()
    assert (state["reachable"], state["model_present"]) == (True, present)
    assert [one.code for one in findings] == found


def test_a_service_that_is_down_or_misnamed_is_a_finding(
    look: Callable[..., PhaseOutcome], pair: tuple[str, str]
) -> None:
    with reserved() as nobody:
        down = look(*pair, embedding_base_url=f"http://127.0.0.1:{nobody}/v1", embedding_model="m")
    assert [one.code for one in down.findings] == ["embedding_unreachable"]
    assert down.status == "aligned"
    misnamed = look(*pair, embedding_base_url="ftp://x", embedding_model="m")
    assert [one.code for one in misnamed.findings] == ["embedding_url"]
