"""The execution gate: the last look at every statement before it reaches a server.

It parses with PostgreSQL's own grammar (pglast). Two rules, both independent of what any planner thinks:
a read-only session executes nothing that could change anything (the server's read-only setting alone can be overridden
and lets REINDEX or ANALYZE through), and no session executes what could delete, truncate, rewrite, drop or narrow
a protected table's rows and columns.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import Any

from pglast import ast, parse_sql
from pglast.enums import AlterTableType, DropBehavior, ObjectType
from pglast.parser import ParseError, parse_sql_json

from ..errors import GateRefused

_PLACEHOLDER = re.compile(r"%(?:\(\w+\))?[sbt]|%%")
_READ_ONLY = (ast.SelectStmt, ast.VariableSetStmt, ast.VariableShowStmt, ast.TransactionStmt)
_NARROWING = {
    AlterTableType.AT_DropColumn: "drops a column",
    AlterTableType.AT_SetExpression: "replaces a column's values",
    AlterTableType.AT_AddInherit: "changes inheritance",
    AlterTableType.AT_AttachPartition: "changes partitioning",
    AlterTableType.AT_DetachPartition: "detaches rows",
    AlterTableType.AT_DisableTrigAll: "disables triggers",
}

# With the planner's proof attached: a column whose values the server computes, and will again.
_PROVABLE = {AlterTableType.AT_DropColumn}
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
    return _MERELY_SELECTING.issuperset(names) or (not read_only and _JUDGED.isdisjoint(names))


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
    for inner in _nodes(node):
        if isinstance(
            inner, (ast.InsertStmt, ast.UpdateStmt, ast.DeleteStmt, ast.MergeStmt, ast.IntoClause, ast.LockingClause)
        ):
            return False
    return True


def _names(relation: ast.RangeVar | None, protected: frozenset[tuple[str, str]]) -> bool:
    if relation is None:
        return False
    # An unqualified name is taken to mean a protected table of any schema: refusing too much is the safe side.
    if relation.schemaname is None:
        return any(relation.relname == name for _, name in protected)
    return (relation.schemaname, relation.relname) in protected


type _Protected = frozenset[tuple[str, str]]


def _writes(node: Any, protected: _Protected, _: bool) -> str | None:
    return "deletes or rewrites protected rows" if _names(node.relation, protected) else None


def _truncates(node: Any, protected: _Protected, _: bool) -> str | None:
    reached = any(_names(relation, protected) for relation in node.relations or ())
    return "truncates a protected table" if reached or node.behavior == DropBehavior.DROP_CASCADE else None


def _drops(node: Any, protected: _Protected, _: bool) -> str | None:
    if node.behavior == DropBehavior.DROP_CASCADE or node.removeType == ObjectType.OBJECT_SCHEMA:
        return "drops a schema or with CASCADE, which could reach a protected table"
    if node.removeType == ObjectType.OBJECT_TABLE:
        for names in node.objects or ():
            parts = [part.sval for part in names]
            if _names(ast.RangeVar(schemaname=parts[-2] if len(parts) > 1 else None, relname=parts[-1]), protected):
                return "drops a protected table"
    return None


def _moves(node: Any, protected: _Protected, proves_values: bool) -> str | None:
    harmless = isinstance(node, ast.RenameStmt) and node.renameType in (
        ObjectType.OBJECT_TABCONSTRAINT,
        ObjectType.OBJECT_TRIGGER,
    )
    if harmless or proves_values or not _names(node.relation, protected):
        return None
    return "renames or moves a protected table or column without the proof that its rows are carried along"


def _alters(node: Any, protected: _Protected, proves_values: bool) -> str | None:
    if not _names(node.relation, protected):
        return None
    for command in node.cmds or ():
        if command.behavior == DropBehavior.DROP_CASCADE:
            return "drops with CASCADE on a protected table"
        if command.subtype in _NARROWING and not (proves_values and command.subtype in _PROVABLE):
            return f"{_NARROWING[command.subtype]} of a protected table"
        if command.subtype == AlterTableType.AT_AlterColumnType and not proves_values:
            return "changes a protected column's type without the proof that every value survives"
    return None


# What each kind of statement would do to a protected table, or None. No other kind is judged.
_JUDGES: dict[type[ast.Node], Callable[[Any, _Protected, bool], str | None]] = {
    ast.DeleteStmt: _writes,
    ast.UpdateStmt: _writes,
    ast.MergeStmt: _writes,
    ast.TruncateStmt: _truncates,
    ast.DropStmt: _drops,
    ast.DropOwnedStmt: lambda *_: "drops whatever a role owns, which could be a protected table",
    ast.RenameStmt: _moves,
    ast.AlterObjectSchemaStmt: _moves,
    ast.AlterTableStmt: _alters,
    ast.CopyStmt: lambda node, *_: "runs a program on the server" if node.is_program else None,
    ast.DoStmt: lambda *_: "runs an anonymous block, which nobody can look into",
}
_JUDGED = frozenset(kind.__name__ for kind in _JUDGES)


def _harm(node: ast.Node, protected: _Protected, proves_values: bool) -> str | None:
    judge = _JUDGES.get(type(node))
    return judge(node, protected, proves_values) if judge is not None else None


# Walking a large query's tree costs more than running it: a text that may run is judged once.
@lru_cache(maxsize=2048)
def inspect(
    statement: str,
    *,
    read_only: bool,
    protected: frozenset[tuple[str, str]],
    proves_values: bool = False,
    placeholders: bool = False,
) -> None:
    """Raise GateRefused unless `statement` may run.

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
    for node in nodes:
        if read_only and not _reads_only(node):
            raise _refuse(
                statement, "only reading statements in check mode and read-only sessions", type(node).__name__
            )
        for inner in _nodes(node, bodies=False):
            harm = _harm(inner, protected, proves_values)
            if harm is not None:
                raise _refuse(statement, "no statement that could harm a protected table", harm)
