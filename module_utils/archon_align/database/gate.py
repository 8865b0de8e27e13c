"""The execution gate: the last look at every statement before it reaches a server.

It parses with PostgreSQL's own grammar (pglast). Two rules, both independent of what any planner thinks:
a read-only session executes nothing that could change anything (the server's read-only setting alone can be overridden
and lets REINDEX or ANALYZE through), and no session executes what could delete, truncate, rewrite, drop or narrow
a protected table's rows and columns.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import lru_cache
from typing import Any

from pglast import ast, parse_sql
from pglast.parser import ParseError, parse_sql_json

from ..errors import GateRefused
from .harm import JUDGED, harm
from .own_rows import OwnRows

_PLACEHOLDER = re.compile(r"%(?:\(\w+\))?[sbt]|%%")
_CHANGING = (ast.InsertStmt, ast.UpdateStmt, ast.DeleteStmt, ast.MergeStmt, ast.IntoClause, ast.LockingClause)
_READ_ONLY_SETTINGS = {"transaction_read_only", "default_transaction_read_only"}
_READ_ONLY = (ast.SelectStmt, ast.VariableSetStmt, ast.VariableShowStmt, ast.TransactionStmt)
# A SELECT made of nothing but these neither writes nor locks. INTO has no node of its own, only a field.
_MERELY_SELECTING = frozenset({
    "A_ArrayExpr", "A_Const", "A_Expr", "A_Indices", "A_Indirection", "A_Star", "BoolExpr", "BooleanTest", "CaseExpr", "CaseWhen",
    "CoalesceExpr", "CollateClause", "ColumnRef", "CommonTableExpr", "FuncCall", "Integer", "JoinExpr", "List", "MinMaxExpr",
    "NullTest", "ParamRef", "RangeFunction", "RangeSubselect", "RangeVar", "ResTarget", "RowExpr", "SQLValueFunction", "SelectStmt",
    "SortBy", "String", "SubLink", "TypeCast", "WindowDef",
})  # fmt: skip
_TREE_NAMES = re.compile(r'"([A-Z]\w*|intoClause)":')


def _is_harmless(statement: str, *, read_only: bool) -> bool:
    """Is there nothing to judge? Told from the names in the tree's text, at a tenth of what walking the tree costs."""
    names = _TREE_NAMES.findall(parse_sql_json(statement))
    return _MERELY_SELECTING.issuperset(names) or (not read_only and JUDGED.isdisjoint(names))


def _parse(statement: str) -> tuple[ast.Node, ...]:
    return tuple(raw.stmt for raw in parse_sql(statement) if raw.stmt is not None)


def _nodes(node: Any, *, bodies: bool = True) -> Iterator[ast.Node]:
    """Every node below and including `node`; without `bodies`, not what a function that is only defined would do."""
    if isinstance(node, ast.Node):
        yield node
        for name in node:
            if bodies or not (name == "sql_body" and isinstance(node, ast.CreateFunctionStmt)):
                yield from _nodes(getattr(node, name), bodies=bodies)
    elif isinstance(node, (tuple, list)):
        for item in node:
            yield from _nodes(item, bodies=bodies)


def _refuse(statement: str, reason: str, found: str) -> GateRefused:
    return GateRefused(
        "The execution gate refused a statement; nothing of it was executed.",
        object_name=found,
        expected=reason,
        found=statement if len(statement) <= 300 else statement[:300] + " …",
        code="gate_refused",
        remedy="This is a defect in a planner or a misuse of the API; report it with this message.",
    )


def _reads_only(node: ast.Node) -> bool:
    if isinstance(node, ast.ExplainStmt):
        analyze = any(option.defname == "analyze" for option in node.options or ())
        return not analyze and node.query is not None and _reads_only(node.query)
    if not isinstance(node, _READ_ONLY):
        return False
    if isinstance(node, ast.VariableSetStmt) and (node.name or "").lower() in _READ_ONLY_SETTINGS:
        return False
    return not any(isinstance(inner, _CHANGING) or _allows_writing(inner) for inner in _nodes(node))


def _allows_writing(node: ast.Node) -> bool:
    """READ WRITE, of a transaction or of those to come: it would override the session's own setting."""
    if not isinstance(node, ast.DefElem) or node.defname != "transaction_read_only":
        return False
    return not (isinstance(node.arg, ast.A_Const) and isinstance(node.arg.val, ast.Integer) and node.arg.val.ival)


# Walking a large query's tree costs more than running it: a text that may run is judged once.
@lru_cache(maxsize=2048)
def inspect(
    statement: str,
    *,
    read_only: bool,
    protected: frozenset[tuple[str, str]],
    proves_values: bool = False,
    placeholders: bool = False,
    own: OwnRows | None = None,
) -> None:
    """Raise GateRefused unless `statement` may run. With `own` it may be the one that removes these rows, and no other.

    `protected` holds (schema, name) pairs. `placeholders` says that the text goes to psycopg with parameters: only then
    is `%s` a parameter and `%%` a percent sign; otherwise the text is judged exactly as the server gets it.
    """
    text = (
        _PLACEHOLDER.sub(lambda found: "%" if found.group() == "%%" else "$1", statement) if placeholders else statement
    )
    try:
        if _is_harmless(text, read_only=read_only):
            return
        nodes = _parse(text)
    except ParseError as error:
        # A newer server may know syntax this grammar does not: what cannot be read cannot be let through.
        raise _refuse(statement, "a statement PostgreSQL's grammar can read", str(error)) from error
    if own is not None and not (len(nodes) == 1 and own.removed_by(text, nodes[0])):
        raise _refuse(
            statement, "the one statement that removes the rows named", type(nodes[0]).__name__ if nodes else ""
        )
    for node in nodes:
        if read_only and not _reads_only(node):
            raise _refuse(
                statement, "only reading statements in check mode and read-only sessions", type(node).__name__
            )
        for inner in _nodes(node, bodies=False):
            if own is not None and inner is node:
                continue
            found = harm(inner, protected, proves_values)
            if found is not None:
                raise _refuse(statement, "no statement that could harm a protected table", found)
