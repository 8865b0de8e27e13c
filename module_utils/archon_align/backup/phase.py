"""Backup: dump PROD's schemas in the snapshot of their fingerprints, and prove the dump by restoring it."""

from __future__ import annotations

import contextlib
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import psycopg
from psycopg import errors as pg
from psycopg import sql

from ..context import Context
from ..database.failures import server_error
from ..database.session import Session, open_session
from ..database.target import Table
from ..database.tries import pause
from ..errors import AlignError
from ..findings import Finding
from ..outcome import PhaseOutcome
from ..preservation.fingerprint import Fingerprint, fingerprint
from . import manifest, space
from .dump import dumping, require_success
from .inventory import Inventory, counts, inventory
from .outside import Outside, outside
from .proof import Expected, Scratch, prove
from .survey import Survey, lock_for_reading, survey
from .tools import Tool, find_tool, require_not_older, with_tls

FOLDER = "backup"
LIST_NAME = "restore.list"
PREAMBLE_NAME = "preamble.sql"
_SNAPSHOT = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY"


@dataclass(frozen=True, slots=True)
class Options:
    """`timeout` bounds the dump and its proof, each, in seconds; `min_free_mb` MiB are left free on every disk.

    An empty `pg_dump` means the bundled one.
    """

    pg_dump: str = ""
    timeout: float = 3600.0
    min_free_mb: int = 200


@dataclass(frozen=True, slots=True)
class _Plan:
    """What was found before anything is dumped, and with what it will be."""

    survey: Survey
    outside: Outside
    tool: Tool
    estimate: int


@dataclass(frozen=True, slots=True)
class _Seen:
    """The schemas in the exported snapshot. `carried` are fingerprints over the columns that a dump carries."""

    plan: _Plan
    fingerprints: tuple[Fingerprint, ...]
    carried: tuple[Fingerprint, ...]
    objects: Inventory


def run(context: Context, options: Options) -> PhaseOutcome:
    """Back up the schemas of PROD and prove the backup; in check mode only say what would be done.

    Raises AlignError; without a proof there is no success. Never changes a database.
    """
    started = time.monotonic()
    with Scratch() as scratch:
        outcome = _predict(context, options, scratch) if context.check else _back_up(context, options, scratch)
    return replace(outcome, seconds=time.monotonic() - started)


def _session(context: Context, options: Options) -> Session:
    return open_session(context, context.prod, read_only=True, statement_timeout=options.timeout)


def _plan(context: Context, options: Options, session: Session, scratch: Scratch) -> _Plan:
    found = survey(session, context.schemas)
    tool = find_tool(Path(options.pg_dump) if options.pg_dump else scratch.bin / "pg_dump")
    require_not_older(tool, found.database.server_version, found.database.major)
    if session.connection.pgconn.ssl_in_use:
        tool = with_tls(tool)
    estimate = space.require_space(
        context.run.artifacts,
        scratch.data,
        table_bytes=found.table_bytes,
        index_bytes=found.index_bytes,
        min_free_mb=options.min_free_mb,
    )
    return _Plan(found, outside(session, found), tool, estimate)


def _predict(context: Context, options: Options, scratch: Scratch) -> PhaseOutcome:
    protected = set(context.protected)
    try:
        with _session(context, options) as session, session.transaction(_SNAPSHOT):
            plan = _plan(context, options, session, scratch)
            prints = [
                fingerprint(session, relation.table, relation.columns)
                for relation in plan.survey.relations
                if relation.table in protected
            ]
            rows = {
                relation.table: int(session.value(sql.SQL("SELECT count(*) FROM {}").format(relation.table.identifier)))
                for relation in plan.survey.relations
            }
    except psycopg.Error as error:
        raise server_error(context.prod, error, doing="it was read for the backup") from error
    section = _snapshot_before(context, plan.survey, prints, rows)
    planned = Finding(
        "backup_planned",
        "info",
        f"PROD {plan.survey.database.where}",
        f"A run would dump {len(rows)} tables with {sum(rows.values())} rows "
        f"(at most about {_size(plan.estimate)}) and prove the dump by restoring it into a private server.",
        "Nothing to do.",
    )
    return PhaseOutcome(
        phase=context.phase,
        status="aligned",
        findings=[planned, *_absent(context, section)],
        details={
            "backup": {
                "planned": True,
                "estimated_bytes": plan.estimate,
                "tables": len(rows),
                "rows": sum(rows.values()),
                "verified": False,
            },
            "restore_points": [],
            "protected_before": section,
        },
    )


