"""The words that the terminal summary and report.md share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from .interruption import CODE as INTERRUPTED

Report = Mapping[str, Any]

HEADLINES = {
    "aligned": "what ran found nothing to change",
    "changed": "PROD was changed as told below",
    "drift": "PROD differs from DEV; nothing was written",
    "decision_needed": "a decision is needed that only a person may take",
    "resumable": "stopped half-way; everything done so far is verified and kept, the next run continues",
    "rolled_back": "a phase failed and was undone",
    "failed": "the run failed",
}


# Only a run that looked at all of these can say that PROD is aligned.
ALIGNING = frozenset({"schema", "data", "embeddings", "templates"})


VECTORS = "vectors"


def headline(report: Report) -> str:
    """One sentence for the whole run."""
    words = HEADLINES[report["result"]]
    names = {phase["name"] for phase in report["phases"]}
    if (undoing := rollback_of(report)) and names.isdisjoint(ALIGNING):
        words = _put_back(report["result"], str(undoing["point"]), words)
    elif report["result"] == "rolled_back":
        words = _undone(report)
    elif report["result"] == "aligned" and ALIGNING.issubset(names):
        words = "already aligned, nothing was changed"
    elif report["result"] == "changed" and report["criteria"] and not unmet(report):
        words = "PROD was brought into line with DEV"
    elif report["result"] == "drift" and any(phase["changed"] for phase in report["phases"]):
        words = "PROD would be changed; nothing was written"
    return words


def _put_back(result: str, point: str, otherwise: str) -> str:
    return {
        "changed": f"PROD was put back to {point}",
        "drift": f"PROD would be put back to {point}",
        "aligned": f"nothing was left to undo since {point}",
    }.get(result, otherwise)


def _undone(report: Report) -> str:
    undone = ", ".join(phase["name"] for phase in report["phases"] if phase["status"] == "rolled_back")
    kept = committed(report)
    words = f"what earlier phases did stays ({', '.join(kept)})" if kept else "PROD is as it was before the run"
    return f"phase {undone} failed and was undone; {words}"


def rollback_of(report: Report) -> Mapping[str, Any] | None:
    """What the phase rollback tells of itself, when there was one."""
    found = (report["details"].get("rollback") or {}).get("rollback")
    return found if isinstance(found, Mapping) and "point" in found else None


def undone(report: Report) -> list[tuple[str, str]]:
    """What the phase rollback undid (in check mode: would undo) and what it left, in pairs."""
    found = rollback_of(report)
    if found is None:
        return []
    pairs = [("to", str(found["point"]))]
    pairs += [("undone", f"{point['name']}: {point['holds']}") for point in found.get("points") or ()]
    for key, words in (("kept", "left as users left it"), ("lost", "cannot be brought back but from a backup")):
        names = [str(one["name"]) for one in found.get(key) or ()]
        if names:
            more = f" and {len(names) - 3:,} more" if len(names) > 3 else ""
            pairs.append((key, f"{len(names):,} {words}: {'; '.join(names[:3])}{more}"))
    return pairs


def committed(report: Report) -> list[str]:
    """The phases of which something stays. Vectors do, when what came after them in their phase failed and was undone."""
    kept = [phase["name"] for phase in report["phases"] if phase["changed"] and phase["status"] != "rolled_back"]
    undone = {phase["name"] for phase in report["phases"] if phase["status"] == "rolled_back"}
    if "embeddings" in undone and amount((report["embeddings"] or {}).get("rebuilt")):
        kept.append(VECTORS)
    return kept


def amount(value: object) -> int:
    """How many: of a list its length, of a number itself, of nothing 0."""
    if isinstance(value, (list, tuple, dict)):
        return len(value)
    return int(value) if isinstance(value, (int, float)) else 0


def plural(number: int, noun: str, many: str = "") -> str:
    """`1 row`, `2 rows`, `1,000 queries`."""
    return f"{number:,} {noun if number == 1 else many or noun + 's'}"


def unmet(report: Report) -> list[Mapping[str, Any]]:
    return [criterion for criterion in report["criteria"] if criterion["met"] is False]


def broken(report: Report) -> list[tuple[str, str]]:
    """What was (in check mode: is) wrong, by section; empty when nothing was or nobody looked."""
    found: list[tuple[str, str]] = []
    schema, credentials = report["schema"] or {}, report["credentials"] or {}
    embeddings, templates = report["embeddings"] or {}, report["templates"] or {}
    if number := amount(schema.get("differences_before")):
        found.append(("schema", f"{plural(number, 'difference')} between DEV and PROD"))
    if keys := credentials.get("changed_keys"):
        # The same key is kept in several tables: a person wants its name, once.
        names = dict.fromkeys(str(key).rpartition("/")[2] for key in keys)
        found.append(("settings", f"{plural(len(keys), 'value')} missing or wrong: {', '.join(names)}"))
    if number := amount(embeddings.get("missing_before")):
        found.append(("embeddings", f"{plural(number, 'row')} without an embedding, so not to be found by search"))
    stale = [
        f"{amount(templates.get(key))} {word}"
        for key, word in (("created", "missing"), ("updated", "outdated"))
        if amount(templates.get(key))
    ]
    if stale:
        found.append(("templates", f"{' and '.join(stale)} in PROD"))
    return found


def proofs(report: Report) -> list[tuple[str, str]]:
    """What proves the outcome, by section."""
    found: list[tuple[str, str]] = []
    if protected := report["protected"]:
        found.append(("protected", protection(protected)))
    schema, embeddings, search = report["schema"] or {}, report["embeddings"] or {}, report["search"] or {}
    if schema.get("differences_after") is not None:
        kept = amount(schema.get("only_in_prod"))
        found.append(
            (
                "schema",
                f"{plural(amount(schema['differences_after']), 'difference')} left"
                + (f"; {plural(kept, 'object')} that only PROD has kept" if kept else ""),
            )
        )
    if embeddings.get("missing_after") is not None:
        set_aside = amount(embeddings.get("quarantined"))
        words = f"{amount(embeddings['missing_after']):,} missing" + (f", {set_aside} quarantined" if set_aside else "")
        found.append(("embeddings", words + by_workers(embeddings)))
    if search.get("recall_at_5") is not None:
        queries = plural(amount(search.get("queries")), "query", "queries")
        found.append(("search", f"recall@5 {search['recall_at_5']:.2f} over {queries}"))
    if checks := (report.get("functional") or {}).get("checks"):
        found.append(("archon", running(checks)))
    return found


def running(checks: Sequence[Mapping[str, Any]]) -> str:
    """What a running Archon was seen to do, in one clause."""
    by_verdict: dict[str, list[str]] = {}
    for check in checks:
        by_verdict.setdefault(str(check["verdict"]).replace("_", " "), []).append(str(check["name"]).replace("_", " "))
    # What is broken is what a person looks for.
    order = ("broken by data", "broken in archon", "works", "not reachable")
    return "; ".join(f"{verdict}: {', '.join(by_verdict[verdict])}" for verdict in order if verdict in by_verdict)


def by_workers(embeddings: Mapping[str, Any]) -> str:
    """What several machines have done, in one clause; nothing when there was one."""
    workers = embeddings.get("workers") or ()
    if not workers:
        return ""
    well = sum(worker["status"] in ("aligned", "changed") for worker in workers)
    which = plural(len(workers), "worker") if well == len(workers) else f"{well} of {plural(len(workers), 'worker')}"
    return (
        f"; {plural(amount(embeddings['rebuilt']), 'row')} with {which}, {embeddings['rows_per_second']:,.0f} a second"
    )


def protection(protected: Mapping[str, Mapping[str, Any]]) -> str:
    """The protected tables in one clause."""
    lost = [table for table, entry in protected.items() if entry["preserved"] is False]
    if lost:
        return f"NOT preserved: {', '.join(lost)}"
    proved = [entry for entry in protected.values() if entry["preserved"]]
    if not proved:
        rows = sum(amount(entry["rows_before"] or entry["rows_after"]) for entry in protected.values())
        return f"{plural(rows, 'row')} in {plural(len(protected), 'table')}, nothing to compare with"
    rows = sum(amount(entry["rows_after"]) for entry in proved)
    words = f"{plural(rows, 'row')} in {plural(len(proved), 'table')} proved preserved"
    if open_tables := len(protected) - len(proved):
        words += f", {plural(open_tables, 'table')} without proof"
    users = [_by_users(table, entry) for table, entry in protected.items() if entry["changed_by_users"]]
    return words + (f"; changed by users, not by the run: {', '.join(users)}" if users else "")


def _by_users(table: str, entry: Mapping[str, Any]) -> str:
    """The table, and by how many rows it has grown; rows may also have been changed in place."""
    added = entry["rows_added_by_users"]
    return f"{table} ({added:+,} {'row' if abs(added) == 1 else 'rows'})" if added else table


def status_of(phase: Mapping[str, Any], mode: str) -> str:
    """A phase's status in words: what a check found to do is not done, and some phases only look."""
    if mode == "check" and phase["changed"]:
        return "would change"
    return "found differences" if phase["status"] == "drift" else str(phase["status"])


