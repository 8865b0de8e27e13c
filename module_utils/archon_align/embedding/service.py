"""The probe: does each embedding service answer the plan's real call, with the right model and dimension, the same one?"""

from __future__ import annotations

import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from ..context import Context
from ..errors import AlignError
from ..findings import Finding
from ..outcome import PhaseOutcome, Status
from .client import EmbeddingClient
from .endpoint import Endpoint
from .failures import RequestRejected, ServiceUnavailable, ServiceUnusable
from .overlong import TextLimit
from .pull import ensure_model
from .same_model import require_same_model
from .vectors import Vectors

# The plan's item 4.1, as it stands there.
INPUT = "test"
# Long enough for two models to differ in it, and for two prefixes to be added on the way.
SENTENCE = "Write-ahead logging keeps a database consistent after a crash."
_AT_A_TIME = 8


@dataclass(frozen=True, slots=True)
class Answer:
    """What one endpoint said: its vectors and what it tells of itself, or why it cannot be used.

    Neither, in check mode, where the model has yet to be pulled. Latency is in seconds.
    """

    url: str
    vectors: Vectors | None = None
    latency: float = 0.0
    version: str = ""
    digest: str = ""
    context_length: int | None = None
    error: AlignError | None = None
    pull: Finding | None = None
    unit: bool = True

    def as_dict(self) -> dict[str, Any]:
        return {
            "url": self.url,
            "usable": self.vectors is not None,
            "latency_ms": round(self.latency * 1000, 1),
            "version": self.version,
            "digest": self.digest,
            "context_length": self.context_length,
            "error": self.error.code if self.error else "",
        }


def probe(
    endpoints: Sequence[Endpoint],
    context: Context | None = None,
    *,
    pull: bool = False,
    check: bool = False,
    findings: Sequence[Finding] = (),
) -> PhaseOutcome:
    """Embed one word at every endpoint; a missing model is pulled where `pull` allows it and `check` does not forbid it.

    With `context`, the dimension is also compared with the columns of PROD, or of DEV where the schema phase has yet to
    bring PROD's into line. It changes nothing but what it pulls. Endpoints that cannot be used are findings as long as
    one can. Raises AlignError: ServiceUnavailable, ServiceUnusable, RequestRejected, ConnectionFailed.
    """
    started = time.monotonic()
    with ThreadPoolExecutor(_AT_A_TIME) as threads:
        answers = list(threads.map(lambda endpoint: _ask(endpoint, pull=pull, check=check), endpoints))
    told = [*findings, *_judged(answers)]
    if context is not None:
        # The host from which a service is tested need not have what a database needs (docs/hosts.md).
        from .service_columns import compare_columns

        told += compare_columns(context, endpoints[0].dimensions)
    pulled = any(answer.pull for answer in answers)
    status: Status = ("drift" if check else "changed") if pulled else "aligned"
    first = next((answer for answer in answers if answer.vectors is not None), answers[0])
    return PhaseOutcome(
        phase="embedding_service",
        status=status,
        seconds=time.monotonic() - started,
        changed=pulled,
        findings=told,
        details={
            "embedding_service": {
                "url": first.url,
                "model": endpoints[0].model,
                "dimension": endpoints[0].dimensions,
                "latency_ms": round(first.latency * 1000, 1),
                "version": first.version,
                "digest": first.digest,
                "context_length": first.context_length,
                "endpoints": [answer.as_dict() for answer in answers],
            }
        },
    )


def _ask(endpoint: Endpoint, *, pull: bool, check: bool) -> Answer:
    try:
        with EmbeddingClient(endpoint) as client:
            pulled = ensure_model(client, allowed=pull, check=check, progress=lambda _: None, timeout=endpoint.timeout)
            if pulled and check:
                return Answer(client.url, pull=pulled)
            client.introduce([INPUT])
            sent = time.monotonic()
            client.embed([INPUT])
            latency = time.monotonic() - sent
            identity = client.identity()
            return Answer(
                client.url,
                client.embed([SENTENCE]),
                latency,
                identity.version,
                identity.digest,
                TextLimit.of(client, "truncate").context_length,
                pull=pulled,
                unit=client.unit,
            )
    except (ServiceUnavailable, ServiceUnusable, RequestRejected) as error:
        return Answer(f"{endpoint.base_url}/embeddings", error=error)


def _judged(answers: Sequence[Answer]) -> list[Finding]:
    """What is to be said of the answers. Raises the first one's error when none can be used, and ServiceUnusable when
    two endpoints give different vectors."""
    failed = [answer.error for answer in answers if answer.error]
    if len(failed) == len(answers):
        for other in failed[1:]:
            failed[0].found += f"; {other.object_name}: {other.found}"
        raise failed[0]
    findings = [
        Finding(
            error.code,
            "warning",
            error.object_name,
            f"This endpoint is left out; {_lowered(error.what)} Expected {error.expected}; found {error.found}",
            error.remedy,
        )
        for error in failed
    ]
    findings += [answer.pull for answer in answers if answer.pull]
    usable = [(answer, answer.vectors) for answer in answers if answer.vectors is not None]
    for answer, vectors in usable[1:]:
        require_same_model(usable[0][1], vectors, answer.url)
    digests = {answer.digest: answer.url for answer, _ in usable if answer.digest}
    if len(digests) > 1:
        findings.append(
            Finding(
                "embedding_digests_differ",
                "warning",
                "archon_embedding_endpoints",
                "The endpoints have the model in different versions, which give the same vector for one sentence: "
                + ", ".join(f"{url} {digest[:12]}" for digest, url in digests.items())
                + ".",
                "Pull the model anew where it is old, so that all are the same.",
            )
        )
    findings += [
        Finding(
            "embedding_not_unit",
            "info",
            answer.url,
            "The model's vectors do not have length 1; cosine search does not mind.",
            "Nothing to do, unless other clients compare by inner product.",
        )
        for answer, _ in usable
        if not answer.unit
    ]
    return findings


def _lowered(sentence: str) -> str:
    return sentence[:1].lower() + sentence[1:]
