"""Names of files, what a killed process left, predictions and free space."""

from __future__ import annotations

import os
import re
from pathlib import Path

import psutil
import pytest
from archon_align.backup import leftovers, lines, manifest, space
from archon_align.backup.dump import form_for
from archon_align.backup.needs import CLASS, ROUTINE, TYPE, Graph, close
from archon_align.backup.prediction import predict
from archon_align.database.target import Table
from archon_align.errors import AlignError
from hypothesis import given
from hypothesis import strategies as st

_NAME = st.text(min_size=1, max_size=63).filter(lambda text: "\x00" not in text)


@given(st.lists(st.tuples(st.sampled_from(["public", "other"]), _NAME), unique=True, max_size=6))
def test_file_names_are_safe_and_differ(found: list[tuple[str, str]]) -> None:
    tables = [Table(schema, name) for schema, name in found]
    names = lines.file_names(tables, "public")
    assert list(names) == tables
    assert len({name.casefold() for name in names.values()}) == len(tables)
    for name in names.values():
        assert re.fullmatch(r"[\w][\w.-]*\.jsonl", name)
        assert len(name.encode()) < 255


def test_a_file_is_called_as_its_table() -> None:
    tables = [Table("public", "archon_tasks"), Table("other", "archon_tasks"), Table("public", "Archon_tasks")]
    names = lines.file_names(tables, "public")
    assert list(names.values()) == ["archon_tasks.jsonl", "other.archon_tasks.jsonl", "Archon_tasks-2.jsonl"]


def test_only_what_a_dead_process_of_this_machine_left_goes(tmp_path: Path) -> None:
    host, pid, start = leftovers.mark().split("-")
    parent = psutil.Process(os.getppid())
    kept = [
        f".backup-{leftovers.mark()}",
        f".backup-{host}-{parent.pid}-{parent.create_time() + 5:.0f}",  # the clock was set
        f".backup-00000000-{pid}-1",
        f".backup-{host}-x-1",
        ".backup-before",
        "backup",
    ]
    gone = [
        f".backup-{host}-{pid}-{int(start) - 4000}",
        f".backup-{host}-{2**22 + 1}-1",
        f".backup-{host}-{pid}-9-abc_d",
    ]
    for name in (*kept, *gone):
        (tmp_path / "run" / name / "inside").mkdir(parents=True)
    (tmp_path / "run" / f".backup-{host}-{pid}-8").symlink_to(tmp_path / "run" / "backup")
    assert sorted(path.name for path in leftovers.remove_leftovers(tmp_path)) == sorted(gone)
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == sorted((*kept, f".backup-{host}-{pid}-8"))


_DATABASE = {"system_identifier": "7", "oid": 5, "address": "a", "name": "n"}


def _backup(root: Path, run: str, **changes: object) -> None:
    content = {
        "run_id": run,
        "database": _DATABASE,
        "verified": True,
        "snapshot_at": run,
        "table_bytes": 1000,
        "seconds": {"dump": 1.0, "proof": 3.0},
        "files": {"a": {"bytes": 100}, "b/c": {"bytes": 50}},
        **changes,
    }
    (root / run / "backup").mkdir(parents=True)
    (root / run / "backup" / "manifest.json").write_bytes(manifest.as_bytes(content))


def test_the_newest_verified_backup_of_the_same_database_predicts(tmp_path: Path) -> None:
    assert predict(tmp_path, "backup", _DATABASE, 2000) is None
    _backup(tmp_path, "1", seconds={"dump": 9.0})
    _backup(tmp_path, "2")
    _backup(tmp_path, "3", verified=False)
    _backup(tmp_path, "4", database={**_DATABASE, "oid": 6})
    _backup(tmp_path, "5", table_bytes=0)
    _backup(tmp_path, "6", files={"a": "no size"})
    _backup(tmp_path, "7", seconds=None)
    (tmp_path / "8" / "backup").mkdir(parents=True)
    (tmp_path / "8" / "backup" / "manifest.json").write_text("{")
    found = predict(tmp_path, "backup", _DATABASE, 2000)
    assert found is not None
    assert found.as_dict() == {"by": "2", "bytes": 300, "seconds": 8.0}
    assert found.room == 360


def test_free_space_is_watched_on_every_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    free = {tmp_path: 300, tmp_path / "other": 300}
    (tmp_path / "other").mkdir()
    monkeypatch.setattr(
        space.shutil, "disk_usage", lambda path: type("Usage", (), {"free": free[Path(path)] * space.MIB})
    )
    watch = space.Watch({tmp_path / "not" / "yet": "one thing", tmp_path / "other": "another"}, 200)
    watch.check()
    free[tmp_path / "other"] = 199
    with pytest.raises(AlignError) as raised:
        watch.check()
    assert raised.value.code == "disk_full"
    assert raised.value.object_name == str(tmp_path / "other")
    assert raised.value.expected == "200 MiB free while another is written"


def test_the_size_decides_about_processes() -> None:
    assert (form_for(64 * space.MIB, 64).format, form_for(64 * space.MIB, 64).jobs) == ("custom", 1)
    assert form_for(64 * space.MIB + 1, 64).format == "directory"
    assert form_for(64 * space.MIB + 1, 64).name(("public",)) == "public.dir"
    assert form_for(1, 64).name(("public", "auth")) == "schemas.dump"


def test_what_a_body_names_comes_along_unless_it_brings_tables() -> None:
    table, other = (CLASS, 1), (CLASS, 2)
    check, helper, unrelated, greedy = (ROUTINE, 10), (ROUTINE, 11), (ROUTINE, 12), (ROUTINE, 13)
    odd, rowtype = (TYPE, 20), (TYPE, 21)
    graph = Graph(
        needs={table: {check}, greedy: {rowtype}, rowtype: {other}},
        parts={},
        own={},
        inside=frozenset((table, other, check, helper, unrelated, greedy, odd, rowtype)),
        members={},
        sources=(
            (check, "check", "SELECT helper(1), greedy()"),
            (helper, "helper", 'SELECT NULL::"odd \'type"'),
            (unrelated, "unrelated", "SELECT checked"),
            (greedy, "greedy", ""),
            (odd, "odd 'type", ""),
        ),
    )
    assert close(graph, [1]).inside == {table, check, helper, odd}
