"""Seeing to a table's vector index: measure it, make a better one where it finds too little, and tell what is left."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import psycopg

from ..database.session import Session
from ..database.target import Table
from ..database.transaction import LockMode
from ..errors import AlignError
from ..findings import Finding, Severity
from ..plan import Statement
from ..preservation.proof import Proof
from ..preservation.waiting import Wait, writers_wait
from ..rollback.ledger import Ledger
from . import index, memory
from .asking import Asking, remedy
from .building import build
from .kinds import COLUMN
from .recall import Measured, Sample, by_index, draw, sufficient
from .tables import EmbeddedTable, VectorType

# An index that finds too little gives way to hnsw, and that, once, to a stronger one; one in their way is dropped before.
_BUILDS = 3


@dataclass(frozen=True, slots=True)
class Wanted:
    """What an index must be: `min_recall`, built concurrently beyond so many rows, within `timeout` seconds and `memory`
    (maintenance_work_mem, '' for the server's)."""

    min_recall: float
    concurrently_rows: int
    timeout: float
    memory: str


@dataclass(frozen=True, slots=True)
class Loaded:
    """A table that can be searched, or will be once the vectors gathered in it are in their place: its rows, and how many of
    them have no vector though they have content."""

    found: EmbeddedTable
    rows: int
    vectors: int
    pending: int


@dataclass(slots=True)
class Indexing:
    """The work on the indexes of one run, and what came of it. `indexes` is what the report shows by table; `executed` says
    that something was changed."""

    session: Session
    wanted: Wanted
    ledger: Ledger
    asking: Asking = field(default_factory=Asking)
    findings: list[Finding] = field(default_factory=list)
    statements: list[Statement] = field(default_factory=list)
    proofs: list[Proof] = field(default_factory=list)
    waits: list[Wait] = field(default_factory=list)
    indexes: dict[str, dict[str, Any]] = field(default_factory=dict)
    executed: bool = False
    _samples: dict[Table, Sample | None] = field(default_factory=dict)

    def see_to(self, table: Loaded, vector: VectorType) -> list[str]:
        """See to the table's index; the names of the vector indexes that it has then."""
        found = table.found
        # In check mode the rows that the rebuild will fill are counted as if it had.
        rows = table.vectors + (table.pending if self.session.context.check else 0)
        there = self._copy_indexes(found, rows) if found.beside else None
        measured, why = self._measure(table, vector)
        acted: list[index.IndexPlan] = []
        seconds = 0.0
        for _ in range(_BUILDS + 1):
            state = index.inspect(self.session, found, rows, measured, why)
            if there is not None and self.session.context.check:
                state = replace(state, indexes=there, taken=state.taken | {one.name for one in there})
            plan = index.plan(
                found,
                vector,
                state,
                min_recall=self.wanted.min_recall,
                concurrently_rows=self.wanted.concurrently_rows,
                timeout=self.wanted.timeout,
                memory=self.wanted.memory,
            )
            if not plan.statements:
                break
            acted.append(plan)
            self.note(found, plan.statements, LockMode.ALTER if plan.drops else LockMode.WRITE)
            if plan.creates is not None:
                self._foresee_memory(found, plan.creates, rows)
            if self.session.context.check:
                break
            seconds += self._build(found, plan.statements, plan.drops)
            measured, why = self._measure(table, vector)
        shown = acted[0] if acted and (acted[0].creates or plan.action == "kept") else plan
        self._tell(found, state, plan, measured, vector)
        now = index.indexes(self.session, found)
        usable = [one for one in now if one.usable]
        self.indexes[str(found.table)] = {
            "method": next((one.method for one in usable if measured and one.name == measured.used), None)
            or (usable[0].method if usable else None),
            "recall_at_10": measured.recall if measured else None,
            "recall_at_10_through_function": None,
            "samples": measured.samples if measured else 0,
            "action": shown.action,
            "reason": "; then ".join(one.reason for one in acted) or plan.reason,
            "build_seconds": round(seconds, 3) if seconds else None,
        }
        if self.session.context.check:
            return [*(one.name for one in state.indexes), *([plan.creates.name] if plan.creates else [])]
        return [one.name for one in now if one.plain]

    def _tell(
        self,
        found: EmbeddedTable,
        state: index.IndexState,
        plan: index.IndexPlan,
        measured: Measured | None,
        vector: VectorType,
    ) -> None:
        """What a person should know of the table's indexes as they are left."""
        name = str(found.table)
        usable = [one.name for one in state.indexes if one.usable]
        broken_ones = [one.name for one in state.indexes if not one.valid and not index.is_leftover(found, one)]
        if plan.action == "impossible":
            self._finding("search_index_impossible", "warning", name, plan.reason, "Search works without, but scans.")
        elif plan.action == "weak" and measured is not None:
            self._finding(
                "search_index_recall",
                "warning",
                f"{found.table.schema}.{measured.used}",
                f"The index is left as it is, though {plan.reason}: building it again would not help, or take longer than index_timeout.",
                self._remedy_of_recall(found, vector),
            )
        elif state.in_making:
            self._finding("search_index_in_making", "warning", name, plan.reason, "Run again when it is done.")
        elif len(usable) > 1 and not plan.statements:
            used = f"; the server prefers {measured.used}" if measured and measured.used else ""
            self._finding(
                "search_indexes_many",
                "info",
                name,
                f"{', '.join(usable)} serve the same search, and each costs memory and every write{used}.",
                "Drop those that nobody needs.",
            )
        if broken_ones and not state.in_making:
            self._finding(
                "search_index_invalid",
                "warning",
                name,
                f"{', '.join(broken_ones)} is not valid: it serves no search and costs every write. It is not ours to drop.",
                "DROP INDEX, or REINDEX INDEX, by whoever made it.",
            )

    def _remedy_of_recall(self, found: EmbeddedTable, vector: VectorType) -> str:
        sample = self._samples.get(found.table)
        if sample is None:
            return "Raise hnsw.ef_search for Archon's sessions."

        def recall(value: int) -> float:
            asked = by_index(self.session, found, vector, sample, self.asking, hnsw__ef_search=str(value))
            return asked.recall

        value = sufficient(recall, self.wanted.min_recall)
        if value is None:
            return (
                "Not even hnsw.ef_search = 640 is enough: lower archon_index_min_recall, if search by hand satisfies."
            )
        return f"hnsw.ef_search = {value} is enough here: {remedy(self.session, self.asking, 'hnsw.ef_search', value)}."

    def _foresee_memory(self, found: EmbeddedTable, made: index.VectorIndex, rows: int) -> None:
        if found.dimensions is None:
            return
        setting = self.wanted.memory
        name = f"{found.table.schema}.{made.name}"
        if told := memory.shortage(self.session, name, made, rows, found.dimensions, setting):
            self.findings.append(told)

    def _copy_indexes(self, found: EmbeddedTable, rows: int) -> tuple[index.VectorIndex, ...]:
        """The indexes of the old vectors, made again for the new ones."""
        state = index.inspect(self.session, found, rows, None)
        old = index.indexes(self.session, replace(found, column=COLUMN))
        copies = index.copies(
            found,
            old,
            state,
            concurrently_rows=self.wanted.concurrently_rows,
            memory=self.wanted.memory,
        )
        self.note(found, copies.statements, LockMode.WRITE)
        if copies.statements and not self.session.context.check:
            self._build(found, copies.statements, drops=False)
        return copies.indexes

    def _measure(self, table: Loaded, vector: VectorType) -> tuple[Measured | None, str]:
        """Recall by the index that is there, or why there is none."""
        found = table.found
        if not table.vectors or (self.session.context.check and table.pending):
            return None, "its recall is measured after the rebuild"
        usable = [one for one in index.indexes(self.session, found) if one.usable]
        sample = self.sample(found, vector)
        if not usable or sample is None:
            return None, "its recall could not be measured"
        try:
            measured = by_index(self.session, found, vector, sample, self.asking)
        except psycopg.errors.QueryCanceled:
            self._unmeasured(found, "a search by the index")
            return None, "its recall could not be measured"
        if not measured.used and all(one.method == index.METHOD for one in usable):
            self._finding(
                "search_index_unused",
                "warning",
                str(found.table),
                f"The server does not use {usable[0].name} yet: transactions are open that are older than the index.",
                "Run again when they have ended, to have its recall measured.",
            )
            return None, "the server does not use it yet"
        return measured, ""

    def sample(self, found: EmbeddedTable, vector: VectorType) -> Sample | None:
        if found.table not in self._samples:
            try:
                self._samples[found.table] = draw(self.session, found, vector)
            except psycopg.errors.QueryCanceled:
                self._unmeasured(found, "an exact scan for a single vector")
                self._samples[found.table] = None
        return self._samples[found.table]

    def _unmeasured(self, found: EmbeddedTable, what: str) -> None:
        self._finding(
            "search_index_unmeasured",
            "warning",
            str(found.table),
            f"Recall could not be measured: {what} takes longer than {self.session.context.statement_timeout:g} s.",
            "Raise archon_statement_timeout to have it measured; the index is left as it is.",
        )

    def note(self, found: EmbeddedTable, statements: Sequence[Statement], mode: LockMode) -> None:
        """Note what is done or would be, and how long users wait for it where it is done in one transaction."""
        self.statements += statements
        if all(statement.transactional for statement in statements):
            seconds = sum(statement.seconds or 0.0 for statement in statements)
            self.waits.append(writers_wait(self.session, {found.table: mode}, len(statements), seconds))

    def _build(self, found: EmbeddedTable, statements: Sequence[Statement], drops: bool) -> float:
        """Carry out statements on indexes; the seconds it took."""
        started = time.monotonic()
        before = self._valid(found)
        try:
            self.proofs += build(
                self.session,
                found,
                statements,
                self.ledger,
                drops=drops,
                timeout=self.wanted.timeout,
                memory=self.wanted.memory,
            )
        except AlignError:
            # Of several statements outside transactions some may have been carried out.
            if not self.session.connection.closed:
                self.executed = self.executed or self._valid(found) != before
            raise
        self.executed = True
        if not all(statement.transactional for statement in statements):
            self._samples.pop(found.table, None)  # users wrote meanwhile
        return time.monotonic() - started

    def _valid(self, found: EmbeddedTable) -> list[str]:
        return [one.name for one in index.indexes(self.session, found) if one.valid]

    def _finding(self, code: str, severity: Severity, name: str, message: str, remedy: str) -> None:
        self.findings.append(Finding(code, severity, name, message, remedy))
