"""How much a run will add to PROD's disk, as far as SQL can tell: it knows sizes, and never how much is free."""

from __future__ import annotations

from collections.abc import Iterator

from ..findings import Finding
from .state import Embedded, State

# Of a vector's own size, 4 bytes a dimension, measured with 768 dimensions and texts of 1.3 kB: a vector is stored in chunks, and
# the row as it was stays beside its new version until it is vacuumed; hnsw puts two vectors on a page.
_VECTOR_FACTOR = 1.8
_INDEX_FACTOR = 1.35
_DIMENSION_BYTES = 4
_MIB = 2**20


def disk_growth(prod: State, dev: State) -> Iterator[Finding]:
    """What the missing vectors and their index will take. Pure."""
    vectors = indexes = 0
    for name, found in prod.embedded.items():
        if found is None or not found.missing:
            continue
        other = dev.embedded.get(name)
        dimensions = found.dimensions or (other.dimensions if other else None) or 0
        vectors += int(found.missing * dimensions * _DIMENSION_BYTES * _VECTOR_FACTOR)
        indexes += int(_to_index(found) * dimensions * _DIMENSION_BYTES * _INDEX_FACTOR)
    if not vectors:
        return
    log = "" if prod.wal_bytes is None else f" (it has {_size(prod.wal_bytes)} now)"
    message = (
        f"The missing vectors will take about {_size(vectors)} and their index about {_size(indexes)}, in a database of "
        f"{_size(prod.size_bytes)}; the write-ahead log{log} takes as much again until it is recycled."
    )
    remedy = "See to it that the server's disk has that much free. SQL does not tell how much it has: ask the provider's console."
    yield Finding("disk_growth_expected", "info", "PROD", message, remedy)


def _to_index(found: Embedded) -> int:
    """The rows that will come into a vector index: all of them where it has to be built."""
    return found.missing if any(index.valid for index in found.indexes) else found.rows


def _size(number: int) -> str:
    return f"{number / _MIB:.0f} MiB" if number >= _MIB else f"{number / 1024:.0f} KiB"
