"""What there is to embed in PROD, and what stands in the way."""

from __future__ import annotations

from dataclasses import dataclass, replace

from psycopg import sql

from ..database.session import Session, open_session
from ..errors import AlignError
from ..findings import Finding
from ..preservation.fingerprint import columns_of
from ..schema.vectors import free_name
from .index import METHOD, indexes
from .kinds import COLUMN, KINDS, Kind
from .tables import EmbeddedTable, VectorType, find_table, vector_type

BLANK = "its content is blank"
# Into an hnsw index vectors are written some sixty times more slowly than without (tests/bench/embeddings/sizes.py); below so
# many rows that is minutes at most.
_MANY_ROWS = 20_000


@dataclass(frozen=True, slots=True)
class Work:
    """A table, its rows without embedding, and how many of those have nothing to embed."""

    found: EmbeddedTable
    missing: int
    blank: int


def survey(
    session: Session, dimensions: int, *, beside: bool = False
) -> tuple[VectorType | None, list[Work], list[Finding]]:
    """pgvector, the work per table, and findings.

    With `beside` the work is on the columns that the schema phase has put beside those of another dimension (in check
    mode also where it will), else on those that Archon reads. Outside check mode raises AlignError for whatever the schema phase should have created; in check mode that is a
    finding, and every row counts.
    """
    check = session.context.check
    vector = None
    findings: list[Finding] = []
    try:
        vector = vector_type(session)
    except AlignError as error:
        if not check:
            raise
        findings.append(Finding(error.code, "info", error.object_name, error.what, error.remedy))
    works = []
    for kind in KINDS:
        found = find_table(session, kind, vector, dimensions if beside else None)
        if found is None:
            findings.append(_absent(session, kind))
            continue
        problem = _obstacle(session, found, dimensions)
        if problem is not None:
            if not check or "id" in found.missing_columns:
                raise problem
            findings.append(
                Finding(
                    problem.code,
                    "info",
                    problem.object_name,
                    f"expected {problem.expected}, found {problem.found}: the schema phase comes first",
                    problem.remedy,
                )
            )
            if beside:
                found = foreseen(session, found, dimensions)
        works.append(_count(session, found))
    if not works and not check:
        raise AlignError(
            "There is no table to embed.",
            object_name=f"{session.target.name}: {', '.join(session.context.schemas)}",
            expected=" or ".join(kind.table for kind in KINDS),
            found="neither",
            remedy="Run the schema phase, or correct archon_schema_names.",
            code="embedding_tables_missing",
        )
    return vector, works, findings


def _absent(session: Session, kind: Kind) -> Finding:
    return Finding(
        "embedding_table_missing",
        "info" if session.context.check else "warning",
        f"{session.context.schemas[0]}.{kind.table}",
        "The table does not exist, so nothing of it is embedded.",
        "Run the schema phase; if DEV lacks the table too, nothing is lost.",
    )


def _obstacle(session: Session, found: EmbeddedTable, dimensions: int) -> AlignError | None:
    """Why this table cannot take vectors of `dimensions` yet, or None."""
    name = f"{session.target.name}: {found.table}"
    remedy = "Run the schema phase (--tags schema) first."
    if found.missing_columns:
        wrong = found.declared and found.missing_columns == ("embedding",)
        return AlignError(
            "A table lacks columns that embeddings need.",
            object_name=name,
            expected=f"columns {', '.join(('id', *found.kind.columns))} and embedding of pgvector's type vector",
            found=f"embedding of type {found.declared}" if wrong else f"no {', '.join(found.missing_columns)}",
            remedy=remedy,
            code="embedding_column_missing",
        )
    if found.dimensions not in (None, dimensions):
        return AlignError(
            "The embedding column has another dimension than the model.",
            object_name=f"{name}.embedding",
            expected=f"vector({dimensions})",
            found=found.declared,
            remedy=f"{remedy[:-1]}, or correct archon_embedding_dimensions.",
            code="embedding_column_dimension",
        )
    return None


def foreseen(session: Session, found: EmbeddedTable, dimensions: int) -> EmbeddedTable:
    """`found` as the schema phase will leave it in a run: beside vectors of another dimension there will be a column."""
    context = session.context
    if found.missing_columns or found.dimensions in (None, dimensions) or found.table in context.protected:
        return found
    query = sql.SQL("SELECT EXISTS (SELECT FROM {} AS page WHERE {} IS NOT NULL)")
    if not session.value(query.format(found.table.identifier, found.vector)):
        return found
    with open_session(context, context.dev, read_only=True) as dev:
        wanted = find_table(dev, found.kind, vector_type(dev))
        if wanted is None or wanted.dimensions != dimensions:
            return found
        taken = {*columns_of(dev, wanted.table), *columns_of(session, found.table)}
    name = free_name(COLUMN, taken)
    return replace(found, column=name, missing_columns=(name,), dimensions=dimensions)


def _count(session: Session, found: EmbeddedTable) -> Work:
    without: sql.Composable = sql.SQL("")
    if found.column not in found.missing_columns:
        without = sql.SQL("WHERE {} IS NULL").format(found.vector)
    blank = sql.SQL("false") if "content" in found.missing_columns else found.blank
    row = session.row(
        sql.SQL(
            "SELECT count(*) AS missing, count(*) FILTER (WHERE {blank}) AS blank FROM {table} AS page {without}"
        ).format(blank=blank, table=found.table.identifier, without=without)
    )
    assert row is not None  # an aggregate always yields a row
    return Work(found, row["missing"], row["blank"])


def index_in_the_way(session: Session, work: Work) -> list[Finding]:
    """A finding for each index that would slow down writing that many vectors, and what can be done about it."""
    if work.missing < _MANY_ROWS or work.found.missing_columns:
        return []
    schema = work.found.table.schema
    return [
        Finding(
            "embedding_index_in_the_way",
            "warning",
            f"{schema}.{one.name}",
            f"Each of the {work.missing:,} vectors is put into this {one.method} index as it is written, which takes far longer than"
            " building the index afterwards.",
            "To be much faster, drop it before the run, and search does without it until the end of this phase, which builds a new one: "
            + sql.SQL("DROP INDEX CONCURRENTLY {}").format(sql.Identifier(schema, one.name)).as_string(None),
        )
        for one in indexes(session, work.found)
        if one.method == METHOD
    ]
