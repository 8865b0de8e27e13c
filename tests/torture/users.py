"""Users who go on working: tasks, document versions, projects and links, pages, settings. Every write goes into the ledger."""

from __future__ import annotations

import json
import random
import re
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import UUID

import psycopg
from psycopg import errors
from psycopg.types.json import Jsonb

PAGES_TEXT = Path(__file__).parents[2] / "lab" / "data" / "dev.json"
Row = Mapping[str, Any]  # a row as text: every number stays as the server wrote it
PAGES = "archon_crawled_pages"
PROJECTS = "archon_projects"
SETTINGS = "archon_settings"
# The alignment itself sets the rest.
FREE_SETTINGS = ("LOGFIRE_ENABLED", "PORT", "HOST", "USE_RERANKING", "PROJECTS_ENABLED")
_WORDS = ["prüfen", "检查", "release", "portal", "backup", "Größe", "логин", "الإعدادات", "naïve", "🚀", "retry"]


def as_row(text: str) -> dict[str, Any]:
    """A row that the server has put into JSON, with numbers as text."""
    row: dict[str, Any] = json.loads(text, parse_float=str, parse_int=str)
    return row


@dataclass(frozen=True)
class Write:
    """What one statement made of one row; None says that it is gone."""

    table: str
    key: str
    row: Row | None


@dataclass
class Ledger:
    """For each row the states that it may be in: one, or two after a COMMIT whose answer was lost."""

    _rows: dict[tuple[str, str], tuple[Row | None, ...]] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    acknowledged: int = 0
    unknown: int = 0

    def existing(self, table: str, rows: Mapping[str, Row]) -> None:
        """Rows that were there before anybody wrote."""
        with self._lock:
            self._rows |= {(table, key): (row,) for key, row in rows.items()}

    def settle(self, writes: Iterable[Write], *, certain: bool) -> None:
        """Enter one transaction's writes after its COMMIT. Of a row written twice the last state counts."""
        last = {(write.table, write.key): write for write in writes}
        with self._lock:
            for place, write in last.items():
                before = () if certain else self._rows.get(place, (None,))
                self._rows[place] = (*before, write.row)
            if certain:
                self.acknowledged += len(last)
            else:
                self.unknown += len(last)

    def certain(self, table: str) -> dict[str, Row]:
        """The rows of a table that are there for sure, by key."""
        with self._lock:
            return {
                key: states[0]
                for (name, key), states in self._rows.items()
                if name == table and len(states) == 1 and states[0] is not None
            }

    def states(self, table: str) -> dict[str, tuple[Row | None, ...]]:
        """Every row of a table that is or was, by key, with the states it may be in."""
        with self._lock:
            return {key: states for (name, key), states in self._rows.items() if name == table}


