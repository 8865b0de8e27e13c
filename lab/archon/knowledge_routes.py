"""Uploads, sources and search."""

from __future__ import annotations

import json
import uuid
from collections import defaultdict
from typing import Any

from starlette.datastructures import UploadFile
from starlette.requests import Request
from starlette.routing import Route

from . import ingest, search
from .progress import Progress
from .rest import RestError, Row
from .service import Service
from .web import Field, Refused, Tally, body_of, endpoint, failed, invalid, number

_QUERY = {"query": Field(str, required=True), "source": Field(str), "match_count": Field(int, 5)}
_ITEM = {
    "title": Field(str),
    "description": Field(str),
    "knowledge_type": Field(str),
    "tags": Field(list),
    "status": Field(str),
    "update_frequency": Field(int),
    "group_name": Field(str),
}


async def upload(request: Request, service: Service) -> object:
    """POST /api/documents/upload: answers at once, works afterwards."""
    form = await request.form() if request.headers.get("content-type", "").startswith("multipart/") else {}
    file = form.get("file")
    if not isinstance(file, UploadFile):
        raise invalid("missing", "Field required", "file", None)
    try:
        tags = json.loads(str(form.get("tags") or "[]"))
    except ValueError as error:
        raise failed(error) from error
    name = file.filename or "upload"
    received = ingest.Upload(
        name,
        file.content_type or "application/octet-stream",
        await file.read(),
        str(form.get("knowledge_type") or "technical"),
        tuple(map(str, tags)),
    )
    progress_id = str(uuid.uuid4())
    progress = Progress(service.sockets, progress_id)
    service.later(ingest.store(received, service.rest, service.embedder, progress, service.upload_delay))
    return {"success": True, "progressId": progress_id, "message": "Document upload started", "filename": name}


async def query(request: Request, service: Service) -> object:
    """POST /api/rag/query and /api/knowledge-items/search"""
    wanted = await _wanted(request)
    hybrid = service.settings.flag("USE_HYBRID_SEARCH")
    rows = await _find(search.PAGE_SEARCH, wanted, service)
    return {
        "results": [search.shown(row) for row in rows],
        "query": wanted["query"],
        "source": wanted["source"],
        "match_count": wanted["match_count"],
        "total_found": len(rows),
        "execution_path": "rag_service_pipeline",
        "search_mode": "hybrid" if hybrid else "vector",
        "reranking_applied": service.settings.flag("USE_RERANKING"),  # whether or not there is a reranker
        "success": True,
    }


async def code_query(request: Request, service: Service) -> object:
    """POST /api/rag/code-examples and /api/code-examples"""
    wanted = await _wanted(request)
    if not service.settings.flag("USE_AGENTIC_RAG"):
        raise Refused(500, {"error": "Code example extraction is disabled. Perform a regular RAG search."})
    rows = await _find(search.CODE_SEARCH, wanted, service)
    return {
        "success": True,
        "results": [search.shown_code(row) for row in rows],
        "reranked": service.settings.flag("USE_RERANKING"),
        "error": None,
    }


async def _wanted(request: Request) -> dict[str, Any]:
    wanted = await body_of(request, _QUERY)
    if not wanted["query"].strip():
        raise Refused(422, {"error": "Query is required", "error_type": "validation_error"})
    return wanted


async def _find(kind: search.Kind, wanted: dict[str, Any], service: Service) -> list[Row]:
    return await search.find(
        kind,
        wanted["query"],
        wanted["source"],
        max(1, wanted["match_count"]),
        hybrid=service.settings.flag("USE_HYBRID_SEARCH"),
        rest=service.rest,
        embedder=service.embedder,
    )


async def sources(_request: Request, service: Service) -> object:
    """GET /api/rag/sources: 200 even when the database refuses."""
    try:
        rows = await service.rest.select(ingest.SOURCES, order=[("source_id", "asc")])
    except RestError as error:
        return {"success": False, "error": str(error), "sources": [], "count": 0}
    shown = [
        {
            "source_id": row["source_id"],
            "title": row["title"] or row["summary"] or "",
            "summary": row["summary"] or "",
            "metadata": row["metadata"] or {},
            "total_words": row["total_word_count"],
            "update_frequency": (row["metadata"] or {}).get("update_frequency", 7),
            "created_at": row["created_at"],
            "updated_at": row["updated_at"],
        }
        for row in rows
    ]
    return {"success": True, "sources": shown, "count": len(shown)}


async def items(request: Request, service: Service) -> object:
    """GET /api/knowledge-items"""
    rows = await service.rest.select(ingest.SOURCES, order=[("updated_at", "desc"), ("source_id", "asc")])
    kind, text = request.query_params.get("knowledge_type"), request.query_params.get("search", "").lower()
    if kind:
        rows = [row for row in rows if (row["metadata"] or {}).get("knowledge_type") == kind]
    if text:
        rows = [
            row for row in rows if any(text in (row[name] or "").lower() for name in ("title", "summary", "source_id"))
        ]
    tally = Tally(number(request, "page", 1), number(request, "per_page", 20), len(rows))
    rows = rows[tally.offset : tally.offset + tally.per_page]
    columns = ("source_id", "url")
    urls = {row["source_id"]: row["url"] for row in await service.rest.select(ingest.PAGES, columns=columns)}
    examples: dict[str, list[Row]] = defaultdict(list)
    for row in await service.rest.select(search.CODE, columns=("id", "source_id", "content", "summary", "metadata")):
        examples[row["source_id"]].append(row)
    return {
        "items": [
            _item(row, urls.get(row["source_id"], f"source://{row['source_id']}"), examples[row["source_id"]])
            for row in rows
        ],
        "total": tally.total,
        "page": tally.page,
        "per_page": tally.per_page,
        "pages": tally.pages,
    }


