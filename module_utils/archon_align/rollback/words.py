"""Restore points in words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .ledger import Point

# What one entry counts, by its kind: the keys of its payload that hold a list of it, and what one of them is called.
_COUNTED = {
    "rows": (("rows",), "row"),
    "vectors": (("ids",), "vector"),
    "structure": (("changes",), "object"),
}


def holds(point: Point) -> str:
    """What a restore point's run did that can be undone: `13 rows, 157 objects`, `undid 2 restore points`, `nothing`."""
    numbers: dict[str, int] = {}
    undid: set[str] = set()
    for entry in point.entries:
        if entry.committed is False:
            continue
        if entry.kind == "undo":
            undid.update(entry.payload.get("points") or ())
            continue
        keys, noun = _COUNTED[entry.kind]
        numbers[noun] = numbers.get(noun, 0) + sum(_count(entry.payload, key) for key in keys)
    words = [f"{number:,} {noun}{'' if number == 1 else 's'}" for noun, number in numbers.items() if number]
    if undid:
        words.append(f"undid {', '.join(sorted(undid))}")
    return ", ".join(words) or "nothing"


def _count(payload: Mapping[str, Any], key: str) -> int:
    found = payload.get(key)
    if isinstance(found, Mapping):
        return sum(len(one) if isinstance(one, list) else 1 for one in found.values())
    return len(found) if isinstance(found, list) else 0


def command(name: str) -> str:
    """How to roll back to the restore point `name`."""
    return f"ansible-playbook playbooks/rollback.yml -e restore_point={name} --check --diff (then without --check)"


def as_restore_point(point: Point) -> dict[str, str]:
    """A restore point as the report shows it."""
    return {
        "name": point.name,
        "kind": ", ".join(sorted({entry.kind for entry in point.entries})),
        "phase": point.phase,
        "path": f"{point.path.parent.name}/{point.path.name}",
        "created_at": point.created_at,
        "holds": holds(point),
        "restore_with": f"ansible-playbook playbooks/rollback.yml -e restore_point={point.name}",
    }
