"""The data phase against real databases."""

from __future__ import annotations

from collections.abc import Callable

import psycopg
import pytest
from archon_align.context import Context
from archon_align.errors import AlignError, LockLost
from archon_align.settings import phase

CREDENTIALS = """
CREATE TABLE archon_credentials (
  id serial PRIMARY KEY, category varchar(100) NOT NULL, key varchar(200) NOT NULL, value text,
  created_at timestamptz DEFAULT now(), updated_at timestamptz DEFAULT now(), UNIQUE (category, key));
ALTER TABLE archon_credentials ENABLE ROW LEVEL SECURITY;
"""
SETTINGS = """
CREATE TABLE archon_settings (
  id uuid PRIMARY KEY DEFAULT gen_random_uuid(), key varchar(255) NOT NULL UNIQUE, value text, encrypted_value text,
  is_encrypted boolean DEFAULT false, category varchar(100), description text,
  created_at timestamptz DEFAULT now(), updated_at timestamptz DEFAULT now());
CREATE FUNCTION touch() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN NEW.updated_at = now(); RETURN NEW; END $$;
CREATE TRIGGER touch BEFORE UPDATE ON archon_settings FOR EACH ROW EXECUTE FUNCTION touch();
INSERT INTO archon_settings (key, value, category, is_encrypted, encrypted_value) VALUES
  ('LLM_PROVIDER', 'openai', 'rag_strategy', false, NULL),
  ('LLM_BASE_URL', NULL, 'rag_strategy', false, NULL),
  ('EMBEDDING_MODEL', 'text-embedding-3-small', 'rag_strategy', false, NULL),
  ('EMBEDDING_PROVIDER', 'ollama', 'features', false, NULL),
  ('EMBEDDING_BASE_URL', '', NULL, false, NULL),
  ('OPENAI_API_KEY', NULL, 'api_keys', true, 'gAAAAABsecret-ciphertext'),
  ('UNTOUCHED', 'as it was', 'rag_strategy', false, NULL);
"""
PROJECTS = "CREATE TABLE archon_projects (id int PRIMARY KEY); INSERT INTO archon_projects VALUES (1);"
URL = "http://127.0.0.1:11434/v1"
PLAN = {
    "EMBEDDING_PROVIDER": "ollama",
    "EMBEDDING_MODEL": "nomic-embed-text",
    "EMBEDDING_DIMENSIONS": "768",
    "EMBEDDING_BASE_URL": URL,
}


def options(**fields: object) -> phase.Options:
    values = {"embedding_provider": "ollama", "embedding_base_url": URL, "embedding_model": "nomic-embed-text"}
    return phase.Options(**{**values, "embedding_dimensions": 768, **fields})  # type: ignore[arg-type]


def stored(dsn: str, table: str) -> dict[str, tuple[str, str]]:
    with psycopg.connect(dsn) as connection:
        return {
            key: (category, value)
            for key, category, value in connection.execute(f"SELECT key, category, value FROM {table}")
        }


def codes(outcome: phase.PhaseOutcome) -> set[str]:
    return {finding.code for finding in outcome.findings}


@pytest.fixture
def pair(new_database: Callable[[str], str]) -> tuple[str, str]:
    """PROD and DEV after the schema phase."""
    return new_database(CREDENTIALS + SETTINGS + PROJECTS), new_database(CREDENTIALS + SETTINGS)


def test_both_tables_hold_the_plan_and_a_second_run_changes_nothing(
    pair: tuple[str, str], make_context: Callable[..., Context], hold_run_lock: Callable
) -> None:
    prod, dev = pair
    hold_run_lock(prod)
    before = stored(dev, "archon_settings")
    outcome = phase.run(make_context(prod, dev, phase="data"), options())

    assert (outcome.status, outcome.changed) == ("changed", True)
    assert stored(prod, "archon_credentials") == {key: ("embedding", value) for key, value in PLAN.items()}
    assert stored(dev, "archon_credentials") == stored(prod, "archon_credentials")
    settings = stored(prod, "archon_settings")
    assert {key: settings[key] for key in PLAN} == {key: ("rag_strategy", value) for key, value in PLAN.items()}
    assert settings["LLM_BASE_URL"] == ("rag_strategy", URL)
    assert settings["LLM_PROVIDER"] == ("rag_strategy", "openai")
    assert settings["UNTOUCHED"] == ("rag_strategy", "as it was")
    assert stored(dev, "archon_settings") == before
    assert [(proof.table, proof.preserved) for proof in outcome.proofs] == [("public.archon_projects", True)]
    assert codes(outcome) == {"chat_shares_base_url"}
    keys = outcome.details["credentials"]["changed_keys"]
    assert "dev:archon_credentials:embedding/EMBEDDING_MODEL" in keys
    assert "prod:archon_settings:rag_strategy/LLM_BASE_URL" in keys
    assert len(keys) == 4 + 4 + 5
    marked = [statement.sql.startswith("/* DEV */ ") for statement in outcome.statements]
    assert marked == [key.startswith("dev:") for key in keys]

    again = phase.run(make_context(prod, dev, phase="data"), options())
    assert (again.status, again.changed, again.statements, again.diff) == ("aligned", False, [], [])


