"""A small document uploaded through Archon's API, followed in the table alone: Archon says `completed` whatever was stored."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import psycopg
from psycopg import sql

from ...database.failures import server_error
from ...database.target import Table
from .marker import FILE_SUFFIX, Journal, new_marker
from .model import UPLOAD, Check, by_data, works
from .search import found_by_paraphrase
from .stored import PAGES, Knowledge, knowledge
from .texts import CANARY
from .world import World

_POLL_SECONDS = 0.4
_AMONG = 5


@dataclass(frozen=True, slots=True)
class Arrived:
    """What of the document is in the tables: its sources, the ids of its pages, how many have a vector, of which dimensions."""

    sources: tuple[str, ...]
    pages: tuple[str, ...]
    vectors: int
    dimensions: tuple[int, ...]


def check_upload(world: World, journal: Journal) -> Check:
    """Upload, wait for its rows, look at their vectors, find them by a paraphrase. Raises AlignError."""
    marker = new_marker(world.session.context.run)
    journal.announce(marker, "document")
    started = time.monotonic()
    world.archon.upload(f"{marker}{FILE_SUFFIX}", CANARY.format(marker=marker).encode())
    arrived = _awaited(world, marker)
    seconds = time.monotonic() - started
    for table, keys in ((PAGES.table, arrived.pages), ("archon_sources", arrived.sources)):
        for key in keys:
            journal.made(marker, table, key)
    if not arrived.pages:
        why, mendable = world.blame(search=False)
        source = "its source was written, but not one page" if arrived.sources else "nothing of it was written"
        return by_data(
            UPLOAD,
            f"The upload was accepted, and within {world.options.upload_timeout:g} s {source}: archon-server could not embed it or"
            f" not store the vectors; {why}",
            mendable=mendable,
        )
    wanted = world.options.endpoint.dimensions
    if arrived.vectors < len(arrived.pages) or arrived.dimensions != (wanted,):
        found = f"{arrived.vectors} of {len(arrived.pages)} pages have a vector, of dimension {', '.join(map(str, arrived.dimensions)) or '-'}"
        return by_data(UPLOAD, f"{found} instead of {wanted}.", mendable=True)
    stored = f"{len(arrived.pages)} page with a vector of {wanted} numbers after {seconds:.1f} s"
    place = found_by_paraphrase(world, arrived.sources, _AMONG)
    if place is None:
        return by_data(
            UPLOAD,
            f"{stored}, but the search function does not find it among {_AMONG} by a paraphrase embedded by the service:"
            " archon-server embeds by another model, or the vector index misses it.",
            mendable=False,
        )
    return works(
        UPLOAD, f"{stored}; a paraphrase finds it as number {place[0]} of {_AMONG} (similarity {place[1]:.3f})."
    )


def _awaited(world: World, marker: str) -> Arrived:
    deadline = time.monotonic() + world.options.upload_timeout
    known = knowledge(world.session, PAGES)
    last = Arrived((), (), 0, ())
    while True:
        seen = _look(world, known, marker)
        # A batch is one INSERT; that nothing has come since the last look says that it was the last one.
        if (seen.pages and seen == last) or time.monotonic() > deadline:
            return seen
        last = seen
        time.sleep(_POLL_SECONDS)


def _look(world: World, known: Knowledge, marker: str) -> Arrived:
    session = world.session
    schema = session.context.schemas[0]
    try:
        sources = _column(
            session.rows(
                sql.SQL("SELECT source_id AS id FROM {} WHERE pg_catalog.strpos(source_id, %s) > 0 ORDER BY 1").format(
                    Table(schema, "archon_sources").identifier
                ),
                (marker,),
            )
        )
        if known.table is None or known.vector is None or not sources:
            return Arrived(sources, (), 0, ())
        rows = session.rows(
            sql.SQL(
                "SELECT id::text AS id, {}(embedding) AS dimensions FROM {} WHERE source_id = ANY (%s::text[]) ORDER BY id"
            ).format(sql.Identifier(known.vector.schema, "vector_dims"), known.table.table.identifier),
            (list(sources),),
        )
    except psycopg.Error as error:
        raise server_error(session.target, error, doing="looking for an uploaded document") from error
    dimensions = [row["dimensions"] for row in rows if row["dimensions"] is not None]
    return Arrived(sources, _column(rows), len(dimensions), tuple(sorted(set(dimensions))))


def _column(rows: Sequence[dict[str, str]]) -> tuple[str, ...]:
    return tuple(row["id"] for row in rows)
