"""The old vectors that a change of dimensions sets aside, kept in the quarantine schema until validation passes."""

from __future__ import annotations

import re
from dataclasses import dataclass

from psycopg import sql

from ..context import CHECK_SUFFIX, RUN_ID
from ..database.session import Session
from ..database.target import Table
from ..database.transaction import LockMode, protected_transaction
from ..plan import Statement
from ..preservation.proof import Proof
from ..rollback.ledger import Ledger
from ..rollback.structure_recording import ReleaseRecorder
from ..rollback.structure_vectors import release
from ..schema.decisions import QUARANTINE
from .kinds import COLUMN, KINDS

_NOTE = re.compile(rf"archon-align run ({RUN_ID.pattern}) keeps the vectors of (.+) here\. .*", re.DOTALL)
_COPIES = """
SELECT c.relname AS name, obj_description(c.oid, 'pg_class') AS note
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE n.nspname = %s AND c.relkind = 'r' AND pg_has_role(c.relowner, 'USAGE') ORDER BY c.relname
"""


def note(run_id: str, table: Table) -> str:
    """The comment by which the copy of `table`'s old vectors is known."""
    run_id = run_id.removesuffix(CHECK_SUFFIX)
    return f"archon-align run {run_id} keeps the vectors of {table}.{COLUMN} here. The validate phase removes them once it passes."


@dataclass(frozen=True, slots=True)
class Copy:
    """Where the old vectors of `of` are kept, and by which run. `lacking` rows of it have no new vector yet."""

    table: Table
    of: Table
    run_id: str
    lacking: int

    @property
    def removal(self) -> Statement:
        return removal(self.table, self.of)


def removal(copy: Table, of: Table | str) -> Statement:
    """The statement that removes a copy."""
    text = sql.SQL("DROP TABLE {}").format(copy.identifier).as_string(None)
    return Statement(
        text, str(copy), f"the old vectors of {of}, which new ones have replaced", ("takes_exclusive_lock",)
    )


def find(session: Session) -> list[Copy]:
    """The copies there are, of tables that still exist in the run's schemas."""
    found = []
    sources = {
        f"{table}.{COLUMN}": table
        for table in (Table(schema, kind.table) for schema in session.context.schemas for kind in KINDS)
    }
    for row in session.rows(_COPIES, (QUARANTINE,)):
        told = _NOTE.fullmatch(row["note"] or "")
        of = sources.get(told[3]) if told else None
        if (
            told is None
            or of is None
            or session.value("SELECT to_regclass(%s)", (of.identifier.as_string(None),)) is None
        ):
            continue
        copy = Table(QUARANTINE, row["name"])
        lacking = session.value(
            sql.SQL(
                "SELECT count(*) FROM {copy} AS kept JOIN {of} AS page ON page.id = kept.id WHERE page.{column} IS NULL"
            ).format(copy=copy.identifier, of=of.identifier, column=sql.Identifier(COLUMN))
        )
        found.append(Copy(copy, of, told[1], int(lacking)))
    return found


def remove(session: Session, copies: list[Copy], ledger: Ledger) -> list[Proof]:
    """Drop `copies` in one protected transaction, after their vectors were written into the restore point `ledger`."""
    ledger.begin(session)
    recorder = ReleaseRecorder(ledger)

    def act() -> None:
        for copy in copies:
            recorder.released.append(release(session, copy.table))
            session.apply(copy.removal)

    locks = {copy.table: LockMode.ALTER for copy in copies}
    return protected_transaction(session, act, locks=locks, recorder=recorder)[1]
