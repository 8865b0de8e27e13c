"""The proof of search as a whole: whom to ask, what to ask, and what the answers say."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace

from psycopg import errors as pg
from psycopg import sql

from ..database.failures import server_error
from ..database.session import Session
from ..errors import AlignError
from ..findings import Finding
from .asking import LOGIN, ROLE, Asking
from .client import EmbeddingClient
from .endpoint import Endpoint
from .failures import RequestRejected, SearchBroken
from .functions import Access, Function, access, find_function
from .known_items import Items, sampled_queries
from .patience import patient
from .recall import NEIGHBOURS, Sample, through_function
from .search import RESULTS, FunctionFailed, Proof, Query, embedded, failing, prove
from .tables import EmbeddedTable, VectorType

# Of queries sampled from the pages, fewer hits than these are what a search by wrong vectors gives.
_NEARLY_NOTHING = 0.2
# A page asked for by its own text is found, or its vector is not that of its text.
_OWN_TEXT = 0.9
# Reading the direction of every vector takes as long as an exact scan.
_FEW_ROWS = 50_000


@dataclass(frozen=True, slots=True)
class Demands:
    """What search must give: of a query file's queries `min_recall`, of what Archon's functions return of the true
    neighbours `index_min_recall`."""

    endpoint: Endpoint
    pauses: tuple[float, ...]
    queries_file: str
    min_recall: float
    index_min_recall: float


@dataclass(frozen=True, slots=True)
class Searched:
    """A table with vectors, how many there are, and a sample of them (None where drawing one took too long)."""

    found: EmbeddedTable
    vectors: int
    sample: Sample | None


@dataclass(slots=True)
class Verdict:
    """What the proof gave; `recalls` are those through each table's function."""

    proof: Proof | None = None
    error: AlignError | None = None
    findings: list[Finding] = field(default_factory=list)
    recalls: dict[str, float] = field(default_factory=dict)
    passages: int = 0
    postponed: tuple[str, str] | None = None


def prove_search(
    session: Session,
    tables: Sequence[Searched],
    vector: VectorType,
    asking: Asking,
    queries: Sequence[Query],
    demands: Demands,
) -> Verdict:
    """Ask Archon's functions as Archon does, with a file's `queries` or, without any, with some sampled from the tables.

    Raises what the service raises, and AlignError when the connection is lost.
    """
    verdict = Verdict()
    functions: dict[str, Function] = {}
    for table in tables:
        kind = table.found.kind
        lookup = find_function(session, kind)
        if lookup.function is None:
            if session.context.check:
                verdict.postponed = (kind.function, "the function does not exist yet")
                return verdict
            verdict.error = broken(
                f"{session.target.name}: {kind.function}(query_embedding, match_count, filter, …)",
                f"the function in {', '.join(session.context.schemas)}",
                lookup.problem,
                "Run the schema phase; if DEV lacks it too, create it there as Archon's setup does.",
            )
            return verdict
        functions[kind.function] = lookup.function
    reach = {
        table.found.kind.function: access(session, asking, functions[table.found.kind.function], table.found, vector)
        for table in tables
    }
    for name, one in reach.items():
        if one.grants:
            verdict.error = _unprivileged(functions[name], one)
            return verdict
    verdict.findings += _not_as_archon(
        session, asking, [functions[name] for name, one in reach.items() if one.may_hide]
    )
    verdict.findings += [finding for table in tables for finding in _directionless(session, table, vector)]
    try:
        _prove(session, tables, vector, asking, queries, demands, functions, reach, verdict)
    except FunctionFailed as failed:
        verdict.error = _failed(session, asking, failed)
    return verdict


