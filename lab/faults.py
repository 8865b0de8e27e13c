"""Ways in which the lab's embedding service can be made to misbehave, for tests and drills."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Literal, get_args

BadVector = Literal["nan", "infinity", "zero"]


@dataclass(frozen=True)
class Faults:
    """What goes wrong with embedding requests. The default is a healthy service.

    `marker` limits `bad_vector` and `fail_marked` to texts that contain it. `first` limits everything but latency to that many
    embedding requests, after which the service is healthy again.
    """

    status: int | None = None  # answer with this HTTP status
    hang: bool = False  # accept the request and never answer
    malformed: bool = False  # answer 200 with JSON that breaks off
    dimension: int | None = None  # answer with vectors of this size
    bad_vector: BadVector | None = None
    fail_marked: bool = False  # refuse requests with a marked text, as Ollama does for the whole request
    marker: str = ""
    shuffled: bool = False  # /v1 only: vectors in reverse order, each with its true index
    drop_last: bool = False  # one vector fewer than texts
    refuse_long: bool = False  # /v1 too refuses texts beyond the context, as Ollama from 0.13.5 on does for some
    other_model: bool = False  # another digest and other vectors under the same name
    chat_model: bool = False  # the model is made for chatting: it has no embeddings, and /api/show says so
    model_missing: bool = False  # until it is pulled
    pull_error: str = ""  # a pull ends with these words, inside its 200 stream
    pull_cuts: int = 0  # so many pulls break off half-way; each further one continues where the last one ended
    pull_stall: bool = False  # a pull says the same for ever
    pull_seconds: float = 0.0  # what a pull takes
    latency: float = 0.0  # seconds per request, while its slot is held
    latency_per_text: float = 0.0  # seconds
    first: int | None = None

    @classmethod
    def from_mapping(cls, values: Mapping[str, object]) -> Faults:
        """Faults from a JSON object. Raises ValueError naming what is unknown or of the wrong kind."""
        known = {field.name for field in fields(cls)}
        if unknown := sorted(set(values) - known):
            raise ValueError(f"unknown faults {unknown}; known are {sorted(known)}")
        if values.get("bad_vector") not in (None, *get_args(BadVector)):
            raise ValueError(f"bad_vector must be one of {get_args(BadVector)}")
        faults = cls(**values)  # type: ignore[arg-type]
        for name in ("status", "dimension", "first", "pull_cuts"):
            if not isinstance(getattr(faults, name), int | None):
                raise ValueError(f"{name} must be an integer")
        for name in ("marker", "pull_error"):
            if not isinstance(getattr(faults, name), str):
                raise ValueError(f"{name} must be a string")
        return faults

    def concerns(self, text: str) -> bool:
        """Whether `bad_vector` and `fail_marked` apply to this text."""
        return self.marker in text

    def after_request(self) -> Faults:
        """The faults that remain after one more embedding request."""
        if self.first is None:
            return self
        if self.first > 1:
            return replace(self, first=self.first - 1)
        return Faults(latency=self.latency, latency_per_text=self.latency_per_text)
