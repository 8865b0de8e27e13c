"""Backup: dump PROD's schemas in the snapshot of their fingerprints, and prove the dump by restoring it."""

from __future__ import annotations

import shlex
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import psycopg
from psycopg import sql

from ..context import Context
from ..database.failures import server_error
from ..errors import AlignError
from ..findings import Finding
from ..outcome import PhaseOutcome
from ..preservation.fingerprint import Fingerprint, fingerprint
from . import manifest, record, retention, seal, stored, taking
from .critical import NAME as CRITICAL_NAME
from .critical import chosen, write_script
from .inventory import counts
from .leftovers import remove_leftovers
from .outer import Outer
from .proof import Proved
from .retention import Keep
from .scratch import Scratch
from .taking import FOLDER, Options, Plan, Taken, size
from .tools import find_tool

__all__ = ["FOLDER", "Keep", "Options", "run"]


def run(context: Context, options: Options) -> PhaseOutcome:
    """Back up the schemas of PROD and prove the backup; in check mode only say what would be done.

    Raises AlignError; without a proof there is no success. Never changes a database.
    """
    started = time.monotonic()
    to = seal.recipients(options.recipients)
    remove_leftovers(context.run.artifacts.parent)
    outer = Outer(context, options.scratch_dsn) if options.scratch_dsn.strip() else None
    with Scratch(outer) as scratch:
        outcome = _predict(context, options, scratch) if context.check else _back_up(context, options, scratch, to)
    return replace(outcome, seconds=time.monotonic() - started)


def _predict(context: Context, options: Options, scratch: Scratch) -> PhaseOutcome:
    try:
        with taking.reading(context, options) as session, session.transaction(taking.SNAPSHOT):
            planned = taking.plan(context, options, session, scratch)
            tables = [
                fingerprint(session, relation.table, relation.columns)
                if relation.table in context.protected
                else Fingerprint(
                    relation.table,
                    (),
                    int(session.value(sql.SQL("SELECT count(*) FROM {}").format(relation.table.identifier))),
                    "",
                )
                for relation in planned.survey.relations
            ]
    except psycopg.Error as error:
        raise server_error(context.prod, error, doing="it was read for the backup") from error
    section = record.snapshot_before(context, planned.survey, tables)
    rows = sum(item.rows for item in tables)
    return PhaseOutcome(
        phase=context.phase,
        status="aligned",
        findings=[
            _planned(planned, len(tables), rows),
            *_absent(context, section),
            *_pruned(context, options, planned),
        ],
        details={
            "backup": {
                "planned": True,
                "format": planned.form.format,
                "estimated_bytes": planned.prediction.bytes if planned.prediction else planned.estimate,
                "predicted": planned.prediction.as_dict() if planned.prediction else None,
                "tables": len(tables),
                "rows": rows,
                "verified": False,
            },
            "restore_points": [],
            "protected_before": section,
        },
    )


def _planned(planned: Plan, tables: int, rows: int) -> Finding:
    predicted = planned.prediction
    expected = (
        f"about {size(predicted.bytes)} in about {predicted.seconds:.0f} s, as the backup of {predicted.run_id} took them"
        if predicted
        else f"at most about {size(planned.estimate)}"
    )
    return Finding(
        "backup_planned",
        "info",
        f"PROD {planned.survey.database.where}",
        f"A run would dump {tables} tables with {rows} rows ({expected}) and prove the dump by restoring it into a "
        "private server.",
        "Nothing to do.",
    )


def _pruned(context: Context, options: Options, planned: Plan) -> list[Finding]:
    root, run, database = context.run.artifacts.parent, context.run.id, taking.identity_of(planned.survey)
    return retention.prune(root, FOLDER, options.keep, run, database, check=context.check)


def _back_up(context: Context, options: Options, scratch: Scratch, to: Sequence[seal.Recipient]) -> PhaseOutcome:
    with taking.staged(context) as folder:
        taken = taking.take(context, options, scratch, folder)
        section = record.snapshot_before(context, taken.dumped.plan.survey, list(taken.fingerprints))
        started = time.monotonic()
        content = record.contents(context, taken, folder)
        try:
            findings = _prove(context, options, taken, folder, content)
        except AlignError as error:
            # What could not be proved is evidence, but neither on a full disk nor in the place of what was proved.
            if error.code != "disk_full" and not folder.with_name(FOLDER).exists():
                content["unverified_because"] = f"{error.what} {error.object_name}: {error.found}"
                _finish(context, folder, content, to)
            raise
        content["seconds"]["proof"] = round(time.monotonic() - started, 3)
        content, published = _finish(context, folder, content, to)
    details = _details(taken, content, published)
    return PhaseOutcome(
        phase=context.phase,
        status="aligned",
        findings=[*findings, *_absent(context, section), *_pruned(context, options, taken.dumped.plan)],
        details={
            "backup": details,
            "restore_points": [_restore_point(context, taken, details, published)],
            "protected_before": section,
        },
    )


