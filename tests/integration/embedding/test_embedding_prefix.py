"""The prefix is told by the vectors that are there, with real vectors on real servers; else it is as configured."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack

import numpy as np
import psycopg
import pytest
from archon_align.context import Context
from archon_align.database.session import Session, open_session
from archon_align.embedding.failures import RequestRejected, ServiceUnavailable
from archon_align.embedding.kinds import KINDS
from archon_align.embedding.prefix import NOMIC, Prefix, find_prefix
from archon_align.embedding.tables import find_table, vector_type
from archon_align.embedding.vectors import Vectors
from archon_align.schema.vectors import marker
from embedding_rows import TABLES

from lab.vectors import load

UNDECLARED = TABLES.format(schema="public", dimensions=768).replace("vector(768)", "vector")
SENTENCES = [
    f"{subject} {verb} {place}, as {number} reports say; see chapter {number + 7} for what follows from it."
    for number, (subject, verb, place) in enumerate(
        (a, b, c)
        for a in ("Volcanoes", "Violins", "Compilers", "Glaciers", "Bees")
        for b in ("are measured", "were first described", "fail")
        for c in ("in Iceland", "by their sound", "under load", "in winter")
    )
]


class Service:
    """The lab's vectors without the network; `refused` is a word that makes a request fail."""

    def __init__(self, refused: str = "\0") -> None:
        self.requests: list[list[str]] = []
        self.refused = refused

    def __call__(self, texts: Sequence[str]) -> Vectors:
        self.requests.append(list(texts))
        if any(self.refused in text for text in texts):
            raise RequestRejected("Refused.", object_name="u", expected="", found="", remedy="", code="refused")
        return load().embed(list(texts))[0]


def made(text: str, prefix: str) -> Vectors:
    return load().embed([prefix + text])[0][0]


def another_model(text: str, _: str = "") -> Vectors:
    found = np.random.default_rng(len(text) + sum(map(ord, text))).standard_normal(768)
    return (found / np.linalg.norm(found)).astype(np.float32)


def put(
    dsn: str,
    texts: Sequence[str | None],
    vectors: Sequence[Vectors | None],
    *,
    source: Callable[[int], str] = lambda n: f"s{n % 5}",
    column: str = "embedding",
) -> None:
    with psycopg.connect(dsn) as connection, connection.cursor() as cursor:
        (first,) = cursor.execute("SELECT count(*) FROM archon_crawled_pages").fetchone() or (0,)
        cursor.executemany(
            "INSERT INTO archon_crawled_pages (url, chunk_number, content, source_id, "
            + column
            + ") VALUES ('u', %s, %s, %s, %s)",
            [
                (first + n, text, source(n), None if vector is None else str(vector.tolist()))
                for n, (text, vector) in enumerate(zip(texts, vectors, strict=True))
            ],
        )


@pytest.fixture
def prod(new_database: Callable[[str], str]) -> str:
    return new_database(TABLES.format(schema="public", dimensions=768))


@pytest.fixture
def dev(new_database: Callable[[str], str]) -> str:
    return new_database(TABLES.format(schema="public", dimensions=768))


@pytest.fixture
def asked(make_context: Callable[..., Context]) -> Iterator[Callable[..., Prefix]]:
    """Call with the DSNs of PROD and DEV to get what find_prefix says."""
    with ExitStack() as stack:

        def ask(
            prod: str, dev: str, configured: str = "", embed: Callable[[Sequence[str]], Vectors] | None = None,
            beside: int | None = None, check: bool = True,
        ) -> Prefix:  # fmt: skip
            context = make_context(prod, dev, check=check)
            session: Session = stack.enter_context(open_session(context, context.prod))
            vector = vector_type(session)
            tables = [find_table(session, kind, vector, beside) for kind in KINDS]
            there = [table for table in tables if table is not None]
            return find_prefix(session, there, vector, 768, embed or Service(), configured)

        yield ask


