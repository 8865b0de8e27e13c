"""archon-server's HTTP API as its users have it."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any
from urllib.parse import quote

import orjson

from ..errors import AlignError
from ..web.trust import Trust
from ..web.wire import Allowed, BadAnswer, Reply, Server, Unreachable, Wire, bad_answer
from .shapes import Answer, Health, Hit, Project, Source, Task, hit_of, project_of, source_of, task_of

_ID = "[^/]+"
# What check mode sends: what reads. The two queries are POSTs that change nothing.
ALLOWED_IN_CHECK = (
    Allowed("GET", "/health"),
    Allowed("GET", "/api/rag/sources"),
    Allowed("GET", f"/api/projects(/{_ID}(/tasks)?)?"),
    Allowed("GET", f"/api/tasks(/{_ID})?"),
    Allowed("GET", "/api/credentials/categories/rag_strategy"),
    Allowed("POST", "/api/rag/(query|code-examples)"),
)
_SERVICE = "archon-backend"
_PAGE = 50
_MOST_PAGES = 2000
_TRIES = 3
_PAUSE_SECONDS = 0.5
_BUSY = (502, 503, 504)
_POLL_SECONDS = 0.5
_HEALTH_SECONDS = 5.0
_UPLOAD_SECONDS = 120.0


class ArchonRefused(AlignError):
    """archon-server answered with an error. `http_status` is HTTP's."""

    def __init__(self, reply: Reply, what: str, *, remedy: str = "") -> None:
        super().__init__(
            what,
            object_name=reply.where,
            expected="success",
            found=f"{reply.status}: {reply.message()}",
            remedy=remedy or "See archon-server's own message, and its log.",
            code="archon_refused",
        )
        self.http_status = reply.status


