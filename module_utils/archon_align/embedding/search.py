"""The proof of search: known queries through Archon's own functions, called as Archon calls them."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import orjson
from psycopg import sql

from ..database.session import Session
from ..errors import AlignError
from .kinds import KINDS, Kind
from .tables import EmbeddedTable
from .vectors import Vectors

RESULTS = 5
_SAMPLED = 25
_BATCH = 64
_ARCHONS_ROLE = "service_role"
_SECTIONS = dict(zip(("pages", "code_examples"), KINDS, strict=True))
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+|\n+")
_SENTENCE = range(30, 400)


@dataclass(frozen=True, slots=True)
class Query:
    """A query and the row it must find: by url and chunk (any chunk when None), or any row of the same content."""

    kind: Kind
    text: str
    url: str
    chunk_number: int | None
    content: str | None = None

    def found_in(self, rows: Sequence[Mapping[str, object]]) -> bool:
        return any(
            (row["url"] == self.url and self.chunk_number in (None, row["chunk_number"]))
            or (self.content is not None and row["content"] == self.content)
            for row in rows
        )


@dataclass(frozen=True, slots=True)
class Proof:
    """What the queries gave. `role` is the role they ran as, '' for the session's own."""

    queries: int
    hits: int
    null_similarities: int
    missed: tuple[str, ...]
    role: str

    @property
    def recall(self) -> float | None:
        return round(self.hits / self.queries, 4) if self.queries else None


def read_queries(file: str) -> list[Query]:
    """The queries of a file {"pages": [{"query", "url", "chunk_number"}], "code_examples": [...]}; raises AlignError."""
    try:
        content = orjson.loads(Path(file).read_bytes())
    except OSError as error:
        raise _bad_file(file, "a readable file", error.strerror or str(error)) from error
    except orjson.JSONDecodeError as error:
        raise _bad_file(file, "JSON", str(error)) from error
    if not isinstance(content, dict) or not set(content) <= set(_SECTIONS):
        raise _bad_file(file, f"an object with the keys {' and '.join(_SECTIONS)}", "something else")
    queries = []
    for section, kind in _SECTIONS.items():
        entries = content.get(section, [])
        if not isinstance(entries, list):
            raise _bad_file(file, f"a list under {section}", type(entries).__name__)
        for number, entry in enumerate(entries):
            queries.append(_query(file, f"{section}[{number}]", kind, entry))
    if not queries:
        raise _bad_file(file, "at least one query", "none")
    return queries


def _query(file: str, where: str, kind: Kind, entry: object) -> Query:
    text, url, chunk = (
        (entry.get("query"), entry.get("url"), entry.get("chunk_number")) if isinstance(entry, dict) else (None,) * 3
    )
    known = isinstance(text, str) and text.strip() and isinstance(url, str) and url
    if not known or not (chunk is None or type(chunk) is int):
        raise _bad_file(
            file,
            "texts under query and url, and a whole number (or nothing) under chunk_number",
            f"otherwise at {where}",
        )
    assert isinstance(text, str)
    assert isinstance(url, str)
    return Query(kind, text, url, chunk)


def _bad_file(file: str, expected: str, found: str) -> AlignError:
    return AlignError(
        "The file of search queries cannot be used.",
        object_name=file,
        expected=expected,
        found=found,
        remedy="Correct the file that archon_search_queries_file names, or set it to '' to sample queries from the pages.",
        code="search_queries_file",
    )


def sampled_queries(session: Session, found: EmbeddedTable) -> list[Query]:
    """Known-item queries: a sentence from the middle of a page must find its page, a summary its code example."""
    rows = session.rows(
        sql.SQL(
            "SELECT url, chunk_number, {columns} FROM {table} WHERE embedding IS NOT NULL"
            " ORDER BY pg_catalog.hashint8(id), id LIMIT {limit}"
        ).format(
            columns=sql.SQL(", ").join(map(sql.Identifier, found.kind.columns)),
            table=found.table.identifier,
            limit=sql.Literal(_SAMPLED),
        )
    )
    queries = []
    for row in rows:
        text = (row["summary"] or "").strip() if "summary" in row else ""
        text = text or middle_sentence(row["content"])
        if text:
            queries.append(Query(found.kind, text, row["url"], row["chunk_number"], row["content"]))
    return queries


def middle_sentence(content: str) -> str:
    """The sentence nearest to the middle of `content` that is neither a fragment nor a page; else its middle part."""
    sentences = [sentence.strip() for sentence in _SENTENCE_END.split(content)]
    middle = len(sentences) // 2
    fitting = [number for number, sentence in enumerate(sentences) if len(sentence) in _SENTENCE]
    if fitting:
        return sentences[min(fitting, key=lambda number: abs(number - middle))]
    start = max(0, len(content) // 2 - _SENTENCE.stop // 4)
    return content[start : start + _SENTENCE.stop // 2].strip()


def prove(
    session: Session, queries: Sequence[Query], schemas: Mapping[str, str], embed: Callable[[Sequence[str]], Vectors]
) -> Proof:
    """Run `queries` through the functions in `schemas` (by function name). Embeds first: no transaction waits for HTTP.

    Raises psycopg.Error as the server raises it to Archon, and what `embed` raises.
    """
    vectors = [
        vector
        for start in range(0, len(queries), _BATCH)
        for vector in embed([q.text for q in queries[start : start + _BATCH]])
    ]
    hits, nulls = 0, 0
    missed = []
    with _as_archon(session) as role:
        for query, vector in zip(queries, vectors, strict=True):
            rows = session.rows(
                sql.SQL(
                    "SELECT url, chunk_number, content, similarity"
                    " FROM {}(query_embedding => %b, match_count => {}) AS found"
                ).format(sql.Identifier(schemas[query.kind.function], query.kind.function), sql.Literal(RESULTS)),
                (vector,),
            )
            nulls += sum(row["similarity"] is None for row in rows)
            if query.found_in(rows):
                hits += 1
            else:
                missed.append(query.text)
    return Proof(len(queries), hits, nulls, tuple(missed), role)


@contextmanager
def _as_archon(session: Session) -> Iterator[str]:
    """A read-only transaction with the settings that Supabase's REST layer gives Archon's requests; yields the role.

    The functions' bodies name tables and operators without schema, so the pinned search_path must give way. Row-level
    security applies as it does to Archon: here a hidden row is not a zero to be feared but a miss to be counted.
    """
    version = session.connection.info.server_version
    row = session.row(
        "SELECT count(*) AS member FROM pg_roles WHERE rolname = %s AND pg_has_role(oid, %s)",
        (_ARCHONS_ROLE, "SET" if version >= 160000 else "MEMBER"),
    )
    role = _ARCHONS_ROLE if row and row["member"] else ""
    with session.transaction("BEGIN READ ONLY"):
        session.execute("SET LOCAL search_path TO DEFAULT")
        session.execute("SET LOCAL row_security = on")
        if role:
            session.rows(
                "SELECT pg_catalog.set_config('request.jwt.claim.role', %s, true),"
                " pg_catalog.set_config('request.jwt.claims', %s, true)",
                (role, orjson.dumps({"role": role}).decode()),
            )
            session.execute(sql.SQL("SET LOCAL ROLE {}").format(sql.Identifier(role)))
        yield role
