"""The three transactions of an upload: old pages step aside, and then either they go or they come back."""

from __future__ import annotations

import uuid
from collections.abc import Sequence

from psycopg import sql

from ..database.own_rows import NewRows
from ..database.session import Session
from ..database.target import Table
from ..database.transaction import LockMode, protected_transaction
from ..errors import AlignError
from ..plan import Statement
from ..preservation.fingerprint import columns_of
from ..preservation.proof import Proof
from .looking import carried_columns, pages_table, sources_table
from .model import LINKS, Aside

_LINK_KEY, _LINK_SOURCE = "id", "source_id"


class Changed(AlignError):
    """Somebody has written the source's pages meanwhile."""


def _changed(url: str, expected: int, found: int) -> Changed:
    return Changed(
        "A source's pages changed while it was uploaded again.",
        object_name=url,
        expected=f"{expected} pages as they were read",
        found=f"{found}",
        remedy="The source is left as it is now; the next run looks at it again.",
        code="pages_changed",
    )


def _ids(ids: Sequence[int]) -> sql.Composable:
    return sql.SQL(", ").join(map(sql.Literal, ids))


def rename_statement(session: Session, ids: Sequence[int], url: str, to: str) -> Statement:
    """The statement that gives exactly these pages another url."""
    table = pages_table(session)
    query = sql.SQL("UPDATE {} SET url = {} WHERE url = {} AND id IN ({})").format(
        table.identifier, sql.Literal(to), sql.Literal(url), _ids(ids)
    )
    return Statement(query.as_string(None), str(table), f"{len(ids)} pages of {url} become {to}")


def rename(session: Session, ids: Sequence[int], url: str, to: str) -> list[Proof]:
    """Give exactly these pages another url. Raises Changed when they are not all there any more."""

    def act() -> None:
        done = session.apply(rename_statement(session, ids, url, to))
        if done != len(ids):
            raise _changed(url, len(ids), done)

    return protected_transaction(session, act, locks={pages_table(session): LockMode.WRITE})[1]


def remove_upload(session: Session, url: str, source_id: str) -> list[Proof]:
    """Remove what an upload that failed has left: the pages of this very source, and its row when nothing else refers to it."""
    pages, sources = pages_table(session), sources_table(session)
    links = Table(session.context.schemas[0], LINKS)
    linked = _LINK_SOURCE in columns_of(session, links)

    def act() -> None:
        gone = sql.SQL("DELETE FROM {} WHERE url = {} AND source_id = {}").format(
            pages.identifier, sql.Literal(url), sql.Literal(source_id)
        )
        session.execute(gone)
        used = sql.SQL(" OR ").join(
            sql.SQL("EXISTS (SELECT FROM {} WHERE source_id = {})").format(table.identifier, sql.Literal(source_id))
            for table in (pages, *([links] if linked else ()))
        )
        session.execute(
            sql.SQL("DELETE FROM {} WHERE source_id = {} AND NOT ({})").format(
                sources.identifier, sql.Literal(source_id), used
            )
        )

    return protected_transaction(session, act, locks={pages: LockMode.WRITE, sources: LockMode.WRITE})[1]


def replace(
    session: Session, aside: Aside, old: Sequence[int], new_source: str, new_pages: int
) -> tuple[list[Proof], int]:
    """Link projects to the new source as they are linked to the old one, and remove the old pages, by their ids alone.

    The old source's row and its links stay. Returns the proofs and how many links were inserted. Raises Changed.
    """
    pages, sources = pages_table(session), sources_table(session)
    links = Table(session.context.schemas[0], LINKS)
    new_links = _new_links(session, links, aside.source_id, new_source)

    def act() -> None:
        there = session.value(
            sql.SQL(
                "SELECT pg_catalog.count(*) FROM {} WHERE url = {} AND source_id = {} AND embedding IS NOT NULL"
            ).format(pages.identifier, sql.Literal(aside.url), sql.Literal(new_source))
        )
        if there != new_pages:
            raise _changed(aside.url, new_pages, int(there))
        for statement in new_links.values():
            session.execute(statement)
        _carry_over(session, sources, aside.source_id, new_source)
        gone = session.execute(
            sql.SQL("DELETE FROM {} WHERE url = {} AND source_id = {} AND id IN ({})").format(
                pages.identifier, sql.Literal(aside.marked), sql.Literal(aside.source_id), _ids(old)
            )
        )
        if gone != len(old):
            raise _changed(aside.url, len(old), gone)

    locks = {pages: LockMode.WRITE, sources: LockMode.WRITE}
    adding: list[NewRows] = []
    if new_links:
        locks[links] = LockMode.WRITE
        adding.append(NewRows(links, tuple(new_links), _LINK_KEY))
    _, proofs = protected_transaction(session, act, locks=locks, adding=adding)
    return proofs, len(new_links)


def _new_links(session: Session, links: Table, old: str, new: str) -> dict[str, sql.Composed]:
    """A statement for each link to make, by the id that it will have. A table without source_id links by url, which stays."""
    columns = columns_of(session, links)
    if not {_LINK_KEY, _LINK_SOURCE, "project_id"}.issubset(columns):
        return {}
    kept = [sql.Identifier(name) for name in columns if name not in (_LINK_KEY, _LINK_SOURCE)]
    wanted = session.rows(
        sql.SQL(
            "SELECT o.id::text AS id FROM {links} AS o WHERE o.source_id = %s AND NOT EXISTS"
            " (SELECT FROM {links} AS n WHERE n.source_id = %s AND n.project_id IS NOT DISTINCT FROM o.project_id) ORDER BY o.id"
        ).format(links=links.identifier),
        (old, new),
    )
    made = {str(uuid.uuid4()): row["id"] for row in wanted}
    return {
        one: sql.SQL("INSERT INTO {links} (id, source_id, {kept}) SELECT {id}, {new}, {kept} FROM {links} WHERE id::text = {of}").format(
            links=links.identifier,
            kept=sql.SQL(", ").join(kept),
            id=sql.Literal(one),
            new=sql.Literal(new),
            of=sql.Literal(of),
        )
        for one, of in made.items()
    }  # fmt: skip


def _carry_over(session: Session, sources: Table, old: str, new: str) -> None:
    """The old source's title and summary: an upload is given its id as title."""
    columns = carried_columns(session)
    if columns:
        session.execute(
            sql.SQL(
                "UPDATE {table} AS n SET {values} FROM {table} AS o WHERE n.source_id = {new} AND o.source_id = {old}"
            ).format(
                table=sources.identifier,
                values=sql.SQL(", ").join(
                    sql.SQL("{name} = o.{name}").format(name=sql.Identifier(name)) for name in columns
                ),
                new=sql.Literal(new),
                old=sql.Literal(old),
            )
        )
