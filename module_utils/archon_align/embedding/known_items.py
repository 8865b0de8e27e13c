"""Queries for a database without a query file: a sentence from the middle of a page must find its page."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from psycopg import sql

from ..database.session import Session
from .search import Query
from .tables import EmbeddedTable

_WANTED = 25
# Pages among which a sentence must be rare, and what is looked at of each: a service may cut longer texts off.
_PAGES = 2000
_CHARACTERS = 6000
# A sentence of more pages than these is furniture: a licence, a menu, a notice on cookies.
_RARE = 2
# Full stops, question and exclamation marks of other scripts end a sentence without a space: ideographic, Devanagari, Arabic.
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+|(?<=[\u3002\uff01\uff1f\u0964\u061f])\s*|\n+")
_FENCED = re.compile(r"^\s*(```|~~~).*?^\s*\1[`~]*\s*$", re.DOTALL | re.MULTILINE)
_LENGTH = range(30, 400)
# Scripts that write without spaces, or nearly so, say as much in half the characters.
_DENSE = re.compile(r"[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]")
_DENSE_LENGTH = range(12, 200)
_OF_CODE = frozenset('{}[]()<>=;|_#`\\*/$@&^~+"')
_MOST_OF_CODE = 0.06
_FEWEST_LETTERS = 0.7
_FEWEST_WORDS = 5
_PASSAGE = 200


@dataclass(frozen=True, slots=True)
class Items:
    """Queries, and by each the page's own text, as far as it was looked at. `passages` of them are no sentences of prose."""

    queries: tuple[Query, ...]
    texts: tuple[str, ...]
    passages: int = 0


def sampled_queries(session: Session, found: EmbeddedTable) -> Items:
    """Known-item queries: a sentence from the middle of a page must find a page that has it, a summary its code example.

    The same for the same rows. No page is asked for twice, whatever its URLs; no sentence is used that many pages have. Pages
    without prose are asked for by a passage, only when there are too few others.
    """
    columns = found.kind.columns
    parts = [
        sql.SQL("left({}, {}) AS {}").format(sql.Identifier("page", one), sql.Literal(_CHARACTERS), sql.Identifier(one))
        for one in columns
    ]
    rows = session.rows(
        sql.SQL(
            # Chosen by id alone: of the texts only those that are wanted are read.
            "SELECT url, chunk_number, {parts} FROM {table} AS page JOIN (SELECT page.id FROM {table} AS page"
            " WHERE {vector} IS NOT NULL ORDER BY pg_catalog.hashint8(page.id), page.id LIMIT {limit}) AS chosen"
            " ON chosen.id = page.id ORDER BY pg_catalog.hashint8(page.id), page.id"
        ).format(
            parts=sql.SQL(", ").join(parts),
            vector=found.vector,
            table=found.table.identifier,
            limit=sql.Literal(_PAGES),
        )
    )
    asked_of = columns[-1]  # the content of a page, the summary of a code example
    different = {str(row[asked_of] or "").strip(): row for row in rows}
    different.pop("", None)
    texts = list(different)
    # Two examples may have the same summary, and either is right; one that many have finds none of them for sure.
    counts = (
        {text: sum(str(row[asked_of] or "").strip() == text for row in rows) for text in texts}
        if len(columns) > 1
        else {}
    )
    queries: list[Query] = []
    whole: list[str] = []
    passages: list[tuple[Query, str]] = []
    for text, row in different.items():
        if len(queries) == _WANTED:
            break
        own = found.kind.text([row[column] for column in columns])
        if len(columns) > 1:
            sentence = text[: _LENGTH.stop] if counts[text] <= _RARE else None
        else:
            sentence = next((one for one in sentences(text) if _is_rare(one, texts)), None)
        if sentence is not None:
            queries.append(_query(found, row, sentence))
            whole.append(own)
        elif len(passages) < _WANTED and (passage := _passage(text)) and _is_rare(passage, texts):
            passages.append((_query(found, row, passage), own))
    added = passages[: _WANTED - len(queries)]
    return Items((*queries, *(query for query, _ in added)), (*whole, *(own for _, own in added)), len(added))


def _query(found: EmbeddedTable, row: dict[str, Any], text: str) -> Query:
    whole = row["content"] if len(row["content"] or "") < _CHARACTERS else None
    held = text if len(found.kind.columns) == 1 else None
    return Query(found.kind, text, row["url"], row["chunk_number"], content=whole, holds=held)


def sentences(text: str) -> Iterator[str]:
    """The sentences of prose in `text`, the one nearest to the middle first: no fragments, no code, no tables."""
    every = [one.strip() for one in _SENTENCE_END.split(_FENCED.sub("\n", text))]
    middle = (len(every) - 1) / 2
    for _, one in sorted(enumerate(every), key=lambda pair: abs(pair[0] - middle)):
        if is_prose(one):
            yield one


def is_prose(sentence: str) -> bool:
    """Whether a sentence says something in a language that people speak."""
    dense = len(_DENSE.findall(sentence)) * 2 > len(sentence)
    if len(sentence) not in (_DENSE_LENGTH if dense else _LENGTH):
        return False
    letters = sum(one.isalpha() or one.isspace() for one in sentence)
    code = sum(one in _OF_CODE for one in sentence)
    return (
        letters >= _FEWEST_LETTERS * len(sentence)
        and code <= _MOST_OF_CODE * len(sentence)
        and (dense or len(sentence.split()) >= _FEWEST_WORDS)
    )


def _is_rare(sentence: str, texts: Sequence[str]) -> bool:
    having = 0
    for text in texts:
        having += sentence in text
        if having > _RARE:
            return False
    return True


def _passage(text: str) -> str:
    start = max(0, (len(text) - _PASSAGE) // 2)
    return text[start : start + _PASSAGE].strip()
