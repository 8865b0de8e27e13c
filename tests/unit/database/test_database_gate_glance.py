"""The gate's quick look lets nothing through that walking the statement's tree would not."""

from __future__ import annotations

import pytest
from archon_align.database import gate, harm
from archon_align.errors import GateRefused
from archon_align.schema import queries
from pglast import ast, parse_sql

# Each way in which a SELECT writes or locks, or brings something along that does, however deep it hides.
WRITING = [
    "SELECT 1 INTO {t}",
    "SELECT 1 AS a INTO TEMP {t} FROM public.b",
    "SELECT 1 FROM {t} FOR SHARE",
    "SELECT 1 FROM (SELECT 1 FROM {t} FOR KEY SHARE) s",
    "SELECT EXISTS (SELECT FROM {t} FOR NO KEY UPDATE)",
    "(SELECT 1) UNION (SELECT 1 FROM {t} FOR UPDATE)",
    "WITH a AS (UPDATE {t} SET x = 1 RETURNING 1) SELECT 1 FROM a",
    "WITH a AS (WITH b AS (DELETE FROM {t} RETURNING 1) SELECT 1 FROM b) SELECT 1 FROM a",
    "WITH a AS (MERGE INTO {t} USING s ON true WHEN MATCHED THEN DELETE RETURNING 1) SELECT 1 FROM a",
    "SELECT 1; TRUNCATE {t}",
    "SELECT '\"SelectStmt\":'; DROP TABLE {t}",
]
QUERIES = [query for name, query in vars(queries).items() if name.isupper() and isinstance(query, str)]


@pytest.mark.parametrize("name", ["public.t", '"DeleteStmt"":"', '"a\'b\\"'])
@pytest.mark.parametrize("statement", WRITING)
def test_a_select_that_writes_or_locks_is_refused(statement: str, name: str) -> None:
    text = statement.replace("{t}", name)
    parse_sql(text)
    with pytest.raises(GateRefused):
        gate.inspect(text, read_only=True, protected=frozenset())


@pytest.mark.parametrize("query", QUERIES)
def test_what_is_let_through_at_once_would_be_let_through_by_the_walk(query: str) -> None:
    text = gate._PLACEHOLDER.sub(lambda found: "%" if found.group() == "%%" else "$1", query)
    assert gate._is_harmless(text, read_only=True)
    for raw in parse_sql(text):
        kinds = {type(node) for node in gate._nodes(raw.stmt)}
        assert not {kind for kind in kinds if kind.__name__.endswith("Stmt")} - {ast.SelectStmt}
        assert gate._reads_only(raw.stmt)


JUDGED = {
    "DeleteStmt": "DELETE FROM {t}",
    "UpdateStmt": "UPDATE {t} SET a = 1",
    "MergeStmt": "MERGE INTO {t} USING s ON true WHEN MATCHED THEN DELETE",
    "TruncateStmt": "TRUNCATE {t}",
    "DropStmt": "DROP TABLE {t}",
    "DropOwnedStmt": "DROP OWNED BY {t}",
    "RenameStmt": "ALTER TABLE {t} RENAME a TO b",
    "AlterObjectSchemaStmt": "ALTER TABLE {t} SET SCHEMA b",
    "AlterTableStmt": "ALTER TABLE {t} DROP COLUMN a",
    "CopyStmt": "COPY {t} TO PROGRAM 'x'",
    "DoStmt": "DO 'x'",
    "AlterEnumStmt": "ALTER TYPE {t} RENAME VALUE 'a' TO 'b'",
    "AlterExtensionContentsStmt": "ALTER EXTENSION e ADD TABLE {t}",
    "AlterSystemStmt": "ALTER SYSTEM SET a = {t}",
    "AlterTableMoveAllStmt": "ALTER TABLE ALL IN TABLESPACE {t} SET TABLESPACE b",
    "CallStmt": "CALL {t}()",
    "DiscardStmt": "DISCARD ALL",
    "DropdbStmt": "DROP DATABASE {t}",
    "InsertStmt": "INSERT INTO {t} VALUES (1)",
    "LoadStmt": "LOAD 'x'",
    "ReassignOwnedStmt": "REASSIGN OWNED BY {t} TO b",
    "RuleStmt": "CREATE RULE r AS ON SELECT TO {t} DO INSTEAD SELECT 1",
    "TransactionStmt": "ROLLBACK PREPARED 'x'",
    "VariableSetStmt": "SET a = {t}",
}
# Where a statement can stand inside another.
AROUND = ["{s}", "SELECT 1; {s}", "{s}; COMMENT ON TABLE b IS 'x'"]
INSIDE = ["CREATE RULE r AS ON INSERT TO b DO ALSO {s}", "PREPARE p AS {s}", "EXPLAIN ANALYZE {s}"]
IN_RULES = {"DeleteStmt", "InsertStmt", "UpdateStmt"}


@pytest.mark.parametrize("kind", sorted(harm.JUDGED))
def test_what_is_judged_is_never_harmless_at_a_glance(kind: str) -> None:
    written = JUDGED[kind].replace("{t}", '"public"')
    for around in (*AROUND, *(INSIDE if kind in IN_RULES else ())):
        assert not gate._is_harmless(around.replace("{s}", written), read_only=False)
        assert not gate._is_harmless(around.replace("{s}", written), read_only=True)
