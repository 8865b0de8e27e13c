"""A proof never holds because it saw no rows: each way of not seeing them fails, or is told, in the transaction and in the report."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import psycopg
import pytest
from archon_align.context import Context
from archon_align.database.session import Session, open_session
from archon_align.database.target import Target
from archon_align.database.transaction import protected_transaction
from archon_align.errors import AlignError
from archon_align.preservation.fingerprint import columns_of, fingerprint
from archon_align.preservation.proof import Proof
from archon_align.preservation.sight import absent, no_tables
from archon_align.report.files import snapshot
from archon_align.report.protected import conjunction, protected_section
from archon_align.validate.state import protected

SCHEMA = """
CREATE TABLE archon_projects (id int PRIMARY KEY);
INSERT INTO archon_projects VALUES (1);
CREATE TABLE archon_tasks (id int PRIMARY KEY, title text, at timestamptz, f float8, updated_at timestamptz DEFAULT now());
INSERT INTO archon_tasks SELECT n, 'täsk ' || n, '2026-01-01 12:00+05', 0.1 + 0.2 FROM generate_series(1, 20) n;
"""
TASKS = "public.archon_tasks"
VIEW = "ALTER TABLE archon_tasks RENAME TO old; CREATE VIEW archon_tasks AS TABLE old"
Section = dict[str, dict[str, Any]]


@pytest.fixture
def prod(new_database: Callable[[str], str]) -> str:
    return new_database(SCHEMA)


@pytest.fixture
def context(prod: str, make_context: Callable[..., Context], hold_run_lock: Callable[[str], object]) -> Context:
    hold_run_lock(prod)
    return make_context(prod)


def change(prod: str, text: str) -> None:
    with psycopg.connect(prod, autocommit=True) as owner:
        owner.execute(text.encode())


def record(context: Context) -> None:
    """snapshot-before.json as the backup writes it."""
    with open_session(context, context.prod, read_only=True) as session:
        prints = [
            fingerprint(session, table, columns)
            for table in context.protected
            if (columns := columns_of(session, table))
        ]
    seen = {str(it.table): {"rows": it.rows, "fingerprint": it.digest, "columns": list(it.columns)} for it in prints}
    context.run.write("snapshot-before.json", json.dumps({"protected": seen}).encode())


def proofs(context: Context, act: Callable[[Session], object] = lambda _: None) -> list[Proof]:
    with open_session(context, context.prod) as session:
        return protected_transaction(session, lambda: act(session), locks={})[1]


def section(context: Context, found: list[Proof]) -> Section:
    """The report's section, as phase 6 makes it."""
    before = snapshot(context.run, "before")
    with open_session(context, context.prod, read_only=True) as session, session.transaction("BEGIN READ ONLY"):
        after = protected(session, before, {})
    return protected_section(before, [proof.as_dict() for proof in found], after)


def told(context: Context) -> list[tuple[str, str, str]]:
    with open_session(context, context.prod, read_only=True) as session:
        return [(finding.severity, finding.object, finding.message) for finding in absent(session)]


def refused(context: Context) -> AlignError:
    with pytest.raises(AlignError) as raised:
        proofs(context)
    return raised.value


@contextmanager
def role(prod: str, name: str, *grants: str) -> Iterator[str]:
    """A role of its own, with the DSN for it."""
    with psycopg.connect(prod.replace("archon_owner", "postgres"), autocommit=True) as admin:
        admin.execute(f"CREATE ROLE {name} LOGIN".encode())
        for grant in grants:
            admin.execute(grant.encode())
        yield prod.replace("archon_owner", name)
        admin.execute(f"DROP OWNED BY {name}".encode())
        admin.execute(f"DROP ROLE {name}".encode())


def test_what_is_seen_is_proved(context: Context) -> None:
    """So that the others do not pass for another reason."""
    record(context)
    found = section(context, proofs(context))
    assert [(entry["rows_after"], entry["preserved"]) for entry in found.values()] == [(1, True), (20, True)]
    assert conjunction(found) is True


def test_forced_row_level_security_is_refused(prod: str, context: Context) -> None:
    change(
        prod, "ALTER TABLE archon_tasks ENABLE ROW LEVEL SECURITY; ALTER TABLE archon_tasks FORCE ROW LEVEL SECURITY"
    )
    assert refused(context).code == "row_security"


@pytest.mark.parametrize("policy", ["USING (true)", "USING (id < 3)", "FOR INSERT WITH CHECK (true)"])
def test_a_role_that_policies_hide_rows_from_is_refused(prod: str, context: Context, policy: str) -> None:
    change(prod, f"ALTER TABLE archon_tasks ENABLE ROW LEVEL SECURITY; CREATE POLICY p ON archon_tasks {policy}")
    with role(prod, "sees_little", "GRANT ALL ON ALL TABLES IN SCHEMA public TO sees_little") as dsn:
        assert refused(replace(context, prod=Target("PROD", dsn))).code == "row_security"


