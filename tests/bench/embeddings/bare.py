"""A client that does nothing but keep an endpoint busy: what it gets a second is the endpoint's capacity as anybody can have it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Sequence
from urllib.parse import urlsplit

import orjson


def _request(url: str, model: str, texts: Sequence[str]) -> bytes:
    parts = urlsplit(url)
    body = orjson.dumps({"model": model, "input": list(texts), "encoding_format": "base64"})
    head = (
        f"POST /v1/embeddings HTTP/1.1\r\nHost: {parts.netloc}\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


async def _exchange(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, request: bytes) -> None:
    writer.write(request)
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
    status, *lines = head.split("\r\n")
    length = int(next(line.partition(":")[2] for line in lines if line.startswith("content-length:")))
    await reader.readexactly(length)
    if " 200 " not in f"{status} ":
        raise RuntimeError(f"the endpoint answered {status}")


async def _saturate(urls: Sequence[str], model: str, batches: Sequence[Sequence[str]], connections: int) -> float:
    """Send every batch, `connections` requests at a time to each URL; the seconds it took."""
    prepared: Iterator[int] = iter(range(len(batches)))
    requests = {url: [_request(url, model, batch) for batch in batches] for url in urls}

    async def keep_busy(url: str) -> None:
        parts = urlsplit(url)
        reader, writer = await asyncio.open_connection(parts.hostname, parts.port, limit=1 << 24)
        for number in prepared:
            await _exchange(reader, writer, requests[url][number])
        writer.close()

    began = time.perf_counter()
    await asyncio.gather(*(keep_busy(url) for _ in range(connections) for url in urls))
    return time.perf_counter() - began


def rows_per_second(urls: Sequence[str], model: str, batches: Sequence[Sequence[str]], connections: int = 2) -> float:
    """Texts a second that the endpoints gave together for `batches`."""
    seconds = asyncio.run(_saturate(urls, model, batches, connections))
    return sum(len(batch) for batch in batches) / seconds
