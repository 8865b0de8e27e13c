"""The keyset reader: rows without embedding in id order, in batches bounded by count and characters."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass

from psycopg import sql

from ..database.session import Session
from .tables import EmbeddedTable


@dataclass(frozen=True, slots=True)
class Row:
    """One row to embed, with the hash of its text as it was read."""

    id: int
    text: str
    text_hash: int
    blank: bool


@dataclass(frozen=True, slots=True)
class Limits:
    """What one request may hold. A single text above `characters` travels alone."""

    texts: int = 64
    characters: int = 100_000


# Four batches per read keep the queue filled; the byte bound keeps memory flat however long the texts are.
_BATCHES_PER_READ = 4


def rows_without_embedding(session: Session, found: EmbeddedTable, limits: Limits) -> Iterator[Row]:
    """Every row whose embedding is NULL when its turn comes, in id order, each read once. Rows that come in after the first
    are left to another walk: somebody who writes faster than the service embeds is not chased for ever.

    Each read is one statement of its own: no transaction stays open while the caller works.
    """
    columns = [sql.Identifier("page", name) for name in found.kind.columns]
    size = sql.SQL(" + ").join(sql.SQL("coalesce(pg_catalog.octet_length({}), 0)").format(column) for column in columns)
    query = sql.SQL(
        "SELECT page.id, {columns}, {text_hash} AS text_hash, {blank} AS blank FROM ("
        " SELECT page.*, pg_catalog.row_number() OVER (ORDER BY page.id) AS position,"
        " pg_catalog.sum({size}) OVER (ORDER BY page.id) AS reach FROM ("
        "  SELECT page.id, {columns} FROM {table} AS page"
        "  WHERE {vector} IS NULL AND page.id > %s AND page.id <= %s ORDER BY page.id LIMIT %s) AS page) AS page"
        " WHERE page.position = 1 OR page.reach <= %s ORDER BY page.id"
    ).format(
        columns=sql.SQL(", ").join(columns),
        vector=found.vector,
        text_hash=found.text_hash,
        blank=found.blank,
        size=size,
        table=found.table.identifier,
    )
    bound = limits.texts * _BATCHES_PER_READ, limits.characters * _BATCHES_PER_READ
    last = -(2**63)
    end = session.value(sql.SQL("SELECT coalesce(max(id), 0) FROM {}").format(found.table.identifier))
    while page := session.rows(query, (last, end, *bound)):
        for row in page:
            values = [row[name] for name in found.kind.columns]
            yield Row(row["id"], found.kind.text(values), row["text_hash"], row["blank"])
        last = page[-1]["id"]


def batches(rows: Iterator[Row], limits: Limits, skip: Collection[int] = ()) -> Iterator[list[Row]]:
    """`rows` grouped up to the limits, in order; ids in `skip` are left out. A blank row comes alone."""
    batch: list[Row] = []
    characters = 0
    for row in rows:
        if row.id in skip:
            continue
        if row.blank:
            yield [row]
            continue
        if batch and (len(batch) >= limits.texts or characters + len(row.text) > limits.characters):
            yield batch
            batch, characters = [], 0
        batch.append(row)
        characters += len(row.text)
    if batch:
        yield batch
