"""Documents uploaded again through the lab's Archon: replaced when proved, and otherwise exactly as they were."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest
from archon_align.context import Context
from archon_align.errors import AlignError
from archon_align.reupload import phase
from archon_align.reupload.model import PAGES

from lab.archon import serve
from lab.embedding_service import RunningService

OLD = "file_network_services_txt_1752652800"
NAME = "network services.txt"
# As phases 2 and 3 leave PROD.
ALIGNED = (
    "ALTER TABLE archon_crawled_pages ALTER COLUMN embedding TYPE vector(768)",
    "ALTER TABLE archon_code_examples ALTER COLUMN embedding TYPE vector(768)",
)
SETTINGS = {
    "EMBEDDING_PROVIDER": "ollama",
    "EMBEDDING_MODEL": "nomic-embed-text",
    "EMBEDDING_DIMENSIONS": "768",
}


@pytest.fixture
def prod(copy_of: Callable[..., str], vectors: RunningService) -> str:
    settings = {**SETTINGS, "EMBEDDING_BASE_URL": vectors.base_url, "LLM_BASE_URL": vectors.base_url}
    rows = ", ".join(f"('{key}', '{value}', 'rag_strategy')" for key, value in settings.items())
    return copy_of(
        "prod",
        *ALIGNED,
        f"INSERT INTO archon_settings (key, value, category) VALUES {rows} ON CONFLICT (key) DO UPDATE SET value = excluded.value",
    )


@contextmanager
def archon(dsn: str, vectors: RunningService, **more: str) -> Iterator[serve.Running]:
    given = {"EMBEDDING_BASE_URL": vectors.base_url, "EMBEDDING_PROVIDER": "ollama", "LAB_ARCHON_UPLOAD_DELAY": "0.3"}
    with serve.server(dsn, **{**given, **more}) as running:
        yield running


def rows(dsn: str, query: str, *values: object) -> list[tuple[Any, ...]]:
    with psycopg.connect(dsn) as connection:
        return connection.execute(query.encode(), values).fetchall()


def everything(dsn: str) -> list[tuple[Any, ...]]:
    """All that a failed upload must leave as it was."""
    return [
        *rows(
            dsn,
            "SELECT id, url, chunk_number, content, source_id, embedding::text FROM archon_crawled_pages ORDER BY id",
        ),
        *rows(dsn, "SELECT source_id, title, summary FROM archon_sources ORDER BY 1"),
        *rows(dsn, "SELECT id::text, project_id::text, source_id FROM archon_project_sources ORDER BY 1"),
    ]


@pytest.fixture
def documents(tmp_path: Path, prod: str) -> Path:
    """The original of the one uploaded source."""
    folder = tmp_path / "documents"
    folder.mkdir()
    texts = rows(prod, f"SELECT content FROM {PAGES} WHERE source_id = %s ORDER BY chunk_number", OLD)
    (folder / NAME).write_text("\n\n".join(text for (text,) in texts))
    return folder


def options(url: str, documents: Path | None, **more: Any) -> phase.Options:
    return phase.Options(url, 768, documents, **{"upload_timeout": 60.0, **more})


@pytest.fixture
def context(prod: str, make_context: Callable[..., Context], hold_run_lock: Callable[[str], object]) -> Context:
    hold_run_lock(prod)
    return make_context(prod, phase="reupload")


def test_a_document_takes_its_source_s_place(
    prod: str, context: Context, documents: Path, vectors: RunningService
) -> None:
    project = rows(prod, "SELECT id::text FROM archon_projects ORDER BY created_at LIMIT 1")[0][0]
    with psycopg.connect(prod) as user:
        user.execute("DELETE FROM archon_project_sources WHERE source_id = %s", [OLD])
        user.execute(
            "INSERT INTO archon_project_sources (project_id, source_id, notes) VALUES (%s, %s, 'technical')",
            [project, OLD],
        )
    before = everything(prod)
    with archon(prod, vectors) as running:
        outcome = phase.run(context, options(running.url, documents))
        again = phase.run(context, options(running.url, documents))
    told = outcome.details["reupload"]
    assert (outcome.status, again.status, again.changed) == ("changed", "aligned", False)
    (one,) = told["uploaded"]
    assert (one["source"], one["links"]) == (OLD, 1)
    new = one["new_source"]
    pages = rows(
        prod, f"SELECT url, source_id, vector_dims(embedding) FROM {PAGES} WHERE url LIKE '%%network services%%'"
    )
    assert pages == [(f"file://{NAME}", new, 768)] * one["pages_after"]
    # Old links stay, the new one is like the old one, and so is the title.
    links = rows(prod, "SELECT source_id, notes FROM archon_project_sources WHERE project_id = %s ORDER BY 1", project)
    assert {(OLD, "technical"), (new, "technical")} <= set(links)
    titles = rows(prod, "SELECT title FROM archon_sources WHERE source_id IN (%s, %s)", OLD, new)
    assert len(titles) == 2
    assert len(set(titles)) == 1
    # Nobody else's row has changed.
    kept = [row for row in before if OLD not in row]
    assert [row for row in everything(prod) if row in kept] == kept
    assert all(proof.preserved for proof in outcome.proofs)
    assert {reason["source"] for reason in told["skipped"]} >= {"docs.python.org"}
    assert (context.run.artifacts / "reupload" / "0001.jsonl").read_text().count("\n") == 1 + one["pages_before"]


def test_an_archon_that_cannot_embed_leaves_everything_as_it_was(
    prod: str, context: Context, documents: Path, vectors: RunningService
) -> None:
    with psycopg.connect(prod) as owner:
        owner.execute("UPDATE archon_settings SET value = 'text-embedding-3-small' WHERE key = 'EMBEDDING_MODEL'")
    before = everything(prod)
    with archon(prod, vectors) as running:
        outcome = phase.run(context, options(running.url, documents))
    assert everything(prod) == before
    assert outcome.changed is False
    assert "upload_not_stored" in {finding.code for finding in outcome.findings}
    assert outcome.details["reupload"]["uploaded"] == []


def test_another_version_of_a_document_does_not_replace_what_is_stored(
    prod: str, context: Context, documents: Path, vectors: RunningService
) -> None:
    (documents / NAME).write_text("Something else altogether. " * 100)
    before = everything(prod)
    with archon(prod, vectors) as running:
        outcome = phase.run(context, options(running.url, documents))
    assert everything(prod) == before
    assert "upload_other_text" in {finding.code for finding in outcome.findings}


def test_nothing_is_touched_while_archon_is_not_ready(prod: str, context: Context, documents: Path) -> None:
    before = everything(prod)
    with pytest.raises(AlignError) as told:
        phase.run(context, options("http://127.0.0.1:1", documents))
    assert (told.value.code, everything(prod)) == ("archon_not_ready", before)


@pytest.mark.parametrize(
    ("name", "content", "word"),
    [(None, b"", "there is no file"), (NAME, b"", "is empty"), ("other.txt", b"x", "there is no file")],
)
def test_what_cannot_be_uploaded_says_so(
    prod: str, context: Context, tmp_path: Path, name: str | None, content: bytes, word: str
) -> None:
    folder = tmp_path / "given"
    folder.mkdir()
    if name:
        (folder / name).write_bytes(content)
    before = everything(prod)
    outcome = phase.run(context, options("http://127.0.0.1:1", folder))
    reasons = {one["source"]: one["reason"] for one in outcome.details["reupload"]["skipped"]}
    assert word in reasons[OLD]
    assert "crawled" in reasons["docs.python.org"]
    assert (outcome.changed, everything(prod)) == (False, before)


def test_check_mode_says_what_would_be_uploaded_and_sends_nothing_but_reads(
    prod: str, make_context: Callable[..., Context], documents: Path, vectors: RunningService
) -> None:
    before = everything(prod)
    with archon(prod, vectors) as running:
        outcome = phase.run(make_context(prod, check=True, phase="reupload"), options(running.url, documents))
    assert (outcome.status, len(outcome.statements), everything(prod)) == ("drift", 1, before)


_KILLED = """
import os, sys, threading, time
from pathlib import Path
from archon_align.context import Context, Run
from archon_align.database.target import Target
from archon_align.reupload import changing, phase, uploading
stage, prod, url, folder, artifacts, run_id = sys.argv[1:]
def die(*_, **__):
    os.kill(os.getpid(), 9)
