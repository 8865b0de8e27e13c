"""Texts that exceed what the model reads at once: found, then cut or left out, never cut silently."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from .client import EmbeddingClient
from .failures import RequestTooLong
from .native import OllamaApi
from .vectors import Vectors

Policy = Literal["truncate", "quarantine"]
# The marks that a model puts around a text, and the blank that some tokenizers put before it.
_MARKS = 8
# A text of a million characters gets below 256 tokens in so many halvings.
_CUTS = 12
_CHARACTERS_PER_TOKEN = 8
_NUMBER = re.compile(r"\d+")


@dataclass(frozen=True, slots=True)
class LimitedVectors:
    """What became of one batch: `vectors[row]` belongs to the text at `positions[row]`.

    `truncated` says by position which vectors stand for their text's beginning only. `refused` says why by position for
    each text that has no vector (policy `quarantine`, or nothing of it was accepted).
    """

    positions: Sequence[int]
    vectors: Vectors
    truncated: Mapping[int, str]
    refused: Mapping[int, str]


@dataclass(slots=True)
class _Found:
    """What is known so far of a batch that was refused: vectors by position, and the texts that are too long."""

    vectors: dict[int, Vectors] = field(default_factory=dict)
    too_long: dict[int, RequestTooLong] = field(default_factory=dict)
    truncated: dict[int, str] = field(default_factory=dict)
    refused: dict[int, str] = field(default_factory=dict)

    def as_limited(self, dimensions: int) -> LimitedVectors:
        positions = sorted(self.vectors)
        rows = [self.vectors[place] for place in positions]
        matrix = np.stack(rows) if rows else np.empty((0, dimensions), np.float32)
        return LimitedVectors(positions, matrix, self.truncated, self.refused)


class TextLimit:
    """Embeds batches at one endpoint under `policy`; safe to use from several threads.

    `native` is None where the service does not speak Ollama's own API, `context_length` (tokens) None where it is not
    told.
    """

    def __init__(
        self, client: EmbeddingClient, native: OllamaApi | None, policy: Policy, context_length: int | None
    ) -> None:
        self.client = client
        self.context_length = context_length
        self._native = native
        self._policy = policy

    @classmethod
    def of(cls, client: EmbeddingClient, policy: Policy) -> TextLimit:
        """With the limit that the service tells: Ollama's, or that in vLLM's list of models, or none.

        Raises ServiceUnavailable, and ServiceUnusable when the model is missing or no embedding model.
        """
        native = OllamaApi(client)
        described = native.describe()
        if described is None:
            return cls(client, None, policy, client.context_length())
        return cls(client, native, policy, described.context_length)

    def embed(self, texts: Sequence[str]) -> LimitedVectors:
        """Vectors of `texts`; those that are too long are cut or left out.

        Raises ServiceUnavailable, ServiceUnusable, and RequestRejected for refusals that are not about length.
        """
        suspects = [place for place, text in enumerate(texts) if self._may_be_too_long(text)]
        request = self._native.embed if self._native is not None and suspects else self.client.embed
        try:
            return LimitedVectors(range(len(texts)), request(texts), {}, {})
        except RequestTooLong as error:
            found = _Found()
            if len(texts) == 1:
                found.too_long[0] = error
            else:
                for group in _groups(texts, suspects):
                    _search(request, texts, group, found)
        if self._policy == "quarantine":
            found.refused |= {place: self._too_long(texts[place], why) for place, why in found.too_long.items()}
        elif found.too_long:
            self._truncate(texts, found)
        return found.as_limited(self.client.endpoint.dimensions)

    def _may_be_too_long(self, text: str) -> bool:
        # No token stands for less than a byte, so that a text of few bytes cannot be too long.
        if self.context_length is None or len(text) * 4 <= self.context_length - _MARKS:
            return False
        return len(text.encode("utf-8", "surrogatepass")) > self.context_length - _MARKS

    def _truncate(self, texts: Sequence[str], found: _Found) -> None:
        places = list(found.too_long)
        if self._native is not None:
            try:
                # Ollama's /v1 cuts by itself, exactly at the context's end.
                vectors = self.client.embed([texts[place] for place in places])
            except RequestTooLong:
                pass  # releases from 0.13.5 on refuse some texts that they say they cut
            else:
                for place, vector in zip(places, vectors, strict=True):
                    found.vectors[place] = vector
                    found.truncated[place] = (
                        f"embedded from its beginning, as far as the model's context of {self.context_length} tokens"
                        f" reaches into its {len(texts[place])} characters"
                    )
                return
        for place in places:
            self._cut(place, texts[place], found)

    def _cut(self, place: int, text: str, found: _Found) -> None:
        error, length = found.too_long[place], len(text)
        for turn in range(_CUTS):
            length = self._shorter(length, error, guess=turn == 0)
            if not length:
                break
            try:
                found.vectors[place] = self.client.embed([text[:length]])[0]
            except RequestTooLong as refused:
                error = refused
                continue
            found.truncated[place] = f"embedded from its first {length} of {len(text)} characters"
            return
        found.refused[place] = self._too_long(text, error)

    def _shorter(self, length: int, error: RequestTooLong, *, guess: bool) -> int:
        """How many of `length` characters to try next: what the refusal's numbers suggest, else half."""
        numbers = [int(number) for number in _NUMBER.findall(error.found.partition(":")[2])]
        if guess and len(numbers) > 1 and 0 < min(numbers) < max(numbers):
            share = min(numbers) / max(numbers)
            if share > 1 / 256:
                return int(length * share * 0.9)
        if self.context_length is None:
            return length // 2
        return min(length // 2, self.context_length * _CHARACTERS_PER_TOKEN)

    def _too_long(self, text: str, error: RequestTooLong) -> str:
        limit = f"the model's context of {self.context_length} tokens" if self.context_length else "the model's context"
        return f"too long: its {len(text)} characters exceed {limit} ({error.found})"


def _groups(texts: Sequence[str], suspects: Sequence[int]) -> list[list[int]]:
    """The texts of a refused batch in two parts, the one with the long texts last."""
    suspected = set(suspects)
    harmless = [place for place in range(len(texts)) if place not in suspected]
    if harmless and suspects:
        return [harmless, _longest_first(texts, suspects)]
    return _halves(_longest_first(texts, range(len(texts))))


def _longest_first(texts: Sequence[str], places: Sequence[int]) -> list[int]:
    # Those that are too long stand together then, and few requests find them.
    return sorted(places, key=lambda place: -len(texts[place]))


def _halves(places: list[int]) -> list[list[int]]:
    middle = len(places) // 2
    return [places[:middle], places[middle:]]


def _search(
    request: Callable[[Sequence[str]], Vectors], texts: Sequence[str], places: list[int], found: _Found
) -> None:
    """Embed the texts at `places`, dividing them as long as they are refused for their length."""
    try:
        vectors = request([texts[place] for place in places])
    except RequestTooLong as error:
        if len(places) == 1:
            found.too_long[places[0]] = error
            return
        for half in _halves(places):
            _search(request, texts, half, found)
    else:
        found.vectors.update(zip(places, vectors, strict=True))
