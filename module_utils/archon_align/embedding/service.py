"""The probe: does the embedding service answer the plan's real call, with the right model and dimension?"""

from __future__ import annotations

import time

import psycopg

from ..context import Context
from ..database.failures import server_error
from ..database.session import open_session
from ..database.target import Target
from ..errors import AlignError
from ..findings import Finding
from ..outcome import PhaseOutcome
from .client import EmbeddingClient
from .endpoint import Endpoint
from .kinds import KINDS
from .tables import find_table, vector_type

# The plan's item 4.1, as it stands there.
INPUT = "test"


def probe(endpoint: Endpoint, context: Context | None = None) -> PhaseOutcome:
    """Embed one word. With `context`, the dimension is also compared with the columns of PROD, or of DEV where the
    schema phase has yet to bring PROD's into line.

    It changes nothing. Raises AlignError: ServiceUnavailable, ServiceUnusable, RequestRejected, ConnectionFailed.
    """
    started = time.monotonic()
    findings: list[Finding] = []
    with EmbeddingClient(endpoint) as client:
        client.introduce([INPUT])
        sent = time.monotonic()
        client.embed([INPUT])
        latency = time.monotonic() - sent
        identity = client.identity()
        if not client.unit:
            findings.append(
                Finding(
                    "embedding_not_unit",
                    "info",
                    client.url,
                    "The model's vectors do not have length 1; cosine search does not mind.",
                    "Nothing to do, unless other clients compare by inner product.",
                )
            )
    if context is not None:
        findings += _compare_columns(context, endpoint.dimensions)
    return PhaseOutcome(
        phase="embedding_service",
        status="aligned",
        seconds=time.monotonic() - started,
        findings=findings,
        details={
            "embedding_service": {
                "url": client.url,
                "model": endpoint.model,
                "dimension": endpoint.dimensions,
                "latency_ms": round(latency * 1000, 1),
                "version": identity.version,
                "digest": identity.digest,
            }
        },
    )


def _compare_columns(context: Context, dimensions: int) -> list[Finding]:
    findings = []
    prod = _columns(context, context.prod)
    dev = _columns(context, context.dev)
    for table, declared in (dev | prod).items():
        if declared in (None, dimensions):
            continue
        if table in prod and dev.get(table, declared) in (None, dimensions):
            findings.append(
                Finding(
                    "embedding_column_dimension",
                    "info",
                    f"PROD {table}.embedding",
                    f"The column holds {declared} dimensions, the model gives {dimensions}, as DEV's column does.",
                    "The schema phase brings it into line.",
                )
            )
            continue
        raise AlignError(
            "The embedding model does not fit the databases.",
            object_name=f"{table}.embedding",
            expected=f"a column of the model's {dimensions} dimensions in PROD, or in DEV for the schema phase to copy",
            found=f"PROD {prod.get(table, 'none')}, DEV {dev.get(table, 'none')}",
            remedy="Set archon_embedding_model and archon_embedding_dimensions to what DEV uses.",
            code="embedding_column_dimension",
        )
    return findings


def _columns(context: Context, target: Target) -> dict[str, int | None]:
    """Declared dimensions by table; None where the column declares none."""
    with open_session(context, target, read_only=True) as session:
        try:
            vector = vector_type(session)
        except psycopg.Error as error:
            raise server_error(target, error, doing="looking at embedding columns") from error
        except AlignError:
            return {}  # no pgvector, no column: the schema phase's business
        try:
            found = [find_table(session, kind, vector) for kind in KINDS]
        except psycopg.Error as error:
            raise server_error(target, error, doing="looking at embedding columns") from error
    return {
        table.kind.table: table.dimensions
        for table in found
        if table is not None and "embedding" not in table.missing_columns
    }
