"""What a scenario's own driver needs: runs of ansible-playbook, and what the databases say by their own psql and pg_dump.

Drivers are run by their scenario with PYTHONPATH naming this folder and SCENARIO naming the scenario; they share no code with
archon-align. All limits are for what hangs: a driver waits for conditions.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

PROJECT = Path(os.environ["MOLECULE_PROJECT_DIRECTORY"])
FOLDER = Path(os.environ["MOLECULE_EPHEMERAL_DIRECTORY"]) / "scenarios"
INSTANCE = os.environ.get("ARCHON_SCENARIOS_INSTANCE") or "0"
SCENARIO = os.environ.get("SCENARIO", "default")
PREFIX = f"archon-align-{INSTANCE}"
NET = f"198.18.{100 + int(INSTANCE)}"
NUMBERS = {"dev-db": 10, "prod-db": 11, "embedding": 12}
DATABASE = "archon"
PROTECTED = ("archon_projects", "archon_tasks", "archon_document_versions", "archon_project_sources")
LIMIT = 300.0
PAUSE = 0.2
_OBJECT = re.compile(r"^-- (?:Data for )?Name: (?P<name>.*); Type: (?P<type>[^;]*);", re.MULTILINE)
# What a run that is over must not have left in a database.
_LEFT = """
SELECT 'session ' || application_name || ' ' || coalesce(state, '') FROM pg_stat_activity
  WHERE application_name LIKE 'align %' OR (application_name LIKE 'pg_%' AND backend_type = 'client backend')
UNION ALL SELECT 'advisory lock of ' || pid FROM pg_locks WHERE locktype = 'advisory'
UNION ALL SELECT 'lock on ' || relation::regclass || ' of ' || pid FROM pg_locks JOIN pg_class c ON c.oid = relation
  WHERE c.relname LIKE 'archon%' AND mode LIKE '%Exclusive%'
UNION ALL SELECT 'prepared transaction ' || gid FROM pg_prepared_xacts
UNION ALL SELECT 'temporary ' || relname FROM pg_class WHERE relpersistence = 't'
UNION ALL SELECT 'invalid index ' || indexrelid::regclass FROM pg_index WHERE NOT indisvalid OR NOT indisready OR NOT indislive
UNION ALL SELECT 'database ' || datname FROM pg_database WHERE datname NOT IN ('postgres', 'template0', 'template1', 'archon')
"""


class Wrong(Exception):
    """What a scenario expects is not so; the words say what is."""


def podman(*arguments: str, words: str | None = None, check: bool = True) -> str:
    """The answer of podman. Raises Wrong with what it complains of."""
    done = subprocess.run(
        ["podman", *arguments], input=words, capture_output=True, text=True, timeout=LIMIT, check=False
    )
    if check and done.returncode:
        raise Wrong(f"podman {' '.join(arguments[:3])} fails: {done.stderr.strip()[-400:]}")
    return done.stdout


def inside(host: str, *command: str, check: bool = True) -> str:
    """A command in a container, as root and with all that root can do."""
    return podman("exec", "--privileged", f"{PREFIX}-{host}", *command, check=check)


def psql(statements: str, host: str = "prod-db", *, check: bool = True) -> str:
    """What the server's own psql answers its superuser, who does not come over the network."""
    command = ("exec", "--interactive", "--user=postgres", f"{PREFIX}-{host}", "psql", "-AtXq")
    return podman(*command, "--set=ON_ERROR_STOP=1", f"--dbname={DATABASE}", words=statements, check=check).strip()


def wait(what: str, so: Callable[[], object], *, found: Callable[[], str] = str) -> None:
    """Until it is so. Raises Wrong with what is found instead."""
    deadline = time.monotonic() + LIMIT
    while not so():
        if time.monotonic() > deadline:
            raise Wrong(f"not so after {LIMIT:.0f} s: {what}. {found()}")
        time.sleep(PAUSE)


@contextmanager
def service(**faults: object) -> Iterator[Callable[..., None]]:
    """The embedding service misbehaves until the block ends; what is given makes it misbehave otherwise from then on."""
    address = f"http://{NET}.{NUMBERS['embedding']}:11434/_lab/faults"

    def put(**other: object) -> None:
        httpx.put(address, json=other, timeout=LIMIT, trust_env=False).raise_for_status()

    put(**faults)
    try:
        yield put
    finally:
        put()


def protected_rows() -> Callable[[], str]:
    """Every row of PROD's protected tables as text, in the columns that they have now: a run may add some."""
    names = ", ".join(f"('{table}')" for table in PROTECTED)
    statements = psql(
        "SELECT format('SELECT (%s)::text FROM public.%I ORDER BY 1;', string_agg(quote_ident(attname), ', ' ORDER BY attnum), relname)"
        f" FROM (VALUES {names}) t (relname) JOIN pg_attribute ON attrelid = relname::regclass"
        " WHERE attnum > 0 AND NOT attisdropped GROUP BY relname ORDER BY relname"
    )
    return lambda: psql(statements)


def left(host: str = "prod-db") -> str:
    """What there still is of a run in a database; '' is nothing."""
    return psql(_LEFT, host)


