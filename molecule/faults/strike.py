"""Strike a run of archon-align in one phase: strike.py NAME (one of STRIKES). What it leaves is looked at before the cause is mended
and afterwards; then the next run can come. Called by side_effect.yml.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass

from runs import (
    DATABASE,
    LIMIT,
    NET,
    NUMBERS,
    PREFIX,
    Run,
    Wrong,
    inside,
    playing,
    podman,
    protected_rows,
    psql,
    run_driver,
    service,
    wait,
    wait_until_tidy,
)

# By which a phase is held in the middle of its transaction: a trigger that sleeps until the driver lets go of a lock.
_HOLD = """
CREATE SCHEMA held;
CREATE FUNCTION held.wait() RETURNS void LANGUAGE plpgsql AS $$
BEGIN WHILE NOT pg_try_advisory_xact_lock_shared(4711) LOOP PERFORM pg_sleep(0.05); END LOOP; END $$;
CREATE FUNCTION held.row() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM held.wait(); RETURN NULL; END $$;
CREATE FUNCTION held.command() RETURNS event_trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM held.wait(); END $$;
GRANT USAGE ON SCHEMA held TO PUBLIC;
"""
_AT_DDL = "CREATE EVENT TRIGGER held ON ddl_command_end WHEN TAG IN ('CREATE TABLE') EXECUTE FUNCTION held.command();"
_AT_ROWS = "CREATE TRIGGER held BEFORE INSERT OR UPDATE ON {} FOR EACH STATEMENT EXECUTE FUNCTION held.row();"
_SLEEPS = "SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE 'align %' AND wait_event = 'PgSleep'"
_BACKS_UP = "SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE 'align backup %'"
_VALIDATES = "SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE 'align validate %'"
_VECTORS = "SELECT count(embedding) FROM archon_crawled_pages"
_VOLUME = "/mnt/small"


Reached = Callable[[], object]


@contextmanager
def keeping(statement: str, taken: str) -> Iterator[None]:
    """Somebody's session that keeps a lock until the block ends, unless its server is killed before."""
    command = ["podman", "exec", "--env=PGAPPNAME=somebody", "--user=postgres", f"{PREFIX}-prod-db", "psql", "-Xq"]
    with subprocess.Popen(
        [*command, f"--dbname={DATABASE}", f"--command={statement}; SELECT pg_sleep(86400)"]
    ) as holder:
        wait("somebody has the lock", lambda: psql(taken) != "0")
        try:
            yield
        finally:
            psql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'somebody'")
            holder.wait(timeout=LIMIT)


@contextmanager
def held(trigger: str) -> Iterator[Reached]:
    """Whoever fires the trigger is held until the block ends; tells whether a run has got there."""
    psql(_HOLD + trigger)
    try:
        with keeping("SELECT pg_advisory_lock(4711)", "SELECT count(*) FROM pg_locks WHERE objid = 4711 AND granted"):
            yield lambda: psql(_SLEEPS) != "0"
    finally:
        psql("DROP SCHEMA held CASCADE")


@contextmanager
def locked(table: str) -> Iterator[Reached]:
    """A table is locked until the block ends; tells whether the backup has begun, which needs it."""
    taken = f"SELECT count(*) FROM pg_locks WHERE relation = '{table}'::regclass AND mode = 'AccessExclusiveLock' AND granted"
    with keeping(f"BEGIN; LOCK TABLE {table}", taken):
        yield lambda: psql(_BACKS_UP) != "0"


@contextmanager
def when(condition: str) -> Iterator[Reached]:
    """Nobody is held; tells whether it is so."""
    yield lambda: psql(condition) != "0"


@contextmanager
def no_network(host: str) -> Iterator[None]:
    """The host is off the network, without a word to anybody; afterwards it is back at its address."""
    container = f"{PREFIX}-{host}"
    # With another card's address its neighbours would look for it at the former one for half a minute.
    card = podman("exec", container, "cat", "/sys/class/net/eth0/address").strip()
    podman("network", "disconnect", PREFIX, container)
    try:
        yield
    finally:
        podman("network", "connect", f"--ip={NET}.{NUMBERS[host]}", f"--mac-address={card}", PREFIX, container)


@contextmanager
def refused(host: str, port: int) -> Iterator[None]:
    """A firewall comes up between the host and everybody else, which resets connections."""
    rules = [
        ["INPUT", "--protocol=tcp", f"--dport={port}", "--jump=REJECT", "--reject-with=tcp-reset"],
        ["OUTPUT", "--protocol=tcp", f"--sport={port}", "--jump=REJECT", "--reject-with=tcp-reset"],
    ]
    for rule in rules:
        inside(host, "iptables", "--append", *rule)
    try:
        yield
    finally:
        for rule in rules:
            inside(host, "iptables", "--delete", *rule)


@contextmanager
def lost(host: str) -> Iterator[None]:
    """The machine dies at once, with its database server; afterwards it is there again."""
    podman("kill", "--signal=KILL", f"{PREFIX}-{host}")
    podman("wait", f"{PREFIX}-{host}")
    try:
        yield
    finally:
        podman("start", f"{PREFIX}-{host}")
        wait("the server has recovered", lambda: psql("SELECT 1", host, check=False) == "1")


