"""Taking a backup: what it will hold, the dump, and what is counted and written in the dump's own snapshot."""

from __future__ import annotations

import contextlib
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psycopg
from psycopg import errors as pg

from ..context import Context
from ..database.failures import server_error
from ..database.session import Session, open_session
from ..database.target import Table
from ..database.tries import pause
from ..errors import AlignError
from ..preservation.fingerprint import Fingerprint, fingerprint
from . import bookkeeping, lines, space
from .critical import Critical, critical
from .dump import Form, dumping, form_for, require_success
from .inventory import Inventory, inventory
from .leftovers import STAGING, mark
from .loading import client
from .outside import Outside, outside
from .prediction import Prediction, predict
from .proof import Proof, Setting
from .retention import Keep
from .scratch import Scratch
from .surroundings import Surroundings, surroundings
from .survey import Survey, lock_for_reading, survey
from .tools import Tool, find_tool, require_not_older, with_tls

FOLDER = "backup"
_KEEPS_BOOKS = "SELECT EXISTS (SELECT FROM pg_attribute, unnest(attoptions) o WHERE o LIKE %(option)s)"
SNAPSHOT = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY"


@dataclass(frozen=True, slots=True)
class Options:
    """`timeout` bounds the dump and each step of its proof, in seconds; `min_free_mb` MiB are left free on every disk.

    Above `parallel_mb` MiB of tables several processes dump into a folder. An empty `pg_dump` means the bundled one.
    `recipients` are the public keys to which the backup is encrypted; none leaves it plain. With a `scratch_dsn` the proof
    is made on that server.
    """

    pg_dump: str = ""
    timeout: float = 3600.0
    min_free_mb: int = 200
    parallel_mb: int = 64
    recipients: tuple[str, ...] = ()
    keep: Keep = field(default_factory=Keep)
    scratch_dsn: str = field(default="", repr=False)


@dataclass(frozen=True, slots=True)
class Plan:
    """What was found before anything is dumped, and with what it will be. `estimate` is in bytes."""

    survey: Survey
    outside: Outside
    critical: Critical
    tool: Tool
    form: Form
    prediction: Prediction | None
    estimate: int


@dataclass(frozen=True, slots=True)
class Dumped:
    """A dump of what was planned, made in `seconds`. `proof` restores its rows in the background until `filled` is done."""

    plan: Plan
    path: Path
    seconds: float
    proof: Proof
    filled: Future[None]


@dataclass(frozen=True, slots=True)
class Taken:
    """A dump and its schemas in the same snapshot.

    `carried` are fingerprints over the columns that a dump carries, `lines` the rows of the protected tables as JSON
    Lines by path relative to the backup's folder.
    """

    dumped: Dumped
    fingerprints: tuple[Fingerprint, ...]
    carried: tuple[Fingerprint, ...]
    objects: Inventory
    lines: Mapping[Table, str]
    surroundings: Surroundings


def reading(context: Context, options: Options) -> Session:
    """A session on PROD that reads; its statements may take as long as the dump."""
    return open_session(context, context.prod, read_only=True, statement_timeout=options.timeout)


@contextmanager
def staged(context: Context) -> Iterator[Path]:
    """A private folder beside the backup's own, for what is not whole yet; whatever is left in it goes."""
    folder = context.run.artifacts / f"{STAGING}{mark()}"
    try:
        folder.mkdir(mode=0o700, parents=True)
    except OSError as error:
        raise AlignError(
            "The folder of the backup cannot be made.",
            object_name=str(folder.parent),
            expected="a writable artifacts folder",
            found=error.strerror or str(error),
            remedy="Free space there or set archon_artifacts_root to another folder.",
            code="artifacts_not_writable",
        ) from error
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def publish(staging: Path) -> Path:
    """Make what was staged the run's backup, in the place of an earlier one of the same run."""
    folder = staging.with_name(FOLDER)
    if folder.exists():
        folder.rename(staging.with_name(f"{staging.name}-before"))
    staging.rename(folder)
    shutil.rmtree(staging.with_name(f"{staging.name}-before"), ignore_errors=True)
    return folder


def plan(context: Context, options: Options, session: Session, scratch: Scratch) -> Plan:
    """Raises AlignError when there will be no backup, or none that can be proved."""
    found = survey(session, context.schemas)
    tool = find_tool(Path(options.pg_dump) if options.pg_dump else scratch.embedded.bin / "pg_dump")
    require_not_older(tool, found.database.server_version, found.database.major)
    if session.connection.pgconn.ssl_in_use:
        tool = with_tls(tool)
    prediction = predict(context.run.artifacts.parent, FOLDER, identity_of(found), found.table_bytes)
    protected = sum(relation.size for relation in found.relations if relation.table in context.protected)
    estimate = prediction.room if prediction else space.dump_estimate(found.table_bytes, protected)
    if scratch.outer:
        scratch.outer.require_usable(session, found)
    space.require_space(
        context.run.artifacts,
        None if scratch.outer else scratch.embedded.data,
        dump=estimate,
        table_bytes=found.table_bytes,
        index_bytes=found.index_bytes,
        min_free_mb=options.min_free_mb,
    )
    around = outside(session, found)
    return Plan(
        found,
        around,
        critical(session, found, around, context.protected),
        tool,
        form_for(found.table_bytes, options.parallel_mb),
        prediction,
        estimate,
    )


def identity_of(found: Survey) -> dict[str, Any]:
    """Which database it is, for manifests."""
    database = found.database
    return {
        "address": database.where,
        "name": database.name,
        "oid": database.oid,
        "system_identifier": database.system_identifier,
        "server_version": database.server_version,
        "encoding": database.encoding,
        "collate": database.collate,
    }


