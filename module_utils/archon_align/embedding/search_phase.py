"""The vector index after loading, and the proof that search finds what it should."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import psycopg
from psycopg import sql

from ..context import Context
from ..database.failures import server_error
from ..database.session import Session, open_session
from ..database.transaction import LockMode
from ..errors import AlignError, Resumable
from ..findings import Finding
from ..outcome import PhaseOutcome, Status
from ..plan import Statement
from ..preservation.proof import Proof as Preservation
from ..preservation.waiting import Wait, longest, writers_wait
from ..rollback.ledger import Ledger
from . import index
from .building import build
from .client import EmbeddingClient
from .endpoint import Endpoint
from .failures import SearchBroken
from .kinds import COLUMN, KINDS
from .phase import Options as Rebuild
from .phase import fill
from .quarantine import PatientClient
from .search import RESULTS, Proof, Query, prove, read_queries, sampled_queries
from .swap import swap_in
from .tables import EmbeddedTable, VectorType, find_table, function_schema, vector_type
from .work import foreseen


@dataclass(frozen=True, slots=True)
class Options:
    """`min_recall` is demanded of a query file's queries (and announced for sampled ones), `index_min_recall` of the
    index. Tables with more than `concurrently_rows` vectors are indexed without blocking writers; one such index may
    take `index_timeout` seconds, and so may a statement of the change from old vectors to new ones. At most `max_quarantined` rows may be
    without vector when they change.
    """

    endpoint: Endpoint
    queries_file: str = ""
    min_recall: float = 0.9
    index_min_recall: float = 0.95
    concurrently_rows: int = 50_000
    index_timeout: float = 3600.0
    max_quarantined: int = 100
    pauses: tuple[float, ...] = (0.5, 2.0, 5.0)


@dataclass(frozen=True, slots=True)
class _Loaded:
    """A table that can be searched, or will be once the vectors gathered in it are in their place: its rows, and how many of
    them have no vector though they have content."""

    found: EmbeddedTable
    rows: int
    vectors: int
    pending: int


def run(context: Context, options: Options) -> PhaseOutcome:
    """See to a good index on both tables, then prove search through Archon's functions.

    When search does not give what it must the outcome is `failed` with the error, and nothing is undone. Raises
    AlignError when the query file, the service or the database cannot be used.
    """
    queries = read_queries(options.queries_file) if options.queries_file else []
    with open_session(context, context.prod) as session:
        search = _Search(session, options, queries)
        try:
            return search.run()
        except AlignError:
            search.ledger.end("failed")
            raise
        except psycopg.Error as error:
            search.ledger.end("failed")
            raise server_error(context.prod, error, doing="looking after vector search") from error


class _Search:
    def __init__(self, session: Session, options: Options, queries: Sequence[Query]) -> None:
        self.session = session
        self.context = session.context
        self.options = options
        self.queries = queries
        self.started = time.monotonic()
        self.findings: list[Finding] = []
        self.statements: list[Statement] = []
        self.preserved: list[Preservation] = []
        self.indexes: dict[str, dict[str, Any]] = {}
        self.kept: list[dict[str, Any]] = []
        self.executed = False
        self.waits: list[Wait] = []
        self.ledger = Ledger(replace(self.context, phase="search"))

    def run(self) -> PhaseOutcome:
        try:
            vector = vector_type(self.session)
        except AlignError:
            if not self.context.check:
                raise
            self._postponed("PROD: extension vector", "pgvector is not installed yet")
            return self._outcome("drift")
        vector.register(self.session)
        loaded = self._loaded(vector)
        try:
            for table in loaded:
                built = self._index(table, vector)
                if table.found.beside:
                    self._swap_in(table, vector, built)
        except AlignError as stopped:
            if not self.executed:
                raise
            return self._outcome("resumable" if isinstance(stopped, Resumable) else "failed", None, stopped)
        if self.kept and not self.context.check:
            loaded = self._loaded(vector)
        changed = bool(self.statements)
        status: Status = "aligned" if not changed else "drift" if self.context.check else "changed"
        error, proof = self._prove(loaded)
        return self._outcome("failed" if error else status, proof, error)

    def _loaded(self, vector: VectorType) -> list[_Loaded]:
        tables = []
        for kind in KINDS:
            found = find_table(self.session, kind, vector, self.options.endpoint.dimensions)
            if found is None:
                continue
            if self.context.check:
                found = foreseen(self.session, found, self.options.endpoint.dimensions)
            there = found.column not in found.missing_columns
            if found.missing_columns and (there or not found.beside):
                if not self.context.check:
                    raise AlignError(
                        "A table lacks columns that search needs.",
                        object_name=f"PROD: {found.table}",
                        expected="the columns that DEV has",
                        found=f"no {', '.join(found.missing_columns)}",
                        remedy="Run the schema phase (--tags schema) first.",
                        code="embedding_column_missing",
                    )
                self._postponed(str(found.table), f"{', '.join(found.missing_columns)} does not exist yet")
                continue
            row = self.session.row(
                sql.SQL(
                    "SELECT count(*) AS total, count({vector}) AS vectors,"
                    " count(*) FILTER (WHERE {vector} IS NULL AND NOT ({blank})) AS pending FROM {table} AS page"
                ).format(vector=found.vector if there else sql.NULL, blank=found.blank, table=found.table.identifier)
            )
            assert row is not None  # an aggregate always yields a row
            tables.append(_Loaded(found, row["total"], row["vectors"], row["pending"]))
        return tables

    def _index(self, table: _Loaded, vector: VectorType) -> list[str]:
        """See to the table's index; the names of the vector indexes that it has then."""
        found = table.found
        # In check mode the rows that the rebuild will fill are counted as if it had.
        rows = table.vectors + (table.pending if self.context.check else 0)
        there = self._copy_indexes(found, rows) if found.beside else None
        recall = self._recall(table, vector)
        state = index.inspect(self.session, found, rows, recall)
        if there is not None and self.context.check:
            state = replace(state, indexes=there, taken=state.taken | {one.name for one in there})
        plan = index.plan(
            found,
            vector,
            state,
            min_recall=self.options.index_min_recall,
            concurrently_rows=self.options.concurrently_rows,
        )
        self._plan(found, plan.statements, LockMode.ALTER if plan.drops else LockMode.WRITE)
        if plan.action == "impossible":
            self._finding(
                "search_index_impossible", "warning", str(found.table), plan.reason, "Search works without, but scans."
            )
        if plan.statements and not self.context.check:
            self._build(found, plan.statements, plan.drops)
            recall = self._recall(table, vector)
            if recall is not None and recall < self.options.index_min_recall:
                self._finding(
                    "search_index_recall",
                    "warning",
                    f"{found.table.schema}.{plan.creates}",
                    f"The new index has recall@{index.NEIGHBOURS} {recall:.2f}, below {self.options.index_min_recall:.2f}.",
                    "Raise hnsw.ef_search for Archon's role (ALTER ROLE … SET hnsw.ef_search).",
                )
        now = index.indexes(self.session, found)
        usable = [one for one in now if one.usable]
        self.indexes[str(found.table)] = {
            "method": usable[0].method if usable else None,
            "recall_at_10": recall,
            "action": plan.action,
            "reason": plan.reason,
        }
        if self.context.check:
            return [*(one.name for one in state.indexes), *([plan.creates] if plan.creates else [])]
        return [one.name for one in now if one.plain]

    def _copy_indexes(self, found: EmbeddedTable, rows: int) -> tuple[index.VectorIndex, ...]:
        """The indexes of the old vectors, made again for the new ones."""
        state = index.inspect(self.session, found, rows, None)
        old = index.indexes(self.session, replace(found, column=COLUMN))
        copies = index.copies(found, old, state, concurrently_rows=self.options.concurrently_rows)
        self._plan(found, copies.statements, LockMode.WRITE)
        if copies.statements and not self.context.check:
            self._build(found, copies.statements, drops=False)
        return copies.indexes

    def _recall(self, table: _Loaded, vector: VectorType) -> float | None:
        if not table.vectors or (self.context.check and table.pending):
            return None
        usable = any(one.usable for one in index.indexes(self.session, table.found))
        return index.measure(self.session, table.found, vector, table.vectors) if usable else None

    def _plan(self, found: EmbeddedTable, statements: Sequence[Statement], mode: LockMode) -> None:
        """Note what is done or would be, and how long users wait for it where it is done in one transaction."""
        self.statements += statements
        if all(statement.transactional for statement in statements):
            seconds = sum(statement.seconds or 0.0 for statement in statements)
            self.waits.append(writers_wait(self.session, {found.table: mode}, len(statements), seconds))

    def _build(self, found: EmbeddedTable, statements: Sequence[Statement], drops: bool) -> None:
        self.preserved += build(
            self.session, found, statements, self.ledger, drops=drops, timeout=self.options.index_timeout
        )
        self.executed = True

    def _swap_in(self, table: _Loaded, vector: VectorType, built: Sequence[str]) -> None:
        found = table.found
        swapped = swap_in(
            self.session,
            found,
            vector,
            built=built,
            fill=lambda: self._fill(found),
            timeout=self.options.index_timeout,
            ledger=self.ledger,
        )
        self.executed = not self.context.check
        self._plan(found, swapped.statements, LockMode.ALTER)
        self.preserved += swapped.proofs
        self.findings += swapped.findings
        self.kept.append({"of": str(found.table), "table": str(swapped.kept), "rows": swapped.rows})
        if swapped.late:
            self._fill(replace(found, column=COLUMN))

    def _fill(self, found: EmbeddedTable) -> frozenset[int]:
        """Embed the rows that came in since the rebuild; the ids of those that the service refuses."""
        options = Rebuild(self.options.endpoint, max_quarantined=self.options.max_quarantined)
        filled = fill(self.session, options, self.ledger)
        self.findings += filled.outcome.findings
        self.executed = self.executed or filled.outcome.changed
        if filled.outcome.error is not None:
            raise filled.outcome.error
        return filled.quarantined.get(found.table, frozenset())

    def _prove(self, loaded: Sequence[_Loaded]) -> tuple[AlignError | None, Proof | None]:
        filled = [table for table in loaded if table.vectors]
        if self.context.check and (beside := [table for table in loaded if table.found.beside]):
            self._postponed(str(beside[0].found.table), "the new vectors are not in their place yet")
            return None, None
        if self.context.check and any(table.pending for table in loaded):
            pending = sum(table.pending for table in loaded)
            self._postponed("vector search", f"{pending} rows have no embedding yet")
            return None, None
        hollow = [str(table.found.table) for table in loaded if table.rows and not table.vectors]
        if hollow:
            return _broken(", ".join(hollow), "rows with embeddings", "none", "Run the embeddings phase."), None
        schemas = {}
        for table in filled:
            schema = function_schema(self.session, table.found.kind)
            if schema is None:
                if self.context.check:
                    self._postponed(table.found.kind.function, "the function does not exist yet")
                    return None, None
                return (
                    _broken(
                        f"PROD: {table.found.kind.function}(query_embedding, match_count, …)",
                        f"the function in {', '.join(self.context.schemas)}",
                        "no such function, so that Archon's vector search is silently empty",
                        "Run the schema phase; if DEV lacks it too, create it there as Archon's setup does.",
                    ),
                    None,
                )
            schemas[table.found.kind.function] = schema
        queries = [query for query in self.queries if query.kind.function in schemas]
        if len(queries) < len(self.queries):
            self._finding(
                "search_queries_skipped",
                "warning",
                self.options.queries_file,
                f"{len(self.queries) - len(queries)} queries are about a table that is empty or missing.",
                "Use a query file that fits PROD's content.",
            )
        if not self.queries:
            queries = [query for table in filled for query in sampled_queries(self.session, table.found)]
        if not queries:
            return None, None
        with EmbeddingClient(self.options.endpoint) as client:
            patient = PatientClient(client, self.options.pauses, threading.Event())
            proof = prove(self.session, queries, schemas, patient.embed)
        return self._judge(proof), proof

    def _judge(self, proof: Proof) -> AlignError | None:
        if proof.null_similarities:
            return _broken(
                "vector search",
                "a similarity for every result",
                f"{proof.null_similarities} results without, which make Archon drop the whole answer",
                "Rows without embedding reach the results: rebuild them, or delete the quarantined ones.",
            )
        recall = proof.recall
        assert recall is not None  # there was at least one query
        if recall >= self.options.min_recall:
            return None
        found = f"{recall:.2f} ({proof.hits} of {proof.queries}); missed: {'; '.join(proof.missed[:3])}"[:400]
        if self.queries or not proof.hits:
            return _broken(
                f"recall@{RESULTS} of {self.options.queries_file or 'queries sampled from the pages'}",
                f"at least {self.options.min_recall:.2f}",
                found,
                "Check that the vectors come from archon_embedding_model and the queries fit PROD's content.",
            )
        self._finding(
            "search_recall_sampled",
            "warning",
            "vector search",
            f"Queries sampled from the pages have recall@{RESULTS} {found}",
            "Write a query file (archon_search_queries_file) to judge search by questions of your own.",
        )
        return None

    def _postponed(self, name: str, why: str) -> None:
        self._finding(
            "search_after_rebuild",
            "info",
            name,
            f"Search is proved after the rebuild: {why}.",
            "Nothing to do in check mode.",
        )

    def _finding(self, code: str, severity: Any, name: str, message: str, remedy: str) -> None:
        self.findings.append(Finding(code, severity, name, message, remedy))

    def _outcome(self, status: Status, proof: Proof | None = None, error: AlignError | None = None) -> PhaseOutcome:
        self.ledger.end(status)
        waits = longest(self.waits)
        statements = "".join(f"{statement.sql};\n" for statement in self.statements)
        return PhaseOutcome(
            phase="embeddings",
            status=status,
            seconds=time.monotonic() - self.started,
            changed=self.executed or status == "drift",
            statements=self.statements,
            findings=[*self.findings, *waits.findings()],
            proofs=self.preserved,
            diff=[
                {"before_header": "vector indexes", "after_header": "vector indexes", "before": "", "after": statements}
            ]
            if statements
            else [],
            details={
                "search": {
                    "queries": proof.queries if proof else 0,
                    "recall_at_5": proof.recall if proof else None,
                    "source": ("file" if self.queries else "sampled") if proof else "none",
                    "null_similarities": proof.null_similarities if proof else 0,
                    "missed": list(proof.missed[:20]) if proof else [],
                    "role": proof.role if proof else "",
                    "index": self.indexes,
                    "kept": self.kept,
                },
                "locks": waits.as_dict(),
                "restore_points": self.ledger.as_points(),
            },
            error=error,
        )


def _broken(name: str, expected: str, found: str, remedy: str) -> SearchBroken:
    return SearchBroken(
        "Vector search does not work as it must.",
        object_name=name,
        expected=expected,
        found=found,
        remedy=remedy,
        code="search_broken",
    )
