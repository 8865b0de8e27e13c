"""Two rounds of `make torture`: a run with a fault in it, a plain one, a check, and the oracle's judgement of every row."""

from __future__ import annotations

import shutil
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.torture import oracle
from tests.torture.__main__ import main
from tests.torture.faults import KINDS, draw
from tests.torture.scene import Site
from tests.torture.strikes import STRIKES
from tests.torture.users import Ledger, Write

# A killed playbook whose successor meets vectors that are none, and a server that is stopped in a transaction. Neighbouring seeds
# go through the kinds of faults in the order of their list: `make torture` plays them all.
FIRST_SEED = 60
TASK = "SELECT id::text FROM archon_tasks ORDER BY id LIMIT 1"


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    # Not below tmp_path: as root the scratch server runs as nobody, who cannot enter that.
    folder = Path(tempfile.mkdtemp(prefix="torture-"))
    site = Site(folder / "site", threading.Event())
    try:
        site.up()
        yield site
    finally:
        site.remove()
        shutil.rmtree(folder)


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (f"DELETE FROM archon_tasks WHERE id = ({TASK})::uuid", "is missing"),
        ("UPDATE archon_projects SET pinned = pinned WHERE title = 'Mobile app'", "updated_at is"),
        ("ALTER TABLE archon_projects DROP COLUMN client_reference", "column client_reference is missing"),
        ("ALTER TABLE archon_tasks ALTER COLUMN title TYPE varchar(20) USING left(title, 20)", "title is"),
        ("INSERT INTO archon_tasks (title) VALUES ('from nowhere')", "was written by no user"),
        ("UPDATE archon_crawled_pages SET content = '' WHERE chunk_number = 0", "content is"),
        ("DELETE FROM archon_release_notes", "archon_release_notes 1: is missing"),
        (
            "UPDATE archon_settings SET value = 'x' WHERE key = 'LOGFIRE_ENABLED'",
            "archon_settings LOGFIRE_ENABLED: value is",
        ),
    ],
)
def test_the_oracle_sees_a_row_that_differs(site: Site, damage: str, says: str) -> None:
    site.lab.reset()
    ledger = Ledger()
    before = oracle.Before(site, ledger)
    assert oracle.rows_are_exact(site, ledger) == before.dev_is_unchanged(site) == []
    with site.superuser("prod") as prod:
        prod.execute(damage.encode())
    assert any(says in complaint for complaint in oracle.rows_are_exact(site, ledger))


def test_either_state_is_right_after_a_commit_whose_answer_was_lost(site: Site) -> None:
    site.lab.reset()
    ledger = Ledger()
    oracle.Before(site, ledger)
    with site.superuser("prod") as prod:
        prod.execute("SET timezone = 'UTC'")
        ((key, row),) = list(oracle.read_table(prod, "archon_tasks").items())[:1]
        ledger.settle([Write("archon_tasks", key, {**row, "title": "perhaps"})], certain=False)
        assert oracle.rows_are_exact(site, ledger) == []
        ledger.settle([Write("archon_tasks", key, {**row, "title": "certainly"})], certain=True)
        assert "title is" in oracle.rows_are_exact(site, ledger)[0]
        ledger.settle([Write("archon_tasks", key, None)], certain=True)
        assert oracle.rows_are_exact(site, ledger) == [f"archon_tasks {key}: is back although it was deleted"]


@pytest.mark.parametrize(
    ("made", "says"),
    [
        ("SELECT pg_advisory_lock(1, 2)", "advisory lock 1,2"),
        ("SET application_name = 'align schema 20260101-000000-abcdef'", "session align schema"),
        ("CREATE TEMPORARY TABLE left_behind ()", "temporary left_behind"),
        ("CREATE DATABASE scratch", "database scratch"),
    ],
)
def test_the_oracle_sees_what_is_left_behind(site: Site, made: str, says: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(oracle, "TIDY_SECONDS", 0.0)
    assert oracle.leftovers(site) == []
    with site.superuser("prod", "archon") as prod:
        prod.execute(made.encode())
        assert any(says in complaint for complaint in oracle.leftovers(site))
        prod.execute("DROP DATABASE IF EXISTS scratch")


def test_a_seed_stands_for_its_choices_and_neighbours_for_all_kinds() -> None:
    assert [draw(seed) for seed in range(40)] == [draw(seed) for seed in range(40)]
    assert {draw(seed).faults[0].kind for seed in range(100, 100 + len(KINDS))} == KINDS.keys() == STRIKES.keys()
    assert {len(draw(seed).faults) for seed in range(40)} == {1, 2}


def test_the_oracle_sees_that_nothing_is_aligned(site: Site) -> None:
    site.lab.reset()
    complaints = oracle.alignment_is_complete(site, oracle.Before(site, Ledger()))
    assert any(complaint.startswith("PROD lacks table archon_template_definitions") for complaint in complaints)
    assert any("rows without a vector" in complaint for complaint in complaints)
    assert any(complaint.startswith("setting EMBEDDING_MODEL") for complaint in complaints)


@pytest.mark.timeout(6000)  # two rounds of three runs each, on whatever the other tests leave of the machine
def test_two_rounds_are_survived(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.torture.round.BOUND", 120.0)  # how long users wait says something of the machine too
    code = main(["--runs", "2", "--seed", str(FIRST_SEED)])
    printed = capsys.readouterr().out
    assert code == 0, printed
    assert printed.count(": survived") == 2
