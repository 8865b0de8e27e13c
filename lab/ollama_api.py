"""The routes of the lab's embedding service: Ollama's native and OpenAI-compatible APIs with one model, and /_lab/.

Status codes, error texts and quirks are those of Ollama's server. What belongs to the lab and not to Ollama lies under
/_lab/: faults to inject and the requests seen.
"""

from __future__ import annotations

import asyncio
import base64
import json
import time
from collections import deque
from dataclasses import asdict, dataclass, field, replace

import numpy as np
import orjson
from anyio import to_thread
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

from . import vectors
from .faults import Faults
from .ollama_pull import CutStream, pull_steps

MODEL = "nomic-embed-text:latest"
VERSION = "0.12.6"
_DIGEST = "0a109f422b47e3a30ba2b10eca18548e944e8a23073ee3f3e947efcf3c45e59f"
_OTHER_DIGEST = "970aa74c0a90ef7482477cf803618e776e173c007bf957f635f1015bfcfef0e6"
_SIZE = 274302450
_MODIFIED = "2025-08-20T09:00:00Z"
_MODIFIED_UNIX = 1755680400
_DETAILS = {
    "parent_model": "",
    "format": "gguf",
    "family": "nomic-bert",
    "families": ["nomic-bert"],
    "parameter_size": "137M",
    "quantization_level": "F16",
}
_MODEL_INFO = {
    "general.architecture": "nomic-bert",
    "general.file_type": 1,
    "general.parameter_count": 136727040,
    "general.quantization_version": 2,
    "nomic-bert.attention.causal": False,
    "nomic-bert.attention.head_count": 12,
    "nomic-bert.block_count": 12,
    "nomic-bert.context_length": vectors.CONTEXT_LENGTH,
    "nomic-bert.embedding_length": vectors.NATIVE_DIMENSIONS,
    "nomic-bert.feed_forward_length": 3072,
    "nomic-bert.pooling_type": 1,
}
_REMEMBERED_REQUESTS = 500
_REMEMBERED_TEXT = 200


class Refused(Exception):
    """An error answer in Ollama's own words."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.message = message


@dataclass
class State:
    """What one service knows: its faults, the requests it saw, and the slots of its model."""

    slots: asyncio.Semaphore
    faults: Faults = field(default_factory=Faults)
    requests: deque[dict[str, object]] = field(default_factory=lambda: deque(maxlen=_REMEMBERED_REQUESTS))
    loaded: bool = False
    pulled: int = 0  # parts of the model that pulls have fetched


def _json(content: object, status: int = 200) -> Response:
    body = orjson.dumps(content, option=orjson.OPT_SERIALIZE_NUMPY)
    return Response(body, status, media_type="application/json; charset=utf-8")


def _native_error(refused: Refused) -> Response:
    return _json({"error": refused.message}, refused.status)


def _openai_error(refused: Refused) -> Response:
    kind = {400: "invalid_request_error", 404: "not_found_error"}.get(refused.status, "api_error")
    error = {"message": refused.message, "type": kind, "param": None, "code": None}
    return _json({"error": error}, refused.status)


def _state(request: Request) -> State:
    state: State = request.app.state.lab
    return state


async def _body(request: Request) -> dict[str, object]:
    raw = await request.body()
    if not raw:
        raise Refused(400, "missing request body")
    try:
        content = orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        raise Refused(400, f"invalid character in JSON: {error}") from error
    if not isinstance(content, dict):
        raise Refused(400, "json: cannot unmarshal the request into a Go struct")
    return content


def _is_the_model(name: object) -> bool:
    if not isinstance(name, str):
        return False
    lowered = name.lower().removeprefix("registry.ollama.ai/").removeprefix("library/")
    return lowered in (MODEL, MODEL.partition(":")[0])


def _require_model(state: State, name: object) -> None:
    if state.faults.model_missing or not _is_the_model(name):
        raise Refused(404, f"model '{name or ''}' not found")


def _integer(body: dict[str, object], name: str) -> int:
    value = body.get(name)
    if value is None:
        return 0
    if isinstance(value, bool) or not isinstance(value, int):
        kind = "number" if isinstance(value, float) else "bool" if isinstance(value, bool) else "string"
        raise Refused(400, f"json: cannot unmarshal {kind} into Go struct field EmbedRequest.{name} of type int")
    return value


def _texts(given: object) -> list[str]:
    if given is None or given == "":
        return []
    if isinstance(given, str):
        return [given]
    if isinstance(given, list) and all(isinstance(text, str) for text in given):
        return given
    raise Refused(400, "invalid input type")


@dataclass(frozen=True)
class Embedded:
    """The answer to one embedding request before it is put into either API's form."""

    vectors: vectors.Vectors
    tokens: int
    faults: Faults
    seconds: float
    load_seconds: float


