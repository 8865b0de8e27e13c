"""What the schemas lean on but a dump of them does not hold: the preamble that lets the dump be restored elsewhere.

Extensions, roles, and functions, tables and servers of other schemas come from the preamble. What cannot be had (an
index by an operator class of an extension that is not bundled, a foreign key to another schema's table) is left out
and named; what would make the proof worthless (a column of a type that is missing) is refused.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from psycopg import sql

from ..database.session import Session
from ..embedded.server import wheel_folder
from ..errors import AlignError
from .survey import Survey

# inside are the objects a dump holds, by catalogue and oid. Array and row types go with what they are made from.
NEEDED = """
WITH dumped AS (SELECT oid FROM pg_namespace WHERE nspname = ANY(%(schemas)s)),
member AS (SELECT d.classid, d.objid, e.extname FROM pg_depend d JOIN pg_extension e
             ON d.refclassid = 'pg_extension'::regclass AND d.refobjid = e.oid WHERE d.deptype = 'e'),
relation AS (SELECT c.oid, c.relkind FROM pg_class c WHERE c.relnamespace IN (SELECT oid FROM dumped)
             AND NOT EXISTS (SELECT FROM member m WHERE m.classid = 'pg_class'::regclass AND m.objid = c.oid)),
inside(classid, objid) AS (
  SELECT 'pg_class'::regclass, oid FROM relation
  UNION ALL SELECT 'pg_proc'::regclass, oid FROM pg_proc WHERE pronamespace IN (SELECT oid FROM dumped)
  UNION ALL SELECT 'pg_type'::regclass, oid FROM pg_type
    WHERE typnamespace IN (SELECT oid FROM dumped) AND typtype IN ('e', 'd', 'r')
  UNION ALL SELECT 'pg_operator'::regclass, oid FROM pg_operator WHERE oprnamespace IN (SELECT oid FROM dumped)
  UNION ALL SELECT 'pg_constraint'::regclass, oid FROM pg_constraint
    WHERE connamespace IN (SELECT oid FROM dumped) AND contype <> 'f'
      AND (conrelid = 0 OR conrelid IN (SELECT oid FROM relation))
  UNION ALL SELECT 'pg_attrdef'::regclass, oid FROM pg_attrdef WHERE adrelid IN (SELECT oid FROM relation)
  UNION ALL SELECT 'pg_policy'::regclass, oid FROM pg_policy WHERE polrelid IN (SELECT oid FROM relation)
  UNION ALL SELECT 'pg_trigger'::regclass, oid FROM pg_trigger
    WHERE tgrelid IN (SELECT oid FROM relation) AND NOT tgisinternal
  UNION ALL SELECT 'pg_rewrite'::regclass, oid FROM pg_rewrite WHERE ev_class IN (SELECT oid FROM relation)
),
needed AS (
  SELECT DISTINCT d.classid, d.objid, d.refclassid, d.refobjid, d.refobjsubid
  FROM pg_depend d JOIN inside USING (classid, objid)
  WHERE d.deptype IN ('n', 'a') AND d.refclassid <> 'pg_namespace'::regclass AND NOT EXISTS
    (SELECT FROM member m WHERE m.classid = d.classid AND m.objid = d.objid)
)
SELECT n.refclassid::regclass::text AS catalogue, n.refobjid::bigint AS oid, coalesce(m.extname, '') AS extension,
  i.type AS kind, i.identity AS name, coalesce(i.schema, '') AS schema,
  n.classid::regclass::text AS by_catalogue, n.objid::bigint AS by_oid, b.type AS by_kind, b.identity AS by_name
