"""What is known of a phase whose module was interrupted and had no time to hand anything back."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import orjson

from ..context import Run
from ..errors import AlignError
from ..keeper.events import EVENTS_FILE
from ..rollback.ledger import FOLDER, Point, read_point
from ..rollback.words import as_restore_point

CODE = "interrupted"
_REBUILD = "embeddings"
# Modules that are part of a phase of another name, and phases whose ledgers have names of their own.
_PHASES = {"search": _REBUILD, "settings": "data", "functional": "validate", "": "playbook"}
_LEDGERS = {_REBUILD: (_REBUILD, "search")}


def phase_of(module: str) -> str:
    """The phase that the module `archon_<module>` is part of; `playbook` where none of ours was at work."""
    return _PHASES.get(module, module)


def interrupted(run: Run, module: str, task: str, by: str) -> dict[str, Any]:
    """The result of the phase whose module `archon_<module>` was at work in `task` when the run was interrupted `by` somebody.

    Rows that a rebuild has written are verified and kept, so that it is resumable. What another phase had not committed
    is rolled back by the server, and its restore point undoes the rest.
    """
    phase = phase_of(module)
    counts = _last_counts(run) if module == _REBUILD else {}
    points = _points(run, phase)
    committed = any(entry.committed for point in points for entry in point.entries)
    details: dict[str, Any] = {"restore_points": [as_restore_point(point) for point in points]}
    if counts:
        details[_REBUILD] = {
            "missing_before": counts["total"], "rebuilt": counts["done"], "quarantined": counts["quarantined"],
        }  # fmt: skip
    error = AlignError(
        f"Interrupted by {by}.",
        object_name=f"task {task}",
        expected="to be left to finish",
        found=_found(run, module, counts),
        remedy=_remedy(run, phase),
        code=CODE,
    )
    return {
        "phase": phase,
        "status": "resumable" if phase == _REBUILD or not module else "failed",
        "changed": committed or bool(counts.get("done")),
        "error": error.as_dict(),
        "details": details,
    }


def _found(run: Run, module: str, counts: Mapping[str, Any]) -> str:
    if run.check:
        return "nothing was written to any database"
    if not module:
        return "no phase was at work; what earlier ones did is kept"
    if not counts:
        return "what was not committed yet is rolled back"
    quarantined = f", {counts['quarantined']:,} quarantined" if counts["quarantined"] else ""
    return f"{counts['done']:,} of {counts['total']:,} rows embedded{quarantined} when they were last counted; all of them are kept"


def _remedy(run: Run, phase: str) -> str:
    if run.check:
        return "Run the same command again (make check)."
    alone = f", or ansible-playbook align.yml --tags {phase}" if phase == _REBUILD else ""
    return f"Run the same command again (make align{alone}): it goes on where this run stopped."


def _last_counts(run: Run) -> Mapping[str, Any]:
    """The last counters of the rebuild that the keeper has written down; none where it had not begun to count."""
    found: Mapping[str, Any] = {}
    with suppress(OSError):
        for line in (run.artifacts / EVENTS_FILE).read_bytes().splitlines():
            with suppress(orjson.JSONDecodeError):
                event = orjson.loads(line)
                if event.get("kind") == "progress" and event.get("phase") == _REBUILD and "done" in event:
                    found = event
    return found


def _points(run: Run, phase: str) -> list[Point]:
    """The phase's restore points as far as they hold anything; each worker of a rebuild has its own."""
    found = []
    names = _LEDGERS.get(phase, (phase,))
    for path in sorted((run.artifacts / FOLDER).glob("*.jsonl")):
        if path.stem in names or (phase == _REBUILD and path.stem.startswith(f"{_REBUILD}-")):
            with suppress(AlignError):
                point = read_point(path)
                if point.entries:
                    found.append(point)
    return found