def _prove(
    session: Session,
    tables: Sequence[Searched],
    vector: VectorType,
    asking: Asking,
    queries: Sequence[Query],
    demands: Demands,
    functions: Mapping[str, Function],
    reach: Mapping[str, Access],
    verdict: Verdict,
) -> None:
    for table in tables:
        if table.sample is None:
            continue
        name = table.found.kind.function
        with failing(functions[name]):
            recall = through_function(session, table.found, vector, table.sample, asking, functions[name])
        verdict.recalls[str(table.found.table)] = recall
        if recall < demands.index_min_recall:
            verdict.findings.append(_function_misses(functions[name], reach[name], recall, demands.index_min_recall))
    asked = [query for query in queries if query.kind.function in functions]
    if len(asked) < len(queries):
        verdict.findings.append(_skipped(demands.queries_file, len(queries) - len(asked)))
    items = Items((), ())
    if not queries:
        sampled = [sampled_queries(session, table.found) for table in tables]
        items = Items(
            tuple(query for one in sampled for query in one.queries),
            tuple(text for one in sampled for text in one.texts),
            sum(one.passages for one in sampled),
        )
        asked = list(items.queries)
        verdict.passages = items.passages
    if not asked:
        if tables and not queries:
            verdict.findings.append(_nothing_to_ask(tables))
        return
    with EmbeddingClient(demands.endpoint) as client:
        embed = patient(client, demands.pauses)
        proof = prove(session, asked, embedded(asked, embed), functions, asking)
        verdict.proof = proof
        hidden = sorted({one.reader for one in reach.values() if one.may_hide})
        verdict.error = _judge(proof, demands, hidden, sampled=not queries)
        if verdict.error is not None or queries or (proof.recall or 0) >= demands.min_recall:
            return
        # The model may be weak on such texts, or the vectors may not be theirs: a page's own text tells which.
        own = [replace(query, text=text, holds=None) for query, text in zip(items.queries, items.texts, strict=True)]
        by_own: float | None = None
        with suppress(RequestRejected):  # a service that takes no long texts leaves it open
            by_own = prove(session, own, embedded(own, embed), functions, asking).recall
    if by_own is not None and by_own < _OWN_TEXT:
        name = f"recall@{RESULTS} of pages asked for by their own text"
        verdict.error = _broken_proof(name, f"at least {_OWN_TEXT:.2f}", f"{by_own:.2f}", hidden)
    else:
        verdict.findings.append(_weak(proof, by_own))


def _judge(proof: Proof, demands: Demands, hidden: Sequence[str], *, sampled: bool) -> AlignError | None:
    """What is wrong for sure, or None."""
    if proof.null_similarities:
        return broken(
            "vector search",
            "a similarity for every result",
            f"{proof.null_similarities} results without, which make Archon drop the whole answer",
            "Rows without embedding reach the results: rebuild them, or delete the quarantined ones.",
        )
    recall = proof.recall or 0.0
    if recall >= demands.min_recall or (sampled and recall >= _NEARLY_NOTHING):
        return None
    return _broken_proof(
        f"recall@{RESULTS} of {demands.queries_file or 'queries sampled from the pages'}",
        f"at least {demands.min_recall:.2f}",
        _told(proof),
        hidden,
    )


def _broken_proof(name: str, expected: str, found: str, hidden: Sequence[str]) -> SearchBroken:
    remedy = "Check that the vectors come from archon_embedding_model and the queries fit PROD's content."
    if hidden:
        remedy = (
            f"Row-level security hides rows from {', '.join(hidden)}, as which the functions read: look at the tables'"
            f" policies first. {remedy}"
        )
    return broken(name, expected, found, remedy)


def _told(proof: Proof) -> str:
    return f"{proof.recall:.2f} ({proof.hits} of {proof.queries}); missed: {'; '.join(proof.missed[:3])}"[:400]


def _weak(proof: Proof, own: float | None) -> Finding:
    same = (
        "" if own is None else f" Asked for by their own text {own:.2f} of the pages are found, so that search works."
    )
    return Finding(
        "search_recall_sampled",
        "warning",
        "vector search",
        f"Queries sampled from the pages have recall@{RESULTS} {_told(proof)}.{same}",
        "Write a query file (archon_search_queries_file) to judge search by questions of your own.",
    )


def _unprivileged(function: Function, lacking: Access) -> AlignError:
    return SearchBroken(
        "Archon's role may not search.",
        object_name=str(function),
        expected=f"the privileges that {ROLE} (reading as {lacking.reader}) needs to call it and to read its table",
        found="permission denied: some are missing, so that Archon's vector search is silently empty",
        remedy=f"{'; '.join(lacking.grants)}.",
        code="missing_privilege",
    )