FROM needed n
LEFT JOIN member m ON m.classid = n.refclassid AND m.objid = n.refobjid
CROSS JOIN LATERAL pg_identify_object(n.refclassid, n.refobjid, 0) i
CROSS JOIN LATERAL pg_identify_object(n.classid, n.objid, 0) b
WHERE CASE WHEN m.extname IS NOT NULL THEN m.extname <> ALL(%(bundled)s)
  ELSE n.refclassid IN ('pg_proc'::regclass, 'pg_class'::regclass, 'pg_type'::regclass, 'pg_operator'::regclass,
                        'pg_opclass'::regclass, 'pg_opfamily'::regclass, 'pg_language'::regclass)
    AND coalesce(i.schema, '') NOT IN ('pg_catalog', 'information_schema')
    AND coalesce(i.schema, '') <> ALL(SELECT quote_ident(s) FROM unnest(%(schemas)s::text[]) s)
    AND NOT (n.refclassid = 'pg_language'::regclass AND i.name IN ('c', 'internal', 'sql', 'plpgsql')) END
ORDER BY 1, 5, 10
"""
# Every function of a missing extension is stood in for, because bodies of functions name them and no catalogue tells.
_FUNCTIONS = """
WITH member AS (SELECT d.classid, d.objid, e.extname FROM pg_depend d JOIN pg_extension e
                  ON d.refclassid = 'pg_extension'::regclass AND d.refobjid = e.oid WHERE d.deptype = 'e'),
usable AS (
  SELECT t.oid FROM pg_type t LEFT JOIN member m
    ON m.classid = 'pg_type'::regclass AND m.objid = CASE WHEN t.typcategory = 'A' THEN t.typelem ELSE t.oid END
  JOIN pg_namespace n ON n.oid = t.typnamespace
  WHERE m.extname = ANY(%(bundled)s) OR (m.extname IS NULL AND n.nspname = 'pg_catalog' AND (t.typtype <> 'p'
    OR t.typname IN ('void', 'record', 'trigger', '_record') OR t.typname LIKE 'any%%'))
)
SELECT p.oid::bigint AS oid, n.nspname AS schema, p.proname AS name, pg_get_function_arguments(p.oid) AS arguments,
  pg_get_function_result(p.oid) AS result, p.provolatile::text AS volatility,
  p.proretset OR p.prorettype = 'void'::regtype OR coalesce(p.proargmodes && '{o,b,t}'::"char"[], false) AS bare_return,
  p.oid::regprocedure::text AS signature, p.prokind = 'f' AND NOT EXISTS (
    SELECT FROM unnest(coalesce(p.proallargtypes, p.proargtypes::oid[]) || p.prorettype) AS needed(type)
    WHERE needed.type NOT IN (SELECT oid FROM usable)) AS usable
FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace
LEFT JOIN member m ON m.classid = 'pg_proc'::regclass AND m.objid = p.oid
WHERE p.oid = ANY(%(oids)s::bigint[]::oid[])
  OR (m.extname <> ALL(%(bundled)s) AND p.prokind = 'f')
  OR (m.extname IS NULL AND n.nspname = 'auth' AND n.nspname <> ALL(%(schemas)s))
ORDER BY 2, 8
"""
_RELATIONS = """
SELECT c.oid::bigint AS oid, n.nspname AS schema, c.relname AS name, c.relkind::text AS kind,
  ARRAY(SELECT format('%%I %%s', a.attname, format_type(a.atttypid, a.atttypmod)) FROM pg_attribute a
        JOIN pg_type t ON t.oid = a.atttypid JOIN pg_namespace tn ON tn.oid = t.typnamespace
        LEFT JOIN pg_depend d ON d.classid = 'pg_type'::regclass AND d.objid = t.oid AND d.deptype = 'e'
        LEFT JOIN pg_extension e ON d.refclassid = 'pg_extension'::regclass AND e.oid = d.refobjid
        WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
          AND (e.extname = ANY(%(bundled)s) OR (e.extname IS NULL AND tn.nspname = 'pg_catalog'))
        ORDER BY a.attnum) AS columns
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = ANY(%(oids)s::bigint[]::oid[]) ORDER BY 2, 3
"""
_FOREIGN_KEYS = """
SELECT k.oid::bigint AS oid, i.identity AS name, k.confrelid::regclass::text AS target, n.nspname AS schema,
  format('CONSTRAINT %%I ON %%I', k.conname, c.relname) AS tag