class Archon:
    """One archon-server; a context manager. `url` may have a path prefix. In check mode only ALLOWED_IN_CHECK goes out. Seconds."""

    def __init__(self, url: str, trust: Trust | None = None, *, check: bool, timeout: float = 30.0) -> None:
        server = Server("archon-server", url, timeout=timeout, trust=trust or Trust())
        self._wire = Wire(server, allowed=ALLOWED_IN_CHECK if check else None)
        self._timeout = timeout

    def __enter__(self) -> Archon:
        return self

    def __exit__(self, *_: object) -> None:
        self._wire.close()

    def health(self) -> Health:
        """What /health says, the only route that tells whether Archon is ready. Raises nothing for a server that is down."""
        try:
            reply = self._wire.send("GET", "/health", timeout=min(self._timeout, _HEALTH_SECONDS))
            found = reply.json()
        except Unreachable as error:
            return Health("untrusted" if error.code == "tls_untrusted" else "not_listening", error.found)
        except BadAnswer as error:
            return Health("not_archon", error.found)
        if not isinstance(found, dict) or found.get("service") != _SERVICE:
            return Health("not_archon", f"status {reply.status}: {reply.message()}")
        text = str(found.get("message") or found.get("status") or "")
        return Health("ready" if reply.ok and found.get("ready") is True else "starting", text)

    def wait_ready(self, seconds: float) -> Health:
        """Wait until Archon is ready, at most so long; what it said last, ready or not. A certificate does not get better by waiting."""
        deadline = time.monotonic() + seconds
        while True:
            seen = self.health()
            if seen.ready or seen.condition == "untrusted" or time.monotonic() > deadline:
                return seen
            time.sleep(_POLL_SECONDS)

    def require_ready(self) -> None:
        """Raises AlignError when Archon is not."""
        seen = self.health()
        if not seen.ready:
            raise AlignError(
                "archon-server is not ready.",
                object_name=f"archon-server {self._wire.server.shown}",
                expected="ready true from /health",
                found=f"{seen.condition.replace('_', ' ')}: {seen.text}",
                remedy="See that it runs and that the address is archon-server's; it listens only when its start is complete.",
                code="archon_not_ready",
            )

    def upload(
        self, filename: str, content: bytes, *, content_type: str = "text/plain", tags: Sequence[str] = (), knowledge_type: str = "technical"
    ) -> str:  # fmt: skip
        """Hand a document over; its progress id. Archon answers at once and says success whatever becomes of it."""
        reply = self._wire.send(
            "POST",
            "/api/documents/upload",
            files={"file": (filename, content, content_type)},
            data={"tags": orjson.dumps(list(tags)).decode(), "knowledge_type": knowledge_type},
            timeout=max(self._timeout, _UPLOAD_SECONDS),
        )
        found = self._accepted(reply, "A document was not accepted.")
        return str(self._member(reply, found, "progressId"))

    def query(self, text: str, *, match_count: int = 5, source: str | None = None) -> Answer:
        """Search pages as Archon's clients do. No hits may mean that the query could not be embedded."""
        return self._searched("/api/rag/query", text, match_count, source)

    def code_examples(self, text: str, *, match_count: int = 5, source: str | None = None) -> Answer:
        """Search code examples. Raises ArchonRefused where USE_AGENTIC_RAG is off."""
        return self._searched("/api/rag/code-examples", text, match_count, source)

    def sources(self) -> list[Source]:
        reply = self._read("/api/rag/sources")
        found = self._object(reply, reply.json())
        if found.get("success") is False:
            raise ArchonRefused(reply, "archon-server could not read its sources.")
        return self._shaped(reply, found.get("sources"), source_of)

    def projects(self) -> list[Project]:
        reply = self._read("/api/projects")
        return self._shaped(reply, reply.json(), project_of)

    def project(self, project_id: str) -> Project:
        reply = self._read(f"/api/projects/{quote(project_id, safe='')}")
        return self._shaped(reply, [reply.json()], project_of)[0]

    def tasks(self, project_id: str = "", *, include_closed: bool = False) -> list[Task]:
        """All pages of the list. Archived tasks are never in it, done ones only with `include_closed`."""
        found: list[Task] = []
        for page in range(1, _MOST_PAGES):
            asked: dict[str, str | int] = {
                "page": page, "per_page": _PAGE, "include_closed": "true" if include_closed else "false",
            }  # fmt: skip
            if project_id:
                asked["project_id"] = project_id
            reply = self._read("/api/tasks", asked)
            shape = self._object(reply, reply.json())
            more = self._shaped(reply, shape.get("tasks"), task_of)
            found += more
            pagination = shape.get("pagination")
            total = pagination.get("total") if isinstance(pagination, dict) else None
            if not isinstance(total, int):
                raise bad_answer(reply.where, "the total number of tasks", "an answer without it")
            if not more or len(found) >= total:
                break
        return found

    def task(self, task_id: str) -> Task:
        reply = self._read(f"/api/tasks/{quote(task_id, safe='')}")
        return self._shaped(reply, [reply.json()], task_of)[0]

    def create_project(self, title: str, description: str = "") -> Mapping[str, Any]:
        """What the server says; it makes the project in the background in some versions, so look for it by its title."""
        reply = self._wire.send("POST", "/api/projects", json={"title": title, "description": description})
        return self._accepted(reply, "A project was not created.")

    def create_task(self, project_id: str, title: str, description: str, *, template_name: str = "") -> Task:
        """Create a task; with `template_name` its description is expanded, and left as it is where that fails."""
        body: dict[str, Any] = {"project_id": project_id, "title": title, "description": description}
        body |= {"template_name": template_name} if template_name else {"disable_template": True}
        reply = self._wire.send("POST", "/api/tasks", json=body)
        found = self._accepted(reply, "A task was not created.")
        return self._shaped(reply, [self._member(reply, found, "task")], task_of)[0]

    def _searched(self, path: str, text: str, match_count: int, source: str | None) -> Answer:
        body: dict[str, Any] = {"query": text, "match_count": match_count}
        if source:
            body["source"] = source
        reply = self._patiently(lambda: self._wire.send("POST", path, json=body))
        if not reply.ok:
            raise ArchonRefused(reply, "archon-server could not search.")
        found = self._object(reply, reply.json())
        if "results" not in found and "success" not in found:
            raise bad_answer(reply.where, "results or success in it", ", ".join(map(str, found)) or "an empty object")
        hits: list[Hit] = self._shaped(reply, found.get("results") or [], hit_of)
        return Answer(
            tuple(hits),
            str(found.get("search_mode") or ""),
            found.get("success") is True,
            str(found.get("error") or ""),
        )

    def _read(self, path: str, params: Mapping[str, str | int] | None = None) -> Reply:
        reply = self._patiently(lambda: self._wire.send("GET", path, params=params))
        if not reply.ok:
            raise ArchonRefused(reply, "archon-server could not tell.")
        return reply

    @staticmethod
    def _patiently(ask: Callable[[], Reply]) -> Reply:
        """A request that changes nothing, asked again where nobody listened or a gateway said that it is busy."""
        for attempt in range(_TRIES):
            last = attempt == _TRIES - 1
            try:
                reply = ask()
            except Unreachable as error:
                if last or error.code != "unreachable":
                    raise
            else:
                if last or reply.status not in _BUSY:
                    return reply
            time.sleep(_PAUSE_SECONDS * 2**attempt)
        raise AssertionError("the last try returns or raises")

    def _accepted(self, reply: Reply, what: str) -> Mapping[str, Any]:
        if not reply.ok:
            raise ArchonRefused(reply, what)
        found = self._object(reply, reply.json())
        if found.get("success") is False:
            raise ArchonRefused(reply, what)
        return found

    @staticmethod
    def _object(reply: Reply, found: object) -> Mapping[str, Any]:
        if not isinstance(found, dict):
            raise bad_answer(reply.where, "an object", type(found).__name__)
        return found

    @staticmethod
    def _member(reply: Reply, found: Mapping[str, Any], name: str) -> Any:
        if not found.get(name):
            raise bad_answer(reply.where, f"{name} in it", ", ".join(map(str, found)) or "an empty object")
        return found[name]

    @staticmethod
    def _shaped[Shape](reply: Reply, given: Any, shape: Callable[[Mapping[str, Any]], Shape]) -> list[Shape]:
        if not isinstance(given, list):
            raise bad_answer(reply.where, "a list", type(given).__name__)
        try:
            return [shape(one) for one in given]
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise bad_answer(reply.where, "an object in archon-server's shape", type(error).__name__) from None
