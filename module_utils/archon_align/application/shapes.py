"""What archon-server answers, as far as it is used here. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Condition = Literal["not_listening", "untrusted", "starting", "ready", "not_archon"]


@dataclass(frozen=True, slots=True)
class Health:
    """What /health says. Archon listens only once its start is complete, so `not_listening` is what a starting one looks like;
    `untrusted` is whoever has a certificate that is not the right one.
    """

    condition: Condition
    text: str

    @property
    def ready(self) -> bool:
        return self.condition == "ready"


@dataclass(frozen=True, slots=True)
class Hit:
    """One result of a query. `similarity` is invented for keyword hits of a hybrid search."""

    id: str
    content: str
    similarity: float
    source_id: str
    metadata: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer to a query; `mode` is `vector` or `hybrid`. Archon answers with success and no hits when it could not embed."""

    hits: tuple[Hit, ...]
    mode: str
    success: bool
    error: str = ""


@dataclass(frozen=True, slots=True)
class Source:
    """One source of knowledge."""

    source_id: str
    title: str
    words: int


@dataclass(frozen=True, slots=True)
class Project:
    """One project, with all that the server tells of it."""

    id: str
    title: str
    raw: Mapping[str, Any] = field(default_factory=dict, repr=False)


@dataclass(frozen=True, slots=True)
class Task:
    """One task, with all that the server tells of it (a list tells less than one by its id)."""

    id: str
    project_id: str
    title: str
    description: str
    status: str
    metadata: Mapping[str, Any] = field(default_factory=dict)
    raw: Mapping[str, Any] = field(default_factory=dict, repr=False)


def hit_of(given: Mapping[str, Any]) -> Hit:
    """A page or a code example. Raises KeyError, TypeError, AttributeError, ValueError for what is none."""
    metadata = given.get("metadata") or {}
    score = given.get("similarity_score", given.get("similarity"))
    return Hit(
        id=str(given.get("id", "")),
        content=str(given.get("content", given.get("code", ""))),
        similarity=float(score or 0.0),
        source_id=str(given.get("source_id") or metadata.get("source_id") or ""),
        metadata=dict(metadata),
    )


def source_of(given: Mapping[str, Any]) -> Source:
    """Raises KeyError, TypeError, ValueError for what is none."""
    return Source(str(given["source_id"]), str(given.get("title") or ""), int(given.get("total_words") or 0))


def project_of(given: Mapping[str, Any]) -> Project:
    """Raises KeyError, TypeError for what is none."""
    return Project(str(given["id"]), str(given["title"]), given)


def task_of(given: Mapping[str, Any]) -> Task:
    """Raises KeyError, TypeError, AttributeError for what is none."""
    return Task(
        id=str(given["id"]),
        project_id=str(given.get("project_id") or ""),
        title=str(given["title"]),
        description=str(given.get("description") or ""),
        status=str(given.get("status") or ""),
        metadata=dict(given.get("template_metadata") or {}),
        raw=given,
    )
