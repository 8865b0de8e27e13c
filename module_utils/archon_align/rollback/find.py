"""The restore points below an artifacts folder: which there are, of which database, and which of them a rollback undoes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import orjson
import psycopg

from ..context import CHECK_SUFFIX, RUN_ID
from ..database.session import Session
from ..errors import AlignError
from .ledger import FOLDER, Entry, Identity, Point, identity_of, read_point

PROD = "PROD"
ROLLBACK = "rollback"
RUN_STARTED = "run_started"
_EVENTS = "events.jsonl"
_SHOWN = 20
_STATUS = """
SELECT given AS xid, pg_catalog.pg_xact_status(given::pg_catalog.xid8) AS status
FROM pg_catalog.unnest(%s::text[]) AS given
"""


@dataclass(frozen=True, slots=True)
class Odd:
    """A file among the ledgers that cannot be used, by the name its restore point would have."""

    name: str
    path: Path
    error: AlignError


@dataclass(frozen=True, slots=True)
class Found:
    """The restore points of an artifacts folder, oldest first, and what lies among them and cannot be read.

    `prods` says by run id which PROD the run was on, as far as its folder tells.
    """

    root: Path
    points: tuple[Point, ...]
    odd: tuple[Odd, ...]
    prods: Mapping[str, Identity]

    def prod_of(self, point: Point) -> Identity | None:
        return point.databases.get(PROD) or self.prods.get(point.run_id)


def find_points(root: Path) -> Found:
    """Every restore point below `root`. What cannot be read is told in `odd`, never raised."""
    points, odd, prods = [], [], {}
    for folder in run_folders(root):
        for path in sorted((folder / FOLDER).glob("*.jsonl")):
            try:
                point = _in_its_place(read_point(path))
            except AlignError as error:
                odd.append(Odd(f"{folder.name}:{path.stem}", path, error))
                continue
            points.append(point)
            if PROD in point.databases:
                prods[point.run_id] = point.databases[PROD]
        if folder.name not in prods and (told := _told_by_events(folder)) is not None:
            prods[folder.name] = told
    return Found(root, tuple(sorted(points, key=lambda one: (one.created_at, one.name))), tuple(odd), prods)


def run_folders(root: Path) -> list[Path]:
    """The folders of runs that could change something, oldest first."""
    try:
        names = sorted(entry.name for entry in root.iterdir() if not entry.is_symlink() and entry.is_dir())
    except OSError:
        return []
    return [root / name for name in names if RUN_ID.fullmatch(name) and not name.endswith(CHECK_SUFFIX)]


def read_events(folder: Path) -> list[dict[str, object]]:
    """The events of a run; half a line, as a killed process leaves it, is left out."""
    try:
        lines = (folder / _EVENTS).read_bytes().split(b"\n")
    except OSError:
        return []
    events = []
    for line in lines:
        try:
            event = orjson.loads(line)
        except ValueError:
            continue
        if isinstance(event, dict):
            events.append(event)
    return events


def _told_by_events(folder: Path) -> Identity | None:
    for event in read_events(folder):
        told = event.get("prod")
        if event.get("kind") == RUN_STARTED and isinstance(told, dict):
            try:
                return Identity(**told)
            except TypeError:
                return None
    return None


def _in_its_place(point: Point) -> Point:
    """A ledger that was moved or edited does not say what happened here. Raises AlignError."""
    expected = f"{point.path.parent.parent.name}:{point.path.stem}"
    if point.name != expected:
        raise _unusable(point.path, expected, f"{point.name}, so the file was moved or edited")
    return point


def _unusable(path: Path, expected: str, found: str) -> AlignError:
    return AlignError(
        "A restore point cannot be relied on.",
        object_name=str(path),
        expected=expected,
        found=found,
        remedy="Use another restore point, or the verified backup of the run. Do not edit files in the artifacts folder.",
        code="restore_point_unreadable",
    )


def same_identity(one: Identity, other: Identity) -> bool:
    """Whether two identities are of one database: by the server's own identifier, else by what can be seen of it."""
    if one.system_identifier and other.system_identifier:
        return (one.system_identifier, one.oid) == (other.system_identifier, other.oid)
    return (one.oid, one.name, one.where) == (other.oid, other.name, other.where)


def choose(found: Found, name: str) -> Point:
    """The restore point called `name`. Raises AlignError, listing those that exist."""
    for odd in found.odd:
        if odd.name == name:
            raise odd.error
    for point in found.points:
        if point.name == name and point.phase != ROLLBACK:
            return point
    there = [point.name for point in found.points if point.phase != ROLLBACK]
    more = f" and {len(there) - _SHOWN} older" if len(there) > _SHOWN else ""
    remedy = "Name one of those; `make restore-points` lists them with what they hold."
    if name.endswith(f":{ROLLBACK}"):
        remedy = "What a rollback undid is done again by a new run (make align); the rollback's own backup holds what was there before it."
    elif name.endswith(":backup"):
        remedy = (
            "A backup is restored into an empty database: ansible-playbook playbooks/restore.yml (docs/recovery.md)."
        )
    raise AlignError(
        "There is no such restore point to roll back to.",
        object_name=f"restore_point {name!r}" if name else "restore_point",
        expected="the name of a restore point, as <run id>:<phase>",
        found=f"in {found.root}: {', '.join(reversed(there[-_SHOWN:])) or 'no restore point'}{more}",
        remedy=remedy,
        code="restore_point_unknown",
    )


