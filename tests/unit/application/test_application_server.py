"""The client of archon-server against servers that are what they are: busy, starting, strange, or none at all."""

from __future__ import annotations

import contextlib
import http.server
import json
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from archon_align.application import server
from archon_align.application.server import Archon, ArchonRefused
from archon_align.web.trust import Trust
from archon_align.web.wire import BadAnswer, NotAllowed, Unreachable

READY = {"status": "healthy", "service": "archon-backend", "ready": True}
Answers = list[tuple[int, Any]]


class Handler(http.server.BaseHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.server.seen.append((self.command, self.path, body))  # type: ignore[attr-defined]
        answers: Answers = self.server.answers  # type: ignore[attr-defined]
        status, content = answers.pop(0) if len(answers) > 1 else answers[0]
        given = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(given)))
        self.end_headers()
        self.wfile.write(given)

    do_POST = do_GET  # noqa: N815


class Scripted:
    """Gives its answers one after the other, the last one again and again."""

    def __init__(self, made: http.server.ThreadingHTTPServer, url: str) -> None:
        self._made, self.url = made, url
        self.will()

    def will(self, *answers: tuple[int, Any]) -> None:
        self._made.answers = list(answers) or [(200, READY)]  # type: ignore[attr-defined]

    @property
    def seen(self) -> list[tuple[str, str, bytes]]:
        return self._made.seen  # type: ignore[attr-defined,no-any-return]


@contextlib.contextmanager
def scripted(certificate: Path | None = None) -> Iterator[Scripted]:
    made = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    made.daemon_threads = True
    made.seen = []  # type: ignore[attr-defined]
    if certificate:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)
        made.socket = context.wrap_socket(made.socket, server_side=True)
    threading.Thread(target=made.serve_forever, args=(0.02,), daemon=True).start()
    try:
        yield Scripted(made, f"http{'s' if certificate else ''}://127.0.0.1:{made.server_address[1]}/archon/prod/")
    finally:
        made.shutdown()
        made.server_close()


@pytest.fixture
def there() -> Iterator[Scripted]:
    with scripted() as running:
        yield running


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "_PAUSE_SECONDS", 0.001)
    monkeypatch.setattr(server, "_POLL_SECONDS", 0.01)


def archon(url: str, *, check: bool = False, trust: Trust | None = None) -> Archon:
    return Archon(url, trust, check=check)


@pytest.mark.parametrize(
    ("status", "content", "condition"),
    [
        (200, READY, "ready"),
        (200, {**READY, "ready": False, "status": "initializing", "message": "loading"}, "starting"),
        (503, READY, "starting"),
        (200, {"status": "healthy", "service": "knowledge-api", "ready": True}, "not_archon"),
        (200, b"<html>log in</html>", "not_archon"),
        (200, ["ready"], "not_archon"),
        (502, b"", "not_archon"),
        (404, {"detail": "Not Found"}, "not_archon"),
    ],
)
def test_health_tells_what_is_there(there: Scripted, status: int, content: Any, condition: str) -> None:
    there.will((status, content))
    with archon(there.url, check=True) as asked:
        assert asked.health().condition == condition
    assert [path for _, path, _ in there.seen] == ["/archon/prod/health"]


def test_nobody_listens() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    with archon(f"http://127.0.0.1:{port}") as asked:
        assert asked.health().condition == "not_listening"
        assert asked.wait_ready(0.05).condition == "not_listening"


def test_it_is_waited_for_until_it_is_ready(there: Scripted) -> None:
    there.will((502, b""), (200, {**READY, "ready": False}), (200, READY))
    with archon(there.url) as asked:
        assert asked.wait_ready(60).ready
    assert len(there.seen) == 3


def test_a_certificate_that_is_not_the_right_one_is_not_waited_for(certificate: tuple[Path, str]) -> None:
    path, pin = certificate
    with scripted(path) as running:
        with archon(running.url, trust=Trust(fingerprint=pin)) as asked:
            assert asked.wait_ready(60).ready
        with archon(running.url) as asked:
            assert asked.wait_ready(3600).condition == "untrusted"


def test_reads_are_asked_again_while_a_gateway_is_busy(there: Scripted) -> None:
    there.will((502, b"bad gateway"), (503, b""), (200, []))
    with archon(there.url, check=True) as asked:
        assert asked.projects() == []
        there.will((504, {"detail": {"error": "no answer"}}))
        with pytest.raises(ArchonRefused) as told:
            asked.projects()
    assert (told.value.http_status, told.value.found, len(there.seen)) == (504, "504: no answer", 6)


def test_reads_are_not_asked_again_where_archon_itself_says_no(there: Scripted) -> None:
    there.will((500, {"detail": "plain text"}))
    with archon(there.url) as asked, pytest.raises(ArchonRefused, match="plain text"):
        asked.sources()
    assert len(there.seen) == 1


WRITES: list[Callable[[Archon], object]] = [
    lambda asked: asked.upload("ä b.txt", b"text", tags=["x"]),
    lambda asked: asked.create_project("t"),
    lambda asked: asked.create_task("p", "t", "d"),
]


