"""A TCP port that stays a test's own until the test's server takes it, or that nobody listens on."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def reserved() -> Iterator[int]:
    """A port on 127.0.0.1 on which connections are refused.

    Being bound it is given to nobody else; a server that sets SO_REUSEADDR, as PostgreSQL does, may yet listen on it.
    """
    with socket.socket() as held:
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        held.bind(("127.0.0.1", 0))
        yield int(held.getsockname()[1])