def mark(met: bool | None) -> str:
    return {True: "met", False: "NOT MET", None: "open"}[met]


def database_state(report: Report) -> str:
    """What state a run that did not finish leaves PROD in, and what undoes the rest."""
    if report["mode"] == "check":
        return "Nothing was written to any database."
    kept = committed(report)
    failed = [phase for phase in report["phases"] if phase["error"]]
    left = [phase["name"] for phase in failed if phase["status"] == "failed" and point_of(report, [phase["name"]])]
    users = [phase["name"] for phase in failed if phase["status"] == "rolled_back" and phase["changed"]]
    if not kept and not left:
        words = "PROD is as it was before the run"
        if users:
            return f"{words}, but for what users changed meanwhile (see the findings)."
        if report["result"] == "rolled_back":
            return f"{words}."
        return f"No transaction of this run was committed: {words.removesuffix(' before the run')}."
    words = f"Committed and kept: {', '.join(dict.fromkeys([*kept, *left]))}."
    if users:
        words += f" Phase {', '.join(users)} was undone, but for what users changed meanwhile (see the findings)."
    elif not left:
        how = "interrupted" if any(phase["error"]["code"] == INTERRUPTED for phase in failed) else "failed"
        words += f" The {how} phase left nothing half-done; a new run continues from here."
    point = point_of(report, [*kept, *left, *(["embeddings"] if VECTORS in kept else [])])
    return words + (f" To undo that, too: {recovery(point)}" if point else "")


def point_of(report: Report, phases: Sequence[str]) -> Mapping[str, Any] | None:
    """The oldest restore point that the named phases have left."""
    points = [point for point in report["restore_points"] if _phase_of(point) in phases]
    return min(points, key=lambda point: str(point.get("created_at")), default=None)


def _phase_of(point: Mapping[str, Any]) -> str:
    """The phase as the report names it: the workers, the index and the proof of search are part of the embeddings phase."""
    phase = str(point.get("phase") or "")
    return "embeddings" if phase == "search" or phase.startswith("embeddings-") else phase


def failures(report: Report) -> Sequence[Mapping[str, Any]]:
    """The phases that ended with an error, in order."""
    return [phase for phase in report["phases"] if phase["error"]]


def recovery(point: Mapping[str, Any]) -> str:
    """How to use a restore point: its own word if it has one, else the command for its dump."""
    if point.get("restore_with"):
        return str(point["restore_with"])
    path = point.get("dump") or point.get("path") or point.get("file")
    return f"pg_restore --exit-on-error --dbname=DSN_OF_AN_EMPTY_DATABASE {path}" if path else ""
