"""What a run can say of the protected tables: its transactions' proofs, and the state before and after."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self


@dataclass(frozen=True, slots=True)
class Observation:
    """One look at a table. `rows` is None when the table, or a column that it had, is gone.

    Fingerprints of two looks say something about each other only if both were taken over the same `columns`.
    """

    rows: int | None
    fingerprint: str
    columns: tuple[str, ...]

    @classmethod
    def of(cls, recorded: Mapping[str, Any]) -> Self:
        """From a snapshot file's entry."""
        return cls(recorded["rows"], recorded["fingerprint"] or "", tuple(recorded["columns"]))

    def as_dict(self) -> dict[str, Any]:
        return {"rows": self.rows, "fingerprint": self.fingerprint or None, "columns": list(self.columns)}


def _changed_by_users(
    before: Observation | None, proofs: Sequence[Mapping[str, Any]], after: Observation | None
) -> bool | None:
    """Whether rows differ by what happened outside this run's transactions; None when nothing tells."""
    stray = next((proof for proof in proofs if proof.get("strays_removed")), None)
    if stray is not None:
        return _changed_around_strays(before, stray, proofs[-1], after)
    carried = next((proof for proof in proofs if proof.get("fingerprint_found")), None)
    if carried is not None:
        return _changed_around(before, carried, after)
    if before and after and before.columns == after.columns and not any(proof.get("rows_added") for proof in proofs):
        return (before.rows, before.fingerprint) != (after.rows, after.fingerprint)
    # Fingerprints of different phases may cover different columns (a phase may have added some), so only equality of
    # fingerprints says "the same", while different row counts always say "changed".
    looks = [(proof["rows_before"], proof["fingerprint_before"]) for proof in proofs]
    ends = [
        (proof["rows_after"] + proof.get("rows_added", 0), proof.get("fingerprint_left") or proof["fingerprint_after"])
        for proof in proofs
    ]
    if before:
        ends.insert(0, (before.rows, before.fingerprint))
    else:
        looks = looks[1:]
    if after:
        looks.append((after.rows, after.fingerprint))
    pairs = list(zip(ends, looks, strict=False))
    if any(end[0] != look[0] for end, look in pairs):
        return True
    return False if pairs and all(end == look for end, look in pairs) else None


def _changed_around(before: Observation | None, proof: Mapping[str, Any], after: Observation | None) -> bool | None:
    """The same for a table that a transaction reshaped: `after` was read through the way that the proof declares."""
    pairs = []
    if before:
        found = (proof["rows_before"], proof["fingerprint_found"])
        pairs.append(((before.rows, before.fingerprint), found))
    if after:
        pairs.append(((proof["rows_after"], proof["fingerprint_after"]), (after.rows, after.fingerprint)))
    if any(one[0] != other[0] for one, other in pairs):
        return True
    if after and pairs[-1][0] != pairs[-1][1]:
        return True
    return False if pairs and all(one == other for one, other in pairs) else None


def _changed_around_strays(
    before: Observation | None, removal: Mapping[str, Any], last: Mapping[str, Any], after: Observation | None
) -> bool | None:
    """The same for a table from which a transaction took rows that an earlier run of ours had left in it."""
    pairs = []
    if before:
        found = (removal["rows_before"] + removal["strays_removed"], removal["fingerprint_found"])
        pairs.append(((before.rows, before.fingerprint), found))
    if after:
        pairs.append(((last["rows_after"], last["fingerprint_after"]), (after.rows, after.fingerprint)))
    if any(one[0] != other[0] for one, other in pairs):
        return True
    # A phase may have added columns in between: then fingerprints that differ say nothing.
    return False if pairs and all(one == other for one, other in pairs) else None


def _preserved(
    before: Observation | None,
    proofs: Sequence[Mapping[str, Any]],
    after: Observation | None,
    changed_by_users: bool | None,
) -> bool | None:
    if after is not None and after.rows is None:
        return False
    if not all(proof["preserved"] for proof in proofs):
        return False
    if proofs:
        # That none of no rows was lost says something only where it is known that there were none.
        empty = before is not None and before.rows == 0
        return True if empty or all(proof["rows_before"] for proof in proofs) else None
    # No transaction of this run came near the table: unchanged is proof enough, and a change was not ours.
    return True if before and after and changed_by_users is False else None


def _changed_by_run(proofs: Sequence[Mapping[str, Any]], preserved: bool | None) -> bool | None:
    """Whether this run's transactions changed a row: False as far as it is proved. A table that is gone is no proof of anything."""
    if not all(proof["preserved"] for proof in proofs):
        return True
    return False if preserved else None


def _entry(
    before: Observation | None, proofs: Sequence[Mapping[str, Any]], after: Observation | None
) -> dict[str, Any]:
    changed_by_users = _changed_by_users(before, proofs, after)
    preserved = _preserved(before, proofs, after, changed_by_users)
    first, last = (proofs[0], proofs[-1]) if proofs else ({}, {})
    rows_before = before.rows if before else first.get("rows_before")
    rows_after = after.rows if after else last.get("rows_after")
    added = rows_after - rows_before if preserved and rows_before is not None and rows_after is not None else None
    if added is not None and before:
        added += sum(proof.get("strays_removed", 0) for proof in proofs)
    if added is not None:
        added -= sum(proof.get("rows_added", 0) for proof in proofs)
    return {
        "rows_before": rows_before,
        "rows_after": rows_after,
        "fingerprint_before": before.fingerprint if before else first.get("fingerprint_before"),
        "fingerprint_after": (after.fingerprint or None) if after else last.get("fingerprint_after"),
        "changed_by_users": changed_by_users,
        "rows_added_by_users": added,
        "changed_by_run": _changed_by_run(proofs, preserved),
        "preserved": preserved,
        "transactions": len(proofs),
    }


def protected_section(
    before: Mapping[str, Observation],
    proofs: Sequence[Mapping[str, Any]],
    after: Mapping[str, Observation],
) -> dict[str, dict[str, Any]]:
    """The report's `protected`: one entry per table known to any of the three sources, by qualified name.

    `preserved` is the conjunction of this run's proofs; what users changed between its transactions is never a loss. A proof
    over no rows proves nothing, unless it was recorded before that there were none.
    """
    tables = sorted({*before, *after, *(str(proof["table"]) for proof in proofs)})
    return {
        table: _entry(before.get(table), [proof for proof in proofs if proof["table"] == table], after.get(table))
        for table in tables
    }


def conjunction(section: Mapping[str, Mapping[str, Any]]) -> bool | None:
    """One answer for all protected tables: False if any was lost, None if any is unproved (or there is none)."""
    answers = [entry["preserved"] for entry in section.values()]
    if False in answers:
        return False
    return None if not answers or None in answers else True


def proofs_of(results: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The transaction proofs of earlier phases' results, in order."""
    return [dict(proof) for result in results for proof in result.get("proofs") or ()]


def reshaped(results: Sequence[Mapping[str, Any]]) -> dict[str, Mapping[str, Any]]:
    """The tables that this run's transactions reshaped, by qualified name, with the way back (as Carried.as_dict gives it)."""
    return {str(proof["table"]): proof["carried"] for proof in proofs_of(results) if proof.get("carried")}
