"""What the database tells of changes: triggers, tables of other shapes, odd rows, and nothing that is secret."""

from __future__ import annotations

from collections.abc import Callable

import psycopg
from archon_align.context import Context
from archon_align.database.session import open_session
from archon_align.services.effective import UNKNOWN
from archon_align.services.stored import Stored, read

from tests.support.archon_services import SETTINGS

TEMPLATES = """
CREATE TABLE archon_template_components (name text, updated_at timestamp DEFAULT now());
CREATE TABLE archon_template_definitions (name text);
INSERT INTO archon_template_components VALUES ('a', '2021-05-05 10:00'), ('b', NULL);
"""


def stored(context: Context) -> Stored:
    with open_session(context, context.prod, read_only=True) as session:
        return read(session)


def test_the_newest_change_of_each_table_and_how_well_it_is_told(
    new_database: Callable[[str], str], make_context: Callable[..., Context]
) -> None:
    dsn = new_database(SETTINGS + TEMPLATES)
    found = {one.table: one for one in stored(make_context(dsn, check=True)).changed}
    settings = found["public.archon_settings"]
    assert (settings.measure, settings.at.year if settings.at else None, settings.ahead) == ("trigger", 2020, 0)
    components = found["public.archon_template_components"]
    assert (components.measure, components.at.isoformat() if components.at else None) == (
        "writer",
        "2021-05-05T10:00:00+00:00",
    )
    assert (found["public.archon_template_definitions"].measure, found["public.archon_template_definitions"].at) == (
        "none",
        None,
    )
    with psycopg.connect(dsn, autocommit=True) as owner:
        owner.execute("UPDATE archon_settings SET value = value WHERE key = 'EMBEDDING_MODEL'")
        # What no server reads does not count, and neither does what lies in the future.
        owner.execute("INSERT INTO archon_settings (key, value, category) VALUES ('OTHER', 'x', 'elsewhere')")
        owner.execute(
            "INSERT INTO archon_settings (key, value, category, updated_at) VALUES ('MODEL_CHOICE', 'x', 'llm', '2999-01-01')"
        )
        newest = owner.execute("SELECT updated_at FROM archon_settings WHERE key = 'EMBEDDING_MODEL'").fetchone()
    after = stored(make_context(dsn, check=True))
    assert newest is not None
    assert (after.changed[0].at, after.changed[0].ahead) == (newest[0], 1)
    assert after.now >= newest[0]
    assert {row.key for row in after.settings} >= {"MODEL_CHOICE", "EMBEDDING_MODEL"}
    assert "OTHER" not in {row.key for row in after.settings}


def test_secret_and_encrypted_values_stay_on_the_server(
    new_database: Callable[[str], str], make_context: Callable[..., Context]
) -> None:
    dsn = new_database(SETTINGS)
    with psycopg.connect(dsn, autocommit=True) as owner:
        owner.execute(
            "INSERT INTO archon_settings (key, value, encrypted_value, is_encrypted, category) VALUES"
            " ('LLM_PROVIDER', 'stray-plain-text', 'gAAAA-ciphertext', true, 'rag_strategy'),"
            " ('RAG_TOKEN', 'token-in-clear', NULL, false, 'rag_strategy')"
        )
    rows = {row.key: row for row in stored(make_context(dsn, check=True)).settings}
    assert {key: rows[key].value for key in ("OPENAI_API_KEY", "LLM_PROVIDER", "RAG_TOKEN")} == dict.fromkeys(
        ("OPENAI_API_KEY", "LLM_PROVIDER", "RAG_TOKEN")
    )
    assert rows["LLM_PROVIDER"].read == rows["OPENAI_API_KEY"].read == UNKNOWN


def test_tables_that_are_missing_or_of_another_shape_are_told(
    new_database: Callable[[str], str], make_context: Callable[..., Context]
) -> None:
    empty = stored(make_context(new_database(""), check=True))
    assert [one.measure for one in empty.changed] == ["absent"] * 3
    assert empty.settings == ()
    bare = new_database(
        "CREATE TABLE archon_settings (key text, value text, category text);"
        "INSERT INTO archon_settings VALUES ('EMBEDDING_MODEL', 'm', 'rag_strategy'), (NULL, 'x', 'rag_strategy');"
    )
    found = stored(make_context(bare, check=True))
    assert found.changed[0].measure == "none"
    assert [(row.key, row.value) for row in found.settings if row.key] == [("EMBEDDING_MODEL", "m")]
