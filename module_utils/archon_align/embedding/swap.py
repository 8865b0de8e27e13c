"""New vectors take the place of the old ones: one transaction, in which every old vector is kept and nothing else changes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import chain

from psycopg import sql

from ..database.session import Session, open_session
from ..database.target import Table
from ..errors import AlignError, PreservationBroken
from ..findings import Finding
from ..plan import Statement
from ..preservation.proof import Proof
from ..rollback.ledger import Ledger
from ..rollback.structure_vectors import Swapped as Displaced
from ..schema import swap as schema_swap
from ..schema.apply import apply
from ..schema.inspect import inspect
from ..schema.model import Catalog, Key, Kind
from ..schema.vectors import beside
from .building import timeouts
from .index import indexes, names
from .kept import note, removal
from .kinds import COLUMN
from .tables import EmbeddedTable, VectorType, find_table, vector_type

# Rows that come in while the last ones are embedded are embedded too, but nobody is chased for ever.
_TRIES = 4
_WITNESS = """
SELECT c.oid::bigint AS oid, c.relfilenode::bigint AS file,
  coalesce(s.n_tup_ins + s.n_tup_upd + s.n_tup_del, 0)::bigint AS writes
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace LEFT JOIN pg_stat_xact_user_tables s ON s.relid = c.oid
WHERE n.nspname = %s AND c.relname = %s
"""


@dataclass(frozen=True, slots=True)
class Swapped:
    """What was done, or in check mode would be: `kept` is where `rows` old vectors are. `late` rows came in too late for a new
    vector beside their old one and have none yet."""

    kept: Table
    rows: int
    late: int
    statements: Sequence[Statement]
    proofs: Sequence[Proof]
    findings: Sequence[Finding]


class _Latecomers(Exception):
    """Rows that have no new vector yet, found when nobody could write any more."""


def swap_in(
    session: Session,
    found: EmbeddedTable,
    vector: VectorType,
    *,
    built: Sequence[str],
    fill: Callable[[], frozenset[int]],
    timeout: float,
    ledger: Ledger,
) -> Swapped:
    """Put the vectors gathered beside `found`'s old ones in their place, with the indexes `built` on them.

    `fill` embeds the rows that lack a vector and returns the ids of those that the service refuses. The transaction's statements
    may take `timeout` seconds each; `ledger` is told what it does. Raises AlignError; then the old vectors are still in use.
    """
    context = session.context
    with open_session(context, context.dev, read_only=True) as dev:
        desired = inspect(dev, context.schemas)
        wanted = find_table(dev, found.kind, vector_type(dev))
        devs = [one.name for one in indexes(dev, wanted) if one.plain] if wanted is not None else []
    refused: frozenset[int] = frozenset()
    for attempt in range(1, _TRIES + 1):
        if not context.check and _lacking(session, found, refused):
            refused = fill()
        planned = _plan(session, found, desired, built, devs)
        rows = int(
            session.value(sql.SQL("SELECT count({}) FROM {}").format(sql.Identifier(COLUMN), found.table.identifier))
        )
        if context.check:
            return Swapped(planned.kept, rows, 0, planned.plan.statements, (), planned.plan.refused)
        session.progress(f"change of vectors {found.table.name}")
        try:
            return _carry_out(session, found, vector, planned, refused, timeout, ledger, patient=attempt < _TRIES)
        except _Latecomers:
            continue
    raise AssertionError("unreachable: the last attempt is not patient")


def _plan(
    session: Session, found: EmbeddedTable, desired: Catalog, built: Sequence[str], devs: Sequence[str]
) -> schema_swap.Swap:
    """The plan; the new indexes get the names of DEV's, else of the old ones, else those that we would give."""
    context = session.context
    old = [one.name for one in indexes(session, replace(found, column=COLUMN)) if one.plain]
    usual = names(EmbeddedTable(found.kind, found.table, ()))
    current = inspect(session, context.schemas)
    column = Key(Kind.COLUMN, found.table.schema, found.table.name, COLUMN)
    if context.check and beside(desired, current, column) is None:
        current = schema_swap.with_column_beside(desired, current, column)
    if beside(desired, current, column) is None:
        raise AlignError(
            "The new vectors do not have the type that DEV's have.",
            object_name=f"{session.target.name}: {found.table}.{found.column}",
            expected="DEV's column to have the same dimensions",
            found=found.declared,
            remedy="Set archon_embedding_dimensions to what DEV uses and run the schema phase again. The old vectors are still in use.",
            code="embedding_column_dimension",
        )
    return schema_swap.plan_swap(
        desired,
        current,
        column,
        old_indexes=old,
        built=built,
        names=chain(devs, old, usual),
        note=note(context.run.id, found.table),
        protected=frozenset(Key(Kind.TABLE, table.schema, table.name) for table in context.protected),
        counted=session.value("SHOW track_counts") == "on",
    )


