"""Values from the variables, and the pure planner."""

from __future__ import annotations

import pytest
from archon_align.database.target import Table
from archon_align.errors import AlignError
from archon_align.settings.advice import findings
from archon_align.settings.planner import plan_dev, plan_prod
from archon_align.settings.store import Row, Store
from archon_align.settings.wanted import Options, is_secret, wanted
from hypothesis import given, settings
from hypothesis import strategies as st

URL = "http://ollama.example:11434/v1"
COLUMNS = frozenset({"key", "value", "category", "is_encrypted"})


def options(**fields: object) -> Options:
    values = {"embedding_provider": "ollama", "embedding_base_url": URL, "embedding_model": "nomic-embed-text"}
    return Options(**{**values, "embedding_dimensions": 768, **fields})  # type: ignore[arg-type]


def store(name: str, *rows: Row, database: str = "PROD") -> Store:
    return Store(database, Table("public", name), COLUMNS, rows)


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"embedding_base_url": ""}, "EMBEDDING_BASE_URL"),
        ({"embedding_base_url": "ollama:11434/v1"}, "EMBEDDING_BASE_URL"),
        ({"embedding_base_url": "ftp://ollama/v1"}, "EMBEDDING_BASE_URL"),
        ({"embedding_base_url": "http:///v1"}, "EMBEDDING_BASE_URL"),
        ({"embedding_base_url": "http://ollama:99999/v1"}, "EMBEDDING_BASE_URL"),
        ({"embedding_base_url": "http://[::1/v1"}, "EMBEDDING_BASE_URL"),
        ({"embedding_base_url": f"{URL}\n"}, "EMBEDDING_BASE_URL"),
        ({"embedding_model": ""}, "EMBEDDING_MODEL"),
        ({"embedding_model": " nomic"}, "EMBEDDING_MODEL"),
        ({"embedding_model": "a\0b"}, "EMBEDDING_MODEL"),
        ({"embedding_dimensions": 0}, "EMBEDDING_DIMENSIONS"),
        ({"embedding_dimensions": 16_001}, "EMBEDDING_DIMENSIONS"),
        ({"embedding_provider": "Ollama"}, "EMBEDDING_PROVIDER"),
        ({"embedding_provider": ""}, "EMBEDDING_PROVIDER"),
        ({"extra": {"EMBEDDING_MODEL": "other"}}, "EMBEDDING_MODEL"),
        ({"extra": {"A": None}}, "A"),
        ({"extra": {"A": ["x"]}}, "A"),
        ({"extra": {"A": "x\0"}}, "A"),
        ({"extra": {"A": "\ud800"}}, "A"),
        ({"extra": {"bad key": "x"}}, "'bad key'"),
        ({"extra": {"k" * 201: "x"}}, "k" * 201),
    ],
)
def test_a_value_that_cannot_be_meant_is_refused_by_name(fields: dict[str, object], named: str) -> None:
    with pytest.raises(AlignError) as caught:
        wanted(options(**fields))
    assert named in caught.value.object_name
    assert caught.value.code == "bad_setting"


def test_a_refused_url_does_not_show_its_password() -> None:
    with pytest.raises(AlignError) as caught:
        wanted(options(embedding_base_url="ftp://me:hush@host/v1"))
    assert "hush" not in str(caught.value)


def test_search_gets_its_address_for_ollama_only_and_a_given_one_wins() -> None:
    assert wanted(options()).settings["LLM_BASE_URL"] == URL
    assert "LLM_BASE_URL" not in wanted(options(embedding_provider="openai")).settings
    assert wanted(options(extra={"LLM_BASE_URL": "http://other/v1"})).settings["LLM_BASE_URL"] == "http://other/v1"


@pytest.mark.parametrize(
    ("key", "value", "secret"),
    [
        ("OPENAI_API_KEY", "x", True),
        ("logfire_token", "x", True),
        ("EMBEDDING_MODEL", "x", False),
        ("LLM_BASE_URL", "http://user:pw@host/v1", True),
        ("LLM_BASE_URL", "http://host/a@b", False),
        ("A_SECRET", None, True),
    ],
)
def test_what_is_secret(key: str, value: str | None, *, secret: bool) -> None:
    assert is_secret(key, value) is secret


