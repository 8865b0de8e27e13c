"""The state of PROD, measured against DEV's, in findings that a person can read."""

from __future__ import annotations

from collections.abc import Iterator

from ..findings import Finding
from .growth import disk_growth
from .state import Embedded, State


def findings(prod: State, dev: State) -> list[Finding]:
    """What is broken or missing in PROD, and what both lack. Pure."""
    return [
        *prod.problems,
        *dev.problems,
        *_embeddings(prod, dev),
        *disk_growth(prod, dev),
        *_missing_tables(prod, dev),
        *_search(prod),
        *_sources(prod),
        *_credentials(prod, dev),
        *_settings(prod, dev),
    ]


def _embeddings(prod: State, dev: State) -> Iterator[Finding]:
    for name, found in prod.embedded.items():
        if found is None:
            continue
        what = f"PROD {found.table}"
        noun = "pages" if name.endswith("pages") else "code examples"
        if found.missing:
            message = f"{found.missing} of {found.rows} {noun} have no embedding, so vector search cannot find them."
            remedy = "The embeddings phase rebuilds them in place from their stored text (--tags embeddings)."
            yield Finding("embeddings_missing", "warning", what, message, remedy)
        other = dev.embedded.get(name)
        if other is not None and other.declared != found.declared:
            message = f"The embedding column is {found.declared or 'missing'} in PROD and {other.declared or 'missing'} in DEV."
            yield Finding(
                "embedding_type", "warning", what, message, "The schema phase changes it where no vector is lost."
            )
        yield from _vector_index(found, what)


def _vector_index(found: Embedded, what: str) -> Iterator[Finding]:
    if not found.indexes:
        message = "There is no vector index, so every search reads the whole table."
        yield Finding("vector_index_missing", "info", what, message, "The embeddings phase sees to it.")
    for index in found.indexes:
        if not index.valid:
            message = f"The vector index {index.name} is invalid: an earlier build was broken off."
            yield Finding("vector_index_invalid", "warning", what, message, "The embeddings phase replaces it.")


def _missing_tables(prod: State, dev: State) -> Iterator[Finding]:
    names = [name for name, rows in prod.counts.items() if rows is None and dev.counts[name] is not None]
    if names:
        words = ", ".join(name.replace("_", " ") for name in names)
        message = f"PROD has no tables for: {words}. DEV has."
        yield Finding("tables_missing", "warning", "PROD", message, "The schema phase creates them (--tags schema).")


def _search(prod: State) -> Iterator[Finding]:
    for name, exists in prod.search_functions.items():
        if not exists:
            message = (
                "The search function does not exist: Archon's search answers with an empty list, without an error."
            )
            yield Finding("search_function_missing", "warning", f"PROD {name}", message, "The schema phase creates it.")


def _sources(prod: State) -> Iterator[Finding]:
    if prod.empty_sources:
        message = f"{prod.empty_sources} of {prod.counts['sources']} sources have no pages at all: their ingest failed."
        yield Finding(
            "sources_without_pages",
            "warning",
            "PROD archon_sources",
            message,
            "Upload or crawl them again in Archon; nothing of them is stored from which they could be rebuilt.",
        )


def _credentials(prod: State, dev: State) -> Iterator[Finding]:
    missing = [state.database for state in (prod, dev) if state.counts["credentials"] is None]
    if missing:
        message = f"The table archon_credentials is missing in {' and '.join(missing)}."
        yield Finding(
            "credentials_missing", "warning", "archon_credentials", message, "The schema phase creates it in both."
        )


def _settings(prod: State, dev: State) -> Iterator[Finding]:
    if prod.settings is None or dev.settings is None:
        return
    keys = [key for key in sorted({*prod.settings, *dev.settings}) if prod.settings.get(key) != dev.settings.get(key)]
    if keys:
        differing = "; ".join(f"{key} is {_value(prod, key)}, in DEV {_value(dev, key)}" for key in keys)
        number = f"{len(keys)} settings differ" if len(keys) > 1 else "1 setting differs"
        yield Finding(
            "settings_differ",
            "info",
            "PROD archon_settings",
            f"Of embedding and language model {number} from DEV's: {differing}.",
            "The data phase sets those of embedding to the values of this run's variables (--tags data).",
        )


def _value(state: State, key: str) -> str:
    return ((state.settings or {}).get(key, "(absent)")) or "(empty)"
