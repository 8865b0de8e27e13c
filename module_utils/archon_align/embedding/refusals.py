"""What a refusal means: status and words of Ollama, llama.cpp, vLLM, TEI and OpenAI, told by what can be done about it."""

from __future__ import annotations

import re

import orjson

from ..errors import AlignError
from .endpoint import Endpoint
from .failures import RequestRejected, RequestTooLong, ServiceUnavailable, ServiceUnusable
from .transport import Reply, rejected, unavailable, unusable

MODEL_MISSING = "embedding_model_missing"
NO_EMBEDDING_MODEL = "embedding_not_a_model"
TEXT_TOO_LONG = "embedding_text_too_long"
_BUSY = (408, 425, 429, 502, 503, 504)
_SAID = 300
# "the input length exceeds the context length", "input exceeds maximum context length", "exceeds the available context
# size", "maximum context length is 512 tokens", "must have less than 512 tokens", "input is too long", "too many tokens".
_TOO_LONG = re.compile(
    r"exceed\w*\b.{0,40}\b(context|sequence|token|model length)|maximum (context|sequence|input) (length|size)"
    r"|(input|prompt|sequence|text)s?\b.{0,20}\btoo (long|large)|too many (input )?tokens|less than \d+ tokens"
    r"|longer than the (maximum|context)",
    re.IGNORECASE,
)
# "this model does not support embeddings", "does not support Embeddings API", "This server does not support embeddings".
_NO_EMBEDDINGS = re.compile(r"not (support|allowed to generate) embed|no embedding support", re.IGNORECASE)
_WANTS_TLS = re.compile(r"HTTP request (was sent )?to (an )?HTTPS (server|port)", re.IGNORECASE)


def words(endpoint: Endpoint, content: bytes) -> str:
    """The service's own words, on one line, short, without the token."""
    try:
        reply = orjson.loads(content)
    except orjson.JSONDecodeError:
        reply = content.decode("utf-8", "replace")
    if isinstance(reply, dict):
        error = reply.get("error", reply.get("detail", reply))
        if isinstance(error, str) and error.startswith("{"):
            # Ollama passes on llama-server's refusals as JSON in a string.
            return words(endpoint, error.encode())
        reply = error.get("message", error) if isinstance(error, dict) else error
    text = " ".join(str(reply).split())
    if endpoint.token:
        text = text.replace(endpoint.token, "********")
    return text if len(text) <= _SAID else text[:_SAID] + " …"


def refusal(endpoint: Endpoint, reply: Reply) -> ServiceUnavailable | ServiceUnusable | RequestRejected:
    """The error that `reply` stands for, which is no success."""
    url, status = reply.url, reply.status
    said = words(endpoint, reply.content)
    found = f"HTTP {status}" + (f": {said}" if said else "")
    if 300 <= status < 400:
        location = reply.headers.get("location", "").split("?")[0].rpartition("@")[2]
        return unusable(url, "an answer, not a redirect", f"{found} to {location!r}", "embedding_redirect")
    if _WANTS_TLS.search(said):
        return unusable(
            url,
            "a service that speaks http",
            found,
            "embedding_tls",
            "Write https:// in archon_embedding_base_url.",
        )
    if _NO_EMBEDDINGS.search(said):
        return not_an_embedding_model(endpoint, url, found)
    if status == 407:
        return unusable(
            url,
            "a proxy that lets the request through",
            found,
            "embedding_proxy",
            "Give the proxy's log-in in HTTP_PROXY, or name the service's host in NO_PROXY.",
        )
    if status in (401, 403):
        return unusable(
            url,
            "a log-in the service accepts",
            found,
            "embedding_forbidden",
            "Put the service's token into a file of mode 0600 and name it in archon_embedding_token_file.",
        )
    if status == 404 and "model" in said.lower():
        return model_missing(endpoint, url, found)
    if status in (404, 405, 410, 501):
        return unusable(
            url,
            "an OpenAI-compatible path /embeddings",
            found,
            "embedding_path",
            "Correct archon_embedding_base_url; with Ollama it ends in /v1.",
        )
    if status in _BUSY:
        return unavailable(url, "a service that has capacity", found, "embedding_busy")
    if status == 413 or _TOO_LONG.search(said):
        return RequestTooLong(
            "A text is too long for the embedding model.",
            object_name=url,
            expected="texts within the model's context",
            found=found,
            remedy="Set archon_embeddings_overlong to truncate, or shorten the texts named.",
            code=TEXT_TOO_LONG,
        )
    return rejected(url, "HTTP 200", found)


def is_model_missing(error: AlignError) -> bool:
    """Whether `error` says that the service lacks the model, which a pull can mend."""
    return error.code == MODEL_MISSING


def model_missing(endpoint: Endpoint, url: str, found: str) -> ServiceUnusable:
    """The service answers but does not have the model."""
    return unusable(
        url,
        f"model {endpoint.model} present",
        found,
        MODEL_MISSING,
        f"On the service's host run: ollama pull {endpoint.model}; or set archon_embedding_pull: true.",
    )


def not_an_embedding_model(endpoint: Endpoint, url: str, found: str) -> ServiceUnusable:
    """The service has the model, but it is made for something else."""
    return unusable(
        url,
        f"an embedding model; {endpoint.model} is not an embedding model",
        found,
        NO_EMBEDDING_MODEL,
        "Set archon_embedding_model to the model DEV uses, such as nomic-embed-text.",
    )