def chain(found: Found, point: Point, prod: Identity) -> list[Point]:
    """What undoing to `point` undoes: it, the later phases of its run and every later run on the same PROD, oldest first.

    Raises AlignError when `point` is of another PROD, or when something that may belong to the chain cannot be read.
    """
    theirs = found.prod_of(point)
    if theirs is None:
        raise _unusable(point.path, "the PROD it belongs to", "no word of it in the run's folder")
    if not same_identity(theirs, prod):
        raise AlignError(
            "The restore point is of another PROD.",
            object_name=f"restore_point {point.name}",
            expected=f"database {prod.name} (oid {prod.oid}) at {prod.where}, as archon_dsn of PROD leads to",
            found=f"database {theirs.name} (oid {theirs.oid}) at {theirs.where}",
            remedy="Point archon_dsn at that PROD, or name a restore point of this one (make restore-points). Nothing was changed.",
            code="restore_point_of_another_database",
        )
    for odd in found.odd:
        run = odd.name.partition(":")[0]
        whose = found.prods.get(run)
        if run >= point.run_id and (whose is None or same_identity(whose, prod)):
            raise odd.error
    here = [
        one
        for one in found.points
        if (whose := found.prod_of(one)) is not None and same_identity(whose, prod)
    ]  # fmt: skip
    later = [one for one in here if (one.created_at, one.name) >= (point.created_at, point.name)]
    names = {one.name for one in later}
    # A run's rollbacks share one ledger, which may have been begun before what they undid.
    return [
        one
        for one in here
        if one in later or any(not names.isdisjoint(entry.payload["points"]) for entry in undo_entries([one]))
    ]


def undo_entries(points: Sequence[Point]) -> Iterator[Entry]:
    """What rollbacks wrote down, oldest first."""
    for point in points:
        yield from (entry for entry in point.entries if entry.kind == "undo")


def undone_by(point: Point, points: Sequence[Point], database: str) -> str:
    """How a later, committed rollback has undone `point` in `database`: 'whole', 'with exceptions', or '' when none has."""
    answer = ""
    for entry in undo_entries(points):
        if entry.database == database and entry.committed and point.name in entry.payload["points"]:
            answer = "with exceptions" if entry.payload["kept"] else "whole"
    return answer


def settled(session: Session, points: Sequence[Point]) -> list[Point]:
    """The points with every entry of the session's database settled: committed, not committed, or None where the server has
    forgotten (then the data tells). Raises AlignError when a transaction still runs or cannot have been.
    """
    database = session.target.name
    open_xids = sorted(
        {str(entry.xid) for point in points for entry in point.entries if _is_open(entry, database)}, key=int
    )
    if not open_xids:
        return list(points)
    try:
        told = {row["xid"]: row["status"] for row in session.rows(_STATUS, (open_xids,))}
    except psycopg.Error as error:
        if error.sqlstate is None or error.sqlstate.startswith("57"):
            raise
        # 22023: a transaction of the future.
        raise _unusable(
            points[0].path,
            f"transaction ids that {database} has given out",
            " ".join((error.diag.message_primary or str(error)).split()),
        ) from error
    if running := sorted(xid for xid, status in told.items() if status == "in progress"):
        raise AlignError(
            "A transaction of the run still runs.",
            object_name=f"{database}: transaction {', '.join(running)}",
            expected="its end",
            found="in progress",
            remedy="Wait until it has ended, or end its session (pg_stat_activity, application_name 'align …'), and run again.",
            code="restore_point_in_progress",
        )
    outcome = {"committed": True, "aborted": False}

    def settle(entry: Entry) -> Entry:
        return (
            replace(entry, committed=outcome.get(told[str(entry.xid)])) if _is_open(entry, database) else entry
        )  # fmt: skip

    return [replace(point, entries=tuple(map(settle, point.entries))) for point in points]


def _is_open(entry: Entry, database: str) -> bool:
    return entry.database == database and entry.committed is None


def on_same_database(session: Session, points: Sequence[Point]) -> tuple[list[Point], list[Point]]:
    """The points whose entries for the session's target are of its very database, and those that are of another one."""
    now = identity_of(session)
    told = [(point, point.databases[session.target.name]) for point in points if session.target.name in point.databases]
    return (
        [point for point, was in told if same_identity(was, now)],
        [point for point, was in told if not same_identity(was, now)],
    )
