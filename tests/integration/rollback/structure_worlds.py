"""Aligning a structure and undoing it, without the other kinds of entries: the schema phase, its ledger, and one transaction."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from archon_align.context import Context
from archon_align.database.session import Session, open_session
from archon_align.database.target import Table, Target
from archon_align.database.transaction import protected_transaction
from archon_align.preservation.proof import Proof
from archon_align.rollback.ledger import Entry, read_point
from archon_align.rollback.structure import plan_structure, run
from archon_align.rollback.undo import Kept, Request, Undo

from tests.integration.schema.schema_worlds import World


def dump(world: World) -> str:
    """What pg_dump says of the world's schema in PROD, rows included."""
    pattern = world.schema.replace('"', '""')
    return world.prod.dump("-n", f'"{pattern}"')


@dataclass(frozen=True)
class Undone:
    statements: tuple[str, ...]
    kept: Mapping[str, Kept]
    proofs: Sequence[Proof] = ()


def entries_of(context: Context, database: str) -> list[Entry]:
    """The entries of all restore points of the run, oldest first."""
    points = (context.run.artifacts / "restore-points").glob("*.jsonl")
    found = [entry for path in points for entry in read_point(path).entries if entry.database == database]
    return sorted(found, key=lambda entry: entry.xid)


def planned(context: Context, database: str, *names: str, deleted: Mapping[Table, int] | None = None) -> Undone:
    """The plan as check mode shows it."""
    with open_session(context, _target(context, database), read_only=True) as session:
        undo = _plan(session, context, database, names, deleted)
        return _told(undo)


def undone(context: Context, database: str = "PROD", *names: str, deleted: Mapping[Table, int] | None = None) -> Undone:
    """Undo everything that the context's run recorded of `database`, in one protected transaction."""
    with open_session(context, _target(context, database)) as session:
        first = _plan(session, context, database, names, deleted)
        if not first.statements:
            return _told(first)
        plans: list[Undo] = []

        def act() -> None:
            plans.append(_plan(session, context, database, names, deleted))
            session.execute("SET LOCAL check_function_bodies = off")
            for statement in plans[0].statements:
                run(session, statement)

        def verify() -> None:
            plans[0].verify()
            assert not _plan(session, context, database, names, deleted).statements

        _, proofs = protected_transaction(
            session, act, locks=first.locks, verify=verify, require_lock=database == "PROD", carried=first.carried
        )
        assert [one.sql for one in plans[0].statements] == [one.sql for one in first.statements]
        return _told(plans[0], proofs)


def _plan(
    session: Session, context: Context, database: str, names: Sequence[str], deleted: Mapping[Table, int] | None
) -> Undo:
    entries = entries_of(context, database)
    request = Request(frozenset(entry.xid for entry in entries), frozenset(names))
    structure = [entry for entry in entries if entry.kind == "structure"]
    return plan_structure(session, structure, request, deleted or {})


def _target(context: Context, database: str) -> Target:
    return context.prod if database == "PROD" else context.dev


def _told(undo: Undo, proofs: Sequence[Proof] = ()) -> Undone:
    return Undone(tuple(one.sql for one in undo.statements), {kept.name: kept for kept in undo.kept}, proofs)
