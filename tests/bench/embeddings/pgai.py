"""pgai's vectorizer worker on the same table and the same stub.

It works without its extension. Its extra `vectorizer-worker` draws in gigabytes for parsing documents, which nothing here
uses: what the worker imports is named instead. A model that its tokenizer does not know keeps it from downloading one.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from . import stub
from .database import TABLE, Database
from .figures import Unavailable, must, say
from .peers import environment

VERSION = "0.12.1"
PACKAGES = (
    f"pgai=={VERSION}",
    "pgvector==0.5.1",
    "numpy==2.5.5",
    "openai==1.109.1",
    "tiktoken==0.14.0",
    "tokenizers==0.23.3",
    "ollama==0.5.4",
    "langchain-text-splitters==0.3.11",
    "ijson==3.6.0",
    "filetype==1.2.0",
)
COLUMN = "embedding_pgai"
_VECTORIZER = f"""
SELECT ai.create_vectorizer('public.{TABLE}'::regclass, destination => ai.destination_column('{COLUMN}'),
  loading => ai.loading_column('content'), chunking => ai.chunking_none(), parsing => ai.parsing_none(),
  embedding => ai.embedding_openai(%s, %s, base_url => %s), scheduling => ai.scheduling_none(),
  processing => ai.processing_default(batch_size => %s))
"""


def measure(folder: Path, database: Database, slots: int, rows: int, ours: float, batch: int) -> None:
    """Its share of the capacity, with its default of one request at a time and with two for each slot."""
    command = environment(folder / "pgai", PACKAGES) / "pgai"
    for concurrency in (1, 2 * slots):
        database.fill(rows)
        database.execute("DROP SCHEMA IF EXISTS ai CASCADE")
        must([str(command), "install", "--db-url", database.dsn], "pgai install")
        with stub.running(stub.Model(slots)) as endpoint:
            url = f"{endpoint.urls[0]}/v1"
            database.execute(_VECTORIZER, stub.MODEL, endpoint.model.dimensions, url, batch)
            _work(command, database.dsn, concurrency)
            served = endpoint.served()
        written = database.value(f"SELECT count({COLUMN}) FROM {TABLE}")
        if written != rows:
            raise Unavailable(f"it wrote {written} of {rows} vectors")
        rate = rows / (served.last - served.first)
        say(
            f"pgai {VERSION}, {slots} slot(s), concurrency {concurrency}{' (its default)' if concurrency == 1 else ''}: {rows} rows, {rate:.0f} rows/s"
            f" from its first request to its last answer, ratio {rate / endpoint.capacity(batch):.3f}; ours {ours:.3f}"
        )


def _work(command: Path, dsn: str, concurrency: int) -> None:
    work = [
        "vectorizer",
        "worker",
        "--once",
        "--db-url",
        dsn,
        "--concurrency",
        str(concurrency),
        "--log-level",
        "ERROR",
    ]
    done = subprocess.run(
        [str(command), *work], env={**os.environ, "OPENAI_API_KEY": "none"}, capture_output=True, text=True, check=False, timeout=1200
    )  # fmt: skip
    if done.returncode:
        raise Unavailable(f"its worker ended with {done.returncode}: {(done.stderr or done.stdout)[-300:]}")
