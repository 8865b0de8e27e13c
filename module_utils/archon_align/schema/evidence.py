"""What the rows say: questions that a comparison raises about stored data, and their answers.

`questions` is pure; `gather` asks them. A question is a query that returns the rows which stand in the way.
"""

# ruff: noqa: S608 - texts are composed of quoted identifiers and of what the server itself deparsed

from __future__ import annotations

import re
from collections import abc
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import batched

import psycopg
from psycopg import errors as pg
from psycopg import sql

from ..database.failures import server_error
from ..database.session import Session
from .compare import MISSING, Comparison, Difference
from .conversion import conversion, domain_refuses, replaced, type_of, users_of_domain, way_there
from .ddl import Writer, ident
from .decided import Decided
from .future import Future
from .model import Catalog, Column, Constraint, Domain, Index, Key, Kind, Sequence, Table
from .reading import Row
from .snippets import likely_renames

EXAMPLES = 3
# So many questions are one query, as long as it takes no more than so many seconds.
TOGETHER, QUICK = 25, 5.0
_LIMITS = re.compile(r"(M(?:IN|AX)VALUE) (-?\d+)")
_LIMIT = "SELECT pg_catalog.set_config('statement_timeout', %s, false)"
SHAPE, HELD = "shape", "held"


@dataclass(frozen=True, slots=True)
class Question:
    """`sql` returns columns `violators` (count of all) and `key` (up to three examples). `reason` says what they violate.

    A `decided` question tries an expression that a person gave: that it names something unknown is an answer.
    """

    key: Key
    aspect: str
    sql: str
    reason: str
    decided: bool = False


@dataclass(frozen=True, slots=True)
class Answer:
    """`violators` is None when the server could not say; `error` then says why."""

    violators: int | None
    examples: tuple[str, ...] = ()
    reason: str = ""
    error: str = ""

    @property
    def text(self) -> str:
        """The violators in words."""
        if self.violators is None:
            return self.error
        rows = "1 row" if self.violators == 1 else f"{self.violators} rows"
        return f"{rows} ({'; '.join(self.examples)}{', …' if self.violators > len(self.examples) else ''})"


@dataclass(frozen=True, slots=True)
class Evidence:
    """Answers by (object, aspect). What was not asked stands in nobody's way."""

    answers: Mapping[tuple[Key, str], Answer] = field(default_factory=dict)

    def against(self, key: Key, aspect: str) -> Answer | None:
        """The answer, if it stands in the way."""
        answer = self.answers.get((key, aspect))
        return answer if answer is not None and (answer.violators or answer.error) else None

    def without(self, emptied: Mapping[Key, int]) -> Evidence:
        """The same, once so many values of these columns are NULL."""
        answers = {
            (key, aspect): replace(answer, violators=max(0, answer.violators - emptied[key]))
            if key in emptied and aspect == "type" and answer.violators
            else answer
            for (key, aspect), answer in self.answers.items()
        }
        return Evidence(answers)


def gather(session: Session, asked: Iterable[Question]) -> Evidence:
    """Ask the rows. Values that cannot even be read as another type are an answer; what does not exist yet is none."""
    answers: dict[tuple[Key, str], Answer] = {}
    for group in batched(asked, TOGETHER):
        told = _ask_together(session, group) if len(group) > 1 else None
        for number, question in enumerate(group):
            answer = _ask(session, question) if told is None else _answer(question, told[number])
            if answer is not None:
                answers[question.key, question.aspect] = answer
    return Evidence(answers)


def _ask_together(session: Session, group: abc.Sequence[Question]) -> list[list[Row]] | None:
    """The rows of each question, had with one query; None when it fails or takes long, and each has to be asked by itself."""
    parts = (
        f"SELECT {number} AS question, violators, CAST(key AS text) AS key FROM ({question.sql}) AS asked"
        for number, question in enumerate(group)
    )
    told: list[list[Row]] = [[] for _ in group]
    limit = session.value("SHOW statement_timeout")
    try:
        session.value(_LIMIT, (f"{min(session.context.statement_timeout, QUICK) * 1000:.0f}ms",))
        for row in session.rows(sql.SQL(" UNION ALL ".join(parts))):
            told[row["question"]].append(row)
    except psycopg.Error:
        return None
    finally:
        if not (session.connection.broken or session.connection.closed):
            session.value(_LIMIT, (limit,))
    return told