class User(threading.Thread):
    """One person at work until `leave()`. What the server refused is in `errors`, as (SQLSTATE, words)."""

    def __init__(self, name: str, dsn: Callable[[], str], ledger: Ledger, seed: str) -> None:
        super().__init__(name=name, daemon=True)
        self._dsn = dsn
        self._gone = threading.Event()
        self._connection: psycopg.Connection | None = None
        self.ledger = ledger
        self.rng = random.Random(f"{seed} {name}")  # noqa: S311 - it must be repeatable
        self.errors: list[tuple[str, str]] = []
        self.broken = ""

    def leave(self) -> None:
        self._gone.set()

    def rest(self, shortest: float, longest: float) -> None:
        self._gone.wait(self.rng.uniform(shortest, longest))

    def run(self) -> None:
        try:
            self._work()
        except Exception as error:  # noqa: BLE001 - the round must hear of it
            self.broken = f"{type(error).__name__}: {error}"
        finally:
            if self._connection is not None:
                self._connection.close()

    def _work(self) -> None:
        while not self._gone.is_set():
            writes: list[Write] = []
            committing = False
            try:
                connection = self._connect()
                self.act(connection, writes)
                committing = True
                connection.commit()
                self.ledger.settle(writes, certain=True)
            except psycopg.Error as error:
                self.errors.append((error.sqlstate or "connection", " ".join(str(error).split())))
                if committing and self._lost():
                    self.ledger.settle(writes, certain=False)
                self._give_up()
                self.start_over()
            self.rest(0.05, 0.5)

    def act(self, connection: psycopg.Connection, writes: list[Write]) -> None:
        """One transaction; notes in `writes` what it wrote."""
        raise NotImplementedError

    def start_over(self) -> None:
        """After an error: forget what was begun."""

    def write(self, table: str, key: str, statement: str, values: Mapping[str, object]) -> Write:
        """Run one statement that ends in RETURNING and changes one row."""
        assert self._connection is not None
        found = self._connection.execute(statement.encode(), values).fetchone()
        assert found is not None, f"{table} {key} is not there"
        return Write(table, key or as_row(found[0])["id"], as_row(found[0]))

    def uuid(self) -> str:
        return str(UUID(int=self.rng.getrandbits(128), version=4))

    def words(self, words: list[str], least: int, most: int) -> str:
        return " ".join(self.rng.choices(words, k=self.rng.randint(least, most)))

    def _connect(self) -> psycopg.Connection:
        if self._connection is None or self._connection.closed:
            # No server-side preparing: a column that is added would make such a statement fail, which is not the point here.
            self._connection = psycopg.connect(
                self._dsn(),
                application_name=self.name,
                connect_timeout=60,
                prepare_threshold=None,
                options="-c timezone=UTC",
            )
        return self._connection

    def _lost(self) -> bool:
        return self._connection is None or self._connection.broken

    def _give_up(self) -> None:
        if self._connection is None:
            return
        try:
            self._connection.rollback()
        except psycopg.Error:
            self._connection.close()
        if self._connection.broken:
            self._connection = None


