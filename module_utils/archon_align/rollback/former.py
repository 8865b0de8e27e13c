"""Vectors that a run replaced by others: kept in a file beside the ledger, in the form in which the server takes them again.

The ledger's entry holds which rows they are of; the file `<phase>.vectors` holds, chunk after chunk, one row per vector as
PostgreSQL's binary COPY has it: the id and the vector. A vector of 768 dimensions takes 3.1 kB.
"""

from __future__ import annotations

import hashlib
import os
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import batched, groupby
from pathlib import Path
from typing import Any

from ..context import Context
from ..errors import AlignError
from .ledger import NOT_WRITTEN, Ledger
from .loading import Load, beside, plain_name, unusable

_HEAD = b"PGCOPY\n\xff\r\n\0" + bytes(8)
_TAIL = struct.pack(">h", -1)
# Two columns; eight bytes of id; so many bytes of vector.
_ROW = struct.Struct(">hiqi")


@dataclass(frozen=True, slots=True)
class Former:
    """A row's vector before it was replaced, as pgvector sends it, and the low 32 bits of the transaction id of the row."""

    id: int
    xmin: int
    vector: bytes

    @property
    def dimensions(self) -> int:
        return int.from_bytes(self.vector[:2])


@dataclass(frozen=True, slots=True)
class Chunk:
    """Where the former vectors of one transaction are, and by id what wrote the row before, and the vector's dimensions."""

    run_id: str
    file: str
    offset: int
    length: int
    sha256: str
    rows: Mapping[int, tuple[int, int]]


def ranges(ids: Sequence[int]) -> list[int]:
    """Sorted ids as first and last of each range."""
    found: list[int] = []
    for one in ids:
        if found and one == found[-1] + 1:
            found[-1] = one
        else:
            found += (one, one)
    return found


def ids_of(told: Sequence[int]) -> Iterator[int]:
    """What `ranges` was given."""
    for first, last in batched(told, 2):
        yield from range(first, last + 1)


# -- writing down ----------------------------------------------------------------------------------------------------


def keep(ledger: Ledger, former: Sequence[Former]) -> dict[str, Any]:
    """Append `former` to the file beside `ledger`, onto the disk; what the entry says of it. Raises AlignError."""
    rows = sorted(former, key=lambda one: one.id)
    data = b"".join(_ROW.pack(2, 8, one.id, len(one.vector)) + one.vector for one in rows)
    path = ledger.path.with_suffix(".vectors")
    try:
        offset = _append(path, data)
    except OSError as error:
        raise AlignError(
            "The vectors that are to be replaced could not be written into the restore point, so they stay.",
            object_name=str(path),
            expected="a writable artifacts folder with room",
            found=error.strerror or str(error),
            remedy="Free space there or set archon_artifacts_root to another folder, and run again.",
            code=NOT_WRITTEN,
        ) from error
    states = [(one.xmin, one.dimensions) for one in rows]
    return {
        "run_id": path.parent.parent.name,
        "file": path.name,
        "offset": offset,
        "length": len(data),
        "sha256": hashlib.sha256(data).hexdigest(),
        "ids": ranges([one.id for one in rows]),
        "states": [[*state, len([*same])] for state, same in groupby(states)],
    }


def _append(path: Path, data: bytes) -> int:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        offset = os.fstat(descriptor).st_size
        text = memoryview(data)
        while text:
            text = text[os.write(descriptor, text) :]
        os.fdatasync(descriptor)
        return offset
    finally:
        os.close(descriptor)


# -- bringing back ---------------------------------------------------------------------------------------------------


def decode(told: Mapping[str, Any]) -> Chunk:
    """What `keep` wrote. Raises ValueError, TypeError or KeyError for anything else."""
    states = [(int(xmin), int(dimensions)) for xmin, dimensions, count in told["states"] for _ in range(count)]
    return Chunk(
        str(told["run_id"]),
        plain_name(told["file"]),
        int(told["offset"]),
        int(told["length"]),
        str(told["sha256"]),
        dict(zip(ids_of(told["ids"]), states, strict=True)),
    )


def path_of(context: Context, chunk: Chunk) -> Path:
    """The chunk's file. Raises AlignError when it is gone or the chunk is not as it was written."""
    path = beside(context, chunk.run_id, chunk.file)
    try:
        data = _read(path, chunk)
    except OSError as error:
        raise unusable(str(path), error.strerror or str(error)) from error
    if (digest := hashlib.sha256(data).hexdigest()) != chunk.sha256:
        raise unusable(str(path), f"sha256 {digest} at {chunk.offset}")
    return path


def digests(path: Path, chunk: Chunk) -> dict[int, bytes]:
    """By id the SHA-256 of each vector of a chunk that path_of has found good. Raises OSError."""
    return {one: hashlib.sha256(row[_ROW.size :]).digest() for one, row in _rows(_read(path, chunk))}


def _read(path: Path, chunk: Chunk) -> bytes:
    with path.open("rb") as stream:
        stream.seek(chunk.offset)
        return stream.read(chunk.length)


def _rows(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Each row's id and the row."""
    place = 0
    while place < len(data):
        _, _, one, size = _ROW.unpack_from(data, place)
        end = place + _ROW.size + size
        yield one, data[place:end]
        place = end


@dataclass(frozen=True, slots=True)
class LoadFormer(Load):
    """A COPY FROM STDIN of the rows `ids` of chunks of the file `path`."""

    chunks: tuple[tuple[Path, Chunk, frozenset[int]], ...] = ()

    def blocks(self) -> Iterator[bytes]:
        yield _HEAD
        for path, chunk, ids in self.chunks:
            yield b"".join(row for one, row in _rows(_read(path, chunk)) if one in ids)
        yield _TAIL
