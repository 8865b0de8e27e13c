"""Many vectors as one binary array: what pgvector's own adaptation makes one by one, made at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import psycopg
from numpy.typing import NDArray
from psycopg import pq
from psycopg.abc import Buffer
from psycopg.adapt import Dumper


@dataclass(frozen=True, slots=True)
class PackedVectors:
    """Vectors of one length, to be sent as `vector[]`."""

    vectors: Sequence[NDArray[np.float32]]


def pack(vectors: Sequence[NDArray[np.float32]], oid: int) -> bytes:
    """PostgreSQL's binary form of an array of pgvector's type, whose OID is `oid`.

    The array's header (dimensions, NULLs, element type, length, lower bound), then for each element its bytes, its dimensions
    as 16 bits, 16 unused bits, and 32-bit floats; everything big-endian.
    """
    matrix = np.stack(vectors)
    count, dimensions = matrix.shape
    elements = np.zeros(
        count, dtype=[("bytes", ">i4"), ("dimensions", ">i2"), ("unused", ">i2"), ("floats", ">f4", (dimensions,))]
    )
    elements["bytes"] = 4 + 4 * dimensions
    elements["dimensions"] = dimensions
    elements["floats"] = matrix
    return np.array([1, 0, oid, count, 1], dtype=">u4").tobytes() + elements.tobytes()


def register_packed(connection: psycopg.Connection[object], oid: int, array_oid: int) -> None:
    """Let `connection` send PackedVectors."""

    class PackedDumper(Dumper):
        format = pq.Format.BINARY

        def dump(self, obj: PackedVectors) -> Buffer:
            return pack(obj.vectors, oid)

    PackedDumper.oid = array_oid
    connection.adapters.register_dumper(PackedVectors, PackedDumper)