@pytest.mark.parametrize("prefix", ["", NOMIC, "passage: "])
def test_prod_tells(prod: str, dev: str, asked: Callable[..., Prefix], prefix: str) -> None:
    put(prod, SENTENCES, [made(text, prefix) for text in SENTENCES])
    service = Service()
    found = asked(prod, dev, "passage: ", service)
    assert (found.prefix, found.source) == (prefix, "evidence")
    assert found.evidence["PROD"]["votes"][prefix] == 8
    assert [one.code for one in found.findings] == ([] if prefix == "passage: " else ["embedding_prefix_found"])
    assert all("'passage: '" in one.message and one.severity == "warning" for one in found.findings)
    assert [len(request) for request in service.requests] == [8 * 3]


def test_dev_tells_where_prod_has_none_and_its_vectors_are_of_both_tables(
    prod: str, dev: str, asked: Callable[..., Prefix]
) -> None:
    put(prod, SENTENCES, [None] * len(SENTENCES))
    with psycopg.connect(dev) as connection:
        for n, text in enumerate(SENTENCES[:5]):
            vector = str(made(f"{text}\n\nSummary: what {n}", NOMIC).tolist())
            values = (n, text, f"what {n}", vector)
            query = "INSERT INTO archon_code_examples (url, chunk_number, content, summary, embedding) VALUES ('u', %s, %s, %s, %s)"
            connection.execute(query, values)
    found = asked(prod, dev)
    assert (found.prefix, found.source) == (NOMIC, "evidence")
    assert {name: told["sampled"] for name, told in found.evidence.items()} == {"DEV": 5}
    assert [(one.code, one.severity, one.object) for one in found.findings] == [
        ("embedding_prefix_found", "info", "DEV: embeddings")
    ]


def test_prod_of_another_model_does_not_tell_but_dev_does(prod: str, dev: str, asked: Callable[..., Prefix]) -> None:
    put(prod, SENTENCES, [another_model(text) for text in SENTENCES])
    found = asked(prod, dev, NOMIC)
    assert (found.prefix, found.source) == (NOMIC, "configured")
    assert [one.code for one in found.findings] == ["embedding_prefix_unknown"]
    assert "median cosine" in found.findings[0].message
    put(dev, SENTENCES, [made(text, "") for text in SENTENCES])
    found = asked(prod, dev, NOMIC)
    assert (found.prefix, found.source) == ("", "evidence")
    assert [one.code for one in found.findings] == ["embedding_prefix_unknown", "embedding_prefix_found"]


@pytest.mark.parametrize(
    "where", ["postgresql://nobody@127.0.0.1:1/none", "", "no such = dsn", "a database without tables"]
)
def test_dev_need_not_be_there(
    prod: str, new_database: Callable[[str], str], asked: Callable[..., Prefix], where: str
) -> None:
    where = new_database("") if where.startswith("a ") else where
    assert asked(prod, where, "passage: ") == Prefix("passage: ", "configured")


def test_edited_zero_blank_and_contextual_rows_do_not_mislead(
    prod: str, dev: str, asked: Callable[..., Prefix]
) -> None:
    contextual = [f"This chunk is of the manual.\\n{text}" for text in SENTENCES]  # stored as it was embedded
    put(prod, contextual, [made(text, NOMIC) for text in contextual])
    put(
        prod,
        [f"Edited: {n}" for n in range(9)],
        [made(text, NOMIC) for text in SENTENCES[:9]],
        source=lambda n: f"e{n % 2}",
    )
    put(prod, ["zero"] * 3, [np.zeros(768, np.float32)] * 3, source=lambda _: "zero")
    put(prod, ["", " \n\t", ""], [made("something", "")] * 3, source=lambda _: "blank")
    found = asked(prod, dev)
    assert (found.prefix, found.source) == (NOMIC, "evidence")
    assert found.evidence["PROD"]["votes"][NOMIC] < 8


def test_sources_of_both_kinds_tell_nothing(prod: str, dev: str, asked: Callable[..., Prefix]) -> None:
    put(prod, SENTENCES[:30], [made(text, "") for text in SENTENCES[:30]], source=lambda n: f"a{n % 4}")
    put(prod, SENTENCES[30:], [made(text, NOMIC) for text in SENTENCES[30:]], source=lambda n: f"b{n % 4}")
    found = asked(prod, dev)
    assert (found.prefix, found.source) == ("", "configured")
    assert found.evidence["PROD"]["votes"] == {"": 4, NOMIC: 4}
    assert [one.code for one in found.findings] == ["embedding_prefix_unknown"]


