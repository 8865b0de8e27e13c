"""A database as Supabase's REST layer shows it: sessions of the key's role, JSON in and out, and a schema cache that only
`NOTIFY pgrst, 'reload schema'` or a lost connection renews."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import psycopg
from psycopg import sql

logger = logging.getLogger("postgrest")

Row = dict[str, Any]
Filter = tuple[str, str, object]  # column, one of _OPERATORS, value

_MAX_ROWS = 1000
_CONNECTIONS = 4
_KEPT_IDLE = 2
_RECONNECT_SECONDS = 0.5
_OPERATORS = {"eq": "=", "neq": "<>", "is": "IS", "ilike": "ILIKE"}
_COLUMNS = """
SELECT c.relname, coalesce(array_agg(a.attname::text) FILTER (WHERE a.attname IS NOT NULL), '{}')
FROM pg_catalog.pg_class AS c LEFT JOIN pg_catalog.pg_attribute AS a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
WHERE c.relnamespace = 'public'::pg_catalog.regnamespace AND c.relkind IN ('r', 'p', 'v', 'm', 'f') GROUP BY c.oid, c.relname"""
_FUNCTIONS = """
SELECT p.proname, p.proargnames[1:p.pronargs], ARRAY(SELECT pg_catalog.format_type(t, NULL) FROM unnest(p.proargtypes) AS t)
FROM pg_catalog.pg_proc AS p WHERE p.pronamespace = 'public'::pg_catalog.regnamespace AND p.proargnames IS NOT NULL"""


class RestError(Exception):
    """An error answer of the REST layer; its text is what Archon's client library shows."""

    def __init__(self, code: str, message: str, *, details: str | None = None, hint: str | None = None) -> None:
        self.code = code
        super().__init__(str({"message": message, "code": code, "hint": hint, "details": details}))


@dataclass
class _Schema:
    columns: dict[str, frozenset[str]] = field(default_factory=dict)
    functions: dict[str, dict[str, str]] = field(default_factory=dict)  # the types of its arguments by their names


