"""How Archon's searches reach the server: the role, the settings and the search_path of its REST layer.

PostgREST logs in as `authenticator`, and for each request takes the role of the request's key, here `service_role`. What it
sets for that role it finds in pg_roles, for the whole server only (not `IN DATABASE`), and among the settings that
pg_settings shows it (its own code: PostgREST.Config.Database, queryRoleSettings). Settings of an extension show there only
once its library is loaded, so that `ALTER ROLE service_role SET hnsw.ef_search` has no effect for Archon, while the same for
`authenticator` or for the database has one from the log-in on.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

import orjson
import psycopg
from psycopg import sql

from ..database.session import Session, open_session
from ..findings import Finding
from .tables import VectorType

LOGIN, ROLE = "authenticator", "service_role"
# Where PostgREST looks for what functions name without schema, after the function's own (db-extra-search-path, as Supabase has it).
_EXTRA_PATH = ("public", "extensions")
_OF_VECTORS = ("hnsw.", "ivfflat.")
# What may decide how a search is carried out, or that it is given up.
_DECIDING = (
    "statement_timeout", "plan_cache_mode", "random_page_cost", "seq_page_cost", "cpu_tuple_cost", "cpu_index_tuple_cost",
    "cpu_operator_cost", "effective_cache_size", "parallel_setup_cost", "parallel_tuple_cost", "min_parallel_table_scan_size",
    "max_parallel_workers_per_gather", "work_mem", "hash_mem_multiplier", "cursor_tuple_fraction",
)  # fmt: skip
# In PostgreSQL's precedence, the weakest first: for all, for the database, for the role, for the role in the database.
_STORED = """
SELECT coalesce(r.rolname, '') AS role, s.setdatabase <> 0 AS here, substr(one, 1, strpos(one, '=') - 1) AS name,
  substr(one, strpos(one, '=') + 1) AS value
FROM pg_db_role_setting s LEFT JOIN pg_roles r ON r.oid = s.setrole CROSS JOIN LATERAL unnest(s.setconfig) AS one
WHERE s.setdatabase IN (0, (SELECT oid FROM pg_database WHERE datname = current_database()))
  AND (s.setrole = 0 OR r.rolname = ANY (%s::text[]))
ORDER BY s.setrole <> 0, s.setdatabase <> 0, name
"""
_KNOWN = """
SELECT name, boot_val AS initial, source IN ('user', 'database user', 'client') AS ours
FROM pg_settings WHERE context = 'user' AND (name = ANY (%s::text[]) OR name ~ '^(enable_|hnsw[.]|ivfflat[.])')
"""
_ROLES = """
SELECT rolname AS name, rolcanlogin AS login, rolbypassrls OR rolsuper AS sees_all, pg_has_role(oid, %s) AS member
FROM pg_roles WHERE rolname = ANY (%s::text[])
"""


@dataclass(frozen=True, slots=True)
class Asking:
    """How to ask as Archon does. `role` is '' where the session's user may not take Archon's, for the reason `why`;
    `login` is whose settings hold from the log-in on, '' for nobody's. `settings` are those that database or roles set,
    `undone` those of the session's own user that Archon does not have, at their initial value."""

    role: str = ""
    why: str = ""
    login: str = ""
    bypasses: bool = False
    path: tuple[str, ...] = _EXTRA_PATH
    settings: Mapping[str, str] = field(default_factory=dict)
    undone: Mapping[str, str] = field(default_factory=dict)
    findings: tuple[Finding, ...] = ()

    @property
    def exists(self) -> bool:
        """Whether the server has Archon's role."""
        return bool(self.role) or not self.why.startswith("there is no")


def find_asking(session: Session, vector: VectorType) -> Asking:
    """Read roles and settings; only settings that the server takes are kept, others are told."""
    # The library makes its settings known, and what was set for them before is checked then.
    session.value(sql.SQL("SELECT '[1]'::{} IS NULL").format(sql.Identifier(vector.schema, "vector")))
    option = "SET" if session.connection.info.server_version >= 160000 else "MEMBER"
    roles = {row["name"]: row for row in session.rows(_ROLES, (option, [LOGIN, ROLE]))}
    archons = roles.get(ROLE)
    login = LOGIN if LOGIN in roles else ROLE if archons and archons["login"] else ""
    known = {row["name"]: row for row in session.rows(_KNOWN, (list(_DECIDING),))}
    stored = session.rows(_STORED, ([LOGIN, ROLE],))
    settings: dict[str, str] = {}
    path = _EXTRA_PATH
    unheard = []
    for row in stored:
        name, value = row["name"], row["value"]
        if row["role"] == LOGIN and name == "pgrst.db_extra_search_path":
            path = tuple(one.strip().strip('"') for one in value.split(",") if one.strip())
        elif name in known and row["role"] in ("", login):
            settings[name] = value
        elif name in known and login == LOGIN and row["role"] == ROLE and name.startswith(_OF_VECTORS):
            unheard.append(name)
    if login == LOGIN:
        for row in stored:
            if row["role"] == ROLE and not row["here"] and row["name"] in known and row["name"] not in unheard:
                settings[row["name"]] = row["value"]
    findings = []
    if unheard:
        if _preloaded(session):
            settings.update(
                (row["name"], row["value"])
                for row in stored
                if row["role"] == ROLE and not row["here"] and row["name"] in unheard
            )
        else:
            findings = [_unheard(session, name) for name in sorted(set(unheard))]
    for name in sorted(settings):
        if (refusal := _refusal(session, name, settings[name])) is not None:
            findings.append(_ignored(session, name, settings.pop(name), refusal))
    return Asking(
        ROLE if archons and archons["member"] else "",
        "" if archons and archons["member"] else _why_not(session, bool(archons)),
        login,
        bool(archons and archons["sees_all"]),
        path,
        settings,
        # A timeout is ours to keep: it is what ends a proof that would not end.
        {
            name: row["initial"]
            for name, row in known.items()
            if row["ours"] and name not in settings and name != "statement_timeout"
        },
        tuple(findings),
    )


