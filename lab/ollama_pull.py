"""What the lab's embedding service says while it pulls its model, as Ollama says it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import TYPE_CHECKING

from starlette.responses import StreamingResponse
from starlette.types import Send

from .faults import Faults

if TYPE_CHECKING:
    from .ollama_api import State

_LAYER = "970aa74c0a90ef7482477cf803618e776e173c007bf957f635f1015bfcfef0e6"
_LAYER_SIZE = 274290656
_PARTS = 10


class CutStream(StreamingResponse):
    """A reply whose connection is closed before its end."""

    async def stream_response(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        async for chunk in self.body_iterator:
            await send({"type": "http.response.body", "body": chunk, "more_body": True})


async def pull_steps(state: State, faults: Faults, *, present: bool) -> AsyncIterator[dict[str, object]]:
    """What Ollama says of a pull: the same line again and again while nothing comes, `completed` only above zero."""
    yield {"status": "pulling manifest"}
    if not present or faults.pull_error:
        yield {"error": faults.pull_error or "pull model manifest: file does not exist"}
        return
    layer = {"status": f"pulling {_LAYER[:12]}", "digest": f"sha256:{_LAYER}", "total": _LAYER_SIZE}
    yield layer
    while state.pulled < _PARTS:
        await asyncio.sleep(max(faults.pull_seconds / _PARTS, 0.001))
        if not faults.pull_stall:
            state.pulled += 1
        yield {**layer, "completed": _LAYER_SIZE * state.pulled // _PARTS} if state.pulled else layer
        if faults.pull_cuts and state.pulled in (_PARTS // 2, _PARTS):
            return
    for text in ("verifying sha256 digest", "writing manifest"):
        yield {"status": text}
    state.pulled = 0
    state.faults = replace(state.faults, model_missing=False)
    yield {"status": "success"}
