"""Runs that fail in one phase, and one that is undone as a whole: undo.py NAME (one of STORIES). Called by side_effect.yml.

What both databases hold is compared by their own pg_dump.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path

from runs import (
    PREFIX,
    Objects,
    Run,
    Wrong,
    different,
    dump,
    playing,
    podman,
    protected_rows,
    psql,
    run_driver,
    service,
    wait_until_tidy,
)

HOSTS = ("prod-db", "dev-db")
_REFUSE = """
CREATE SCHEMA refusing;
CREATE FUNCTION refusing.row() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'not today'; END $$;
CREATE FUNCTION refusing.command() RETURNS event_trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'not today'; END $$;
GRANT USAGE ON SCHEMA refusing TO PUBLIC;
"""
_AT_DDL = "CREATE EVENT TRIGGER refusing ON ddl_command_end WHEN TAG IN ('CREATE FUNCTION') EXECUTE FUNCTION refusing.command();"
_AT_ROWS = "CREATE TRIGGER refusing BEFORE INSERT OR UPDATE ON {} FOR EACH ROW EXECUTE FUNCTION refusing.row();"
_VECTORS = "SELECT count(embedding) FROM archon_crawled_pages"
_MISSING = "SELECT count(*) FROM archon_crawled_pages WHERE embedding IS NULL"
# Every Python of the container runs this line when it starts; only the server is concerned.
_BROKEN = 'import sys; "lab.archon.server" in sys.orig_argv and sys.exit("not today")\n'
_CUSTOM = "opt/archon-align/lib/python3.13/site-packages/not_today.pth"


def finished(*arguments: str, playbook: str = "align.yml") -> Run:
    """A run that must succeed. Raises Wrong."""
    with playing(*arguments, playbook=playbook) as run:
        if run.end():
            raise Wrong(f"the run failed:\n{run.output[-6000:]}")
        run.report  # noqa: B018 - raises when there is none
        return run


def both() -> dict[str, Objects]:
    """What both databases hold."""
    return {host: dump(host) for host in HOSTS}


def require_same(before: dict[str, Objects], but: tuple[tuple[str, str], ...] = ()) -> None:
    """Raises Wrong when either database has something otherwise, `but` for these objects."""
    for host, now in both().items():
        if wrong := set(different(before[host], now)) - {" ".join(key) for key in but}:
            raise Wrong(f"{host} is not as before: {', '.join(sorted(wrong))}")


@contextmanager
def refusing(trigger: str) -> Iterator[None]:
    """PROD raises an exception where the trigger fires."""
    psql(_REFUSE + trigger)
    try:
        yield
    finally:
        psql("DROP SCHEMA refusing CASCADE")


@contextmanager
def unreadable() -> Iterator[None]:
    """PROD has a table that its owner may not read, so there is no backup."""
    psql("CREATE TABLE public.of_somebody (a int)")
    try:
        yield
    finally:
        psql("DROP TABLE public.of_somebody")


@contextmanager
def no_start() -> Iterator[None]:
    """PROD's archon-server does not come up when it is started again."""
    container = f"{PREFIX}-prod-archon"
    custom = Path(podman("mount", container).strip()) / _CUSTOM
    custom.write_text(_BROKEN)
    try:
        yield
    finally:
        custom.unlink()
        podman("umount", container)
        podman("start", container)


@contextmanager
def nothing() -> Iterator[None]:
    """What fails the phase is there already."""
    yield


@dataclass(frozen=True)
class Failure:
    """A run with these tags fails in this phase, because of this (a pattern for what the report says)."""

    phase: str
    tags: str
    cause: str
    broken: Callable[[], AbstractContextManager[object]]
    results: tuple[str, ...]
    extra: tuple[str, ...] = ()
    before: str = ""  # tags of a run that prepares it
    keeps: (
        tuple[tuple[str, str], ...] | None
    ) = ()  # objects that a failure leaves changed; None: what the phase before has done


STORIES: dict[str, Failure | None] = {
    "whole": None,
    "assess": Failure("preflight", "assess", "of_somebody", unreadable, ("failed",)),
    "schema": Failure("schema", "schema", "not today", lambda: refusing(_AT_DDL), ("rolled_back", "failed")),
    "data": Failure(
        "data", "data", "not today", lambda: refusing(_AT_ROWS.format("archon_settings")), ("rolled_back", "failed"),
        before="schema",
    ),
    "services": Failure(
        "services", "data", "not today", no_start, ("failed",), ("--extra-vars=archon_services_ready_timeout=15",), keeps=None
    ),
    "embeddings": Failure(
        "embeddings", "embeddings", "500", lambda: service(latency_per_text=0.5), ("resumable",),
        # Batches so small that most are still to be asked for when the first vectors are there.
        ("--extra-vars=archon_embeddings_stall_timeout=20 embeddings_batch_texts=4",),
        keeps=(("TABLE DATA", "archon_crawled_pages"), ("TABLE DATA", "archon_code_examples")),
    ),
    "templates": Failure(
        "templates", "templates", "not today", lambda: refusing(_AT_ROWS.format("archon_template_components")), ("rolled_back", "failed")
    ),
    "validate": Failure("validate", "validate", "embedding", nothing, ("failed",)),
}  # fmt: skip


def undo(name: str) -> str:
    """One story. Raises Wrong."""
    failure = STORIES[name]
    protected = protected_rows()
    rows = protected()
    told = _whole() if failure is None else _fails(failure)
    for host in HOSTS:
        wait_until_tidy(host)
    if protected() != rows:
        raise Wrong("protected rows are not what they were")
    return told


def _whole() -> str:
    """A whole run succeeds, and is undone as a whole."""
    before = both()
    run = finished()
    changed = {host: different(before[host], now) for host, now in both().items()}
    if not all(changed.values()):
        raise Wrong(f"the run changed nothing: {changed}")
    point = f"{run.report['run_id']}:schema"
    finished(f"--extra-vars=restore_point={point}", playbook="playbooks/rollback.yml")
    require_same(before)
    return f"{' and '.join(str(len(names)) for names in changed.values())} objects changed in PROD and DEV, and undone"


def _fails(failure: Failure) -> str:
    if failure.before:
        finished(f"--tags={failure.before}")
    with failure.broken() as change:
        before = both()
        with playing(f"--tags={failure.tags}", *failure.extra) as run:
            if callable(change):
                run.until("the first vectors were there", lambda: psql(_VECTORS) != "0")
                change(status=500)
            if run.end() == 0:
                raise Wrong(f"the run did not fail:\n{run.output[-6000:]}")
            result = run.expect(failure.results, failure.cause, failure.phase)
            if failure.keeps is None:
                if f"{run.report['run_id']}:data" not in run.output:
                    raise Wrong(f"the restore point of what was kept is not named:\n{run.output[-6000:]}")
                return f"{result}, the restore point is named"
        require_same(before, failure.keeps)
    if failure.keeps and "0" in (kept := [psql(_VECTORS), psql(_MISSING)]):
        raise Wrong(f"vectors there and missing: {kept}, of which neither should be 0")
    return result


if __name__ == "__main__":
    sys.exit(run_driver(undo, STORIES))