class TaskUser(User):
    """Writes tasks, document versions, projects and links. Of the rows that were there before, it has its own share."""

    def __init__(
        self, number: int, users: int, dsn: Callable[[], str], ledger: Ledger, seed: str, projects: list[str]
    ) -> None:
        super().__init__(f"user {number}", dsn, ledger, seed)
        self._projects = projects
        self._own = {
            table: {key for key in ledger.certain(table) if int(key.replace("-", "")[-6:], 16) % users == number}
            for table in ("archon_tasks", "archon_projects")
        }
        self._made: set[str] = set()

    def act(self, _connection: psycopg.Connection, writes: list[Write]) -> None:
        deeds: dict[Callable[[set[str]], Write | None], int] = {
            self._new_task: 30,
            self._change_task: 35,
            self._archive_task: 10,
            self._new_version: 15,
            self._change_project: 5,
            self._new_link: 3,
            self._delete_task: 2,
        }
        touched: set[str] = set()
        for number in range(self.rng.choice((1, 1, 1, 2, 3))):
            if number:
                self.rest(0, 0.25)  # with what was written before still uncommitted
            (deed,) = self.rng.choices(list(deeds), list(deeds.values()))
            done = deed(touched)
            if done is not None:
                writes.append(done)
                touched.add(done.key)

    def _pick(self, table: str, touched: set[str]) -> str | None:
        there = self.ledger.certain(table)
        own = sorted(key for key in self._own[table] if key in there and key not in touched)
        return self.rng.choice(own) if own else None

    def _new_task(self, _touched: set[str]) -> Write:
        key = self.uuid()
        self._own["archon_tasks"].add(key)
        self._made.add(key)
        return self.write(
            "archon_tasks",
            key,
            "INSERT INTO archon_tasks AS t (id, project_id, title, description, status, assignee, task_order, feature, sources)"
            " VALUES (%(id)s, %(project)s, %(title)s, %(description)s, 'todo', %(assignee)s, %(order)s, %(feature)s, %(sources)s)"
            " RETURNING row_to_json(t.*)::text",
            {
                "id": key,
                "project": self.rng.choice(self._projects),
                "title": self.words(_WORDS, 2, 6),
                "description": self.words(_WORDS, 0, 60),
                "assignee": self.rng.choice(("User", "Archon", "AI IDE Agent")),
                "order": self.rng.randrange(100),
                "feature": self.rng.choice((None, "torture")),
                "sources": Jsonb([{"url": self.words(_WORDS, 1, 2)} for _ in range(self.rng.randrange(4))]),
            },
        )

    def _change_task(self, touched: set[str]) -> Write | None:
        key = self._pick("archon_tasks", touched)
        return key and self.write(
            "archon_tasks",
            key,
            "UPDATE archon_tasks AS t SET title = %(title)s, status = %(status)s::task_status, description = %(description)s"
            " WHERE id = %(id)s RETURNING row_to_json(t.*)::text",
            {
                "id": key,
                "title": self.words(_WORDS, 2, 6),
                "status": self.rng.choice(("todo", "doing", "review", "done")),
                "description": self.words(_WORDS, 0, 60),
            },
        )  # type: ignore[return-value]

    def _archive_task(self, touched: set[str]) -> Write | None:
        key = self._pick("archon_tasks", touched)
        return key and self.write(
            "archon_tasks",
            key,
            "UPDATE archon_tasks AS t SET archived = true, archived_at = now(), archived_by = %(who)s"
            " WHERE id = %(id)s RETURNING row_to_json(t.*)::text",
            {"id": key, "who": self.name},
        )  # type: ignore[return-value]

    def _delete_task(self, touched: set[str]) -> Write | None:
        there = self.ledger.certain("archon_tasks")
        made = sorted(key for key in self._made if key in there and key not in touched)
        if not made:
            return None
        key = self.rng.choice(made)
        self._made.discard(key)
        done = self.write(
            "archon_tasks",
            key,
            "DELETE FROM archon_tasks AS t WHERE id = %(id)s RETURNING row_to_json(t.*)::text",
            {"id": key},
        )
        return Write(done.table, done.key, None)

    def _new_version(self, _touched: set[str]) -> Write:
        key = self.uuid()
        return self.write(
            "archon_document_versions",
            key,
            "INSERT INTO archon_document_versions AS t (id, project_id, field_name, version_number, content, change_summary, change_type)"
            " VALUES (%(id)s, %(project)s, 'docs', %(number)s, %(content)s, %(summary)s, 'update') RETURNING row_to_json(t.*)::text",
            {
                "id": key,
                "project": self.rng.choice(self._projects),
                "number": self.rng.randrange(1000, 10**9),
                "content": Jsonb({"title": self.words(_WORDS, 1, 4), "blocks": [self.words(_WORDS, 5, 80)]}),
                "summary": self.words(_WORDS, 1, 5),
            },
        )

    def _change_project(self, touched: set[str]) -> Write | None:
        key = self._pick("archon_projects", touched)
        return key and self.write(
            "archon_projects",
            key,
            "UPDATE archon_projects AS t SET docs = %(docs)s, pinned = NOT pinned WHERE id = %(id)s RETURNING row_to_json(t.*)::text",
            {"id": key, "docs": Jsonb([{"id": self.uuid(), "title": self.words(_WORDS, 1, 4)}])},
        )  # type: ignore[return-value]

    def _new_link(self, _touched: set[str]) -> Write:
        key = self.uuid()
        return self.write(
            "archon_project_sources",
            key,
            "INSERT INTO archon_project_sources AS t (id, project_id, source_id, notes)"
            " VALUES (%(id)s, %(project)s, %(source)s, 'technical') RETURNING row_to_json(t.*)::text",
            {"id": key, "project": self.rng.choice(self._projects), "source": f"file_torture_{key}"},
        )