async def _embed(request: Request, body: dict[str, object], texts: list[str], *, truncate: bool) -> Embedded:
    """One request's vectors, under the faults in force. Raises Refused."""
    state = _state(request)
    request.scope["lab_seen"] |= {"model": body.get("model"), "texts": [text[:_REMEMBERED_TEXT] for text in texts]}
    faults = state.faults
    state.faults = faults.after_request()
    dimensions = _integer(body, "dimensions")
    _require_model(state, body.get("model"))
    if faults.hang:
        # Until the caller goes away: a service that is told to stop must not wait for its own hanging requests.
        while not await request.is_disconnected():
            await asyncio.sleep(0.02)
        raise Refused(499, "request canceled")
    started = time.monotonic()
    async with state.slots:
        if pause := faults.latency + faults.latency_per_text * len(texts):
            await asyncio.sleep(pause)
        if faults.status is not None:
            raise Refused(faults.status, "the service was told to fail")
        if faults.fail_marked and any(faults.concerns(text) for text in texts):
            raise Refused(400, "failed to create embedding: EOF")
        if faults.chat_model:
            raise Refused(501, "this model does not support embeddings")
        model = await to_thread.run_sync(vectors.load)
        loaded = time.monotonic()
        try:
            rows, tokens = await to_thread.run_sync(
                lambda: model.embed(texts, truncate=truncate and not faults.refuse_long)
            )
        except vectors.TooLong as error:
            raise Refused(400, "the input length exceeds the context length") from error
    state.loaded = True
    if 0 < dimensions < rows.shape[1]:
        rows = vectors.normalised(rows[:, :dimensions])
    rows = _spoilt(rows, texts, faults)
    return Embedded(rows, tokens, faults, time.monotonic() - started, loaded - started)


def _spoilt(rows: vectors.Vectors, texts: list[str], faults: Faults) -> vectors.Vectors:
    if faults.other_model:
        rows = np.ascontiguousarray(rows[:, ::-1])
    if faults.dimension is not None:
        rows = vectors.normalised(np.resize(rows, (len(texts), faults.dimension)))
    if faults.bad_vector is not None:
        value = {"nan": np.nan, "infinity": np.inf, "zero": 0.0}[faults.bad_vector]
        rows[[faults.concerns(text) for text in texts]] = value
    return rows[:-1] if faults.drop_last else rows


def _answer(content: dict[str, object], faults: Faults) -> Response:
    if faults.malformed:
        raw = orjson.dumps(content, option=orjson.OPT_SERIALIZE_NUMPY)
        return Response(raw[: len(raw) // 2], media_type="application/json; charset=utf-8")
    if faults.bad_vector in ("nan", "infinity"):
        # orjson would write null; what matters here is a client that meets the number itself.
        return Response(json.dumps(content, default=lambda row: row.tolist()), media_type="application/json")
    return _json(content)


async def embed_native(request: Request) -> Response:
    """POST /api/embed"""
    try:
        body = await _body(request)
        texts = _texts(body.get("input"))
        done = await _embed(request, body, texts, truncate=body.get("truncate") is not False)
    except Refused as refused:
        return _native_error(refused)
    if not texts:
        return _json({"model": body["model"], "embeddings": []})
    return _answer(
        {
            "model": body["model"],
            "embeddings": list(done.vectors),
            "total_duration": int(done.seconds * 1e9),
            "load_duration": int(done.load_seconds * 1e9),
            "prompt_eval_count": done.tokens,
        },
        done.faults,
    )


async def embed_openai(request: Request) -> Response:
    """POST /v1/embeddings"""
    try:
        body = await _body(request)
        encoding = body.get("encoding_format") or "float"
        if not isinstance(encoding, str) or encoding.lower() not in ("float", "base64"):
            raise Refused(
                400, f"Invalid value for 'encoding_format' = {encoding}. Supported values: ['float', 'base64']."
            )
        given = body.get("input")
        if given is None or given == []:
            raise Refused(400, "invalid input")
        texts = [""] if given == "" else _texts(given)
        done = await _embed(request, body, texts, truncate=True)
    except Refused as refused:
        return _openai_error(refused)
    data: list[dict[str, object]] = [
        {
            "object": "embedding",
            "embedding": base64.b64encode(row.astype("<f4").tobytes()).decode()
            if encoding.lower() == "base64"
            else row,
            "index": index,
        }
        for index, row in enumerate(done.vectors)
    ]
    if done.faults.shuffled:
        data.reverse()
    usage = {"prompt_tokens": done.tokens, "total_tokens": done.tokens}
    return _answer({"object": "list", "data": data, "model": body["model"], "usage": usage}, done.faults)


async def running(_request: Request) -> Response:
    """GET /"""
    return PlainTextResponse("Ollama is running")


async def version(_request: Request) -> Response:
    """GET /api/version"""
    return _json({"version": VERSION})


def _listed(state: State) -> list[dict[str, object]]:
    if state.faults.model_missing:
        return []
    digest = _OTHER_DIGEST if state.faults.other_model else _DIGEST
    return [{"name": MODEL, "model": MODEL, "size": _SIZE, "digest": digest, "details": _DETAILS}]


async def tags(request: Request) -> Response:
    """GET /api/tags"""
    return _json({"models": [{**model, "modified_at": _MODIFIED} for model in _listed(_state(request))]})


async def loaded_models(request: Request) -> Response:
    """GET /api/ps"""
    state = _state(request)
    rows = _listed(state) if state.loaded else []
    soon = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + 300))
    return _json({"models": [{**row, "expires_at": soon, "size_vram": 0, "context_length": 2048} for row in rows]})


