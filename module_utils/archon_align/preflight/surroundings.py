"""What a run needs besides the databases: pg_dump, room on disk, and (known only later whether it matters) the embedding service."""

from __future__ import annotations

import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import orjson

from ..backup.tools import Tool, find_tool, require_not_older
from ..embedded.server import wheel_folder
from ..embedding.endpoint import Endpoint
from ..errors import AlignError
from ..findings import Finding

_SERVICE_SECONDS = 10.0
_CONNECT_SECONDS = 5.0
_REPLY_BYTES = 1 << 20
# The dump and the server in which it is verified, each about as large as the database, at worst on the same disk.
_COPIES = 2
_MIB = 1 << 20


def pg_dump_for(server_version: str, major: int, configured: str) -> Tool:
    """The pg_dump that the backup will use. Raises AlignError when it is missing or older than the server."""
    tool = find_tool(Path(configured) if configured else wheel_folder() / "bin" / "pg_dump")
    require_not_older(tool, server_version, major)
    return tool


@dataclass(frozen=True, slots=True)
class Disk:
    """Room in the artifacts folder, in bytes."""

    folder: str
    free_bytes: int
    needed_bytes: int


def disk_for(artifacts: Path, database_bytes: int, min_free_mb: int) -> Disk:
    """The room there is and the room a run needs. Raises AlignError when it is too little or cannot be known."""
    try:
        free = shutil.disk_usage(artifacts).free
    except OSError as error:
        raise AlignError(
            "The artifacts folder cannot be used.",
            object_name=str(artifacts),
            expected="the folder that the start of the run has made",
            found=error.strerror or str(error),
            remedy="Start a new run.",
            code="artifacts_not_writable",
        ) from error
    needed = _COPIES * database_bytes + min_free_mb * _MIB
    if free < needed:
        raise AlignError(
            "The disk is too full for the backup.",
            object_name=str(artifacts),
            expected=f"{needed / _MIB:.0f} MiB free: {_COPIES} times PROD's {database_bytes / _MIB:.0f} MiB"
            f" (dump and its verification) and {min_free_mb} MiB to spare",
            found=f"{free / _MIB:.0f} MiB free",
            remedy="Free space there, or set archon_artifacts_root to a folder on another disk.",
            code="disk_full",
        )
    return Disk(str(artifacts), free, needed)


def embedding_service(base_url: str, model: str, dimensions: int) -> tuple[dict[str, Any], list[Finding]]:
    """The service's state as a GET of its model list shows it. Never an error here: only phase 4 needs the service."""
    try:
        endpoint = Endpoint(base_url, model, dimensions)
    except AlignError as error:
        return {"base_url": "", "reachable": False}, [
            Finding(error.code, "warning", error.object_name, f"{error.what} Found: {error.found}.", error.remedy)
        ]
    state: dict[str, Any] = {"base_url": endpoint.base_url, "reachable": False, "model": model, "model_present": None}
    try:
        status, content = _get(endpoint)
    except (httpx.HTTPError, httpx.InvalidURL, OSError) as error:
        said = " ".join(str(error).split()) or type(error).__name__
        return state, [
            Finding(
                "embedding_unreachable",
                "warning",
                endpoint.base_url,
                f"The embedding service did not answer the controller: {said}.",
                "Start it or correct archon_embedding_base_url before phase 4.",
            )
        ]
    state["reachable"] = True
    models = _models(content) if status == 200 else None
    if models is None:
        # Some services list their models only to those who log in; phase 4 makes the real call.
        return state, []
    names = {model, f"{model}:latest"}
    state["model_present"] = bool(names & set(models))
    if state["model_present"]:
        return state, []
    return state, [
        Finding(
            "embedding_model_missing",
            "warning",
            endpoint.base_url,
            f"The embedding service does not list model {model}; it has: {', '.join(models[:10]) or 'none'}.",
            f"On the service's host run: ollama pull {model}",
        )
    ]


def _get(endpoint: Endpoint) -> tuple[int, bytes]:
    deadline = time.monotonic() + _SERVICE_SECONDS
    received = bytearray()
    with (
        httpx.Client(
            trust_env=not endpoint.loopback, timeout=httpx.Timeout(_SERVICE_SECONDS, connect=_CONNECT_SECONDS)
        ) as client,
        client.stream("GET", f"{endpoint.base_url}/models") as response,
    ):
        for part in response.iter_bytes():
            received += part
            if len(received) > _REPLY_BYTES or time.monotonic() > deadline:
                raise httpx.ReadTimeout("the list of models has no end")
        return response.status_code, bytes(received)


def _models(content: bytes) -> Sequence[str] | None:
    try:
        data = orjson.loads(content)["data"]
        return [str(one["id"]) for one in data]
    except (orjson.JSONDecodeError, KeyError, TypeError):
        return None