def test_vectors_of_other_dimensions_are_no_evidence_in_a_column_that_declares_none(
    new_database: Callable[[str], str], dev: str, asked: Callable[..., Prefix]
) -> None:
    prod = new_database(UNDECLARED)
    put(prod, SENTENCES * 8, [np.ones(3, np.float32)] * len(SENTENCES) * 8)
    assert asked(prod, dev, NOMIC) == Prefix(NOMIC, "configured")
    put(prod, SENTENCES[:3], [made(text, "") for text in SENTENCES[:3]])
    put(prod, SENTENCES * 8, [np.ones(3, np.float32)] * len(SENTENCES) * 8)
    found = asked(prod, dev, NOMIC)
    assert (found.prefix, found.evidence["PROD"]["sampled"]) == ("", 3)


def test_vectors_gathered_beside_a_column_of_other_dimensions(
    new_database: Callable[[str], str], dev: str, asked: Callable[..., Prefix]
) -> None:
    prod = new_database(
        TABLES.format(schema="public", dimensions=3)
        + "ALTER TABLE archon_crawled_pages ADD embedding_rebuilt vector(768);"
    )
    with psycopg.connect(prod) as connection:
        connection.execute(
            f"COMMENT ON COLUMN archon_crawled_pages.embedding_rebuilt IS '{marker('embedding')}'".encode()
        )
    put(prod, SENTENCES, [np.ones(3, np.float32)] * len(SENTENCES))
    assert asked(prod, dev, beside=768).source == "configured"
    put(prod, SENTENCES, [made(text, NOMIC) for text in SENTENCES], column="embedding_rebuilt")
    assert asked(prod, dev, beside=768).prefix == NOMIC


def test_few_vectors_among_many_rows_are_found(prod: str, dev: str, asked: Callable[..., Prefix]) -> None:
    with psycopg.connect(prod) as connection:
        connection.execute(
            "INSERT INTO archon_crawled_pages (id, url, chunk_number, content)"
            " SELECT -9223372036854775808 + n, 'w', n, 'row ' || n FROM generate_series(0, 20000) n"
        )
        connection.execute(
            "INSERT INTO archon_crawled_pages (id, url, chunk_number, content, embedding) VALUES (9223372036854775807, 'v', 1, %s, %s)",
            (SENTENCES[0], str(made(SENTENCES[0], NOMIC).tolist())),
        )
        connection.execute(
            "INSERT INTO archon_crawled_pages (id, url, chunk_number, content, embedding) VALUES (-9223372036854775807, 'v', 2, %s, %s)"
            " ON CONFLICT (id) DO UPDATE SET content = EXCLUDED.content, embedding = EXCLUDED.embedding",
            (SENTENCES[1], str(made(SENTENCES[1], NOMIC).tolist())),
        )
    found = asked(prod, dev)
    assert (found.prefix, found.evidence["PROD"]["sampled"]) == (NOMIC, 2)


def test_refused_and_huge_texts_and_a_service_that_is_down(prod: str, dev: str, asked: Callable[..., Prefix]) -> None:
    odd = ["\x01\x1b[31mcontrol\r\n", "e\u0301 🎻 \u202e", "word " * 100_000]
    texts = [*odd, *SENTENCES[:9]]
    put(prod, texts, [made(text, NOMIC) for text in texts], source=str)
    found = asked(prod, dev, "", Service(refused=SENTENCES[0]))
    assert (found.prefix, found.source) == (NOMIC, "evidence")
    assert asked(prod, dev, "passage: ", Service(refused=" ")).source == "configured"

    def down(_: Sequence[str]) -> Vectors:
        raise ServiceUnavailable("Down.", object_name="u", expected="", found="", remedy="", code="down")

    with pytest.raises(ServiceUnavailable):
        asked(prod, dev, "", down)


def test_a_model_that_knows_no_prefix_is_embedded_as_configured(
    prod: str, dev: str, asked: Callable[..., Prefix]
) -> None:
    put(prod, SENTENCES, [made(text, "") for text in SENTENCES])
    found = asked(prod, dev, NOMIC, lambda texts: Service()([text.removeprefix(NOMIC) for text in texts]))
    assert (found.prefix, found.source, found.findings) == (NOMIC, "configured", ())
