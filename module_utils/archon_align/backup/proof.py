"""The proof of a backup: restored into a scratch server, every row and every object compared."""

from __future__ import annotations

import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import psycopg
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict

from ..context import Context
from ..database.session import Session, open_session
from ..database.target import Target
from ..embedded.server import EmbeddedServer
from ..errors import AlignError
from ..preservation.fingerprint import Fingerprint, fingerprint
from .contents import without
from .inventory import Inventory, differences, inventory
from .outer import Outer
from .outside import LeftOut, Outside
from .space import disk_full, says_full
from .tools import Ended, Running, credentials, environment, find_tool, first_error, with_tls

DATABASE = "backup"
CRITICAL_DATABASE = "critical"
VECTOR_INDEX_ROWS = 20_000
# A table of vectors is small without them, so that the planner would have one process read it.
_IN_PARALLEL = (
    "SET LOCAL min_parallel_table_scan_size = '64kB'",
    "SET LOCAL parallel_setup_cost = 0",
    "SET LOCAL parallel_tuple_cost = 0",
)


@dataclass(frozen=True, slots=True)
class Setting:
    """What a restore needs to know before the rows of the dump have been counted; `jobs` processes do it."""

    outside: Outside
    schemas: tuple[str, ...]
    encoding: str
    jobs: int


@dataclass(frozen=True, slots=True)
class Proved:
    """What proved a backup. `left_out` is what it holds and the proof did not restore.

    `listing` is pg_restore's list of the whole archive without the schemas themselves, for a restore into a database.
    """

    server: str
    left_out: tuple[LeftOut, ...]
    listing: str


@dataclass(slots=True)
class Proof:
    """A dump that is restored into the running `server` in two steps, so that its rows come while others are counted.

    `guard` is called all the while, and stops it by raising; `timeout` is that of each step, in seconds.
    """

    context: Context
    server: EmbeddedServer | Outer
    dump: Path
    setting: Setting
    timeout: float
    guard: Callable[[], None]
    listing: str = ""
    seconds: float = 0.0

    def prepare(self) -> None:
        """Make the databases that are not there yet: that needs no dump."""
        with self._session("postgres") as admin:
            there = {row["name"] for row in admin.rows("SELECT datname AS name FROM pg_database")}
            for database in (DATABASE, CRITICAL_DATABASE):
                name = str(conninfo_to_dict(self.server.dsn(database))["dbname"])
                if name not in there:
                    self._create(admin, name)

    def fill(self) -> None:
        """Restore tables and rows. Raises AlignError when that is impossible."""
        started = time.monotonic()
        self.prepare()
        self.listing = _listing(self.server, self.dump, self.timeout)
        with self._session(DATABASE) as session:
            statements = self.setting.outside.statements
            adapted = self.server.adapted(session, statements) if isinstance(self.server, Outer) else statements
            _execute(session, adapted)
            self._restore(self.setting.outside.left_out, "pre-data")
            _execute(session, self.setting.outside.suspensions)
            self._restore(self.setting.outside.left_out, "data")
        self.seconds += time.monotonic() - started

    def complete(self, expected: Sequence[Fingerprint], objects: Inventory) -> Proved:
        """Restore the rest and compare. `expected` are fingerprints over the columns that a dump carries.

        Raises AlignError when it is not what was expected.
        """
        started = time.monotonic()
        rows = {(item.table.schema, item.table.name): item.rows for item in expected}
        left_out = (
            *self.setting.outside.left_out,
            *(
                index.left_out
                for index in self.setting.outside.vector_indexes
                if rows.get(index.table, VECTOR_INDEX_ROWS) >= VECTOR_INDEX_ROWS
            ),
        )
        self._restore(left_out, "post-data")
        self.seconds += time.monotonic() - started
        with self._session(DATABASE) as session:
            self._compare_rows(session, expected)
            _compare_objects(session, self.setting.schemas, objects, left_out)
            return Proved(str(session.value("SHOW server_version")), left_out, without(self.listing, ()))

    def alone(self, script: Path, expected: Sequence[Fingerprint]) -> None:
        """Run `script` with psql in a database of its own and compare the rows. Raises AlignError."""
        ended = self._run("psql", CRITICAL_DATABASE, ["--no-psqlrc", "--quiet", f"--file={script}"])
        if ended.status:
            raise _broken(script.name, "a restore without any error", ended.said)
        with self._session(CRITICAL_DATABASE) as session:
            self._compare_rows(session, expected)

    def _compare_rows(self, session: Session, expected: Sequence[Fingerprint]) -> None:
        with session.transaction():
            for statement in _IN_PARALLEL if self.setting.jobs > 1 else ():
                session.execute(statement)
            _compare_rows(session, expected, self.guard)

    def _session(self, database: str) -> Session:
        return open_session(
            self.context,
            Target("scratch server", self.server.dsn(database)),
            read_only=False,
            statement_timeout=self.timeout,
        )

    def _run(self, program: str, database: str, arguments: Sequence[str]) -> Ended:
        """Run one of PostgreSQL's client programs on a database of the server."""
        tool = find_tool(self.server.bin / program)
        name = self.context.run.application_name(self.context.phase, program)
        with self._session(database) as session, credentials(session, name) as (conninfo, extra):
            tool = with_tls(tool) if session.connection.pgconn.ssl_in_use else tool
            arguments = ["--no-password", f"--dbname={conninfo}", *arguments]
            with Running(tool, arguments, timeout=self.timeout, extra=extra, guard=self.guard) as running:
                return running.wait()

    def _create(self, admin: Session, name: str) -> None:
        # Text is compared as the server stores it, so it must store it in the same encoding.
        utf8 = self.setting.encoding == "UTF8"
        admin.execute(
            sql.SQL("CREATE DATABASE {} TEMPLATE template0 ENCODING {} LOCALE 'C' {}").format(
                sql.Identifier(name),
                sql.Literal(self.setting.encoding),
                sql.SQL("LOCALE_PROVIDER builtin BUILTIN_LOCALE 'C.UTF-8'" if utf8 else ""),
            )
        )

    def _restore(self, left_out: Sequence[LeftOut], section: str) -> None:
        """Restore a section of the archive. Raises AlignError at the first error."""
        with tempfile.NamedTemporaryFile("wb", prefix="archon-align-", suffix=".list") as kept:
            kept.write(without(self.listing, left_out).encode(errors="surrogateescape"))
            kept.flush()
            arguments = [
                "--exit-on-error",
                "--no-tablespaces",
                "--no-publications",
                "--no-subscriptions",
                "--no-security-labels",
                f"--section={section}",
                f"--use-list={kept.name}",
                f"--jobs={self.setting.jobs}",
                str(self.dump),
            ]
            ended = self._run("pg_restore", DATABASE, arguments)
        if ended.status:
            raise _broken(self.dump.name, "a restore without any error", ended.said)


