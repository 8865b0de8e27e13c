"""What an archon-server uses: the precedence of Archon's own code, and the mixture after a change without a restart."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from archon_align.services.effective import OLLAMA_URL, Effective, Setting, effective
from archon_align.services.judging import Expected, judge
from hypothesis import given
from hypothesis import strategies as st

NOW = datetime(2026, 1, 2, 12, tzinfo=UTC)
STARTED = NOW - timedelta(hours=2)
EXPECTED = Expected("ollama", "http://ollama:11434/v1", "nomic-embed-text", 768)
ALIGNED = {
    "EMBEDDING_PROVIDER": "ollama",
    "EMBEDDING_BASE_URL": "http://ollama:11434/v1",
    "EMBEDDING_MODEL": "nomic-embed-text",
    "EMBEDDING_DIMENSIONS": "768",
    "LLM_BASE_URL": "http://ollama:11434/v1",
    "EMBEDDING_FALLBACK_PROVIDERS": "ollama",
}
OPTIONAL = st.one_of(st.none(), st.sampled_from(["", "alpha", "beta", "gamma"]))
KEYS = ("EMBEDDING_PROVIDER", "LLM_PROVIDER", "EMBEDDING_BASE_URL", "EMBEDDING_MODEL", "LLM_BASE_URL")


def rows(values: dict[str, str | None], *, category: str = "rag_strategy", at: datetime = STARTED) -> list[Setting]:
    return [Setting(key, category, value, updated_at=at - timedelta(hours=1)) for key, value in values.items()]


def use(
    settings: dict[str, str | None], environment: dict[str, str] | None = None, *, category: str = "rag_strategy"
) -> Effective:
    given_environment = {} if environment is None else environment
    return effective(rows(settings, category=category), given_environment, started=STARTED, now=NOW)


@given(
    st.dictionaries(st.sampled_from(KEYS), OPTIONAL),
    st.dictionaries(st.sampled_from(KEYS), OPTIONAL.map(lambda v: v or "")),
)
def test_precedence(stored: dict[str, str | None], environment: dict[str, str]) -> None:
    found = use(stored, environment)
    provider = (
        environment.get("EMBEDDING_PROVIDER")
        or stored.get("EMBEDDING_PROVIDER")
        or stored.get("LLM_PROVIDER")
        or "openai"
    )
    default = "https://api.openai.com/v1" if provider == "openai" else OLLAMA_URL
    model = "text-embedding-3-small" if provider == "openai" else ""
    assert found.ingest.provider.value == provider
    assert found.search.provider.value == provider
    url = stored.get("EMBEDDING_BASE_URL") or environment.get("EMBEDDING_BASE_URL") or default
    assert found.ingest.base_url.value == url
    # What is stored gets into the environment at the start, which search asks and ingest does not.
    assert found.ingest.model.value == (stored.get("EMBEDDING_MODEL") or model)
    assert found.search.model.value == (stored.get("EMBEDDING_MODEL") or environment.get("EMBEDDING_MODEL") or model)
    # Neither the environment nor EMBEDDING_BASE_URL have any say in where search asks.
    assert found.search.base_url.value == (stored.get("LLM_BASE_URL") or default)


@given(
    st.dictionaries(
        st.sampled_from(("EMBEDDING_DIMENSIONS", "EMBEDDING_FALLBACK_PROVIDERS", "EMBEDDING_BATCH_SIZE")), st.text()
    )
)
def test_what_the_environment_cannot_change(environment: dict[str, str]) -> None:
    found = use({}, environment)
    assert found.ingest.dimensions.value == "1536"
    assert found.ingest.batch_size.value == "100"
    assert found.search.fallback_providers.value == "openai,ollama,tei,local"


def test_a_row_of_another_category_reaches_only_what_is_copied_at_the_start() -> None:
    found = use({"EMBEDDING_MODEL": "other", "LLM_BASE_URL": "http://other/v1"}, category="elsewhere")
    assert found.search.model.value == "other"
    assert found.ingest.model.value == "text-embedding-3-small"
    assert found.search.base_url.origin == "default"


def test_provider_tei_searches_where_uploads_go() -> None:
    found = use({"EMBEDDING_PROVIDER": "tei", "EMBEDDING_BASE_URL": "http://tei/v1", "LLM_BASE_URL": "http://chat/v1"})
    assert found.search.base_url.value == "http://tei/v1"


def test_an_environment_that_is_not_known_is_never_taken_for_an_empty_one() -> None:
    found = effective(rows({"EMBEDDING_PROVIDER": "ollama"}), None, started=None, now=NOW)
    assert not found.ingest.provider.certain
    assert "unless the container's environment" in found.ingest.provider.source
    assert found.ingest.dimensions.certain


def test_the_mixture_after_a_change_without_a_restart() -> None:
    def one(minutes: float) -> Effective:
        changed = [
            Setting(key, "rag_strategy", value, updated_at=NOW - timedelta(minutes=minutes))
            for key, value in ALIGNED.items()
        ]
        return effective(changed, {}, started=STARTED, now=NOW)

    fresh, later = one(1), one(10)
    assert (fresh.ingest.model.seen, later.ingest.model.seen) == ("soon", "now")
    assert (fresh.search.base_url.seen, later.search.base_url.seen) == ("soon", "now")
    assert (fresh.search.model.seen, later.search.model.seen) == ("restart", "restart")
    assert (fresh.ingest.base_url.seen, later.ingest.base_url.seen) == ("restart", "restart")


def test_what_is_as_wanted_gives_no_finding() -> None:
    assert judge(use(dict(ALIGNED)), EXPECTED, {}, service="s") == []


@pytest.mark.parametrize(
    ("change", "environment", "object_part", "words"),
    [
        ({"LLM_BASE_URL": ""}, {}, "LLM_BASE_URL", f"Search will ask {OLLAMA_URL} for the query's vector"),
        ({"EMBEDDING_DIMENSIONS": None}, {}, "EMBEDDING_DIMENSIONS", "vectors of 1536 numbers"),
        ({}, {"EMBEDDING_PROVIDER": "openai"}, "EMBEDDING_PROVIDER", "embedded by openai instead of ollama"),
        ({"EMBEDDING_MODEL": "text-embedding-3-small"}, {}, "EMBEDDING_MODEL (uploads)", "text-embedding-3-small"),
        ({"EMBEDDING_BASE_URL": "http://old/v1"}, {}, "EMBEDDING_BASE_URL", "embedded at http://old/v1"),
        ({"EMBEDDING_FALLBACK_PROVIDERS": None}, {}, "EMBEDDING_FALLBACK_PROVIDERS", "asks openai, tei, local instead"),
        ({"EMBEDDING_FALLBACK_PROVIDERS": " ollama , tei"}, {}, "EMBEDDING_FALLBACK_PROVIDERS", "asks tei instead"),
        ({"TEMPLATE_INJECTION_ENABLED": "true"}, {}, "TEMPLATE_INJECTION_ENABLED", "does not set it"),
    ],
)
def test_every_difference_is_told_with_its_consequence(
    change: dict[str, str | None], environment: dict[str, str], object_part: str, words: str
) -> None:
    found = judge(use({**ALIGNED, **change}, environment), EXPECTED, environment, service="prod_server")
    told = next(one for one in found if one.object == f"prod_server: {object_part}")
    assert words in told.message
    assert told.remedy


def test_a_secret_in_an_address_is_never_shown() -> None:
    used = use({**ALIGNED, "LLM_BASE_URL": "http://me:hunter2@ollama/v1"})
    text = f"{judge(used, EXPECTED, {}, service='s')}{used.as_dict()}{used!r}"
    assert "hunter2" not in text
    assert "LLM_BASE_URL" in text
