"""Whether a running server has seen what is stored now, by the clocks of database and engine. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from ..findings import Finding
from ..settings.store import SETTINGS
from .stored import TEMPLATES, Changed

# Archon forgets templates and components by itself after so long.
TEMPLATE_CACHE_SECONDS = 1800
# Between the time that a row gets and its commit; our own transactions are shorter.
MARGIN_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Clocks:
    """The engine's clock compared with the database's: seconds that it is `ahead`, true to `uncertainty` seconds."""

    ahead: float
    uncertainty: float

    def by_database(self, moment: datetime) -> datetime:
        """A time of the engine as the database's clock tells it."""
        return moment - timedelta(seconds=self.ahead)


def compare(
    engine: datetime, database: datetime, *, elapsed: float, engine_uncertainty: float, database_uncertainty: float
) -> Clocks:
    """The clocks, read `elapsed` seconds apart (the database's first), each true to so many seconds."""
    ahead = (engine - database).total_seconds() - elapsed
    return Clocks(ahead, engine_uncertainty + database_uncertainty)


@dataclass(frozen=True, slots=True)
class Decision:
    """Why a server has to be restarted, '' where it has not; `since` is the newest change that it has not seen."""

    reason: str = ""
    since: datetime | None = None


def decide(
    started: datetime | None, changed: Sequence[Changed], clocks: Clocks, now: datetime, *, changed_here: Sequence[str]
) -> Decision:
    """Whether a server that was `started` (engine's clock, None: nobody knows) must be restarted.

    In doubt it must: a process counts as older by the clocks' uncertainty. `changed_here` names the tables that this run
    has changed, which decides for those whose rows do not tell when they were. `now` is the database's.
    """
    unseen: list[tuple[Changed, datetime | None]] = []
    for one in changed:
        if one.table in changed_here and (one.measure != "trigger" or started is None):
            unseen.append((one, one.at))
        elif started is not None and one.at is not None and _matters(one, now):
            known_from = clocks.by_database(started) - timedelta(seconds=clocks.uncertainty + MARGIN_SECONDS)
            if one.at >= known_from:
                unseen.append((one, one.at))
    if not unseen:
        return Decision()
    times = [at for _, at in unseen if at is not None]
    names = ", ".join(one.table for one, _ in unseen)
    return Decision(f"{names} changed after it was started", max(times, default=None))


def _matters(changed: Changed, now: datetime) -> bool:
    if changed.at is None or not _is_template(changed):
        return changed.at is not None
    return (now - changed.at).total_seconds() <= TEMPLATE_CACHE_SECONDS + MARGIN_SECONDS


def _is_template(changed: Changed) -> bool:
    return changed.table.rpartition(".")[2] in TEMPLATES


def settling(decision: Decision, clocks: Clocks, now: datetime) -> float:
    """Seconds to wait before a restart, so that the new process is younger than the change beyond any doubt.

    Without that, the next run could not tell and would restart it once more.
    """
    if decision.since is None:
        return 0.0
    safe = decision.since + timedelta(seconds=2 * clocks.uncertainty + MARGIN_SECONDS)
    return max(0.0, (safe - now).total_seconds())


def doubts(changed: Sequence[Changed], changed_here: Sequence[str]) -> Iterator[Finding]:
    """What the tables do not tell about their changes."""
    for one in changed:
        if one.measure in ("writer", "none") and one.table not in changed_here:
            how = "has no column updated_at" if one.measure == "none" else "has no trigger that sets updated_at"
            yield Finding(
                "change_time_unknown",
                "warning" if one.table.endswith(SETTINGS) else "info",
                one.table,
                f"The table {how}, so a change that somebody else, or a run that was killed, made by SQL cannot be seen afterwards: "
                "archon-server was restarted only for what this run changed itself."
                + (" It forgets templates by itself after 30 minutes." if _is_template(one) else ""),
                "Run the schema phase, which brings triggers as DEV has them; restart archon-server once by hand if in doubt.",
            )
        if one.ahead:
            yield Finding(
                "change_time_in_future",
                "warning",
                one.table,
                f"{one.ahead} row{'s' if one.ahead > 1 else ''} of it were changed at a time that is yet to come by the database's "
                "clock; they were left out when it was decided whether archon-server has seen all changes.",
                "Correct their updated_at, and restart archon-server once if in doubt.",
            )
