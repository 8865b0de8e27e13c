"""Where a round takes place: a lab of its own with small file systems where that is possible, and the run that is going on."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import psycopg
from archon_align.embedded.server import EmbeddedServer

from lab.databases import DATABASE
from lab.world import Lab

from .faults import MARKS, Moment

ROOT = Path(__file__).resolve().parents[2]
FOLDER_VARIABLE = "ARCHON_LAB_FOLDER"
RUN_SECONDS = 1500  # a run that takes longer hangs
_DISK = "2g"
_SHELF = Path("/var/tmp/archon-align-root")  # noqa: S108 - where embedded servers of root live


class Stopped(Exception):
    """The harness was told to stop."""


class Missed(Exception):
    """The moment of a fault never came."""


@dataclass
class Disk:
    """A folder with a file system of its own, whose size can be changed (root only)."""

    folder: Path
    mounted: bool = False

    def mount(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        command = ["mount", "-t", "tmpfs", "-o", f"size={_DISK},mode=0700", "tmpfs", str(self.folder)]
        self.mounted = os.geteuid() == 0 and subprocess.run(command, capture_output=True, check=False).returncode == 0

    def leave(self, kilobytes: int) -> None:
        """Let the file system have so much room and no more."""
        found = os.statvfs(self.folder)
        used = (found.f_blocks - found.f_bfree) * found.f_frsize // 1024
        self._size(f"{used + kilobytes}k")

    def enlarge(self) -> None:
        self._size(_DISK)

    def _size(self, size: str) -> None:
        subprocess.run(["mount", "-o", f"remount,size={size}", str(self.folder)], capture_output=True, check=True)

    def unmount(self) -> None:
        if self.mounted:
            subprocess.run(["umount", "-l", str(self.folder)], capture_output=True, check=False)
            self.mounted = False


@dataclass
class Site:
    """One lab with folders for artifacts and temporary files, used for one round after another."""

    folder: Path
    stop: threading.Event
    lab: Lab = field(init=False)
    artifacts: Disk = field(init=False)
    server_disk: Disk = field(init=False)
    _dsn: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        # As root the scratch server runs as nobody, who must be able to pass.
        self.folder.mkdir(mode=0o711, parents=True)
        self.temporary.mkdir(mode=0o711)
        self.lab = Lab(self.folder / "lab", archon=False)
        self.artifacts = Disk(self.folder / "artifacts")
        self.server_disk = Disk(self.server("prod").data.parent)

    @property
    def temporary(self) -> Path:
        return self.folder / "tmp"

    def server(self, world: str) -> EmbeddedServer:
        return EmbeddedServer(self.folder / "lab" / world)

    def up(self) -> None:
        self.artifacts.mount()
        if os.geteuid() == 0:
            self.server_disk.mount()
        self.lab.up()
        self._dsn = {world: self.lab.dsn(world) for world in ("dev", "prod")}

    def dsn(self, world: str) -> str:
        """The owner's DSN, also while the server is stopped: it comes back on the same port."""
        return self._dsn[world]

    def remove(self) -> None:
        """Stop the lab and remove all of it."""
        with contextlib.suppress(Exception):
            self.end_processes()
        with contextlib.suppress(Exception):
            self.lab.remove()
        self.artifacts.unmount()
        self.server_disk.unmount()
        subprocess.run(["rm", "-rf", str(self.folder)], check=False)
        if os.geteuid() == 0:
            for world in ("dev", "prod"):
                subprocess.run(["rm", "-rf", str(self.server(world).data.parent)], check=False)

    def keep(self) -> None:
        """Stop everything and leave the files for whoever looks into a failure."""
        self.end_processes()
        if self.artifacts.mounted:
            subprocess.run(["cp", "-a", str(self.artifacts.folder), str(self.folder / "kept-artifacts")], check=False)
        if self.server_disk.mounted:
            log = self.server("prod").log
            subprocess.run(["cp", "-a", str(log), str(self.folder / "prod-server.log")], check=False)
        with contextlib.suppress(Exception):
            self.lab.down()
        self.artifacts.unmount()
        if not self.server_disk.mounted:
            return
        self.server_disk.unmount()

    def superuser(self, world: str, database: str = DATABASE) -> psycopg.Connection:
        port = self.dsn(world).rsplit(":", 1)[1].split("/", 1)[0]
        return psycopg.connect(
            f"{self.server(world).dsn(database)} port={port} connect_timeout=60",
            autocommit=True,
            application_name="torture",
        )

    def processes(self) -> list[psutil.Process]:
        """Every process of a run on this lab, whoever its parent is by now."""
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error, OSError):
                if process.environ().get(FOLDER_VARIABLE) == str(self.folder / "lab"):
                    found.append(process)
        return [process for process in found if is_alive(process)]

    def scratch(self) -> tuple[list[psutil.Process], list[Path]]:
        """Processes and folders of a run's scratch servers. As root such a server runs as nobody in another place, and is known
        by its socket folder among the run's temporary files."""
        keys = [path.name.removeprefix("archon-align-") for path in self.temporary.glob("archon-align-*")]
        places = [str(self.temporary), *(f"{_SHELF}/{key}" for key in keys)]
        processes = []
        for process in psutil.process_iter(["cmdline"]):
            line = " ".join(process.info["cmdline"] or [])
            if any(place in line for place in places) and is_alive(process):
                processes.append(process)
        folders = [_SHELF / key for key in keys] if os.geteuid() == 0 else []
        return processes, [folder for folder in folders if folder.exists()]

    def end_processes(self) -> None:
        """End whatever belongs to a run on this lab, with the scratch servers."""
        processes, folders = self.scratch()
        for process in (*self.processes(), *processes):
            with contextlib.suppress(psutil.Error):
                process.kill()
        for folder in folders:
            shutil.rmtree(folder, ignore_errors=True)


