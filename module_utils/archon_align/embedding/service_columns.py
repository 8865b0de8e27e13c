"""Whether a service's model fits the columns of the databases."""

from __future__ import annotations

import psycopg

from ..context import Context
from ..database.failures import server_error
from ..database.session import open_session
from ..database.target import Target
from ..errors import AlignError
from ..findings import Finding
from .kinds import KINDS
from .tables import find_table, vector_type


def compare_columns(context: Context, dimensions: int) -> list[Finding]:
    """What is to be said of the columns of PROD and DEV. Raises AlignError where a model of so many dimensions fits neither."""
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
