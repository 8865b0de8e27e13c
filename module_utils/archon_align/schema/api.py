"""The Python API: compare and align any two PostgreSQL databases, without Ansible. Shown in docs/python-api.md."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psycopg

from ..context import Context, Run
from ..database.failures import server_error
from ..database.session import Session, open_session, parse_dsn
from ..database.target import Table as TableName
from ..database.target import Target
from ..errors import AlignError
from ..findings import Finding
from ..keeper.lock import another_run, end_remains, open_keeper_session, take_lock
from ..keeper.patience import PATIENCE
from ..keeper.start import new_run_id
from ..preflight.pooler import require_own_backend
from ..preservation.proof import Proof
from .apply import apply as apply_in_transaction
from .apply import prove, require_decided
from .bodies import compile_error
from .compare import Comparison, compare
from .decisions import Decisions, Names
from .inspect import inspect as read_catalog
from .model import Catalog, Key, Kind
from .planning import Choices, Made, make_plan
from .scope import Scope
from .stages import LARGE_TABLE_BYTES, STAGE_TIMEOUT

__all__ = ["Aligned", "apply", "compare", "connect", "inspect", "plan", "prove"]

PHASE = "schema"
OLDEST = 14
# Nothing is written there unless somebody asks for it.
_ARTIFACTS = Path("artifacts")


@dataclass(frozen=True, slots=True)
class Aligned:
    """What `apply` did. `after` is the comparison made before COMMIT: its `differences` are those that stay.

    `proofs` are of the tables that the plan involved; that no other protected table was touched is shown without reading it.
    """

    changed: bool
    after: Comparison
    proofs: tuple[Proof, ...] = ()
    findings: tuple[Finding, ...] = ()


def connect(
    dsn: str,
    *,
    name: str = "the database",
    setting: str = "its DSN",
    connect_timeout: float = 10.0,
    statement_timeout: float = 300.0,
) -> Session:
    """A read-only session on the database of a libpq DSN, to be used in a `with`. `apply` opens what it needs to write.

    `name` is what errors and findings call the database, `setting` where its DSN is set; timeouts in seconds. Raises
    AlignError: a malformed DSN, no connection, a transaction-mode pooler, a server older than PostgreSQL 14.
    """
    target = Target(name, dsn, setting)
    parse_dsn(target)
    run = Run(new_run_id(datetime.now(UTC), check=True), _ARTIFACTS)
    context = Context(
        run=run,
        prod=target,
        dev=target,
        phase=PHASE,
        protected_names=(),
        connect_timeout=connect_timeout,
        statement_timeout=statement_timeout,
    )
    require_own_backend(context, target)
    session = open_session(context, target, read_only=True)
    version = session.connection.info.server_version // 10000
    if version < OLDEST:
        session.close()
        raise AlignError(
            f"The server of {name} is too old.",
            object_name=name,
            expected=f"PostgreSQL {OLDEST} or newer",
            found=f"PostgreSQL {version}",
            remedy="Upgrade the server; older ones are not maintained any more.",
            code="server_too_old",
        )
    return session


def inspect(session: Session, schemas: Sequence[str] = ("public",)) -> Catalog:
    """The structure of `schemas`, without what belongs to extensions. A missing schema is simply absent."""
    return read_catalog(session, schemas)


def plan(
    comparison: Comparison,
    session: Session,
    *,
    decisions: Mapping[str, Any] | Decisions | None = None,
    protected: Iterable[str] | None = None,
    include: Iterable[str] = (),
    exclude: Iterable[str] = (),
    large_table_bytes: int | None = LARGE_TABLE_BYTES,
) -> Made:
    """The plan that turns the session's database, which is `comparison.current`, into `comparison.desired`. Only reads.

    `protected` names tables (`schema.name`, or `name`) of which no stored row may be lost; without it that is every table but
    those that a decision sets aside, whole or one of their columns.
    `include` and `exclude` are patterns like `table:archon_*`. `decisions` are what docs/phases/2-schema.md describes.
    Tables of `large_table_bytes` and more get their indexes and constraints after COMMIT, in stages that hold nobody up; None:
    there are no stages. With anything in `refused`, `apply` will refuse. Raises AlignError for what cannot be used.
    """
    chosen = decisions if isinstance(decisions, Decisions) else Decisions.parse(decisions)
    choices = Choices(
        chosen, Scope.parse(include, exclude), comparison.vector_indexes, large_table_bytes=large_table_bytes
    )
    keys = protected_keys(comparison.current, protected) - (
        _set_aside(comparison.current, chosen) if protected is None else set()
    )
    try:
        desired, current = comparison.desired, comparison.current
        return make_plan(session, desired, current, protected=keys, choices=choices, compared=comparison)
    except psycopg.Error as error:
        raise server_error(session.target, error, doing="asking the stored rows") from error


def protected_keys(current: Catalog, names: Iterable[str] | None) -> frozenset[Key]:
    """The tables of `current` that `names` mean; every table without names. Raises AlignError for a name that is none."""
    tables = frozenset(key for key in current.objects if key.kind is Kind.TABLE)
    if names is None:
        return tables
    found, known = set(), Names(tables)
    for name in names:
        # A bare name is looked for in the schemas, in their order.
        places = (name, *(f"{schema}.{name}" for schema in current.schemas))
        key = next((key for place in places if (key := known.find(place, frozenset({Kind.TABLE})))), None)
        if key is None:
            raise AlignError(
                "A table that is to be protected does not exist.",
                object_name=name,
                expected="a table of the compared schemas, as name or schema.name",
                found=f"no such table in {', '.join(current.schemas)}",
                remedy="Correct the name.",
                code="protected_table_unknown",
            )
        found.add(key)
    return frozenset(found)


def _set_aside(current: Catalog, decisions: Decisions) -> set[Key]:
    """The tables that decisions name for the quarantine, whole or in part."""
    tables = {key: table for key in current.objects if (table := current.table(key)) is not None}
    columns = (column.key for table in tables.values() for column in table.columns.values())
    names, kinds = Names([*tables, *columns]), frozenset({Kind.TABLE, Kind.COLUMN})
    return {found.table for name in decisions.quarantine if (found := names.find(name, kinds)) is not None}


def apply(
    session: Session,
    plan: Made,
    *,
    desired: Session | Catalog,
    starting: Callable[[], None] | None = None,
    stage_timeout: float = STAGE_TIMEOUT,
) -> Aligned:
    """Execute `plan` on the session's database under the database's run lock: its transaction, all or nothing, then its stages.

    The proof before COMMIT reads the database again and compares it with `desired`: a session, whose database is read again
    too, or a catalogue. `starting` is called inside the transaction, before the first statement; a statement of a stage may
    take `stage_timeout` seconds. Raises DecisionNeeded when the plan refuses something, StageFailed when the transaction is
    committed and a stage is not, and AlignError for whatever else stops it, another run on the database included; nothing is
    changed then.
    """
    require_decided(plan.plan)
    if not plan.plan.every:
        return Aligned(False, plan.plan.comparison)
    watched = tuple(sorted(TableName(key.schema, key.name) for key in plan.protected))
    context = replace(
        session.context,
        run=Run(new_run_id(datetime.now(UTC), check=False), _ARTIFACTS),
        schemas=plan.plan.found.schemas,
        watched=watched,
    )

    def reread() -> Catalog:
        again = desired if isinstance(desired, Catalog) else read_catalog(desired, plan.plan.found.schemas)
        return plan.wanted(again)

    def compiles_there(key: Key) -> bool:
        assert isinstance(desired, Session)
        with desired.transaction():
            return compile_error(desired, plan.plan.comparison.desired, key) is None

    with run_lock(context) as findings, open_session(context, session.target) as writing:
        writing.progress(f"{len(plan.plan.every)} statements")
        applied = apply_in_transaction(
            writing,
            plan.plan,
            reread_desired=reread,
            before=starting,
            compiles_there=compiles_there if isinstance(desired, Session) else None,
            stage_timeout=stage_timeout,
        )
    return Aligned(True, applied.after, applied.proofs, findings)


@contextmanager
def run_lock(context: Context) -> Iterator[tuple[Finding, ...]]:
    """Hold the database's run lock, as a run's keeper does; yields what was found of dead runs. Raises AlignError when
    another run has it, or does not let go."""
    with open_keeper_session(context) as session:
        other = take_lock(session, PATIENCE)
        if other is not None:
            raise another_run(session, other)
        yield tuple(end_remains(session))