class Rest:
    """Requests of one role. `start` first and `close` at the end; every request raises RestError."""

    def __init__(self, uri: str, role: str, statement_timeout: float) -> None:
        self._uri = uri
        self._role = role
        self._timeout = statement_timeout
        self._schema = _Schema()
        self._idle: list[psycopg.AsyncConnection] = []
        self._places = asyncio.Semaphore(_CONNECTIONS)
        self._listener: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Read the schema and keep listening for its reload. Raises psycopg.Error when the database does not answer."""
        connection = await self._listen()
        self._listener = asyncio.create_task(self._renew(connection))

    async def close(self) -> None:
        if self._listener is not None:
            self._listener.cancel()
            with suppress(asyncio.CancelledError):
                await self._listener
        for connection in self._idle:
            await connection.close()

    async def select(
        self,
        table: str,
        *filters: Filter,
        columns: Sequence[str] = (),
        order: Sequence[tuple[str, str]] = (),
        limit: int = _MAX_ROWS,
        offset: int = 0,
        any_of: Sequence[Filter] = (),
    ) -> list[Row]:
        """Rows as JSON shows them, at most 1000; `any_of` are filters of which one is to hold."""
        what = sql.SQL(", ").join(map(sql.Identifier, columns)) if columns else sql.SQL("*")
        condition, values = _where(table, filters, any_of)
        parts = [
            sql.SQL("SELECT {} FROM public.{}").format(what, self._table(table)),
            condition,
            sql.SQL("ORDER BY {}").format(sql.SQL(", ").join(_ordered(*by) for by in order)) if order else sql.SQL(""),
            sql.SQL("LIMIT {} OFFSET {}").format(min(limit, _MAX_ROWS), offset),
        ]
        return await self._rows(sql.SQL(" ").join(parts), values)

    async def count(self, table: str, *filters: Filter) -> int:
        """How many rows there are, beyond 1000 as well."""
        condition, values = _where(table, filters)
        query = sql.SQL("SELECT count(*) FROM public.{} {}").format(self._table(table), condition)
        return int((await self._rows(query, values))[0]["count"])

    async def insert(
        self, table: str, rows: Sequence[Row], *, on_conflict: str = "", returning: bool = True
    ) -> list[Row]:
        """Insert rows, or update those that have the same `on_conflict`; the rows as stored if `returning`."""
        columns = list(dict.fromkeys(name for row in rows for name in row))
        self._require_columns(table, columns)
        names = [sql.Identifier(name) for name in columns]
        joined = sql.SQL(", ").join(names)
        query = sql.SQL(
            "INSERT INTO public.{} ({}) SELECT {} FROM json_populate_recordset(NULL::public.{}, %s::json)"
        ).format(self._table(table), joined, joined, self._table(table))
        if on_conflict:
            changes = sql.SQL(", ").join(sql.SQL("{0} = EXCLUDED.{0}").format(name) for name in names)
            query += sql.SQL(" ON CONFLICT ({}) DO UPDATE SET {}").format(sql.Identifier(on_conflict), changes)
        return await self._write(query, [json.dumps(rows)], returning)

    async def update(self, table: str, change: Row, *filters: Filter) -> list[Row]:
        """Change the rows that fit; the rows as they are afterwards."""
        self._require_columns(table, list(change))
        condition, values = _where(table, filters)
        names = sql.SQL(", ").join(sql.SQL("{0} = given.{0}").format(sql.Identifier(name)) for name in change)
        query = sql.SQL(
            "UPDATE public.{} SET {} FROM json_populate_record(NULL::public.{}, %s::json) AS given {}"
        ).format(self._table(table), names, self._table(table), condition)
        return await self._write(query, [json.dumps(change), *values], returning=True, table=table)

    async def delete(self, table: str, *filters: Filter) -> list[Row]:
        """Delete the rows that fit; the rows as they were."""
        condition, values = _where(table, filters)
        return await self._write(
            sql.SQL("DELETE FROM public.{} {}").format(self._table(table), condition), values, returning=True
        )

    async def call(self, function: str, arguments: Mapping[str, object]) -> list[Row]:
        """The rows of a function. PGRST202 when the schema cache knows none with these arguments."""
        types = self._schema.functions.get(function)
        if types is None or not arguments.keys() <= types.keys():
            named = ", ".join(sorted(arguments))
            raise RestError("PGRST202", f"Could not find the function public.{function}({named}) in the schema cache")
        given = sql.SQL(", ").join(
            sql.SQL("{} => %s::" + types[name]).format(
                sql.Identifier(name)
            )  # a type's name comes quoted from the catalogue
            for name in arguments
        )
        values = [json.dumps(value) if isinstance(value, dict | list) else value for value in arguments.values()]
        return await self._rows(sql.SQL("SELECT * FROM public.{}({})").format(sql.Identifier(function), given), values)

    def _table(self, name: str) -> sql.Identifier:
        if name not in self._schema.columns:
            raise RestError("PGRST205", f"Could not find the table 'public.{name}' in the schema cache")
        return sql.Identifier(name)

    def _require_columns(self, table: str, columns: Sequence[str]) -> None:
        self._table(table)
        for name in columns:
            if name not in self._schema.columns[table]:
                raise RestError("PGRST204", f"Could not find the '{name}' column of '{table}' in the schema cache")

    async def _write(
        self, query: sql.Composed, values: Sequence[object], returning: bool, *, table: str = ""
    ) -> list[Row]:
        if not returning:
            await self._execute(query, values)
            return []
        back = sql.SQL("{}.*").format(sql.Identifier(table)) if table else sql.SQL("*")
        return await self._rows(query + sql.SQL(" RETURNING ") + back, values, write=True)

    async def _rows(self, query: sql.Composed, values: Sequence[object], *, write: bool = False) -> list[Row]:
        form = (
            "WITH r AS ({}) SELECT coalesce(json_agg(r), '[]') FROM r"
            if write
            else ("SELECT coalesce(json_agg(r), '[]') FROM ({}) AS r")
        )
        found = await self._execute(sql.SQL(form).format(query), values)
        assert found is not None  # noqa: S101 - an aggregate always has a row
        rows: list[Row] = found[0]
        return rows

    async def _execute(self, query: sql.Composed, values: Sequence[object]) -> tuple[Any, ...] | None:
        try:
            async with self._connection() as connection, connection.transaction():
                await connection.execute(
                    "SELECT set_config('search_path', '\"public\", \"extensions\"', true), set_config('role', %s, true),"
                    " set_config('request.jwt.claim.role', %s, true), set_config('request.jwt.claims', %s, true),"
                    " set_config('statement_timeout', %s, true)",
                    [self._role, self._role, json.dumps({"role": self._role}), str(int(self._timeout * 1000))],
                )
                cursor = await connection.execute(query, values)
                return await cursor.fetchone() if cursor.description else None
        except psycopg.OperationalError as error:
            if error.sqlstate is None or error.sqlstate.startswith(("08", "57P")):
                raise RestError("PGRST000", "Database connection error. Retrying the connection.") from error
            raise _told(error) from error
        except psycopg.Error as error:
            raise _told(error) from error

    @asynccontextmanager
    async def _connection(self) -> AsyncIterator[psycopg.AsyncConnection]:
        async with self._places:
            connection = await self._usable()
            try:
                yield connection
            finally:
                if connection.closed or len(self._idle) >= _KEPT_IDLE:
                    await connection.close()
                else:
                    self._idle.append(connection)

    async def _usable(self) -> psycopg.AsyncConnection:
        while self._idle:
            connection = self._idle.pop()
            with suppress(psycopg.Error):
                await connection.execute("SELECT")  # the server may have ended it meanwhile
                return connection
            await connection.close()
        return await self._connect()

    async def _connect(self) -> psycopg.AsyncConnection:
        # Nothing is prepared: structures change while the server runs.
        return await psycopg.AsyncConnection.connect(
            self._uri, autocommit=True, prepare_threshold=None, application_name="PostgREST", connect_timeout=10
        )

    async def _listen(self) -> psycopg.AsyncConnection:
        connection = await self._connect()
        await connection.execute("LISTEN pgrst")
        await self._load(connection)
        return connection

    async def _load(self, connection: psycopg.AsyncConnection) -> None:
        tables = await (await connection.execute(_COLUMNS)).fetchall()
        functions = await (await connection.execute(_FUNCTIONS)).fetchall()
        self._schema = _Schema(
            {name: frozenset(columns) for name, columns in tables},
            {name: dict(zip(names, types, strict=True)) for name, names, types in functions},
        )

    async def _renew(self, connection: psycopg.AsyncConnection) -> None:
        while True:
            try:
                async for notice in connection.notifies():
                    if notice.payload in ("", "reload schema"):
                        async with self._connection() as other:  # this one is busy as long as it listens
                            await self._load(other)
            except psycopg.Error:
                logger.warning("Connection for schema reloads lost; connecting again")
            await connection.close()
            while connection.closed:
                await asyncio.sleep(_RECONNECT_SECONDS)
                with suppress(psycopg.Error):
                    connection = await self._listen()


def _where(table: str, filters: Sequence[Filter], any_of: Sequence[Filter] = ()) -> tuple[sql.Composable, list[object]]:
    conditions: list[sql.Composable] = [_condition(table, one) for one in filters]
    if any_of:
        conditions.append(sql.SQL("({})").format(sql.SQL(" OR ").join(_condition(table, one) for one in any_of)))
    values = [value for _, operator, value in (*filters, *any_of) if operator != "is"]
    return (sql.SQL("WHERE ") + sql.SQL(" AND ").join(conditions) if conditions else sql.SQL("")), values


def _condition(table: str, one: Filter) -> sql.Composed:
    column, operator, value = one
    right = sql.SQL("%s") if operator != "is" else sql.Literal(value)
    return sql.SQL("{} " + _OPERATORS[operator] + " {}").format(sql.Identifier(table, column), right)


def _ordered(column: str, direction: str) -> sql.Composed:
    return sql.SQL("{} " + ("DESC" if direction == "desc" else "ASC")).format(sql.Identifier(column))


def _told(error: psycopg.Error) -> RestError:
    diagnosis = error.diag
    return RestError(
        error.sqlstate or "XX000",
        diagnosis.message_primary or str(error),
        details=diagnosis.message_detail,
        hint=diagnosis.message_hint,
    )