def _carry_out(
    session: Session,
    found: EmbeddedTable,
    vector: VectorType,
    planned: schema_swap.Swap,
    refused: frozenset[int],
    timeout: float,
    ledger: Ledger,
    *,
    patient: bool,
) -> Swapped:
    late, rows = 0, 0
    seen: dict[str, int] = {}

    def before() -> None:
        nonlocal late
        late = _lacking(session, found, refused)
        if late and patient:
            raise _Latecomers
        _require_vectors(session, found)
        seen.update(session.row(_WITNESS, (found.table.schema, found.table.name)) or {})

    def finally_prove() -> None:
        nonlocal rows
        rows = int(session.value(sql.SQL("SELECT count(*) FROM {}").format(planned.kept.identifier)))
        now = session.row(_WITNESS, (found.table.schema, found.table.name)) or {}
        moved = {key for key in ("oid", "file", "writes") if now.get(key) != seen.get(key)}
        if moved - ({"file"} if planned.rewrites else set()):
            raise PreservationBroken(
                "Rows would have been written while the vectors changed places; the transaction was rolled back.",
                object_name=str(found.table),
                expected=f"the same file, and no write: {seen}",
                found=str(now),
                remedy="Nothing was changed. Report this as a defect.",
                code="preservation_broken",
            )
        _require_in_place(session, found, vector, planned)

    with timeouts(session, session.context.lock_timeout, timeout):
        applied = apply(
            session,
            planned.plan,
            reread_desired=lambda: planned.plan.comparison.desired,
            before=before,
            finally_prove=finally_prove,
            ledger=ledger,
            swapped=[Displaced(planned.column, planned.beside, planned.kept)],
        )
    kept = Finding(
        "vectors_kept",
        "info",
        f"{found.table}.{COLUMN}",
        f"{rows} old vectors are kept in {planned.kept} until validation passes",
        f"Nothing to do: the validate phase removes them. By hand: {removal(planned.kept, found.table).sql}",
    )
    return Swapped(planned.kept, rows, late, planned.plan.statements, applied.proofs, [kept])


def _require_in_place(session: Session, found: EmbeddedTable, vector: VectorType, planned: schema_swap.Swap) -> None:
    """The column that Archon reads is the new one, with the indexes that were built for it."""
    now = find_table(session, found.kind, vector)
    there = {one.name for one in indexes(session, now) if one.valid} if now is not None else set()
    if now is None or now.dimensions != found.dimensions or not there >= set(planned.indexes):
        raise AlignError(
            "The new vectors would not be in their place; the transaction was rolled back.",
            object_name=str(found.table),
            expected=f"vector({found.dimensions}) with the indexes {', '.join(planned.indexes) or 'none'}",
            found=f"{now.declared if now is not None else 'no table'} with {', '.join(sorted(there)) or 'none'}",
            remedy="Nothing was changed. Report this as a defect.",
            code="embedding_not_in_place",
        )


def _require_vectors(session: Session, found: EmbeddedTable) -> None:
    """Nobody gives up the old vectors for none."""
    query = sql.SQL("SELECT count({old}) AS old, count({new}) AS new FROM {table} AS page")
    there = session.row(
        query.format(old=sql.Identifier("page", COLUMN), new=found.vector, table=found.table.identifier)
    )
    if there is not None and there["old"] and not there["new"]:
        raise AlignError(
            "No row got a new vector.",
            object_name=f"{session.target.name}: {found.table}",
            expected="new vectors for the rows that have content",
            found=f"none, and {there['old']} old ones, which are still in use",
            remedy="See the findings for why the service refuses the rows, and run the embeddings phase again.",
            code="embedding_none_rebuilt",
        )


def _lacking(session: Session, found: EmbeddedTable, refused: frozenset[int]) -> int:
    """Rows with content but without a new vector, besides those `refused`."""
    query = sql.SQL(
        "SELECT count(*) FROM {table} AS page WHERE {vector} IS NULL AND NOT ({blank}) AND page.id <> ALL (%s::bigint[])"
    )
    return int(
        session.value(
            query.format(table=found.table.identifier, vector=found.vector, blank=found.blank), (sorted(refused),)
        )
    )