def is_alive(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


class Playing:
    """One ansible-playbook on a site, its output in a file, and which of the marks it has passed."""

    def __init__(self, site: Site, log: Path, *arguments: str) -> None:
        self.site = site
        self.log = log
        self.over = threading.Event()
        self._passed = {mark: threading.Event() for mark in MARKS}
        environment = os.environ | {
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"),
            "ANSIBLE_FORCE_COLOR": "0",
            "ANSIBLE_DISPLAY_SKIPPED_HOSTS": "1",  # or a task is announced when it ends instead of when it begins
            "TMPDIR": str(site.temporary),
            FOLDER_VARIABLE: str(site.folder / "lab"),
        }
        command = [
            "ansible-playbook",
            "-i",
            "inventory/lab",
            "align.yml",
            "-e",
            f"archon_artifacts_root={site.artifacts.folder}",
            "-e",
            "archon_embedding_timeout=6",
            *arguments,
        ]
        self.started = time.monotonic()
        self.process = subprocess.Popen(
            command,
            cwd=ROOT,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        with self.log.open("w") as log:
            for line in self.process.stdout:
                log.write(line)
                log.flush()
                if line.startswith("TASK ["):
                    for mark, banner in MARKS.items():
                        if banner in line:
                            self._passed[mark].set()

    def finish(self) -> tuple[int | None, float]:
        """Wait for its end: exit status (None: it hung and was killed) and seconds."""
        deadline = self.started + RUN_SECONDS
        while self.process.poll() is None and time.monotonic() < deadline and not self.site.stop.is_set():
            time.sleep(0.05)
        code = self.process.poll()
        if code is None:
            self.process.kill()
            self.process.wait()
        self.over.set()
        # An orphan may hold the pipe open; what it says then is of no interest.
        self._reader.join(1.0)
        if self.site.stop.is_set():
            raise Stopped
        return code, time.monotonic() - self.started

    @property
    def output(self) -> str:
        return self.log.read_text(errors="replace")

    def await_moment(self, moment: Moment) -> None:
        """Raises Missed when the run ends before."""
        if moment.kind == "transaction":
            self._await_write(moment.where)
        else:
            self.await_mark(moment.where)
        self.pause(moment.delay)
        self._still_on()

    def await_mark(self, mark: str) -> None:
        """Wait until a task begins. Raises Missed when the run ends before."""
        while not self._passed[mark].wait(0.02):
            self._still_on()

    def _still_on(self) -> None:
        if self.over.is_set():
            raise Missed

    def pause(self, seconds: float) -> None:
        """Wait, but not beyond the end of the run."""
        self.over.wait(seconds)

    def _await_write(self, phase: str) -> None:
        query = "SELECT true FROM pg_stat_activity WHERE application_name LIKE %s AND backend_xid IS NOT NULL AND datname = %s LIMIT 1"
        with self._asking() as ask:
            while not ask(query, (f"align {phase} %", DATABASE)):
                self._still_on()
                time.sleep(0.01)

    @contextlib.contextmanager
    def _asking(self) -> Iterator[Callable[[str, tuple[object, ...]], bool]]:
        with self.site.superuser("prod", "postgres") as connection:

            def ask(query: str, values: tuple[object, ...]) -> bool:
                try:
                    return connection.execute(query.encode(), values).fetchone() is not None
                except psycopg.OperationalError as error:
                    raise Missed from error  # another fault has stopped the server

            yield ask

    def interrupt(self, name: str) -> None:
        os.killpg(self.process.pid, signal.Signals[name])
