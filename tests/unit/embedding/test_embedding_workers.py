"""A worker's name and folder, and what PROD's own call tells of the workers' restore points."""

from __future__ import annotations

from pathlib import Path

import orjson
import pytest
from archon_align.context import Context, Run
from archon_align.database.target import Target
from archon_align.embedding.workers import ledger_name, private_folder, require_name, with_workers
from archon_align.errors import AlignError
from archon_align.outcome import PhaseOutcome

RUN_ID = "20260102-030405-abcdef"
IDENTITY = {"name": "archon", "oid": 1, "system_identifier": "", "where": "here"}


@pytest.mark.parametrize("name", ["../x", "a b", "ü", "x" * 33, "a/b", "\n"])
def test_a_name_that_is_no_file_name_is_refused(name: str) -> None:
    with pytest.raises(AlignError, match="embeddings_worker_name") as raised:
        require_name(name)
    assert raised.value.code == "bad_variable"


@pytest.mark.parametrize(("name", "ledger"), [("", "embeddings"), ("gpu-1.example", "embeddings-gpu-1.example")])
def test_a_worker_has_a_restore_point_of_its_own(name: str, ledger: str) -> None:
    require_name(name)
    assert ledger_name(name) == ledger


def test_every_folder_that_is_made_is_private(tmp_path: Path) -> None:
    path = tmp_path / "one" / "two" / RUN_ID
    private_folder(path)
    private_folder(path)
    assert {folder.stat().st_mode & 0o777 for folder in (path, path.parent, path.parent.parent)} == {0o700}
    (tmp_path / "file").touch()
    with pytest.raises(AlignError, match="archon_worker_artifacts_dir"):
        private_folder(tmp_path / "file" / RUN_ID)


def ledger(folder: Path, worker: str, *, committed: int, cut: bool = False) -> None:
    """A worker's restore point: three transactions of ten rows, of which so many are known to be committed."""
    head = {
        "line": "point",
        "format": 1,
        "run_id": RUN_ID,
        "phase": f"embeddings-{worker}",
        "created_at": "2026-01-02T03:04:05.000+00:00",
    }
    lines: list[dict[str, object]] = [{**head, "database": "PROD", "identity": IDENTITY}]
    for number in range(3):
        payload = {"schema": "public", "table": "t", "column": "embedding", "ids": [number * 10 + 1, number * 10 + 10]}
        lines.append({"line": "entry", "kind": "vectors", "database": "PROD", "xid": str(number), "payload": payload})
        if number < committed:
            lines.append({"line": "committed", "database": "PROD", "xid": str(number)})
    text = b"".join(orjson.dumps(line) + b"\n" for line in lines)
    folder.mkdir(exist_ok=True)
    (folder / f"embeddings-{worker}.jsonl").write_bytes(text[:40] if cut else text)


def test_prods_own_call_counts_what_killed_workers_cannot_tell(tmp_path: Path) -> None:
    context = Context(Run(RUN_ID, tmp_path), Target("PROD", ""), Target("DEV", ""), "embeddings")
    own = {"name": f"{RUN_ID}:embeddings"}
    outcome = PhaseOutcome("embeddings", "changed", details={"embeddings": {"rebuilt": 1}, "restore_points": [own]})
    assert with_workers(context, outcome) is outcome
    ledger(tmp_path / "restore-points", "killed", committed=2)
    ledger(tmp_path / "restore-points", "well", committed=3)
    ledger(tmp_path / "restore-points", "at-once", committed=0, cut=True)
    told = with_workers(context, outcome).details
    assert told["embeddings"] == {"rebuilt": 1, "written_by_workers": {"killed": 20, "well": 30}}
    assert [point["name"] for point in told["restore_points"]] == [
        own["name"], f"{RUN_ID}:embeddings-killed", f"{RUN_ID}:embeddings-well",
    ]  # fmt: skip
