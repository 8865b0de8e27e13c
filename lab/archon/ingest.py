"""What Archon does with an uploaded document, after it has answered that all is well."""

from __future__ import annotations

import asyncio
import logging
import re
import time
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

from .embeddings import Embedder
from .progress import Progress
from .rest import Rest, RestError, Row

logger = logging.getLogger("archon.ingest")

PAGES = "archon_crawled_pages"
SOURCES = "archon_sources"
CHUNK_SIZE = 800
_EARLIEST_CUT = 0.3
_ROWS_PER_INSERT = 15
_INSERT_WAITS = (1.0, 2.0)
_TEXT_SUFFIXES = frozenset(
    re.findall(
        r"\.\w+",
        ".txt .md .markdown .rst .py .js .jsx .ts .tsx .java .c .cpp .h .go .rs .rb .php .html .htm .css .json .xml .yaml .yml"
        ".toml .ini .cfg .conf .csv .sql .sh .log",
    )
)


class Unreadable(Exception):
    """No text can be taken from the file."""


@dataclass(frozen=True)
class Upload:
    """A file as it was received."""

    filename: str
    content_type: str
    content: bytes
    knowledge_type: str
    tags: tuple[str, ...]


def text_of(upload: Upload) -> str:
    """The text of a file. Raises Unreadable."""
    suffix = PurePath(upload.filename).suffix.lower()
    if suffix in (".pdf", ".docx", ".doc"):
        raise Unreadable(f"Failed to extract text from {upload.filename}: no library for {suffix} is available")
    if upload.content_type.startswith("text/") or suffix in _TEXT_SUFFIXES:
        return upload.content.decode("utf-8", errors="ignore")
    raise Unreadable(f"Unsupported file format: {upload.content_type} ({upload.filename})")


def chunks_of(text: str) -> list[str]:
    """Pieces of at most 800 characters, cut at a fence, a blank line or a sentence where that is not too early."""
    chunks: list[str] = []
    start = 0
    while start < len(text):
        end = start + CHUNK_SIZE
        if end < len(text):
            end = start + _cut(text[start:end])
        if chunk := text[start:end].strip():
            chunks.append(chunk)
        start = end
    return chunks


def _cut(window: str) -> int:
    for mark, kept in (("```", 0), ("\n\n", 0), (". ", 1)):
        place = window.rfind(mark)
        if place > CHUNK_SIZE * _EARLIEST_CUT:
            return place + kept
    return len(window)


def source_id_of(filename: str, now: float) -> str:
    """Another one each second, so the same file is another source each time."""
    return f"file_{re.sub(r'[ .]', '_', filename)}_{int(now)}"


async def store(upload: Upload, rest: Rest, embedder: Embedder, progress: Progress, delay: float) -> None:
    """Store a document and report it as completed, whatever became of its rows; an error event if it could not be read."""
    await asyncio.sleep(delay)  # lets clients subscribe
    try:
        await progress.tell("starting", 10, f"Reading {upload.filename}", currentUrl=_url(upload))
        await _store(upload, rest, embedder, progress)
    except (Unreadable, RestError) as error:
        logger.error("Document upload failed: %s", error)
        await progress.tell("error", -1, f"Upload failed: {error}", error=str(error))


async def _store(upload: Upload, rest: Rest, embedder: Embedder, progress: Progress) -> None:
    source_id = source_id_of(upload.filename, time.time())
    url = _url(upload)
    text = text_of(upload)
    await progress.tell("processing", 30, "Extracting text and creating chunks", currentUrl=url)
    chunks = chunks_of(text)
    if not chunks:
        raise Unreadable("No text content extracted from document")
    words = sum(len(chunk.split()) for chunk in chunks)
    # Before anything is embedded: type and tags of the upload are not handed on, and the title step gets no content.
    about = {"knowledge_type": "technical", "tags": [], "auto_generated": True}
    source: Row = {
        "source_id": source_id,
        "title": source_id,
        "summary": f"Content from {source_id}",
        "total_word_count": words,
        "metadata": about,
    }
    await rest.insert(SOURCES, [source], on_conflict="source_id")
    try:
        await rest.delete(PAGES, ("url", "eq", url))
    except RestError as error:
        logger.error("Error deleting existing records: %s", error)
    rows = [_row(upload, source_id, number, chunk) for number, chunk in enumerate(chunks)]
    batches = range(0, len(rows), _ROWS_PER_INSERT)
    for number, start in enumerate(batches, 1):
        await _store_batch(rows[start : start + _ROWS_PER_INSERT], rest, embedder)
        await progress.tell(
            "document_storage",
            35 + int(45 * number / len(batches)),
            f"Batch {number}/{len(batches)}: stored chunks",
            currentUrl=url,
            completed_batches=number,
            total_batches=len(batches),
            current_batch=number,
            chunks_processed=min(start + _ROWS_PER_INSERT, len(rows)),
        )
    await progress.tell("code_extraction", 95, "No code examples in uploads", currentUrl=url)
    await progress.tell("finalization", 97, "Finishing", currentUrl=url)
    await progress.tell(
        "completed",
        100,
        "Document uploaded successfully!",
        currentUrl=url,
        chunksStored=len(chunks),
        wordCount=words,
        sourceId=source_id,
    )


def _url(upload: Upload) -> str:
    return f"file://{upload.filename}"


def _row(upload: Upload, source_id: str, number: int, chunk: str) -> Row:
    metadata: dict[str, Any] = {
        "chunk_size": len(chunk),
        "headers": "; ".join(line.lstrip("#").strip() for line in chunk.splitlines() if line.startswith("#")),
        "char_count": len(chunk),
        "word_count": len(chunk.split()),
        "line_count": len(chunk.splitlines()),
        "has_code": "```" in chunk,
        "has_links": "http" in chunk,
        "chunk_index": number,
        "url": _url(upload),
        "source": source_id,
        "source_id": source_id,
        "knowledge_type": upload.knowledge_type,
        "filename": upload.filename,
    }
    if upload.tags:
        metadata["tags"] = list(upload.tags)
    return {
        "url": _url(upload),
        "chunk_number": number,
        "content": chunk,
        "metadata": metadata,
        "source_id": source_id,
    }


async def _store_batch(rows: list[Row], rest: Rest, embedder: Embedder) -> None:
    """A text without a vector is left out, a row that is refused is left out; both are only logged."""
    vectors = await embedder.for_storage([row["content"] for row in rows])
    ready = [{**row, "embedding": vector} for row, vector in zip(rows, vectors, strict=True) if vector is not None]
    if not ready:
        logger.warning("Skipping batch of %d chunks: no embeddings were created", len(rows))
        return
    for wait in (*_INSERT_WAITS, None):
        try:
            await rest.insert(PAGES, ready, returning=False)
        except RestError as error:
            logger.warning("Error inserting batch: %s", error)
            if wait is not None:
                await asyncio.sleep(wait)
        else:
            return
    stored = 0
    for row in ready:
        try:
            await rest.insert(PAGES, [row], returning=False)
            stored += 1
        except RestError as error:
            logger.error("Failed to insert individual record: %s", error)
    logger.info("Stored %d of %d records one by one", stored, len(ready))
