"""The protected tables alone: which entries of the archive restore them anywhere, and the script made of these."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from psycopg import sql

from ..database.session import Session
from ..database.target import Table
from ..errors import AlignError
from .needs import CLASS, Closure, Node, close, read_graph
from .outside import Outside
from .space import disk_full, says_full
from .survey import Survey
from .tools import Running, Tool, first_error

NAME = "critical.sql"
_TABLES = """
WITH RECURSIVE family(root, oid) AS (
  SELECT c.oid, c.oid FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
  JOIN unnest(%s::text[], %s::text[]) AS t (schema, name) ON n.nspname = t.schema AND c.relname = t.name
  WHERE c.relkind IN ('r', 'p')
  UNION SELECT f.root, i.inhrelid FROM family f JOIN pg_inherits i ON i.inhparent = f.oid
)
SELECT DISTINCT oid::bigint AS oid FROM family ORDER BY 1
"""
# What pg_restore's list tells by name only. A sequence of a column belongs to the column's table.
_NAMED = """
SELECT c.oid::bigint AS oid, c.relkind::text AS kind, n.nspname AS schema, c.relname AS name, pg_get_userbyid(c.relowner) AS owner,
  (SELECT d.refobjid::bigint FROM pg_depend d WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid
     AND d.refclassid = 'pg_class'::regclass AND d.deptype = 'a' AND c.relkind = 'S' LIMIT 1) AS owned_by,
  (SELECT i.inhparent::bigint FROM pg_inherits i WHERE i.inhrelid = c.oid LIMIT 1) AS parent
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.oid = ANY(%s::bigint[]::oid[]) AND c.relkind IN ('r', 'p', 'i', 'I', 'S') ORDER BY 1
"""
_NOT_TAKEN = """
WITH other(catalogue, oid, reason) AS (
  SELECT 'pg_constraint'::regclass, k.oid, format('refers to %%s, which is not among these tables', k.confrelid::regclass)
  FROM pg_constraint k WHERE k.contype = 'f' AND k.conparentid = 0 AND k.conrelid = ANY(%(tables)s::bigint[]::oid[])
    AND k.oid <> ALL(%(taken)s::bigint[]::oid[])
  UNION ALL SELECT 'pg_trigger'::regclass, t.oid, format('calls %%s, which is outside the dumped schemas', t.tgfoid::regprocedure)
  FROM pg_trigger t WHERE NOT t.tgisinternal AND t.tgparentid = 0 AND t.tgrelid = ANY(%(tables)s::bigint[]::oid[])
    AND t.oid <> ALL(%(taken)s::bigint[]::oid[])
  UNION ALL SELECT 'pg_policy'::regclass, p.oid, 'names roles that another server may lack'
  FROM pg_policy p WHERE p.polrelid = ANY(%(tables)s::bigint[]::oid[])
  UNION ALL SELECT 'pg_rewrite'::regclass, r.oid, 'may refer to any other table'
  FROM pg_rewrite r WHERE r.rulename <> '_RETURN' AND r.ev_class = ANY(%(tables)s::bigint[]::oid[])
  UNION ALL SELECT 'pg_statistic_ext'::regclass, s.oid, 'serves the planner only'
  FROM pg_statistic_ext s WHERE s.stxrelid = ANY(%(tables)s::bigint[]::oid[])
)
SELECT i.type AS kind, i.identity AS object, o.reason
FROM other o CROSS JOIN LATERAL pg_identify_object(o.catalogue, o.oid, 0) i ORDER BY 1, 2
"""
_EXTENSIONS = """
SELECT e.extname AS name, n.nspname AS schema FROM pg_extension e JOIN pg_namespace n ON n.oid = e.extnamespace
WHERE e.oid = ANY(%s::bigint[]::oid[]) AND e.extname <> 'plpgsql' ORDER BY 1
"""
_SCHEMAS = """
SELECT DISTINCT n.nspname AS name FROM unnest(%s::bigint[], %s::bigint[]) AS o (catalogue, oid)
CROSS JOIN LATERAL pg_identify_object(o.catalogue::oid, o.oid::oid, 0) i JOIN pg_namespace n ON quote_ident(n.nspname) = i.schema
"""
_ENTRY = re.compile(r"\d+; (?P<catalogue>\d+) (?P<oid>\d+) (?P<rest>.*)", re.DOTALL)
# pg_restore says this to any server, and those before PostgreSQL 17 do not know it.
_TOO_NEW = b"SET transaction_timeout = 0;"
_HEAD_BYTES = 4096


@dataclass(frozen=True, slots=True)
class Critical:
    """Which entries of an archive are the protected tables and what they need.

    `entries` are catalogue and oid, `rows` the tables whose rows come along, `named` entries by their text, `preamble`
    what must be there before, and `left_out` (kind, object, reason) what belongs to these tables and is not taken.
    """

    entries: frozenset[Node]
    rows: frozenset[int]
    named: frozenset[str]
    preamble: tuple[sql.Composable, ...]
    left_out: tuple[dict[str, str], ...]


def critical(session: Session, found: Survey, outside: Outside, protected: Sequence[Table]) -> Critical:
    """What a restore of the protected tables alone takes, in the session's snapshot."""
    places = ([table.schema for table in protected], [table.name for table in protected])
    tables = frozenset(row["oid"] for row in session.rows(_TABLES, places))
    closure = close(read_graph(session, tuple(found.schemas), tables), tables)
    relations = [oid for catalogue, oid in closure.inside if catalogue == CLASS]
    left_out = session.rows(_NOT_TAKEN, {"tables": list(tables), "taken": [oid for _, oid in closure.inside]})
    return Critical(
        entries=frozenset(closure.inside),
        rows=tables,
        named=frozenset(_named(session.rows(_NAMED, (relations,)), set(relations))),
        preamble=_preamble(session, outside, closure),
        left_out=tuple({key: str(value) for key, value in row.items()} for row in left_out),
    )


