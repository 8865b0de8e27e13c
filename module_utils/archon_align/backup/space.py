"""Room on disk: what a backup and its proof need, and what there is."""

from __future__ import annotations

import shutil
from pathlib import Path

from ..errors import AlignError

_MIB = 2**20
# Vectors are text in a dump: compressed, they took 1.5 times their binary size.
_DUMP_FACTOR = 1.6
# A new server's own files; its write-ahead log is bounded by max_wal_size, 1 GiB.
_SERVER_BYTES = 100 * _MIB
_LOG_BYTES = 1024 * _MIB


def _existing(path: Path) -> Path:
    return next(folder for folder in (path, *path.absolute().parents) if folder.exists())


def require_space(artifacts: Path, scratch: Path, *, table_bytes: int, index_bytes: int, min_free_mb: int) -> int:
    """The estimated size of the dump in bytes. Raises AlignError when dump or proof would leave less than `min_free_mb`.

    Sizes are those of the tables with their large values, and of their indexes. `scratch` is where the private server's
    files will be.
    """
    dump = int(table_bytes * _DUMP_FACTOR)
    server = int((table_bytes + index_bytes) * 1.2) + _SERVER_BYTES + min(_LOG_BYTES, table_bytes)
    needs = [(_existing(artifacts), dump, "the dump"), (_existing(scratch), server, "the server that proves it")]
    if needs[0][0].stat().st_dev == needs[1][0].stat().st_dev:
        needs = [(needs[0][0], dump + server, "the dump and the server that proves it")]
    for folder, wanted, what in needs:
        free = shutil.disk_usage(folder).free
        if free < wanted + min_free_mb * _MIB:
            raise AlignError(
                "The disk is too full for the backup.",
                object_name=str(folder),
                expected=f"{(wanted + min_free_mb * _MIB) / _MIB:.0f} MiB free: {wanted / _MIB:.0f} MiB for {what}, "
                f"and {min_free_mb} MiB to spare",
                found=f"{free / _MIB:.0f} MiB free",
                remedy="Free space there, or set archon_artifacts_root (dump) or TMPDIR (proof) to another disk.",
                code="disk_full",
            )
    return dump