FROM pg_constraint k JOIN pg_class c ON c.oid = k.conrelid JOIN pg_namespace n ON n.oid = c.relnamespace
JOIN pg_class f ON f.oid = k.confrelid JOIN pg_namespace fn ON fn.oid = f.relnamespace
CROSS JOIN LATERAL pg_identify_object('pg_constraint'::regclass, k.oid, 0) i
WHERE k.contype = 'f' AND k.conparentid = 0 AND n.nspname = ANY(%(schemas)s) AND fn.nspname <> ALL(%(schemas)s) ORDER BY 2
"""
# A check by a function that is only stood in for says nothing about the rows. Inherited ones go with their parent's.
_CHECKS = """
SELECT k.oid::bigint AS oid, i.type AS kind, i.identity AS name, n.nspname AS schema,
  CASE WHEN k.conrelid <> 0 THEN format('CONSTRAINT %%I ON %%I', k.conname, c.relname)
    ELSE format('CONSTRAINT %%I ON DOMAIN %%I', k.conname, t.typname) END AS tag,
  CASE WHEN k.conrelid <> 0 THEN format('ALTER TABLE %%I.%%I DROP CONSTRAINT %%I', n.nspname, c.relname, k.conname)
    ELSE format('ALTER DOMAIN %%I.%%I DROP CONSTRAINT %%I', n.nspname, t.typname, k.conname) END AS suspension
FROM pg_constraint k JOIN pg_namespace n ON n.oid = k.connamespace
LEFT JOIN pg_class c ON c.oid = k.conrelid LEFT JOIN pg_type t ON t.oid = k.contypid
CROSS JOIN LATERAL pg_identify_object('pg_constraint'::regclass, k.oid, 0) i
WHERE k.contype = 'c' AND k.coninhcount = 0 AND k.oid = ANY(%(oids)s::bigint[]::oid[]) ORDER BY 3
"""
_INDEXES = """
SELECT x.indexrelid::bigint AS oid, i.identity AS name, n.nspname AS schema, coalesce(k.oid, 0)::bigint AS constraint_oid,
  coalesce(ki.identity, '') AS constraint_name,
  CASE WHEN k.oid IS NULL THEN format('INDEX %%I', c.relname) ELSE format('CONSTRAINT %%I ON %%I', k.conname, t.relname) END AS tag,
  a.amname AS method, tn.nspname AS table_schema, t.relname AS table_name
FROM pg_index x JOIN pg_class c ON c.oid = x.indexrelid JOIN pg_namespace n ON n.oid = c.relnamespace JOIN pg_am a ON a.oid = c.relam
JOIN pg_class t ON t.oid = x.indrelid JOIN pg_namespace tn ON tn.oid = t.relnamespace
LEFT JOIN pg_constraint k ON k.conindid = c.oid AND k.conrelid = t.oid AND k.contype IN ('p', 'u', 'x')
LEFT JOIN LATERAL pg_identify_object('pg_constraint'::regclass, k.oid, 0) ki ON k.oid IS NOT NULL
CROSS JOIN LATERAL pg_identify_object('pg_class'::regclass, c.oid, 0) i
WHERE n.nspname = ANY(%(schemas)s) AND (x.indexrelid = ANY(%(oids)s::bigint[]::oid[]) OR a.amname IN ('hnsw', 'ivfflat')) ORDER BY 2
"""
_COLLATIONS = """
SELECT DISTINCT c.oid::bigint AS oid, n.nspname AS schema, c.collname AS name
FROM pg_collation c JOIN pg_namespace n ON n.oid = c.collnamespace
WHERE c.oid IN (
  SELECT a.attcollation FROM pg_attribute a JOIN pg_class r ON r.oid = a.attrelid JOIN pg_namespace rn ON rn.oid = r.relnamespace
    WHERE rn.nspname = ANY(%(schemas)s) AND a.attcollation <> 0
  UNION SELECT t.typcollation FROM pg_type t JOIN pg_namespace tn ON tn.oid = t.typnamespace WHERE tn.nspname = ANY(%(schemas)s)
  UNION SELECT d.refobjid FROM pg_depend d WHERE d.refclassid = 'pg_collation'::regclass)
