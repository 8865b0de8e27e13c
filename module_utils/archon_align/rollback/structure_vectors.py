"""Old vectors that others took the place of: where they are kept, and how they come back.

While the copy in archon_quarantine is there, it is all that is needed. Before it is removed, it is written to a file beside
the ledger.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from psycopg import sql

from ..context import Context
from ..database.session import Session
from ..database.target import Table
from ..errors import AlignError
from ..plan import Statement
from ..schema.ddl import Writer
from ..schema.model import Catalog, Key, Trigger
from ..schema.steps import Guard
from .ledger import FOLDER
from .loading import Load, beside, plain_name, unusable
from .structure_codec import decode_key, encode
from .structure_emptiness import ours
from .undo import Kept, Request

_COLUMNS = """
SELECT a.attname::text AS name, format_type(a.atttypid, a.atttypmod) AS type, obj_description(c.oid, 'pg_class') AS note
FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE n.nspname = %s AND c.relname = %s AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attnum
"""
_THERE = """
SELECT EXISTS (SELECT FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname = %s AND c.relname = %s)
"""


@dataclass(frozen=True, slots=True)
class Swapped:
    """`column` holds other vectors now, which were in the column `beside` before; the old ones are in `copy`, by id."""

    column: Key
    beside: Key
    copy: Table


@dataclass(frozen=True, slots=True)
class Released:
    """A copy that was removed: the file that holds its rows (none when it was empty), its columns with their types, its note."""

    copy: Table
    run_id: str
    file: str
    sha256: str
    columns: tuple[tuple[str, str], ...]
    note: str


def encode_swapped(one: Swapped) -> list[Any]:
    """Plain JSON types only."""
    return [encode(one.column), encode(one.beside), [one.copy.schema, one.copy.name]]


def decode_swapped(told: Any) -> Swapped:
    """What encode_swapped wrote. Raises ValueError, TypeError or KeyError for anything else."""
    column, beside, (schema, name) = told
    return Swapped(decode_key(column), decode_key(beside), Table(str(schema), str(name)))


def encode_released(one: Released) -> dict[str, Any]:
    """Plain JSON types only."""
    return {
        "copy": [one.copy.schema, one.copy.name],
        "run_id": one.run_id,
        "file": one.file,
        "sha256": one.sha256,
        "columns": [list(pair) for pair in one.columns],
        "note": one.note,
    }


def decode_released(told: Mapping[str, Any]) -> Released:
    """What encode_released wrote. Raises ValueError, TypeError or KeyError for anything else."""
    schema, name = told["copy"]
    columns = tuple((str(column), str(kind)) for column, kind in told["columns"])
    file = plain_name(told["file"]) if told["file"] else ""
    return Released(
        Table(str(schema), str(name)), str(told["run_id"]), file, str(told["sha256"]), columns, str(told["note"])
    )


# -- writing down ----------------------------------------------------------------------------------------------------


def release(session: Session, copy: Table) -> Released:
    """Write the rows of `copy`, which is about to be removed, to a file beside the ledger. Raises AlignError."""
    context = session.context
    columns = session.rows(_COLUMNS, (copy.schema, copy.name))
    note = str(columns[0]["note"] or "") if columns else ""
    pairs = tuple((str(row["name"]), str(row["type"])) for row in columns)
    if not session.value(sql.SQL("SELECT EXISTS (SELECT FROM {})").format(copy.identifier)):
        return Released(copy, context.run.id, "", "", pairs, note)
    digest = hashlib.sha256()
    name = f"{context.phase}-{hashlib.sha256(str(copy).encode()).hexdigest()[:16]}.vectors"
    path = context.run.artifacts / FOLDER / name
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "wb") as stream:
            query = sql.SQL("COPY {} TO STDOUT (FORMAT BINARY)").format(copy.identifier)
            with session.copying(query) as out:
                for block in out:
                    digest.update(block)
                    stream.write(block)
            stream.flush()
            os.fsync(stream.fileno())
    except OSError as error:
        raise AlignError(
            "The old vectors could not be written into the restore point, so they stay where they are.",
            object_name=str(path),
            expected="a writable artifacts folder with room",
            found=error.strerror or str(error),
            remedy="Free space there or set archon_artifacts_root to another folder, and run again.",
            code="restore_point_not_written",
        ) from error
    return Released(copy, context.run.id, name, digest.hexdigest(), pairs, note)


# -- bringing back ---------------------------------------------------------------------------------------------------


def is_there(session: Session, copy: Table) -> bool:
    """Is the copy in the database?"""
    return bool(session.value(_THERE, (copy.schema, copy.name)))


def copied_again(session: Session, one: Released) -> Iterator[Statement]:
    """The statements that make a removed copy again. Raises AlignError when its file is gone or not what was written."""
    name = one.copy.identifier
    columns = sql.SQL(", ").join(
        sql.SQL("{} {}").format(sql.Identifier(column), sql.SQL(kind)) for column, kind in one.columns
    )
    summary = f"the old vectors that run {one.run_id} removed"
    yield _statement(sql.SQL("CREATE TABLE {} ({})").format(name, columns), one.copy, summary)
    if one.file:
        text = sql.SQL("COPY {} FROM STDIN (FORMAT BINARY)").format(name).as_string(None)
        yield Load(text, str(one.copy), f"{summary}, from {one.file}", path=str(_checked(session.context, one)))
    yield _statement(sql.SQL("COMMENT ON TABLE {} IS {}").format(name, sql.Literal(one.note)), one.copy, summary)


def _checked(context: Context, one: Released) -> Path:
    path = beside(context, one.run_id, one.file)
    try:
        with path.open("rb") as stream:
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        raise unusable(str(path), error.strerror or str(error)) from error
    if digest != one.sha256:
        raise unusable(str(path), f"sha256 {digest}")
    return path


def put_back(one: Swapped, here: Catalog, writer: Writer) -> Iterator[Statement]:
    """Fill the old column, which is there again and empty, by id. No trigger of the table fires, as none did before."""
    table = Table(one.column.schema, one.column.name)
    part = sql.Identifier(one.column.part)
    triggers = [
        value
        for key in sorted(here.on_table.get(one.column.table, ()))
        if isinstance(value := here.objects[key], Trigger) and value.enabled != "D"
    ]
    for trigger in triggers:
        text = sql.SQL("ALTER TABLE {} DISABLE TRIGGER {}").format(
            table.identifier, sql.Identifier(trigger.key.part)
        )  # fmt: skip
        yield _statement(text, table, f"{trigger.key} does not fire while vectors are put back")
    update = sql.SQL("UPDATE {} AS page SET {} = kept.{} FROM {} AS kept WHERE kept.id = page.id")
    yield _statement(
        update.format(table.identifier, part, part, one.copy.identifier), table, f"{one.column}: the old vectors again"
    )
    for trigger in triggers:
        yield Statement(writer.trigger_state(trigger), str(table), f"{trigger.key} fires again")
    lost = sql.SQL(
        "SELECT page.id::text AS key FROM {} AS page JOIN {} AS kept ON kept.id = page.id"
        " WHERE CAST(page.{} AS text) IS DISTINCT FROM CAST(kept.{} AS text) LIMIT 5"
    ).format(table.identifier, one.copy.identifier, part, part)
    summary = f"{one.column}: every old vector is back (no row may come back)"
    yield Guard(lost.as_string(None), str(table), summary, reason="the old vector is not back")
    dropped = sql.SQL("DROP TABLE {}").format(one.copy.identifier)
    yield _statement(dropped, one.copy, "the copy of the old vectors, which are in their place again")


def without_vector(session: Session, one: Swapped, copy: bool, request: Request) -> Kept | None:
    """The rows that will have no vector since users wrote them when other vectors were wanted."""
    known = sql.SQL("NOT EXISTS (SELECT FROM {} AS kept WHERE kept.id = page.id)").format(one.copy.identifier)
    table = Table(one.column.schema, one.column.name)
    query = sql.SQL("SELECT page.id FROM {} AS page WHERE NOT {} AND {} ORDER BY page.id").format(
        table.identifier, ours(request.xids), known if copy else sql.SQL("true")
    )
    ids = [str(row["id"]) for row in session.rows(query)]
    if not ids:
        return None
    shown = ", ".join(ids[:20]) + (" …" if len(ids) > 20 else "")
    why = f"{len(ids)} rows that users wrote since have no vector of before: id {shown}"
    return Kept(f"vectors of {table}", why, "vectors of the new dimensions", "no such vectors", on_request=False)


def _statement(text: sql.Composable, table: Table, summary: str) -> Statement:
    return Statement(text.as_string(None), str(table), summary)


def released_by(statements: Collection[Released], copy: Table) -> Released | None:
    """The newest removal of `copy`."""
    return next((one for one in reversed(list(statements)) if one.copy == copy), None)