def _back_up(context: Context, options: Options, scratch: Scratch) -> PhaseOutcome:
    started = time.monotonic()
    dump = _folder(context) / ("public.dump" if context.schemas == ("public",) else "schemas.dump")
    seen = _dump(context, options, scratch, dump)
    dumped = time.monotonic()
    section = _snapshot_before(
        context,
        seen.plan.survey,
        [item for item in seen.fingerprints if item.table in set(context.protected)],
        {item.table: item.rows for item in seen.fingerprints},
    )
    content = _content(context, seen, dump, dumped - started)
    left_out = _proved(context, options, scratch, dump, seen, content)
    facts = content["files"][dump.name]
    path = f"{FOLDER}/{dump.name}"
    return PhaseOutcome(
        phase=context.phase,
        status="aligned",
        findings=[*left_out, *_absent(context, section)],
        details={
            "backup": {
                "path": path,
                "bytes": facts["bytes"],
                "sha256": facts["sha256"],
                "seconds": {
                    "dump": round(dumped - started, 3),
                    "proof": round(time.monotonic() - dumped, 3),
                },
                "tables": len(seen.fingerprints),
                "rows": sum(item.rows for item in seen.fingerprints),
                "objects": counts(seen.objects),
                "verified": True,
            },
            "restore_points": [
                {
                    "name": f"{context.run.id}:backup",
                    "kind": "backup",
                    "path": path,
                    "verified": True,
                    "created_at": seen.plan.survey.database.now,
                    "restore_with": f"in an empty database run {dump.with_name(PREAMBLE_NAME)} as superuser (psql), then: "
                    f"pg_restore --exit-on-error --use-list={dump.with_name(LIST_NAME)} --dbname=DSN {dump}",
                }
            ],
            "protected_before": section,
        },
    )


def _folder(context: Context) -> Path:
    folder = context.run.artifacts / FOLDER
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        folder.chmod(0o700)
    except OSError as error:
        raise AlignError(
            "The folder of the backup cannot be made.",
            object_name=str(folder),
            expected="a writable artifacts folder",
            found=error.strerror or str(error),
            remedy="Free space there or set archon_artifacts_root to another folder.",
            code="artifacts_not_writable",
        ) from error
    return folder


def _dump(context: Context, options: Options, scratch: Scratch, dump: Path) -> _Seen:
    """Take the dump in bounded tries: somebody's change of a table in the wrong moment costs a try, not the run."""
    partial = dump.with_name(f".{dump.name}.partial")
    try:
        for attempt in range(1, context.lock_attempts + 1):
            try:
                with _session(context, options) as session, session.transaction(_SNAPSHOT):
                    seen = _dump_once(context, options, session, scratch, partial)
                    partial.replace(dump)
                    return seen
            except (AlignError, pg.LockNotAvailable) as error:
                if isinstance(error, AlignError) and error.code != "lock_timeout":
                    raise
                if attempt == context.lock_attempts:
                    raise
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
    finally:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)


def _dump_once(context: Context, options: Options, session: Session, scratch: Scratch, partial: Path) -> _Seen:
    plan = _plan(context, options, session, scratch)
    scratch.begin()  # it comes up while PROD is dumped
    lock_for_reading(session, plan.survey.locked)
    snapshot = str(session.value("SELECT pg_export_snapshot()"))
    with dumping(session, plan.tool, snapshot, context.schemas, partial, timeout=options.timeout) as running:
        fingerprints, carried = [], []
        for number, relation in enumerate(plan.survey.relations, 1):
            if running.failed:
                break
            seen = fingerprint(session, relation.table, relation.columns)
            fingerprints.append(seen)
            same = not relation.generated
            carried.append(seen if same else fingerprint(session, relation.table, relation.stored))
            if number % 10 == 0:
                session.progress(f"{number}/{len(plan.survey.relations)} tables")
        objects = inventory(session, context.schemas)
        # Asking now and then also keeps the server from ending this idle transaction, and the snapshot with it.
        ended = running.wait(lambda: session.progress(_size(partial.stat().st_size) if partial.exists() else ""))
    require_success(ended, f"{context.prod.name} {plan.survey.database.where}", partial)
    return _Seen(plan, tuple(fingerprints), tuple(carried), objects)


