"""The rebuild of missing embeddings, in place, from the text that Archon itself embeds."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import psycopg
from psycopg import sql

from ..backup.space import DISK_FULL, Watch
from ..context import Context
from ..database.failures import server_error
from ..database.session import Session, open_session
from ..database.target import Table
from ..errors import AlignError, LockTimeout, Resumable
from ..findings import Finding
from ..outcome import PhaseOutcome, Status
from ..plan import Statement
from ..rollback.ledger import NOT_WRITTEN, Ledger
from .client import EmbeddingClient, Identity
from .endpoint import Endpoint
from .failures import RequestRejected, ServiceUnavailable, ServiceUnusable
from .horizon import Horizon, snapshot_now
from .pipeline import run_pipeline
from .quarantine import CANARY, PatientClient, Quarantined, Settled
from .reader import Limits, Row, batches, rows_without_embedding
from .tables import EmbeddedTable, VectorType
from .verification import SAME_COSINE, require_order, worst_cosine
from .work import BLANK, Work, survey
from .writer import Embedded, Writer, update_statement

# Rows that users edit between reading and writing are taken up again, but nobody is chased for ever.
_PASSES = 3
_FLUSH_SECONDS = 0.5


@dataclass(frozen=True, slots=True)
class Options:
    """The rebuild's options; times are in seconds.

    `pauses` are the waits before each further try of a request that the service could not take. The rebuild stops,
    resumable, when less than `min_free_mb` MiB are free for the artifacts, where its restore point is written.
    """

    endpoint: Endpoint
    batch_texts: int = 64
    batch_characters: int = 100_000
    rows_per_commit: int = 512
    in_flight: int = 2
    max_quarantined: int = 100
    stall_timeout: float = 300.0
    pauses: tuple[float, ...] = (0.5, 2.0, 5.0, 15.0, 30.0)
    sample: int = 5
    min_free_mb: int = 0


@dataclass(slots=True)
class _Progress:
    """What has become of one table's rows so far."""

    work: Work
    rebuilt: int = 0
    quarantined: list[Quarantined] = field(default_factory=list)
    sample: list[int] = field(default_factory=list)
    missing_after: int | None = None
    horizon: Horizon | None = None
    foreseen: int = 0  # what a run would quarantine, in check mode

    def as_dict(self) -> dict[str, int]:
        after = self.work.missing - self.rebuilt if self.missing_after is None else self.missing_after
        return {
            "missing_before": self.work.missing,
            "missing_after": after,
            "rebuilt": self.rebuilt,
            "quarantined": len(self.quarantined) or self.foreseen,
        }


def run(context: Context, options: Options) -> PhaseOutcome:
    """Embed every row of both tables whose embedding is NULL.

    When the service or the database gives out half-way, the outcome is `resumable`; when too many rows are refused or
    the written vectors do not prove right, it is `failed`; either holds the error and what was done. Raises AlignError
    when it fails before anything was written.
    """
    ledger = Ledger(context)
    with open_session(context, context.prod) as session:
        try:
            outcome = fill(session, options, ledger).outcome
        except psycopg.Error as error:
            raise server_error(context.prod, error, doing="looking for missing embeddings") from error
    ledger.end(outcome.status)
    outcome.details["restore_points"] = ledger.as_points()
    return outcome


@dataclass(frozen=True, slots=True)
class Filled:
    """What came of embedding what was missing: the outcome, and by table the ids of the rows that stay without vector."""

    outcome: PhaseOutcome
    quarantined: Mapping[Table, frozenset[int]]


def fill(session: Session, options: Options, ledger: Ledger) -> Filled:
    """`run` on a session that is open already; which rows get a vector is written to `ledger`.

    Raises AlignError or psycopg.Error.
    """
    rebuild = _Rebuild(session, options, ledger)
    outcome = rebuild.run()
    return Filled(
        outcome,
        {one.work.found.table: frozenset(row.id for row in one.quarantined) for one in rebuild.tables},
    )


