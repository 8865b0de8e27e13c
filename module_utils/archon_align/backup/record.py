"""What is written beside a dump: the manifest, and what a person or a restore needs to know."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ..context import Context
from ..preservation.fingerprint import Fingerprint
from . import critical, manifest
from .inventory import Inventory, counts
from .survey import Survey
from .taking import Taken, identity_of

LIST_NAME = "restore.list"
PREAMBLE_NAME = "preamble.sql"
OBJECTS_NAME = "objects.json"
SURROUNDINGS_NAME = "surroundings.json"


def snapshot_before(context: Context, found: Survey, tables: list[Fingerprint]) -> dict[str, dict[str, Any]]:
    """Write snapshot-before.json; the protected tables' rows and fingerprints."""
    protected = [item for item in tables if item.table in context.protected]
    content = {
        "run_id": context.run.id,
        "taken_at": found.database.now,
        "database": identity_of(found),
        "schemas": list(context.schemas),
        "protected": {
            str(item.table): {"rows": item.rows, "fingerprint": item.digest, "columns": list(item.columns)}
            for item in protected
        },
        "tables": {str(item.table): item.rows for item in tables},
    }
    context.run.write("snapshot-before.json", manifest.as_bytes(content))
    return {str(item.table): {"rows": item.rows, "fingerprint": item.digest} for item in protected}


def contents(context: Context, taken: Taken, folder: Path) -> dict[str, Any]:
    """Write what lies beside the dump into `folder`; the manifest's content, not yet proved and without its files."""
    planned = taken.dumped.plan
    found = planned.survey
    preamble = "".join(f"{statement.as_string(None)};\n" for statement in planned.outside.statements)
    write(context, folder, PREAMBLE_NAME, f"SET check_function_bodies = off;\n{preamble}".encode())
    write(context, folder, OBJECTS_NAME, _objects(taken.objects))
    write(context, folder, SURROUNDINGS_NAME, manifest.as_bytes(taken.surroundings.as_json()))
    return {
        "format": manifest.FORMAT,
        "run_id": context.run.id,
        "snapshot_at": found.database.now,
        "database": identity_of(found),
        "pg_dump": planned.tool.version,
        "extensions": {item.name: {"version": item.version, "schema": item.schema} for item in found.extensions},
        "schemas": list(context.schemas),
        "dump": {"path": taken.dumped.path.name, "format": planned.form.format, "jobs": planned.form.jobs},
        "encryption": None,
        "table_bytes": found.table_bytes,
        "seconds": {"dump": round(taken.dumped.seconds, 3)},
        "tables": [
            {**_table(item), "fingerprint_stored": stored.digest, "columns_stored": list(stored.columns)}
            for item, stored in zip(taken.fingerprints, taken.carried, strict=True)
        ],
        "objects": counts(taken.objects),
        "stand_ins": list(planned.outside.stand_ins),
        "critical": {
            "path": critical.NAME,
            "tables": [
                {"schema": table.schema, "name": table.name, "rows": item.rows, "lines": path}
                for table, path in taken.lines.items()
                for item in taken.fingerprints
                if item.table == table
            ],
            "left_out": list(planned.critical.left_out),
        },
        "verified": False,
    }


def _table(item: Fingerprint) -> dict[str, Any]:
    return {
        "schema": item.table.schema,
        "name": item.table.name,
        "rows": item.rows,
        "fingerprint": item.digest,
        "columns": list(item.columns),
    }


def _objects(found: Inventory) -> bytes:
    """One object a line, as (kind, name, detail)."""
    rows = [json.dumps([kind, name, detail], ensure_ascii=False) for (kind, name), detail in sorted(found.items())]
    return ("[\n" + ",\n".join(rows) + "\n]\n").encode()


def write(context: Context, folder: Path, name: str, content: bytes) -> Path:
    """Write a file of the backup in `folder`, which lies in the run's artifacts folder."""
    return context.run.write(f"{folder.relative_to(context.run.artifacts)}/{name}", content)
