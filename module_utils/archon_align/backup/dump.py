"""Running pg_dump in an exported snapshot, and its failures in words."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from ..database.session import Session
from ..errors import AlignError
from .tools import Ended, Running, Tool, credentials, first_error

# Waiting behind somebody's pending ALTER TABLE cannot end well: that statement waits for our own snapshot's locks.
LOCK_WAIT_SECONDS = 3.0
_CAUSES = (
    (r"No space left on device", "disk_full", "room for the dump", "Free space there or set archon_artifacts_dir elsewhere."),
    (
        r"canceling statement due to lock timeout",
        "lock_timeout",
        f"every table lock within {LOCK_WAIT_SECONDS:.0f} s",
        "See pg_locks for who changes the table; run again when that is over.",
    ),
    (
        r"row-level security|row security",
        "rows_hidden",
        "a role to whom every row is visible",
        "Connect as the owner without FORCE ROW LEVEL SECURITY, or as a role with BYPASSRLS.",
    ),
    (
        r"permission denied",
        "missing_privilege",
        "a role that may read everything in the schemas",
        "Connect as the owner of the tables, or grant SELECT on what is named.",
    ),
    (
        r"server version mismatch|aborting because of server version",
        "pg_dump_too_old",
        "a pg_dump that is not older than the server",
        "Set backup_pg_dump to a newer pg_dump.",
    ),
    (
        r"snapshot",
        "snapshot_lost",
        "the exported snapshot, visible to a second connection to the same server",
        "Connect directly or through a session-mode pooler, to one server only.",
    ),
)  # fmt: skip


def quoted_pattern(schema: str) -> str:
    """A schema's name as a pattern of pg_dump that matches only itself."""
    return '"' + schema.replace('"', '""') + '"'


@contextmanager
def dumping(
    session: Session, tool: Tool, snapshot: str, schemas: Sequence[str], file: Path, *, timeout: float
) -> Iterator[Running]:
    """pg_dump at work, writing `file` (0600) in `snapshot` of the open transaction of `session`."""
    name = session.context.run.application_name(session.phase, "pg_dump")
    with credentials(session, name) as (conninfo, environment):
        arguments = [
            "--format=custom",
            # gzip at its fastest: text of vectors shrinks little more at level 6, which takes three times as long.
            "--compress=1",
            f"--snapshot={snapshot}",
            f"--lock-wait-timeout={LOCK_WAIT_SECONDS * 1000:.0f}",
            "--no-password",
            "--strict-names",
            *(f"--schema={quoted_pattern(schema)}" for schema in schemas),
            f"--file={file}",
            f"--dbname={conninfo}",
        ]
        with Running(tool, arguments, timeout=timeout, extra=environment) as running:
            yield running


def require_success(ended: Ended, target: str, file: Path) -> None:
    """Raise AlignError in words when pg_dump failed."""
    if ended.status == 0:
        return
    said = first_error(ended.said)
    code, expected, remedy = next(
        (words for pattern, *words in _CAUSES if re.search(pattern, ended.said)),
        ("pg_dump_failed", "pg_dump to end with status 0", "Correct the cause named above and run again."),
    )
    raise AlignError(
        "The backup was not made: pg_dump failed.",
        object_name=f"{target} → {file.parent}" if code == "disk_full" else target,
        expected=expected,
        found=f"exit status {ended.status}: {said}",
        remedy=remedy,
        code=code,
    )
