"""Connections: the one place that opens them, and the one place through which statements reach a server."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import TracebackType
from typing import Any, LiteralString, Self

import psycopg
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from psycopg.rows import dict_row, tuple_row

from ..context import Context
from ..errors import AlignError
from ..plan import Statement
from . import gate
from .failures import connection_failed
from .own_rows import OwnRows
from .target import Target

Query = LiteralString | sql.Composable
# Text forms must not depend on anybody's settings: fingerprints and comparisons are made of them.
PINNED = {
    # Unnamed, the schema of temporary tables comes first: a trigger that made one could hide the catalogue from us.
    "search_path": "pg_catalog, pg_temp",
    "TimeZone": "UTC",
    "DateStyle": "ISO, YMD",
    "IntervalStyle": "postgres",
    "extra_float_digits": "1",
    "bytea_output": "hex",
    "lc_monetary": "C",
    "client_encoding": "UTF8",
    "standard_conforming_strings": "on",
    "xmlbinary": "base64",
    "quote_all_identifiers": "off",
    "row_security": "off",
    # Catalogue queries look costly to the planner and are not: compiling them would take longer than they run.
    "jit": "off",
}
KEEPALIVES = {
    "keepalives": "1",
    "keepalives_idle": "10",
    "keepalives_interval": "5",
    "keepalives_count": "3",
    # Keepalives do not count while something sent is not acknowledged: without this a cut network is noticed after 15 minutes.
    "tcp_user_timeout": "30000",
}
# The server's, so that locks do not outlive a client that a cut network has taken away. They need no privilege, and a local socket
# ignores them. No tcp_user_timeout here: it would also end a session whose client is slow to read what it asked for.
SERVER_KEEPALIVES = {"tcp_keepalives_idle": "10", "tcp_keepalives_interval": "5", "tcp_keepalives_count": "3"}


class Session:
    """A connection in autocommit with pinned settings, whose every statement passes the execution gate.

    Reading methods return dictionaries by column name. Errors of the server come as psycopg.Error.
    """

    def __init__(
        self,
        connection: psycopg.Connection[dict[str, Any]],
        context: Context,
        target: Target,
        phase: str,
        *,
        read_only: bool,
    ) -> None:
        self.connection = connection
        self.context = context
        self.target = target
        self.phase = phase
        self.read_only = read_only
        self._protected = frozenset((table.schema, table.name) for table in (*context.protected, *context.watched))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        self.connection.close()

    def _text(self, query: sql.Composable, *, doubled: bool) -> str:
        """The query as text. With parameters a percent sign in a name or literal must be doubled, which psycopg leaves to us."""
        if isinstance(query, sql.Composed):
            return "".join(self._text(part, doubled=doubled) for part in query)
        text = query.as_string(self.connection)
        return text.replace("%", "%%") if doubled and isinstance(query, (sql.Identifier, sql.Literal)) else text

    def _run(
        self, query: str | sql.Composable, params: Sequence[Any] | dict[str, Any] | None, *, proves_values: bool = False
    ) -> psycopg.Cursor[dict[str, Any]]:
        text = self._text(query, doubled=params is not None) if isinstance(query, sql.Composable) else str(query)
        gate.inspect(
            text,
            read_only=self.read_only,
            protected=self._protected,
            proves_values=proves_values,
            placeholders=params is not None,
        )
        return self.connection.execute(text.encode(), params)

    def rows(self, query: Query, params: Sequence[Any] | dict[str, Any] | None = None) -> list[dict[str, Any]]:
        """All rows of a query."""
        return self._run(query, params).fetchall()

    def tuples(self, query: Query, params: Sequence[Any] | dict[str, Any] | None = None) -> list[tuple[Any, ...]]:
        """All rows of a query as plain tuples, for results of tens of thousands of rows."""
        cursor: psycopg.Cursor[Any] = self._run(query, params)
        cursor.row_factory = tuple_row
        return cursor.fetchall()

    def stream(self, query: Query, *, size: int = 1000) -> Iterator[tuple[Any, ...]]:
        """The rows of a query as they arrive, without ever holding more than `size` of them."""
        text = self._text(query, doubled=False) if isinstance(query, sql.Composable) else str(query)
        gate.inspect(text, read_only=self.read_only, protected=self._protected)
        with self.connection.cursor(row_factory=tuple_row) as cursor:
            yield from cursor.stream(text.encode(), size=size)

    def row(self, query: Query, params: Sequence[Any] | dict[str, Any] | None = None) -> dict[str, Any] | None:
        """The first row of a query, or None."""
        return self._run(query, params).fetchone()

    def value(self, query: Query, params: Sequence[Any] | dict[str, Any] | None = None) -> Any:
        """The first column of the first row, or None."""
        found = self.row(query, params)
        return next(iter(found.values())) if found else None

    def execute(self, query: Query, params: Sequence[Any] | dict[str, Any] | None = None) -> int:
        """Run a statement without a result set; the number of rows it touched."""
        return self._run(query, params).rowcount

    def apply(self, statement: Statement) -> int:
        """Run one planned statement exactly as the plan shows it."""
        return self._run(statement.sql, None, proves_values=statement.proves_values).rowcount

    def remove(self, rows: OwnRows) -> int:
        """Delete rows that archon-align has made itself; how many there were. For the transaction that is told of them (see
        database.transaction), which proves all others untouched."""
        gate.inspect(rows.text, read_only=self.read_only, protected=self._protected, own=rows)
        return self.connection.execute(rows.text.encode()).rowcount

    @contextmanager
    def copying(self, query: sql.Composable) -> Iterator[psycopg.Copy]:
        """COPY … TO STDOUT or FROM STDIN, to be read or written within the block."""
        text = self._text(query, doubled=False)
        gate.inspect(text, read_only=self.read_only, protected=self._protected)
        with self.connection.cursor().copy(text.encode()) as copy:
            yield copy

    def progress(self, text: str) -> None:
        """Show `text` in pg_stat_activity, from where the keeper publishes it."""
        self.rows(
            "SELECT pg_catalog.set_config('application_name', %s, false)",
            (self.context.run.application_name(self.phase, text),),
        )

    @contextmanager
    def transaction(self, begin: Query = "BEGIN") -> Iterator[None]:
        """BEGIN … COMMIT, or ROLLBACK on any exception. In a read-only session always `BEGIN READ ONLY`."""
        self.execute("BEGIN READ ONLY" if self.read_only and begin == "BEGIN" else begin)
        try:
            yield
        except BaseException:
            if not self.connection.closed and not self.connection.broken:
                self.execute("ROLLBACK")
            raise
        self.execute("COMMIT")


def parse_dsn(target: Target) -> dict[str, str]:
    """The DSN's parts; raises AlignError (never quoting the DSN) when it is missing or malformed."""
    problem = "an empty value"
    if target.dsn.strip():
        try:
            return {key: str(value) for key, value in conninfo_to_dict(target.dsn).items() if value is not None}
        except psycopg.ProgrammingError:
            # libpq's message quotes the DSN, password and all.
            problem = "a value libpq cannot read (not shown: it may hold a password)"
    raise AlignError(
        f"The DSN of {target.name} cannot be used.",
        object_name=f"{target.name} DSN",
        code="bad_dsn",
        expected="postgresql://user@host:port/database or libpq key=value pairs",
        found=problem,
        remedy=f"Set {target.where_set}; percent-encode special characters in a URI.",
    )