@pytest.mark.parametrize("write", WRITES, ids=["upload", "project", "task"])
def test_writes_are_sent_once_whatever_comes_back(there: Scripted, write: Callable[[Archon], object]) -> None:
    with archon(there.url) as asked:
        for status, content in ((503, b""), (500, {"detail": {"error": "broken"}}), (200, {"success": False})):
            there.will((status, content))
            with pytest.raises(ArchonRefused):
                write(asked)
        there.will((200, {"message": "fine"}))
        # A project is looked for afterwards by its title; the others must say what they made.
        with contextlib.suppress(BadAnswer):
            write(asked)
    assert len(there.seen) == 4


@pytest.mark.parametrize("write", WRITES, ids=["upload", "project", "task"])
def test_check_mode_sends_no_write(there: Scripted, write: Callable[[Archon], object]) -> None:
    with archon(there.url, check=True) as asked, pytest.raises(NotAllowed):
        write(asked)
    assert there.seen == []


def test_a_refused_connection_ends_a_write_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server.time, "sleep", lambda _: pytest.fail("it was asked again"))
    with archon("http://127.0.0.1:1") as asked, pytest.raises(Unreachable):
        asked.upload("a.txt", b"text")


def test_an_upload_carries_its_name_its_text_and_its_tags(there: Scripted) -> None:
    there.will((200, {"success": True, "progressId": "p1"}))
    with archon(there.url) as asked:
        assert asked.upload("Über uns. v2.txt", b"the text", tags=["a", 'b"']) == "p1"
    ((verb, path, body),) = there.seen
    assert (verb, path) == ("POST", "/archon/prod/api/documents/upload")
    for part in ('filename="Über uns. v2.txt"'.encode(), b"the text", rb'["a","b\""]', b"technical"):
        assert part in body


READS: list[Callable[[Archon], object]] = [
    lambda asked: asked.sources(),
    lambda asked: asked.projects(),
    lambda asked: asked.project("1"),
    lambda asked: asked.tasks("1"),
    lambda asked: asked.task("1"),
    lambda asked: asked.query("why"),
    lambda asked: asked.code_examples("why"),
]


@pytest.mark.parametrize("read", READS, ids=["sources", "projects", "project", "tasks", "task", "query", "code"])
@pytest.mark.parametrize(
    "content",
    [{}, "a text", None, 3, b"<html></html>", b"", [1], [None], {"results": 3}, {"results": ["x"]}, {"sources": [[]]},
     {"tasks": [{"id": 1, "title": "t"}]}, {"tasks": [], "pagination": []}, {"tasks": [], "pagination": {"total": "x"}},
     {"results": [{"metadata": [1]}]}, {"results": [{"similarity": {"a": 1}}]}],
    ids=repr,
)  # fmt: skip
def test_what_is_not_archon_s_is_told(there: Scripted, read: Callable[[Archon], object], content: Any) -> None:
    there.will((200, content))
    with archon(there.url) as asked, pytest.raises(BadAnswer) as told:
        read(asked)
    assert told.value.code == "bad_answer"


def test_a_query_that_could_not_be_embedded_is_an_answer_without_hits(there: Scripted) -> None:
    there.will((200, {"success": True, "results": [], "search_mode": "hybrid"}))
    with archon(there.url) as asked:
        assert (asked.query("why").hits, asked.query("why").mode) == ((), "hybrid")
        there.will((200, {"success": False, "error": "database"}))
        assert (asked.query("why").success, asked.query("why").error) == (False, "database")


def test_results_of_both_kinds_are_read(there: Scripted) -> None:
    page = {"id": 7, "content": "text", "metadata": {"source_id": "s"}, "similarity_score": 0.5}
    code = {"url": "u", "code": "x = 1", "summary": "", "metadata": None, "source_id": "s", "similarity": None}
    there.will((200, {"success": True, "results": [page, code]}))
    with archon(there.url) as asked:
        first, second = asked.query("why", source="s").hits
    assert (first.id, first.content, first.similarity, first.source_id) == ("7", "text", 0.5, "s")
    assert (second.content, second.similarity, second.source_id) == ("x = 1", 0.0, "s")
    assert json.loads(there.seen[0][2]) == {"query": "why", "match_count": 5, "source": "s"}


def test_tasks_come_page_by_page(there: Scripted) -> None:
    def page(first: int, count: int) -> tuple[int, Any]:
        tasks = [{"id": str(number), "title": "t"} for number in range(first, first + count)]
        return 200, {"tasks": tasks, "pagination": {"total": 53}}

    there.will(page(0, 50), page(50, 3))
    with archon(there.url) as asked:
        assert [task.id for task in asked.tasks("p 1", include_closed=True)] == [str(number) for number in range(53)]
    assert [path.partition("?")[2] for _, path, _ in there.seen] == [
        f"page={number}&per_page=50&include_closed=true&project_id=p+1" for number in (1, 2)
    ]


def test_a_project_s_id_cannot_lead_elsewhere(there: Scripted) -> None:
    there.will((404, {"detail": {"error": "not found"}}))
    with archon(there.url, check=True) as asked, pytest.raises(ArchonRefused):
        asked.project("../tasks?x=/1")
    assert there.seen[0][1] == "/archon/prod/api/projects/..%2Ftasks%3Fx%3D%2F1"