def _ask(session: Session, question: Question) -> Answer | None:
    try:
        return _answer(question, session.rows(sql.SQL(question.sql)))
    except (pg.DataError, pg.RaiseException, pg.FeatureNotSupported) as error:
        message = " ".join((error.diag.message_primary or str(error)).split())
        return Answer(None, (), question.reason, message)
    except (
        pg.UndefinedColumn,
        pg.UndefinedFunction,
        pg.UndefinedTable,
        pg.DatatypeMismatch,
        pg.CannotCoerce,
    ) as error:
        # Else the question needs something that the plan itself will make: the server will check it then.
        if not question.decided:
            return None
        message = f"the expression cannot be evaluated: {' '.join((error.diag.message_primary or '').split())}"
        return Answer(None, (), question.reason, message)
    except pg.UndefinedObject:
        return None
    except psycopg.Error as error:
        raise server_error(session.target, error, doing=f"counting what stands in the way of {question.key}") from error


def _answer(question: Question, rows: abc.Sequence[Row]) -> Answer:
    count = int(rows[0]["violators"]) if rows else 0
    return Answer(count, tuple(str(row["key"]) for row in rows), question.reason)


def questions(comparison: Comparison, decided: Decided) -> Iterator[Question]:
    """Everything about stored rows that planning this comparison depends on."""
    asker = _Asker(comparison, decided)
    for difference in comparison.differences:
        yield from asker.about(difference)
    for table in sorted(asker.future.shapes):
        yield from asker.about_shape(table)
    yield from asker.about_likely_renames()


def misfits(table: Key, condition: str, catalog: Catalog, source: str | None = None) -> str:
    """The query for rows of `table` that meet `condition`: their count, and up to three keys. `source` is the FROM item
    where that is not the table's name."""
    return (
        f"SELECT count(*) OVER () AS violators, {row_key(table, catalog)} AS key"
        f" FROM {source or ident(table.schema, table.name)} WHERE {condition} LIMIT {EXAMPLES}"
    )


def row_key(table: Key, catalog: Catalog) -> str:
    """An SQL expression that names a row by its primary key, or by its place where there is none."""
    for key in catalog.on_table.get(table, ()):
        found = catalog.objects[key]
        if isinstance(found, Constraint) and found.type == "p":
            pairs = (f"concat({_quoted(name + '=')}, {ident(name)})" for name in found.columns)
            return f"concat_ws(', ', {', '.join(pairs)})"
    return "concat('ctid=', ctid)"


def position_outside(key: Key, aspect: str, name: str, options: str) -> Question:
    """Would the sequence of that name stand beyond the limits that `options` set?"""
    limits = dict(_LIMITS.findall(options))
    text = (
        f"SELECT 1 AS violators, concat('last_value=', last_value) AS key FROM {name}"
        f" WHERE last_value NOT BETWEEN {limits['MINVALUE']} AND {limits['MAXVALUE']}"
    )
    return Question(key, aspect, text, f"it stands outside {limits['MINVALUE']} to {limits['MAXVALUE']}")


def _quoted(text: str) -> str:
    return sql.Literal(text).as_string().strip()


