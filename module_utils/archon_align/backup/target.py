"""The database a backup is to be restored into: is it nobody's, can it hold the backup, what must be made there first."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from psycopg import sql

from ..context import Context
from ..database.same import same_database
from ..database.session import Session, open_session, parse_dsn
from ..database.target import Target
from ..errors import AlignError, ConnectionFailed
from ..findings import Finding
from ..plan import Statement
from .expected import Restorable
from .outside import LeftOut
from .retention import identity
from .surroundings import Need, is_there
from .survey import Database

_SHOWN = 8
_ROLES = """
SELECT rolname AS name, pg_has_role(current_user, oid, CASE WHEN current_setting('server_version_num')::int >= 160000
  THEN 'SET' ELSE 'MEMBER' END) AS usable,
  ARRAY(SELECT nspname::text FROM pg_namespace WHERE nspname = ANY(%(schemas)s) AND NOT has_schema_privilege(r.oid, pg_namespace.oid, 'CREATE')
        ORDER BY 1) AS shut_out
FROM pg_roles r WHERE rolname = ANY(%(roles)s)
"""
_SELF = """
SELECT rolsuper AS super, rolcreaterole AS makes_roles, rolsuper OR rolbypassrls AS sees_all FROM pg_roles WHERE rolname = current_user
"""
_SCHEMAS = """
SELECT n.nspname AS name, pg_has_role(current_user, n.nspowner, 'USAGE') AS owned,
  has_schema_privilege(n.oid, 'CREATE') AS may_create, has_schema_privilege(n.oid, 'USAGE') AS may_use
FROM pg_namespace n WHERE n.nspname = ANY(%s)
"""
_MAY_CREATE = "SELECT has_database_privilege(current_database(), 'CREATE')"
_AVAILABLE = """
SELECT a.name, a.installed_version IS NOT NULL AS installed, (SELECT superuser AND NOT trusted
  FROM pg_available_extension_versions v WHERE (v.name, v.version) = (a.name, a.default_version)) AS superusers
