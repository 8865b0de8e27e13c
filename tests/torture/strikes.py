"""How each kind of fault is done and undone."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from typing import Any

import httpx
import psutil
import psycopg
from archon_align.errors import AlignError
from psycopg import sql

from lab import service_process
from lab.state import StateFolder

from .faults import Fault
from .scene import Disk, Missed, Playing, Site, is_alive

Strike = Callable[[Playing, Fault], AbstractContextManager[str]]
_LOCKED_TABLES = (
    "archon_tasks",
    "archon_projects",
    "archon_document_versions",
    "archon_crawled_pages",
    "archon_settings",
)
_STRONG = ("ACCESS EXCLUSIVE", "EXCLUSIVE")
_SHARED = ("ACCESS SHARE", "ROW EXCLUSIVE", "SHARE ROW EXCLUSIVE")


def undone(strike: Callable[[Playing, Fault], str]) -> Strike:
    """A strike that leaves nothing to undo."""

    @contextmanager
    def strike_once(playing: Playing, fault: Fault) -> Iterator[str]:
        yield strike(playing, fault)

    return strike_once


def pick(found: Sequence[Any], choice: float) -> Any:
    return found[min(int(choice * len(found)), len(found) - 1)]


def command(process: psutil.Process) -> list[str]:
    try:
        return list(process.cmdline())
    except psutil.Error:
        return []


def kill_playbook(playing: Playing, _fault: Fault) -> str:
    playing.process.kill()
    return "SIGKILL"


def interrupt_playbook(playing: Playing, fault: Fault) -> str:
    name = pick(("SIGINT", "SIGTERM"), fault.choice)
    playing.interrupt(name)
    return str(name)


def _victim(playing: Playing, wanted: Callable[[psutil.Process, list[str]], bool], fault: Fault) -> psutil.Process:
    """A process below the playbook, waited for if there is none just now."""
    playbook = psutil.Process(playing.process.pid)
    own = command(playbook)
    while not playing.over.is_set():
        with contextlib.suppress(psutil.Error):
            found = [child for child in playbook.children(recursive=True) if is_alive(child) and wanted(child, own)]
            if found:
                return pick(found, fault.choice)  # type: ignore[no-any-return]
        time.sleep(0.02)
    raise Missed


def kill_worker(playing: Playing, fault: Fault) -> str:
    victim = _victim(playing, lambda process, own: command(process) == own, fault)
    victim.kill()
    return "SIGKILL to a fork of ansible-playbook"


def kill_module(playing: Playing, fault: Fault) -> str:
    def is_module(process: psutil.Process, own: list[str]) -> bool:
        line = command(process)
        return bool(line) and line != own and not line[0].endswith("sh") and "archon_align.keeper" not in line

    victim = _victim(playing, is_module, fault)
    line = " ".join(command(victim))
    victim.kill()
    return f"SIGKILL to {line.rsplit('/', 1)[-1][:60]}"


def kill_keeper(playing: Playing, _fault: Fault) -> str:
    while not playing.over.is_set():
        keepers = [process for process in playing.site.processes() if "archon_align.keeper" in command(process)]
        if keepers:
            for keeper in keepers:
                keeper.kill()
            return "SIGKILL"
        time.sleep(0.1)
    raise Missed


def _terminate(world: str) -> Callable[[Playing, Fault], str]:
    def strike(playing: Playing, _fault: Fault) -> str:
        query = "SELECT application_name, pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name LIKE 'align %'"
        with playing.site.superuser(world) as connection:
            while not playing.over.is_set():
                found = connection.execute(query).fetchall()
                if any("align keeper" not in name for name, _ in found) or (found and world == "dev"):
                    return f"{len(found)} sessions"
                time.sleep(0.02)
        raise Missed

    return strike


def start_server(site: Site, world: str) -> None:
    """Start a server that was stopped, on the port it had."""
    server = site.server(world)
    settings = (server.data / "postgresql.auto.conf").read_text()
    known = dict(line.split(" = ", 1) for line in settings.splitlines() if " = " in line)
    server.settings = {**server.settings, **{name: known[name].strip("'") for name in ("listen_addresses", "port")}}
    for attempt in range(120):
        try:
            server.start()
            return
        except AlignError:
            # What the killed server left (its children, its shared memory) may still be ending.
            if attempt == 119:
                raise
            time.sleep(0.5)


def _stop_server(world: str) -> Strike:
    @contextmanager
    def strike(playing: Playing, _fault: Fault) -> Iterator[str]:
        pid = playing.site.server(world).pid()
        if pid is None:
            raise Missed
        os.kill(pid, signal.SIGQUIT)
        try:
            while playing.site.server(world).pid() is not None:
                time.sleep(0.02)
            yield "SIGQUIT"
        finally:
            start_server(playing.site, world)

    return strike


def _service_url(site: Site) -> str:
    return site.lab.embedding_base_url.removesuffix("/v1") + "/_lab/faults"


def heal_service(site: Site) -> None:
    """Let the service be there and healthy, on the port it had."""
    files = StateFolder(site.folder / "lab")
    state = files.read()
    assert state is not None
    record = service_process.claim(files.path, state.embedding).complete()
    if record != state.embedding:
        files.write(replace(state, embedding=record))
    httpx.delete(_service_url(site), timeout=60, trust_env=False)


@contextmanager
def kill_service(playing: Playing, _fault: Fault) -> Iterator[str]:
    state = StateFolder(playing.site.folder / "lab").read()
    assert state is not None
    with contextlib.suppress(ProcessLookupError):
        os.kill(state.embedding.pid, signal.SIGKILL)
    try:
        yield "SIGKILL"
    finally:
        heal_service(playing.site)


def _spoil_service(**faults: object) -> Strike:
    @contextmanager
    def strike(playing: Playing, _fault: Fault) -> Iterator[str]:
        try:
            httpx.put(_service_url(playing.site), json=faults, timeout=60, trust_env=False)
        except httpx.HTTPError as error:
            raise Missed from error  # another fault has killed it
        try:
            yield ", ".join(f"{name}={value}" for name, value in faults.items())
        finally:
            heal_service(playing.site)

    return strike


def _limit_files(processes: Sequence[psutil.Process], limit: int) -> None:
    """Files of these processes may grow no larger. The hard limit stays, for it could not be raised again. Raises Missed on a
    platform that cannot change another process's limits."""
    if not hasattr(psutil.Process, "rlimit"):
        raise Missed
    for process in processes:
        with contextlib.suppress(psutil.Error, OSError):
            hard = process.rlimit(psutil.RLIMIT_FSIZE)[1]
            process.rlimit(psutil.RLIMIT_FSIZE, (limit, hard))


