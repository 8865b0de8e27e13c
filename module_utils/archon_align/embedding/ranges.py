"""Advisory locks on ranges of ids, by which several workers share a table: no row is embedded twice, nothing is written for it.

The locks belong to a session: when a worker dies its ranges are free as soon as the server knows.
"""

from __future__ import annotations

import threading
import zlib
from collections.abc import Collection, Iterable, Sequence

from ..database.session import Session
from .tables import EmbeddedTable

# 256 ids: a few requests' worth, so that workers end at about the same time.
BITS = 8
# A machine that lost power or its network is found out by the server within about 20 seconds; a killed process at once.
_KEEPALIVES = {
    "tcp_keepalives_idle": "5s",
    "tcp_keepalives_interval": "5s",
    "tcp_keepalives_count": "3",
    "tcp_user_timeout": "20s",
}
_CLAIM = """
SELECT number, pg_catalog.pg_try_advisory_lock(%s, key) AS ours
FROM ROWS FROM (pg_catalog.unnest(%s::bigint[]), pg_catalog.unnest(%s::int[])) AS wanted(number, key)
"""
_RELEASE = "SELECT pg_catalog.pg_advisory_unlock(%s, key) FROM pg_catalog.unnest(%s::int[]) AS key"


def watch_connection(session: Session) -> None:
    """Have the server notice soon when this session's other end is gone."""
    session.rows(
        "SELECT pg_catalog.set_config(name, value, false)"
        " FROM ROWS FROM (pg_catalog.unnest(%s::text[]), pg_catalog.unnest(%s::text[])) AS keepalive(name, value)",
        (list(_KEEPALIVES), list(_KEEPALIVES.values())),
    )


def range_of(id_: int) -> int:
    """The range that an id is in."""
    return id_ >> BITS


def last_of(number: int) -> int:
    """The highest id in a range."""
    return (number + 1 << BITS) - 1


def _signed(value: int) -> int:
    """The lower 32 bits as PostgreSQL's integer. Ranges 2^40 ids apart share a lock, which costs a wait and nothing else."""
    return (value + 2**31) % 2**32 - 2**31


class Ranges:
    """The ranges of one table that this worker holds, and how many rows in each are still on their way.

    `claim` and `release_finished` use the session and belong to one thread; the others may be called from any.
    """

    def __init__(self, session: Session, found: EmbeddedTable) -> None:
        self._session = session
        self._key = _signed(zlib.crc32(f"archon-align {found.table} {found.column}".encode()))
        self._guard = threading.Lock()
        self._rows: dict[int, int] = {}
        self._read: set[int] = set()

    def claim(self, numbers: Sequence[int]) -> set[int]:
        """Those of `numbers` that are ours now. Raises psycopg.Error."""
        with self._guard:
            wanted = [number for number in numbers if number not in self._rows]
        rows = self._session.rows(_CLAIM, (self._key, wanted, [_signed(number) for number in wanted])) if wanted else []
        ours = {row["number"] for row in rows if row["ours"]}
        with self._guard:
            self._rows.update(dict.fromkeys(ours, 0))
        return ours

    def took(self, ids: Iterable[int]) -> None:
        """These rows, of claimed ranges, were read and are on their way."""
        with self._guard:
            for one in ids:
                self._rows[range_of(one)] += 1

    def settled(self, ids: Iterable[int]) -> None:
        """These rows were dealt with."""
        with self._guard:
            for one in ids:
                self._rows[range_of(one)] -= 1

    def read(self, numbers: Collection[int]) -> None:
        """These ranges have no further rows to be read."""
        with self._guard:
            self._read.update(numbers)

    @property
    def held(self) -> int:
        """How many ranges are ours."""
        with self._guard:
            return len(self._rows)

    @property
    def busy(self) -> bool:
        """Whether any row is still on its way."""
        with self._guard:
            return any(self._rows.values())

    def release_finished(self) -> None:
        """Let go of ranges that were read and whose rows were all dealt with. Raises psycopg.Error."""
        with self._guard:
            done = [number for number in self._read if not self._rows.get(number)]
            self._read.difference_update(done)
            for number in done:
                self._rows.pop(number, None)
        if done:
            self._session.rows(_RELEASE, (self._key, [_signed(number) for number in done]))
