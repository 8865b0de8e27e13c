"""Undoing rows that a run inserted or updated, on a real server; the tables are compared from outside, byte for byte."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import psycopg
import pytest
from archon_align.context import Context
from archon_align.errors import AlignError
from archon_align.rollback.capture import RowRecorder
from archon_align.rollback.ledger import read_point
from archon_align.settings import phase as settings_phase
from archon_align.templates import phase as templates_phase
from undoing_rows import copied, entries, execute, names, next_run, quoted, table, undone, written

SETTINGS = """
CREATE FUNCTION touch() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN NEW.updated_at = clock_timestamp(); RETURN NEW; END $$;
CREATE TABLE archon_settings (
  id uuid PRIMARY KEY DEFAULT gen_random_uuid(), key varchar(255) NOT NULL UNIQUE, value text, encrypted_value text,
  is_encrypted boolean DEFAULT false, category varchar(100), description text,
  created_at timestamptz DEFAULT now(), updated_at timestamptz DEFAULT now());
CREATE TRIGGER touch BEFORE UPDATE ON archon_settings FOR EACH ROW EXECUTE FUNCTION touch();
CREATE TABLE archon_projects (id int PRIMARY KEY); INSERT INTO archon_projects VALUES (1);
"""
CREDENTIALS = """
CREATE TABLE archon_credentials (
  id serial PRIMARY KEY, category varchar(100) NOT NULL, key varchar(200) NOT NULL, value text,
  created_at timestamptz DEFAULT now(), updated_at timestamptz DEFAULT now(), UNIQUE (category, key));