@contextmanager
def settings_of(session: Session, asking: Asking, *, timeout: bool = False) -> Iterator[None]:
    """A read-only transaction with the settings of Archon's sessions. With `timeout` it has their statement_timeout, too,
    where that is the shorter one."""
    ours = session.context.statement_timeout
    with session.transaction("BEGIN READ ONLY"):
        wanted = {**asking.undone, **asking.settings}
        limit = wanted.pop("statement_timeout", None)
        if wanted:
            session.rows(
                "SELECT pg_catalog.set_config(name, value, true)"
                " FROM ROWS FROM (pg_catalog.unnest(%s::text[]), pg_catalog.unnest(%s::text[])) AS own(name, value)",
                (list(wanted), list(wanted.values())),
            )
        if timeout and limit is not None:
            session.rows("SELECT pg_catalog.set_config('statement_timeout', %s, true)", (limit,))
            theirs = int(
                session.value("SELECT setting FROM pg_catalog.pg_settings WHERE name = 'statement_timeout'") or 0
            )
            if not 0 < theirs <= ours * 1000:
                session.rows("SELECT pg_catalog.set_config('statement_timeout', %s, true)", (f"{ours * 1000:.0f}ms",))
        yield


@contextmanager
def as_archon(session: Session, asking: Asking, schema: str) -> Iterator[None]:
    """`settings_of`, and the search_path for functions in `schema`, the key's claims, and the role where that may be had.

    The functions' bodies name tables and operators without schema, so the pinned search_path must give way. Row-level
    security applies as it does to Archon: here a hidden row is not a zero to be feared but a miss to be counted.
    """
    with settings_of(session, asking, timeout=True):
        path = sql.SQL(", ").join(map(sql.Identifier, dict.fromkeys((schema, *asking.path))))
        session.execute(sql.SQL("SET LOCAL search_path TO {}").format(path))
        session.execute("SET LOCAL row_security = on")
        session.rows(
            "SELECT pg_catalog.set_config('request.jwt.claim.role', %s, true),"
            " pg_catalog.set_config('request.jwt.claims', %s, true)",
            (ROLE, orjson.dumps({"role": ROLE}).decode()),
        )
        if asking.role:
            session.execute(sql.SQL("SET LOCAL ROLE {}").format(sql.Identifier(asking.role)))
        yield


def remedy(session: Session, asking: Asking, setting: str, value: int) -> str:
    """The statement that gives Archon's sessions a setting of pgvector's. Whoever is no superuser must have loaded the
    library in the same session, and PostgREST must log in anew."""
    to = sql.SQL("ROLE {}").format(sql.Identifier(asking.login)) if asking.login == LOGIN else None
    to = to or sql.SQL("DATABASE {}").format(sql.Identifier(session.connection.info.dbname))
    statement = sql.SQL("ALTER {} SET {} = {}").format(to, sql.SQL(setting), sql.Literal(value)).as_string(None)
    return (
        f"SELECT '[1]'::vector; {statement}; in one session, then restart PostgREST, whose sessions take it at log-in"
    )


def _preloaded(session: Session) -> bool:
    """Whether a session that has not touched a vector yet knows pgvector's settings."""
    with open_session(session.context, session.target, read_only=True) as fresh:
        return bool(fresh.value("SELECT count(*) FROM pg_settings WHERE name ~ '^hnsw[.]'"))


def _refusal(session: Session, name: str, value: str) -> str | None:
    """The server's words for not taking a setting, or None."""
    try:
        with session.transaction("BEGIN READ ONLY"):
            session.value("SELECT pg_catalog.set_config(%s, %s, true)", (name, value))
    except (psycopg.DataError, psycopg.ProgrammingError) as error:
        return " ".join((error.diag.message_primary or str(error)).split())
    return None


def _why_not(session: Session, exists: bool) -> str:
    if not exists:
        return f"there is no role {ROLE}"
    return f"{session.connection.info.user} may not become {ROLE}"


def _ignored(session: Session, name: str, value: str, refusal: str) -> Finding:
    return Finding(
        "search_setting_ignored",
        "warning",
        f"{session.target.name}: {name}",
        f"The setting stored for Archon's sessions is refused by the server, which uses another value: {refusal}",
        f"Correct or reset {name} (now {value!r}) where \\drds shows it.",
    )


def _unheard(session: Session, name: str) -> Finding:
    return Finding(
        "search_setting_unheard",
        "warning",
        f"{session.target.name}: {name}",
        f"It is set for {ROLE}, but Archon's searches do not have it: PostgREST hands on a role's settings only where it finds"
        " them in pg_settings, and those of pgvector are not there before its library is loaded.",
        f"Set {name} for {LOGIN} or for the database instead, and restart PostgREST.",
    )