def open_session(
    context: Context,
    target: Target,
    *,
    phase: str | None = None,
    read_only: bool | None = None,
    statement_timeout: float | None = None,
    pinned: bool = True,
) -> Session:
    """Open a session on `target`; in check mode it is always read-only.

    Everything is SET after connecting, because some poolers drop start-up options. `pinned=False` sets nothing: it is
    for the look at a server's own settings, and at a pooler that would hand our settings on to other clients. Such a
    session is read-only by the gate. Raises ConnectionFailed.
    """
    phase = phase or context.phase
    read_only = context.check or bool(read_only) or not pinned
    parts = parse_dsn(target)
    application_name = context.run.application_name(phase)
    conninfo = make_conninfo(
        **{
            **KEEPALIVES,
            **parts,
            "connect_timeout": str(max(2, round(context.connect_timeout))),
            "application_name": application_name,
        }
    )
    try:
        connection = psycopg.connect(conninfo, autocommit=True, row_factory=dict_row, prepare_threshold=None)
    except psycopg.Error as error:
        raise connection_failed(target, parts, error) from error
    session = Session(connection, context, target, phase, read_only=read_only)
    if not pinned:
        return session
    timeout = context.statement_timeout if statement_timeout is None else statement_timeout
    settings = {
        **PINNED,
        **SERVER_KEEPALIVES,
        "application_name": application_name,
        "lock_timeout": f"{context.lock_timeout * 1000:.0f}ms",
        "statement_timeout": f"{timeout * 1000:.0f}ms",
        "idle_in_transaction_session_timeout": "600s",
        "default_transaction_read_only": "on" if read_only else "off",
    }
    try:
        found = session.rows(
            "SELECT pg_catalog.current_setting('default_transaction_read_only') AS before, pg_catalog.set_config(name, value, false)"
            " FROM ROWS FROM (pg_catalog.unnest(%s::text[]), pg_catalog.unnest(%s::text[])) AS pinned(name, value)",
            (list(settings), list(settings.values())),
        )
        # The last of the settings is the one that changes it: every row saw what the database or the role had set.
        if not read_only and found[0]["before"] == "on":
            raise AlignError(
                f"{target.name} is set to be read only.",
                object_name=f"{target.name} session",
                expected="default_transaction_read_only = off, as it is before anything is set here",
                found="on, by the server, the database or the role",
                code="read_only_server",
                remedy="Somebody wants it not to be written: ask why, then RESET default_transaction_read_only there and run again.",
            )
        if read_only and session.value("SHOW default_transaction_read_only") != "on":
            raise AlignError(
                "The read-only setting did not take effect.",
                object_name=f"{target.name} session",
                expected="default_transaction_read_only = on",
                found="off",
                code="read_only_not_kept",
                remedy="Connect directly or through a session-mode pooler.",
            )
    except psycopg.Error as error:
        connection.close()
        raise connection_failed(target, parts, error) from error
    except BaseException:
        connection.close()
        raise
    return session
