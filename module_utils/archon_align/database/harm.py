"""What each kind of statement could do to a protected table's rows and columns, as far as its words tell."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from pglast import ast
from pglast.enums import (
    AlterTableType,
    CmdType,
    DropBehavior,
    ObjectType,
    OnConflictAction,
    TransactionStmtKind,
    VariableSetKind,
)

type Protected = frozenset[tuple[str, str]]
type Judge = Callable[[Any, Protected, bool], str | None]

_NARROWING = {
    AlterTableType.AT_DropColumn: "drops a column",
    AlterTableType.AT_AlterColumnType: "changes a column's type, without the proof that every value survives,",
    AlterTableType.AT_SetExpression: "replaces a column's values",
    AlterTableType.AT_AddInherit: "changes inheritance",
    AlterTableType.AT_DropInherit: "changes inheritance",
    AlterTableType.AT_AttachPartition: "changes partitioning",
    AlterTableType.AT_DetachPartition: "detaches rows",
    AlterTableType.AT_DetachPartitionFinalize: "detaches rows",
    AlterTableType.AT_DisableTrigAll: "disables triggers",
    AlterTableType.AT_DisableTrigUser: "disables triggers",
    AlterTableType.AT_SetUnLogged: "leaves the rows to a crash",
}
# With the planner's proof attached. A column is dropped whose values the server computes, and will again.
_PROVABLE = {AlterTableType.AT_DropColumn, AlterTableType.AT_AlterColumnType}
# These leave every stored row and value as it is. What is not listed is refused, also what a later grammar brings.
_HARMLESS = {
    AlterTableType.AT_AddColumn, AlterTableType.AT_ColumnDefault, AlterTableType.AT_DropNotNull, AlterTableType.AT_SetNotNull,
    AlterTableType.AT_DropExpression, AlterTableType.AT_SetStatistics, AlterTableType.AT_SetOptions, AlterTableType.AT_ResetOptions,
    AlterTableType.AT_SetStorage, AlterTableType.AT_SetCompression, AlterTableType.AT_AddConstraint, AlterTableType.AT_AlterConstraint,
    AlterTableType.AT_ValidateConstraint, AlterTableType.AT_AddIndexConstraint, AlterTableType.AT_DropConstraint,
    AlterTableType.AT_AddIdentity, AlterTableType.AT_SetIdentity, AlterTableType.AT_DropIdentity, AlterTableType.AT_ChangeOwner,
    AlterTableType.AT_ClusterOn, AlterTableType.AT_DropCluster, AlterTableType.AT_SetLogged, AlterTableType.AT_SetRelOptions,
    AlterTableType.AT_ResetRelOptions, AlterTableType.AT_EnableTrig, AlterTableType.AT_EnableAlwaysTrig,
    AlterTableType.AT_EnableReplicaTrig, AlterTableType.AT_DisableTrig, AlterTableType.AT_EnableTrigAll, AlterTableType.AT_EnableTrigUser,
    AlterTableType.AT_EnableRule, AlterTableType.AT_EnableAlwaysRule, AlterTableType.AT_EnableReplicaRule, AlterTableType.AT_DisableRule,
    AlterTableType.AT_ReplicaIdentity, AlterTableType.AT_EnableRowSecurity, AlterTableType.AT_DisableRowSecurity,
    AlterTableType.AT_ForceRowSecurity, AlterTableType.AT_NoForceRowSecurity,
}  # fmt: skip
_NAMES_ONLY = {
    ObjectType.OBJECT_TABCONSTRAINT,
    ObjectType.OBJECT_TRIGGER,
    ObjectType.OBJECT_POLICY,
    ObjectType.OBJECT_RULE,
}
_CATALOGUES = ("pg_catalog", "information_schema", "pg_toast")
# Settings by which rows hide, triggers and foreign keys sleep, or writes go uncounted.
_BLINDING = {"row_security", "session_replication_role", "track_counts"}


def _names(relation: ast.RangeVar | None, protected: Protected) -> bool:
    if relation is None:
        return False
    # An unqualified name is taken to mean a protected table of any schema: refusing too much is the safe side.
    if relation.schemaname is None:
        return any(relation.relname == name for _, name in protected)
    return (relation.schemaname, relation.relname) in protected


def _in_catalogue(relation: ast.RangeVar | None) -> bool:
    if relation is None:
        return False
    name = relation.relname or ""
    return relation.schemaname in _CATALOGUES or (relation.schemaname is None and name.startswith("pg_"))


def _writes(node: Any, protected: Protected, _: bool) -> str | None:
    if _in_catalogue(node.relation):
        return "writes the server's own catalogue, which could lose any table"
    return "deletes or rewrites protected rows" if _names(node.relation, protected) else None


def _inserts(node: Any, protected: Protected, _: bool) -> str | None:
    if _in_catalogue(node.relation):
        return "writes the server's own catalogue, which could lose any table"
    conflict = node.onConflictClause
    if conflict is None or conflict.action != OnConflictAction.ONCONFLICT_UPDATE:
        return None
    return "rewrites protected rows" if _names(node.relation, protected) else None


def _truncates(node: Any, protected: Protected, _: bool) -> str | None:
    reached = any(_names(relation, protected) for relation in node.relations or ())
    return "truncates a protected table" if reached or node.behavior == DropBehavior.DROP_CASCADE else None


def _drops(node: Any, protected: Protected, _: bool) -> str | None:
    if node.behavior == DropBehavior.DROP_CASCADE or node.removeType == ObjectType.OBJECT_SCHEMA:
        return "drops a schema or with CASCADE, which could reach a protected table"
    if node.removeType == ObjectType.OBJECT_TABLE:
        for names in node.objects or ():
            parts = [part.sval for part in names]
            if _names(ast.RangeVar(schemaname=parts[-2] if len(parts) > 1 else None, relname=parts[-1]), protected):
                return "drops a protected table"
    return None


def _moves(node: Any, protected: Protected, proves_values: bool) -> str | None:
    if isinstance(node, ast.RenameStmt):
        if node.renameType == ObjectType.OBJECT_SCHEMA:
            return "renames a schema, and with it whatever protected table is in it"
        if node.renameType in _NAMES_ONLY:
            return None
    if proves_values or not _names(node.relation, protected):
        return None
    return "renames or moves a protected table or column without the proof that its rows are carried along"


def _alters(node: Any, protected: Protected, proves_values: bool) -> str | None:
    own = _names(node.relation, protected)
    for command in node.cmds or ():
        # INHERIT, NO INHERIT, ATTACH and DETACH name a second table, whose rows come and go with it.
        other = command.def_.name if isinstance(command.def_, ast.PartitionCmd) else command.def_
        if not own and not (isinstance(other, ast.RangeVar) and _names(other, protected)):
            continue
        if command.behavior == DropBehavior.DROP_CASCADE:
            return "drops with CASCADE on a protected table"
        if command.subtype in _HARMLESS or (proves_values and command.subtype in _PROVABLE):
            continue
        return f"{_NARROWING.get(command.subtype, 'does what nobody has judged harmless')} of a protected table"
    return None


def _relabels(node: Any, _: Protected, proves_values: bool) -> str | None:
    if node.oldVal is None or proves_values:
        return None
    return "renames a label, by which protected rows could read otherwise, without the proof that they are declared to"


def _copies(node: Any, protected: Protected, _: bool) -> str | None:
    if node.is_program:
        return "runs a program on the server"
    if node.is_from:
        return "loads rows into a protected table" if _names(node.relation, protected) else None
    return "writes a file on the server" if node.filename is not None else None


def _rules(node: Any, protected: Protected, _: bool) -> str | None:
    on_reading = node.event == CmdType.CMD_SELECT and _names(node.relation, protected)
    return "would make a view of a protected table" if on_reading else None


def _sets(node: Any, *_: object) -> str | None:
    if node.kind == VariableSetKind.VAR_RESET_ALL:
        return "lets go of the settings by which every row is seen"
    if (node.name or "").lower() not in _BLINDING:
        return None
    row_security = node.name.lower() == "row_security"
    # For the length of one transaction search is asked as Archon asks it; a fingerprint refuses to be taken so.
    if row_security and node.kind == VariableSetKind.VAR_SET_VALUE and (node.is_local or _value(node.args) == "off"):
        return None
    return "changes a setting by which every row is seen, checked and counted"


def _value(arguments: Iterable[Any] | None) -> str:
    values = [getattr(one.val, "sval", None) for one in arguments or () if isinstance(one, ast.A_Const)]
    return str(values[0]).lower() if len(values) == 1 and values[0] is not None else ""


def _settles(node: Any, *_: object) -> str | None:
    prepared = (
        TransactionStmtKind.TRANS_STMT_PREPARE,
        TransactionStmtKind.TRANS_STMT_COMMIT_PREPARED,
        TransactionStmtKind.TRANS_STMT_ROLLBACK_PREPARED,
    )
    return "settles a prepared transaction, which is somebody else's work" if node.kind in prepared else None


def _always(reason: str) -> Judge:
    return lambda *_: reason


JUDGES: dict[type[ast.Node], Judge] = {
    ast.DeleteStmt: _writes,
    ast.UpdateStmt: _writes,
    ast.MergeStmt: _writes,
    ast.InsertStmt: _inserts,
    ast.TruncateStmt: _truncates,
    ast.DropStmt: _drops,
    ast.DropdbStmt: _always("drops a database"),
    ast.DropOwnedStmt: _always("drops whatever a role owns, which could be a protected table"),
    ast.ReassignOwnedStmt: _always("gives away whatever a role owns, which could be a protected table"),
    ast.RenameStmt: _moves,
    ast.AlterObjectSchemaStmt: _moves,
    ast.AlterTableStmt: _alters,
    ast.AlterTableMoveAllStmt: _always("moves whatever a tablespace holds, which could be a protected table"),
    ast.AlterEnumStmt: _relabels,
    ast.AlterExtensionContentsStmt: _always("makes an extension's own what would then be dropped with it"),
    ast.AlterSystemStmt: _always("changes the server's configuration"),
    ast.RuleStmt: _rules,
    ast.CopyStmt: _copies,
    ast.DoStmt: _always("runs an anonymous block, which nobody can look into"),
    ast.CallStmt: _always("runs a procedure, which nobody can look into"),
    ast.LoadStmt: _always("loads code into the server"),
    ast.DiscardStmt: _always("lets go of the settings by which every row is seen"),
    ast.VariableSetStmt: _sets,
    ast.TransactionStmt: _settles,
}
JUDGED = frozenset(kind.__name__ for kind in JUDGES)


def harm(node: ast.Node, protected: Protected, proves_values: bool) -> str | None:
    """What this one node, without those below it, would do to a protected table, or None. Kinds not in JUDGES are not judged."""
    judge = JUDGES.get(type(node))
    return judge(node, protected, proves_values) if judge is not None else None
