"""A scratch server named in the inventory: databases of random names are made there for the proof, and dropped."""

from __future__ import annotations

import re
import secrets
import tempfile
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

import psycopg
from psycopg import sql
from psycopg.conninfo import make_conninfo

from ..context import RUN_ID, Context
from ..database.session import Session, open_session, parse_dsn
from ..database.target import Target
from ..embedded.server import EmbeddedServer
from ..errors import AlignError, ConnectionFailed
from .outside import bundled_extensions
from .survey import Database, Survey, database_of
from .tools import Running, credentials, find_tool, first_error, with_tls

_PREFIX = "archon_align_scratch_"
_NAMED = re.compile(rf"{_PREFIX}([0-9]{{8}}_[0-9]{{6}}_[0-9a-f]{{6}})_[0-9a-f]{{8}}_[a-z]+")
# The proof makes databases whose locale is the server's own, which no older one has.
_OLDEST = 17
_ROLE = re.compile(r"CREATE ROLE (?P<name>\"(?:[^\"]|\"\")+\") NOLOGIN")
_DROP_SECONDS = 60
_RUN_ID_LENGTH = 22
_LEFT = "SELECT datname AS name FROM pg_database WHERE datname LIKE 'archon\\_align\\_scratch\\_%'"
_MARKED = """
SELECT r.rolname AS name, d.description AS mark FROM pg_shdescription d JOIN pg_roles r ON r.oid = d.objoid
WHERE d.classoid = 'pg_authid'::regclass AND d.description LIKE 'archon\\_align\\_scratch\\_%'
"""
_RUNNING = "SELECT application_name AS name FROM pg_stat_activity WHERE application_name LIKE 'align %'"


