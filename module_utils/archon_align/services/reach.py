"""The plan's reachability test where it counts: POST {base URL}/embeddings from inside archon-server's container, and from here."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ..docker.engine import Engine, EngineRefused
from ..errors import AlignError
from ..findings import Finding
from ..settings.wanted import is_secret, shown
from ..web.wire import Server, Wire
from . import inside
from .effective import Effective

INPUT = ["test"]


@dataclass(frozen=True, slots=True)
class Call:
    """One call that archon-server makes: `use` is ingest or search. `dimensions` is '' where none are sent."""

    use: str
    url: str
    model: str
    dimensions: str


@dataclass(frozen=True, slots=True)
class Answer:
    """What came of it: a vector of `dimension` numbers after so many seconds, or a `problem`."""

    dimension: int = 0
    seconds: float = 0.0
    problem: str = ""

    @property
    def reached(self) -> bool:
        return not self.problem

    def as_dict(self) -> dict[str, Any]:
        return {"ok": self.reached, "dimension": self.dimension, "seconds": self.seconds, "problem": self.problem}


@dataclass(frozen=True, slots=True)
class Tested:
    """A call tried from inside the container and from here; None where it was not, and why in `not_tried`."""

    call: Call
    inside: Answer | None
    here: Answer | None
    not_tried: str = ""

    def as_dict(self) -> dict[str, Any]:
        return {
            "use": self.call.use,
            "url": shown("URL", self.call.url),
            "model": self.call.model,
            "from_container": self.inside.as_dict() if self.inside else None,
            "from_here": self.here.as_dict() if self.here else None,
            "not_tried": self.not_tried,
        }


def calls(used: Effective) -> list[Call]:
    """The two calls by what archon-server uses."""
    ingest, search = used.ingest, used.search
    return [
        Call("ingest", ingest.base_url.value.rstrip("/"), ingest.model.value, ingest.dimensions.value),
        Call("search", search.base_url.value.rstrip("/"), search.model.value, ""),
    ]


def test(engine: Engine | None, container_id: str, wanted: Sequence[Call], *, seconds: float) -> list[Tested]:
    """Try each call from both places. Nothing secret is sent: an address with a password in it is not tried."""
    known: dict[tuple[str, str, str], tuple[Answer | None, Answer | None, str]] = {}
    tested = []
    for call in wanted:
        key = (call.url, call.model, call.dimensions)
        if key not in known:
            known[key] = _try(engine, container_id, call, seconds)
        tested.append(Tested(call, *known[key]))
    return tested


def _try(
    engine: Engine | None, container_id: str, call: Call, seconds: float
) -> tuple[Answer | None, Answer | None, str]:
    if is_secret("URL", call.url):
        return None, None, "the address holds a password, which would be seen in the container's process list"
    there, why = None, "no container of archon-server is known"
    if engine is not None and container_id:
        there, why = _inside(engine, container_id, call, seconds)
    return there, _here(call, seconds), why


def _inside(engine: Engine, container_id: str, call: Call, seconds: float) -> tuple[Answer | None, str]:
    arguments = (call.url, call.model, call.dimensions, f"{seconds:g}")
    try:
        told = inside.run(engine, container_id, inside.EMBED, *arguments, timeout=seconds + 15)
    except EngineRefused as refused:
        return None, f"running a command in the container is not allowed: {refused.found}"
    except AlignError as error:
        return None, f"the command in the container did not end: {error.found}"
    if "status" not in told:
        return None, str(told.get("error", "the test gave no answer"))
    return _answer(
        int(told.get("status") or 0),
        int(told.get("dimension") or 0),
        told.get("error"),
        float(told.get("seconds") or 0),
    ), ""


def _answer(status: int, dimension: int, error: object, seconds: float) -> Answer:
    if dimension:
        return Answer(dimension, round(seconds, 3))
    text = " ".join(str(error or "no vector").split())[:200]
    return Answer(0, round(seconds, 3), f"{status}: {text}" if status else text)


def _here(call: Call, seconds: float) -> Answer:
    body: dict[str, object] = {"model": call.model, "input": INPUT}
    if call.dimensions.isdigit():
        body["dimensions"] = int(call.dimensions)
    begun = time.monotonic()
    try:
        with Wire(Server("Embedding service", call.url, timeout=seconds)) as wire:
            reply = wire.send("POST", "/embeddings", json=body)
            found = reply.json() if reply.ok else None
    except AlignError as error:
        return Answer(0, round(time.monotonic() - begun, 3), f"{error.code}: {error.found}")
    try:
        dimension = len(found["data"][0]["embedding"]) if found else 0
    except (KeyError, IndexError, TypeError):
        dimension = 0
    return _answer(reply.status, dimension, reply.message(), time.monotonic() - begun)


def findings(tested: Sequence[Tested], service: str, *, expected_here: bool = False) -> list[Finding]:
    """What a person should know: where production's container does not reach what it needs.

    `expected_here`: nobody can ask in the container, and that this machine reaches it will do.
    """
    told = []
    for one in tested:
        consequence = (
            "uploads report success and store no page"
            if one.call.use == "ingest"
            else "searches return nothing, with status 200 and success"
        )
        url = shown("URL", one.call.url)
        what = f"{service}: {one.call.use} at {url}"
        if one.inside is not None and not one.inside.reached:
            here = "while this machine can" if one.here and one.here.reached else "and neither can this machine"
            told.append(
                Finding(
                    "embedding_not_reached_inside",
                    "error",
                    what,
                    f"The server's container cannot get a vector of {one.call.model or 'no model'} there ({one.inside.problem}), "
                    f"{here}: {consequence}.",
                    "See that the container's network leads there, that its name resolves inside, and that the model is there.",
                )
            )
        elif one.inside is None and one.not_tried and not (expected_here and one.here and one.here.reached):
            told.append(
                Finding(
                    "not_tested_inside",
                    "warning" if one.here is None or not one.here.reached else "info",
                    what,
                    f"Whether the server's container reaches it was not tested: {one.not_tried}. From here "
                    + _from_here(one.here),
                    "Let this user run commands in the container (exec), or test it by hand inside.",
                )
            )
    return told


def _from_here(answer: Answer | None) -> str:
    if answer is None:
        return "it was not tried either."
    return "it answers." if answer.reached else f"it does not answer ({answer.problem})."


def nobody(tested: Sequence[Tested]) -> AlignError | None:
    """The error for a service that neither the container nor this machine reaches, None when one of them does."""
    for one in tested:
        tried = [answer for answer in (one.inside, one.here) if answer is not None]
        if tried and not any(answer.reached for answer in tried):
            return AlignError(
                "The embedding service is not reached from anywhere.",
                object_name=f"{one.call.use} at {shown('URL', one.call.url)}",
                expected=f"a vector of {one.call.model} from POST /embeddings",
                found="; ".join(dict.fromkeys(answer.problem for answer in tried)),
                remedy="Start the service, pull the model, or correct archon_embedding_base_url.",
                code="embedding_not_reached",
            )
    return None
