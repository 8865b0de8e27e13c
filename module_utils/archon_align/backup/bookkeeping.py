"""What a server writes into its catalogue for itself, and no other server accepts: taken out of a dump.

Newer minor versions of PostgreSQL (seen in Debian's 15.20 and 17.12) keep an option `pg_attver` with columns. They set it themselves,
ignore a statement that sets it, and their own pg_dump leaves it out. A pg_dump that does not know it writes it down as
`ALTER COLUMN … SET (pg_attver=26984376)`, at which every server that does not know it either ends the restore.
"""

from __future__ import annotations

import mmap
import re
import subprocess
from pathlib import Path

from ..errors import AlignError
from .tools import Tool, environment, first_error

OPTION = "pg_attver"
_NAME = rb'(?:"(?:[^"]|"")+"|[^\s".(;]+)'
_ALONE = rb"ALTER (?:FOREIGN )?TABLE (?:ONLY )?%(name)s(?:\.%(name)s)? ALTER COLUMN %(name)s SET \(pg_attver=\d+\);"
_AMONG = rb"(?<=SET \()pg_attver=\d+, |(?<=\S), pg_attver=\d+(?=[,)])"
_WRITTEN = re.compile(rb"(?:" + _ALONE % {b"name": _NAME} + rb")|" + _AMONG)
_ANYWHERE = re.compile(rb" ALTER COLUMN " + _NAME + rb" SET \((?:[^)]*, )?pg_attver=")


def take_out(dump: Path, pg_restore: Tool, timeout: float) -> int:
    """Put blanks in the place of what only the server that was dumped understands; returns how often it was there.

    An archive's table of contents, in which its statements are, is plain text of stated lengths: blanks keep every length, and
    what follows stays where the table says that it is. Raises AlignError when the archive cannot be read, or holds the
    option in another form than is known.
    """
    wanted = len(_ANYWHERE.findall(_definitions(dump, pg_restore, timeout)))
    if not wanted:
        return 0
    contents = dump / "toc.dat" if dump.is_dir() else dump
    done = 0
    with contents.open("r+b") as file, mmap.mmap(file.fileno(), 0) as held:
        # They stand before all data: the search ends there, however large the archive is.
        for found in _WRITTEN.finditer(held):
            held[found.start() : found.end()] = b" " * (found.end() - found.start())
            done += 1
            if done == wanted:
                break
        held.flush()
    if left := len(_ANYWHERE.findall(_definitions(dump, pg_restore, timeout))):
        raise AlignError(
            "The backup holds what only the server that it was taken from accepts.",
            object_name=dump.name,
            expected=f"{OPTION} in {wanted} places, each as pg_dump writes a column's option",
            found=f"{left} that are written otherwise",
            remedy="Set backup_pg_dump to a pg_dump of the server's own version, which leaves them out.",
            code="backup_not_proved",
        )
    return done


def _definitions(dump: Path, pg_restore: Tool, timeout: float) -> bytes:
    """The archive's statements without its rows."""
    ended = subprocess.run(
        [pg_restore.path, "--schema-only", "--file=-", dump],
        capture_output=True,
        timeout=timeout,
        check=False,
        stdin=subprocess.DEVNULL,
        env=environment(pg_restore.environment),
    )
    if ended.returncode:
        raise AlignError(
            "The backup cannot be read back.",
            object_name=dump.name,
            expected=f"an archive that pg_restore {pg_restore.version} reads",
            found=first_error(ended.stderr.decode(errors="replace")),
            remedy="Correct the cause named above and run again.",
            code="backup_not_proved",
        )
    return ended.stdout