AND c.collname NOT IN ('default', 'C', 'POSIX', 'ucs_basic', 'pg_c_utf8', 'pg_unicode_fast')
AND n.nspname <> ALL(%(schemas)s) ORDER BY 2, 3
"""
_SERVERS = """
SELECT DISTINCT s.srvname AS server, w.fdwname AS wrapper
FROM pg_foreign_table f JOIN pg_class c ON c.oid = f.ftrelid JOIN pg_namespace n ON n.oid = c.relnamespace
JOIN pg_foreign_server s ON s.oid = f.ftserver JOIN pg_foreign_data_wrapper w ON w.oid = s.srvfdw
WHERE n.nspname = ANY(%(schemas)s) ORDER BY 1
"""
_ROLES = "SELECT rolname AS name FROM pg_roles WHERE rolname !~ '^pg_' AND rolname <> 'postgres' ORDER BY 1"
# The catalogues' own oids, the same in every server, by which pg_restore lists objects.
CONSTRAINT, CLASS, ROUTINE, COLLATION = 2606, 1259, 1255, 3456
_VOLATILITY = {"i": "IMMUTABLE", "s": "STABLE", "v": "VOLATILE"}


@dataclass(frozen=True, slots=True)
class LeftOut:
    """An object that the dump holds and the proof leaves out. `tag` is its name in pg_restore's list of comments."""

    kind: str
    name: str
    reason: str
    schema: str
    tag: str
    catalogue: int
    oid: int

    def as_dict(self) -> dict[str, str]:
        return {"kind": self.kind, "object": self.name, "reason": self.reason}


@dataclass(frozen=True, slots=True)
class VectorIndex:
    """An index whose building takes long when its table is long; `left_out` says how it is left out then."""

    table: tuple[str, str]
    left_out: LeftOut


@dataclass(frozen=True, slots=True)
class Step:
    """A statement of the preamble. `makes` is the catalogue and oid of what it stands in for, where it does."""

    statement: sql.Composable
    makes: tuple[int, int] | None = None


@dataclass(frozen=True, slots=True)
class Outside:
    """What must be there before a restore (`steps`, in order), what stands in, and what is left out.

    `suspensions` are run once the tables are there and before their rows come.
    """

    steps: tuple[Step, ...] = ()
    suspensions: tuple[sql.Composable, ...] = ()
    stand_ins: tuple[str, ...] = ()
    left_out: tuple[LeftOut, ...] = ()
    vector_indexes: tuple[VectorIndex, ...] = ()

    @property
    def statements(self) -> tuple[sql.Composable, ...]:
        return tuple(step.statement for step in self.steps)


@dataclass(slots=True)
class _Preamble:
    """Statements as they gather; a schema is made the first time something is put in it."""

    made: set[str]
    steps: list[Step] = field(default_factory=list)
    stand_ins: list[str] = field(default_factory=list)

    def schema(self, name: str, owner: str | None = None) -> None:
        if name not in self.made:
            self.made.add(name)
            self.add("CREATE SCHEMA {}", sql.Identifier(name))
        if owner is not None:
            self.add("ALTER SCHEMA {} OWNER TO {}", sql.Identifier(name), sql.Identifier(owner))

    def add(self, text: str, *parts: sql.Composable, makes: tuple[int, int] | None = None) -> None:
        self.steps.append(Step(sql.SQL(text).format(*parts), makes))


def bundled_extensions() -> list[str]:
    """The extensions that the embedded server brings."""
    share = wheel_folder() / "share"
    return sorted({control.stem for control in share.rglob("extension/*.control")})


