"""Everything that a check asks: the database, archon-server, and the embedding service."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ...application.server import Archon
from ...database.session import Session
from ...embedding.client import EmbeddingClient
from ...embedding.search import Vector
from ...errors import AlignError
from ...web.wire import Unreachable
from .model import Options
from .stored import wrong_settings


@dataclass(frozen=True, slots=True)
class World:
    """One look at PROD. `provider` is Archon's name of the embedding provider."""

    session: Session
    archon: Archon
    options: Options
    provider: str

    def embedded(self, texts: Sequence[str]) -> list[Vector]:
        """The service's own vectors of `texts`, as Archon would get them. Raises AlignError."""
        with EmbeddingClient(self.options.endpoint) as client:
            try:
                return list(client.introduce(list(texts)))
            except AlignError as error:
                raise Unreachable(
                    "The embedding service does not answer here, so what Archon says cannot be compared.",
                    object_name=error.object_name,
                    expected=error.expected,
                    found=error.found,
                    remedy="Let this machine reach archon_embedding_base_url.",
                    code="embedding_unreachable",
                ) from error

    def blame(self, *, search: bool) -> tuple[str, bool]:
        """Why archon-server does not embed, as far as the database tells, and whether a run could mend it."""
        wrong = wrong_settings(self.session, self.options.endpoint, self.provider, search=search)
        if wrong:
            reads = "search reads" if search else "ingest reads"
            return (
                f"of the settings that {reads}, {'; '.join(wrong)}. Run the data phase, then restart archon-server.",
                True,
            )
        why = (
            "the settings are as wanted, so archon-server works by others: it keeps those it was started with, and its"
            " environment overrides some. Restart it, and see what the services phase tells."
        )
        return why, False
