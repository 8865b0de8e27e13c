"""Whether the protected tables can be seen at all: a proof must never hold because there was nothing to look at."""

from __future__ import annotations

from collections.abc import Collection

from ..database.session import Session
from ..database.target import Table
from ..errors import AlignError
from ..findings import Finding
from .fingerprint import existing

_KINDS = {"v": "a view", "m": "a materialised view", "f": "a foreign table"}
_OTHER_KINDS = """
SELECT n.nspname AS schema, c.relname AS name, c.relkind::text AS kind
FROM unnest(%s::text[], %s::text[]) t (schema, name) JOIN pg_namespace n ON n.nspname = t.schema
JOIN pg_class c ON c.relnamespace = n.oid AND c.relname = t.name AND c.relkind IN ('v', 'm', 'f')
ORDER BY 1, 2
"""
_ALIKE = """
SELECT t.schema AS absent_schema, t.name AS absent_name, array_agg(n.nspname || '.' || c.relname ORDER BY n.nspname, c.relname) AS alike
FROM unnest(%s::text[], %s::text[]) t (schema, name)
JOIN pg_class c ON c.relkind IN ('r', 'p') AND strpos(c.relname, t.name) > 0
JOIN pg_namespace n ON n.oid = c.relnamespace AND n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'
GROUP BY 1, 2
"""
_NAMED = 3


def require_tables(session: Session, tables: Collection[Table]) -> None:
    """Raise AlignError for a protected name that is something else than a table: its rows lie where no lock of ours reaches."""
    if problems := no_tables(session, tables):
        raise problems[0]


def no_tables(session: Session, tables: Collection[Table]) -> list[AlignError]:
    """One problem for each of `tables` that is a view, a materialised view or a foreign table."""
    return [
        AlignError(
            "A protected table is not a table, so that its rows can be neither locked nor proved.",
            object_name=f"{session.target.name} {row['schema']}.{row['name']}",
            expected="an ordinary or partitioned table",
            found=_KINDS[row["kind"]],
            remedy="Give the table that holds the rows its name back, then run again; nothing was changed.",
            code="protected_not_a_table",
        )
        for row in session.rows(_OTHER_KINDS, _names(tables))
    ]


def absent(session: Session, *, only_alike: bool = False, known: Collection[str] = ()) -> list[Finding]:
    """What to know of the protected tables that do not exist; a warning where a table of a like name may hold their rows
    (`only_alike`: nothing else). Of those that are `known` by qualified name something else is told."""
    protected = session.context.protected
    there = existing(session, protected)
    missing = [table for table in protected if table not in there and str(table) not in known]
    rows = session.rows(_ALIKE, _names(missing)) if missing else []
    alike = {Table(row["absent_schema"], row["absent_name"]): row["alike"] for row in rows}
    return [_absent(session, table, alike.get(table, ())) for table in missing if table in alike or not only_alike]


def _absent(session: Session, table: Table, alike: Collection[str]) -> Finding:
    if not alike:
        return Finding(
            "protected_table_absent",
            "info",
            f"{session.target.name} {table}",
            "This protected table does not exist: nothing of it is proved.",
            "Nothing to do, unless you expected it: then check the DSN and archon_schema_names.",
        )
    named = ", ".join(list(alike)[:_NAMED]) + (" …" if len(alike) > _NAMED else "")
    return Finding(
        "protected_table_absent",
        "warning",
        f"{session.target.name} {table}",
        f"This protected table does not exist: nothing of it is proved. Perhaps its rows are in {named}.",
        "If they are, rename that table back before a run: what has another name is not protected (archon_protected_tables).",
    )


def _names(tables: Collection[Table]) -> tuple[list[str], list[str]]:
    return [table.schema for table in tables], [table.name for table in tables]