def _item(row: Row, url: str, examples: list[Row]) -> dict[str, Any]:
    about = row["metadata"] or {}
    return {
        "id": row["source_id"],
        "title": row["title"] or row["summary"] or "Untitled",
        "url": url,
        "source_id": row["source_id"],
        "code_examples": examples,
        "metadata": {
            "knowledge_type": about.get("knowledge_type", "technical"),
            "tags": about.get("tags", []),
            "source_type": "file" if url.startswith("file://") else "url",
            "status": "active",
            "description": about.get("description", row["summary"] or ""),
            "chunks_count": 0,  # never counted here
            "word_count": row["total_word_count"],
            "code_examples_count": len(examples),
            **about,
        },
        "created_at": row["created_at"],
        "updated_at": row["updated_at"],
    }


async def change_item(request: Request, service: Service) -> object:
    """PUT /api/knowledge-items/{source_id}"""
    source_id = request.path_params["source_id"]
    given = {name: value for name, value in (await body_of(request, _ITEM)).items() if value is not None}
    found = await service.rest.select(ingest.SOURCES, ("source_id", "eq", source_id))
    if not found:
        raise Refused(404, {"error": f"Knowledge item {source_id} not found"})
    about = {**(found[0]["metadata"] or {}), **{name: value for name, value in given.items() if name != "title"}}
    change = {"metadata": about, **({"title": given["title"]} if "title" in given else {})}
    await service.rest.update(ingest.SOURCES, change, ("source_id", "eq", source_id))
    return {"success": True, "message": f"Successfully updated knowledge item {source_id}", "source_id": source_id}


async def delete_item(request: Request, service: Service) -> object:
    """DELETE /api/knowledge-items/{source_id}: also when nothing is there; project links stay."""
    await _delete(request.path_params["source_id"], service)
    return {"success": True, "message": f"Successfully deleted knowledge item {request.path_params['source_id']}"}


async def delete_source(request: Request, service: Service) -> object:
    """DELETE /api/sources/{source_id}"""
    source_id = request.path_params["source_id"]
    counts = await _delete(source_id, service)
    return {"success": True, "message": f"Successfully deleted source {source_id}", "source_id": source_id, **counts}


async def _delete(source_id: str, service: Service) -> dict[str, int]:
    named = (
        ("pages_deleted", ingest.PAGES),
        ("code_examples_deleted", search.CODE),
        ("source_records_deleted", ingest.SOURCES),
    )
    return {name: len(await service.rest.delete(table, ("source_id", "eq", source_id))) for name, table in named}


async def code_of_item(request: Request, service: Service) -> object:
    """GET /api/knowledge-items/{source_id}/code-examples"""
    source_id = request.path_params["source_id"]
    columns = ("id", "source_id", "content", "summary", "metadata")
    rows = await service.rest.select(search.CODE, ("source_id", "eq", source_id), columns=columns)
    return {"success": True, "source_id": source_id, "code_examples": rows, "count": len(rows)}


async def task(_request: Request, _service: Service) -> object:
    """GET /api/knowledge-items/task/{task_id}: uploads are no tasks."""
    raise Refused(404, {"error": "Task not found"})


async def no_sources(_request: Request, _service: Service) -> object:
    """GET /api/knowledge-items/sources: a stub."""
    return []


async def tags(_request: Request, service: Service) -> object:
    """GET /api/knowledge-items/tags"""
    rows = await service.rest.select(ingest.SOURCES, columns=("metadata",))
    return {"tags": sorted({str(tag) for row in rows for tag in (row["metadata"] or {}).get("tags", [])})}


ROUTES = [
    Route("/api/documents/upload", endpoint(upload), methods=["POST"]),
    Route("/api/rag/query", endpoint(query), methods=["POST"]),
    Route("/api/knowledge-items/search", endpoint(query), methods=["POST"]),
    Route("/api/rag/code-examples", endpoint(code_query), methods=["POST"]),
    Route("/api/code-examples", endpoint(code_query), methods=["POST"]),
    Route("/api/rag/sources", endpoint(sources)),
    Route("/api/knowledge-items", endpoint(items)),
    Route("/api/knowledge-items/sources", endpoint(no_sources)),
    Route("/api/knowledge-items/tags", endpoint(tags)),
    Route("/api/knowledge-items/task/{task_id}", endpoint(task)),
    Route("/api/knowledge-items/{source_id}/code-examples", endpoint(code_of_item)),
    Route("/api/knowledge-items/{source_id}", endpoint(change_item), methods=["PUT"]),
    Route("/api/knowledge-items/{source_id}", endpoint(delete_item), methods=["DELETE"]),
    Route("/api/sources/{source_id}", endpoint(delete_source), methods=["DELETE"]),
]
