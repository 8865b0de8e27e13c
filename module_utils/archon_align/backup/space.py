"""Room on disk: what a backup and its proof need, what there is, and whether it is running out."""

from __future__ import annotations

import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ..errors import AlignError

MIB = 2**20
DISK_FULL = "disk_full"
# Vectors are text in a dump: compressed, they took 1.5 times their binary size.
_DUMP_FACTOR = 1.6
# Rows of the protected tables in clear, twice: as SQL and as JSON Lines. The server keeps long texts compressed.
_CRITICAL_FACTOR = 6
# A new server's own files; its write-ahead log is bounded by max_wal_size, 1 GiB.
_SERVER_BYTES = 100 * MIB
_LOG_BYTES = 1024 * MIB
_FULL = re.compile(r"No space left on device|Disk quota exceeded|File too large", re.IGNORECASE)
_REMEDY = "Free space there, or set archon_artifacts_root (backup) or TMPDIR (proof) to another disk."


def says_full(said: str) -> bool:
    """Does a program's message say that it could not write for want of room?"""
    return _FULL.search(said) is not None


def disk_full(place: str, expected: str, found: str, what: str = "The disk is too full for the backup.") -> AlignError:
    return AlignError(what, object_name=place, expected=expected, found=found, remedy=_REMEDY, code=DISK_FULL)


def _existing(path: Path) -> Path:
    return next(folder for folder in (path, *path.absolute().parents) if folder.exists())


@dataclass(frozen=True, slots=True)
class Watch:
    """Looks after the free space of the disks below `folders` (what lies there, by folder) while something is written."""

    folders: Mapping[Path, str]
    min_free_mb: int

    def check(self) -> None:
        """Raise AlignError `disk_full` when one of the disks has less than `min_free_mb` MiB free. Costs microseconds."""
        for folder, what in self.folders.items():
            free = shutil.disk_usage(_existing(folder)).free
            if free < self.min_free_mb * MIB:
                raise disk_full(
                    str(folder),
                    f"{self.min_free_mb} MiB free while {what} is written",
                    f"{free / MIB:.0f} MiB free",
                    "The disk ran full, so the work was stopped.",
                )


def dump_estimate(table_bytes: int, protected_bytes: int) -> int:
    """At most about so many bytes are a backup's files, from the sizes of all and of the protected tables."""
    return int(table_bytes * _DUMP_FACTOR + protected_bytes * _CRITICAL_FACTOR)


def require_space(
    artifacts: Path, scratch: Path | None, *, dump: int, table_bytes: int, index_bytes: int, min_free_mb: int
) -> None:
    """Raise AlignError when a backup of `dump` bytes or its proof would leave less than `min_free_mb` MiB.

    Sizes are those of the tables with their large values, and of their indexes. `scratch` is where the private server's
    files will be, None when the proof is made on another.
    """
    server = int((table_bytes + index_bytes) * 1.2) + _SERVER_BYTES + min(_LOG_BYTES, table_bytes)
    needs = [(_existing(artifacts), dump, "the dump")]
    if scratch is not None:
        needs.append((_existing(scratch), server, "the server that proves it"))
        if needs[0][0].stat().st_dev == needs[1][0].stat().st_dev:
            needs = [(needs[0][0], dump + server, "the dump and the server that proves it")]
    for folder, wanted, what in needs:
        free = shutil.disk_usage(folder).free
        if free < wanted + min_free_mb * MIB:
            raise disk_full(
                str(folder),
                f"{(wanted + min_free_mb * MIB) / MIB:.0f} MiB free: {wanted / MIB:.0f} MiB for {what}, "
                f"and {min_free_mb} MiB to spare",
                f"{free / MIB:.0f} MiB free",
            )
