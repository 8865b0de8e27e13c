"""Running pg_restore and psql into a database: all in one transaction, except where several connections share the work."""

from __future__ import annotations

import os
import re
import subprocess
import tempfile
import threading
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from ..database.session import Session
from ..embedded.server import EmbeddedServer
from ..errors import AlignError
from . import stored
from .contents import without
from .outside import LeftOut
from .tools import Ended, Running, Tool, credentials, environment, find_tool, first_error, with_tls

# Servers before it do not know a setting that pg_restore sends to any; for them it is taken out of the script.
FIRST_WITH_TRANSACTION_TIMEOUT = 17
# The variable that bounds a restore, for words.
LIMIT = "restore_timeout"
_SETTING = b"SET transaction_timeout = 0;\n"
_HEAD_BYTES = 65536
_ENTRY = re.compile(r"\d+; \d+ \d+ (?P<rest>.*)", re.DOTALL)
_OPTIONS = ("--exit-on-error", "--no-tablespaces", "--no-publications", "--no-subscriptions", "--no-security-labels")


def client(pg_dump: str, name: str) -> Tool:
    """pg_restore or psql: the one beside the chosen pg_dump where there is one, the bundled one otherwise."""
    beside = Path(pg_dump).with_name(name) if pg_dump else None
    if beside is not None and beside.exists():
        return find_tool(beside)
    # Only its programs are wanted: no server is started, and the folder names none.
    return find_tool(EmbeddedServer(Path(tempfile.gettempdir())).bin / name)


def able(session: Session, tool: Tool) -> Tool:
    """`tool` able to connect as `session` is connected. Raises AlignError when TLS is needed and it has none."""
    return with_tls(tool) if session.connection.pgconn.ssl_in_use else tool


def listing(tool: Tool, archive: Path, timeout: float) -> str:
    """pg_restore's list of the archive. Raises AlignError when it cannot read it."""
    result = subprocess.run(
        [tool.path, "--list", archive],
        capture_output=True,
        timeout=timeout,
        check=False,
        stdin=subprocess.DEVNULL,
        env=environment(tool.environment),
    )
    if result.returncode:
        said = first_error(result.stderr.decode(errors="replace"))
        raise stored.unusable(archive, f"an archive that pg_restore {tool.version} can read", said)
    return result.stdout.decode(errors="surrogateescape")


def restorable(
    entries: str,
    left_out: Collection[LeftOut],
    schemas: Mapping[str, str],
    present: Mapping[str, bool],
    acts_for: Collection[str] | None,
) -> tuple[str, list[str]]:
    """The list for --use-list, and what of it this role may not restore.

    `schemas` maps names to owners; those that are `present` are not made, and when they are somebody else's their grants
    and comments stay as they are there. So do default privileges of roles not in `acts_for` (None: any).
    """
    foreign = {
        f"{kind} - SCHEMA {name} {schemas[name]}"
        for name, owned in present.items()
        for kind in ("ACL", "COMMENT")
        if not owned
    }
    made = without(entries, left_out, {name: owner for name, owner in schemas.items() if name in present})
    kept, refused = [], []
    for line in made.splitlines():
        entry = _ENTRY.match(line)
        rest = entry["rest"] if entry is not None else ""
        default = rest.startswith("DEFAULT ACL ") and acts_for is not None
        if rest in foreign or (default and not any(rest.endswith(f" {role}") for role in acts_for or ())):
            refused.append(rest)
        else:
            kept.append(line)
    return "\n".join(kept) + "\n", refused


def load(session: Session, tool: Tool, psql: Tool, archive: Path, kept: str, *, jobs: int, timeout: float) -> Ended:
    """Restore the entries `kept` of the archive into the session's database. With one job that is one transaction."""
    name = session.context.run.application_name(session.phase, "pg_restore")
    with tempfile.TemporaryDirectory(prefix="archon-align-") as folder, credentials(session, name) as (conninfo, extra):
        use_list = Path(folder) / "restore.list"
        use_list.write_bytes(kept.encode(errors="surrogateescape"))
        common = [*_OPTIONS, f"--use-list={use_list}"]
        if session.connection.info.server_version // 10000 < FIRST_WITH_TRANSACTION_TIMEOUT:
            return _piped(
                tool, psql, [*common, "--file=-", str(archive)], conninfo, extra, Path(folder) / "script", timeout
            )
        how = ["--single-transaction"] if jobs == 1 else [f"--jobs={jobs}"]
        arguments = [*common, *how, "--no-password", f"--dbname={conninfo}", str(archive)]
        with Running(tool, arguments, timeout=timeout, extra=extra, limit=LIMIT) as running:
            return running.wait()


def load_script(session: Session, psql: Tool, script: Path, *, timeout: float) -> Ended:
    """Run a script that is one transaction of its own."""
    name = session.context.run.application_name(session.phase, "psql")
    with credentials(session, name) as (conninfo, extra):
        return _psql(psql, script, conninfo, extra, timeout)


def _psql(psql: Tool, script: Path, conninfo: str, extra: dict[str, str], timeout: float) -> Ended:
    arguments = [
        "--no-psqlrc",
        "--quiet",
        "--no-password",
        "--set=ON_ERROR_STOP=1",
        f"--file={script}",
        f"--dbname={conninfo}",
    ]
    with Running(psql, arguments, timeout=timeout, extra=extra, limit=LIMIT) as running:
        return running.wait()


def _piped(
    tool: Tool, psql: Tool, arguments: Sequence[str], conninfo: str, extra: dict[str, str], script: Path, timeout: float
) -> Ended:
    """pg_restore's script through psql, as one transaction that is committed only when the script was whole."""
    os.mkfifo(script, 0o600)
    made: list[Ended] = []

    def feed() -> None:
        source, sink = os.pipe()
        try:
            with (
                os.fdopen(source, "rb", buffering=0) as out,
                os.fdopen(sink, "wb") as output,
                Running(tool, arguments, timeout=timeout, output=output, limit=LIMIT) as running,
            ):
                output.close()
                # Opening waits for psql to open its end; once that is closed, writing fails.
                with script.open("wb", buffering=0) as into:
                    into.write(b"BEGIN;\n")
                    head = b""
                    while len(head) < _HEAD_BYTES and (part := out.read(_HEAD_BYTES)):
                        head += part
                    into.write(head.replace(_SETTING, b"", 1))
                    while part := out.read(1 << 18):
                        into.write(part)
                    made.append(running.wait())
                    if made[0].status == 0:
                        into.write(b"COMMIT;\n")
        except (OSError, AlignError) as error:
            made.append(Ended(1, str(error)))

    feeder = threading.Thread(target=feed, daemon=True)
    feeder.start()
    try:
        loaded = _psql(psql, script, conninfo, extra, timeout)
    finally:
        # A psql that never opened the script leaves the feeder waiting for a reader.
        with suppress(OSError):
            os.close(os.open(script, os.O_RDONLY | os.O_NONBLOCK))
        feeder.join(timeout)
    return loaded if loaded.status or not made or made[0].status == 0 else made[0]
