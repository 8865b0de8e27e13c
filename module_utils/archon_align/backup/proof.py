"""The proof of a backup: restored into a private server of our own, every row and every object compared."""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import psycopg
from psycopg import sql

from ..context import Context
from ..database.session import Session, open_session
from ..database.target import Target
from ..embedded.server import EmbeddedServer
from ..errors import AlignError
from ..preservation.fingerprint import Fingerprint, fingerprint
from .contents import without
from .inventory import Inventory, differences, inventory
from .outside import LeftOut, Outside
from .tools import Running, environment, find_tool, first_error

DATABASE = "backup"
PARALLEL_BYTES = 64 * 2**20
VECTOR_INDEX_ROWS = 20_000
_SETTINGS = {
    "autovacuum": "off",
    "wal_level": "minimal",
    "max_wal_senders": "0",
    "maintenance_work_mem": "256MB",
    "synchronous_commit": "off",
}


@dataclass(frozen=True, slots=True)
class Expected:
    """What a restore must bring back: `fingerprints` over the columns that a dump carries, and every object."""

    fingerprints: tuple[Fingerprint, ...]
    objects: Inventory
    outside: Outside
    schemas: tuple[str, ...]
    encoding: str
    table_bytes: int


@dataclass(frozen=True, slots=True)
class Proved:
    """What proved a backup. `left_out` is what it holds and the proof did not restore.

    `listing` is pg_restore's list of the whole archive without the schemas themselves, for a restore into a database.
    """

    server: str
    left_out: tuple[LeftOut, ...]
    listing: str


class Scratch:
    """A private server that comes up in the background once it is begun, and is gone after the `with` block."""

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="archon-align-scratch-")
        self._server = EmbeddedServer(Path(self._folder.name) / "server", settings=_SETTINGS)
        self._pool = ThreadPoolExecutor(1)
        self._start: Future[None] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown()
        self._server.remove()
        self._folder.cleanup()

    @property
    def data(self) -> Path:
        """Where its files are, or will be."""
        return self._server.data

    @property
    def bin(self) -> Path:
        """The folder with its client programs."""
        return self._server.bin

    def begin(self) -> None:
        """Start the server without waiting for it; once is enough."""
        self._start = self._start or self._pool.submit(self._server.start)

    def server(self) -> EmbeddedServer:
        """The running server. Raises AlignError when it did not come up."""
        self.begin()
        assert self._start is not None
        self._start.result()
        return self._server


def prove(context: Context, server: EmbeddedServer, dump: Path, expected: Expected, *, timeout: float) -> Proved:
    """Restore `dump` into the running `server` and compare. Raises AlignError when it is not what was expected."""
    rows = {(item.table.schema, item.table.name): item.rows for item in expected.fingerprints}
    left_out = (
        *expected.outside.left_out,
        *(
            index.left_out
            for index in expected.outside.vector_indexes
            if rows.get(index.table, VECTOR_INDEX_ROWS) >= VECTOR_INDEX_ROWS
        ),
    )
    with _session(context, server, timeout, "postgres") as admin:
        # Text is compared as the server stores it, so it must store it in the same encoding.
        admin.execute(
            sql.SQL("CREATE DATABASE {} TEMPLATE template0 ENCODING {} LOCALE 'C' {}").format(
                sql.Identifier(DATABASE),
                sql.Literal(expected.encoding),
                sql.SQL("LOCALE_PROVIDER builtin BUILTIN_LOCALE 'C.UTF-8'" if expected.encoding == "UTF8" else ""),
            )
        )
    with _session(context, server, timeout, DATABASE) as session:
        _execute(session, expected.outside.statements)
        listing = _listing(server, dump, timeout)
        archive = _Archive(server, dump, without(listing, left_out), _jobs(expected.table_bytes), timeout)
        archive.restore("pre-data")
        _execute(session, expected.outside.suspensions)
        archive.restore("data", "post-data")
        _compare_rows(session, expected.fingerprints)
        _compare_objects(session, expected, left_out)
        return Proved(str(session.value("SHOW server_version")), left_out, without(listing, ()))


def _session(context: Context, server: EmbeddedServer, timeout: float, database: str) -> Session:
    return open_session(
        context, Target("scratch server", server.dsn(database)), read_only=False, statement_timeout=timeout
    )


def _broken(what: str, expected: str, found: str) -> AlignError:
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


def _listing(server: EmbeddedServer, dump: Path, timeout: float) -> str:
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
            str(dump),
            f"an archive that pg_restore {server.version} can read",
            first_error(listing.stderr.decode(errors="replace")),
        )
    return listing.stdout.decode(errors="surrogateescape")


def _jobs(table_bytes: int) -> int:
    return min(4, os.cpu_count() or 1) if table_bytes > PARALLEL_BYTES else 1


@dataclass(frozen=True, slots=True)
class _Archive:
    """A dump and which of its entries are restored."""

    server: EmbeddedServer
    dump: Path
    kept: str
    jobs: int
    timeout: float

    def restore(self, *sections: str) -> None:
        """Restore sections of the archive. Raises AlignError at the first error."""
        with tempfile.NamedTemporaryFile("wb", prefix="archon-align-", suffix=".list") as kept:
            kept.write(self.kept.encode(errors="surrogateescape"))
            kept.flush()
            arguments = [
                "--exit-on-error",
                "--no-tablespaces",
                "--no-publications",
                "--no-subscriptions",
                "--no-security-labels",
                *(f"--section={section}" for section in sections),
                f"--use-list={kept.name}",
                f"--jobs={self.jobs}",
                f"--dbname={self.server.dsn(DATABASE)}",
                str(self.dump),
            ]
            with Running(find_tool(self.server.bin / "pg_restore"), arguments, timeout=self.timeout) as running:
                ended = running.wait()
        if ended.status:
            raise _broken(str(self.dump), "a restore without any error", first_error(ended.said))


def _compare_rows(session: Session, expected: Sequence[Fingerprint]) -> None:
    wrong = []
    for before in expected:
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


def _compare_objects(session: Session, expected: Expected, left_out: Sequence[LeftOut]) -> None:
    skipped = {(prefix + item.kind, item.name) for prefix in ("", "comment on ") for item in left_out}
    wanted: Mapping[tuple[str, str], str] = {
        item: detail for item, detail in expected.objects.items() if item not in skipped
    }
    found = differences(wanted, inventory(session, expected.schemas))
    if found:
        raise _broken(
            f"{len(found)} objects of the schemas",
            "every object, column, comment and grant as in the database that was dumped",
            "; ".join(found[:5]),
        )
