"""Undoing what a run did to the structure: what is still as the run left it becomes what it was, and nothing else changes.

The schema engine knows the way from any structure to any other, but never drops anything: what the run made is dropped here,
without CASCADE, and only where users put nothing into it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace

from psycopg.pq import TransactionStatus

from ..database.session import Session
from ..database.target import Table as TableName
from ..database.transaction import LockMode
from ..errors import AlignError
from ..plan import Statement
from ..preservation.carried import Carried
from ..schema.aside import without
from ..schema.compare import compare
from ..schema.ddl import Writer
from ..schema.grouped import grouped, side
from ..schema.inspect import inspect
from ..schema.model import VECTOR_INDEX_METHODS, Catalog, Constraint, Index, Key, Kind, Table
from ..schema.planning import Choices, Made, make_plan
from ..schema.renaming import STALE
from ..schema.stages import LARGE_TABLE_BYTES
from ..schema.steps import Guard
from .ledger import Entry
from .loading import Load, load
from .structure_drops import Drops, arrange, dropping, loosening, needed_by, relation_of
from .structure_settling import Settling, exact_enums
from .structure_states import State, catalog_of, states
from .structure_swapped import Vectors
from .structure_target import Target, Told, read, require_undoable, target
from .undo import Kept, Request, Undo

_SNAPSHOT = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY"


def plan_structure(
    session: Session,
    entries: Sequence[Entry],
    request: Request,
    deleted: Mapping[TableName, int],
    emptied: Mapping[tuple[TableName, str], int] | None = None,
) -> Undo:
    """What puts the structure back that `entries` (oldest first, of the session's database) tell of.

    `deleted` counts the rows that are deleted before these statements, by table, `emptied` the values that are set to NULL, by
    table and column. The statements need `check_function_bodies`
    off and are followed by NOTIFY pgrst; a Guard among them is a query that must find no row (see `run`). Raises AlignError
    `rollback_not_possible` when an entry tells of values that were moved or replaced, or when nobody knows the way back;
    ValueError, TypeError or KeyError when an entry is none of ours.
    """
    told = [read(entry) for entry in entries]
    if not told:
        return Undo()
    require_undoable(told, session.target.name)
    idle = session.connection.info.transaction_status is TransactionStatus.IDLE
    with session.transaction(_SNAPSHOT) if idle else nullcontext():
        schemas = _schemas(session, told)
        now = inspect(session, schemas)
        goal = target(now, told, request)
        vectors = Vectors(session, told, goal)
        return _Planner(session, schemas, now, goal, request, deleted, emptied or {}, vectors).undo()


def run(session: Session, statement: Statement) -> None:
    """Run one planned statement. Raises AlignError when it is a guard that finds a row, or when a file cannot be read."""
    if isinstance(statement, Load):
        load(session, statement)
        return
    rows = session.apply(statement)
    if isinstance(statement, Guard) and rows:
        raise AlignError(
            "Rows came in that would not survive going back; nothing was changed.",
            object_name=statement.object,
            expected="every stored value the same afterwards",
            found=f"{statement.reason}: {rows} rows",
            remedy="Run again: what they are in stays as it is then, and is named.",
            code="changed_meanwhile",
        )


def _schemas(session: Session, told: Sequence[Told]) -> tuple[str, ...]:
    named = {change.key.schema for one in told for change in one.changes if change.key.schema}
    return (*session.context.schemas, *sorted(named - set(session.context.schemas)))


def _unlike(wanted: Mapping[Key, State], found: Mapping[Key, State]) -> list[Key]:
    keys = []
    for key in sorted(wanted.keys() | found.keys()):
        one, other = wanted.get(key, State()), found.get(key, State())
        if not one.same(other) and STALE not in str(one.value):
            keys.append(key)
    return keys


class _Planner:
    def __init__(
        self,
        session: Session,
        schemas: Sequence[str],
        now: Catalog,
        goal: Target,
        request: Request,
        deleted: Mapping[TableName, int],
        emptied: Mapping[tuple[TableName, str], int],
        vectors: Vectors,
    ) -> None:
        self.request = request
        self.vectors = vectors
        self.session = session
        self.schemas = schemas
        self.now = now
        self.goal = goal
        self.found = states(goal.here)
        self.writer = Writer(goal.here.extension_schemas, _identities(goal.here))
        self.emptied = {
            Key(Kind.COLUMN, table.schema, table.name, column): number for (table, column), number in emptied.items()
        }
        self.settling = Settling(session, goal, request, deleted, self.writer)

    def undo(self) -> Undo:
        self._leave_large_indexes()
        while True:
            self.settling.settle()
            replaced = self.vectors.replaced()
            if not self.goal.decisions and not _unlike(self.goal.wanted, self.found):
                return Undo(self.vectors.copies(replaced), kept=list(self.goal.kept.values()))
            drops = arrange(self.goal.here, self.settling.gone())
            drops = replace(drops, early=(*drops.early, *(one.column for one in replaced)))
            made = self._made(drops)
            if not self._leave(made):
                break
        statements = self._statements(drops, made)
        for one in replaced:
            statements = self.vectors.filled(one, statements, self.writer)
            self.vectors.name_rows(one, self.request)
        statements = [*self.vectors.copies(replaced), *statements]
        kept = list(self.goal.kept.values())
        return Undo(
            statements,
            self._locks(drops, made),
            kept,
            self._carried(drops, made),
            diff=self._diff(),
            verify=self._verify,
        )

    # -- the way there -------------------------------------------------------------------------------------------

    def _made(self, drops: Drops) -> Made:
        """What the schema engine changes, once the early drops are done."""
        context = self.session.context
        early = {self._as_read(key) for key in (*self._with_parts(drops.early), *self.vectors.indexes(drops.early))}
        return make_plan(
            self.session,
            catalog_of(self.goal.wanted, self.goal.here),
            without(self.now, (), (), early),
            protected=frozenset(Key(Kind.TABLE, table.schema, table.name) for table in context.protected),
            choices=Choices(self.goal.decisions, large_table_bytes=None),
            exact=exact_enums(self.goal, self.found),
            emptied=self.emptied,
        )

    def _with_parts(self, dropped: Iterable[Key]) -> set[Key]:
        """What goes with what is dropped."""
        gone = self.settling.gone()
        found = set(dropped)
        while more := {
            key for key in gone - found if relation_of(self.goal.here, key) in found or self._owner(key) in found
        }:
            found |= more
        return found

    def _owner(self, key: Key) -> Key | None:
        return getattr(self.goal.here.objects.get(key), "owned_by", None)

    def _as_read(self, key: Key) -> Key:
        """The name by which an object is known now."""
        if key in self.goal.names:
            return self.goal.names[key]
        if key.kind in (Kind.CONSTRAINT, Kind.TRIGGER, Kind.RULE, Kind.POLICY, Kind.COLUMN):
            return key._replace(name=self.goal.names.get(key.table, key.table).name)
        return key

    def _leave(self, made: Made) -> bool:
        """Keep what the engine cannot, or must not, change back; True when there was something."""
        keys = {str(key): key for key in self.goal.wanted} | {key.qualified: key for key in self.goal.wanted}
        told = [(finding.object, finding.message) for finding in made.refused]
        told += [(str(one.key), "it is not changed by a machine") for one in made.plan.left]
        kept = False
        for name, why in told:
            key = keys.get(name)
            changed = self._changed_under(key) if key is not None else []
            if not changed:
                raise AlignError(
                    "The structure cannot be led back; nothing was changed.",
                    object_name=name,
                    expected="a way back that keeps every stored value",
                    found=why,
                    remedy="Restore the verified backup of that run into an empty database (playbooks/restore.yml), or change"
                    " it by hand.",
                    code="rollback_not_possible",
                )
            for one in changed:
                self.settling.keep(one, why)
            kept = True
        return kept

    def _changed_under(self, key: Key) -> list[Key]:
        """What was to change of an object that is in the way: itself, or else what it needs."""

        def changes(one: Key) -> bool:
            return one in self.goal.wanted and self.goal.wanted[one] != self.found.get(one)

        return [key] if changes(key) else sorted(filter(changes, needed_by(self.goal.here, key)))

    def _leave_large_indexes(self) -> None:
        """A vector index on a large table takes long to build, under locks: that is left to a person, or to the next run."""
        for key, state in list(self.goal.wanted.items()):
            value = state.value
            if isinstance(value, Index) and value.method in VECTOR_INDEX_METHODS and key not in self.found:
                size = self.goal.here.sizes.get(value.table)
                if size is not None and size.bytes >= LARGE_TABLE_BYTES:
                    text = self.writer.create(value)[0].replace(" INDEX ", " INDEX CONCURRENTLY ", 1)
                    self.goal.keep(key, Kept(str(key), f"building it takes long; by hand: {text}", on_request=False))

    def _statements(self, drops: Drops, made: Made) -> list[Statement]:
        opening = len(made.plan.decided.opening)
        planned = made.plan.statements
        return [
            *planned[:opening],
            *(dropping(key, self.writer) for key in drops.early),
            *planned[opening:],
            *(dropping(key, self.writer) for key in drops.late),
            *loosening(self.goal.wanted, self.found, self.writer),
        ]

    def _locks(self, drops: Drops, made: Made) -> dict[TableName, LockMode]:
        locks = dict(made.plan.locks)
        for key in (*drops.early, *drops.late):
            value = self.goal.here.objects.get(key)
            tables = {relation_of(self.goal.here, key) or key}
            if isinstance(value, Constraint) and value.references is not None:
                tables.add(value.references)
            for table in tables:
                if table.kind is Kind.TABLE:
                    locks[_name(self._as_read(table))] = LockMode.ALTER
        for key in self.found.keys() & self.goal.wanted.keys():
            one, other = self.found[key].value, self.goal.wanted[key].value
            if isinstance(one, Table) and one != other:
                locks[_name(self._as_read(key))] = LockMode.ALTER
        return locks

    def _carried(self, drops: Drops, made: Made) -> dict[TableName, Carried]:
        """The proof of a protected table leaves out the columns that the run added, and nothing else."""
        carried = dict(made.plan.carried)
        proved = {*self.session.context.protected, *self.session.context.watched}
        for key in (*drops.early, *drops.late):
            table = _name(self._as_read(key.table))
            if key.kind is not Kind.COLUMN or table not in proved:
                continue
            way = carried.get(table, Carried(TableName(key.schema, key.name)))
            carried[table] = replace(way, computed=way.computed | {self._as_read(key).part})
        return carried

    def _diff(self) -> list[dict[str, str]]:
        """As the run's own diff showed it, the other way round."""
        goal = catalog_of(self.goal.wanted, self.goal.here)
        undone = grouped(compare(self.goal.here, goal))
        made_again = [
            replace(group, entries=[entry for entry in group.entries if entry.new is not None])
            for group in grouped(compare(goal, self.goal.here))
        ]
        made_again = [group for group in made_again if group.entries]
        header = f"structure of {self.session.target.name}"
        return [
            {
                "before_header": header,
                "after_header": f"{header}, rolled back",
                "before": side(undone, desired=True),
                "after": side(undone, desired=False) + side(made_again, desired=True),
            }
        ]

    # -- the proof -----------------------------------------------------------------------------------------------

    def _verify(self) -> None:
        """Read the catalogue again: everything is what was wanted, and nothing else changed. Raises AlignError."""
        after = states(inspect(self.session, self.schemas))
        unlike = _unlike(self.goal.wanted, after)
        owners = [
            key
            for key, state in self.goal.wanted.items()
            if state.value is not None and key in after and state.owner not in (None, after[key].owner)
        ]
        if unlike or owners:
            raise AlignError(
                "The structure would not have become what it was; the transaction was rolled back.",
                object_name=str((unlike or owners)[0]),
                expected="everything as before the run, but what is named as kept",
                found="different: " + ", ".join(map(str, (unlike or owners)[:5])),
                remedy="If somebody changed the structure meanwhile, run again; otherwise report this as a defect.",
                code="structure_not_undone",
            )


def _identities(catalog: Catalog) -> dict[Key, str]:
    return {
        column.sequence: column.identity_sequence
        for table in catalog.objects.values()
        if isinstance(table, Table)
        for column in table.columns.values()
        if column.identity
    }


def _name(key: Key) -> TableName:
    return TableName(key.schema, key.name)
