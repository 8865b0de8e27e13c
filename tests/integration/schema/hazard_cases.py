"""What a hazard case is, and how it is judged: by what the phase says, by the values, by a second run and by pg_dump."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from archon_align.errors import AlignError
from archon_align.findings import Finding
from schema_worlds import Side, World, facts
from witness import values

ROWS = "INSERT INTO t SELECT n, 'täxt ' || n FROM generate_series(1, 9) n;"
T = "CREATE TABLE t (id int PRIMARY KEY, a text);"
type Values = dict[tuple[str, str], tuple[bool, list[str]]]


@dataclass(frozen=True)
class Case:
    """`refused` is the code of the expected refusal; `keeps` are queries and what they answer on PROD afterwards.

    Every value must be what it was, but for those of the columns that are `computed` anew (named without their table).
    `unequal` are words of what pg_dump may say of DEV only.
    """

    name: str
    dev: str
    prod: str
    refused: str = ""
    keeps: dict[str, object] = field(default_factory=dict)
    only_in_prod: tuple[str, ...] = ()
    findings: tuple[str, ...] = ()
    unequal: tuple[str, ...] = ()
    computed: tuple[str, ...] = ()


@dataclass(frozen=True)
class Judged:
    """What became of one case, of all that the phase said the part that is about its schema."""

    case: Case
    schema: str
    status: str
    said: tuple[Finding, ...]
    only_in_prod: tuple[str, ...]
    predicted: tuple[str, ...]
    executed: tuple[str, ...]
    left_over: tuple[str, ...]
    untouched_by_check: bool
    untouched: bool
    before: Values
    after: Values
    error: str


@dataclass(frozen=True)
class Bench:
    """The cases of one module, each in a schema of its own on databases that all share."""

    dev: Side
    prod: Side
    name: str
    cases: Sequence[Case]
    artifacts: Path
    all_protected: bool = False

    def judged(self) -> dict[str, Judged]:
        """All cases at once: those to be aligned in one run, those to be refused in another.

        Should the run of all fail, each case is run alone, so that the one to blame shows.
        """
        schemas = {f'{self.name} {number} "ü"': case for number, case in enumerate(self.cases)}
        for schema, case in schemas.items():
            self.dev.run(schema, case.dev)
            self.prod.run(schema, case.prod)
        found: list[Judged] = []
        for refused in (False, True):
            part = {schema: case for schema, case in schemas.items() if bool(case.refused) is refused}
            together = self._judge(part)
            if all(bool(one.error) is refused for one in together):
                found += together
            else:
                for schema, case in part.items():
                    found += self._judge({schema: case})
        return {one.case.name: one for one in found}

    def _judge(self, schemas: dict[str, Case]) -> list[Judged]:
        world = World(self.dev, self.prod, tuple(schemas), self.artifacts)
        pictures = {schema: self.prod.picture(schema) for schema in schemas}
        before = {schema: values(self.prod, schema) for schema in schemas}
        tables = [f"{schema}.{table}" for schema, found in before.items() for table in {one for one, _ in found}]
        protected = tuple(sorted(tables)) if self.all_protected else ()
        predicted = world.align(check=True, protected=protected)
        untouched = {schema: self.prod.picture(schema) == pictures[schema] for schema in schemas}
        outcome, error = predicted, ""
        try:
            outcome = world.align(protected=protected)
            error = str(outcome.error or "")
        except AlignError as raised:
            error = str(raised)
        again = world.align(check=True, protected=protected)
        return [
            Judged(
                case=case,
                schema=schema,
                status=outcome.status,
                said=tuple(one for one in outcome.findings if schema in one.object.replace('""', '"')),
                only_in_prod=tuple(one for one in outcome.details["schema"]["only_in_prod"] if schema in one),
                predicted=tuple(one.sql for one in predicted.statements if schema in one.object),
                executed=tuple(one.sql for one in outcome.statements if schema in one.object),
                left_over=tuple(one.sql for one in again.statements if schema in one.object),
                untouched_by_check=untouched[schema],
                untouched=self.prod.picture(schema) == pictures[schema],
                before=before[schema],
                after=values(self.prod, schema),
                error=error,
            )
            for schema, case in schemas.items()
        ]

    def unequal(self) -> list[str]:
        """What DEV's dump says of an aligned schema and PROD's does not."""
        dev, prod = (facts(side.dump()) for side in (self.dev, self.prod))
        return [
            text
            for text in dev - prod
            for number, case in enumerate(self.cases)
            if not case.refused
            and f'"{self.name} {number} ""ü"""' in text
            and not any(words in text for words in case.unequal)
        ]


def expect(found: Judged, prod: Side) -> None:
    """Assert that a case ended as it says."""
    case, codes = found.case, {finding.code for finding in found.said}
    assert found.untouched_by_check
    if case.refused:
        assert found.status == "decision_needed"
        assert case.refused in codes
        assert found.untouched
        return
    assert found.error == ""
    assert found.predicted == found.executed
    assert found.left_over == ()
    for query, expected in case.keeps.items():
        assert prod.value(found.schema, query) == expected, query
    for (table, column), (_, held) in found.before.items():
        if column not in case.computed:
            assert found.after[table, column][1] == held, (table, column)
    assert all(any(name.startswith(one) for name in found.only_in_prod) for one in case.only_in_prod)
    assert set(case.findings) <= codes