def take(context: Context, options: Options, scratch: Scratch, folder: Path) -> Taken:
    """Dump PROD into `folder`, in bounded tries: somebody's change of a table in the wrong moment costs a try, not the run."""
    proving = {} if scratch.outer else {scratch.embedded.data: "the server that proves it"}
    watch = space.Watch({folder: "the backup", **proving}, options.min_free_mb)
    try:
        for attempt in range(1, context.lock_attempts + 1):
            try:
                with reading(context, options) as session, session.transaction(SNAPSHOT):
                    dumped = _dump(context, options, session, scratch, folder, watch)
                    return _read(context, session, dumped, watch)
            except (AlignError, pg.LockNotAvailable) as error:
                if isinstance(error, AlignError) and error.code != "lock_timeout":
                    raise
                if attempt == context.lock_attempts:
                    raise
            _empty(folder)
            pause()
        raise AssertionError("unreachable: the last attempt either returned or raised")
    except pg.LockNotAvailable as error:
        raise AlignError(
            "A table stayed locked, so the backup was not made.",
            object_name=context.prod.name,
            expected=f"a reading lock on every table within {context.lock_attempts} tries",
            found=" ".join((error.diag.message_primary or str(error)).split()),
            remedy="See pg_locks for who changes the table; run again when that is over.",
            code="lock_timeout",
        ) from error
    except psycopg.Error as error:
        raise server_error(context.prod, error, doing="it was backed up") from error


def _empty(folder: Path) -> None:
    for path in folder.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()


def _dump(
    context: Context, options: Options, session: Session, scratch: Scratch, folder: Path, watch: space.Watch
) -> Dumped:
    started = time.monotonic()
    planned = plan(context, options, session, scratch)
    path = folder / planned.form.name(context.schemas)
    proof = _proof(context, options, scratch, watch, planned, path)
    if planned.form.jobs == 1:
        scratch.work(proof.prepare)  # while PROD is dumped; a dump that takes all processors is not disturbed
    lock_for_reading(session, planned.survey.locked)
    snapshot = str(session.value("SELECT pg_export_snapshot()"))
    with dumping(
        session, planned.tool, snapshot, context.schemas, planned.form, path, timeout=options.timeout, guard=watch.check
    ) as running:
        # Asking now and then also keeps the server from ending this idle transaction, and the snapshot with it.
        ended = running.wait(lambda: session.progress(size(_written(path))))
    require_success(ended, f"{context.prod.name} {planned.survey.database.where}", folder.parent)
    if session.value(_KEEPS_BOOKS, {"option": f"{bookkeeping.OPTION}=%"}):
        bookkeeping.take_out(path, client(options.pg_dump, "pg_restore"), options.timeout)
    return Dumped(planned, path, time.monotonic() - started, proof, scratch.work(proof.fill))


def _proof(
    context: Context, options: Options, scratch: Scratch, watch: space.Watch, planned: Plan, dump: Path
) -> Proof:
    def guard() -> None:
        scratch.guard()
        watch.check()

    setting = Setting(planned.outside, context.schemas, planned.survey.database.encoding, planned.form.jobs)
    return Proof(context, scratch.server, dump, setting, options.timeout, guard)


def _read(context: Context, session: Session, dumped: Dumped, watch: space.Watch) -> Taken:
    """Count and fingerprint every table, and write the rows of the protected ones, in the dump's snapshot."""
    relations = dumped.plan.survey.relations
    fingerprints: list[Fingerprint] = []
    carried: list[Fingerprint] = []
    for number, relation in enumerate(relations, 1):
        watch.check()
        if dumped.filled.done():
            dumped.filled.result()
        seen = fingerprint(session, relation.table, relation.columns)
        fingerprints.append(seen)
        carried.append(fingerprint(session, relation.table, relation.stored) if relation.generated else seen)
        if number % 10 == 0:
            session.progress(f"{number}/{len(relations)} tables")
    objects = inventory(session, context.schemas)
    protected = [item for item in fingerprints if item.table in context.protected]
    written = _write_lines(context, session, dumped.path.parent, protected, watch)
    around = surroundings(session, dumped.plan.survey, dumped.plan.outside.left_out)
    return Taken(dumped, tuple(fingerprints), tuple(carried), objects, written, around)


def _write_lines(
    context: Context, session: Session, folder: Path, protected: Sequence[Fingerprint], watch: space.Watch
) -> dict[Table, str]:
    (folder / lines.FOLDER).mkdir(mode=0o700)
    written = {}
    for table, name in lines.file_names([item.table for item in protected], context.schemas[0]).items():
        rows = lines.write_lines(session, table, folder / lines.FOLDER / name, watch.check)
        expected = next(item.rows for item in protected if item.table == table)
        if rows != expected:
            raise AlignError(
                "The rows of a protected table were not all written.",
                object_name=str(table),
                expected=f"{expected} rows, as counted in the same snapshot",
                found=f"{rows} lines",
                remedy="This is a defect; report it with this message.",
                code="backup_not_proved",
            )
        written[table] = f"{lines.FOLDER}/{name}"
    return written


def _written(dump: Path) -> int:
    with contextlib.suppress(OSError):
        return sum(path.stat().st_size for path in (dump.iterdir() if dump.is_dir() else (dump,)))
    return 0


def size(number: float) -> str:
    """Bytes in words."""
    return f"{number / 2**20:.1f} MiB" if number >= 2**20 else f"{number / 1024:.0f} KiB"
