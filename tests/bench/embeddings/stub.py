"""Embedding endpoints of known capacity, in a process of their own.

A slot serves one request at a time and takes `per_request` + `per_text` for each text seconds for it. Slots have virtual clocks: a request
begins when it has arrived whole and its slot is free, and its answer is sent when its time is over. What the stub itself has to
do happens in that time. It never answers early, and when this machine keeps it from answering in time, its slots have gone
on by themselves, as another machine's would: a client loses by its own gaps and by the network, by nothing else.
"""

from __future__ import annotations

import asyncio
import base64
import heapq
import itertools
import json
import multiprocessing
import signal
import socket
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from multiprocessing.synchronize import Event
from typing import Any
from urllib.request import urlopen

import numpy as np
import orjson

MODEL = "stub"
# The same text always gets the same vector, and few texts share one.
VECTORS = 1024
_JSON = b"HTTP/1.1 %s\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"


@dataclass(frozen=True, slots=True)
class Model:
    """What an endpoint can do; times in seconds."""

    slots: int
    per_request: float = 0.020
    per_text: float = 0.001
    dimensions: int = 768

    def seconds(self, texts: int) -> float:
        return self.per_request + self.per_text * texts

    def capacity(self, batch: int) -> float:
        """Texts a second when every request holds `batch` texts and no slot ever waits."""
        return self.slots * batch / self.seconds(batch)


@dataclass(frozen=True, slots=True)
class Served:
    """What endpoints have done since they were last asked. `busy` and `idle` are seconds of slots: at work, and between two requests.

    `first` and `last` are by the monotonic clock: when the first request had come and when the last answer was due.
    """

    requests: int
    texts: int
    busy: float
    idle: float
    first: float
    last: float


class _Answers:
    """Answers are joined from prepared pieces, as base64 or as numbers, whichever was asked for."""

    def __init__(self, dimensions: int) -> None:
        matrix = np.random.default_rng(1).standard_normal((VECTORS, dimensions))
        matrix /= np.linalg.norm(matrix, axis=1, keepdims=True)
        vectors = matrix.astype("<f4")
        self._encoded = {
            "base64": [b'"%s"' % base64.b64encode(row.tobytes()) for row in vectors],
            "float": [orjson.dumps([float(f"{number:.8g}") for number in row.tolist()]) for row in vectors],
        }

    def of(self, texts: list[str], encoding: str) -> bytes:
        encoded = self._encoded[encoding]
        pieces = [b'{"object":"list","model":"stub","usage":{"prompt_tokens":1,"total_tokens":1},"data":[']
        for index, text in enumerate(texts):
            pieces += (
                b'%s{"object":"embedding","index":%d,"embedding":' % (b"," if index else b"", index),
                encoded[zlib.crc32(text.encode()) % VECTORS],
                b"}",
            )
        pieces.append(b"]}")
        return b"".join(pieces)


class _Endpoint:
    """The slots of one endpoint and what they have served."""

    def __init__(self, model: Model, answers: _Answers) -> None:
        self.model = model
        self.answers = answers
        self.begin()

    def begin(self) -> None:
        """Count anew, with free slots."""
        self.free_at = [0.0] * self.model.slots
        self.requests = self.texts = 0
        self.busy = self.idle = 0.0
        self.first = self.last = 0.0

    def embed(self, body: bytes, now: float) -> tuple[float, bytes]:
        """When the answer is due, and the answer."""
        request = orjson.loads(body)
        texts = request["input"] if isinstance(request["input"], list) else [request["input"]]
        seconds = self.model.seconds(len(texts))
        free_at = self.free_at[0]
        due = max(now, free_at) + seconds
        if free_at:
            self.idle += max(0.0, now - free_at)
        heapq.heapreplace(self.free_at, due)
        self.first, self.last = self.first or now, max(self.last, due)
        self.requests += 1
        self.texts += len(texts)
        self.busy += seconds
        return due, self.answers.of(texts, request.get("encoding_format", "float"))

    def told(self, path: str) -> Any:
        """What a GET finds, or None."""
        if path == "/served":
            served = Served(self.requests, self.texts, self.busy, self.idle, self.first, self.last)
            self.begin()
            return asdict(served)
        if path == "/v1/models":
            return {"object": "list", "data": [{"id": MODEL, "object": "model"}]}
        return None


