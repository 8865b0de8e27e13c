"""The vector index after loading, and the proof that search finds what it should."""

from __future__ import annotations

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
from ..preservation.waiting import longest
from ..rollback.ledger import Ledger
from . import memory
from .asking import find_asking
from .endpoint import Endpoint
from .indexing import Indexing, Loaded, Wanted
from .kinds import COLUMN, KINDS
from .phase import Options as Rebuild
from .phase import fill
from .proving import Demands, Searched, Verdict, broken, prove_search
from .search import Query, read_queries
from .swap import swap_in
from .tables import EmbeddedTable, VectorType, find_table, vector_type
from .work import foreseen


@dataclass(frozen=True, slots=True)
class Options:
    """`min_recall` is demanded of a query file's queries (and announced for sampled ones), `index_min_recall` of the
    index. Tables with more than `concurrently_rows` vectors are indexed without blocking writers; one such index may
    take `index_timeout` seconds, and so may a statement of the change from old vectors to new ones; an index is built within
    `maintenance_work_mem`, '' for the server's. At most `max_quarantined` rows may be without vector when they change.
    """

    endpoint: Endpoint
    queries_file: str = ""
    min_recall: float = 0.9
    index_min_recall: float = 0.95
    concurrently_rows: int = 50_000
    index_timeout: float = 3600.0
    max_quarantined: int = 100
    maintenance_work_mem: str = ""
    pauses: tuple[float, ...] = (0.5, 2.0, 5.0)


def run(context: Context, options: Options) -> PhaseOutcome:
    """See to a good index on both tables, then prove search through Archon's functions.

    When search does not give what it must the outcome is `failed` with the error, and nothing is undone. Raises
    AlignError when the query file, the service or the database cannot be used.
    """
    queries = read_queries(options.queries_file) if options.queries_file else []
    if options.maintenance_work_mem:
        memory.size(options.maintenance_work_mem)
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
        self.kept: list[dict[str, Any]] = []
        self.verdict = Verdict()
        self.ledger = Ledger(replace(self.context, phase="search"))
        wanted = Wanted(
            options.index_min_recall, options.concurrently_rows, options.index_timeout, options.maintenance_work_mem
        )
        self.work = Indexing(session, wanted, self.ledger)
        self.findings = self.work.findings

    def run(self) -> PhaseOutcome:
        try:
            vector = vector_type(self.session)
        except AlignError:
            if not self.context.check:
                raise
            self._postponed("PROD: extension vector", "pgvector is not installed yet")
            return self._outcome("drift")
        try:
            return self._run(vector)
        except (AlignError, psycopg.Error) as stopped:
            # What is done is done, and belongs into the report.
            if not self.work.executed:
                raise
            error = stopped if isinstance(stopped, AlignError) else self._told(stopped)
            return self._outcome("resumable" if isinstance(error, Resumable) else "failed", error)

    def _told(self, error: psycopg.Error) -> AlignError:
        return server_error(self.context.prod, error, doing="looking after vector search")

    def _run(self, vector: VectorType) -> PhaseOutcome:
        vector.register(self.session)
        self.work.asking = find_asking(self.session, vector)
        self.findings += self.work.asking.findings
        loaded = self._loaded(vector)
        for table in loaded:
            built = self.work.see_to(table, vector)
            if table.found.beside:
                self._swap_in(table, vector, built)
        if self.kept and not self.context.check:
            loaded = self._loaded(vector)
        changed = bool(self.work.statements)
        status: Status = "aligned" if not changed else "drift" if self.context.check else "changed"
        self.verdict = self._prove(loaded, vector)
        self.findings += self.verdict.findings
        for name, recall in self.verdict.recalls.items():
            self.work.indexes[name]["recall_at_10_through_function"] = recall
        if self.verdict.postponed is not None:
            self._postponed(*self.verdict.postponed)
        return self._outcome("failed" if self.verdict.error else status, self.verdict.error)

    def _loaded(self, vector: VectorType) -> list[Loaded]:
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
            tables.append(Loaded(found, row["total"], row["vectors"], row["pending"]))
        return tables

    def _swap_in(self, table: Loaded, vector: VectorType, built: Sequence[str]) -> None:
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
        self.work.executed = not self.context.check
        self.work.note(found, swapped.statements, LockMode.ALTER)
        self.work.proofs += swapped.proofs
        self.findings += swapped.findings
        self.kept.append({"of": str(found.table), "table": str(swapped.kept), "rows": swapped.rows})
        if swapped.late:
            self._fill(replace(found, column=COLUMN))

    def _fill(self, found: EmbeddedTable) -> frozenset[int]:
        """Embed the rows that came in since the rebuild; the ids of those that the service refuses."""
        options = Rebuild((self.options.endpoint,), max_quarantined=self.options.max_quarantined)
        filled = fill(self.session, options, self.ledger)
        self.findings += filled.outcome.findings
        self.work.executed = self.work.executed or filled.outcome.changed
        if filled.outcome.error is not None:
            raise filled.outcome.error
        return filled.quarantined.get(found.table, frozenset())

    def _prove(self, loaded: Sequence[Loaded], vector: VectorType) -> Verdict:
        if self.context.check and (beside := [table for table in loaded if table.found.beside]):
            return Verdict(postponed=(str(beside[0].found.table), "the new vectors are not in their place yet"))
        if self.context.check and any(table.pending for table in loaded):
            pending = sum(table.pending for table in loaded)
            return Verdict(postponed=("vector search", f"{pending} rows have no embedding yet"))
        hollow = [str(table.found.table) for table in loaded if table.rows and not table.vectors]
        if hollow:
            return Verdict(error=broken(", ".join(hollow), "rows with embeddings", "none", "Run the embeddings phase."))
        options = self.options
        return prove_search(
            self.session,
            [Searched(one.found, one.vectors, self.work.sample(one.found, vector)) for one in loaded if one.vectors],
            vector,
            self.work.asking,
            self.queries,
            Demands(
                options.endpoint, options.pauses, options.queries_file, options.min_recall, options.index_min_recall
            ),
        )

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

    def _outcome(self, status: Status, error: AlignError | None = None) -> PhaseOutcome:
        proof = self.verdict.proof
        self.ledger.end(status)
        waits = longest(self.work.waits)
        statements = "".join(f"{statement.sql};\n" for statement in self.work.statements)
        return PhaseOutcome(
            phase="embeddings",
            status=status,
            seconds=time.monotonic() - self.started,
            changed=self.work.executed or status == "drift",
            statements=self.work.statements,
            findings=[*self.findings, *waits.findings()],
            proofs=self.work.proofs,
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
                    "passages": self.verdict.passages,
                    "role": proof.role if proof else "",
                    "role_reason": self.work.asking.why,
                    "settings": dict(self.work.asking.settings),
                    "index": self.work.indexes,
                    "kept": self.kept,
                },
                "locks": waits.as_dict(),
                "restore_points": self.ledger.as_points(),
            },
            error=error,
        )
