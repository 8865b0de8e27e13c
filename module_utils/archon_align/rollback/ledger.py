"""A restore point is a ledger: before each COMMIT of a phase, what the transaction has done and under which transaction id.

The ledger is a file of JSON lines, `restore-points/<phase>.jsonl` (0600) in the run's artifacts folder. It is on the disk
before the server is told to commit: a run killed at any moment leaves either no change or a change that is written down.
Whether a transaction was committed is told by its mark, by the server (pg_xact_status), and by the data itself.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import orjson

from ..backup.survey import database_of
from ..context import Context
from ..database.session import Session
from ..errors import AlignError

FOLDER = "restore-points"
FORMAT = 1
NOT_WRITTEN = "restore_point_not_written"
# What a transaction changed: rows, vectors that were filled in, structure; or that it undid restore points itself.
EntryKind = Literal["rows", "vectors", "structure", "undo"]


@dataclass(frozen=True, slots=True)
class Identity:
    """Which database a restore point is of. `system_identifier` is '' where the role may not read it."""

    name: str
    oid: int
    system_identifier: str
    where: str


def identity_of(session: Session) -> Identity:
    """Which database the session is on."""
    found = database_of(session)
    return Identity(found.name, found.oid, found.system_identifier, found.where)


@dataclass(frozen=True, slots=True)
class Entry:
    """What one transaction on `database` (PROD or DEV) changed, as the part of the core that did it wrote it down.

    `xid` is the full (64-bit) transaction id. `committed` is None when the run died before it could tell.
    """

    kind: EntryKind
    database: str
    xid: int
    committed: bool | None
    payload: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Point:
    """One restore point: the state before `phase` of run `run_id`. `entries` are in the order in which they happened.

    `ended` is the status with which the phase ended, '' when it never did.
    """

    path: Path
    run_id: str
    phase: str
    created_at: str
    databases: Mapping[str, Identity]
    entries: tuple[Entry, ...]
    ended: str

    @property
    def name(self) -> str:
        return f"{self.run_id}:{self.phase}"


class Ledger:
    """The ledger of one phase of one run; it comes into being with its first line. Not for check mode."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self.path = context.run.artifacts / FOLDER / f"{context.phase}.jsonl"
        self._introduced: set[str] = set()
        self._created_at = ""
        self._kinds: set[EntryKind] = set()

    @property
    def name(self) -> str:
        return f"{self._context.run.id}:{self._context.phase}"

    def as_points(self) -> list[dict[str, str]]:
        """What the phase hands to the report as details["restore_points"]: itself, or nothing when nothing was recorded."""
        if not self._kinds:
            return []
        return [
            {
                "name": self.name,
                "kind": ", ".join(sorted(self._kinds)),
                "phase": self._context.phase,
                "path": f"{FOLDER}/{self.path.name}",
                "created_at": self._created_at,
                "restore_with": f"ansible-playbook playbooks/rollback.yml -e restore_point={self.name}",
            }
        ]

    def begin(self, session: Session) -> None:
        """Introduce the session's database; has to come before the first transaction on it. Raises AlignError."""
        if session.target.name in self._introduced:
            return
        identity = identity_of(session)
        now = datetime.now(UTC).isoformat(timespec="milliseconds")
        self._created_at = self._created_at or now
        head = {
            "line": "point",
            "format": FORMAT,
            "run_id": self._context.run.id,
            "phase": self._context.phase,
            "created_at": now,
            "database": session.target.name,
            "identity": asdict(identity),
        }
        self._append(head)
        self._introduced.add(session.target.name)

    def record(self, session: Session, kind: EntryKind, payload: Mapping[str, Any]) -> int:
        """Write down what the open transaction of `session` does; its full transaction id. Raises AlignError.

        `payload` is made of plain JSON types and holds nothing secret.
        """
        xid = int(session.value("SELECT pg_catalog.pg_current_xact_id()::text"))
        self._append(
            {"line": "entry", "kind": kind, "database": session.target.name, "xid": str(xid), "payload": payload}
        )
        self._kinds.add(kind)
        return xid

    def committed(self, session: Session, xid: int) -> None:
        """The transaction is committed. Never raises: without this line the server is asked later."""
        with suppress(AlignError):
            line = {"line": "committed", "database": session.target.name, "xid": str(xid)}
            _append(self.path, line, synced=False)

    def end(self, status: str) -> None:
        """How the phase ended. Writes nothing when the phase did not act; never raises."""
        if self._introduced:
            note_end(self.path, status)

    def _append(self, line: Mapping[str, Any]) -> None:
        _append(self.path, line)


def note_end(path: Path, status: str) -> None:
    """How the phase of the ledger at `path` ended; the last word counts. Never raises."""
    with suppress(AlignError):
        _append(path, {"line": "ended", "status": status})


def _append(path: Path, line: Mapping[str, Any], *, synced: bool = True) -> None:
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        start = os.fstat(descriptor).st_size
        try:
            text = memoryview(orjson.dumps(line) + b"\n")
            while text:
                text = text[os.write(descriptor, text) :]
            if synced:
                os.fdatasync(descriptor)
        except OSError:
            os.ftruncate(descriptor, start)  # half a line would spoil the next one
            raise
        finally:
            os.close(descriptor)
    except OSError as error:
        raise AlignError(
            "The restore point could not be written, so nothing may be changed.",
            object_name=str(path),
            expected="a writable artifacts folder with room",
            found=error.strerror or str(error),
            remedy="Free space there or set archon_artifacts_root to another folder, and run again.",
            code=NOT_WRITTEN,
        ) from error


def read_point(path: Path) -> Point:
    """The restore point in a file. A last line that is cut off, as a killed run leaves it, does not count.

    Raises AlignError when the file is not a ledger of this format.
    """
    try:
        lines = path.read_bytes().split(b"\n")
        told = [orjson.loads(line) for line in lines[:-1] if line]
        heads = [line for line in told if line["line"] == "point"]
        first = heads[0]
        if first["format"] != FORMAT:
            raise ValueError(f"format {first['format']}")
        done = {(line["database"], line["xid"]) for line in told if line["line"] == "committed"}
        ends = [str(line["status"]) for line in told if line["line"] == "ended"]
        return Point(
            path,
            str(first["run_id"]),
            str(first["phase"]),
            str(first["created_at"]),
            {str(head["database"]): Identity(**head["identity"]) for head in heads},
            tuple(
                Entry(
                    line["kind"],
                    str(line["database"]),
                    int(line["xid"]),
                    True if (line["database"], line["xid"]) in done else None,
                    line["payload"],
                )
                for line in told
                if line["line"] == "entry"
            ),
            ends[-1] if ends else "",
        )
    except (OSError, ValueError, KeyError, IndexError, TypeError) as error:
        raise AlignError(
            "A restore point cannot be read.",
            object_name=str(path),
            expected=f"JSON lines of format {FORMAT}, as a run writes them",
            found=f"{type(error).__name__}: {error}",
            remedy="Use another restore point, or the verified backup of the run. Do not edit files in the artifacts folder.",
            code="restore_point_unreadable",
        ) from error
