"""Which rows are to be embedded: those without a vector, and those of sources whose vectors are stale.

The reader and the writer each ask it for a condition; what it says of a row may change between the two, since users write.
"""

from __future__ import annotations

from dataclasses import dataclass

from psycopg import sql

from .same_model import SAME_COSINE
from .tables import EmbeddedTable, VectorType
from .verification import cosine

SOURCE = "source_id"


@dataclass(frozen=True, slots=True)
class Selection:
    """The rows of one table that are to be embedded.

    Without stale sources, those whose vector is missing. `sources` are stale ones by name, `unnamed` says that the rows of
    no source are stale, `whole` that all rows are (the table knows no sources).
    """

    sources: tuple[str, ...] = ()
    unnamed: bool = False
    whole: bool = False

    @property
    def replaces_any(self) -> bool:
        """Whether vectors that are there may be replaced."""
        return bool(self.sources) or self.unnamed or self.whole

    def wanted(self, found: EmbeddedTable) -> sql.Composable:
        """Whether a row (called `page`) is to be read and embedded."""
        missing = sql.SQL("{} IS NULL").format(found.vector)
        return sql.SQL("({} OR {})").format(missing, self._stale()) if self.replaces_any else missing

    def replaces(self, found: EmbeddedTable, vector: VectorType) -> sql.Composable:
        """Whether a row (called `page`) is to get the vector `fresh.embedding`.

        It is where it has none; in a stale source also where what it has is another one.
        """
        missing = sql.SQL("{} IS NULL").format(found.vector)
        if not self.replaces_any:
            return missing
        return sql.SQL("CASE WHEN {missing} THEN true WHEN {stale} THEN {cosine} < {same} ELSE false END").format(
            missing=missing, stale=self._stale(), cosine=cosine(found, vector), same=sql.Literal(SAME_COSINE)
        )

    def _stale(self) -> sql.Composable:
        if self.whole:
            return sql.SQL("true")
        source = sql.Identifier("page", SOURCE)
        named = sql.SQL('({}::text COLLATE pg_catalog."C" = ANY ({}::text[])) IS TRUE').format(
            source, sql.Literal(list(self.sources))
        )
        unnamed = sql.SQL("{} IS NULL").format(source)
        if self.unnamed:
            return sql.SQL("({} OR {})").format(named, unnamed) if self.sources else unnamed
        return named