def _prove(context: Context, options: Options, taken: Taken, folder: Path, content: dict[str, Any]) -> list[Finding]:
    """Prove dump and critical dump, and complete `content`; what the proof left out, as findings."""
    taken.dumped.filled.result()
    proved = taken.dumped.proof.complete(taken.carried, taken.objects)
    listing = proved.listing.encode("utf-8", "surrogateescape")
    record.write(context, folder, record.LIST_NAME, listing)
    findings = _prove_alone(context, options, taken, proved, folder, content)
    content |= {
        "verified": True,
        "verified_with": f"PostgreSQL {proved.server}",
        "left_out_of_proof": [item.as_dict() for item in proved.left_out],
    }
    return [
        *(
            Finding(
                "left_out_of_proof",
                "info",
                item.name,
                f"The backup holds this {item.kind}; its proof left it out: {item.reason}.",
                "Nothing to do: a restore into the same database brings it back.",
            )
            for item in proved.left_out
        ),
        *findings,
    ]


def _prove_alone(
    context: Context, options: Options, taken: Taken, proved: Proved, folder: Path, content: dict[str, Any]
) -> list[Finding]:
    """Make the critical dump of the archive and prove it; a whole backup is not given up because that is impossible."""
    dumped, proof = taken.dumped, taken.dumped.proof
    found = dumped.plan.survey
    script = folder / CRITICAL_NAME
    protected = [item for item in taken.carried if item.table in context.protected]
    with tempfile.NamedTemporaryFile("wb", prefix="archon-align-", suffix=".list") as kept:
        kept.write(chosen(proved.listing, dumped.plan.critical).encode("utf-8", "surrogateescape"))
        kept.flush()
        write_script(
            script,
            find_tool(proof.server.bin / "pg_restore"),
            dumped.path,
            Path(kept.name),
            dumped.plan.critical,
            title=f"The protected tables of {found.database.where} as of {found.database.now} (run {context.run.id}).\n"
            "psql --file restores them into an empty database, all or nothing.",
            server_major=found.database.major,
            timeout=options.timeout,
            guard=proof.guard,
        )
    content["critical"]["verified"] = True
    try:
        proof.alone(script, protected)
    except AlignError as error:
        if error.code == "disk_full":
            raise
        content["critical"] |= {"verified": False, "unverified_because": f"{error.object_name}: {error.found}"}
        return [
            Finding(
                "critical_dump_not_proved",
                "warning",
                f"{error.object_name}",
                f"The protected tables do not restore alone from {CRITICAL_NAME}: {error.found}. The whole backup is proved.",
                "Restore the whole backup if need be; the rows are readable in critical/*.jsonl.",
            )
        ]
    keys = [item["object"] for item in dumped.plan.critical.left_out if item["kind"] == "table constraint"]
    if not keys:
        return []
    return [
        Finding(
            "left_out_of_critical_dump",
            "info",
            CRITICAL_NAME,
            f"The dump of the protected tables alone leaves out what refers to other tables: {', '.join(keys)}.",
            "Nothing to do: the whole backup holds them.",
        )
    ]


def _finish(
    context: Context, folder: Path, content: dict[str, Any], to: Sequence[seal.Recipient]
) -> tuple[dict[str, Any], Path]:
    """Encrypt the files, write the manifest with every file's checksum, and make the folder the run's backup."""
    content["files"] = manifest.checksums(folder)
    if to:
        content = seal.seal(folder, content, to)
    record.write(context, folder, manifest.NAME, manifest.as_bytes(content))
    return content, taking.publish(folder)


def _details(taken: Taken, content: dict[str, Any], folder: Path) -> dict[str, Any]:
    name = taken.dumped.path.name
    suffix = seal.SUFFIX if content["encryption"] else ""
    predicted = taken.dumped.plan.prediction
    return {
        "path": f"{FOLDER}/{name}" + (suffix if (folder / f"{name}{suffix}").exists() else ""),
        "encrypted": bool(suffix),
        "format": content["dump"]["format"],
        "bytes": sum(
            file["bytes"]
            for path, file in content["files"].items()
            if path == f"{name}{suffix}" or path.startswith(f"{name}/")
        ),
        "manifest_sha256": stored.facts(folder / manifest.NAME)["sha256"],
        "seconds": {**content["seconds"], "restore": round(taken.dumped.proof.seconds, 3)},
        "predicted": predicted.as_dict() if predicted else None,
        "tables": len(taken.fingerprints),
        "rows": sum(item.rows for item in taken.fingerprints),
        "objects": counts(taken.objects),
        "critical": {
            "path": f"{FOLDER}/{CRITICAL_NAME}{suffix}",
            "tables": len(taken.lines),
            "left_out": len(content["critical"]["left_out"]),
            "verified": content["critical"]["verified"],
        },
        "verified": True,
    }


def _restore_point(context: Context, taken: Taken, details: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    return {
        "name": f"{context.run.id}:backup",
        "kind": "backup",
        "path": details["path"],
        "verified": True,
        "created_at": taken.dumped.plan.survey.database.now,
        "restore_with": f"ansible-playbook playbooks/restore.yml -e restore_backup={shlex.quote(str(folder))} "
        "-e restore_dsn=<DSN of an empty database>"
        + (" -e restore_identity=<key file>" if details["encrypted"] else ""),
    }


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
