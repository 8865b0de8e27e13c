"""Search through archon-server, with the evidence that vectors were used: a similarity that equals the cosine computed in SQL,
of a row that has no word of the question. Archon's hybrid search gives keyword hits an invented similarity and no mark."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ...application.server import ArchonRefused
from ...application.shapes import Answer
from ...embedding.search import Vector, read_queries
from ...errors import AlignError
from .model import EXAMPLES as EXAMPLES_NAME
from .model import SEARCH, Check, by_data, in_archon, works
from .stored import (
    EXAMPLES,
    LOWEST_SIMILARITY,
    PAGES,
    Knowledge,
    Near,
    cosines,
    keys_of_examples,
    knowledge,
    nearest,
    samples,
)
from .texts import PARAPHRASE, QUESTIONS, shared_words
from .world import World

# Many, because the invented similarity of keyword hits puts them before what vectors have found.
_HITS = 40
_FROM_FILE = 3
_ENOUGH = 2
# Vectors of two requests, as numbers and in base64, differ in the seventh digit; half-precision models more.
_TOLERANCE = 0.003
_BOOST = 1.2
_SHOWN = 60


@dataclass(frozen=True, slots=True)
class Asked:
    """What one question gave: `proved` pairs of a similarity and the cosine it equals, of rows without a word of the question;
    `boosted` ones raised by a keyword; the rest was invented. `near` is what SQL finds."""

    question: str
    mode: str
    hits: int
    proved: tuple[tuple[float, float], ...]
    boosted: int
    near: tuple[Near, ...]

    @property
    def expected(self) -> int:
        return sum((one.similarity or 0.0) >= LOWEST_SIMILARITY for one in self.near)

    @property
    def without_vector(self) -> int:
        return sum(one.similarity is None for one in self.near)


def check_search(world: World, *, canary: bool) -> Check:
    """POST /api/rag/query. Raises AlignError where something does not answer."""
    known = knowledge(world.session, PAGES)
    if cannot := _unsearchable(SEARCH, known, "page"):
        return cannot
    questions = [*_questions(world, canary), *samples(world.session, known)]
    asked: list[Asked] = []
    for question, vector in zip(questions, world.embedded(questions), strict=True):
        asked.append(_ask(world, known, question, vector, world.archon.query(question, match_count=_HITS)))
        if asked[-1].proved or _in_vain(asked):
            break
    return _judged(world, SEARCH, asked)


def check_examples(world: World) -> Check | None:
    """POST /api/rag/code-examples; None where there are none to find."""
    known = knowledge(world.session, EXAMPLES)
    if not known.rows:
        return None
    if cannot := _unsearchable(EXAMPLES_NAME, known, "code example"):
        return cannot
    questions = [*samples(world.session, known), *QUESTIONS[:2]]
    asked: list[Asked] = []
    for question, vector in zip(questions, world.embedded(questions), strict=True):
        try:
            answer = world.archon.code_examples(question, match_count=_HITS)
        except ArchonRefused as error:
            if error.http_status != 500:
                raise
            return in_archon(
                EXAMPLES_NAME, "code_examples_500", f"{error.found}. Archon answers so where USE_AGENTIC_RAG is off."
            )
        asked.append(_ask(world, known, question, vector, answer))
        if asked[-1].proved or _in_vain(asked):
            break
    return _judged(world, EXAMPLES_NAME, asked)


def _in_vain(asked: Sequence[Asked]) -> bool:
    """Whether Archon finds nothing where there is something: where it cannot embed, each question takes it long."""
    return len(asked) >= _ENOUGH and not any(one.hits for one in asked) and any(one.expected for one in asked)


def _unsearchable(name: str, known: Knowledge, what: str) -> Check | None:
    if known.problem:
        return by_data(name, f"Nothing can be found: {known.problem}. Run all phases.", mendable=True)
    if not known.embedded:
        none = f"not one {what} of {known.rows} has an embedding" if known.rows else f"there is no {what}"
        return by_data(name, f"Nothing can be found: {none}. Run the embeddings phase.", mendable=bool(known.rows))
    return None


def _questions(world: World, canary: bool) -> list[str]:
    given: list[str] = []
    if world.options.queries_file:
        given = [query.text for query in read_queries(world.options.queries_file) if query.kind is PAGES][:_FROM_FILE]
    return [*([PARAPHRASE] if canary else []), *given, *QUESTIONS]


def _ask(world: World, known: Knowledge, question: str, vector: Vector, answer: Answer) -> Asked:
    # Hybrid search asks its function for twice as many.
    near = nearest(world.session, known, vector, _HITS * 2)
    keys = [hit.id for hit in answer.hits]
    if not any(keys):
        by_code = keys_of_examples(world.session, known, [hit.content for hit in answer.hits])
        keys = [by_code.get(hit.content, "") for hit in answer.hits]
    truth = cosines(world.session, known, vector, keys)
    proved, boosted = [], 0
    for key, hit in zip(keys, answer.hits, strict=True):
        cosine, content = truth.get(key, (None, ""))
        if cosine is None:
            continue
        if abs(hit.similarity - cosine) <= _TOLERANCE:
            if not shared_words(question, content):
                proved.append((hit.similarity, cosine))
        elif abs(hit.similarity - min(1.0, cosine * _BOOST)) <= _TOLERANCE:
            boosted += 1
    return Asked(question, answer.mode, len(answer.hits), tuple(proved), boosted, tuple(near))


def _judged(world: World, name: str, asked: Sequence[Asked]) -> Check:
    proving = next((one for one in asked if one.proved), None)
    if proving is not None:
        similarity, cosine = proving.proved[0]
        return works(
            name,
            f"“{_short(proving.question)}” found {proving.hits} rows ({proving.mode or 'vector'} mode), {len(proving.proved)} of them without a"
            f" word of it and with the cosine that SQL computes ({similarity:.4f} and {cosine:.4f}): vectors were used.",
        )
    if any(one.boosted for one in asked):
        number = sum(one.boosted for one in asked)
        return works(
            name,
            f"{number} rows were found with the cosine that SQL computes, raised by {_BOOST} for a keyword: vectors were used.",
        )
    if not any(one.expected for one in asked):
        if any(one.without_vector for one in asked):
            return by_data(
                name,
                "Rows without an embedding stand in the way of the search function. Run the embeddings phase.",
                mendable=True,
            )
        return by_data(
            name,
            "The search function finds nothing near to any question, by SQL neither. Run the embeddings phase.",
            mendable=True,
        )
    hits = sum(one.hits for one in asked)
    seen = (
        f"{hits} hits, not one with the cosine that SQL computes: keyword hits with an invented similarity"
        if hits
        else "success and no hit"
    )
    if any(one.without_vector for one in asked):
        return by_data(
            name,
            f"archon-server answers with {seen}. Rows without an embedding empty its vector search. Run the embeddings phase.",
            mendable=True,
        )
    why, mendable = world.blame(search=True)
    found = max(one.expected for one in asked)
    return by_data(
        name,
        f"archon-server answers with {seen}, where the same questions, embedded by the service, find {found} rows by SQL:"
        f" it cannot embed a question as the pages are embedded. Perhaps {why}"
        if not mendable
        else f"archon-server answers with {seen}, where SQL finds {found} rows: {why}",
        mendable=mendable,
    )


def _short(text: str) -> str:
    return text if len(text) <= _SHOWN else text[: _SHOWN - 1] + "…"


def found_by_paraphrase(world: World, sources: Sequence[str], count: int) -> tuple[int, float] | None:
    """The place (from 1) and similarity of a row of `sources` among what the search function finds for the canary's paraphrase."""
    known = knowledge(world.session, PAGES)
    if known.problem:
        raise AlignError(
            "PROD cannot be searched.", object_name="search", expected="a search function", found=known.problem, remedy="Run all phases.",
        )  # fmt: skip
    (vector,) = world.embedded([PARAPHRASE])
    for place, near in enumerate(nearest(world.session, known, vector, count), 1):
        if near.source_id in sources:
            return place, near.similarity or 0.0
    return None
