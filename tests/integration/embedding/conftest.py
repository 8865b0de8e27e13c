"""What the tests of embeddings share: a healthy service and a PROD with pages that lack their vectors."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import psycopg
import pytest
from archon_align.context import Context
from archon_align.embedding.endpoint import Endpoint
from archon_align.embedding.phase import Options
from embedding_rows import TABLES

from lab.embedding_service import RunningService, serve

MODEL = "nomic-embed-text"
SUBJECTS = ("violins", "volcanoes", "compilers", "bread", "glaciers", "chess", "bees", "sailing", "vaccines", "bridges")
PAGES = [
    f"Page {n} is about {SUBJECTS[n % 10]} number {n}, with {SUBJECTS[(n // 10) % 10]} in passing. It closes with {'x' * (n % 7)}."
    for n in range(93)
]
EXAMPLES = [(f"def f{n}():\n    return {n}", f"Returns {n} for {SUBJECTS[n % 10]}") for n in range(12)]


@pytest.fixture(scope="session")
def shared_service() -> Iterator[RunningService]:
    with serve() as running:
        yield running


@pytest.fixture
def service(shared_service: RunningService) -> Iterator[RunningService]:
    """A healthy embedding service; faults that a test sets end with it."""
    shared_service.set_faults()
    shared_service.forget_requests()
    yield shared_service
    shared_service.set_faults()


@pytest.fixture
def fill() -> Callable[[str], None]:
    """Call with a DSN to insert 93 pages and 12 code examples, all without vector."""

    def insert(dsn: str) -> None:
        with psycopg.connect(dsn) as owner, owner.cursor() as cursor:
            cursor.executemany(
                "INSERT INTO archon_crawled_pages (url, chunk_number, content) VALUES (%s, %s, %s)",
                [(f"https://example.org/{n // 4}", n % 4, text) for n, text in enumerate(PAGES)],
            )
            cursor.executemany(
                "INSERT INTO archon_code_examples (url, chunk_number, content, summary) VALUES (%s, %s, %s, %s)",
                [("https://example.org/code", n, *texts) for n, texts in enumerate(EXAMPLES)],
            )

    return insert


@pytest.fixture
def prod(new_database: Callable[[str], str], fill: Callable[[str], None]) -> str:
    dsn = new_database(TABLES.format(schema="public", dimensions=768))
    fill(dsn)
    return dsn


@pytest.fixture
def options(service: RunningService) -> Callable[..., Options]:
    """Options against the service, impatient ones; others by keyword."""

    def make(*, timeout: float = 10.0, model: str = MODEL, base_url: str = "", **fields: object) -> Options:
        endpoint = Endpoint(base_url or service.base_url, model, 768, timeout=timeout)
        return Options((endpoint,), **{"stall_timeout": 30.0, "sample": 1, **fields})  # type: ignore[arg-type]

    return make


@pytest.fixture
def ready(prod: str, make_context: Callable[..., Context], hold_run_lock: Callable[..., object]) -> Context:
    """The context of a run that holds PROD's lock."""
    hold_run_lock(prod)
    return make_context(prod, prod, phase="embeddings")
