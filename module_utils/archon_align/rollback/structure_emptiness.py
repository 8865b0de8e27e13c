"""What users wrote since into what the run made: rows of new tables, values of new columns, new labels. Only reads."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

from pglast import ast, parse_sql
from pglast.parser import ParseError
from psycopg import sql

from ..database.session import Session
from ..schema.ddl import Writer
from ..schema.model import Catalog, Column, Enum, Key, Kind

_CONSTANT = (ast.A_Const, ast.TypeCast, ast.A_ArrayExpr, ast.TypeName, ast.String, ast.Integer, ast.Float, ast.Boolean)
# Freezing keeps a row's xmin; only its low 32 bits are there.
_XID_BITS = 0xFFFFFFFF
_MISSING = """
SELECT (a.attmissingval::text::text[])[1] AS value FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid
JOIN pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname = %s AND c.relname = %s AND a.attname = %s AND a.atthasmissing
"""


def _table(key: Key) -> sql.Identifier:
    return sql.Identifier(key.schema, key.name)


def ours(xids: Collection[int]) -> sql.Composable:
    """Was the row written by one of our transactions, and by nobody since?"""
    low = sorted({xid & _XID_BITS for xid in xids})
    return sql.SQL("page.xmin::text::bigint = ANY ({}::bigint[])").format(sql.Literal(low))


def rows_written(session: Session, table: Key, xids: Collection[int], deleted: int) -> str:
    """What stands in the way of dropping `table` once `deleted` of its rows are gone, in words; empty if nothing does."""
    query = sql.SQL("SELECT count(*) AS rows, count(*) FILTER (WHERE NOT {}) AS theirs FROM {} AS page")
    row = session.row(query.format(ours(xids), _table(table)))
    assert row is not None
    if row["theirs"]:
        return f"{_rows(row['theirs'])} written by users since"
    left = row["rows"] - deleted
    return f"{_rows(left)} of the run that stay" if left > 0 else ""


def values_written(
    session: Session, column: Column, name: str, writer: Writer, table: Key, xids: Collection[int]
) -> str:
    """What users stored in `column` of `table` (where it is called `name`) since it was made, in words; empty if nothing.

    A row that nobody wrote since, a NULL, and what the column has by itself are nothing of theirs.
    """
    if column.generated:
        return ""
    value = sql.Identifier("page", name)
    own: list[sql.Composable] = []
    missing = session.row(_MISSING, (table.schema, table.name, name))
    if missing is not None:
        own.append(sql.Literal(missing["value"]))
    if column.default is not None and _is_constant(default := writer.text(column.default)):
        text = sql.SQL("CAST(CAST(({}) AS {}) AS text)")
        own.append(text.format(_verbatim(default), _verbatim(writer.text(column.type))))
    differs = [sql.SQL("CAST({} AS text) IS DISTINCT FROM {}").format(value, one) for one in own]
    conditions = [sql.SQL("{} IS NOT NULL").format(value), sql.SQL("NOT {}").format(ours(xids)), *differs]
    query = sql.SQL("SELECT count(*) FROM {} AS page WHERE {}").format(_table(table), sql.SQL(" AND ").join(conditions))
    count = int(session.value(query))
    return f"{_rows(count)} with a value that users wrote since" if count else ""


def labels_used(session: Session, here: Catalog, enum: Key, labels: Iterable[str], names: Mapping[Key, Key]) -> str:
    """Where `labels` of `enum` are stored or spoken of, in words; empty if nowhere."""
    gone = list(labels)
    for user in sorted(here.dependents.get(enum, ())):
        column = here.column(user) if user.kind is Kind.COLUMN else None
        if column is None or column.inherited:
            continue
        array = column.type.endswith("[]")
        read = names.get(user, user)
        condition = sql.SQL("CAST({} AS text[]) && {}::text[]" if array else "CAST({} AS text) = ANY ({}::text[])")
        query = sql.SQL("SELECT count(*) FROM {} AS page WHERE {}").format(
            _table(names.get(user.table, user.table)),
            condition.format(sql.Identifier("page", read.part), sql.Literal(gone)),
        )
        if count := int(session.value(query)):
            return f"{_rows(count)} of {user.table} hold a label that the run added"
    return ""


def removed_labels(here: Enum, wanted: Enum) -> list[str]:
    """The labels that `wanted` has no more."""
    return [label for label in here.labels if label not in wanted.labels]


def _is_constant(text: str) -> bool:
    """Is a default the same for every row, whenever it was written?"""
    try:
        statement = parse_sql(f"SELECT {text}")[0].stmt
    except ParseError:
        return False
    assert isinstance(statement, ast.SelectStmt)
    value = (statement.targetList or ())[0].val
    return _all_constant(value)


def _all_constant(node: object) -> bool:
    if isinstance(node, (tuple, list)):
        return all(map(_all_constant, node))
    if isinstance(node, ast.Node):
        return isinstance(node, _CONSTANT) and all(_all_constant(getattr(node, name)) for name in node)
    return True


def _verbatim(text: str) -> sql.Composable:
    """Text that the server itself deparsed."""
    return sql.SQL(text)


def _rows(count: int) -> str:
    return f"{count} row" if count == 1 else f"{count} rows"