class _Connection(asyncio.Protocol):
    """Just enough of HTTP/1.1 for clients that send Content-Length and keep connections open."""

    def __init__(self, endpoint: _Endpoint) -> None:
        self.endpoint = endpoint
        self.loop = asyncio.get_running_loop()
        self.received = bytearray()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.received += data
        while (end := self.received.find(b"\r\n\r\n")) >= 0:
            request, *lines = bytes(self.received[:end]).decode("latin-1").split("\r\n")
            headers = {
                name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)
            }
            last = end + 4 + int(headers.get("content-length", "0"))
            if len(self.received) < last:
                return
            body = bytes(self.received[end + 4 : last])
            del self.received[:last]
            method, path, _ = request.split(" ", 2)
            self.answer(method, path, body)

    def answer(self, method: str, path: str, body: bytes) -> None:
        now = self.loop.time()
        if (method, path) == ("POST", "/v1/embeddings"):
            due, content = self.endpoint.embed(body, now)
            if due > now:
                self.loop.call_at(due, self.send, "200 OK", content)
                return
        else:
            found = self.endpoint.told(path) if method == "GET" else None
            if found is None:
                self.send("404 Not Found", b'{"error":"not found"}')
                return
            content = orjson.dumps(found)
        self.send("200 OK", content)

    def send(self, status: str, content: bytes) -> None:
        self.transport.writelines((_JSON % (status.encode(), len(content)), content))


def _serve(listeners: list[socket.socket], model: Model, ready: Event) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_DFL)

    async def forever() -> None:
        loop = asyncio.get_running_loop()
        answers = _Answers(model.dimensions)
        for listener in listeners:
            endpoint = _Endpoint(model, answers)
            await loop.create_server(lambda endpoint=endpoint: _Connection(endpoint), sock=listener)  # type: ignore[misc]
        ready.set()
        await asyncio.Event().wait()

    asyncio.run(forever())


@dataclass(frozen=True, slots=True)
class Stub:
    """Running endpoints, all of one model."""

    model: Model
    urls: tuple[str, ...]

    def capacity(self, batch: int) -> float:
        return len(self.urls) * self.model.capacity(batch)

    def served(self) -> Served:
        """All endpoints together; asked while none has a request."""
        each = []
        for url in self.urls:
            with urlopen(f"{url}/served", timeout=30) as reply:  # noqa: S310 - an address of this machine
                each.append(Served(**json.load(reply)))
        return Served(
            requests=sum(one.requests for one in each),
            texts=sum(one.texts for one in each),
            busy=sum(one.busy for one in each),
            idle=sum(one.idle for one in each),
            first=min((one.first for one in each if one.requests), default=0.0),
            last=max(one.last for one in each),
        )


@contextmanager
def running(model: Model, endpoints: int = 1) -> Iterator[Stub]:
    """`endpoints` of them in one process, each with slots of its own."""
    spawn = multiprocessing.get_context("fork")
    listeners = [socket.create_server(("127.0.0.1", 0), backlog=128) for _ in range(endpoints)]
    ready = spawn.Event()
    process = spawn.Process(target=_serve, args=(listeners, model, ready), daemon=True)
    process.start()
    try:
        if not ready.wait(60):
            raise RuntimeError("the stub did not come up")
        yield Stub(model, tuple(f"http://127.0.0.1:{listener.getsockname()[1]}" for listener in listeners))
    finally:
        process.terminate()
        process.join()
        for listener in listeners:
            listener.close()


def texts(count: int, start: int = 0) -> list[str]:
    """Texts of the size that the tables of the measurements hold."""
    return [f"{number}{' lorem ipsum' * 60}" for number in itertools.islice(itertools.count(start), count)]
