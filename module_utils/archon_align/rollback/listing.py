"""The restore points below an artifacts folder as a table, or as JSON: which there are and what they hold. No database needed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ..backup.manifest import NAME as MANIFEST
from .find import PROD, ROLLBACK, Found, find_points, run_folders, undo_entries
from .ledger import Identity, Point
from .words import holds

BACKUP = "backup"
_HEAD = ("name", "when (UTC)", "phase ended", "holds", "undone", "database")


def rows(root: Path) -> tuple[list[dict[str, str]], list[dict[str, str]]]:
    """The restore points and backups below `root`, newest last, and the files that cannot be used, each with the reason."""
    found = find_points(root)
    listed = [_point(found, point) for point in found.points]
    listed += [row for folder in run_folders(root) if (row := _backup(folder)) is not None]
    listed.sort(key=lambda row: (row["created_at"], row["name"]))
    odd = [{"name": one.name, "path": str(one.path), "why": one.error.found} for one in found.odd]
    return listed, odd


def table(root: Path) -> str:
    """The same for a person."""
    listed, odd = rows(root)
    if not listed and not odd:
        return f"No restore points below {root}.\n"
    cells = [
        (row["name"], row["created_at"][:19].replace("T", " "), row["ended"], row["holds"], row["undone"], row["database"])
        for row in listed
    ]  # fmt: skip
    widths = [max(len(line[place]) for line in (_HEAD, *cells)) for place in range(len(_HEAD))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) for line in (_HEAD, *cells)]
    lines += [f"NOT USABLE: {one['name']} ({one['path']}): {one['why']}" for one in odd]
    return "".join(f"{_plain(line)}\n" for line in lines)


def _point(found: Found, point: Point) -> dict[str, str]:
    return {
        "name": point.name,
        "kind": ROLLBACK if point.phase == ROLLBACK else ", ".join(sorted({entry.kind for entry in point.entries})),
        "created_at": point.created_at,
        "ended": point.ended or "never: the run died",
        "holds": holds(point),
        "undone": _undone(found, point),
        "database": _where(found.prod_of(point)),
    }


def _undone(found: Found, point: Point) -> str:
    """By the ledgers alone: what a rollback wrote down without a word of its COMMIT may not have been committed."""
    told = ""
    for entry in undo_entries(found.points):
        if entry.database == PROD and point.name in (entry.payload.get("points") or ()):
            told = "yes" if entry.committed else "begun"
            if entry.committed and (kept := entry.payload.get("kept")):
                told = f"yes, {len(kept)} kept"
    return told


def _where(prod: Identity | None) -> str:
    return f"{prod.where} (oid {prod.oid})" if prod is not None else "not known"


def _backup(folder: Path) -> dict[str, str] | None:
    path = folder / BACKUP / MANIFEST
    try:
        manifest: dict[str, Any] = json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        manifest = {"unverified_because": f"its manifest cannot be read ({type(error).__name__})"}
    database = manifest.get("database")
    database = database if isinstance(database, dict) else {}
    tables = manifest.get("tables")
    counted = [table for table in tables.values() if isinstance(table, dict)] if isinstance(tables, dict) else tables
    number = sum(int(table.get("rows") or 0) for table in counted) if isinstance(counted, list) else 0
    words = f"all {number:,} rows" if manifest.get("verified") else "NOT VERIFIED"
    return {
        "name": f"{folder.name}:{BACKUP}",
        "kind": BACKUP,
        "created_at": str(manifest.get("snapshot_at") or ""),
        "ended": "verified" if manifest.get("verified") else str(manifest.get("unverified_because") or "not proved"),
        "holds": words,
        "undone": "",
        "database": f"{database.get('address', 'not known')} (oid {database.get('oid', '?')})",
    }


def _plain(text: str) -> str:
    """Nothing that a terminal would obey, and no spaces at the end."""
    return "".join(character if character.isprintable() else " " for character in text).rstrip()