def test_check_mode_says_what_the_run_does_before_the_table_exists(
    new_database: Callable[[str], str], make_context: Callable[..., Context], hold_run_lock: Callable
) -> None:
    prod, dev = new_database(SETTINGS), new_database(SETTINGS)
    predicted = phase.run(make_context(prod, dev, check=True), options())
    assert (predicted.status, predicted.proofs) == ("drift", [])
    for dsn in (prod, dev):
        with psycopg.connect(dsn) as owner:
            owner.execute(CREDENTIALS)
    hold_run_lock(prod)
    done = phase.run(make_context(prod, dev), options())
    assert predicted.statements == done.statements
    assert predicted.diff == done.diff
    assert predicted.details["credentials"] == done.details["credentials"]
    assert predicted.details["restore_points"] == []


def test_a_run_before_the_schema_phase_says_so_and_changes_nothing(
    new_database: Callable[[str], str], make_context: Callable[..., Context], hold_run_lock: Callable
) -> None:
    prod, dev = new_database(CREDENTIALS + SETTINGS), new_database(SETTINGS)
    hold_run_lock(prod)
    with pytest.raises(AlignError, match="--tags schema") as caught:
        phase.run(make_context(prod, dev), options())
    assert caught.value.object_name == "DEV public.archon_credentials"
    assert stored(prod, "archon_credentials") == {}


def test_check_mode_foresees_the_settings_table_that_only_dev_has_yet(
    new_database: Callable[[str], str], make_context: Callable[..., Context], hold_run_lock: Callable
) -> None:
    prod, dev = new_database(), new_database(CREDENTIALS + SETTINGS)
    predicted = phase.run(make_context(prod, dev, check=True, phase="data"), options())
    assert predicted.status == "drift"

    with psycopg.connect(prod) as owner:  # what the schema phase does
        owner.execute(CREDENTIALS + SETTINGS[: SETTINGS.index("INSERT")])
    hold_run_lock(prod)
    done = phase.run(make_context(prod, dev, phase="data"), options())
    assert [statement.sql for statement in done.statements] == [statement.sql for statement in predicted.statements]


@pytest.mark.parametrize("check", [True, False])
def test_no_settings_table_is_a_clear_error_in_both_modes(
    new_database: Callable[[str], str], make_context: Callable[..., Context], *, check: bool
) -> None:
    prod = new_database(CREDENTIALS)
    with pytest.raises(AlignError, match="archon_settings"):
        phase.run(make_context(prod, prod, check=check), options())


@pytest.mark.parametrize("marked", ["is_encrypted = true", "encrypted_value = 'gAAAA-cipher'"])
def test_an_encrypted_row_is_neither_read_nor_overwritten(
    pair: tuple[str, str], make_context: Callable[..., Context], hold_run_lock: Callable, marked: str
) -> None:
    prod, dev = pair
    with psycopg.connect(prod) as owner:
        owner.execute(f"UPDATE archon_settings SET {marked} WHERE key = 'EMBEDDING_MODEL'")
    hold_run_lock(prod)
    outcome = phase.run(make_context(prod, dev), options())
    (finding,) = [finding for finding in outcome.findings if finding.code == "encrypted_setting"]
    assert (finding.severity, "EMBEDDING_MODEL" in finding.object) == ("error", True)
    assert stored(prod, "archon_settings")["EMBEDDING_MODEL"] == ("rag_strategy", "text-embedding-3-small")
    assert "cipher" not in str(outcome.as_result())
    assert "text-embedding-3-small" not in str(outcome.as_result())


