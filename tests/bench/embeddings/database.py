"""The table that every measurement fills: on the embedded server, with the run lock held as the keeper would."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psycopg
from archon_align.context import Context, Run
from archon_align.database.run_lock import LOCK_KEYS
from archon_align.database.target import Target
from archon_align.embedded.server import EmbeddedServer
from psycopg import sql

RUN_ID = "20260101-000000-abcdef"
TABLE = "archon_crawled_pages"
# The text of row n, as stub.texts() makes it: about 730 characters.
_TEXT = "n || repeat(' lorem ipsum', 60)"


def context_of(dsn: str, folder: Path) -> Context:
    """The context of a run that keeps its artifacts in `folder`."""
    return Context(run=Run(RUN_ID, folder), prod=Target("PROD", dsn), dev=Target("DEV", ""), phase="embeddings")


@dataclass(frozen=True, slots=True)
class Database:
    """A running server with the table, and where runs against it keep their artifacts."""

    dsn: str
    folder: Path

    @property
    def context(self) -> Context:
        return context_of(self.dsn, self.folder)

    def execute(self, statement: str, *arguments: object) -> None:
        with psycopg.connect(self.dsn, autocommit=True) as admin:
            admin.execute(statement.encode(), arguments or None)

    def value(self, query: str) -> int:
        """The first column of the first row, as a whole number."""
        with psycopg.connect(self.dsn, autocommit=True) as admin:
            row = admin.execute(query.encode()).fetchone()
            return int(row[0]) if row else 0

    def fill(self, rows: int, dimensions: int = 768, texts: tuple[str, ...] = ()) -> None:
        """Put `rows` rows without embedding into a new table; `texts`, repeated, in place of the usual ones."""
        with psycopg.connect(self.dsn, autocommit=True) as admin:
            admin.execute(f"DROP TABLE IF EXISTS {TABLE}")
            admin.execute(
                sql.SQL(
                    "CREATE TABLE {} (id bigserial PRIMARY KEY, url varchar NOT NULL, chunk_number int NOT NULL,"
                    " content text NOT NULL, embedding vector({}))"
                ).format(sql.Identifier(TABLE), sql.Literal(dimensions))
            )
            text = "(%(texts)s::text[])[1 + (n - 1) %% cardinality(%(texts)s::text[])]" if texts else _TEXT
            admin.execute(
                f"INSERT INTO {TABLE} (url, chunk_number, content) SELECT 'u', n, {text} FROM generate_series(1, %(rows)s) n".encode(),
                {"rows": rows, "texts": list(texts)},
            )
            admin.execute(f"VACUUM ANALYZE {TABLE}")
            admin.execute("CHECKPOINT")


@contextmanager
def running(folder: Path, settings: Mapping[str, str] | None = None) -> Iterator[Database]:
    """A server below `folder` for as long as the block lasts, also when the process is told to end."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    with EmbeddedServer(folder / "server", settings=settings) as server:
        with psycopg.connect(server.dsn(), autocommit=True) as admin:
            admin.execute("CREATE EXTENSION vector")
        with psycopg.connect(server.dsn(), autocommit=True, application_name=f"align keeper {RUN_ID}") as keeper:
            keeper.execute("SELECT pg_advisory_lock(%s, %s)", LOCK_KEYS)
            yield Database(server.dsn(), folder)