class _Asker:
    def __init__(self, comparison: Comparison, decided: Decided) -> None:
        self.decided = decided
        self.desired = comparison.desired
        self.current = comparison.current
        self.writer = Writer(self.current.extension_schemas)
        self.future = Future(comparison, decided)

    def about(self, difference: Difference) -> Iterator[Question]:
        key, aspect = difference.key, difference.aspect
        if key.kind is Kind.COLUMN:
            yield from self._column(key, aspect)
        elif key.kind is Kind.CONSTRAINT and aspect in (MISSING, "definition"):
            found = self.desired.objects[key]
            if isinstance(found, Constraint) and found.validated:
                yield from self._constraint(found)
        elif key.kind is Kind.INDEX and aspect in (MISSING, "definition"):
            found = self.desired.objects[key]
            if isinstance(found, Index) and found.unique and self._readable(found.table) and self._keyed(found):
                yield self._unique(key, found.table, found.keys, found.nulls_equal, found.predicate)
        elif key.kind is Kind.TABLE and aspect == MISSING:
            yield from self._in_default_partition(key)
        elif key.kind is Kind.TABLE and aspect == "persistence" and difference.desired == "u":
            text = misfits(key, "true", self.current, self.decided.source(key))
            yield Question(key, aspect, text, "a crash would empty it")
        elif key.kind is Kind.DOMAIN and (aspect.startswith("constraint ") or aspect == "not null"):
            yield from self._domain(key, aspect)
        elif key.kind is Kind.SEQUENCE and aspect in ("type", "options"):
            wanted = self.desired.objects.get(key)
            if isinstance(wanted, Sequence):
                yield position_outside(key, aspect, ident(key.schema, key.name), wanted.options)

    def about_shape(self, table: Key) -> Iterator[Question]:
        """Every expression is tried on the rows; foreign keys of other tables are asked for the values they will refer to."""
        shape, whole = self.future.shapes[table], self.decided.whole
        read = shape.read()
        for mapped in shape.columns.values():
            key = mapped.column.key
            if mapped.column.not_null:
                nothing = misfits(table, f"({mapped.proof}) IS NULL", whole, read)
                yield Question(key, "not null", nothing, "DEV's column must not be NULL, and this is", decided=True)
            elif mapped.given:
                tried = f"SELECT n AS violators, '' AS key FROM (SELECT count({mapped.proof}) AS n FROM {read}) AS tried WHERE n < 0"
                yield Question(key, "not null", tried, "the expression fails", decided=True)
            if mapped.lost is not None:
                lost = misfits(table, mapped.lost, whole, read)
                yield Question(key, SHAPE, lost, mapped.reason, decided=mapped.given)
        for column in shape.without_value:
            reason = "DEV's column must not be NULL, has no default, and no expression is given"
            yield Question(column.key, SHAPE, misfits(table, "true", whole, read), reason)
        for key in sorted(self.current.objects):
            there = self.current.objects[key]
            wanted = self.desired.objects.get(key, there)
            if isinstance(there, Constraint) and isinstance(wanted, Constraint) and there.references == table:
                yield from self._constraint(wanted)

    def about_likely_renames(self) -> Iterator[Question]:
        """Do rows hold values in a column that only PROD has, where DEV has a new one of the same type?"""
        for old in likely_renames(self.desired, self.current):
            source = self.decided.source(old.table) or ident(old.schema, old.name)
            held = f"SELECT 1 AS violators, '' AS key FROM {source} WHERE {ident(old.part)} IS NOT NULL LIMIT 1"
            yield Question(old, HELD, held, "rows hold values")

    def _readable(self, table: Key) -> bool:
        return table in self.current.objects or table in self.future.shapes

    def _keys(self, table: Key) -> Catalog:
        """The catalogue that says how rows of `table`, read as it will be, are named."""
        if table not in self.future.shapes:
            return self.current
        keys = (self.desired.objects[key] for key in self.desired.on_table.get(table, ()))
        primary = [one for one in keys if isinstance(one, Constraint) and one.type == "p"]
        return self.desired if all(self._known(table, one.columns) for one in primary) else self.current

    def _in_default_partition(self, key: Key) -> Iterator[Question]:
        """Rows that a new partition would have to hold, but for which the default partition was the place so far."""
        wanted = self.desired.table(key)
        if wanted is None or wanted.bound is None or wanted.accepts is None:
            return
        for other, found in self.current.objects.items():
            if isinstance(found, Table) and found.bound == "DEFAULT" and found.parents == wanted.parents:
                text = misfits(other, self.writer.text(wanted.accepts), self.current, self.future.source(other))
                yield Question(key, MISSING, text, f"the row is in the default partition {other.qualified}")

    def _column(self, key: Key, aspect: str) -> Iterator[Question]:
        new, old = self.desired.column(key), self.current.column(key)
        if new is None:
            return
        domain = type_of(self.desired, new)
        if aspect == MISSING and isinstance(domain, Domain) and new.default is None and not new.generated:
            refused = domain_refuses(domain, "NULL", self.writer) if domain.default is None else None
            if refused is not None and not new.not_null:
                reason = f"the new column has no default, and {domain.key.qualified} does not allow NULL"
                yield Question(key, aspect, misfits(key.table, refused, self.current), reason)
        if aspect == MISSING and new.generated == "s":
            value = f"CAST(({self.writer.text(new.default or '')}) AS {self.writer.text(new.type)})"
            tried = f"SELECT count({value}) AS n FROM {ident(key.schema, key.name)}"
            text = f"SELECT n AS violators, '' AS key FROM ({tried}) AS tried WHERE n < 0"
            yield Question(key, aspect, text, "the value cannot be computed for every row")
        elif aspect == MISSING and isinstance(domain, Domain) and new.default is not None and "(" not in new.default:
            refused = domain_refuses(domain, self.writer.text(new.default), self.writer)
            if refused is not None:
                reason = f"{domain.key.qualified} does not accept the new column's default"
                yield Question(key, aspect, misfits(key.table, refused, self.current), reason)
        supplied = (
            new.default is not None or new.identity or (isinstance(domain, Domain) and domain.default is not None)
        )
        fill = self.decided.backfills.get(key)
        if aspect == MISSING and fill is not None:
            nothing = f"CAST(({fill}) AS {self.writer.text(new.type)}) IS NULL{'' if new.not_null else ' AND false'}"
            yield self._misfits(key, aspect, nothing, "the backfill gives NULL", decided=True)
        elif aspect == MISSING and new.not_null and not supplied:
            yield self._misfits(key, aspect, "true", "the new column must not be NULL and has no default")
        elif aspect == "not null" and new.not_null:
            nothing = f"{ident(key.part)} IS NULL" + (f" AND ({fill}) IS NULL" if fill is not None else "")
            reason = "the column is NULL" + (", and so is its backfill" if fill is not None else "")
            yield self._misfits(key, aspect, nothing, reason, decided=fill is not None)
        elif aspect in ("type", "collation") and (given := self.decided.conversions.get(key)) is not None:
            lost = f"{ident(key.part)} IS NOT NULL AND CAST(({given}) AS {self.writer.text(new.type)}) IS NULL"
            yield self._misfits(key, "type", lost, "the conversion gives NULL for a value", decided=True)
        elif aspect == "type" and old is not None and not (old.generated and new.generated):
            found = conversion(old, new, self.desired, self.current)
            if found.misfit is not None:
                yield self._misfits(key, aspect, found.misfit, found.reason)
                yield from self._collapsing(key)
            yield from self._computed_from(new, old)
        elif aspect == "identity options" and old is not None and old.identity and new.identity:
            name = ident(key.schema, old.identity_sequence)
            yield position_outside(key, aspect, name, new.identity_options)
        elif aspect == "generated" and old is not None and new.generated and not old.generated:
            lost = replaced(new, self.desired, self.current)
            yield self._misfits(key, aspect, lost, "stored values would be replaced")

    def _computed_from(self, new: Column, old: Column) -> Iterator[Question]:
        """Stored values that stay computed by the same expression, and would come out otherwise from a column of another type."""
        table = self.current.table(old.key.table)
        for column in table.columns.values() if table is not None else ():
            wanted = self.desired.column(column.key)
            default = Key(Kind.DEFAULT, *column.key[1:])
            if column.generated != "s" or wanted != column or old.key not in self.current.depends.get(default, ()):
                continue
            others = [ident(name) for name in table.columns if name != old.key.part] if table is not None else []
            changed = f"{way_there(old, new, self.current)} AS {ident(old.key.part)}"
            source = f"(SELECT tableoid, ctid, {', '.join([changed, *others])} FROM {ident(old.key.schema, old.key.name)}) AS changed"
            computed = (
                f"CAST(CAST(({self.writer.text(column.default or '')}) AS {self.writer.text(column.type)}) AS text)"
            )
            lost = f"{computed} IS DISTINCT FROM CAST({ident(column.key.part)} AS text)"
            text = misfits(old.key.table, lost, self.current, source)
            yield Question(
                column.key,
                f"computed from {old.key.part}",
                text,
                f"with {old.key.part} as {new.type}, another value would be computed",
            )

    def _misfits(self, key: Key, aspect: str, condition: str, reason: str, *, decided: bool = False) -> Question:
        text = misfits(key.table, condition, self.current, self.decided.source(key.table))
        return Question(key, aspect, text, reason, decided)

    def _known(self, table: Key, names: tuple[str, ...]) -> bool:
        return all(self.future.knows(Key(Kind.COLUMN, table.schema, table.name, name)) for name in names)

    def _keyed(self, index: Index) -> bool:
        columns = (one for one in self.desired.depends.get(index.key, ()) if one.kind is Kind.COLUMN)
        return all(self.future.knows(column) for column in columns)

    def _collapsing(self, column: Key) -> Iterator[Question]:
        """Values that are told apart now can be equal as another type: '1' and '1.0' as numbers."""
        for key in self.current.on_table.get(column.table, ()):
            found = self.current.objects[key]
            if isinstance(found, Constraint) and found.type in ("p", "u") and column.part in found.columns:
                asked = next(self._constraint(found), None)
            elif isinstance(found, Index) and found.unique and column in self.current.depends.get(key, ()):
                asked = self._unique(key, found.table, found.keys, found.nulls_equal, found.predicate)
            else:
                continue
            if asked is not None:
                yield replace(asked, aspect="type")

    def _constraint(self, wanted: Constraint) -> Iterator[Question]:
        table = wanted.key.table
        if not self._readable(table) or not self._known(table, wanted.columns):
            return
        if wanted.type in ("p", "u"):
            names = tuple(ident(name) for name in wanted.columns)
            yield self._unique(wanted.key, table, names, wanted.nulls_equal, None)
        elif wanted.type == "c" and wanted.expression is not None:
            condition = f"NOT ({self.writer.text(wanted.expression)})"
            text = misfits(table, condition, self._keys(table), self.future.source(table))
            yield Question(wanted.key, MISSING, text, "the row does not meet the condition")
        elif wanted.type == "f" and wanted.references is not None:
            yield self._orphans(wanted, wanted.references)

    def _unique(
        self, key: Key, table: Key, keys: tuple[str, ...], nulls_equal: bool, predicate: str | None
    ) -> Question:
        terms = [self.writer.text(term) for term in keys]
        conditions = [] if nulls_equal else [f"({term}) IS NOT NULL" for term in terms]
        if predicate is not None:
            conditions.append(f"({self.writer.text(predicate)})")
        shown = ", ".join(f"CAST(({term}) AS text)" for term in terms)
        text = (
            f"SELECT count(*) OVER () AS violators, concat_ws(', ', {shown}) AS key"
            f" FROM {self.future.source(table) or ident(table.schema, table.name)}"
            f"{' WHERE ' if conditions else ''}{' AND '.join(conditions)} GROUP BY {', '.join(f'({term})' for term in terms)}"
            f" HAVING count(*) > 1 LIMIT {EXAMPLES}"
        )
        return Question(key, MISSING, text, "the value occurs more than once")

    def _orphans(self, wanted: Constraint, target: Key) -> Question:
        table, future = wanted.key.table, self.future.source(wanted.key.table)
        place = (table.name,) if future is not None else (table.schema, table.name)
        conditions = [f"{ident(*place, name)} IS NOT NULL" for name in wanted.columns]
        if self._readable(target) or target.schema not in self.current.schemas:
            pairs = zip(wanted.columns, wanted.referenced_columns, strict=True)
            matches = " AND ".join(f"referenced.{ident(there)} = {ident(*place, here)}" for here, there in pairs)
            there = self.future.source(target) or ident(target.schema, target.name)
            conditions.append(f"NOT EXISTS (SELECT FROM (SELECT * FROM {there}) AS referenced WHERE {matches})")
        lost = " AND ".join(conditions)
        if " MATCH FULL" in wanted.definition and len(wanted.columns) > 1:
            nulls = f"num_nulls({', '.join(ident(*place, name) for name in wanted.columns)})"
            lost = f"({lost}) OR {nulls} NOT IN (0, {len(wanted.columns)})"
        text = misfits(table, lost, self._keys(table), future)
        return Question(wanted.key, MISSING, text, f"the row refers to none in {target.qualified}")

    def _domain(self, key: Key, aspect: str) -> Iterator[Question]:
        wanted = self.desired.objects.get(key)
        if not isinstance(wanted, Domain):
            return
        if aspect == "not null":
            condition = "VALUE IS NULL" if wanted.not_null else None
        else:
            condition = f"NOT ({self.writer.text(wanted.constraints[aspect.removeprefix('constraint ')][1])})"
        users = [one.key for one in users_of_domain(self.current, key) if type_of(self.current, one) is not None]
        parts = [
            f"SELECT {_quoted(user.qualified)} AS key FROM (SELECT {ident(user.part)} AS value FROM {ident(user.schema, user.name)}) AS held WHERE {condition}"
            for user in users
        ]
        if parts and condition is not None:
            text = f"SELECT count(*) OVER () AS violators, key FROM ({' UNION ALL '.join(parts)}) AS users LIMIT {EXAMPLES}"
            yield Question(key, aspect, text, "the value does not meet the domain's condition")