def _named(rows: Sequence[dict[str, Any]], relations: set[int]) -> list[str]:
    found = []
    for row in rows:
        # As pg_restore prints names: on one line.
        tail = " ".join(re.sub(r"[\r\n]", " ", row[key]) for key in ("schema", "name", "owner"))
        if row["kind"] == "S":
            found.append(f"SEQUENCE SET {tail}")
            if row["owned_by"] in relations:
                found.append(f"SEQUENCE OWNED BY {tail}")
        elif row["parent"] in relations:
            found.append(f"{'INDEX' if row['kind'] in 'iI' else 'TABLE'} ATTACH {tail}")
    return found


def _preamble(session: Session, outside: Outside, closure: Closure) -> tuple[sql.Composable, ...]:
    """Schemas, extensions and stand-ins, each made only where it is missing and can be made."""
    nodes = closure.inside | closure.outside
    schemas = {
        sql.Identifier(row["name"]).as_string(None)
        for row in session.rows(_SCHEMAS, ([item for item, _ in nodes], [item for _, item in nodes]))
    }
    extensions = session.rows(_EXTENSIONS, (list(closure.extensions),))
    schemas |= {sql.Identifier(row["schema"]).as_string(None) for row in extensions}
    wanted = [
        *(
            sql.SQL("CREATE SCHEMA IF NOT EXISTS {}").format(sql.SQL(name))
            for name in sorted(schemas - {'"pg_catalog"', '"pg_toast"'})
        ),
        *(
            sql.SQL("CREATE EXTENSION IF NOT EXISTS {} SCHEMA {}").format(
                sql.Identifier(row["name"]), sql.Identifier(row["schema"])
            )
            for row in extensions
        ),
        *(step.statement for step in outside.steps if step.makes in closure.outside),
    ]
    return tuple(_where_missing(statement) for statement in wanted)


def _where_missing(statement: sql.Composable) -> sql.Composable:
    body = sql.SQL("BEGIN EXECUTE {}; EXCEPTION WHEN OTHERS THEN NULL; END").format(
        sql.Literal(statement.as_string(None))
    )
    return sql.SQL("DO {}").format(sql.Literal(body.as_string(None)))


def chosen(listing: str, wanted: Critical) -> str:
    """`listing` (of pg_restore --list) for --use-list, with the entries of the protected tables only."""
    kept = []
    for line in listing.splitlines():
        entry = _ENTRY.match(line)
        if entry is None:
            continue
        catalogue, oid, rest = int(entry["catalogue"]), int(entry["oid"]), entry["rest"]
        if (
            (catalogue, oid) in wanted.entries
            or rest in wanted.named
            or (oid in wanted.rows and rest.startswith("TABLE DATA "))
        ):
            kept.append(line)
    return "\n".join(kept) + "\n"


def write_script(
    path: Path,
    tool: Tool,
    dump: Path,
    use_list: Path,
    wanted: Critical,
    *,
    title: str,
    server_major: int,
    timeout: float,
    guard: Callable[[], None],
) -> None:
    """Write the protected tables of the archive `dump` as one transaction for psql (0600). Raises AlignError."""
    head = [f"-- {line}" for line in title.splitlines()]
    head += [
        "\\set ON_ERROR_STOP on",
        "SET client_encoding = 'UTF8';",
        "SET client_min_messages = warning;",
        "BEGIN;",
        *(f"{statement.as_string(None)};" for statement in wanted.preamble),
    ]
    arguments = [
        "--no-owner",
        "--no-privileges",
        "--no-tablespaces",
        "--no-security-labels",
        "--no-publications",
        "--no-subscriptions",
        f"--use-list={use_list}",
        "--file=-",
        str(dump),
    ]
    with path.open("wb") as output:
        path.chmod(0o600)
        output.write("\n".join(head).encode() + b"\n")
        output.flush()
        begun = output.tell()
        with Running(tool, arguments, timeout=timeout, guard=guard, output=output) as running:
            ended = running.wait()
        if ended.status:
            said = first_error(ended.said)
            if says_full(said):
                raise disk_full(str(path.parent), "room for the dump of the protected tables", said)
            raise AlignError(
                "The dump of the protected tables could not be made from the archive.",
                object_name=dump.name,
                expected="pg_restore to write their entries as SQL",
                found=said,
                remedy="Correct the cause named above and run again.",
                code="backup_not_proved",
            )
        output.seek(0, 2)
        output.write(b"COMMIT;\n")
    if server_major < 17:
        _forget(path, begun, _TOO_NEW)


def _forget(path: Path, begun: int, statement: bytes) -> None:
    """Turn a statement near the place `begun` into a comment of the same length."""
    with path.open("r+b") as script:
        script.seek(begun)
        place = script.read(_HEAD_BYTES).find(b"\n" + statement)
        if place >= 0:
            script.seek(begun + place + 1)
            script.write(b"-- " + statement[3:])
