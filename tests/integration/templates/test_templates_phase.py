"""The templates phase against real databases."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import psycopg
import pytest
import template_shapes as shapes
from archon_align.context import Context
from archon_align.errors import AlignError, LockLost
from archon_align.outcome import PhaseOutcome
from archon_align.templates import phase

Rows = Callable[..., list[tuple[Any, ...]]]
_COMPONENTS = (
    "SELECT name, description, component_type::text, instruction_text, required_tools::text, estimated_duration, labels,"
    " priority, is_active FROM archon_template_components ORDER BY name"
)
_DEFINITIONS = (
    "SELECT t.name, t.title, p.name, t.template_data::text, t.category, t.is_active"
    " FROM archon_template_definitions t LEFT JOIN archon_template_definitions p ON p.id = t.parent_template_id ORDER BY 1"
)
_STATE = "SELECT * FROM archon_template_components ORDER BY id"


def run(context: Context) -> PhaseOutcome:
    return phase.run(context, phase.Options())


def codes(outcome: PhaseOutcome) -> set[str]:
    return {finding.code for finding in outcome.findings}


@pytest.fixture
def dev(new_database: Callable[[str], str]) -> str:
    return new_database(shapes.MODERN + shapes.ROWS)


@pytest.fixture
def rows() -> Rows:
    """Call with a DSN and a query for its rows."""

    def fetch(dsn: str, query: str, parameters: Sequence[object] = ()) -> list[tuple[Any, ...]]:
        with psycopg.connect(dsn, autocommit=True) as connection:
            cursor = connection.execute(query.encode(), parameters or None)
            return cursor.fetchall() if cursor.description else []

    return fetch


@pytest.fixture
def align(make_context: Callable[..., Context], hold_run_lock: Callable, dev: str) -> Callable[[str], PhaseOutcome]:
    """Run the phase on a PROD, holding its run lock."""
    held: set[str] = set()

    def work(prod: str, *, source: str = "") -> PhaseOutcome:
        if prod not in held:
            hold_run_lock(prod)
            held.add(prod)
        return run(make_context(prod, source or dev, phase="templates"))

    return work


def test_an_empty_prod_becomes_devs_equal_and_stays_so(
    new_database: Callable[[str], str], dev: str, align: Callable[..., PhaseOutcome], rows: Rows
) -> None:
    prod = new_database(shapes.MODERN + shapes.PROJECTS)
    outcome = align(prod)
    assert (outcome.status, outcome.changed, codes(outcome)) == ("changed", True, set())
    assert outcome.details["templates"] == {
        "created": 5,
        "updated": 0,
        "unchanged": 0,
        "only_in_prod": [],
        "kept": [],
        "placeholders_checked": 2,
        "bodies_checked": 5,
        "bodies_different": [],
    }
    assert [(proof.table, proof.preserved) for proof in outcome.proofs] == [("public.archon_projects", True)]
    for query in (_COMPONENTS, _DEFINITIONS):
        assert rows(prod, query) == rows(dev, query)
    ids = "SELECT id FROM archon_template_definitions"
    assert not set(rows(prod, ids)) & set(rows(dev, ids))

    again = align(prod)
    assert (again.status, again.changed, again.statements, again.diff) == ("aligned", False, [], [])
    assert again.details["templates"]["unchanged"] == 5


def test_only_what_differs_is_written_and_prods_own_is_kept(
    new_database: Callable[[str], str], dev: str, align: Callable[..., PhaseOutcome], rows: Rows
) -> None:
    prod = new_database(shapes.LEGACY + shapes.ALIGNED + shapes.DEFINITIONS)
    same = "SELECT id, updated_at, xmin::text FROM archon_template_components WHERE name <> 'group::one' AND name <> 'group::two'"
    before = rows(prod, same)
    known = "SELECT id, author, created_at FROM archon_template_components WHERE name = 'group::one'"
    one = rows(prod, known)
    outcome = align(prod)
    summary = outcome.details["templates"]
    assert (summary["created"], summary["updated"], summary["unchanged"]) == (3, 1, 1)
    assert summary["only_in_prod"] == ["group::house"]
    assert rows(prod, same) == before
    assert rows(prod, known) == one
    update = next(statement.sql for statement in outcome.statements if statement.sql.startswith("UPDATE"))
    assert "description" not in update
    diff = next(entry for entry in outcome.diff if entry["after_header"].endswith("group::one"))
    assert "instruction_text: old one\n" in diff["before"]
    assert "  it's 100%(sure)s" in diff["after"]


@pytest.mark.parametrize("legacy", ["", shapes.LEGACY], ids=["no tables", "legacy tables"])
def test_check_mode_says_what_the_run_does_before_the_schema_phase(
    new_database: Callable[[str], str],
    make_context: Callable[..., Context],
    dev: str,
    align: Callable[..., PhaseOutcome],
    rows: Rows,
    legacy: str,
) -> None:
    prod = new_database(legacy)
    predicted = run(make_context(prod, dev, check=True))
    assert predicted.status == "drift"
    rows(prod, (shapes.ALIGNED if legacy else shapes.COMPONENTS) + shapes.DEFINITIONS)
    done = align(prod)
    assert predicted.statements == done.statements
    assert predicted.diff == done.diff
    assert predicted.details["templates"] == done.details["templates"]
    assert predicted.findings == done.findings


@pytest.mark.parametrize("legacy", ["", shapes.LEGACY + shapes.DEFINITIONS], ids=["no tables", "legacy tables"])
def test_a_run_before_the_schema_phase_says_so(
    new_database: Callable[[str], str], align: Callable[..., PhaseOutcome], legacy: str
) -> None:
    with pytest.raises(AlignError, match="--tags schema") as caught:
        align(new_database(legacy))
    assert caught.value.object_name == "PROD public.archon_template_components"


def test_a_component_nobody_has_stops_everything(
    new_database: Callable[[str], str],
    make_context: Callable[..., Context],
    dev: str,
    align: Callable[..., PhaseOutcome],
    rows: Rows,
) -> None:
    rows(dev, "DELETE FROM archon_template_components WHERE name = 'group::two'")
    prod = new_database(shapes.MODERN)
    for work in (lambda: run(make_context(prod, dev, check=True)), lambda: align(prod)):
        with pytest.raises(AlignError, match="nobody has") as caught:
            work()
        assert "zz_root names {{group::two}}" in caught.value.found
    assert rows(prod, _STATE) == []


def test_an_inactive_component_does_not_resolve_and_an_inactive_template_is_not_asked(
    new_database: Callable[[str], str], dev: str, align: Callable[..., PhaseOutcome], rows: Rows
) -> None:
    prod = new_database(shapes.MODERN)
    rows(dev, "UPDATE archon_template_components SET is_active = false WHERE name = 'group::two'")
    with pytest.raises(AlignError, match="inactive"):
        align(prod)
    rows(dev, "UPDATE archon_template_definitions SET is_active = NULL WHERE name = 'zz_root'")
    assert align(prod).details["templates"]["placeholders_checked"] == 0


def test_a_placeholder_may_name_a_component_that_only_prod_has(
    new_database: Callable[[str], str], dev: str, align: Callable[..., PhaseOutcome], rows: Rows
) -> None:
    prod = new_database(shapes.MODERN)
    rows(prod, "INSERT INTO archon_template_components (name, instruction_text) VALUES ('group::two', 'PROD''s')")
    rows(dev, "DELETE FROM archon_template_components WHERE name = 'group::two'")
    assert align(prod).details["templates"]["only_in_prod"] == ["group::two"]


def test_a_broken_template_that_only_prod_has_is_a_finding(
    new_database: Callable[[str], str], align: Callable[..., PhaseOutcome], rows: Rows
) -> None:
    prod = new_database(shapes.MODERN)
    rows(
        prod,
        "INSERT INTO archon_template_definitions (name, title, template_data)"
        """ VALUES ('own', 'Own', '{"template_content": "{{group::gone}} {{USER_TASK}} {{USER_TASK}}"}'), ('empty', 'E', '[]')""",
    )
    outcome = align(prod)
    assert codes(outcome) == {"template_broken_in_prod", "user_task_count", "template_without_content"}
    assert outcome.details["templates"]["only_in_prod"] == ["empty", "own"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            "UPDATE archon_template_definitions d SET parent_template_id = o.id FROM archon_template_definitions o WHERE o.name <> d.name",
            "each other's parents",
        ),
        (
            (
                "ALTER TABLE archon_template_definitions DROP CONSTRAINT archon_template_definitions_parent_template_id_fkey;"
                "UPDATE archon_template_definitions SET parent_template_id = gen_random_uuid() WHERE name = 'aa_leaf'"
            ),
            "parent does not exist",
        ),
        (
            (
                "ALTER TABLE archon_template_components DROP CONSTRAINT archon_template_components_name_key;"
                "INSERT INTO archon_template_components (name, instruction_text) VALUES ('group::two', 'again')"
            ),
            "not unique",
        ),
        ("ALTER TABLE archon_template_components RENAME name TO label", "natural key"),
    ],
)
def test_what_is_wrong_in_dev_is_named_and_prod_left_alone(
    new_database: Callable[[str], str],
    dev: str,
    align: Callable[..., PhaseOutcome],
    rows: Rows,
    change: str,
    message: str,
) -> None:
    rows(dev, change)
    prod = new_database(shapes.MODERN)
    with pytest.raises(AlignError, match=message):
        align(prod)
    assert rows(prod, _STATE) == []


def test_names_that_prod_has_twice(
    new_database: Callable[[str], str], align: Callable[..., PhaseOutcome], rows: Rows
) -> None:
    prod = new_database(shapes.LEGACY + shapes.ALIGNED + shapes.DEFINITIONS)
    rows(
        prod,
        "INSERT INTO archon_template_components (name, instruction_text) VALUES ('group::house', 'x'), (NULL, 'y'), ('Group::Two ', 'z')",
    )
    outcome = align(prod)
    assert codes(outcome) == {
        "duplicate_name",
        "component_refused_by_archon",
        "row_without_name",
        "similar_names",
    }
    rows(prod, "INSERT INTO archon_template_components (name, instruction_text) VALUES ('group::one', 'x')")
    with pytest.raises(AlignError, match="group::one") as caught:
        align(prod)
    assert caught.value.code == "duplicate_name"


def test_a_parent_is_remapped_corrected_and_cleared(
    new_database: Callable[[str], str], dev: str, align: Callable[..., PhaseOutcome], rows: Rows
) -> None:
    prod = new_database(shapes.MODERN)
    align(prod)
    rows(dev, "UPDATE archon_template_definitions SET parent_template_id = NULL")
    assert align(prod).details["templates"]["updated"] == 1
    assert rows(prod, _DEFINITIONS) == rows(dev, _DEFINITIONS)
    rows(
        dev,
        "INSERT INTO archon_template_definitions (name, title) VALUES ('new_parent', 'N');"
        "UPDATE archon_template_definitions SET parent_template_id = (SELECT id FROM archon_template_definitions WHERE name = 'new_parent')"
        " WHERE name = 'aa_leaf'",
    )
    assert align(prod).details["templates"]["created"] == 1
    assert rows(prod, _DEFINITIONS) == rows(dev, _DEFINITIONS)


def test_a_trigger_that_changes_a_value_undoes_everything(
    new_database: Callable[[str], str], align: Callable[..., PhaseOutcome], rows: Rows
) -> None:
    prod = new_database(shapes.MODERN)
    rows(
        prod,
        "CREATE FUNCTION shout() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN NEW.title = upper(NEW.title); RETURN NEW; END $$;"
        "CREATE TRIGGER shout BEFORE INSERT ON archon_template_definitions FOR EACH ROW EXECUTE FUNCTION shout()",
    )
    with pytest.raises(AlignError, match="did not stay") as caught:
        align(prod)
    assert "title" in caught.value.found
    assert rows(prod, _STATE) == []


def test_a_value_that_prod_cannot_hold_is_refused_not_cut(
    new_database: Callable[[str], str], dev: str, align: Callable[..., PhaseOutcome], rows: Rows
) -> None:
    prod = new_database(shapes.MODERN)
    rows(prod, "ALTER TABLE archon_template_components ALTER priority TYPE varchar(3)")
    with pytest.raises(AlignError, match="too long"):
        align(prod)
    assert rows(prod, _STATE) == []


def test_odd_columns_and_references(
    new_database: Callable[[str], str], dev: str, align: Callable[..., PhaseOutcome], rows: Rows
) -> None:
    odd = (
        'ALTER TABLE archon_template_components ADD "a ""quoted"" ünïcode %s column" numeric, ADD raw bytea, ADD span interval;'
        "CREATE TABLE other (id uuid PRIMARY KEY); ALTER TABLE archon_template_components ADD other_id uuid REFERENCES other;"
    )
    prod = new_database(shapes.MODERN + odd)
    rows(dev, odd)
    rows(
        dev,
        "INSERT INTO other VALUES (gen_random_uuid()); UPDATE archon_template_components"
        ' SET "a ""quoted"" ünïcode %s column" = 1.500, raw = \'\\x00ff\', span = \'1 day 2:03\', other_id = (SELECT id FROM other)',
    )
    assert codes(align(prod)) == {"reference_not_moved"}
    query = (
        'SELECT "a ""quoted"" ünïcode %s column"::text, raw, span::text FROM archon_template_components ORDER BY name'
    )
    assert rows(prod, query) == rows(dev, query)
    assert rows(prod, "SELECT other_id FROM archon_template_components WHERE other_id IS NOT NULL") == []


def test_what_is_not_moved_and_what_names_dev_is_told(
    new_database: Callable[[str], str], dev: str, align: Callable[..., PhaseOutcome], rows: Rows
) -> None:
    rows(
        dev,
        "CREATE TABLE archon_components (id int); INSERT INTO archon_components VALUES (1), (2);"
        "UPDATE archon_template_components SET instruction_text = 'call manage_task_archon-dev' WHERE name = 'group::two'",
    )
    outcome = align(new_database(shapes.MODERN))
    assert codes(outcome) == {"not_moved", "environment_specific_text"}
    assert any("archon_components (2 rows)" in finding.message for finding in outcome.findings)


def test_templates_without_is_active(
    new_database: Callable[[str], str], dev: str, align: Callable[..., PhaseOutcome], rows: Rows
) -> None:
    drop = "ALTER TABLE archon_template_definitions DROP is_active"
    rows(dev, drop)
    prod = new_database(shapes.MODERN + drop)
    outcome = align(prod)
    assert codes(outcome) == {"is_active_missing"}
    assert outcome.details["templates"]["placeholders_checked"] == 2


def test_a_dev_without_the_tables_is_told(
    new_database: Callable[[str], str], align: Callable[..., PhaseOutcome]
) -> None:
    outcome = align(new_database(shapes.MODERN), source=new_database(""))
    assert (outcome.status, codes(outcome)) == ("aligned", {"no_table_in_dev"})


def test_without_the_run_lock_nothing_is_written(
    new_database: Callable[[str], str], make_context: Callable[..., Context], dev: str, rows: Rows
) -> None:
    prod = new_database(shapes.MODERN)
    with pytest.raises(LockLost):
        run(make_context(prod, dev))
    assert rows(prod, _STATE) == []


def test_a_missing_privilege_is_named(
    new_database: Callable[[str], str],
    server: Any,
    align: Callable[..., PhaseOutcome],
    make_context: Callable[..., Context],
    dev: str,
) -> None:
    prod = new_database(shapes.MODERN)
    name = psycopg.conninfo.conninfo_to_dict(prod)["dbname"]
    with psycopg.connect(server.dsn(str(name)), autocommit=True) as admin:
        admin.execute("ALTER TABLE archon_template_components OWNER TO postgres")
    with pytest.raises(AlignError, match="archon_template_components") as caught:
        run(make_context(prod, dev, check=True))
    assert caught.value.code == "missing_privilege"