def outside(session: Session, found: Survey) -> Outside:
    """What a restore of the surveyed schemas needs. Raises AlignError when a proof by restoring is impossible."""
    bundled = bundled_extensions()
    base: dict[str, Any] = {"schemas": list(found.schemas), "bundled": bundled}
    needed = session.rows(NEEDED, base)
    unusable_indexes = _require_provable(session, needed)
    preamble = _Preamble(made={"public", "pg_catalog"})
    for row in session.rows(_ROLES):
        preamble.add("CREATE ROLE {} NOLOGIN", sql.Identifier(row["name"]))
    for name, owner in found.schemas.items():
        preamble.schema(name, owner)
    for extension in found.extensions:
        if extension.name in bundled and extension.name != "plpgsql":
            preamble.schema(extension.schema)
            preamble.add(
                "CREATE EXTENSION {} SCHEMA {}", sql.Identifier(extension.name), sql.Identifier(extension.schema)
            )
    _collations(session, base, preamble, utf8=found.database.encoding == "UTF8")
    _relations(session, base, needed, preamble)
    _functions(session, base, needed, preamble)
    for row in session.rows(_SERVERS, base):
        # Without a handler a wrapper lets foreign tables be defined, and nobody reads them here.
        preamble.add("CREATE FOREIGN DATA WRAPPER {}", sql.Identifier(f"{row['wrapper']} of {row['server']}"[:63]))
        preamble.add(
            "CREATE SERVER {} FOREIGN DATA WRAPPER {}",
            sql.Identifier(row["server"]),
            sql.Identifier(f"{row['wrapper']} of {row['server']}"[:63]),
        )
    called = [row for row in needed if row["catalogue"] == "pg_proc"]
    checks = session.rows(
        _CHECKS, {"oids": [row["by_oid"] for row in called if row["by_catalogue"] == "pg_constraint"]}
    )
    indexes = session.rows(_INDEXES, {**base, "oids": list(unusable_indexes)})
    return Outside(
        steps=tuple(preamble.steps),
        suspensions=tuple(sql.SQL(row["suspension"]) for row in checks),
        stand_ins=tuple(preamble.stand_ins),
        left_out=(
            *(
                LeftOut(
                    row["kind"],
                    row["name"],
                    "checks rows by a function that is not bundled",
                    row["schema"],
                    row["tag"],
                    CONSTRAINT,
                    row["oid"],
                )
                for row in checks
            ),
            *_foreign_keys(session, base),
            *(
                item
                for row in indexes
                if row["oid"] in unusable_indexes
                for item in _left_out_index(row, unusable_indexes[row["oid"]])
            ),
        ),
        vector_indexes=tuple(
            VectorIndex(
                (row["table_schema"], row["table_name"]), _left_out_index(row, "building it would take long")[0]
            )
            for row in indexes
            if row["oid"] not in unusable_indexes
        ),
    )


def _require_provable(session: Session, needed: Iterable[dict[str, Any]]) -> dict[int, str]:
    """The indexes to leave out with their reasons; raises AlignError when anything else lacks what it is made of."""
    indexes: dict[int, str] = {}
    impossible: dict[str, list[str]] = {}
    for row in needed:
        origin = f"extension {row['extension']}" if row["extension"] else f"schema {row['schema']}"
        if row["catalogue"] in ("pg_proc", "pg_class"):
            continue
        if row["by_kind"] == "index":
            indexes[row["by_oid"]] = f"needs {row['kind']} {row['name']} of {origin}"
        elif row["by_kind"] == "table constraint" and row["catalogue"].startswith("pg_op"):
            continue  # an exclusion constraint goes with its index
        elif row["catalogue"] == "pg_language":
            impossible.setdefault(f"language {row['name']}", []).append(f"{row['by_kind']} {row['by_name']}")
        else:
            impossible.setdefault(f"{row['kind']} {row['name']} of {origin}", []).append(
                f"{row['by_kind']} {row['by_name']}"
            )
    if impossible:
        raise AlignError(
            "The backup could not be proved by restoring it, so none was taken.",
            object_name=f"{session.target.name}: "
            + ", ".join(name for names in impossible.values() for name in names[:3]),
            expected=f"objects made of what PostgreSQL and {', '.join(bundled_extensions())} bring",
            found="; ".join(f"needs {what}" for what in impossible),
            remedy="Add the schema it comes from to archon_schema_names; if it comes from an extension that is not "
            "bundled, move the objects named above out of the schemas.",
            code="backup_not_provable",
        )
    return indexes


