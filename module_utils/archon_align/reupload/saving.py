"""A source and its pages as lines of JSON, every value as the text that the server takes again."""

from __future__ import annotations

from collections.abc import Iterator

import orjson
from psycopg import sql

from ..database.session import Session
from ..preservation.fingerprint import columns_of
from .looking import pages_table, sources_table
from .model import Source


def lines(session: Session, source: Source) -> Iterator[bytes]:
    """First the row of the source, then its pages, each `{"table": …, "values": {column: text or null}}`."""
    for table in (sources_table(session), pages_table(session)):
        columns = columns_of(session, table)
        query = sql.SQL("SELECT {} FROM {} WHERE source_id = {} ORDER BY 1").format(
            sql.SQL(", ").join(sql.SQL("{}::text").format(sql.Identifier(name)) for name in columns),
            table.identifier,
            sql.Literal(source.source_id),
        )
        for row in session.stream(query):
            yield orjson.dumps({"table": str(table), "values": dict(zip(columns, row, strict=True))}) + b"\n"