class Uploader(User):
    """Uploads a few files over and over, as Archon does: the pages of that name go, a new source and new pages come, each in a
    transaction of its own. Pages have their vector, or none while `nulls` is set. Edits a setting in between. Not often: an hnsw
    index whose deleted entries nobody has vacuumed finds less, and a run is right to build it anew."""

    def __init__(
        self, dsn: Callable[[], str], ledger: Ledger, seed: str, embed: Callable[[list[str]], list[str]]
    ) -> None:
        super().__init__("uploader", dsn, ledger, seed)
        self._embed = embed
        # Words of many kinds, or the pages would be so much alike that no index could tell them apart.
        self._vocabulary = sorted(set(re.findall(r"[a-z]{4,}", PAGES_TEXT.read_text(encoding="utf-8"))))
        self._steps: list[Callable[[psycopg.Connection, list[Write]], None]] = []
        self.nulls = threading.Event()
        self.nulls.set()

    def act(self, connection: psycopg.Connection, writes: list[Write]) -> None:
        if not self._steps:
            self.rest(1.0, 6.0)
            self._steps = self._upload() if self.rng.random() < 0.8 else [self._setting]
        self._steps.pop(0)(connection, writes)

    def start_over(self) -> None:
        self._steps = []

    def _upload(self) -> list[Callable[[psycopg.Connection, list[Write]], None]]:
        name = f"torture-{self.rng.randrange(5)}.md"
        source = f"file_{name.replace('.', '_')}_{time.time_ns()}"
        texts = [
            f"{self.words(self._vocabulary, 8, 40)}, {number} of {name}." for number in range(self.rng.randint(1, 4))
        ]
        if self.rng.random() < 0.1:
            texts.append("  \n")  # a blank page is never embedded
        without = self.rng.random() < 0.6

        def delete(connection: psycopg.Connection, writes: list[Write]) -> None:
            connection.execute("DELETE FROM archon_crawled_pages WHERE url = %s", (f"file://{name}",))
            # Also those of which nobody knows whether they ever came to be.
            writes += [
                Write(PAGES, key, None)
                for key, states in self.ledger.states(PAGES).items()
                if any(state is not None and state["url"] == f"file://{name}" for state in states)
            ]

        def announce(connection: psycopg.Connection, writes: list[Write]) -> None:
            statement = (
                "INSERT INTO archon_sources AS t (source_id, title, summary, total_word_count) VALUES (%(id)s, %(id)s, 'torture', 1)"
                " RETURNING row_to_json(t.*)::text"
            )
            writes.append(self.write("archon_sources", source, statement, {"id": source}))

        def insert(connection: psycopg.Connection, writes: list[Write]) -> None:
            vectors: list[str | None] = [None] * len(texts)
            if not (without and self.nulls.is_set()):
                if not self._takes_vectors(connection):
                    return
                vectors = [
                    vector if text.strip() else None for vector, text in zip(self._embed(texts), texts, strict=True)
                ]
            for number, (text, vector) in enumerate(zip(texts, vectors, strict=True)):
                statement = (
                    "INSERT INTO archon_crawled_pages AS t (url, chunk_number, content, metadata, source_id, embedding)"
                    " VALUES (%(url)s, %(number)s, %(text)s, %(metadata)s, %(source)s, %(vector)s::vector)"
                    " RETURNING row_to_json(t.*)::text"
                )
                values = {
                    "url": f"file://{name}",
                    "number": number,
                    "text": text,
                    "metadata": Jsonb({"filename": name, "knowledge_type": "technical"}),
                    "source": source,
                    "vector": vector,
                }
                writes.append(self.write(PAGES, "", statement, values))

        return [delete, announce, insert]

    def _takes_vectors(self, connection: psycopg.Connection) -> bool:
        found = connection.execute(
            "SELECT atttypmod FROM pg_attribute WHERE attrelid = 'archon_crawled_pages'::regclass AND attname = 'embedding'"
        ).fetchone()
        return found == (768,)

    def _setting(self, _connection: psycopg.Connection, writes: list[Write]) -> None:
        key = self.rng.choice((*FREE_SETTINGS, "TORTURE_NOTE"))
        statement = (
            "INSERT INTO archon_settings AS t (key, value, category) VALUES (%(key)s, %(value)s, 'torture')"
            " ON CONFLICT (key) DO UPDATE SET value = excluded.value RETURNING row_to_json(t.*)::text"
        )
        writes.append(self.write(SETTINGS, key, statement, {"key": key, "value": str(self.rng.randrange(10**6))}))


VICTIM = {errors.DeadlockDetected.sqlstate, errors.SerializationFailure.sqlstate}