def test_a_secret_reaches_the_table_and_nothing_else(
    pair: tuple[str, str], make_context: Callable[..., Context], hold_run_lock: Callable
) -> None:
    prod, dev = pair
    hold_run_lock(prod)
    with psycopg.connect(prod, autocommit=True) as owner:
        owner.execute("CREATE TABLE seen (query text)")
        owner.execute(
            "CREATE FUNCTION spy() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_stat_clear_snapshot(); INSERT INTO public.seen"
            " SELECT query FROM pg_stat_activity WHERE datname = current_database(); RETURN NEW; END $$"
        )
        owner.execute("CREATE TRIGGER spy AFTER INSERT ON archon_credentials FOR EACH ROW EXECUTE FUNCTION spy()")
    extra = {"SOME_API_KEY": "s3cret'\\value", "NUMBER": 5, "FLAG": True}
    outcome = phase.run(make_context(prod, dev), options(extra=extra))
    assert "s3cret" not in str(outcome) + str(outcome.as_result())
    assert stored(prod, "archon_credentials")["SOME_API_KEY"] == ("embedding", "s3cret'\\value")
    assert stored(prod, "archon_credentials")["FLAG"] == ("embedding", "true")
    assert stored(prod, "archon_settings")["NUMBER"] == ("rag_strategy", "5")
    assert "SOME_API_KEY" not in stored(prod, "archon_settings")
    assert "secret_not_in_settings" in codes(outcome)
    with psycopg.connect(prod) as owner:
        seen = [row[0] for row in owner.execute("SELECT query FROM seen")]
    assert any("SOME_API_KEY" in query for query in seen)
    assert not any("s3cret" in query for query in seen)

    changed = phase.run(make_context(prod, dev), options(extra={**extra, "SOME_API_KEY": "n3w"}))
    assert len(changed.statements) == 1
    assert "s3cret" not in str(changed.as_result())
    assert "n3w" not in str(changed.as_result())
    assert stored(dev, "archon_credentials")["SOME_API_KEY"] == ("embedding", "s3cret'\\value")
    assert "dev_keeps_its_values" in codes(changed)


def test_a_refused_row_does_not_quote_its_value(
    pair: tuple[str, str], make_context: Callable[..., Context], hold_run_lock: Callable
) -> None:
    prod, dev = pair
    with psycopg.connect(prod) as owner:
        owner.execute("ALTER TABLE archon_credentials ADD CHECK (length(value) < 40)")
    hold_run_lock(prod)
    with pytest.raises(AlignError, match="check constraint") as caught:
        phase.run(make_context(prod, dev), options(extra={"SOME_TOKEN": "s3cret" * 10}))
    assert "s3cret" not in str(caught.value.as_dict())
    assert stored(prod, "archon_credentials") == {}


def test_a_trigger_that_changes_the_value_undoes_everything(
    pair: tuple[str, str], make_context: Callable[..., Context], hold_run_lock: Callable
) -> None:
    prod, dev = pair
    with psycopg.connect(prod) as owner:
        owner.execute(
            "CREATE FUNCTION shout() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN NEW.value = upper(NEW.value); RETURN NEW; END $$;"
            "CREATE TRIGGER shout BEFORE INSERT OR UPDATE ON archon_settings FOR EACH ROW EXECUTE FUNCTION shout()"
        )
    hold_run_lock(prod)
    before = stored(prod, "archon_settings")
    with pytest.raises(AlignError, match="did not stay"):
        phase.run(make_context(prod, dev), options())
    assert stored(prod, "archon_settings") == before
    assert stored(prod, "archon_credentials") == {}


def test_keys_stored_twice_are_named(new_database: Callable[[str], str], make_context: Callable[..., Context]) -> None:
    prod = new_database(
        "CREATE TABLE archon_settings (key text, value text, category text);"
        "INSERT INTO archon_settings VALUES ('LLM_BASE_URL', 'a', 'x'), ('LLM_BASE_URL', 'b', 'rag_strategy')"
    )
    with pytest.raises(AlignError, match="more than once") as caught:
        phase.run(make_context(prod, prod, check=True), options())
    assert "LLM_BASE_URL" in caught.value.object_name


def test_a_table_of_another_shape_is_named(
    new_database: Callable[[str], str], make_context: Callable[..., Context]
) -> None:
    prod = new_database("CREATE TABLE archon_settings (name text, value text)")
    with pytest.raises(AlignError, match="no category, key"):
        phase.run(make_context(prod, prod, check=True), options())


def test_without_the_run_lock_not_even_dev_is_written(
    pair: tuple[str, str], make_context: Callable[..., Context]
) -> None:
    prod, dev = pair
    with pytest.raises(LockLost):
        phase.run(make_context(prod, dev), options())
    assert stored(dev, "archon_credentials") == {}


def test_another_base_url_with_a_password_is_replaced_but_not_shown(
    pair: tuple[str, str], make_context: Callable[..., Context], hold_run_lock: Callable
) -> None:
    prod, dev = pair
    with psycopg.connect(prod) as owner:
        owner.execute("UPDATE archon_settings SET value = 'https://me:hush@llm.example/v1' WHERE key = 'LLM_BASE_URL'")
    hold_run_lock(prod)
    outcome = phase.run(make_context(prod, dev), options())
    assert "hush" not in str(outcome.as_result())
    assert stored(prod, "archon_settings")["LLM_BASE_URL"] == ("rag_strategy", URL)
