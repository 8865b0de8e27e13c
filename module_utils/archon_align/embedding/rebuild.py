"""The rebuild of missing embeddings, in place: what is read, embedded, written and proved, on one machine."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import psycopg
from psycopg import sql

from ..backup.space import DISK_FULL, Watch
from ..database.failures import server_error
from ..database.session import Session, open_session
from ..errors import AlignError, LockTimeout, Resumable
from ..findings import Finding
from ..outcome import PhaseOutcome, Status
from ..plan import Statement
from ..rollback.ledger import NOT_WRITTEN, Ledger
from .account import Quarantine, TableAccount, row_findings
from .client import EmbeddingClient
from .delivery import Delivery
from .failures import RequestRejected, ServiceUnavailable, ServiceUnusable
from .horizon import Horizon, snapshot_now
from .lane import Manner
from .options import Options
from .pipeline import Feeder, run_pipeline
from .pool import Pool
from .prefix import Prefix, find_prefix
from .progress import Counters
from .ranges import watch_connection
from .reader import Limits, Reader, patiently
from .refusals import is_model_missing
from .same_model import SAME_COSINE
from .stale import selection, stale_sources
from .tables import EmbeddedTable, VectorType
from .vectors import Vectors
from .verification import worst_cosine
from .work import index_in_the_way, survey
from .workers import samples
from .writer import update_statement

_SHOW_SECONDS = 1.0
# Octets that are well within any model's context.
_SHORT = 1000
# How long several endpoints may take to be compared before the first row is sent.
_GREETING_SECONDS = 10.0


class Rebuild:
    """One rebuild on one session; `run` once."""

    def __init__(self, session: Session, options: Options, ledger: Ledger) -> None:
        self.session = session
        self.context = session.context
        self.options = options
        self.ledger = ledger
        self.watch = Watch({self.context.run.artifacts: "the restore point"}, options.min_free_mb)
        self.started = time.monotonic()
        self.findings: list[Finding] = []
        self.statements: list[Statement] = []
        self.tables: list[TableAccount] = []
        self.quarantine = Quarantine(self.context, options.max_quarantined)
        self.counters = Counters(0)
        self.pool: Pool | None = None
        self._shown = 0.0
        self.prefix = Prefix(options.prefix, "configured")

    def run(self) -> PhaseOutcome:
        """Raises AlignError when it fails before anything was written, or psycopg.Error."""
        begun = snapshot_now(self.session)
        vector, works, findings = survey(self.session, self.options.endpoints[0].dimensions, beside=True)
        self.findings += findings
        for work in works:
            self.findings += index_in_the_way(self.session, work)
        self.tables = [TableAccount(work) for work in works]
        # What is stale has to be asked of the service, also in check mode; several workers leave that to the last one.
        looks = self.options.scope == "stale" and not self.options.worker and vector is not None
        if not self.options.worker and not self.context.check and vector is not None:
            # Workers know nothing of one another: that all had the same model is seen here.
            theirs = samples(self.context, self.options.sample)
            for table in self.tables:
                table.theirs = theirs.get((table.work.found.table, table.work.found.column), [])
            looks = looks or bool(theirs)
        if looks or (self._to_do and not self.context.check):
            assert vector is not None  # survey raises without it outside check mode
            vector.register(self.session)
            manner = Manner(
                self.options.overlong, self.options.pull and not self.context.check, self.options.max_in_flight
            )
            clients = [EmbeddingClient(endpoint) for endpoint in self.options.endpoints]
            self.pool = Pool(clients, manner, stall_timeout=self.options.stall_timeout)
            try:
                return self._guarded(self.pool, vector, begun)
            finally:
                self.pool.close()
        return self._nothing_done(vector, begun)

    def _guarded(self, pool: Pool, vector: VectorType, begun: str) -> PhaseOutcome:
        try:
            self._look(pool, vector, stale=self.options.scope == "stale" and not self.options.worker)
            if self.context.check or not self._to_do:
                for table in self.tables:
                    self._verify(table, vector, pool)
                return self._nothing_done(vector, begun)
            self.statements = [_shape(table, vector) for table in self.tables if table.to_do]
            self.ledger.begin(self.session)
            self._rebuild(pool, vector)
        except psycopg.Error as error:
            return self._stopped(server_error(self.context.prod, error, doing="rebuilding embeddings"))
        except (ServiceUnavailable, ServiceUnusable, RequestRejected, LockTimeout) as error:
            if self.context.check and self.options.pull and is_model_missing(error):
                self.findings.append(
                    Finding(
                        "embedding_model_to_pull",
                        "warning",
                        error.object_name,
                        "The service lacks the model. A run pulls it, check mode does not, so what is stale is not known.",
                        "Nothing to do, or pull it beforehand.",
                    )
                )
                return self._nothing_done(vector, begun)
            return self._stopped(error)
        except AlignError as error:
            # What is there is good, and so would be what comes.
            return self._stopped(error) if error.code in (NOT_WRITTEN, DISK_FULL) else self._outcome("failed", error)
        return self._outcome("changed" if self.rebuilt else "aligned")

    @property
    def _to_do(self) -> bool:
        return any(table.to_do for table in self.tables)

    def _nothing_done(self, vector: VectorType | None, begun: str) -> PhaseOutcome:
        """There is nothing to do, or in check mode this is what would be done."""
        self.statements = [_shape(table, vector) for table in self.tables if table.to_do]
        for table in self.tables:
            table.missing_after = table.work.missing
            table.horizon = Horizon.of(self.session, table.work.found.table, begun)
            table.foreseen = table.work.blank
        return self._outcome("drift" if any(table.to_do > table.work.blank for table in self.tables) else "aligned")

    def _look(self, pool: Pool, vector: VectorType, *, stale: bool) -> None:
        """What stands before each text, and which vectors that are there come from another model."""
        pool.begin(_GREETING_SECONDS, lambda: self.show("asking the service"))
        there = [table for table in self.tables if not table.work.found.missing_columns]
        self.prefix = find_prefix(
            self.session,
            [table.work.found for table in there],
            vector,
            self.options.endpoints[0].dimensions,
            self._ask,
            self.options.prefix,
        )
        pool.prefix = self.prefix.prefix
        self.findings += self.prefix.findings
        for table in there if stale else []:
            table.stale = stale_sources(self.session, table.work.found, vector, self._ask, pool.prefix)
            table.selection = selection(table.stale)

    @property
    def rebuilt(self) -> int:
        return sum(table.rebuilt for table in self.tables)

    def _rebuild(self, pool: Pool, vector: VectorType) -> None:
        self.counters = Counters(sum(table.to_do for table in self.tables))
        for table in self.tables:
            table.horizon = Horizon.of(self.session, table.work.found.table)
        watch_connection(self.session)
        with open_session(self.context, self.context.prod) as reading:
            watch_connection(reading)
            limits = Limits(self.options.batch_texts, self.options.batch_characters)
            reader = Reader(
                reading,
                [table.work.found for table in self.tables],
                [table.selection for table in self.tables],
                limits,
            )
            delivery = Delivery(self, reader, vector, pool)
            run_pipeline(pool, Feeder(reader, pool, reading.progress), delivery.take, delivery.tick)
        self.session.progress(self.counters.text())
        for table in self.tables:
            table.missing_after = self._count(table.work.found)
            left = table.missing_after - len(table.quarantined)
            if left > 0:
                self.findings.append(
                    Finding(
                        "embedding_rows_moving",
                        "warning",
                        table.name,
                        f"{left} rows were added or edited while the rebuild ran and have no embedding yet",
                        "Run the embeddings phase again.",
                    )
                )
            self._verify(table, vector, pool)
        self._require_same_models(pool)

    def _ask(self, texts: Sequence[str]) -> Vectors:
        """The vectors of `texts`, shown to be waited for: a session that is told to end learns it when it says something."""
        assert self.pool is not None  # made before anything is asked
        return self.pool.ask(texts, lambda: self.show("asking the service"))

    def show(self, text: str) -> None:
        """Show `text`, once a second at most. Raises psycopg.Error."""
        now = time.monotonic()
        if now - self._shown > _SHOW_SECONDS:
            self.session.progress(text)
            self._shown = now

    def _verify(self, table: TableAccount, vector: VectorType, pool: Pool) -> None:
        sample = [one for ids in table.samples.values() for one in ids] + self._short(table)
        if not sample:
            return
        worst = worst_cosine(self.session, table.work.found, vector, self._ask, pool.prefix, sample)
        if worst is not None and worst[1] < SAME_COSINE:
            raise AlignError(
                "A rebuilt vector does not belong to its row.",
                object_name=f"{table.name} id {worst[0]}",
                expected=f"cosine of at least {SAME_COSINE} with its text embedded once more",
                found=f"cosine {worst[1]:.4f}",
                remedy="Do not trust this run's vectors: check the service, and that every worker has the same model; then run with"
                " archon_embeddings_scope: stale, which finds and rebuilds those that are wrong.",
                code="embedding_sample_mismatch",
            )

    def _short(self, table: TableAccount) -> list[int]:
        """Of the workers' samples those whose text no model cuts."""
        if not table.theirs:
            return []
        content = sql.Identifier("page", table.work.found.kind.columns[0])
        query = sql.SQL(
            "SELECT page.id FROM {} AS page WHERE page.id = ANY (%s::bigint[]) AND pg_catalog.octet_length({}) < {}"
        ).format(table.work.found.table.identifier, content, sql.Literal(_SHORT))
        return [row["id"] for row in patiently(self.session, query, (table.theirs,))]

    def _require_same_models(self, pool: Pool) -> None:
        for lane, now in pool.identities():
            if lane.identity.digest and now.digest and now.digest != lane.identity.digest:
                raise AlignError(
                    "The embedding model changed while the rebuild ran.",
                    object_name=f"model {lane.endpoint.model} at {lane.endpoint.base_url}",
                    expected=f"digest {lane.identity.digest}",
                    found=f"digest {now.digest}",
                    remedy="Vectors of two models do not compare: set this run's embeddings to NULL and run again.",
                    code="embedding_model_changed",
                )

    def _count(self, found: EmbeddedTable) -> int:
        query = sql.SQL("SELECT count(*) AS rows FROM {} AS page WHERE {} IS NULL").format(
            found.table.identifier, found.vector
        )
        return int(patiently(self.session, query)[0]["rows"])

    def _outcome(self, status: Status, error: AlignError | None = None) -> PhaseOutcome:
        seconds = time.monotonic() - self.started
        tables = {table.name: table.as_dict() for table in self.tables}
        totals = {
            key: sum(table[key] for table in tables.values())
            for key in ("missing_before", "missing_after", "rebuilt", "quarantined", "truncated")
        }
        # Check mode shows what a run would leave.
        after = {
            table.name: table.work.blank if status == "drift" else tables[table.name]["missing_after"]
            for table in self.tables
        }
        return PhaseOutcome(
            phase="embeddings",
            status=status,
            seconds=seconds,
            changed=bool(self.rebuilt) or status == "drift",
            statements=self.statements,
            findings=[*self.findings, *row_findings(self.tables), *self._endpoint_findings()],
            error=error,
            diff=[
                {
                    "before_header": name,
                    "after_header": name,
                    "before": f"{table['missing_before']} rows without embedding\n{_stale(table['stale']) if table.get('stale') else ''}",
                    "after": f"{after[name]} rows without embedding\n{_stale(0) if table.get('stale') else ''}",
                }
                for name, table in tables.items()
                if table["missing_before"] != after[name] or table.get("stale")
            ],
            details={
                "embeddings": {
                    **totals,
                    "rows_per_second": round(self.rebuilt / seconds, 1) if seconds else 0.0,
                    "tables": tables,
                    "horizon": self._horizons() if status in ("aligned", "changed") else {},
                    **self._service(),
                }
            },
        )

    def _service(self) -> dict[str, Any]:
        """What embedded: the model, what it says of itself, and each endpoint's part."""
        lanes = self.pool.lanes if self.pool is not None else []
        introduced = [lane.identity for lane in lanes if lane.introduced]
        return {
            "model": self.options.endpoints[0].model,
            "digest": introduced[0].digest if introduced else "",
            "version": introduced[0].version if introduced else "",
            "prefix": {
                "value": self.prefix.prefix,
                "source": self.prefix.source,
                "evidence": dict(self.prefix.evidence),
            },
            "endpoints": [lane.as_dict() for lane in lanes],
        }

    def _endpoint_findings(self) -> list[Finding]:
        findings = []
        for lane in self.pool.lanes if self.pool is not None else []:
            findings += lane.findings
            if lane.off is not None:
                message = f"It took no further part: expected {lane.off.expected}, found {lane.off.found}."
                findings.append(
                    Finding("embedding_endpoint_off", "warning", lane.endpoint.base_url, message, lane.off.remedy)
                )
            elif lane.outages:
                message = f"It failed {lane.outages} times and was left alone for a while each time; others went on."
                findings.append(
                    Finding(
                        "embedding_endpoint_outages",
                        "info",
                        lane.endpoint.base_url,
                        message,
                        "See the service's log if that is not expected.",
                    )
                )
        return findings

    def _horizons(self) -> dict[str, dict[str, Any]]:
        return {table.name: table.horizon.as_dict() for table in self.tables if table.horizon is not None}

    def _stopped(self, cause: AlignError) -> PhaseOutcome:
        if self.rebuilt:
            self.findings.append(
                Finding(
                    "embedding_unproved",
                    "warning",
                    ", ".join(table.name for table in self.tables if table.rebuilt),
                    f"{self.rebuilt} vectors were written, but the work ended before a sample of them was embedded once more.",
                    "If the service may have changed its model meanwhile, run with archon_embeddings_scope: stale.",
                )
            )
        stopped = Resumable(
            f"The rebuild of embeddings stopped. {cause.what}",
            object_name=cause.object_name,
            expected=cause.expected,
            found=cause.found,
            remedy=f"{cause.remedy} The {self.rebuilt} embeddings written in this run are kept; the next run continues.",
            code=cause.code,
        )
        return self._outcome("resumable", stopped)


def _shape(table: TableAccount, vector: VectorType | None) -> Statement:
    """The statement's shape with the number of rows; its arrays are known only when the service has answered."""
    work = table.work
    shown = vector or VectorType("public", 0, 0, "")
    where = "beside their old vectors" if work.found.beside else "in place"
    what = f"embed {work.missing - work.blank} rows {where}"
    if table.stale:
        what += f", and up to {table.stale_rows} whose vectors come from another model"
    return Statement(
        update_statement(work.found, shown, table.selection, ("$1", "$2", "$3")).as_string(None),
        table.name,
        f"{what} ($1 ids, $2 hashes of the texts read, $3 vectors)",
    )


def _stale(rows: int) -> str:
    return f"{rows} rows with vectors of another model\n"
