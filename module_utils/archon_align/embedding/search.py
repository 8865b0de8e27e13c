"""The proof of search: known queries through Archon's own functions, called as Archon calls them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import orjson
import psycopg
from numpy.typing import NDArray
from psycopg import sql

from ..database.session import Session
from ..errors import AlignError
from .asking import Asking, as_archon
from .functions import Function
from .kinds import KINDS, Kind
from .vectors import Vectors

Vector = NDArray[np.float32]

RESULTS = 5
_BATCH = 64
_SECTIONS = dict(zip(("pages", "code_examples"), KINDS, strict=True))


@dataclass(frozen=True, slots=True)
class Query:
    """A query and the row it must find: by url and chunk (any chunk when None), or any row of the same content, or one that
    holds a text."""

    kind: Kind
    text: str
    url: str
    chunk_number: int | None
    content: str | None = None
    holds: str | None = None

    def found_in(self, rows: Sequence[Mapping[str, object]]) -> bool:
        return any(
            (row["url"] == self.url and self.chunk_number in (None, row["chunk_number"]))
            or (self.content is not None and row["content"] == self.content)
            or (self.holds is not None and self.holds in str(row["content"]))
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


def embedded(queries: Sequence[Query], embed: Callable[[Sequence[str]], Vectors]) -> list[Vector]:
    """The queries' vectors, in order. Raises what `embed` raises."""
    texts = [query.text for query in queries]
    return [vector for start in range(0, len(texts), _BATCH) for vector in embed(texts[start : start + _BATCH])]


def prove(
    session: Session,
    queries: Sequence[Query],
    vectors: Sequence[Vector],
    functions: Mapping[str, Function],
    asking: Asking,
) -> Proof:
    """Run `queries` with their `vectors` through `functions` (by the kind's function name), as Archon does.

    Raises FunctionFailed when the server raises an error, which Archon would swallow.
    """
    nulls = 0
    missed = []
    for name, function in functions.items():
        call = sql.SQL(
            "SELECT url, chunk_number, content, similarity"
            " FROM {}(query_embedding => %b, match_count => {}, filter => '{{}}') AS found"
        ).format(function.identifier, sql.Literal(RESULTS))
        with failing(function), as_archon(session, asking, function.schema):
            for query, vector in zip(queries, vectors, strict=True):
                if query.kind.function != name:
                    continue
                rows = session.rows(call, (vector,))
                nulls += sum(row["similarity"] is None for row in rows)
                if not query.found_in(rows):
                    missed.append(query.text)
    return Proof(len(queries), len(queries) - len(missed), nulls, tuple(missed), asking.role)


class FunctionFailed(Exception):
    """Archon's function raised an error: `error` is the server's."""

    def __init__(self, function: Function, error: psycopg.Error) -> None:
        super().__init__(str(function))
        self.function = function
        self.error = error


@contextmanager
def failing(function: Function) -> Iterator[None]:
    """Any error of the server within the block is the function's."""
    try:
        yield
    except psycopg.Error as error:
        raise FunctionFailed(function, error) from error
