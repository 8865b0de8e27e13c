"""Restore points in words."""

from __future__ import annotations

from itertools import batched

from .ledger import Entry, Point

_NOUNS = {"rows": "row", "vectors": "vector", "structure": "object"}


def holds(point: Point) -> str:
    """What the phase did that can be undone: `13 rows, 157 objects`, `nothing`; of a rollback which points it undid."""
    numbers: dict[str, int] = {}
    undid: dict[str, None] = {}
    for entry in point.entries:
        if entry.committed is False:
            continue
        if entry.kind == "undo":
            undid.update(dict.fromkeys(entry.payload.get("points") or ()))
        else:
            numbers[entry.kind] = numbers.get(entry.kind, 0) + _count(entry)
    words = [counted(number, _NOUNS[kind]) for kind, number in numbers.items() if number]
    if undid:
        first, *others = undid
        words.append(f"undid {first}" + (f" and {len(others)} more" if others else ""))
    return ", ".join(words) or "nothing"


def counted(number: int, noun: str) -> str:
    """`1 row`, `1,000 rows`."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def _count(entry: Entry) -> int:
    """How many rows, vectors or objects. What is written otherwise counts as nothing here; undoing it will tell."""
    payload = entry.payload
    try:
        if entry.kind == "structure":
            return len(payload["changes"])
        if entry.kind == "rows":
            return sum(len(table["rows"]) for table in payload["tables"])
        return sum(last - first + 1 for first, last in batched(payload["ids"], 2))
    except (KeyError, TypeError, ValueError):
        return 0


def vectors(point: Point) -> int:
    """How many rows the phase gave a vector, as far as its restore point knows them to be committed."""
    return sum(_count(entry) for entry in point.entries if entry.kind == "vectors" and entry.committed)


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
