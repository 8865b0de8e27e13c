"""The old vectors that a change of dimensions set aside: they go once every criterion is met, and not before."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import psycopg

from ..context import Context
from ..database.failures import server_error
from ..database.session import open_session
from ..database.target import Table
from ..embedding import kept
from ..errors import AlignError
from ..findings import Finding
from ..plan import Statement
from ..preservation.proof import Proof
from ..rollback.ledger import Ledger


@dataclass(frozen=True, slots=True)
class Released:
    """What was removed or, in check mode, would be; `error` is why something could not be."""

    statements: Sequence[Statement] = ()
    findings: Sequence[Finding] = ()
    proofs: Sequence[Proof] = ()
    error: AlignError | None = None


def release(context: Context, search: Mapping[str, Any], ledger: Ledger, *, passed: bool) -> Released:
    """Remove the kept vectors whose rows have all got new ones, if validation `passed`; they are written to `ledger` first.

    `search` is the report's section of this run; in check mode it names the copies that the run would make.
    """
    with open_session(context, context.prod) as session:
        try:
            copies = kept.find(session)
            go = [copy for copy in copies if passed and not copy.lacking]
            findings = [_stays(copy, passed) for copy in copies if copy not in go]
            statements = [copy.removal for copy in go]
            if context.check:
                made = (Table(*one["table"].split(".", 1)) for one in search.get("kept") or ())
                foreseen = [kept.removal(table, "this run") for table in made]
                return Released([*statements, *foreseen], findings)
            return Released(statements, findings, kept.remove(session, go, ledger) if go else ())
        except AlignError as error:
            return Released((), findings, (), error)
        except psycopg.Error as error:
            raise server_error(context.prod, error, doing="removing vectors that new ones have replaced") from error


def _stays(copy: kept.Copy, passed: bool) -> Finding:
    why = f"{copy.lacking} of their rows have no new vector" if passed else "not every criterion is met"
    return Finding(
        "vectors_kept",
        "warning" if passed else "info",
        str(copy.table),
        f"The old vectors of {copy.of}, kept by run {copy.run_id}, stay: {why}.",
        f"Rebuild or delete those rows and run again. By hand: {copy.removal.sql}"
        if passed
        else "Nothing to do: they go with the first validation that passes.",
    )
