"""Which rows are embedded when vectors may be stale: by source on a real server, against what Python makes of the same rows."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import psycopg
import pytest
from archon_align.context import Context
from archon_align.database.session import Session, open_session
from archon_align.embedding.failures import RequestRejected
from archon_align.embedding.kinds import KINDS
from archon_align.embedding.selection import Selection
from archon_align.embedding.stale import StaleSource, selection, stale_sources
from archon_align.embedding.tables import EmbeddedTable, VectorType, find_table, vector_type
from archon_align.embedding.vectors import Vectors
from archon_align.embedding.verification import worst_cosine
from hypothesis import given, settings
from hypothesis import strategies as st
from psycopg import sql

D = 8
TABLE = """
CREATE TABLE archon_crawled_pages (id bigserial PRIMARY KEY, content text, source_id text, embedding vector);
CREATE TABLE archon_code_examples (id bigserial PRIMARY KEY, content text, summary text, embedding vector(8));
"""
ODD = ("plain", "", "o'%s {,\"\\ ", "ünï 🎻", "NULL", "%(x)s")
PREFIX = "search_document: "


def vector_of(text: str, model: str = "") -> Vectors:
    found = np.random.default_rng(zlib.crc32(f"{model}\0{text}".encode())).standard_normal(D)
    return (found / np.linalg.norm(found)).astype(np.float32)


class Service:
    """Embeds texts, refuses those with the word poison, and remembers the requests."""

    def __init__(self) -> None:
        self.requests: list[list[str]] = []

    def __call__(self, texts: Sequence[str]) -> Vectors:
        self.requests.append(list(texts))
        if any("poison" in text for text in texts):
            raise RequestRejected("Refused.", object_name="u", expected="", found="", remedy="", code="refused")
        return np.stack([vector_of(text) for text in texts])


def literal(vector: Vectors | None) -> str | None:
    return None if vector is None else "[" + ",".join(map(str, vector.tolist())) + "]"


@pytest.fixture
def prod(new_database: Callable[[str], str]) -> str:
    return new_database(TABLE)


@pytest.fixture
def session(prod: str, make_context: Callable[..., Context]) -> Iterator[Session]:
    context = make_context(prod, prod, phase="embeddings")
    with open_session(context, context.prod) as opened:
        vector_type(opened).register(opened)
        yield opened


def table(session: Session, kind: int = 0) -> tuple[EmbeddedTable, VectorType]:
    vector = vector_type(session)
    found = find_table(session, KINDS[kind], vector)
    assert found is not None
    return found, vector


def insert(dsn: str, rows: Sequence[tuple[str | None, str | None, Vectors | None]]) -> None:
    with psycopg.connect(dsn) as connection, connection.cursor() as cursor:
        cursor.executemany(
            "INSERT INTO archon_crawled_pages (content, source_id, embedding) VALUES (%s, %s, %s)",
            [(content, source, literal(vector)) for content, source, vector in rows],
        )


# -- the selection ---------------------------------------------------------------------------------------------------

HELD = {
    "nothing": None,
    "the same": vector_of("fresh"),
    "the same, longer": vector_of("fresh") * 3,
    "almost the same": vector_of("fresh") + np.float32(1e-4),
    "another": vector_of("other"),
    "the opposite": -vector_of("fresh"),
    "zeros": np.zeros(D, np.float32),
    "other dimensions": np.ones(D + 1, np.float32),
}
STAYS = {"the same", "the same, longer", "almost the same"}
SELECTIONS = st.builds(
    Selection, st.lists(st.sampled_from(ODD), unique=True).map(tuple), unnamed=st.booleans(), whole=st.booleans()
)


@pytest.fixture(scope="module")
def shared(server: Any) -> Iterator[str]:
    """A table that the examples of one test share; each leaves it as it was."""
    with psycopg.connect(server.dsn(), autocommit=True) as admin:
        admin.execute("CREATE DATABASE selections")
        with psycopg.connect(server.dsn("selections"), autocommit=True) as own:
            own.execute(f"CREATE EXTENSION vector; {TABLE}".encode())
        yield server.dsn("selections")
        admin.execute("DROP DATABASE selections WITH (FORCE)")


@pytest.fixture
def opened(shared: str, make_context: Callable[..., Context]) -> Iterator[Session]:
    context = make_context(shared, shared)
    with open_session(context, context.prod) as session:
        vector_type(session).register(session)
        yield session


def test_the_conditions_say_of_each_row_what_python_says(opened: Session) -> None:
    found, vector = table(opened)

    @settings(max_examples=60)
    @given(st.lists(st.tuples(st.sampled_from([*ODD, None]), st.sampled_from([*HELD])), max_size=12), SELECTIONS)
    def check(rows: list[tuple[str | None, str]], chosen: Selection) -> None:
        stale = [chosen.whole or (chosen.unnamed if source is None else source in chosen.sources) for source, _ in rows]
        wanted = [one or held == "nothing" for one, (_, held) in zip(stale, rows, strict=True)]
        replaced = [
            held == "nothing" or (one and held not in STAYS) for one, (_, held) in zip(stale, rows, strict=True)
        ]
        columns = [source for source, _ in rows], [literal(HELD[held]) for _, held in rows]
        query = sql.SQL(
            "SELECT {wanted} AS wanted, {replaces} AS replaced FROM ROWS FROM (unnest(%s::text[]), unnest(%s::public.vector[]))"
            " WITH ORDINALITY AS page(source_id, embedding, id)"
            " CROSS JOIN (SELECT %b::public.vector) AS fresh(embedding) ORDER BY page.id"
        ).format(wanted=chosen.wanted(found), replaces=chosen.replaces(found, vector))
        told = opened.rows(query, (*columns, vector_of("fresh")))
        assert [row["wanted"] for row in told] == wanted
        assert [row["replaced"] for row in told] == replaced

    check()


# -- stale sources ---------------------------------------------------------------------------------------------------


def rows_of(source: str | None, count: int, model: str = "", first: int = 0) -> list[tuple[str, str | None, Vectors]]:
    texts = [f"{source} text {n}" for n in range(first, first + count)]
    return [(text, source, vector_of(PREFIX + text, model)) for text in texts]


def test_sources_are_told_apart(prod: str, session: Session) -> None:
    insert(prod, rows_of("fresh", 40))
    insert(prod, rows_of("o'%s {,\"\\", 30, "old"))
    insert(prod, [*rows_of("stopped", 3), *rows_of("stopped", 20, "old", first=3)])
    insert(prod, rows_of(None, 6, "old"))
    insert(prod, [("short", "dimensions", np.ones(3, np.float32)), ("none", "zero", np.zeros(D, np.float32))])
    insert(prod, [("missing", "unembedded", None)])
    service = Service()
    found, vector = table(session)

    stale = stale_sources(session, found, vector, service, PREFIX)

    assert [(one.source, one.rows, one.mixed) for one in stale] == [
        ("o'%s {,\"\\", 30, False),
        ("stopped", 23, True),
        (None, 6, False),
        ("dimensions", 1, False),
        ("zero", 1, False),
    ]
    assert all(one.sampled <= 5 for one in stale)
    assert selection(stale) == Selection(("o'%s {,\"\\", "stopped", "dimensions", "zero"), unnamed=True)
    assert [len(request) for request in service.requests] == [len(service.requests[0])]
    assert all(text.startswith(PREFIX) for request in service.requests for text in request)


def test_one_vector_without_direction_or_of_other_dimensions_makes_a_source_stale(prod: str, session: Session) -> None:
    for name, vector in (("zero", np.zeros(D, np.float32)), ("long", np.ones(D + 1, np.float32))):
        insert(prod, [*rows_of(name, 2), ("last", name, vector)])
    stale = stale_sources(session, *table(session), Service(), PREFIX)
    assert {one.source: (one.rows, one.sampled - one.matching, one.mixed) for one in stale} == {
        "zero": (3, 1, True),
        "long": (3, 1, True),
    }


def test_a_table_without_sources_is_one(prod: str, session: Session) -> None:
    found, vector = table(session, 1)
    assert stale_sources(session, found, vector, Service(), "") == []
    fresh = literal(vector_of("code\n\nSummary: sum"))
    with psycopg.connect(prod) as connection:
        for held in (fresh, literal(vector_of("x"))):
            connection.execute("INSERT INTO archon_code_examples VALUES (DEFAULT, 'code', 'sum', %s)", (held,))
    stale = stale_sources(session, found, vector, Service(), "")
    assert stale == [StaleSource(None, 2, 2, 1, whole=True)]
    assert selection(stale) == Selection(whole=True)
    assert selection([]) == Selection()


def test_texts_that_are_blank_odd_or_refused(prod: str, session: Session) -> None:
    odd = ["\x01\x1b[31m\r\n\t text", "e\u0301 🎻 \u202e\ufffd", "x" * 200_000, "\U0010ffff\ud7ff"]
    insert(prod, [(text, "odd", vector_of(text)) for text in odd])
    insert(prod, [(text, "stale and refused", vector_of("y")) for text in ("poison 1", "text", "poison 2")])
    insert(prod, [(text, "fresh and refused", vector_of("good")) for text in ("poison 1", "good")])
    insert(prod, [("poison", "only refused", vector_of("y"))])
    insert(prod, [(text, "blank", vector_of("y")) for text in ("", " \n\t", None)])
    found, vector = table(session)
    service = Service()
    stale = stale_sources(session, found, vector, service, "")
    assert {one.source: (one.sampled, one.matching) for one in stale} == {
        "stale and refused": (1, 0),
        "only refused": (0, 0),
        "blank": (0, 0),
    }
    assert max(sum(map(len, request)) for request in service.requests if len(request) > 1) <= 100_000
    assert len(selection(stale).sources) == 3


def test_thousands_of_sources_are_a_few_requests(prod: str, session: Session) -> None:
    with psycopg.connect(prod) as connection:
        connection.execute(
            "INSERT INTO archon_crawled_pages (content, source_id, embedding)"
            " SELECT 'text ' || n %% 7, 'source ' || n %% 2000, %s FROM generate_series(1, 6000) n",
            (literal(vector_of("text 3")),),
        )
    found, vector = table(session)
    service = Service()
    stale = stale_sources(session, found, vector, service, "")
    assert 1900 < len(stale) <= 2000
    assert all(one.sampled in (2, 3) for one in stale)
    texts = sum(map(len, service.requests))
    assert len(service.requests) == -(-texts // 64)


# -- the sample after the rebuild ------------------------------------------------------------------------------------


@pytest.mark.parametrize("shuffle", [lambda b: b[::-1], lambda b: b[1:] + b[:1], lambda b: b[1::-1] + b[2:]])
def test_shuffled_batches_show_in_the_sample(prod: str, session: Session, shuffle: Callable[[list], list]) -> None:
    texts = [f"text {n}" for n in range(5)]
    insert(prod, [(text, "s", vector_of(PREFIX + made)) for text, made in zip(texts, shuffle(texts), strict=True)])
    found, vector = table(session)
    ids = [1, 2, 3, 4, 5]
    service = Service()
    worst = worst_cosine(session, found, vector, lambda sent: service(shuffle(list(sent))), PREFIX, ids)
    assert worst is not None
    assert worst[1] < 0.9
    assert len(service.requests) == 1


def test_the_sample_of_right_vectors_is_right_whatever_else_is_there(prod: str, session: Session) -> None:
    insert(prod, rows_of("s", 3))
    insert(prod, [("short", "s", np.ones(3, np.float32)), ("gone", "s", None)])
    found, vector = table(session)
    worst = worst_cosine(session, found, vector, Service(), PREFIX, [1, 2, 3, 4, 5, 6])
    assert worst is not None
    assert worst[1] > 0.9999
    assert worst_cosine(session, found, vector, Service(), PREFIX, [5, 6]) is None
    with psycopg.connect(prod) as connection:
        connection.execute("UPDATE archon_crawled_pages SET embedding = array_fill(0, ARRAY[8])::vector WHERE id = 2")
    assert worst_cosine(session, found, vector, Service(), PREFIX, [1, 2, 3]) == (2, -1.0)
