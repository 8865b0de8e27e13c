"""What a user of the lab's Archon does in tests: upload and follow, ask, look into the database."""

from __future__ import annotations

from typing import Any

import httpx
import psycopg
import socketio

PATIENCE = 60.0
# As the stack in the lab's Portainer has it, the service's URL apart.
STACK = {
    "EMBEDDING_PROVIDER": "ollama",
    "EMBEDDING_MODEL": "nomic-embed-text",
    "EMBEDDING_DIMENSIONS": "768",
    "LAB_ARCHON_UPLOAD_DELAY": "0.4",
}
# 12 chunks of 800 characters: one batch.
DOCUMENT = "\n\n".join(
    f"Chapter {n}. " + f"Volcano {n} erupts and covers the valley with ash. " * 15 for n in range(12)
)


def upload(url: str, filename: str, content: str = DOCUMENT) -> dict[str, Any]:
    """Upload a text and follow it by Socket.IO to its last event."""
    with socketio.SimpleClient() as client:
        client.connect(url)
        answer = httpx.post(
            f"{url}/api/documents/upload", files={"file": (filename, content.encode())}, timeout=PATIENCE
        )
        assert answer.status_code == 200
        client.emit("crawl_subscribe", {"progress_id": answer.json()["progressId"]})
        while True:
            name, data = client.receive(timeout=PATIENCE)
            if name == "crawl_progress" and data["status"] in ("completed", "error"):
                return dict(data)


def ask(url: str, query: str, **more: object) -> dict[str, Any]:
    """The answer of /api/rag/query."""
    answer = httpx.post(f"{url}/api/rag/query", json={"query": query, **more}, timeout=PATIENCE)
    assert answer.status_code == 200
    return dict(answer.json())


def run(dsn: str, *statements: str) -> None:
    """Write past Archon."""
    with psycopg.connect(dsn) as owner:
        for statement in statements:
            owner.execute(statement.encode())


def rows(dsn: str, query: str) -> list[tuple[Any, ...]]:
    """The rows of a query."""
    with psycopg.connect(dsn) as owner:
        return owner.execute(query.encode()).fetchall()


def set_to(key: str, value: str) -> str:
    """The statement that changes or creates a setting of rag_strategy."""
    return (
        f"INSERT INTO archon_settings (key, value, category) VALUES ('{key}', '{value}', 'rag_strategy')"
        " ON CONFLICT (key) DO UPDATE SET value = excluded.value"
    )