@contextmanager
def killed(host: str) -> Iterator[None]:
    """The database server dies at once and is started again, while the run is under way."""
    with lost(host):
        pass
    yield


@contextmanager
def full_volume() -> Iterator[None]:
    """PROD's pages are on a small volume, on which not a byte is free; afterwards there is room again."""
    inside("prod-db", "install", "--directory", "--owner=postgres", _VOLUME)
    inside("prod-db", "mount", "-t", "tmpfs", "-o", "size=64m,mode=0777", "tmpfs", _VOLUME)
    inside("prod-db", "install", "--directory", "--owner=postgres", f"{_VOLUME}/pages")
    psql(f"CREATE TABLESPACE small LOCATION '{_VOLUME}/pages'")
    psql("ALTER TABLE archon_crawled_pages SET TABLESPACE small")
    psql("VACUUM FULL archon_crawled_pages")
    inside("prod-db", "dd", "if=/dev/zero", f"of={_VOLUME}/filler", "bs=64k", "status=none", check=False)
    try:
        yield
    finally:
        inside("prod-db", "rm", f"{_VOLUME}/filler")
        psql("ALTER TABLE archon_crawled_pages SET TABLESPACE pg_default")
        psql("CHECKPOINT")
        psql("DROP TABLESPACE small")
        inside("prod-db", "umount", _VOLUME)


@dataclass(frozen=True)
class Strike:
    """One way to be struck: when, with what, and what the run must come to."""

    phase: str
    tags: str  # with the phase before, which the strike before has interrupted
    cause: str  # a pattern for what the report says
    at: Callable[[], AbstractContextManager[Reached]] | None = None
    fault: Callable[[], AbstractContextManager[object]] | None = None
    around: Callable[[], AbstractContextManager[object]] | None = None  # in force from before the run
    results: tuple[str, ...] = ("failed", "rolled_back")
    extra: tuple[str, ...] = ()
    inventory: str = ""


_IMPATIENT = ("--extra-vars=archon_embedding_timeout=20", "--extra-vars=archon_embeddings_stall_timeout=20")
_NO_DATABASE = "connection_lost|unreachable|timeout|PROD cannot be reached"
_NO_SERVICE = "embedding service|cannot be reached|11434"
STRIKES = {
    "assess": Strike("backup", "assess", _NO_DATABASE, lambda: locked("archon_tasks"), lambda: refused("prod-db", 5432)),
    "schema": Strike("schema", "schema", _NO_DATABASE, lambda: held(_AT_DDL), lambda: no_network("prod-db")),
    "data": Strike(
        "data", "schema,data", _NO_DATABASE, lambda: held(_AT_ROWS.format("archon_settings")), lambda: killed("prod-db")
    ),
    "embeddings": Strike(
        "embeddings", "data,embeddings", _NO_SERVICE, lambda: when(_VECTORS), lambda: no_network("embedding"),
        lambda: service(latency_per_text=0.3), ("resumable",), _IMPATIENT,
    ),
    "disk": Strike(
        "embeddings", "embeddings", "No space left on device", around=full_volume, results=("resumable",)
    ),
    "templates": Strike(
        "templates", "embeddings,templates", "unreachable|module_lost", lambda: held(_AT_ROWS.format("archon_template_components")),
        lambda: lost("prod-db"), inventory="machine/hosts.yml",
    ),
    "validate": Strike(
        "validate", "templates,validate", _NO_DATABASE, lambda: when(_VALIDATES), lambda: no_network("prod-db"),
        lambda: service(latency=3),
    ),
}  # fmt: skip


def strike(name: str) -> str:
    """One run, struck. Raises Wrong when it does not end as it must, or leaves something."""
    what = STRIKES[name]
    protected = protected_rows()
    rows, vectors = protected(), int(psql(_VECTORS))
    with ExitStack() as mended:
        if what.around is not None:
            mended.enter_context(what.around())
        reached = mended.enter_context(what.at()) if what.at is not None else None
        run = mended.enter_context(playing(f"--tags={what.tags}", *what.extra, inventory=what.inventory))
        result = _struck(run, what, reached)
    for host in ("prod-db", "dev-db"):
        wait_until_tidy(host)
    if protected() != rows:
        raise Wrong("protected rows are not what they were")
    if (now := int(psql(_VECTORS))) < vectors:
        raise Wrong(f"{vectors} vectors before, {now} afterwards")
    return f"{result}, {now - vectors} vectors kept"


def _struck(run: Run, what: Strike, reached: Reached | None) -> str:
    if reached is not None:
        run.until(f"it has come to where it is struck in {what.phase}", reached)
    with what.fault() if what.fault is not None else ExitStack():
        code = run.end()
    if code == 0:
        raise Wrong(f"the run did not notice:\n{run.output[-6000:]}")
    return run.expect(what.results, what.cause, what.phase)


if __name__ == "__main__":
    sys.exit(run_driver(strike, STRIKES))