class _Rebuild:
    def __init__(self, session: Session, options: Options, ledger: Ledger) -> None:
        self.session = session
        self.context = session.context
        self.options = options
        self.ledger = ledger
        self.watch = Watch({self.context.run.artifacts: "the restore point"}, options.min_free_mb)
        self.started = time.monotonic()
        self.findings: list[Finding] = []
        self.statements: list[Statement] = []
        self.tables: list[_Progress] = []
        self.identity = Identity("", "")
        self.introduced = False

    def run(self) -> PhaseOutcome:
        begun = snapshot_now(self.session)
        vector, works, findings = survey(self.session, self.options.endpoint.dimensions, beside=True)
        self.findings += findings
        self.tables = [_Progress(work) for work in works]
        self.statements = [_shape(work, vector) for work in works if work.missing]
        if self.context.check or not any(work.missing for work in works):
            for progress in self.tables:
                progress.missing_after = progress.work.missing
                progress.horizon = Horizon.of(self.session, progress.work.found.table, begun)
                progress.foreseen = progress.work.blank
            embeddable = sum(work.missing - work.blank for work in works)
            return self._outcome("drift" if embeddable else "aligned")
        assert vector is not None  # survey raises without it outside check mode
        vector.register(self.session)
        self.ledger.begin(self.session)
        try:
            with EmbeddingClient(self.options.endpoint) as client:
                self._rebuild(client, vector)
        except psycopg.Error as error:
            return self._stopped(server_error(self.context.prod, error, doing="rebuilding embeddings"))
        except (ServiceUnavailable, ServiceUnusable, RequestRejected, LockTimeout) as error:
            return self._stopped(error)
        except AlignError as error:
            # What is there is good, and so would be what comes.
            return self._stopped(error) if error.code in (NOT_WRITTEN, DISK_FULL) else self._outcome("failed", error)
        return self._outcome("changed" if self._rebuilt else "aligned")

    def _rebuild(self, client: EmbeddingClient, vector: VectorType) -> None:
        self._show_progress()
        for progress in self.tables:
            found = progress.work.found
            skipped = 1
            for _ in range(_PASSES):
                if not skipped:
                    break
                progress.horizon = Horizon.of(self.session, found.table)
                skipped = self._pass(client, progress, found, vector)
            progress.missing_after = self._count(found)
            left = progress.missing_after - len(progress.quarantined)
            if left > 0:
                self.findings.append(
                    Finding(
                        "embedding_rows_moving",
                        "warning",
                        str(found.table),
                        f"{left} rows were added or edited while the rebuild ran and have no embedding yet",
                        "Run the embeddings phase again.",
                    )
                )
        patient = PatientClient(client, self.options.pauses, threading.Event())
        for progress in self.tables:
            self._verify(progress, vector, patient)
        self._require_same_model(client)

    def _pass(self, client: EmbeddingClient, progress: _Progress, found: EmbeddedTable, vector: VectorType) -> int:
        """One walk over the rows that lack a vector; how many vectors were not wanted any more when they came."""
        stop = threading.Event()
        patient = PatientClient(client, self.options.pauses, stop)
        buffer: list[Embedded] = []
        flushed = time.monotonic()
        writer = Writer(self.session, found, vector, self.ledger)
        unwanted = 0

        def flush() -> None:
            nonlocal flushed, unwanted
            if buffer:
                self.watch.check()
                written = writer.write(buffer)
                progress.rebuilt += written
                unwanted += len(buffer) - written
                _sample(progress, buffer, self.options.sample)
                buffer.clear()
            self._show_progress()
            flushed = time.monotonic()

        def deliver(settled: Settled) -> None:
            buffer.extend(settled.embedded)
            if (
                len(buffer) >= self.options.rows_per_commit
                or settled.quarantined
                or time.monotonic() - flushed > _FLUSH_SECONDS
            ):
                flush()
            self._quarantine(progress, settled.quarantined)

        def embeddable() -> Iterator[Sequence[Row]]:
            limits = Limits(self.options.batch_texts, self.options.batch_characters)
            rows = rows_without_embedding(self.session, found, limits)
            known = {row.id for row in progress.quarantined}
            for batch in batches(rows, limits, known):
                if batch[0].blank:
                    self._quarantine(progress, [Quarantined(batch[0].id, BLANK)])
                    continue
                if not self.introduced:
                    patient.embed([CANARY], introduction=True)
                    require_order(patient.embed, client.url)
                    self.identity = client.identity()
                    self.introduced = True
                yield batch

        run_pipeline(
            embeddable(),
            patient.settle,
            deliver,
            in_flight=self.options.in_flight,
            stall_timeout=self.options.stall_timeout,
            stop=stop,
        )
        flush()
        return unwanted

    def _quarantine(self, progress: _Progress, rows: Sequence[Quarantined]) -> None:
        """Note rows that stay without embedding; raises AlignError above the threshold."""
        table = progress.work.found.table
        for row in rows:
            progress.quarantined.append(row)
            blank = row.reason == BLANK
            self.findings.append(
                Finding(
                    "embedding_quarantined",
                    "warning",
                    f"{table} id {row.id}",
                    f"The row stays without embedding: {row.reason}.",
                    "Delete the row or re-upload its document."
                    if blank
                    else "Look at the row's text and the service's log; the next run tries it again.",
                )
            )
        count = sum(len(table.quarantined) for table in self.tables)
        if count > self.options.max_quarantined:
            raise AlignError(
                "Too many rows cannot be embedded.",
                object_name=str(table),
                expected=f"at most {self.options.max_quarantined} quarantined rows (archon_embeddings_max_quarantined)",
                found=f"{count}, the last because of: {rows[-1].reason}",
                remedy="See the findings for the rows; correct the cause or raise the threshold. What was written stays.",
                code="embedding_too_many_quarantined",
            )

    def _verify(self, progress: _Progress, vector: VectorType, client: PatientClient) -> None:
        if not progress.sample:
            return
        found = progress.work.found
        worst = worst_cosine(self.session, found, vector, client.embed, "", progress.sample)
        if worst is not None and worst[1] < SAME_COSINE:
            raise AlignError(
                "A rebuilt vector does not belong to its row.",
                object_name=f"{found.table} id {worst[0]}",
                expected=f"cosine of at least {SAME_COSINE} with its text embedded once more",
                found=f"cosine {worst[1]:.4f}",
                remedy="Do not trust this run's vectors: check the service, set them to NULL and run again.",
                code="embedding_sample_mismatch",
            )

    def _require_same_model(self, client: EmbeddingClient) -> None:
        if not self.introduced:
            return
        now = client.identity()
        if self.identity.digest and now.digest and now.digest != self.identity.digest:
            raise AlignError(
                "The embedding model changed while the rebuild ran.",
                object_name=f"model {self.options.endpoint.model}",
                expected=f"digest {self.identity.digest}",
                found=f"digest {now.digest}",
                remedy="Vectors of two models do not compare: set this run's embeddings to NULL and run again.",
                code="embedding_model_changed",
            )

    def _count(self, found: EmbeddedTable) -> int:
        query = sql.SQL("SELECT count(*) FROM {} AS page WHERE {} IS NULL").format(found.table.identifier, found.vector)
        return int(self.session.value(query))

    @property
    def _rebuilt(self) -> int:
        return sum(progress.rebuilt for progress in self.tables)

    def _show_progress(self) -> None:
        done = sum(progress.rebuilt + len(progress.quarantined) for progress in self.tables)
        self.session.progress(f"{done}/{sum(progress.work.missing for progress in self.tables)}")

    def _outcome(self, status: Status, error: AlignError | None = None) -> PhaseOutcome:
        seconds = time.monotonic() - self.started
        tables = {str(progress.work.found.table): progress.as_dict() for progress in self.tables}
        totals = {
            key: sum(table[key] for table in tables.values())
            for key in ("missing_before", "missing_after", "rebuilt", "quarantined")
        }
        # Check mode shows what a run would leave.
        after = {
            name: progress.work.blank if status == "drift" else table["missing_after"]
            for progress, (name, table) in zip(self.tables, tables.items(), strict=True)
        }
        return PhaseOutcome(
            phase="embeddings",
            status=status,
            seconds=seconds,
            changed=bool(self._rebuilt) or status == "drift",
            statements=self.statements,
            findings=self.findings,
            error=error,
            diff=[
                {
                    "before_header": name,
                    "after_header": name,
                    "before": f"{table['missing_before']} rows without embedding\n",
                    "after": f"{after[name]} rows without embedding\n",
                }
                for name, table in tables.items()
                if table["missing_before"] != after[name]
            ],
            details={
                "embeddings": {
                    **totals,
                    "rows_per_second": round(self._rebuilt / seconds, 1) if seconds else 0.0,
                    "tables": tables,
                    "horizon": self._horizons() if status in ("aligned", "changed") else {},
                    "model": self.options.endpoint.model,
                    "digest": self.identity.digest,
                    "version": self.identity.version,
                }
            },
        )

    def _horizons(self) -> dict[str, dict[str, Any]]:
        return {str(one.work.found.table): one.horizon.as_dict() for one in self.tables if one.horizon is not None}

    def _stopped(self, cause: AlignError) -> PhaseOutcome:
        stopped = Resumable(
            f"The rebuild of embeddings stopped. {cause.what}",
            object_name=cause.object_name,
            expected=cause.expected,
            found=cause.found,
            remedy=f"{cause.remedy} The {self._rebuilt} embeddings written in this run are kept; the next run continues.",
            code=cause.code,
        )
        return self._outcome("resumable", stopped)


def _shape(work: Work, vector: VectorType | None) -> Statement:
    """The statement's shape with the number of rows; its arrays are known only when the service has answered."""
    shown = vector or VectorType("public", 0, 0, "")
    return Statement(
        update_statement(work.found, shown, ("$1", "$2", "$3")).as_string(None),
        str(work.found.table),
        f"embed {work.missing - work.blank} rows {'beside their old vectors' if work.found.beside else 'in place'} ($1 ids, $2 hashes of the texts read, $3 vectors)",
    )


def _sample(progress: _Progress, written: Sequence[Embedded], size: int) -> None:
    """Keep up to `size` ids, spread over all that was written so far."""
    for row in random.sample(written, min(size, len(written))):
        if len(progress.sample) < size:
            progress.sample.append(row.id)
        elif random.random() < size / max(1, progress.rebuilt):  # noqa: S311 - a sample, not a secret
            progress.sample[random.randrange(size)] = row.id  # noqa: S311
