"""What a person should know about the configuration: consequences for Archon that no value can express."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from ..findings import Finding
from .store import Store
from .wanted import OLLAMA, Wanted, shown

# Read besides the wanted keys, because what they say decides what the wanted ones do.
CONTEXT_KEYS = ("LLM_PROVIDER", "CHAT_PROVIDER", "CHAT_BASE_URL")
_DEFAULT_PROVIDER = "openai"


def findings(credentials: Store, settings: Store, dev: Store, wanted: Wanted) -> list[Finding]:
    """All findings of the phase, the same in both modes. What the running Archon makes of it is told by the services phase."""
    return [
        *_encrypted(credentials, wanted.credentials),
        *_encrypted(settings, wanted.settings),
        *_withheld(settings, wanted),
        *_base_url(settings, wanted),
        *_chat(settings, wanted),
        *_dev_differs(dev, wanted),
    ]


def _effective(settings: Store, wanted: Wanted, key: str, default: str = "") -> str:
    """What Archon will find under `key` once the plan is carried out."""
    stored = {row.key: row.value for row in settings.rows if not row.encrypted}
    return wanted.settings.get(key) or stored.get(key) or default


def _encrypted(store: Store, values: Mapping[str, str]) -> Iterator[Finding]:
    for row in store.rows:
        if row.encrypted and row.key in values:
            yield Finding(
                "encrypted_setting",
                "error",
                f"{store}: {row.key}",
                "The key is stored encrypted, so it was neither read nor overwritten; Archon may not get the wanted value.",
                f"Store it in plain text with Archon's API (PUT /api/credentials/{row.key} with is_encrypted false), then run again.",
            )


def _withheld(settings: Store, wanted: Wanted) -> Iterator[Finding]:
    for key in wanted.withheld:
        yield Finding(
            "secret_not_in_settings",
            "warning",
            f"{settings}: {key}",
            "The key's name says that it is secret. It is kept in archon_credentials only: Archon encrypts its secrets "
            "with a key that only its own server has, and in archon_settings this one would lie open.",
            "Enter it in Archon's settings page if Archon shall use it.",
        )


def _base_url(settings: Store, wanted: Wanted) -> Iterator[Finding]:
    if wanted.settings["EMBEDDING_PROVIDER"] == OLLAMA and not wanted.settings["EMBEDDING_BASE_URL"].rstrip(
        "/"
    ).endswith("/v1"):
        yield Finding(
            "base_url_without_v1",
            "warning",
            f"{settings}: EMBEDDING_BASE_URL",
            "The address does not end in /v1, under which Ollama answers the calls that Archon makes.",
            "Set archon_embedding_base_url to http://host:11434/v1.",
        )


def _chat(settings: Store, wanted: Wanted) -> Iterator[Finding]:
    provider = _effective(settings, wanted, "LLM_PROVIDER", _DEFAULT_PROVIDER)
    split = _effective(settings, wanted, "CHAT_PROVIDER") and _effective(settings, wanted, "CHAT_BASE_URL")
    if wanted.settings["EMBEDDING_PROVIDER"] != OLLAMA or split:
        return
    replaced = next((row.value for row in settings.rows if row.key == "LLM_BASE_URL" and not row.encrypted), None)
    if replaced and replaced != wanted.settings["LLM_BASE_URL"]:
        yield Finding(
            "llm_base_url_replaced",
            "warning",
            f"{settings}: LLM_BASE_URL",
            f"It was {shown('LLM_BASE_URL', replaced)}. Search embeds its query there, so it is now the embedding service's "
            "address; a chat that used the old one goes to the new one too.",
            "If chat needs the old address, set CHAT_PROVIDER and CHAT_BASE_URL in archon_credentials_extra.",
        )
    if provider != OLLAMA:
        yield Finding(
            "chat_shares_base_url",
            "warning",
            f"{settings}: LLM_BASE_URL",
            f"Search embeds its query at LLM_BASE_URL, so this is the Ollama address. LLM_PROVIDER is {provider} and was left "
            "alone: a chat client that honours LLM_BASE_URL for this provider would now talk to Ollama.",
            "Test a chat after the restart. If it fails, set CHAT_PROVIDER and CHAT_BASE_URL (and MODEL_CHOICE) "
            "in archon_credentials_extra.",
        )


def _dev_differs(dev: Store, wanted: Wanted) -> Iterator[Finding]:
    different = sorted(
        row.key
        for row in dev.rows
        if row.key in wanted.credentials and (row.encrypted or row.value != wanted.credentials[row.key])
    )
    if different:
        yield Finding(
            "dev_keeps_its_values",
            "info",
            f"{dev}: {', '.join(different)}",
            "DEV has these keys with other values; DEV's values are never overwritten.",
            "Nothing to do, unless DEV should use the same service.",
        )