async def show(request: Request) -> Response:
    """POST /api/show"""
    try:
        body = await _body(request)
        name = body.get("model") or body.get("name")
        if not name:
            raise Refused(400, "model is required")
        _require_model(_state(request), name)
    except Refused as refused:
        return _native_error(refused)
    return _json(
        {
            "license": "Apache License, Version 2.0",
            "modelfile": f'# Modelfile generated by "ollama show"\nFROM {MODEL}\nPARAMETER num_ctx 8192\n',
            "parameters": "num_ctx                        8192",
            "template": "{{ .Prompt }}",
            "details": _DETAILS,
            "model_info": _MODEL_INFO,
            "capabilities": ["completion", "tools"] if _state(request).faults.chat_model else ["embedding"],
            "modified_at": _MODIFIED,
        }
    )


async def pull(request: Request) -> Response:
    """POST /api/pull"""
    try:
        body = await _body(request)
        name = body.get("model") or body.get("name")
        if not isinstance(name, str):
            raise Refused(400, "invalid model name")
    except Refused as refused:
        return _native_error(refused)
    state = _state(request)
    faults = state.faults
    state.faults = replace(faults, pull_cuts=max(0, faults.pull_cuts - 1))
    steps = pull_steps(state, faults, present=_is_the_model(name))
    if body.get("stream") is False:
        last = [step async for step in steps][-1]
        return _json(last, 500 if "error" in last else 200)
    kind = CutStream if faults.pull_cuts else StreamingResponse
    return kind((orjson.dumps(step) + b"\n" async for step in steps), media_type="application/x-ndjson")


def _openai_model(name: str) -> dict[str, object]:
    return {"id": name, "object": "model", "created": _MODIFIED_UNIX, "owned_by": "library"}


async def models(request: Request) -> Response:
    """GET /v1/models"""
    listed = [_openai_model(MODEL) for _ in _listed(_state(request))]
    return _json({"object": "list", "data": listed or None})


async def one_model(request: Request) -> Response:
    """GET /v1/models/{name}"""
    name = request.path_params["name"]
    try:
        _require_model(_state(request), name)
    except Refused as refused:
        return _openai_error(refused)
    return _json(_openai_model(name))


async def change_faults(request: Request) -> Response:
    """GET, PUT (replaces all) and DELETE /_lab/faults"""
    state = _state(request)
    try:
        if request.method == "PUT":
            state.faults = Faults.from_mapping(await _body(request))
        elif request.method == "DELETE":
            state.faults = Faults()
    except (Refused, ValueError, TypeError) as error:
        return _json({"error": str(error)}, 400)
    return _json(asdict(state.faults))


async def seen_requests(request: Request) -> Response:
    """GET and DELETE /_lab/requests"""
    state = _state(request)
    if request.method == "DELETE":
        state.requests.clear()
    return _json({"requests": list(state.requests)})


ROUTES = [
    Route("/", running),
    Route("/api/version", version),
    Route("/api/tags", tags),
    Route("/api/ps", loaded_models),
    Route("/api/show", show, methods=["POST"]),
    Route("/api/embed", embed_native, methods=["POST"]),
    Route("/api/pull", pull, methods=["POST"]),
    Route("/v1/embeddings", embed_openai, methods=["POST"]),
    Route("/v1/models", models),
    Route("/v1/models/{name:path}", one_model),
    Route("/_lab/faults", change_faults, methods=["GET", "PUT", "DELETE"]),
    Route("/_lab/requests", seen_requests, methods=["GET", "DELETE"]),
]
