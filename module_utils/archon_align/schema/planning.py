"""From two catalogues to a plan: compare, narrow to the scope, ask the rows, plan. Only reads."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from ..database.session import Session
from ..findings import Finding
from ..plan import Statement
from . import vectors
from .compare import Comparison, Difference, compare
from .decided import decide
from .decisions import Decisions
from .evidence import gather, questions
from .model import Catalog, Key
from .plan import SchemaPlan, plan
from .scope import Scope, narrow, within
from .stages import LARGE_TABLE_BYTES


@dataclass(frozen=True, slots=True)
class Choices:
    """What a person chose: decisions, the scope, and whether vector indexes are compared like any other.

    `rebuilds_vectors`: the embeddings phase comes next, so vectors of another dimension get a column beside theirs. Tables of
    `large_table_bytes` and more get their indexes and constraints in stages outside the transaction; None: there are none.
    """

    decisions: Decisions = field(default_factory=Decisions)
    scope: Scope = field(default_factory=Scope)
    vector_indexes: bool = True
    rebuilds_vectors: bool = False
    large_table_bytes: int | None = LARGE_TABLE_BYTES

    def as_json(self) -> dict[str, Any]:
        """Plain JSON types only."""
        return {
            "decisions": asdict(self.decisions),
            "include": [str(pattern) for pattern in self.scope.include],
            "exclude": [str(pattern) for pattern in self.scope.exclude],
            "vector_indexes": self.vector_indexes,
            "large_table_bytes": self.large_table_bytes,
        }


@dataclass(frozen=True, slots=True)
class Made:
    """A plan, and what it was made of. `outside` are the differences that the scope leaves out."""

    plan: SchemaPlan
    choices: Choices
    outside: tuple[Difference, ...] = ()
    protected: frozenset[Key] = frozenset()
    aside: bool = False

    @property
    def statements(self) -> tuple[Statement, ...]:
        return self.plan.every

    @property
    def refused(self) -> tuple[Finding, ...]:
        """What a person has to decide; with anything here nothing is executed."""
        return self.plan.refused

    @property
    def findings(self) -> tuple[Finding, ...]:
        return self.plan.findings

    def only_in_prod(self, after: Comparison) -> list[str]:
        """What only PROD has when the proof has compared the two."""
        return list((self.plan.comparison if self.aside else after).only_in_prod)

    def wanted(self, desired: Catalog) -> Catalog:
        """What the proof must find, when `desired` is read again: the scope's outside as it was."""
        inside = within(desired, self.plan.comparison.current, self.choices.scope)
        return vectors.again(self.plan.comparison.desired, inside)


def make_plan(
    session: Session,
    desired: Catalog,
    current: Catalog,
    *,
    protected: frozenset[Key],
    choices: Choices,
    compared: Comparison | None = None,
    exact: frozenset[Key] = frozenset(),
    emptied: Mapping[Key, int] | None = None,
) -> Made:
    """The plan that turns `current`, the structure of the session's database, into `desired`. `compared` is their comparison,
    where it was made already with the same choice about vector indexes. The enums `exact` lose the labels that only `current`
    has: no row holds one. Of the columns `emptied` so many values will be NULL by then."""
    decided = decide(desired, current, choices.decisions)
    if compared is not None and decided.current is current:
        whole = compared
    else:
        whole = compare(desired, decided.current, vector_indexes=choices.vector_indexes)
    scoped = narrow(whole, choices.scope)
    inside = scoped.comparison
    if choices.rebuilds_vectors:
        columns = vectors.to_rebuild(session, inside.desired, decided.found, protected) - decided.conversions.keys()
        if columns:
            beside = vectors.with_beside(inside.desired, inside.current, columns)
            inside = compare(beside, inside.current, vector_indexes=choices.vector_indexes)
    evidence = gather(session, questions(inside, decided)).without(emptied or {})
    made = plan(
        inside,
        evidence,
        protected=protected,
        decided=decided,
        large_table_bytes=choices.large_table_bytes,
        exact=exact,
    )
    findings: tuple[Finding, ...] = (*made.findings, *scoped.findings)
    made = replace(made, refused=(*scoped.refused, *made.refused), findings=findings)
    return Made(made, choices, scoped.outside, protected, scoped.aside)
