"""Several machines at one rebuild: a worker's name and folder, and what the workers' restore points tell when they are done."""

from __future__ import annotations

import random
import re
from collections import defaultdict
from dataclasses import replace
from itertools import batched
from pathlib import Path

from ..context import Context
from ..database.target import Table
from ..errors import AlignError
from ..outcome import PhaseOutcome
from ..rollback.ledger import FOLDER, Point, read_point
from ..rollback.words import as_restore_point, vectors

_NAME = re.compile(r"[A-Za-z0-9._-]{1,32}")
_PREFIX = "embeddings-"


def require_name(worker: str) -> None:
    """Raises AlignError for a name that cannot be part of a file's."""
    if worker and not _NAME.fullmatch(worker):
        raise AlignError(
            "A variable cannot be used.",
            object_name="embeddings_worker_name",
            expected="1 to 32 letters, digits, dots, dashes or underscores",
            found=repr(worker),
            remedy="Correct embeddings_worker_name in the inventory.",
            code="bad_variable",
        )


def ledger_name(worker: str) -> str:
    """The name among the restore points of what a worker, or with '' PROD's own call, writes."""
    return f"{_PREFIX}{worker}" if worker else _PREFIX[:-1]


def private_folder(path: Path) -> None:
    """Make a worker's folder on its own machine, nobody else's to look into. Raises AlignError."""
    try:
        for folder in (*reversed(path.parents), path):
            if not folder.exists():
                folder.mkdir(mode=0o700, exist_ok=True)
    except OSError as error:
        raise AlignError(
            "The worker has no folder for its restore point, so it may not change anything.",
            object_name=str(path),
            expected="a folder that can be made",
            found=error.strerror or str(error),
            remedy="Set archon_worker_artifacts_dir to a folder that the worker's user may write to.",
            code="artifacts_not_writable",
        ) from error


def with_workers(context: Context, outcome: PhaseOutcome) -> PhaseOutcome:
    """PROD's own outcome with what the run's workers have written, by their restore points: one that was killed cannot say it."""
    points = _points(context)
    if not points:
        return outcome
    details = dict(outcome.details)
    details["embeddings"] = {
        **details.get("embeddings", {}),
        "written_by_workers": {point.phase.removeprefix(_PREFIX): vectors(point) for point in points},
    }
    others = [as_restore_point(point) for point in points if point.entries]
    details["restore_points"] = [*(details.get("restore_points") or ()), *others]
    return replace(outcome, details=details)


def samples(context: Context, size: int) -> dict[tuple[Table, str], list[int]]:
    """Of each worker up to `size` ids of rows that it was about to write, by table and column."""
    found: dict[tuple[Table, str], list[int]] = defaultdict(list)
    for point in _points(context):
        by_column: dict[tuple[Table, str], list[range]] = defaultdict(list)
        for entry in point.entries:
            if entry.kind == "vectors":
                where = Table(entry.payload["schema"], entry.payload["table"]), entry.payload["column"]
                by_column[where] += (range(first, last + 1) for first, last in batched(entry.payload["ids"], 2))
        for where, ranges in by_column.items():
            drawn = random.sample(ranges, min(size, len(ranges)))
            found[where] += (random.choice(ids) for ids in drawn)  # noqa: S311 - a sample, not a secret
    return found


def _points(context: Context) -> list[Point]:
    found = []
    for path in sorted((context.run.artifacts / FOLDER).glob(f"{_PREFIX}*.jsonl")):
        try:
            found.append(read_point(path))
        except AlignError:
            # Killed before its first line was whole: nothing was written. The list of restore points names such a file.
            continue
    return found
