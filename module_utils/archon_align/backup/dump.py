"""Running pg_dump in an exported snapshot, in one process or several, and its failures in words."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ..database.session import Session
from ..errors import AlignError
from .space import MIB, disk_full, says_full
from .tools import Ended, Running, Tool, credentials, first_error

# Waiting behind somebody's pending ALTER TABLE cannot end well: that statement waits for our own snapshot's locks.
LOCK_WAIT_SECONDS = 3.0
MOST_JOBS = 4
_CAUSES = (
    (
        # The second is what a worker of a parallel pg_dump says when somebody's change of the table waits already.
        r"canceling statement due to lock timeout|could not obtain lock on relation",
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


@dataclass(frozen=True, slots=True)
class Form:
    """How a dump is written: one file by one process, or a folder by `jobs` processes, each with its connection."""

    format: Literal["custom", "directory"]
    jobs: int = 1

    def name(self, schemas: Sequence[str]) -> str:
        """What the dump of `schemas` is called in the backup's folder."""
        stem = "public" if tuple(schemas) == ("public",) else "schemas"
        return f"{stem}.dump" if self.format == "custom" else f"{stem}.dir"


def form_for(table_bytes: int, parallel_mb: int) -> Form:
    """Parallel where there is more than `parallel_mb` MiB to dump: below, starting more processes costs more than it saves."""
    if table_bytes <= parallel_mb * MIB:
        return Form("custom")
    return Form("directory", min(MOST_JOBS, os.cpu_count() or 1))


def quoted_pattern(schema: str) -> str:
    """A schema's name as a pattern of pg_dump that matches only itself."""
    return '"' + schema.replace('"', '""') + '"'


@contextmanager
def dumping(
    session: Session,
    tool: Tool,
    snapshot: str,
    schemas: Sequence[str],
    form: Form,
    path: Path,
    *,
    timeout: float,
    guard: Callable[[], None],
) -> Iterator[Running]:
    """pg_dump at work, writing `path` (0600, 0700) in `snapshot` of the open transaction of `session`."""
    name = session.context.run.application_name(session.phase, "pg_dump")
    with credentials(session, name) as (conninfo, environment):
        arguments = [
            f"--format={form.format}",
            f"--jobs={form.jobs}",
            # gzip at its fastest: text of vectors shrinks little more at level 6, which takes three times as long.
            "--compress=1",
            f"--snapshot={snapshot}",
            f"--lock-wait-timeout={LOCK_WAIT_SECONDS * 1000:.0f}",
            "--no-password",
            "--strict-names",
            *(f"--schema={quoted_pattern(schema)}" for schema in schemas),
            f"--file={path}",
            f"--dbname={conninfo}",
        ]
        with Running(tool, arguments, timeout=timeout, extra=environment, guard=guard) as running:
            yield running


def require_success(ended: Ended, target: str, folder: Path) -> None:
    """Raise AlignError in words when pg_dump, writing into `folder`, failed."""
    if ended.status == 0:
        return
    said = first_error(ended.said)
    if says_full(ended.said):
        raise disk_full(f"{target} → {folder}", "room for the dump", f"exit status {ended.status}: {said}")
    code, expected, remedy = next(
        (words for pattern, *words in _CAUSES if re.search(pattern, ended.said)),
        ("pg_dump_failed", "pg_dump to end with status 0", "Correct the cause named above and run again."),
    )
    raise AlignError(
        "The backup was not made: pg_dump failed.",
        object_name=target,
        expected=expected,
        found=f"exit status {ended.status}: {said}",
        remedy=remedy,
        code=code,
    )