@pytest.mark.parametrize("grant", ["", "GRANT UPDATE ON archon_tasks TO sees_nothing", "GRANT SELECT (id) ON archon_tasks TO sees_nothing"])  # fmt: skip
def test_a_role_that_may_not_read_is_refused(prod: str, context: Context, grant: str) -> None:
    grants = ["GRANT ALL ON archon_projects TO sees_nothing", *([grant] if grant else [])]
    with (
        role(prod, "sees_nothing", *grants) as dsn,
        open_session(context, Target("PROD", dsn)) as session,
        pytest.raises((AlignError, psycopg.errors.InsufficientPrivilege)),
    ):
        protected_transaction(session, lambda: None, locks={})


def test_another_table_of_the_name_first_in_the_path_is_not_looked_at(prod: str, context: Context) -> None:
    change(
        prod,
        """CREATE SCHEMA decoy; CREATE TABLE decoy.archon_tasks (LIKE public.archon_tasks); CREATE VIEW decoy.pg_class AS SELECT 1 AS oid;
        ALTER ROLE CURRENT_USER SET search_path = decoy, public""",
    )
    try:
        with open_session(context, context.prod) as session:
            session.execute("CREATE TEMPORARY TABLE archon_tasks (id int)")
            session.execute("CREATE TEMPORARY TABLE pg_class AS SELECT * FROM pg_catalog.pg_class LIMIT 0")
            _, found = protected_transaction(session, lambda: None, locks={})
        assert {proof.table: proof.rows_before for proof in found}[TASKS] == 20
    finally:
        change(prod, "ALTER ROLE CURRENT_USER RESET search_path")


def test_settings_of_role_and_database_do_not_make_a_difference(prod: str, context: Context) -> None:
    record(context)
    name = psycopg.conninfo.conninfo_to_dict(prod)["dbname"]
    change(
        prod,
        f"""ALTER DATABASE "{name}" SET TimeZone = 'Asia/Kathmandu'; ALTER DATABASE "{name}" SET extra_float_digits = -5;
        ALTER ROLE CURRENT_USER IN DATABASE "{name}" SET DateStyle = 'German'; ALTER DATABASE "{name}" SET row_security = on""",
    )
    found = section(context, proofs(context))
    assert (conjunction(found), [entry["changed_by_users"] for entry in found.values()]) == (True, [False, False])


def test_a_format_changed_within_the_transaction_is_no_pass(prod: str, context: Context) -> None:
    """The other way round: rows moved by an hour and read an hour off would look the same."""
    change(
        prod,
        """CREATE FUNCTION shifted() RETURNS void LANGUAGE sql AS
        $$ UPDATE public.archon_tasks SET at = at - interval '1 hour', updated_at = updated_at - interval '1 hour';
           SELECT pg_catalog.set_config('TimeZone', '-01', false); $$""",
    )
    with pytest.raises(AlignError):
        proofs(context, lambda session: session.execute("SELECT public.shifted()"))
    with psycopg.connect(prod) as user:
        assert user.execute("SELECT count(*) FROM archon_tasks WHERE at = '2026-01-01 07:00+00'").fetchone() == (20,)


def test_a_table_renamed_before_the_run_is_told_and_not_proved(prod: str, context: Context) -> None:
    change(prod, "ALTER TABLE archon_tasks RENAME TO archon_tasks_old")
    record(context)
    found = section(context, proofs(context))
    assert TASKS not in found
    assert ("warning", f"PROD {TASKS}") in [one[:2] for one in told(context)]
    assert any("public.archon_tasks_old" in message for _, _, message in told(context))
    # The schema phase makes it anew: no proof of the empty one says anything of the rows.
    change(prod, "CREATE TABLE archon_tasks (LIKE archon_tasks_old)")
    found = section(context, proofs(context))
    assert (found[TASKS]["preserved"], found[TASKS]["changed_by_run"], conjunction(found)) == (None, None, None)


def test_a_table_renamed_during_the_run_is_a_loss(prod: str, context: Context) -> None:
    record(context)
    first = proofs(context)
    change(prod, "ALTER TABLE archon_tasks RENAME TO archon_tasks_old")
    found = section(context, [*first, *proofs(context)])
    assert (found[TASKS]["rows_after"], found[TASKS]["preserved"], conjunction(found)) == (None, False, False)
    # An empty one in its place does not make it whole.
    change(prod, "CREATE TABLE archon_tasks (LIKE archon_tasks_old)")
    found = section(context, [*first, *proofs(context)])
    assert (found[TASKS]["preserved"], conjunction(found)) == (None, None)