if stage == "aside":
    phase.upload = die
elif stage == "uploaded":
    phase.verify = die
elif stage == "verified":
    phase._finish = die
context = Context(run=Run(run_id, Path(artifacts)), prod=Target("PROD", prod), dev=Target("DEV", prod), phase="reupload")
phase.run(context, phase.Options(url, 768, Path(folder), upload_timeout=60.0))
"""


@pytest.mark.parametrize("stage", ["aside", "uploaded", "verified"])
def test_what_a_killed_run_leaves_is_put_in_order_by_the_next(
    stage: str, prod: str, context: Context, documents: Path, vectors: RunningService, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = everything(prod)
    count = rows(prod, f"SELECT count(*) FROM {PAGES} WHERE source_id = %s", OLD)[0][0]
    with archon(prod, vectors) as running:
        root = Path(__file__).parents[3]
        killed = subprocess.run(
            [sys.executable, "-c", _KILLED, stage, prod, running.url, str(documents), str(context.run.artifacts), context.run.id],
            env={**os.environ, "PYTHONPATH": str(root / "module_utils")},
            timeout=600,
            check=False,
        )  # fmt: skip
        assert killed.returncode == -signal.SIGKILL
        marked = rows(prod, f"SELECT count(*) FROM {PAGES} WHERE url LIKE 'archon-align-aside:%%'")
        assert marked == [(count,)]
        # Nothing is lost meanwhile, and another strategy puts it in order as well.
        monkeypatch.setattr(phase, "_DELETED_SECONDS", 0.0)
        outcome = phase.run(context, options(running.url, None, again=False))
    assert rows(prod, f"SELECT count(*) FROM {PAGES} WHERE url LIKE 'archon-align-aside:%%'") == [(0,)]
    if stage == "aside":
        assert everything(prod) == before
        assert outcome.details["reupload"]["put_back"] == count
    else:
        # The new pages were there and are proved now: the replacement is finished.
        assert [one["source"] for one in outcome.details["reupload"]["uploaded"]] == [OLD]
        assert rows(prod, f"SELECT count(*) - count(embedding) FROM {PAGES} WHERE url = %s", f"file://{NAME}") == [(0,)]


def test_a_user_s_own_upload_meanwhile_is_left_alone(
    prod: str, context: Context, documents: Path, vectors: RunningService, monkeypatch: pytest.MonkeyPatch
) -> None:
    def with_a_user(*_: Any, **__: Any) -> Any:
        with psycopg.connect(prod) as user:
            user.execute("INSERT INTO archon_sources (source_id, title) VALUES ('users own', 'x')")
            user.execute(
                f"INSERT INTO {PAGES} (url, chunk_number, content, source_id) VALUES (%s, 0, 'theirs', 'users own')",
                [f"file://{NAME}"],
            )
        raise AlignError("It broke.", object_name="x", expected="y", found="z", remedy="r")

    monkeypatch.setattr(phase, "upload", with_a_user)
    with archon(prod, vectors) as running:
        outcome = phase.run(context, options(running.url, documents))
    assert rows(prod, f"SELECT content FROM {PAGES} WHERE source_id = 'users own'") == [("theirs",)]
    assert "reupload_kept_aside" in {finding.code for finding in outcome.findings}
    assert rows(prod, f"SELECT count(*) > 0 FROM {PAGES} WHERE source_id = %s", OLD) == [(True,)]
