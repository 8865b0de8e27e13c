"""Several workers rebuild the embeddings of one PROD: of their results and PROD's own the report makes one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

Result = Mapping[str, Any]

WORKER = "worker"
# PROD's own call counts in the workers' restore points what each has written: one that was killed cannot tell.
WRITTEN = "written_by_workers"
_SECTION = "embeddings"
_WELL = frozenset({"aligned", "changed"})


def is_worker(result: Result) -> bool:
    """Whether it is a worker's result, and not PROD's own, which comes after all of theirs."""
    return bool(result.get(WORKER))


def status_of(result: Result) -> str:
    """How the worker ended: as it says, or `unreachable`, or `failed` when it could not say anything."""
    if result.get("unreachable"):
        return "unreachable"
    told = result.get("status")
    if told:
        return str(told)
    return "failed" if result.get("failed") else "changed" if result.get("changed") else "aligned"


def settled(result: Result) -> Result:
    """The result as the phase takes it: what ended a worker early is a finding, because the others and PROD went on."""
    status = status_of(result)
    if not is_worker(result) or status in _WELL:
        return result
    kept = {key: value for key, value in result.items() if key not in ("failed", "unreachable", "error", "msg")}
    changed = bool(result.get("changed")) or bool(_own(result).get("rebuilt"))
    return {
        **kept,
        "status": "changed" if changed else "aligned",
        "changed": changed,
        "findings": [*(result.get("findings") or ()), _finding(result, status)],
    }


def _finding(result: Result, status: str) -> dict[str, str]:
    name, error = str(result[WORKER]), result.get("error") or {}
    if error:
        cause = " ".join(str(error.get(part) or "") for part in ("what", "object", "found"))
    else:
        cause = " ".join(str(result.get("msg") or "it ended without a word").split())
    ended = "could not be reached" if status == "unreachable" else "stopped early"
    return {
        "code": "embedding_worker_lost",
        "severity": "warning",
        "object": f"worker {name}",
        "message": f"Embedding worker {name} {ended}: {cause.rstrip('.')}. What it had not done was left to the others.",
        "remedy": str(error.get("remedy") or "")
        or "See to that host before the next run, or take it out of the group embedding_workers; nothing of the rebuild needs it.",
    }


def seconds(results: Sequence[Result]) -> float:
    """How long a phase took: workers are at work side by side, everything else one after the other."""
    side_by_side = max((float(one.get("seconds") or 0) for one in results if is_worker(one)), default=0.0)
    return side_by_side + sum(float(one.get("seconds") or 0) for one in results if not is_worker(one))


def embeddings_section(results: Sequence[Result], own: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """The section `embeddings` of all results together, where `own` is that of those that are no worker's.

    How many rows were missing at first is the most that anybody met, what is missing in the end and what was quarantined is
    PROD's own word, since it went over all that the workers had left.
    """
    workers = [result for result in results if is_worker(result)]
    if not workers:
        return dict(own) if own is not None else None
    rest = dict(own or {})
    written: Mapping[str, int] = rest.pop(WRITTEN, None) or {}
    theirs = [_own(result) or {"rebuilt": written.get(str(result[WORKER]), 0)} for result in workers]
    tables: dict[str, Any] = {}
    for table in dict.fromkeys(name for one in (*theirs, rest) for name in one.get("tables") or ()):
        shares = [one["tables"][table] for one in theirs if table in (one.get("tables") or ())]
        tables[table] = _together(shares, (rest.get("tables") or {}).get(table) or {})
    # Some details (model, digest) are every worker's; PROD's word on them is the last.
    merged = {key: value for one in theirs for key, value in one.items() if key != "horizon"} | rest
    merged |= _together(theirs, rest)
    if tables:
        merged["tables"] = tables
    if endpoints := _endpoints([*theirs, rest]):
        merged["endpoints"] = endpoints
    return merged | {
        "rows_per_second": _rate(merged["rebuilt"], results),
        "workers": [_told(result, one) for result, one in zip(workers, theirs, strict=True)],
    }


def _own(result: Result) -> Mapping[str, Any]:
    return (result.get("details") or {}).get(_SECTION) or {}


def _together(theirs: Sequence[Mapping[str, Any]], own: Mapping[str, Any]) -> dict[str, Any]:
    """The numbers of all: what was met is the most, what was done the sum, and what is left PROD's word if it has one."""
    numbers: dict[str, Any] = {}
    for name in ("missing_before", "stale"):
        met = [int(one[name]) for one in (*theirs, own) if one.get(name) is not None]
        numbers[name] = max(met, default=None)
    for name in ("rebuilt", "truncated"):
        numbers[name] = sum(int(one.get(name) or 0) for one in (*theirs, own))
    left = [int(one["missing_after"]) for one in theirs if one.get("missing_after") is not None]
    numbers["missing_after"] = own["missing_after"] if own.get("missing_after") is not None else min(left, default=None)
    aside = sum(int(one.get("quarantined") or 0) for one in theirs)
    numbers["quarantined"] = own["quarantined"] if own.get("quarantined") is not None else aside
    return {name: number for name, number in numbers.items() if any(name in one for one in (*theirs, own))}


def _endpoints(shares: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Each endpoint once, with the rows that all have had from it."""
    found: dict[str, dict[str, Any]] = {}
    for one in (endpoint for share in shares for endpoint in share.get("endpoints") or ()):
        before = found.get(str(one.get("url")), {})
        found[str(one.get("url"))] = {**before, **one, "rows": int(before.get("rows") or 0) + int(one.get("rows") or 0)}
    return list(found.values())


def _rate(rebuilt: int, results: Sequence[Result]) -> float:
    spent = seconds([one for one in results if is_worker(one) or _own(one).get("rebuilt")])
    return round(rebuilt / spent, 1) if spent else 0.0


def _told(result: Result, own: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "name": str(result[WORKER]),
        "status": status_of(result),
        "rebuilt": int(own.get("rebuilt") or 0),
        "rows_per_second": float(own.get("rows_per_second") or 0.0),
        "endpoints": own.get("endpoints") or [],
    }
