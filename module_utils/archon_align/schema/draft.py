"""The plan while it is being made: what every planner reads, and where it puts its statements and refusals."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from ..database.target import Table as TableName
from ..database.transaction import LockMode, strongest
from ..findings import Finding
from ..plan import Statement
from ..preservation.carried import Carried
from .closure import Closure
from .compare import Comparison, Difference
from .costs import price
from .ddl import Writer, ident
from .decided import Decided
from .evidence import Answer, Evidence
from .model import Catalog, Column, Constraint, Index, Key, Kind, Other, Table
from .stages import Stage
from .steps import LATE_RANK, Guard, Node

DECIDE = "Decide it by hand on PROD (or change DEV), then run again; nothing was changed."


@dataclass(slots=True)
class Way:
    """What the proof of one reshaped table goes through, by its columns' present names (see Carried)."""

    before: dict[str, str] = field(default_factory=dict)
    after: dict[str, str] = field(default_factory=dict)
    computed: set[str] = field(default_factory=set)


class Draft:
    """One attempt at a plan. `aspects` are the differences by object; `nodes` provide objects; `sources` says in which
    catalogue a node's needs are written."""

    def __init__(
        self,
        comparison: Comparison,
        evidence: Evidence,
        protected: frozenset[Key],
        replaced_enums: frozenset[Key],
        decided: Decided,
        large_table_bytes: int | None = None,
        exact: frozenset[Key] = frozenset(),
    ) -> None:
        self.comparison = comparison
        self.decided = decided
        self.desired, self.current = comparison.desired, comparison.current
        self.evidence = evidence
        self.protected = protected
        self.replaced_enums = replaced_enums | exact
        self.exact = exact
        self.aspects: dict[Key, dict[str, Difference]] = {}
        for difference in comparison.differences:
            self.aspects.setdefault(difference.key, {})[difference.aspect] = difference
        for key in (*decided.remaps, *exact):
            # Labels that only PROD has are no difference, until somebody says what becomes of them.
            self.aspects.setdefault(key, {}).setdefault("labels", Difference(key, "labels"))
        self.writer = Writer(self._extension_schemas(), self._identities())
        self.closure = Closure(self.current)
        self.opening: list[Statement] = []
        self.nodes: dict[Key, Node] = {}
        self.sources: dict[Key, Catalog] = {}
        self.needs_besides: dict[Key, set[Key]] = {}
        self.refused: dict[Finding, None] = {}
        self.left: dict[Difference, Finding] = {}
        self.locks: dict[TableName, LockMode] = {}
        self.setting_aside: list[Statement] = []
        self.moving: list[Statement] = []
        self.quarantined = set(self.current.quarantined)
        self.ways: dict[Key, Way] = {}
        self.moved: dict[TableName, Carried] = {}
        self.kept: dict[Key, str] = {}
        self.gaps: dict[Key, list[tuple[Column, Answer]]] = {}
        self.names_aside: dict[Key, str] = {}
        self.large_table_bytes = large_table_bytes
        self.stages: list[Stage] = []
        self.notes: list[Finding] = []

    def carry(self, column: Key, after: str, before: str = "") -> None:
        """Say by which expression over the changed table a value of `column` is what it was: the proof goes through it.

        With `before` values change as decided: then that expression, over the table as it was, gives what they must become.
        """
        if before or column.table in self.protected:
            way = self.ways.setdefault(column.table, Way())
            way.after[column.part] = after
            if before:
                way.before[column.part] = before

    def compute_again(self, column: Key) -> None:
        """Leave a column out of the proof: the server computes it, and by another expression than before."""
        if column.table in self.protected:
            self.ways.setdefault(column.table, Way()).computed.add(column.part)

    @property
    def carried(self) -> dict[TableName, Carried]:
        """How the tables that this plan reshapes are proved, by the names under which they were read."""
        found = dict(self.moved)
        for key in sorted({*self.ways, *(self._renamed_tables() & self.protected)} - self.kept.keys()):
            way, table = self.ways.get(key, Way()), self.current.table(key)
            after = dict(way.after)
            for column in table.columns.values() if table is not None else ():
                if (as_read := self.decided.label_as_read(column)) is not None:
                    after.setdefault(column.key.part, as_read)
                elif self.decided.as_read(column.key) != column.key:
                    after.setdefault(column.key.part, ident(column.key.part))
            read = self.decided.as_read(key)
            found[TableName(read.schema, read.name)] = Carried(
                TableName(key.schema, key.name),
                before={self._part_as_read(key, name): text for name, text in way.before.items()},
                after={self._part_as_read(key, name): text for name, text in after.items()},
                computed=frozenset(self._part_as_read(key, name) for name in way.computed),
                source=self.decided.source(key) or "",
            )
        return found

    def _renamed_tables(self) -> set[Key]:
        """The tables that a decided rename reaches: of the table, of a column, or of a label that a column holds."""
        relabelled = {one for enum in self.decided.relabelled for one in self.decided.whole.dependents.get(enum, ())}
        return {key.table for key in (*self.decided.origin, *relabelled) if key.kind in (Kind.TABLE, Kind.COLUMN)}

    def _part_as_read(self, table: Key, name: str) -> str:
        return self.decided.as_read(Key(Kind.COLUMN, table.schema, table.name, name)).part

    def _identities(self) -> dict[Key, str]:
        """The names of the identity columns' sequences in PROD, as they are or as this plan makes them."""
        return {
            column.sequence: column.identity_sequence
            for catalog in (self.desired, self.current)
            for table in catalog.objects.values()
            if isinstance(table, Table)
            for column in table.columns.values()
            if column.identity
        }

    def _extension_schemas(self) -> dict[str, str]:
        """Where extensions live in PROD, or will when this plan creates them."""
        found = dict(self.current.extension_schemas)
        for name, schema in self.desired.extension_schemas.items():
            there = schema in self.current.all_schemas or schema in self.desired.schemas
            found.setdefault(name, schema if there else self.current.schemas[0])
        return found

    def statement(
        self, text: str, key: Key, summary: str, *hazards: str, proves: bool = False, transactional: bool = True
    ) -> Statement:
        """A statement about `key`, with the hazards that its words and the table's size add."""
        whole = self.decided.whole
        known, seconds = price(text, hazards, self.relation(key), whole, transactional=transactional)
        return Statement(text, key.qualified, summary, known, proves, transactional, seconds)

    def guard(self, text: str, key: Key, summary: str, reason: str) -> Guard:
        """A query on the table of `key` that must find no row when it is run."""
        known, seconds = price(text, ("validates_rows",), self.relation(key), self.decided.whole)
        return Guard(text, key.qualified, summary, known, seconds=seconds, reason=reason)

    def relation(self, key: Key) -> Key | None:
        """The table or view that an object is, or lives on."""
        value = self.current.objects.get(key) or self.desired.objects.get(key)
        if isinstance(value, Index):
            return value.table
        if isinstance(value, Other):
            return value.relation
        if key.kind in (Kind.VIEW, Kind.MATVIEW):
            return key
        on_table = (Kind.TABLE, Kind.COLUMN, Kind.DEFAULT, Kind.CONSTRAINT, Kind.TRIGGER, Kind.POLICY)
        return key.table if key.kind in on_table else None

    def refuse(self, code: str, key: Key, message: str, remedy: str = DECIDE) -> None:
        """Something a machine must not do: with one of these the plan is not executed at all."""
        self.refused.setdefault(Finding(code, "error", str(key), message, remedy))

    def leave(self, code: str, difference: Difference, message: str, remedy: str) -> None:
        """A difference that stays, told by a finding, without stopping the run."""
        self.left[difference] = Finding(code, "warning", str(difference.key), message, remedy)

    def node(self, key: Key, source: Catalog) -> Node:
        self.sources.setdefault(key, source)
        return self.nodes.setdefault(key, Node(key))

    def late(self, key: Key, what: str, needs: set[Key]) -> Node:
        """A node for what can only be said of `key` once several objects exist."""
        late = Key(key.kind, key.schema, key.name, f"{key.part}\ue000{what}")
        self.needs_besides[late] = {key, *needs}
        node = self.node(late, self.desired)
        node.rank = LATE_RANK
        return node

    def lock(self, key: Key, mode: LockMode) -> None:
        """Take the table `key` in at least `mode`; a table that does not exist yet needs none."""
        if key.kind is Kind.TABLE and key in self.decided.whole.objects:
            read = self.decided.as_read(key)
            name = TableName(read.schema, read.name)
            self.locks[name] = strongest(self.locks.get(name, mode), mode)

    def lock_tables_of(self, key: Key, mode: LockMode) -> None:
        """Lock the table that an object lives on, and the one that a foreign key refers to."""
        value = self.current.objects.get(key) or self.desired.objects.get(key)
        if isinstance(value, Index):
            self.lock(value.table, mode)
        elif isinstance(value, Other):
            if value.relation is not None:
                self.lock(value.relation, mode if key.kind is Kind.RULE else LockMode.WRITE)
        elif key.kind in (Kind.TABLE, Kind.CONSTRAINT, Kind.TRIGGER, Kind.POLICY, Kind.COLUMN, Kind.DEFAULT):
            self.lock(key.table, mode)
        if isinstance(value, Constraint) and value.references is not None:
            self.lock(value.references, LockMode.ALTER if key in self.closure.dropped else LockMode.WRITE)

    # -- what a node needs -------------------------------------------------------------------------------------------

    def needs(self, key: Key) -> Iterable[Key]:
        """The nodes that must come before the node of `key`."""
        found = set(self.needs_besides.get(key, ()))
        source = self.sources[key]
        # A sequence is needed by the default of the very column that it is owned by.
        direct = set() if key.kind is Kind.SEQUENCE else set(source.depends.get(key, ()))
        if key.kind is Kind.SEQUENCE and key.part:  # an identity's, which comes with its column
            direct = {Key(Kind.COLUMN, key.schema, key.name, key.part)}
        elif key.kind is Kind.DOMAIN_CONSTRAINT:
            direct = {Key(Kind.DOMAIN, key.schema, key.name)}
        if key.kind is Kind.TABLE and (table := source.table(key)) is not None:
            for column in table.columns.values():
                direct |= self._needs_of_column(column.key, source)
        elif key.kind is Kind.COLUMN:
            direct |= self._needs_of_column(key, source)
        elif key.kind is Kind.DEFAULT:
            direct |= {key.table}
        found |= direct
        return {provider for one in found if (provider := self._provider(one)) is not None and provider != key}

    def _needs_of_column(self, column: Key, source: Catalog) -> set[Key]:
        default = Key(Kind.DEFAULT, column.schema, column.name, column.part)
        found = set(source.depends.get(column, ()))
        # What happens to a parent's column happens to its children's too: theirs come afterwards.
        found |= {parent.key for parent in source.parents_of(column)}
        if default not in self.nodes:  # else the default comes after the table, in a node of its own
            found |= source.depends.get(default, frozenset())
        return {one for one in found if one.table != column.table or one.kind is not Kind.COLUMN or one in self.nodes}

    def _provider(self, key: Key) -> Key | None:
        """The node that provides `key`: its own, or that of the column or table it is part of."""
        while key not in self.nodes:
            if key.kind is Kind.DEFAULT:
                key = Key(Kind.COLUMN, key.schema, key.name, key.part)
            elif key.kind is Kind.COLUMN:
                key = key.table
            else:
                return None
        return key