class Outer:
    """A server that is not ours. What was made on it is dropped by `close`, and what a killed run left by the next one.

    It has what the proof wants of a server: `bin`, `version`, and `dsn` by what the proof calls a database.
    """

    def __init__(self, context: Context, dsn: str) -> None:
        self._context = context
        self._target = Target("scratch server", dsn, "archon_backup_scratch_dsn")
        self._mark = f"{_PREFIX}{context.run.id.replace('-', '_')}_{secrets.token_hex(4)}"
        self._names: set[str] = set()
        self._held: Session | None = None
        # Only its programs are wanted: no server is started, and the folder names none.
        self.bin = EmbeddedServer(Path(tempfile.gettempdir())).bin
        self.version = 0

    def dsn(self, database: str) -> str:
        """The maintenance database's DSN for `postgres`, otherwise that of a database of a random name, there or not yet."""
        parts = parse_dsn(self._target)
        if database == "postgres":
            return make_conninfo(**parts)
        name = f"{self._mark}_{database}"
        self._names.add(name)
        return make_conninfo(**{**parts, "dbname": name})

    def require_usable(self, prod: Session, found: Survey) -> None:
        """Raise AlignError when the server is PROD's or DEV's, too old, or lacks what the proof of the surveyed schemas takes."""
        identity = found.database
        with self._session(read_only=True) as session:
            here = database_of(session)
            if _same_server(session, here, prod, identity):
                raise self._refuse("the server of PROD", "a server that is neither PROD's nor DEV's", here)
            if self._context.dev.dsn.strip():
                with suppress(ConnectionFailed), open_session(self._context, self._context.dev, read_only=True) as dev:
                    if _same_server(session, here, dev, database_of(dev)):
                        raise self._refuse("the server of DEV", "a server that is neither PROD's nor DEV's", here)
            oldest = max(_OLDEST, identity.major)
            if here.major < oldest:
                raise self._refuse(f"PostgreSQL {here.server_version}", f"PostgreSQL {oldest} or newer", here)
            if not session.value("SELECT rolsuper FROM pg_roles WHERE rolname = current_user"):
                raise self._refuse(
                    "a role that is none", "a superuser: the proof makes roles, extensions and collations", here
                )
            available = {row["name"] for row in session.rows("SELECT name FROM pg_available_extensions")}
            wanted = {item.name for item in found.extensions} & set(bundled_extensions())
            if lacking := sorted(wanted - available):
                raise self._refuse(f"no {', '.join(lacking)}", f"a server with {', '.join(sorted(wanted))}", here)

    def start(self) -> None:
        """Remove what killed runs left. Raises AlignError when the server does not answer."""
        # Held until the end: by this session others see that what is named after this run is in use.
        self._held = session = self._session()
        self.version = session.connection.info.server_version // 10000
        running = {row["name"] for row in session.rows(_RUNNING)}
        alive = {found.group().replace("-", "_") for name in running if (found := RUN_ID.search(name))}
        for row in session.rows(_LEFT):
            found = _NAMED.fullmatch(row["name"])
            if found and found[1] not in alive:
                self._drop_database(session, row["name"])
        self._drop_roles(session, lambda mark: mark[len(_PREFIX) :][:_RUN_ID_LENGTH] not in alive)

    def adapted(self, session: Session, statements: Sequence[sql.Composable]) -> list[sql.Composable]:
        """The preamble for a server that has roles already: only the missing ones are made, and marked as ours."""
        present = {row["name"] for row in session.rows("SELECT rolname AS name FROM pg_roles")}
        adapted: list[sql.Composable] = []
        for statement in statements:
            found = _ROLE.fullmatch(statement.as_string(session.connection))
            name = found["name"][1:-1].replace('""', '"') if found else ""
            if name in present:
                continue
            adapted.append(statement)
            if name:
                adapted.append(
                    sql.SQL("COMMENT ON ROLE {} IS {}").format(sql.Identifier(name), sql.Literal(self._mark))
                )
        return adapted

    def close(self) -> None:
        """Drop the databases and roles that were made. What cannot be dropped is left to the next run."""
        if self._held is None:
            return
        with suppress(AlignError, psycopg.Error), self._held, self._session() as session:
            for name in sorted(self._names):
                self._drop_database(session, name)
            self._drop_roles(session, lambda mark: mark == self._mark)

    def _session(self, *, read_only: bool = False) -> Session:
        return open_session(self._context, self._target, read_only=read_only)

    def _drop_roles(self, session: Session, ours: Callable[[str], bool]) -> None:
        for row in session.rows(_MARKED):
            if ours(row["mark"]):
                with suppress(psycopg.Error):
                    session.execute(sql.SQL("DROP ROLE {}").format(sql.Identifier(row["name"])))

    def _drop_database(self, session: Session, name: str) -> None:
        """By PostgreSQL's own program: the execution gate lets nobody drop a database."""
        tool = find_tool(self.bin / "dropdb")
        tool = with_tls(tool) if session.connection.pgconn.ssl_in_use else tool
        with credentials(session, self._context.run.application_name(session.phase, "dropdb")) as (conninfo, extra):
            arguments = ["--if-exists", "--force", "--no-password", f"--maintenance-db={conninfo}", name]
            with Running(tool, arguments, timeout=_DROP_SECONDS, extra=extra) as running:
                ended = running.wait()
        if ended.status:
            raise AlignError(
                "A scratch database could not be dropped.",
                object_name=name,
                expected="dropdb to end with status 0",
                found=first_error(ended.said),
                remedy="Drop it by hand; the next backup tries again.",
                code="scratch_left",
            )

    def _refuse(self, found: str, expected: str, here: Database) -> AlignError:
        return AlignError(
            "The scratch server cannot be used for the proof.",
            object_name=f"archon_backup_scratch_dsn ({here.where})",
            expected=expected,
            found=found,
            remedy="Name another server, or leave archon_backup_scratch_dsn empty for the embedded one.",
            code="bad_scratch_server",
        )


def _same_server(session: Session, here: Database, other: Session, there: Database) -> bool:
    if here.system_identifier and there.system_identifier:
        return here.system_identifier == there.system_identifier
    started = "SELECT pg_postmaster_start_time()::text"
    if session.value(started) == other.value(started):
        return True
    return here.where.rpartition("/")[0] == there.where.rpartition("/")[0]