def _broken(what: str, expected: str, said: str) -> AlignError:
    found = first_error(said)
    if says_full(said):
        return disk_full(tempfile.gettempdir(), f"room for the server in which {what} is restored", found)
    return AlignError(
        "The backup was written but is not proved, so nothing may rely on it.",
        object_name=what,
        expected=expected,
        found=found,
        remedy="The dump is kept beside its manifest, marked unverified. Correct the cause named above and run again.",
        code="backup_not_proved",
    )


def _execute(session: Session, statements: Sequence[sql.Composable]) -> None:
    session.execute("SET check_function_bodies = off")
    for statement in statements:
        try:
            session.execute(statement)
        except psycopg.Error as error:
            raise _broken(
                statement.as_string(session.connection)[:200],
                "everything the dump leans on to be stood in for",
                " ".join(str(error).split()),
            ) from error


def _listing(server: EmbeddedServer | Outer, dump: Path, timeout: float) -> str:
    listing = subprocess.run(
        [server.bin / "pg_restore", "--list", dump],
        capture_output=True,
        timeout=timeout,
        check=False,
        stdin=subprocess.DEVNULL,
        env=environment(),
    )
    if listing.returncode:
        raise _broken(
            dump.name,
            f"an archive that pg_restore {server.version} can read",
            listing.stderr.decode(errors="replace"),
        )
    return listing.stdout.decode(errors="surrogateescape")


def _compare_rows(session: Session, expected: Sequence[Fingerprint], guard: Callable[[], None]) -> None:
    wrong = []
    for before in expected:
        guard()
        try:
            after = fingerprint(session, before.table, before.columns)
        except psycopg.Error as error:
            raise _broken(str(before.table), f"{before.rows} rows", " ".join(str(error).split())) from error
        if (after.rows, after.digest) != (before.rows, before.digest):
            wrong.append((before, after))
    if wrong:
        raise _broken(
            ", ".join(str(before.table) for before, _ in wrong[:5]),
            "; ".join(f"{before.rows} rows, fingerprint {before.digest}" for before, _ in wrong[:5]),
            "; ".join(f"{after.rows} rows, fingerprint {after.digest}" for _, after in wrong[:5]),
        )


def _compare_objects(session: Session, schemas: Sequence[str], objects: Inventory, left_out: Sequence[LeftOut]) -> None:
    skipped = {(prefix + item.kind, item.name) for prefix in ("", "comment on ") for item in left_out}
    wanted: Mapping[tuple[str, str], str] = {item: detail for item, detail in objects.items() if item not in skipped}
    found = differences(wanted, inventory(session, schemas))
    if found:
        raise _broken(
            f"{len(found)} objects of the schemas",
            "every object, column, comment and grant as in the database that was dumped",
            "; ".join(found[:5]),
        )