def _collations(session: Session, base: dict[str, Any], preamble: _Preamble, *, utf8: bool) -> None:
    rows = session.rows(_COLLATIONS, base)
    if rows:
        # Collations of the operating system live in pg_catalog, where a new one needs this switch.
        preamble.add("SET allow_system_table_mods = on")
    for row in rows:
        preamble.schema(row["schema"])
        preamble.add(
            "CREATE COLLATION IF NOT EXISTS {} (provider = builtin, locale = 'C.UTF-8')"
            if utf8
            else "CREATE COLLATION IF NOT EXISTS {} (provider = libc, locale = 'C')",
            sql.Identifier(row["schema"], row["name"]),
            makes=(COLLATION, row["oid"]),
        )
        preamble.stand_ins.append(f"collation {row['schema']}.{row['name']}")


def _relations(session: Session, base: dict[str, Any], needed: Sequence[dict[str, Any]], preamble: _Preamble) -> None:
    oids = [row["oid"] for row in needed if row["catalogue"] == "pg_class"]
    for row in session.rows(_RELATIONS, {**base, "oids": oids}):
        preamble.schema(row["schema"])
        name = sql.Identifier(row["schema"], row["name"])
        if row["kind"] == "S":
            preamble.add("CREATE SEQUENCE {}", name, makes=(CLASS, row["oid"]))
        else:
            columns = sql.SQL(", ").join(map(sql.SQL, row["columns"]))
            preamble.add("CREATE TABLE {} ({})", name, columns, makes=(CLASS, row["oid"]))
        preamble.stand_ins.append(f"relation {row['schema']}.{row['name']}")


def _functions(session: Session, base: dict[str, Any], needed: Sequence[dict[str, Any]], preamble: _Preamble) -> None:
    called = {row["oid"]: row for row in needed if row["catalogue"] == "pg_proc"}
    for row in session.rows(_FUNCTIONS, {**base, "oids": list(called)}):
        if not row["usable"]:
            if row["oid"] in called:
                by = called[row["oid"]]
                raise AlignError(
                    "The backup could not be proved by restoring it, so none was taken.",
                    object_name=f"{session.target.name}: {by['by_kind']} {by['by_name']}",
                    expected="only functions for which another can stand in",
                    found=f"needs {row['signature']}, whose types are not bundled",
                    remedy="Move the object named above out of the schemas, or drop what it does not need.",
                    code="backup_not_provable",
                )
            continue
        preamble.schema(row["schema"])
        preamble.add(
            "CREATE FUNCTION {}({}) RETURNS {} LANGUAGE plpgsql {} AS {}",
            sql.Identifier(row["schema"], row["name"]),
            sql.SQL(row["arguments"]),
            sql.SQL(row["result"]),
            sql.SQL(_VOLATILITY[row["volatility"]]),
            sql.Literal("BEGIN RETURN; END" if row["bare_return"] else "BEGIN RETURN NULL; END"),
            makes=(ROUTINE, row["oid"]),
        )
        preamble.stand_ins.append(f"function {row['signature']}")


def _foreign_keys(session: Session, base: dict[str, Any]) -> Iterable[LeftOut]:
    for row in session.rows(_FOREIGN_KEYS, base):
        reason = f"refers to {row['target']}, which is outside the dumped schemas"
        yield LeftOut("table constraint", row["name"], reason, row["schema"], row["tag"], CONSTRAINT, row["oid"])


def _left_out_index(row: dict[str, Any], reason: str) -> list[LeftOut]:
    """The index and, where it serves one, its constraint."""
    index = LeftOut("index", row["name"], reason, row["schema"], row["tag"], CLASS, row["oid"])
    if not row["constraint_oid"]:
        return [index]
    name, oid = row["constraint_name"], row["constraint_oid"]
    return [index, LeftOut("table constraint", name, reason, row["schema"], row["tag"], CONSTRAINT, oid)]
