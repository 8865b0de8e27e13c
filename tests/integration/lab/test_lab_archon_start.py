from __future__ import annotations

import time
from collections.abc import Callable

import httpx
import psycopg
import pytest
from archon_user import PATIENCE, rows, run, set_to

from lab.archon import keys, serve


def _until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.parametrize("key", ["sb_secret_of_another_shape", keys.service_key(keys.new_secret())])
def test_a_wrong_key_ends_the_start(copy_of: Callable[..., str], key: str) -> None:
    with serve.server(copy_of("dev"), SUPABASE_SERVICE_KEY=key, wait=False) as archon:
        assert archon.exit_code() == 3
        assert "Invalid API key" in archon.log()
        assert key not in archon.log()
        assert not archon.listens()


def test_it_refuses_connections_until_the_settings_are_read(copy_of: Callable[..., str]) -> None:
    dev = copy_of("dev")
    with psycopg.connect(dev) as owner:
        owner.execute("LOCK TABLE archon_settings IN ACCESS EXCLUSIVE MODE")
        with serve.server(dev, LAB_ARCHON_STATEMENT_TIMEOUT="120", wait=False) as archon:
            waiting = (
                "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
            )
            _until(lambda: rows(dev, waiting) == [(1,)])
            assert not archon.listens()
            owner.rollback()
            archon.wait_ready()
            assert httpx.get(f"{archon.url}/health").json()["ready"] is True
            assert httpx.get(f"{archon.url}/api/health").json()["service"] == "knowledge-api"


def test_settings_that_cannot_be_read_end_the_start(copy_of: Callable[..., str]) -> None:
    dev = copy_of("dev", "REVOKE ALL ON archon_settings FROM service_role")
    with serve.server(dev, wait=False) as archon:
        assert archon.exit_code() == 3
        assert "permission denied" in archon.log()


def test_a_mixture_of_old_and_new_settings_without_a_restart(copy_of: Callable[..., str]) -> None:
    dev = copy_of("dev")
    with serve.server(dev, LAB_ARCHON_SETTINGS_TTL="0.2") as archon, httpx.Client(base_url=archon.url) as client:
        run(dev, set_to("EMBEDDING_DIMENSIONS", "512"), set_to("USE_HYBRID_SEARCH", "false"))

        def category() -> str:
            return str(
                client.get("/api/credentials/categories/rag_strategy").json()["credentials"]["EMBEDDING_DIMENSIONS"]
            )

        _until(lambda: category() == "512")
        assert client.get("/api/credentials/EMBEDDING_DIMENSIONS").json()["value"] == "768", "loaded once"
        listed = {one["key"]: one["value"] for one in client.get("/api/credentials").json()}
        assert listed["EMBEDDING_DIMENSIONS"] == "512"
        assert client.post("/api/rag/query", json={"query": "python"}).json()["search_mode"] == "hybrid"
        assert client.post("/api/credentials/initialize").status_code == 500
        assert client.put("/api/credentials/EMBEDDING_DIMENSIONS", json={"value": "256"}).json()["success"]
        assert client.get("/api/credentials/EMBEDDING_DIMENSIONS").json()["value"] == "256"


def test_secrets_are_readable_with_their_own_key_only(copy_of: Callable[..., str]) -> None:
    dev = copy_of("dev")
    with serve.server(dev) as archon, httpx.Client(base_url=archon.url) as client:
        secret = {"key": "SOME_TOKEN", "value": "not for everybody", "is_encrypted": True, "category": "api_keys"}
        assert client.post("/api/credentials", json=secret).json()["success"]
        stored = rows(dev, "SELECT value, encrypted_value FROM archon_settings WHERE key = 'SOME_TOKEN'")[0]
        assert stored[0] is None
        assert "everybody" not in stored[1]
        assert client.get("/api/credentials/SOME_TOKEN").json()["value"] == "not for everybody"
        listed = {one["key"]: one["value"] for one in client.get("/api/credentials").json()}
        assert listed["SOME_TOKEN"] == "not for everybody"
        assert listed["OPENAI_API_KEY"] == "[DECRYPTION ERROR]"
        left_out = {"key": "EMBEDDING_MODEL", "value": "nomic-embed-text"}
        client.post("/api/credentials", json=left_out)
    assert rows(dev, "SELECT category FROM archon_settings WHERE key = 'EMBEDDING_MODEL'") == [(None,)]


def test_a_new_column_counts_when_the_schema_is_reloaded(copy_of: Callable[..., str]) -> None:
    prod = copy_of("prod")
    with serve.server(prod) as archon, httpx.Client(base_url=archon.url, timeout=PATIENCE) as client:
        project = client.get("/api/projects").json()[0]["id"]
        task = {"project_id": project, "title": "New", "disable_template": True}
        refused = client.post("/api/tasks", json=task)
        assert refused.status_code == 400
        assert "PGRST204" in refused.json()["detail"]["error"]
        run(prod, "ALTER TABLE archon_tasks ADD COLUMN template_metadata jsonb DEFAULT '{}'")
        assert client.post("/api/tasks", json=task).status_code == 400
        run(prod, "NOTIFY pgrst, 'reload schema'")
        _until(lambda: client.post("/api/tasks", json=task).status_code == 200)


def test_the_server_goes_on_when_the_database_comes_back(copy_of: Callable[..., str]) -> None:
    dev = copy_of("dev")
    others = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
    with serve.server(dev) as archon, httpx.Client(base_url=archon.url, timeout=PATIENCE) as client:
        before = client.get("/api/projects").json()
        run(dev, others)
        assert client.get("/api/projects").json() == before
        run(dev, "ALTER TABLE archon_projects ADD COLUMN fresh text")
        project = f"/api/projects/{before[0]['id']}"
        assert "fresh" in client.get(project).json()