@contextmanager
def _filled(disk: Disk, kilobytes: int) -> Iterator[str]:
    """Only so much is left on the disk, until the block ends."""
    disk.leave(kilobytes)
    try:
        yield f"{kilobytes} kB left"
    finally:
        disk.enlarge()


@contextmanager
def fill_artifacts(playing: Playing, fault: Fault) -> Iterator[str]:
    disk = playing.site.artifacts
    kilobytes = int(10 ** (fault.choice * 3.5))
    if disk.mounted:
        with _filled(disk, kilobytes) as told:
            yield told
    else:
        playbook = psutil.Process(playing.process.pid)
        _limit_files([playbook, *playbook.children(recursive=True)], kilobytes * 1024)
        yield f"files limited to {kilobytes} kB"


@contextmanager
def fill_server(playing: Playing, fault: Fault) -> Iterator[str]:
    disk = playing.site.server_disk
    kilobytes = int(10 ** (fault.choice * 2.5))
    if disk.mounted:
        try:
            with _filled(disk, kilobytes) as told:
                yield told
        finally:
            if playing.site.server("prod").pid() is None:
                start_server(playing.site, "prod")
        return
    with playing.site.superuser("prod") as connection:
        pids = connection.execute("SELECT pid FROM pg_stat_activity WHERE application_name LIKE 'align %'").fetchall()
    backends = []
    for (pid,) in pids:
        with contextlib.suppress(psutil.Error):
            backends.append(psutil.Process(pid))
    _limit_files(backends, kilobytes * 1024)
    yield f"files of {len(backends)} server processes limited to {kilobytes} kB"
    # A server that met the limit in its log has restarted by itself.


def _hold_lock(modes: Sequence[str]) -> Strike:
    @contextmanager
    def strike(playing: Playing, fault: Fault) -> Iterator[str]:
        table = pick(_LOCKED_TABLES, fault.choice)
        mode = pick(modes, fault.choice * 7 % 1)
        statement = sql.SQL("LOCK TABLE {} IN {} MODE").format(sql.Identifier(table), sql.SQL(mode))
        try:
            holder = playing.site.superuser("prod")
            holder.execute("BEGIN")
            holder.execute(statement)
        except psycopg.OperationalError as error:
            raise Missed from error  # another fault has stopped the server
        try:
            yield f"{mode} on {table}"
        finally:
            holder.close()

    return strike


STRIKES: dict[str, Strike] = {
    "kill playbook": undone(kill_playbook),
    "kill module": undone(kill_module),
    "kill worker": undone(kill_worker),
    "kill keeper": undone(kill_keeper),
    "interrupt playbook": undone(interrupt_playbook),
    "terminate prod": undone(_terminate("prod")),
    "terminate dev": undone(_terminate("dev")),
    "stop prod": _stop_server("prod"),
    "stop dev": _stop_server("dev"),
    "service killed": kill_service,
    "service hangs": _spoil_service(hang=True),
    "service 500": _spoil_service(status=500),
    "service 503": _spoil_service(status=503),
    "service garbage": _spoil_service(malformed=True),
    "service dimension": _spoil_service(dimension=384),
    "service nan": _spoil_service(bad_vector="nan"),
    "disk artifacts": fill_artifacts,
    "disk server": fill_server,
    "lock exclusive": _hold_lock(_STRONG),
    "lock shared": _hold_lock(_SHARED),
}


@contextmanager
def under(playing: Playing, fault: Fault) -> Iterator[str]:
    """The fault in force. Raises Missed."""
    try:
        with STRIKES[fault.kind](playing, fault) as what:
            yield what
    except (psutil.NoSuchProcess, ProcessLookupError) as error:
        raise Missed from error
