"""The rows of the lab's start state that are many or long: knowledge from data/, projects and what belongs to them.

Everything is the same each time: identifiers are derived from names and times count from a fixed day.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import NAMESPACE_URL, UUID, uuid5

import numpy as np
from psycopg.types.json import Jsonb

DATA = Path(__file__).parent / "data"
_FIRST_DAY = datetime(2025, 5, 5, 8, 0, tzinfo=UTC)
_STATUSES = ("todo", "doing", "review", "done")
_UNICODE_TITLES = (
    "Größenänderung der Übersicht prüfen",
    "数据库迁移、检查所有任务",
    "مراجعة إعدادات البحث",
    "Ревизия шаблонов перед выпуском",
    "デプロイ後の動作確認 🚀",
    "Zero\u200bwidth, combining e\u0301 and a trailing space ",
    "Quotes \"double\", 'single', back\\slash and {{USER_TASK}}",
    "Ελληνικά · עברית · हिन्दी · ไทย",
)
_LABOURS = (
    "Describe the login flow",
    "Add pagination to the list",
    "Measure start-up time",
    "Clean up unused settings",
    "Write the operator's guide",
    "Fix the flaky upload",
    "Review access rules",
    "Prepare the next release",
    "Collect feedback",
    "Rename the status page",
    "Back up before the upgrade",
    "Explain error messages",
)
_PROD_PROJECTS = (
    ("Archon homelab", "Everything that runs at home"),
    ("Customer portal", "Login, invoices and support"),
    ("Customer portal", "The same title again: titles are not unique"),
    ("Übersetzungsdienst", "Texte in 12 Sprachen, für alle"),
    ("数据平台", ""),
    ("Mobile app", None),
    ("Retired: reporting 2.0", "Kept for its history"),
)
_DEV_PROJECTS = (("Archon development", "Where templates are tried"), ("Playground", "Anything goes"))


@dataclass(frozen=True)
class Rows:
    """Rows for one COPY, in an order that satisfies the foreign keys."""

    table: str
    columns: tuple[str, ...]
    rows: Sequence[tuple[object, ...]]


def of(world: str) -> Iterator[Rows]:
    """All rows of `dev` or `prod`, table by table."""
    yield from _knowledge(world)
    yield from _projects(world)


def _id(*parts: object) -> UUID:
    return uuid5(NAMESPACE_URL, "archon-align lab " + " ".join(map(str, parts)))


def _day(days: float) -> datetime:
    return _FIRST_DAY + timedelta(days=days)


def _knowledge(world: str) -> Iterator[Rows]:
    sources = json.loads((DATA / f"{world}.json").read_text(encoding="utf-8"))
    vectors = json.loads((DATA / "dev_vectors.json").read_text(encoding="utf-8")) if world == "dev" else {}
    source_rows: list[tuple[object, ...]] = []
    page_rows: list[tuple[object, ...]] = []
    code_rows: list[tuple[object, ...]] = []
    for number, source in enumerate(sources):
        source_id = source["source_id"]
        crawled = not source_id.startswith("file_")
        about: dict[str, object] = {"knowledge_type": "technical", "tags": source["tags"], "source_id": source_id}
        about["crawl_type" if crawled else "filename"] = "normal" if crawled else source["pages"][0]["url"][7:]
        words = sum(len(page["content"].split()) for page in source["pages"])
        when = _day(60 + number)
        source_rows.append((source_id, source["summary"], words, source["title"], Jsonb(about), when, when))
        for rows, kind in ((page_rows, "pages"), (code_rows, "code_examples")):
            for item in source[kind]:
                url, chunk, content = item["url"], item["chunk_number"], item["content"]
                metadata = {
                    **about,
                    "url": url,
                    "chunk_index": chunk,
                    "chunk_size": len(content),
                    "char_count": len(content),
                    "word_count": len(content.split()),
                }
                summary = (item["summary"],) if kind == "code_examples" else ()
                encoded = vectors.get(f"{kind} {url} {chunk}")
                vector = None if encoded is None else str(np.frombuffer(base64.b64decode(encoded), "<f4").tolist())
                rows.append((url, chunk, content, *summary, Jsonb(metadata), source_id, when, vector))
    columns = ("url", "chunk_number", "content", "metadata", "source_id", "created_at", "embedding")
    code_columns = ("url", "chunk_number", "content", "summary", "metadata", "source_id", "created_at", "embedding")
    source_columns = ("source_id", "summary", "total_word_count", "title", "metadata", "created_at", "updated_at")
    yield Rows("archon_sources", source_columns, source_rows)
    yield Rows("archon_crawled_pages", columns, page_rows)
    yield Rows("archon_code_examples", code_columns, code_rows)


def _projects(world: str) -> Iterator[Rows]:
    projects = _PROD_PROJECTS if world == "prod" else _DEV_PROJECTS
    ids = [_id(world, "project", number) for number in range(len(projects))]
    rows = []
    for number, (title, description) in enumerate(projects):
        docs = [
            {"id": str(_id(world, "document", number, n)), "title": f"Document {n}", "content": {"text": "…" * (n + 1)}}
            for n in range(number % 4)
        ]
        features = [{"label": f"feature {n}", "done": n % 2 == 0} for n in range(number % 3)]
        repository = f"https://git.example.org/{number}.git" if number % 2 else None
        when = _day(number)
        rows.append(
            (
                ids[number],
                title,
                description,
                Jsonb(docs),
                Jsonb(features),
                Jsonb([]),
                repository,
                number == 0,
                when,
                when,
            )
        )
    columns = (
        "id",
        "title",
        "description",
        "docs",
        "features",
        "data",
        "github_repo",
        "pinned",
        "created_at",
        "updated_at",
    )
    yield Rows("archon_projects", columns, rows)
    yield _tasks(world, ids)
    yield _links(world, ids)
    yield _versions(world, ids)


def _tasks(world: str, projects: Sequence[UUID]) -> Rows:
    """120 (DEV: 9) tasks: every status, each eighth archived, nested up to three deep, some with large jsonb."""
    rows = []
    for number in range(120 if world == "prod" else 9):
        project = number % len(projects)
        depth = (number // len(projects)) % 4
        # The parent is the same project's task before this one, so that chains of up to three arise within a project.
        parent = _id(world, "task", number - len(projects)) if depth else None
        archived = number % 8 == 5
        unusual = number % 15 == 4
        title = (
            _UNICODE_TITLES[(number // 15) % len(_UNICODE_TITLES)]
            if unusual
            else f"{_LABOURS[number % len(_LABOURS)]} ({number})"
        )
        status = _STATUSES[(number + number // 7) % 4]
        created = _day(20 + number / 4)
        large = number % 40 == 7
        sources = [
            {
                "url": f"https://example.org/{number}/{n}",
                "type": "documentation",
                "relevance": "read this first — " * 20,
            }
            for n in range(150 if large else number % 3)
        ]
        examples = [{"file": f"src/{n}.py", "purpose": "naïve example"} for n in range(number % 2)]
        description = (
            f"Line one of {number}.\n\tIndented, with a tab.\n\nAnd a last line: 100 % sure?" if number % 5 else ""
        )
        rows.append(
            (
                _id(world, "task", number),
                projects[project],
                parent,
                title,
                description,
                status,
                ("User", "Archon", "AI IDE Agent", "prp-executor")[number % 4],
                number % 10 * 10,
                f"feature {number % 3}" if number % 3 else None,
                Jsonb(sources),
                Jsonb(examples),
                archived,
                created + timedelta(days=9) if archived else None,
                "User" if archived else None,
                created,
                created + timedelta(hours=number % 50),
            )
        )
    columns = (
        "id",
        "project_id",
        "parent_task_id",
        "title",
        "description",
        "status",
        "assignee",
        "task_order",
        "feature",
        "sources",
        "code_examples",
        "archived",
        "archived_at",
        "archived_by",
        "created_at",
        "updated_at",
    )
    return Rows("archon_tasks", columns, rows)


def _links(world: str, projects: Sequence[UUID]) -> Rows:
    """20 (DEV: 2) links from projects to sources; some name a source that a re-upload left without a row."""
    known = [source["source_id"] for source in json.loads((DATA / f"{world}.json").read_text(encoding="utf-8"))]
    rows = []
    for number in range(20 if world == "prod" else 2):
        project = number % len(projects)
        source = known[(number // len(projects) + project) % len(known)]
        if number % 9 == 8:
            source = f"file_gone_md_{1750000000 + number}"
        notes = ("technical", "business", None)[number % 3]
        rows.append((_id(world, "link", number), projects[project], source, _day(70 + number), "User", notes))
    return Rows("archon_project_sources", ("id", "project_id", "source_id", "linked_at", "created_by", "notes"), rows)


def _versions(world: str, projects: Sequence[UUID]) -> Rows:
    """40 (DEV: 4) versions. Two are numbered alike, which Archon's unique constraint does not prevent."""
    rows = []
    for number in range(40 if world == "prod" else 4):
        project = number % len(projects)
        of_task = number % 10 == 9
        numbered_as = 23 if number == 30 else number
        version = numbered_as // len(projects) + 1
        content = {
            "title": f"Revision {version}",
            "blocks": [{"text": "Änderung " * (number + 1)}],
            "nested": {"n": [number, None]},
        }
        rows.append(
            (
                _id(world, "version", number),
                None if of_task else projects[project],
                _id(world, "task", number) if of_task else None,
                ("docs", "features", "data", "prd")[numbered_as % 4],
                version,
                Jsonb(content),
                f"Change {number}" if number % 4 else None,
                ("update", "create", "delete", "restore", "backup")[number % 5],
                None if number % 3 else str(_id(world, "document", project, 0)),
                "User",
                _day(40 + number),
            )
        )
    columns = (
        "id",
        "project_id",
        "task_id",
        "field_name",
        "version_number",
        "content",
        "change_summary",
        "change_type",
        "document_id",
        "created_by",
        "created_at",
    )
    return Rows("archon_document_versions", columns, rows)
