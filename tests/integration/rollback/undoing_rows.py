"""What the tests of undone rows share: transactions that are recorded as a phase's are, their undoing, and an outside look."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Iterable, Sequence

import psycopg
from archon_align.context import Context, Run
from archon_align.database.session import Session, open_session
from archon_align.database.target import Table
from archon_align.database.transaction import LockMode, protected_transaction
from archon_align.plan import Statement
from archon_align.rollback.capture import RowRecorder, Written
from archon_align.rollback.ledger import Entry, Ledger, read_point
from archon_align.rollback.rows import plan_rows
from archon_align.rollback.structure import run as run_statement
from archon_align.rollback.undo import Request, Undo
from archon_align.rollback.vectors import plan_vectors
from psycopg import sql

_numbers = itertools.count()


def copied(dsn: str, *tables: str) -> bytes:
    """The tables' rows byte for byte, whatever the order in which they lie."""
    with psycopg.connect(dsn, options="-c extra_float_digits=1 -c timezone=UTC") as connection:
        parts = []
        for table in tables:
            with connection.cursor().copy(
                f"COPY (SELECT * FROM {table} x ORDER BY x::text) TO STDOUT".encode()
            ) as copy:
                parts.append(b"".join(bytes(block) for block in copy))
        return b"\n--\n".join(parts)


def execute(dsn: str, *statements: str) -> None:
    """What users do."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        for statement in statements:
            connection.execute(statement.encode())


def next_run(context: Context) -> Context:
    """The context of another phase of a later run; the run lock's holder stays the same."""
    return dataclasses.replace(context, phase=f"{context.phase}{next(_numbers)}")


def written(context: Context, tables: Sequence[Written], *statements: str, to: str = "PROD") -> list[Entry]:
    """Run `statements` as a phase would, and return what the restore point then holds."""
    ledger = Ledger(context)
    recorder = RowRecorder(ledger, tables)
    target = context.prod if to == "PROD" else context.dev
    with open_session(context, target) as session:

        def act() -> None:
            recorder.look(session)
            for statement in statements:
                session.apply(Statement(statement, "", ""))

        ledger.begin(session)
        locks = {one.table: LockMode.WRITE for one in tables}
        protected_transaction(session, act, locks=locks, recorder=recorder, require_lock=False)
    ledger.end("changed")
    return entries(context, to)


def entries(context: Context, database: str = "PROD") -> list[Entry]:
    path = context.run.artifacts / "restore-points" / f"{context.phase}.jsonl"
    return [one for one in read_point(path).entries if one.database == database]


def planned(session: Session, done: Sequence[Entry], request: Request) -> Undo:
    rows = plan_rows(session, [one for one in done if one.kind == "rows"], request)
    vectors = plan_vectors(session, [one for one in done if one.kind == "vectors"], request)
    return Undo(
        statements=[*rows.statements, *vectors.statements],
        locks={**rows.locks, **vectors.locks},
        kept=[*rows.kept, *vectors.kept],
        deleted=rows.deleted,
        diff=[*rows.diff, *vectors.diff],
    )


def undone(
    context: Context, done: Sequence[Entry], *, wants: Iterable[str] = (), everything: bool = False, to: str = "PROD"
) -> Undo:
    """Undo `done` in one protected transaction. What check mode says is compared with it, and that nothing is left then."""
    request = Request(frozenset(one.xid for one in done), frozenset(wants), everything)
    checking = dataclasses.replace(context, run=Run(f"{context.run.id}-check", context.run.artifacts))
    with open_session(checking, checking.prod if to == "PROD" else checking.dev) as session:
        foreseen = planned(session, done, request)
    with open_session(context, context.prod if to == "PROD" else context.dev) as session:

        def act() -> Undo:
            plan = planned(session, done, request)
            for statement in plan.statements:
                run_statement(session, statement)
            return plan

        plan, proofs = protected_transaction(session, act, locks=foreseen.locks, require_lock=False)
        again = planned(session, done, request)
    assert all(proof.preserved for proof in proofs)
    assert (foreseen.statements, foreseen.diff, foreseen.kept) == (plan.statements, plan.diff, plan.kept)
    assert again.statements == []
    return plan


def names(plan: Undo) -> list[str]:
    return sorted(kept.name for kept in plan.kept)


def table(name: str, *label: str, schema: str = "public") -> Written:
    return Written(Table(schema, name), label)


def quoted(name: str) -> str:
    return sql.Identifier(name).as_string(None)


type Undoing = Callable[..., Undo]