def _snapshot_before(
    context: Context, found: Survey, prints: list[Fingerprint], rows: dict[Table, int]
) -> dict[str, dict[str, Any]]:
    """Write snapshot-before.json; the protected tables' rows and fingerprints."""
    content = {
        "run_id": context.run.id,
        "taken_at": found.database.now,
        "database": _identity(found),
        "schemas": list(context.schemas),
        "protected": {
            str(item.table): {"rows": item.rows, "fingerprint": item.digest, "columns": list(item.columns)}
            for item in prints
        },
        "tables": {str(table): number for table, number in rows.items()},
    }
    context.run.write("snapshot-before.json", manifest.as_bytes(content))
    return {str(item.table): {"rows": item.rows, "fingerprint": item.digest} for item in prints}


def _identity(found: Survey) -> dict[str, Any]:
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


def _content(context: Context, seen: _Seen, dump: Path, seconds: float) -> dict[str, Any]:
    """Write what lies beside the dump; the manifest's content, not yet proved."""
    found = seen.plan.survey
    preamble = "".join(f"{statement.as_string(None)};\n" for statement in seen.plan.outside.statements)
    beside = context.run.write(f"{FOLDER}/{PREAMBLE_NAME}", f"SET check_function_bodies = off;\n{preamble}".encode())
    return {
        "format": manifest.FORMAT,
        "run_id": context.run.id,
        "snapshot_at": found.database.now,
        "database": _identity(found),
        "pg_dump": seen.plan.tool.version,
        "extensions": {item.name: {"version": item.version, "schema": item.schema} for item in found.extensions},
        "schemas": list(context.schemas),
        "seconds": round(seconds, 3),
        "files": manifest.checksums((dump, beside)),
        "tables": [
            {
                "schema": item.table.schema,
                "name": item.table.name,
                "rows": item.rows,
                "fingerprint": item.digest,
                "columns": list(item.columns),
            }
            for item in seen.fingerprints
        ],
        "objects": counts(seen.objects),
        "stand_ins": list(seen.plan.outside.stand_ins),
        "verified": False,
    }


def _proved(
    context: Context,
    options: Options,
    scratch: Scratch,
    dump: Path,
    seen: _Seen,
    content: dict[str, Any],
) -> list[Finding]:
    """Prove the dump and complete its manifest, also when the proof fails; what the proof left out, as findings."""
    found = seen.plan.survey
    expected = Expected(
        seen.carried, seen.objects, seen.plan.outside, context.schemas, found.database.encoding, found.table_bytes
    )
    try:
        proved = prove(context, scratch.server(), dump, expected, timeout=options.timeout)
    except AlignError as error:
        unproved = {**content, "unverified_because": f"{error.what} {error.object_name}: {error.found}"}
        context.run.write(f"{FOLDER}/{manifest.NAME}", manifest.as_bytes(unproved))
        raise
    listed = context.run.write(f"{FOLDER}/{LIST_NAME}", proved.listing.encode("utf-8", "surrogateescape"))
    content["files"] |= manifest.checksums((listed,))
    content |= {
        "verified": True,
        "verified_with": f"PostgreSQL {proved.server}",
        "left_out_of_proof": [item.as_dict() for item in proved.left_out],
    }
    context.run.write(f"{FOLDER}/{manifest.NAME}", manifest.as_bytes(content))
    return [
        Finding(
            "left_out_of_proof",
            "info",
            item.name,
            f"The backup holds this {item.kind}; its proof left it out: {item.reason}.",
            "Nothing to do: a restore into the same database brings it back.",
        )
        for item in proved.left_out
    ]


def _absent(context: Context, section: dict[str, dict[str, Any]]) -> list[Finding]:
    return [
        Finding(
            "protected_table_absent",
            "info",
            f"PROD {table}",
            "This protected table does not exist, so there is nothing in it to preserve.",
            "Nothing to do, unless you expected it: then check the DSN and archon_schema_names.",
        )
        for table in context.protected
        if str(table) not in section
    ]


def _size(size: float) -> str:
    return f"{size / 2**20:.1f} MiB" if size >= 2**20 else f"{size / 1024:.0f} KiB"