"""
STORED = """
INSERT INTO archon_settings (key, value, category) VALUES ('A', 'one', 'c'), ('B', NULL, NULL), ('C', E'it''s\\n%s \\\\', 'c');
"""
KEYS = table("archon_settings", "key")
ADD = "INSERT INTO public.archon_settings (key, value) VALUES ('NEW', 'ours')"
SET = "UPDATE public.archon_settings SET value = 'ours' WHERE key IN ('A', 'B', 'C')"


@pytest.fixture
def prod(new_database: Callable[[str], str]) -> str:
    return new_database(SETTINGS + CREDENTIALS + STORED)


@pytest.fixture
def context(prod: str, make_context: Callable[..., Context]) -> Context:
    return make_context(prod, prod, phase="data")


def test_what_the_data_phase_wrote_goes_in_both_databases(
    new_database: Callable[[str], str], make_context: Callable[..., Context], hold_run_lock: Callable
) -> None:
    own = "INSERT INTO archon_settings (key, value, category) VALUES ('EMBEDDING_MODEL', 'old', 'rag_strategy'), ('EMBEDDING_PROVIDER', 'ollama', NULL);"
    prod, dev = new_database(SETTINGS + CREDENTIALS + STORED + own), new_database(SETTINGS + CREDENTIALS)
    hold_run_lock(prod)
    before = [copied(dsn, "archon_settings", "archon_credentials") for dsn in (prod, dev)]
    context = make_context(prod, dev, phase="data")
    options = settings_phase.Options(
        "ollama", "http://u:hunter2@127.0.0.1:11434/v1", "nomic-embed-text", 768, {"API_TOKEN": "hunter3"}
    )
    outcome = settings_phase.run(context, options)
    (point,) = outcome.details["restore_points"]
    assert (point["name"], point["kind"]) == (f"{context.run.id}:data", "rows")
    path = context.run.artifacts / point["path"]
    assert read_point(path).ended == "changed"
    assert b"hunter" not in path.read_bytes()
    assert (path.stat().st_mode & 0o777, path.parent.stat().st_mode & 0o777) == (0o600, 0o700)

    plans = [undone(context, entries(context, name), to=name) for name in ("PROD", "DEV")]
    assert [copied(dsn, "archon_settings", "archon_credentials") for dsn in (prod, dev)] == before
    assert [plan.kept for plan in plans] == [[], []]
    assert "hunter" not in repr([(plan.statements, plan.diff, plan.kept) for plan in plans])
    assert not undone(context, entries(context)).statements


def test_what_the_templates_phase_wrote_goes(
    new_database: Callable[[str], str], make_context: Callable[..., Context], hold_run_lock: Callable
) -> None:
    tables = """
    CREATE TABLE archon_template_components (id uuid PRIMARY KEY DEFAULT gen_random_uuid(), name text UNIQUE NOT NULL,
      instruction_text text, required_tools jsonb, labels text[], updated_at timestamptz DEFAULT now());
    CREATE TABLE archon_template_definitions (id uuid PRIMARY KEY DEFAULT gen_random_uuid(), name text UNIQUE NOT NULL,
      parent_template_id uuid REFERENCES archon_template_definitions ON DELETE RESTRICT, template_data jsonb);
    """
    rows = """
    INSERT INTO archon_template_components (name, instruction_text, required_tools, labels)
      VALUES ('g::a', 'x', '["t"]', '{"q\\"", NULL}'), ('g::b', NULL, NULL, NULL);
    INSERT INTO archon_template_definitions (name, template_data) VALUES ('a parent', '{}'), ('z parent', '{}');
    INSERT INTO archon_template_definitions (name, parent_template_id, template_data)
      SELECT 'm child', id, '{"a": 1}' FROM archon_template_definitions WHERE name = 'z parent';
    """
    ours = "INSERT INTO archon_template_definitions (name, template_data) VALUES ('m child', '{\"b\": 1.50}'), ('own', NULL);"
    prod, dev = new_database(tables + ours), new_database(tables + rows)
    hold_run_lock(prod)
    both = ("archon_template_components", "archon_template_definitions")
    before = copied(prod, *both)
    context = make_context(prod, dev, phase="templates")
    outcome = templates_phase.run(context, templates_phase.Options())
    assert (outcome.details["templates"]["created"], outcome.details["templates"]["updated"]) == (4, 1)
    plan = undone(context, entries(context))
    assert (copied(prod, *both), plan.kept, sum(plan.deleted.values())) == (before, [], 4)


def test_rows_that_users_changed_deleted_or_need_are_kept_and_named(prod: str, context: Context) -> None:
    execute(
        prod, "CREATE TABLE notes (id int PRIMARY KEY, key text REFERENCES archon_settings (key) ON DELETE CASCADE)"
    )
    add = "INSERT INTO public.archon_settings (key) VALUES ('N1'), ('N2'), ('N3')"
    done = written(context, [KEYS], SET, add)
    execute(
        prod,
        "UPDATE archon_settings SET value = 'users' WHERE key IN ('A', 'N1')",
        "DELETE FROM archon_settings WHERE key = 'B'",
        "INSERT INTO notes VALUES (1, 'N2')",
    )
    left = copied(prod, "(SELECT * FROM archon_settings WHERE key IN ('A', 'B', 'N1', 'N2'))", "notes")
    plan = undone(context, done)
    assert names(plan) == [f"public.archon_settings key={key}" for key in ("A", "B", "N1", "N2")]
    why = {kept.name[-2:].strip("="): (kept.why, kept.on_request) for kept in plan.kept}
    assert why["A"] == why["N1"] == ("users changed it since", True)
    assert why["B"] == ("users deleted it since", True)
    assert why["N2"] == ("rows that stay refer to it: 1 of public.notes", False)
    assert copied(prod, "(SELECT * FROM archon_settings WHERE key IN ('A', 'B', 'N1', 'N2'))", "notes") == left
    assert plan.deleted == {KEYS.table: 1}
    (was,) = (kept.was for kept in plan.kept if kept.name.endswith("key=A"))
    assert was.startswith("value='one', updated_at='")


def test_what_users_did_is_undone_on_request(prod: str, context: Context) -> None:
    before = copied(prod, "archon_settings")
    done = written(context, [KEYS], SET, ADD)
    execute(
        prod,
        "UPDATE archon_settings SET value = 'users' WHERE key = 'A'",
        "DELETE FROM archon_settings WHERE key IN ('B', 'C')",
        "UPDATE archon_settings SET value = 'users' WHERE key = 'NEW'",
    )
    plan = undone(context, done, wants=["public.archon_settings key=A", "public.archon_settings key=NEW", "another"])
    assert names(plan) == ["public.archon_settings key=B", "public.archon_settings key=C"]
    assert names(undone(context, done, everything=True)) == []
    assert copied(prod, "archon_settings") == before


def test_rows_of_several_runs_end_as_they_were_before_the_first(prod: str, context: Context) -> None:
    before = copied(prod, "archon_settings")
    first = written(context, [KEYS], SET, ADD)
    execute(prod, "DELETE FROM archon_settings WHERE key = 'C'")
    later = next_run(context)
    second = written(
        later,
        [KEYS],
        "UPDATE public.archon_settings SET value = 'again', description = 'd' WHERE key IN ('A', 'NEW')",
        "INSERT INTO public.archon_settings (key) VALUES ('C')",
    )
    plan = undone(context, [*first, *second])
    assert names(plan) == ["public.archon_settings key=C"]
    assert len([one for one in plan.statements if one.sql.startswith(("UPDATE", "DELETE", "INSERT"))]) == 4
    assert undone(context, [*first, *second], everything=True).kept == []
    assert copied(prod, "archon_settings") == before


def test_a_change_by_users_between_two_runs_ends_the_undoing_there(prod: str, context: Context) -> None:
    first = written(context, [KEYS], SET)
    execute(prod, "UPDATE archon_settings SET value = 'users' WHERE key = 'A'")
    between = copied(prod, "(SELECT * FROM archon_settings WHERE key = 'A')")
    second = written(next_run(context), [KEYS], "UPDATE public.archon_settings SET value = 'again' WHERE key = 'A'")
    plan = undone(context, [*first, *second])
    assert names(plan) == ["public.archon_settings key=A"]
    assert copied(prod, "(SELECT * FROM archon_settings WHERE key = 'A')") == between


def test_triggers_are_as_they_were_and_those_that_others_need_fire(prod: str, context: Context) -> None:
    execute(
        prod,
        'CREATE TRIGGER "always %s" BEFORE UPDATE ON archon_settings FOR EACH ROW EXECUTE FUNCTION touch()',
        'ALTER TABLE archon_settings ENABLE ALWAYS TRIGGER "always %s"',
        "CREATE TRIGGER off BEFORE UPDATE ON archon_settings FOR EACH ROW EXECUTE FUNCTION touch()",
        "ALTER TABLE archon_settings DISABLE TRIGGER off",
        "CREATE TABLE kinds (name text PRIMARY KEY); INSERT INTO kinds VALUES ('c'), ('d')",
        "ALTER TABLE archon_settings ADD FOREIGN KEY (category) REFERENCES kinds DEFERRABLE INITIALLY DEFERRED",
    )
    state = "(SELECT tgname, tgenabled FROM pg_trigger WHERE NOT tgisinternal)"
    before = copied(prod, "archon_settings", state)
    done = written(context, [KEYS], "UPDATE public.archon_settings SET category = 'd'")
    undone(context, done)
    assert copied(prod, "archon_settings", state) == before


def test_conflicts_with_what_users_added_are_kept(prod: str, context: Context) -> None:
    execute(prod, "CREATE TABLE kinds (name text PRIMARY KEY); INSERT INTO kinds VALUES ('c'), ('d')")
    execute(prod, "ALTER TABLE archon_settings ADD FOREIGN KEY (category) REFERENCES kinds")
    done = written(
        context,
        [KEYS],
        "UPDATE public.archon_settings SET category = 'd' WHERE key = 'A'",
        "UPDATE public.archon_settings SET key = 'other', category = NULL WHERE key = 'C'",
    )
    execute(prod, "DELETE FROM kinds WHERE name = 'c'", "INSERT INTO archon_settings (key) VALUES ('C')")
    left = copied(prod, "archon_settings")
    plan = undone(context, done, everything=True)
    assert (plan.statements, copied(prod, "archon_settings")) == ([], left)
    assert sorted(kept.why for kept in plan.kept) == [
        "another row has its former key now",
        "the row of public.kinds that it referred to is not there any more",
    ]


def test_odd_names_types_and_nulls_come_back_exactly(
    new_database: Callable[[str], str], make_context: Callable[..., Context]
) -> None:
    name, key, column = 'a "%s" .täble', 'k"%s', "c' %(x)s;--"
    made = f"""CREATE SCHEMA "s %"; CREATE TABLE "s %".{quoted(name)} ({quoted(key)} text, n numeric, PRIMARY KEY ({quoted(key)}, n),
      {quoted(column)} text, f float8, b bytea, j jsonb, a text[], i interval, ch char(4), d date, e timestamptz, bits bit(3),
      g int GENERATED ALWAYS AS (length({quoted(column)})) STORED, v vector(2), ident int GENERATED ALWAYS AS IDENTITY);
    INSERT INTO "s %".{quoted(name)} VALUES (E'x\\n''%s', 1.50, E'\\\\ ''%', 0.1 + 0.2, '\\x00ff', '{{"a": [1.0, null]}}',
      '{{NULL,"",a}}', '1 mon -2 days', 'ab', '4713-01-01 BC', '2020-02-02 02:02:02.123456+05', B'101', DEFAULT, '[1,0.1]'),
      ('', 'NaN', NULL, '-Infinity', NULL, NULL, NULL, NULL, NULL, 'infinity', NULL, NULL, DEFAULT, NULL);"""
    prod = new_database(made)
    context = make_context(prod, prod, phase="data", schemas=("s %",))
    there = f'"s %".{quoted(name)}'
    before = copied(prod, there)
    sets = f"UPDATE {there} SET {quoted(column)} = 'w', f = 1, b = '', j = '1', a = NULL, i = NULL, ch = 'q', d = NULL, e = NULL, bits = NULL, v = NULL"
    done = written(context, [table(name, key, schema="s %")], sets, f"INSERT INTO {there} VALUES ('x', 2)")
    assert undone(context, done).kept == []
    assert copied(prod, there) == before
    done = written(next_run(context), [table(name, key, schema="s %")], sets)
    execute(prod, f"DELETE FROM {there}")
    assert undone(context, done, everything=True).kept == []
    assert copied(prod, there) == before


def test_without_a_primary_key(new_database: Callable[[str], str], make_context: Callable[..., Context]) -> None:
    prod = new_database(
        "CREATE TABLE t (name text, value text); INSERT INTO t VALUES ('a', 'x'), ('b', NULL), ('dup', '1'), ('dup', '1')"
    )
    context = make_context(prod, prod, phase="data")
    before = copied(prod, "t")
    set_and_add = ("UPDATE public.t SET value = 'ours' WHERE name = 'a'", "INSERT INTO public.t VALUES ('n', 'ours')")
    done = written(context, [table("t", "name")], *set_and_add)
    assert undone(context, done).kept == []
    assert copied(prod, "t") == before

    nameless = "INSERT INTO public.t VALUES (NULL, 'ours'), (NULL, 'ours'), (NULL, 'other')"
    done = written(next_run(context), [table("t", "name")], nameless)
    execute(prod, "INSERT INTO t VALUES (NULL, 'ours')", "UPDATE t SET value = 'users' WHERE value = 'other'")
    plan = undone(context, done)
    assert [kept.on_request for kept in plan.kept] == [False]
    execute(prod, "DELETE FROM t WHERE value = 'users'", "DELETE FROM t WHERE name IS NULL")
    assert copied(prod, "t") == before

    with pytest.raises(AlignError, match="no rollback could bring it back"):
        written(next_run(context), [table("t", "name")], "UPDATE public.t SET value = 'ours' WHERE name = 'dup'")
    assert copied(prod, "t") == before
    done = written(next_run(context), [table("t", "name")], set_and_add[0])
    execute(prod, "INSERT INTO t VALUES ('a', 'users')")
    assert [kept.why for kept in undone(context, done, everything=True).kept] == ["2 rows have its name now"]


def test_secrets_stay_out_of_the_restore_point_and_are_kept(prod: str, context: Context) -> None:
    secrets = dataclasses.replace(KEYS, secret=settings_phase._not_written_down, unread=frozenset(("encrypted_value",)))
    execute(
        prod,
        "INSERT INTO archon_settings (key, value, encrypted_value) VALUES ('API_KEY', 'hunter1', NULL), ('URL', 'http://u:hunter2@h', NULL), ('E', NULL, 'hunter3')",
    )
    done = written(
        context,
        [secrets],
        "UPDATE public.archon_settings SET value = 'hunter4' WHERE key = 'API_KEY'",
        "UPDATE public.archon_settings SET value = 'http://h' WHERE key = 'URL'",
        "UPDATE public.archon_settings SET description = 'd' WHERE key = 'E'",
        "UPDATE public.archon_settings SET value = 'http://u:hunter5@h' WHERE key = 'A'",
        "INSERT INTO public.archon_settings (key, value) VALUES ('A_TOKEN', 'hunter6')",
    )
    text = (context.run.artifacts / "restore-points" / "data.jsonl").read_text()
    assert "hunter" not in text
    plan = undone(context, done)
    assert names(plan) == ["public.archon_settings key=API_KEY", "public.archon_settings key=URL"]
    assert {kept.on_request for kept in plan.kept} == {False}
    assert "hunter" not in repr((plan.statements, plan.diff, plan.kept))
    with psycopg.connect(prod) as connection:
        rows = dict(
            connection.execute(
                "SELECT key, coalesce(value, encrypted_value) FROM archon_settings WHERE key <> 'C'"
            ).fetchall()
        )
    assert rows == {"A": "one", "B": None, "API_KEY": "hunter4", "URL": "http://h", "E": "hunter3"}


@pytest.mark.parametrize(
    ("rewrite", "kept"),
    [
        ("VACUUM FULL archon_settings", 0),
        ("ALTER TABLE archon_settings ALTER key TYPE text, ALTER category TYPE varchar(90)", 0),
        ("ALTER TABLE archon_settings ADD more uuid DEFAULT gen_random_uuid()", 4),
        ("ALTER TABLE archon_settings ADD more text", 0),
        ("ALTER TABLE archon_settings RENAME value TO val", 3),
        ("ALTER TABLE archon_settings DROP description", 0),
        ("ALTER TABLE archon_settings RENAME id TO ident", 4),
    ],
)
def test_a_table_that_was_reshaped_since(prod: str, context: Context, rewrite: str, kept: int) -> None:
    query = "(SELECT key, value, category, created_at, updated_at FROM archon_settings)"
    before = copied(prod, query)
    done = written(context, [KEYS], SET, ADD)
    execute(prod, rewrite)
    plan = undone(context, done)
    assert len(plan.kept) == kept
    assert kept or copied(prod, query) == before


@pytest.mark.parametrize(
    "rewrite", ["VACUUM FULL archon_settings", "ALTER TABLE archon_settings ALTER key TYPE text USING key || ''"]
)
def test_what_users_changed_before_the_table_was_rewritten_is_kept(prod: str, context: Context, rewrite: str) -> None:
    done = written(context, [KEYS], SET, ADD)
    execute(prod, "UPDATE archon_settings SET description = 'users' WHERE key IN ('A', 'NEW')", rewrite)
    assert names(undone(context, done)) == ["public.archon_settings key=A", "public.archon_settings key=NEW"]


def test_a_table_that_is_gone_or_made_anew(prod: str, context: Context) -> None:
    done = written(context, [KEYS], SET, ADD)
    execute(prod, "ALTER TABLE archon_settings RENAME TO elsewhere")
    assert names(undone(context, done)) == [f"public.archon_settings key={key}" for key in "ABC"]
    execute(
        prod,
        "CREATE TABLE archon_settings (LIKE elsewhere INCLUDING ALL)",
        "INSERT INTO archon_settings (key) VALUES ('NEW')",
    )
    assert len(undone(context, done).kept) == 3
    assert copied(prod, "(SELECT key FROM archon_settings)") == b"NEW\n"


def test_a_protected_table_is_left_alone(prod: str, context: Context) -> None:
    done = written(context, [KEYS], SET, ADD)
    left = copied(prod, "archon_settings")
    guarded = dataclasses.replace(context, protected_names=(*context.protected_names, "archon_settings"))
    plan = undone(guarded, done, everything=True)
    assert (len(plan.kept), plan.statements, copied(prod, "archon_settings")) == (4, [], left)


def test_rows_that_refer_to_each_other_go_together_or_stay(prod: str, context: Context) -> None:
    execute(
        prod,
        "CREATE TABLE tree (id int PRIMARY KEY, parent int REFERENCES tree ON DELETE RESTRICT)",
        "INSERT INTO tree VALUES (1, NULL), (9, NULL)",
    )
    tree = table("tree", "id")
    before = copied(prod, "tree")
    grown = (
        "INSERT INTO public.tree VALUES (2, 1), (3, 2), (4, 3), (5, NULL), (6, 5)",
        "UPDATE public.tree SET parent = 5 WHERE id = 9",
    )
    done = written(context, [tree], *grown)
    assert undone(context, done).kept == []
    assert copied(prod, "tree") == before
    done = written(next_run(context), [tree], *grown)
    execute(prod, "INSERT INTO tree VALUES (7, 3)")
    plan = undone(context, done)
    assert names(plan) == ["public.tree id=2", "public.tree id=3"]
    assert copied(prod, "tree") == b"1\t\\N\n2\t1\n3\t2\n7\t3\n9\t\\N\n"


def test_a_run_killed_before_commit_has_changed_nothing(
    prod: str, context: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = copied(prod, "archon_settings")
    honest = RowRecorder.before_commit

    def killed(recorder: RowRecorder, session) -> None:
        honest(recorder, session)
        raise KeyboardInterrupt

    monkeypatch.setattr(RowRecorder, "before_commit", killed)
    with pytest.raises(KeyboardInterrupt):
        written(context, [KEYS], SET, ADD)
    (entry,) = entries(context)
    assert entry.committed is None
    assert copied(prod, "archon_settings") == before
    plan = undone(context, [entry])
    assert (plan.statements, plan.kept) == ([], [])


def test_a_trigger_that_deletes_a_row_stops_the_run(prod: str, context: Context) -> None:
    execute(
        prod,
        "CREATE FUNCTION sweep() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN DELETE FROM public.archon_settings WHERE key = 'B'; RETURN NULL; END $$",
        "CREATE TRIGGER sweep AFTER INSERT ON archon_settings EXECUTE FUNCTION sweep()",
    )
    before = copied(prod, "archon_settings")
    with pytest.raises(AlignError, match="archon_settings"):
        written(context, [KEYS], ADD)
    assert copied(prod, "archon_settings") == before


def test_what_a_trigger_writes_in_a_subtransaction_is_undone_too(prod: str, context: Context) -> None:
    execute(
        prod,
        "CREATE FUNCTION also() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
        " BEGIN UPDATE public.archon_settings SET description = 'by trigger' WHERE key IN ('B', NEW.key); EXCEPTION WHEN division_by_zero THEN NULL; END;"
        " RETURN NULL; END $$",
        "CREATE TRIGGER also AFTER INSERT ON archon_settings FOR EACH ROW EXECUTE FUNCTION also()",
    )
    before = copied(prod, "archon_settings")
    done = written(context, [KEYS], ADD)
    assert undone(context, done).kept == []
    assert copied(prod, "archon_settings") == before