@pytest.mark.parametrize(
    "replaced",
    [
        VIEW,
        VIEW.replace("CREATE VIEW", "CREATE MATERIALIZED VIEW"),
        "ALTER TABLE archon_tasks RENAME TO old; CREATE FOREIGN TABLE archon_tasks (id int, title text) SERVER elsewhere",
    ],
)
def test_what_is_no_table_is_refused(prod: str, context: Context, replaced: str) -> None:
    with psycopg.connect(prod.replace("archon_owner", "postgres"), autocommit=True) as admin:
        admin.execute("CREATE FOREIGN DATA WRAPPER nothing; CREATE SERVER elsewhere FOREIGN DATA WRAPPER nothing")
        admin.execute("GRANT USAGE ON FOREIGN SERVER elsewhere TO archon_owner")
    record(context)
    change(prod, replaced)
    assert refused(context).code == "protected_not_a_table"
    with open_session(context, context.prod, read_only=True) as session:
        assert [problem.code for problem in no_tables(session, context.protected)] == ["protected_not_a_table"]
    found = section(context, [])
    assert (found[TASKS]["preserved"], conjunction(found)) == (False, False)


@pytest.mark.parametrize("rows", ["", "INSERT INTO archon_tasks TABLE old"])
def test_a_partitioned_table_in_its_place_is_read_whole(prod: str, context: Context, rows: str) -> None:
    record(context)
    change(
        prod,
        "ALTER TABLE archon_tasks RENAME TO old; CREATE TABLE archon_tasks (LIKE old) PARTITION BY RANGE (id);"
        "CREATE TABLE low PARTITION OF archon_tasks FOR VALUES FROM (0) TO (10); CREATE TABLE rest PARTITION OF archon_tasks DEFAULT;"
        + rows,
    )  # fmt: skip
    found = section(context, proofs(context))
    assert (found[TASKS]["rows_after"], conjunction(found)) == ((20, True) if rows else (0, None))


def test_rows_of_children_are_seen(prod: str, context: Context) -> None:
    change(prod, "CREATE TABLE heir () INHERITS (archon_tasks); INSERT INTO heir (id) VALUES (21)")
    record(context)
    assert {proof.table: proof.rows_before for proof in proofs(context)}[TASKS] == 21
    change(prod, "ALTER TABLE heir NO INHERIT archon_tasks")
    found = section(context, proofs(context))
    assert (found[TASKS]["rows_after"], found[TASKS]["changed_by_users"]) == (20, True)


def test_a_table_that_was_always_empty_is_preserved_and_shown_as_such(prod: str, context: Context) -> None:
    change(prod, "TRUNCATE archon_tasks")
    record(context)
    found = section(context, proofs(context))
    assert (found[TASKS]["rows_before"], found[TASKS]["rows_after"], found[TASKS]["preserved"]) == (0, 0, True)


def test_a_table_that_users_emptied_is_not_proved_by_looking_at_nothing(prod: str, context: Context) -> None:
    record(context)
    change(prod, "DELETE FROM archon_tasks")
    found = section(context, proofs(context))
    assert (found[TASKS]["preserved"], found[TASKS]["changed_by_run"], found[TASKS]["changed_by_users"]) == (
        None,
        None,
        True,
    )
    assert conjunction(found) is None


def test_an_absent_table_is_told_and_counts_for_nothing(prod: str, context: Context) -> None:
    names = {"archon_document_versions", "archon_project_sources"}
    assert {(severity, name) for severity, name, _ in told(context)} == {
        ("info", f"PROD public.{name}") for name in names
    }
    record(context)
    assert set(section(context, proofs(context))) == {TASKS, "public.archon_projects"}


def test_a_table_that_comes_or_goes_while_its_lock_is_waited_for_is_no_pass(prod: str, context: Context) -> None:
    """Between the first look and the lock the name gets another meaning."""
    patient = replace(context, lock_timeout=5)
    with psycopg.connect(prod) as user, open_session(patient, patient.prod) as session:
        before = session.execute

        def meddling(query: Any, params: Any = None) -> int:
            if str(query).startswith("BEGIN"):
                user.execute("CREATE TABLE archon_document_versions (id int)")
                user.commit()
            return before(query, params)

        session.execute = meddling  # type: ignore[method-assign]
        with pytest.raises(AlignError) as raised:
            protected_transaction(session, lambda: None, locks={})
    assert raised.value.code == "tables_changed_meanwhile"