def _failed(session: Session, asking: Asking, failed: FunctionFailed) -> AlignError:
    """A function's error in words that say what to do. A connection that is lost is not the function's fault."""
    error, function = failed.error, failed.function
    told = server_error(session.target, error, doing="searching as Archon does", object_name=str(function))
    if session.connection.closed or session.connection.broken:
        return told
    remedy = told.remedy
    limit = asking.settings.get("statement_timeout")
    if isinstance(error, pg.QueryCanceled):
        remedy = "A search takes too long: see to its index (findings), or raise "
        remedy += (
            f"the statement_timeout of {asking.login or LOGIN} ({limit})." if limit else "archon_statement_timeout."
        )
    elif isinstance(error, pg.UndefinedFunction):
        path = ", ".join((function.schema, *asking.path))
        remedy = f"What the function calls is not in the search_path of Archon's requests ({path}): give it its own (ALTER FUNCTION … SET search_path)."
    elif "different vector dimensions" in told.found:
        remedy = "The function casts to, or its table has, another dimension than archon_embedding_dimensions: run the schema phase."
    elif not isinstance(error, pg.InsufficientPrivilege):
        remedy = "Correct the function, as DEV has it: the schema phase compares the two."
    return SearchBroken(
        "Archon's search function fails, which Archon shows as an empty answer.",
        object_name=f"{function}({function.arguments})",
        expected="an answer",
        found=told.found,
        remedy=remedy,
        code="missing_privilege" if isinstance(error, pg.InsufficientPrivilege) else "search_broken",
    )


def _function_misses(function: Function, reach: Access, recall: float, wanted: float) -> Finding:
    causes = []
    if reach.may_hide:
        causes.append(f"row-level security may hide rows from {reach.reader}")
    if function.config:
        causes.append(f"the function sets {', '.join(function.config)}")
    return Finding(
        "search_function_recall",
        "warning",
        str(function),
        f"Of the {NEIGHBOURS} nearest rows it returns {recall:.2f}, below {wanted:.2f}"
        + (f": {'; '.join(causes)}." if causes else ": its own conditions leave rows out, or its index misses them."),
        "Compare it with DEV's; what it filters, and what it sets for hnsw.ef_search or ivfflat.probes, decides.",
    )


def _not_as_archon(session: Session, asking: Asking, hiding: Sequence[Function]) -> list[Finding]:
    """What to tell where Archon's role is there and cannot be taken: the catalogue alone speaks for it."""
    if asking.role or not asking.exists:
        return []
    hidden = f" Row-level security may hide rows from it in {', '.join(map(str, hiding))}." if hiding else ""
    return [
        Finding(
            "search_not_as_archon",
            "warning" if hiding else "info",
            f"{session.target.name}: {ROLE}",
            f"Search was proved as {session.connection.info.user}: {asking.why}. By the catalogue {ROLE} has the privileges it needs.{hidden}",
            f"GRANT {ROLE} TO {session.connection.info.user}, to have search proved as Archon does it.",
        )
    ]


def _directionless(session: Session, table: Searched, vector: VectorType) -> list[Finding]:
    """Vectors of zeros, which no cosine search can rank."""
    if table.vectors > _FEW_ROWS:
        return []
    norm = sql.Identifier(vector.schema, "vector_norm")
    count = session.value(
        sql.SQL("SELECT count(*) FROM {} AS page WHERE {}({}) = 0").format(
            table.found.table.identifier, norm, table.found.vector
        )
    )
    if not count:
        return []
    statement = sql.SQL("UPDATE {} SET {} = NULL WHERE {}({}) = 0").format(
        table.found.table.identifier, sql.Identifier(table.found.column), norm, sql.Identifier(table.found.column)
    )
    return [
        Finding(
            "search_zero_vectors",
            "warning",
            str(table.found.table),
            f"{count} rows have a vector of zeros: no search finds them, and no index holds them.",
            f"{statement.as_string(None)}; and run the embeddings phase again.",
        )
    ]


def _skipped(file: str, count: int) -> Finding:
    return Finding(
        "search_queries_skipped",
        "warning",
        file,
        f"{count} queries are about a table that is empty or missing.",
        "Use a query file that fits PROD's content.",
    )


def _nothing_to_ask(tables: Sequence[Searched]) -> Finding:
    return Finding(
        "search_unproved",
        "warning",
        ", ".join(str(table.found.table) for table in tables),
        "No page has a sentence or passage of its own, so that none can be asked for.",
        "Write a query file (archon_search_queries_file) to have search proved.",
    )


def broken(name: str, expected: str, found: str, remedy: str) -> SearchBroken:
    return SearchBroken(
        "Vector search does not work as it must.",
        object_name=name,
        expected=expected,
        found=found,
        remedy=remedy,
        code="search_broken",
    )
