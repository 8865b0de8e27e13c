"""Which backups stay, and that nothing else is ever removed."""

from __future__ import annotations

import fcntl
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from archon_align.backup import retention
from archon_align.backup.retention import Backup, Keep, doomed
from archon_align.errors import AlignError
from hypothesis import given
from hypothesis import strategies as st

NOW = datetime(2026, 3, 1, tzinfo=UTC)
PROD = {"system_identifier": "7001", "oid": 5, "address": "db:5432/prod", "name": "prod"}


def run_id(days_ago: float, *, now: datetime = NOW) -> str:
    return f"{now - timedelta(days=days_ago):%Y%m%d-%H%M%S}-abcdef"


def backup(days_ago: float, *, verified: bool = True) -> Backup:
    return Backup(run_id(days_ago), Path("x"), ("7001", "5"), verified, 0)


def ages(keep: Keep, *found: Backup) -> list[int]:
    return [round((NOW - item.made) / timedelta(days=1)) for item in doomed(found, keep, now=NOW)]


@pytest.mark.parametrize(
    ("keep", "gone"),
    [
        (Keep(), []),
        (Keep(last=1), [1, 2, 9, 30]),
        (Keep(last=3), [9, 30]),
        (Keep(last=9), []),
        (Keep(days=1), [1, 2, 9, 30]),
        (Keep(days=7), [9, 30]),
        (Keep(last=2, days=7), [9, 30]),
        (Keep(last=4, days=7), [30]),
    ],
)
def test_the_last_ones_and_the_young_ones_stay(keep: Keep, gone: list[int]) -> None:
    assert ages(keep, *(backup(age) for age in (0, 1, 2, 9, 30))) == gone


def test_what_is_not_proved_never_counts_as_one_of_the_last() -> None:
    found = [backup(0, verified=False), backup(1), backup(2, verified=False), backup(3), backup(4)]
    assert ages(Keep(last=2), *found) == [4]
    assert ages(Keep(last=1), *found) == [2, 3, 4]


_SECONDS = st.integers(0, 400 * 86400)


@given(
    st.lists(st.tuples(_SECONDS, st.booleans()), max_size=12, unique_by=lambda item: item[0]),
    st.integers(0, 5),
    st.integers(0, 60),
)
def test_the_newest_verified_one_never_goes(made: list[tuple[int, bool]], last: int, days: int) -> None:
    found = [backup(seconds / 86400, verified=verified) for seconds, verified in sorted(made)]
    gone = doomed(found, Keep(last, days), now=NOW)
    newest = next((item for item in found if item.verified), None)
    assert newest not in gone
    assert all(NOW - item.made >= timedelta(days=days) for item in gone)
    assert all(sum(other.verified for other in found[: found.index(item)]) >= last for item in gone)


@pytest.mark.parametrize(
    ("last", "days", "name"), [(-1, 0, "archon_backup_keep_last"), (0, -3, "archon_backup_keep_days")]
)
def test_limits_below_zero_are_refused(last: int, days: int, name: str) -> None:
    with pytest.raises(AlignError) as raised:
        Keep(last, days)
    assert raised.value.object_name == name


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Four backups of PROD, 0 to 3 days old, each beside its restore points."""
    for age in range(4):
        write(tmp_path, run_id(age, now=datetime.now(UTC)))
    return tmp_path


def write(root: Path, name: str, **more: Any) -> Path:
    folder = root / name / "backup"
    folder.mkdir(parents=True)
    (folder / "public.dump").write_bytes(b"dump")
    files = {"public.dump": {"bytes": 4, "sha256": "x"}}
    manifest = {"format": 2, "run_id": name, "database": PROD, "files": files, "verified": True, **more}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    points = root / name / "restore-points"
    points.mkdir()
    (points / "schema.jsonl").write_text("{}\n")
    return folder


def left(root: Path) -> list[str]:
    return sorted(path.parent.parent.name for path in root.glob("*/backup/manifest.json"))


def prune(root: Path, keep: Keep, *, check: bool = False) -> list[tuple[str, str]]:
    current = max(path.name for path in root.iterdir() if path.name[:2] == "20")
    found = retention.prune(root, "backup", keep, current, PROD, check=check)
    return [(finding.code, Path(finding.object).parent.name) for finding in found]


def test_what_goes_is_named_and_its_restore_points_stay(root: Path) -> None:
    before = left(root)
    predicted = prune(root, Keep(last=2), check=True)
    assert left(root) == before, "check mode removes nothing"
    assert predicted == [("backup_would_be_removed", name) for name in reversed(before[:2])]
    assert prune(root, Keep(last=2)) == [("backup_removed", name) for name in reversed(before[:2])]
    assert left(root) == before[2:]
    assert len(list(root.glob("*/restore-points/schema.jsonl"))) == 4
    assert prune(root, Keep(last=2)) == []


def test_a_run_that_has_no_backup_yet_counts_as_the_newest(root: Path) -> None:
    before = left(root)
    retention.prune(root, "backup", Keep(last=2), "20990101-000000-abcdef", PROD, check=False)
    assert left(root) == before[3:]


def test_what_is_not_ours_beyond_doubt_stays(root: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    old = run_id(100)
    write(root, old, run_id="20200101-000000-abcdef")
    write(root, run_id(101), database={**PROD, "oid": 6})
    write(root, run_id(102), database={**PROD, "system_identifier": ""})
    write(root, "somebody's folder")
    (write(root, run_id(103)) / "manifest.json").write_text("{")
    (write(root, run_id(104)) / "manifest.json").write_text("[]")
    (root / run_id(105) / "backup").mkdir(parents=True)
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    (root / run_id(106)).symlink_to(write(elsewhere, run_id(106)).parent)
    (root / run_id(107)).mkdir()
    (root / run_id(107) / "backup").symlink_to(write(elsewhere, run_id(107)))
    mine = sorted(path.parent.name for path in root.glob("*/backup"))
    prune(root, Keep(last=4))
    assert sorted(path.parent.name for path in root.glob("*/backup")) == mine
    assert len(left(elsewhere)) == 2


def test_a_backup_that_is_being_restored_stays(root: Path) -> None:
    oldest = left(root)[0]
    with (root / oldest / "backup" / "manifest.json").open() as held:
        fcntl.flock(held, fcntl.LOCK_SH)
        assert ("backup_in_use", oldest) in prune(root, Keep(last=1))
        assert oldest in left(root)
    assert ("backup_removed", oldest) in prune(root, Keep(last=1))


def test_an_interrupted_removal_is_finished_by_the_next(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("shutil.rmtree", lambda _: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            prune(root, Keep(last=3))
    assert len(left(root)) == 3, "half removed is not to be seen any more"
    (hidden,) = root.glob("*/.backup.removed")
    prune(root, Keep(last=3))
    assert not hidden.exists()


def test_what_cannot_be_removed_is_told_and_fails_nothing(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> Path:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "rename", refuse)
    assert [code for code, _ in prune(root, Keep(last=3))] == ["backup_not_removed"]
    assert len(left(root)) == 4


def test_no_root_no_findings(tmp_path: Path) -> None:
    assert retention.prune(tmp_path / "nowhere", "backup", Keep(1, 1), run_id(0), PROD, check=False) == []