def wait_until_tidy(host: str) -> None:
    """Until nothing of a run is left in a database. Raises Wrong."""
    wait(f"nothing of the run is left in {host}", lambda: not left(host), found=lambda: left(host))


Objects = dict[tuple[str, str], list[str]]


def dump(host: str = "prod-db") -> Objects:
    """Every object of a database by type and name, as its own pg_dump tells it; lines sorted, because an UPDATE moves a row."""
    text = podman(
        "exec", "--user=postgres", f"{PREFIX}-{host}", "pg_dump", "--restrict-key=scenarios", f"--dbname={DATABASE}"
    )
    found = list(_OBJECT.finditer(text))
    ends = [match.start() for match in found[1:]] + [len(text)]
    objects = {
        (match["type"], match["name"]): sorted(text[match.end() : end].splitlines())
        for match, end in zip(found, ends, strict=True)
    }
    # Numbers that a sequence has given out are not taken back by any transaction.
    return {key: lines for key, lines in objects.items() if key[0] != "SEQUENCE SET"}


def different(before: Objects, now: Objects) -> list[str]:
    """The objects that are not the same."""
    return sorted(" ".join(key) for key in before.keys() | now.keys() if before.get(key) != now.get(key))


@dataclass
class Run:
    """One run of ansible-playbook, from its start to its end."""

    process: subprocess.Popen[bytes]
    log: Path
    artifacts: Path
    known: frozenset[str] = field(default_factory=frozenset)

    @property
    def output(self) -> str:
        return self.log.read_text(errors="replace")

    def until(self, what: str, so: Callable[[], object]) -> None:
        """Wait until it is so, while the run goes on. Raises Wrong when it ends before."""

        def met() -> bool:
            if so():
                return True
            if self.process.poll() is not None:
                raise Wrong(f"the run was over before {what}:\n{self.output[-6000:]}")
            return False

        wait(what, met)

    def end(self) -> int:
        """Wait for its end; the exit code of ansible-playbook."""
        try:
            return self.process.wait(timeout=LIMIT)
        except subprocess.TimeoutExpired as error:
            raise Wrong(f"the run does not end:\n{self.output[-6000:]}") from error

    @property
    def report(self) -> dict[str, Any]:
        """Its report.json. Raises Wrong when there is none."""
        for found in sorted(self.artifacts.glob("2*/report.json"), reverse=True):
            if found.parent.name not in self.known:
                loaded: dict[str, Any] = json.loads(found.read_text())
                return loaded
        raise Wrong(f"the run has left no report:\n{self.output[-6000:]}")

    def expect(self, results: tuple[str, ...], cause: str, phase: str = "") -> str:
        """Its result, which must be one of these, with words of the cause in what the report says. Raises Wrong."""
        report = self.report
        told = json.dumps([[one["error"] for one in report["phases"]], report["findings"]], ensure_ascii=False)
        if report["result"] not in results or not re.search(cause, told):
            raise Wrong(
                f"result {report['result']}, not {' or '.join(results)} because of {cause!r}: {told[:3000]}\n{self.output[-3000:]}"
            )
        if phase and phase not in (
            stopped := [one["name"] for one in report["phases"] if one["status"] == report["result"]]
        ):
            raise Wrong(f"phase {phase} should have stopped, and {stopped or 'none'} did")
        return str(report["result"])


@contextmanager
def playing(
    *arguments: str,
    playbook: str = "align.yml",
    inventory: str = "",
) -> Iterator[Run]:
    """A run of a playbook with the scenario's inventory, and one more of its files; it is ended if the block is left before its end."""
    artifacts = FOLDER / "artifacts"
    inventories = [f"--inventory={PROJECT}/molecule/inventory", f"--inventory={PROJECT}/molecule/{SCENARIO}/inventory"]
    if inventory:
        inventories.append(f"--inventory={PROJECT}/molecule/{SCENARIO}/{inventory}")
    known = frozenset(found.name for found in artifacts.glob("2*"))
    with tempfile.NamedTemporaryFile(dir=FOLDER, prefix="run-", suffix=".log") as log:
        process = subprocess.Popen(
            ["ansible-playbook", *inventories, str(PROJECT / playbook), *arguments],
            cwd=PROJECT, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT,
        )  # fmt: skip
        try:
            yield Run(process, Path(log.name), artifacts, known)
        finally:
            if process.poll() is None:
                process.terminate()
                process.wait(timeout=LIMIT)


def tell(line: str) -> None:
    """One line for whoever reads molecule's output."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def run_driver(work: Callable[[str], str], known: Mapping[str, object]) -> int:
    """A driver's command line: the name of one thing to do; 1 when something is not as it must be, in words."""
    match sys.argv[1:]:
        case [name] if name in known:
            started = time.monotonic()
            try:
                told = work(name)
            except Wrong as wrong:
                sys.stderr.write(f"{name}: {wrong}\n")
                return 1
            tell(f"{name}: {told}; {time.monotonic() - started:.0f} s")
            return 0
    sys.stderr.write(f"usage: one of {', '.join(known)}\n")
    return 64
