"""The memory that building a vector index needs: maintenance_work_mem, for the build alone."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from contextlib import contextmanager

from ..database.session import Session
from ..errors import AlignError
from ..findings import Finding
from .index import METHOD, VectorIndex

VARIABLE = "archon_index_maintenance_work_mem"
_UNITS = {"": 1024, "B": 1, "kB": 1024, "MB": 1024**2, "GB": 1024**3, "TB": 1024**4}
_SIZE = re.compile(r"\s*([0-9]+(?:\.[0-9]+)?)\s*(B|kB|MB|GB|TB|)\s*")
# What every server takes: PostgreSQL 17 lowered the least, 1 MB before.
_LEAST, _MOST = 1024**2, (2**31 - 1) * 1024
# Of pgvector 0.8: a vector as stored, 16 bytes for each of its 2 m neighbours, and what each element of the graph costs besides.
# Measured at 64 to 1,536 dimensions and m from 4 to 32: tests/integration/embedding/test_embedding_index_memory.py.
_NEIGHBOUR, _ELEMENT = 32, 220
# Below that a build on disk is done in moments as well.
_WORTH_TELLING = 16 * 1024**2


def size(text: str) -> int:
    """The bytes of a size as PostgreSQL writes it (`64MB`; without unit, kilobytes). Raises AlignError naming the variable."""
    found = _SIZE.fullmatch(text)
    value = float(found[1]) * _UNITS[found[2]] if found else -1.0
    if not _LEAST <= value <= _MOST:
        raise AlignError(
            "A variable cannot be used.",
            object_name=VARIABLE,
            expected="a size as PostgreSQL writes it, from 1MB to 2047GB: a number and kB, MB, GB or TB",
            found=repr(text),
            remedy=f"Set {VARIABLE} to a size such as 512MB, or to '' for the server's setting.",
            code="bad_variable",
        )
    return round(value)


def needed(index: VectorIndex, rows: int, dimensions: int) -> int:
    """About the bytes of the graph of an hnsw index; it is built in memory as far as they are there."""
    return rows * (4 * dimensions + 8 + _NEIGHBOUR * index.m + _ELEMENT)


@contextmanager
def granted(session: Session, setting: str) -> Iterator[None]:
    """`session` with this maintenance_work_mem, '' for the server's own."""
    if not setting:
        yield
        return
    session.rows("SELECT pg_catalog.set_config('maintenance_work_mem', %s, false)", (setting.strip(),))
    try:
        yield
    finally:
        if not session.connection.closed and not session.connection.broken:
            session.execute("RESET maintenance_work_mem")


def available(session: Session, setting: str) -> int:
    """The bytes that a build has."""
    if setting:
        return size(setting)
    return int(session.value("SELECT setting::bigint * 1024 FROM pg_settings WHERE name = 'maintenance_work_mem'"))


def shortage(
    session: Session, name: str, index: VectorIndex, rows: int, dimensions: int, setting: str
) -> Finding | None:
    """What to tell when an index that is to be built does not fit into the memory for it."""
    wanted, have = needed(index, rows, dimensions), available(session, setting)
    if index.method != METHOD or wanted <= max(have, _WORTH_TELLING):
        return None
    whose = VARIABLE if setting else "the server's maintenance_work_mem"
    return Finding(
        "search_index_memory",
        "warning",
        name,
        f"The graph of {rows} vectors needs about {shown(wanted)}, {whose} is {shown(have)}: what does not fit is built on"
        " disk, many times slower.",
        f"Set {VARIABLE} to {shown(wanted)}, if the server has as much to spare (in a container also /dev/shm).",
    )


def shown(count: int) -> str:
    """Bytes as a size that PostgreSQL takes, rounded up."""
    if count < 10 * 1024**3:
        return f"{math.ceil(count / 1024**2)}MB"
    return f"{math.ceil(count / 1024**3)}GB"