def test_a_key_found_by_name_alone_keeps_its_category_and_others_move() -> None:
    values = wanted(options(extra={"PROJECTS_ENABLED": True, "USE_RERANKING": True}))
    rows = (Row("PROJECTS_ENABLED", "features", "false"), Row("USE_RERANKING", "features", "true"))
    plan = plan_prod(store("archon_credentials"), store("archon_settings", *rows), values)
    names = [change.name for change in plan.changes if "archon_settings" in change.name]
    assert "prod:archon_settings:features/PROJECTS_ENABLED" in names
    moved = [
        change.statement.sql for change in plan.changes if change.name.endswith("settings:rag_strategy/USE_RERANKING")
    ]
    assert moved == [
        'UPDATE "public"."archon_settings" SET "category" = \'rag_strategy\' WHERE key = \'USE_RERANKING\''
    ]


@settings(deadline=None)
@given(
    stored=st.dictionaries(
        st.sampled_from(("EMBEDDING_MODEL", "EMBEDDING_PROVIDER", "LLM_BASE_URL", "A_TOKEN", "OTHER")),
        st.tuples(st.none() | st.text(max_size=5), st.sampled_from((None, "rag_strategy", "x")), st.booleans()),
    )
)
def test_only_what_differs_changes_and_nothing_encrypted(
    stored: dict[str, tuple[str | None, str | None, bool]],
) -> None:
    values = wanted(options(extra={"A_TOKEN": "hidden-value"}))
    rows = tuple(Row(key, category, None if lock else value, lock) for key, (value, category, lock) in stored.items())
    kept = store("archon_settings", *rows)
    plan = plan_prod(store("archon_credentials"), kept, values)
    changed = {change.name.rsplit("/", 1)[1] for change in plan.changes if ":archon_settings:" in change.name}
    before = {row.key: row for row in rows}
    for key, value in values.settings.items():
        row = before.get(key)
        right = row is not None and (row.encrypted or (row.value, row.category) == (value, "rag_strategy"))
        assert (key in changed) is not right
    assert changed <= values.settings.keys()
    assert "hidden-value" not in str(plan)
    assert "hidden-value" not in str(findings(plan.stores[0], kept, store("d"), values))


def test_dev_gets_only_what_it_lacks() -> None:
    dev = store("archon_credentials", Row("EMBEDDING_MODEL", "embedding", None), database="DEV")
    names = [change.name for change in plan_dev(dev, wanted(options())).changes]
    assert names == [
        f"dev:archon_credentials:embedding/EMBEDDING_{name}" for name in ("PROVIDER", "DIMENSIONS", "BASE_URL")
    ]


@pytest.mark.parametrize(
    ("fields", "rows", "code", "raised"),
    [
        ({}, (), "chat_shares_base_url", True),
        ({}, (Row("LLM_PROVIDER", "rag_strategy", "ollama"),), "chat_shares_base_url", False),
        ({"extra": {"CHAT_PROVIDER": "openai", "CHAT_BASE_URL": "https://x/v1"}}, (), "chat_shares_base_url", False),
        ({"embedding_provider": "openai"}, (), "chat_shares_base_url", False),
        ({}, (Row("LLM_BASE_URL", None, "http://chat/v1"),), "llm_base_url_replaced", True),
        ({}, (Row("LLM_BASE_URL", None, URL),), "llm_base_url_replaced", False),
        ({}, (Row("LLM_BASE_URL", None, ""),), "llm_base_url_replaced", False),
        ({"embedding_base_url": "http://host:11434"}, (), "base_url_without_v1", True),
        ({"embedding_base_url": "http://host:11434/v1/"}, (), "base_url_without_v1", False),
    ],
)
def test_consequences_are_told(fields: dict[str, object], rows: tuple[Row, ...], code: str, *, raised: bool) -> None:
    values = wanted(options(**fields))
    found = findings(store("archon_credentials"), store("archon_settings", *rows), store("archon_credentials"), values)
    assert (code in {finding.code for finding in found}) is raised