FROM pg_available_extensions a WHERE a.name = ANY(%s)
"""


@dataclass(frozen=True, slots=True)
class Preparation:
    """What is made before the restore (`statements`) and would be dropped if that failed (`undo`, in order), what is left
    out of it, and which schemas are there already, by name, with whether they are this role's own.

    `acts_for` are the roles for which this one may act.
    """

    statements: tuple[Statement, ...]
    undo: tuple[Statement, ...]
    left_out: tuple[LeftOut, ...]
    present: Mapping[str, bool]
    acts_for: frozenset[str] | None
    findings: tuple[Finding, ...]


@dataclass(slots=True)
class _Plan:
    statements: list[Statement] = field(default_factory=list)
    undo: list[Statement] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    doubtful: list[str] = field(default_factory=list)

    def make(self, kind: str, name: str, statement: str, undo: str | None) -> None:
        self.statements.append(Statement(statement, name, f"make the {kind} {name}, which the backup needs"))
        if undo is not None:
            self.undo.insert(0, Statement(undo, name, f"drop the {kind} {name} again"))


def refuse_live(
    context: Context, session: Session, here: Database, live: Mapping[str, str], manifest: Mapping[str, Any]
) -> None:
    """Raise AlignError when the session's database is one of `live` (DSN by name) or the one that the backup is of.

    One of them may be down: then its address is compared, and what the backup says of its database.
    """

    def refuse(which: str, how: str) -> AlignError:
        return AlignError(
            "The target of the restore is a database in use.",
            object_name=f"{session.target.name} {here.where}",
            expected="a database that is neither PROD nor DEV",
            found=f"{which}, {how}",
            remedy="Make an empty database of another name and pass its DSN as restore_dsn, or say that this one is meant "
            "with restore_allow_live=true.",
            code="target_is_live",
        )

    parts = {**parse_dsn(session.target), "dbname": here.name}
    reached = False
    for name, dsn in live.items():
        if not dsn.strip():
            continue
        target = Target(name, dsn)
        try:
            with open_session(context, target, read_only=True) as other:
                reached = True
                if same_database(session, other):
                    raise refuse(name, "as an advisory lock that both see shows")
        except ConnectionFailed:
            theirs = parse_dsn(target)
            if all(
                (parts.get(key) or default) == (theirs.get(key) or default)
                for key, default in (("host", ""), ("port", "5432"), ("dbname", theirs.get("user", "")))
            ):
                raise refuse(name, "as its address says; it does not answer") from None
            reached = False
    database = {
        "system_identifier": here.system_identifier,
        "oid": here.oid,
        "address": here.where,
        "name": here.name,
    }
    if not reached and identity(database) == identity(manifest["database"]):
        raise refuse(
            f"the database that the backup of run {manifest['run_id']} is of",
            "or a physical copy of it, by its identity",
        )


def require_fit(here: Database, wanted: Restorable) -> None:
    """Raise AlignError when the server is too old for the backup, or the database stores text otherwise."""
    if here.major < wanted.major:
        raise AlignError(
            "The target's server is older than the one the backup is of.",
            object_name=here.where,
            expected=f"PostgreSQL {wanted.major} or newer",
            found=f"PostgreSQL {here.server_version}",
            remedy="Restore into a server that is not older.",
            code="target_too_old",
        )
    if here.encoding != wanted.encoding:
        raise AlignError(
            "The target stores text in another encoding than the database the backup is of.",
            object_name=here.where,
            expected=wanted.encoding,
            found=here.encoding,
            remedy=f"CREATE DATABASE … TEMPLATE template0 ENCODING '{wanted.encoding}', and restore into that.",
            code="other_encoding",
        )


def prepare(session: Session, here: Database, wanted: Restorable) -> Preparation:
    """What has to be made before `wanted` can be restored. Raises AlignError naming everything that is missing and cannot be."""
    plan = _Plan()
    me = session.row(_SELF)
    assert me is not None
    may_create = bool(session.value(_MAY_CREATE))
    schemas = {row["name"]: row for row in session.rows(_SCHEMAS, (list(wanted.schemas),))}
    roles = {**wanted.surroundings.roles}
    for name, owner in wanted.schemas.items():
        if name in schemas and not (schemas[name]["may_create"] and schemas[name]["may_use"]):
            plan.missing.append(f"CREATE and USAGE on schema {name} for this role")
        elif name not in schemas:
            roles[owner] = True
            if not may_create:
                plan.missing.append(f"schema {name}, or CREATE on the database for this role")
    acting = _roles(session, plan, roles, list(schemas), superuser=me["super"], makes_roles=me["makes_roles"])
    if not me["sees_all"]:
        forced = [name for (kind, name), detail in wanted.objects.items() if kind == "table" and detail.endswith(" t")]
        plan.missing += [f"BYPASSRLS for this role: {name} has FORCE ROW LEVEL SECURITY" for name in forced]
    made = set(_extensions(session, plan, wanted, may_create=may_create, superuser=me["super"]))
    absent = _objects(session, plan, wanted, made)
    if plan.missing:
        raise AlignError(
            "The target lacks what the backup needs, so nothing was restored.",
            object_name=f"{session.target.name} {here.where}",
            expected="the roles, extensions and objects outside its schemas that the backup's objects refer to",
            found=f"missing: {'; '.join(plan.missing)}",
            remedy="Make them there, or restore as a role that may (a superuser may everything), then run again.",
            code="target_lacks",
        )
    left_out = [leavable.item for leavable in wanted.surroundings.leavables if set(leavable.needs) & absent]
    return Preparation(
        statements=tuple(plan.statements),
        undo=tuple(plan.undo),
        left_out=tuple(left_out),
        present={name: bool(row["owned"]) for name, row in schemas.items()},
        acts_for=None if me["super"] else acting,
        findings=(
            *(
                Finding(
                    "left_out_of_restore",
                    "warning",
                    item.name,
                    f"The backup holds this {item.kind}; a restore leaves it out, as the target lacks what it needs: {item.reason}.",
                    "Make what it needs in the target, then add it by hand.",
                )
                for item in left_out
            ),
            *(
                Finding(
                    "extension_may_be_refused",
                    "warning",
                    name,
                    "The server wants a superuser to create this extension, and some hosts let others, too: only a run can tell.",
                    f"CREATE EXTENSION {name} in the target beforehand.",
                )
                for name in plan.doubtful
                if session.read_only
            ),
        ),
    )


def _roles(
    session: Session,
    plan: _Plan,
    roles: Mapping[str, bool],
    schemas: Sequence[str],
    *,
    superuser: bool,
    makes_roles: bool,
) -> frozenset[str]:
    """Plan the missing roles; the present ones for which this session may act."""
    wanted = {name: owns for name, owns in roles.items() if not name.startswith("pg_")}
    present = {row["name"]: row for row in session.rows(_ROLES, {"roles": list(wanted), "schemas": list(schemas)})}
    for name, owns in wanted.items():
        if name not in present and (superuser or (makes_roles and not owns)):
            role = sql.Identifier(name)
            statement, undo = (sql.SQL(text).format(role) for text in ("CREATE ROLE {} NOLOGIN", "DROP ROLE {}"))
            plan.make("role", name, statement.as_string(session.connection), undo.as_string(session.connection))
        elif name not in present:
            plan.missing.append(f"role {name}" + (", which owns objects" if owns else ""))
        elif owns and not present[name]["usable"]:
            plan.missing.append(f"membership in role {name}, which owns objects")
        elif owns and not superuser and present[name]["shut_out"]:
            # What is given to a role it must be able to make, unless a superuser gives it.
            plan.missing.append(
                f"CREATE on schema {', '.join(present[name]['shut_out'])} for role {name}, which owns objects"
            )
    return frozenset(name for name, row in present.items() if row["usable"])


def _extensions(session: Session, plan: _Plan, wanted: Restorable, *, may_create: bool, superuser: bool) -> list[str]:
    """Plan the missing extensions; the names of those that will be there."""
    names = list(wanted.surroundings.extensions)
    found = {row["name"]: row for row in session.rows(_AVAILABLE, (names,))}
    there = []
    for name, facts in wanted.surroundings.extensions.items():
        if name in found and found[name]["installed"]:
            there.append(name)
        elif name not in found or not may_create:
            by = sorted({by for need in wanted.surroundings.needs if need.extension == name for by in need.by})
            if not all(need.leavable for need in wanted.surroundings.needs if need.extension == name):
                why = "which is not installed on its server" if name not in found else "and CREATE on the database"
                plan.missing.append(f"extension {name}, {why} (needed by {', '.join(by[:3])})")
        else:
            _schema(session, plan, facts["schema"], wanted)
            statement = sql.SQL("CREATE EXTENSION {} SCHEMA {}").format(
                sql.Identifier(name), sql.Identifier(facts["schema"])
            )
            undo = sql.SQL("DROP EXTENSION {}").format(sql.Identifier(name)).as_string(session.connection)
            if found[name]["superusers"] and not superuser:
                plan.doubtful.append(name)
            plan.make("extension", name, statement.as_string(session.connection), undo)
            there.append(name)
    return there


def _schema(session: Session, plan: _Plan, name: str, wanted: Restorable) -> None:
    """Plan a schema that is not the backup's own and is missing. It stays when the restore fails: nothing is in it then."""
    if name in wanted.schemas or any(statement.object == name for statement in plan.statements):
        return
    if not session.value("SELECT EXISTS (SELECT FROM pg_namespace WHERE nspname = %s)", (name,)):
        plan.make(
            "schema", name, sql.SQL("CREATE SCHEMA {}").format(sql.Identifier(name)).as_string(session.connection), None
        )


def _objects(session: Session, plan: _Plan, wanted: Restorable, extensions: set[str]) -> set[str]:
    """Plan the missing functions; the names of objects that are missing and can be done without."""
    absent = set()
    for need in wanted.surroundings.needs:
        if need.extension in extensions or is_there(session, need):
            continue
        if need.leavable:
            absent.add(need.name)
        elif need.definition is not None:
            _schema(session, plan, need.address[1][0], wanted)
            # An identity made by the server, quoted where it has to be.
            plan.make("function", need.name, need.definition, f"DROP ROUTINE {need.name}")
        elif need.extension not in wanted.surroundings.extensions:
            plan.missing.append(_missing(need))
    return absent


def _missing(need: Need) -> str:
    return f"{need.kind} {need.name} (needed by {', '.join(need.by)})"


def listed(items: list[str]) -> str:
    """The first few of them in words, and how many more there are."""
    return "; ".join(items[:_SHOWN]) + (f" and {len(items) - _SHOWN} more" if len(items) > _SHOWN else "")
