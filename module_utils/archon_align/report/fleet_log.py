"""What is known of a fleet while it is under way, PROD by PROD; nothing of Ansible."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ..keeper.start import new_run_id
from .assemble import now
from .fleet import PREFIX, Member, Outcome, build, write

LATEST = "latest-fleet"
# What the summary needs of a report; of a thousand PRODs not all can be kept in mind.
_KEPT = ("run_id", "result", "phases", "protected", "embeddings", "schema", "credentials")


@dataclass
class _Prod:
    wave: int | None = None
    passed: bool = False
    over: bool = False
    stopped: bool = False
    began: float | None = None
    ended: float | None = None
    artifacts: Path | None = None
    report: Mapping[str, Any] | None = None
    error: Mapping[str, str] | None = None


class FleetLog:
    """One fleet: `names` are its PRODs in the order in which they are taken on."""

    def __init__(self, names: Iterable[str], *, check: bool) -> None:
        self.name = PREFIX + new_run_id(datetime.now(UTC), check=check)
        self.ended_because = ""
        self.root: Path | None = None
        self._started_at = now()
        self._prods = {name: _Prod() for name in names}

    def __contains__(self, name: str) -> bool:
        return name in self._prods

    def started(self, name: str, wave: int) -> None:
        """The PROD's wave has begun."""
        self._prods[name].wave = wave

    def worked(self, name: str, at: float, *, begins: bool) -> None:
        """A task of a PROD that was started and is not through began or ended at this time (in seconds, of any clock)."""
        prod = self._prods[name]
        if prod.wave is None or prod.over or prod.stopped:
            return
        if begins and prod.began is None:
            prod.began = at
        prod.ended = at

    def passed(self, name: str) -> None:
        """Every phase that was asked for has succeeded there."""
        self._prods[name].passed = True

    def stopped(self, name: str) -> None:
        """A task of the PROD's has failed: what comes after it is no work on that PROD."""
        self._prods[name].stopped = True

    def stopped_by(self, name: str, error: Mapping[str, str]) -> None:
        """What went wrong before there was a run, which would tell; the first such error counts."""
        prod = self._prods[name]
        prod.error = prod.error or error

    def reported(self, name: str, artifacts: Path, report: Mapping[str, Any]) -> None:
        """The PROD's report is written."""
        prod = self._prods[name]
        prod.artifacts = artifacts
        prod.report = {key: report.get(key) for key in _KEPT} | {
            "phases": [{"error": phase.get("error")} for phase in report.get("phases") or ()],
            "schema": {"dev_statements": (report.get("schema") or {}).get("dev_statements") or []},
        }

    def close_wave(self) -> None:
        """Every PROD that was started is through."""
        for prod in self._prods.values():
            prod.over = prod.over or prod.wave is not None

    def summary(self) -> dict[str, Any]:
        """fleet.json as far as the fleet has come."""
        members = [self._member(name, prod) for name, prod in self._prods.items()]
        return build(
            self.name, members, started_at=self._started_at, finished_at=now(), ended_because=self.ended_because
        )

    def _member(self, name: str, prod: _Prod) -> Member:
        outcome: Outcome = "not_started"
        if prod.wave is not None:
            outcome = "passed" if prod.passed else "failed" if prod.over else "interrupted"
        seconds = prod.ended - prod.began if prod.began is not None and prod.ended is not None else None
        why = (self.ended_because or "the playbook ended before") if outcome == "not_started" else ""
        return Member(name, outcome, prod.wave, prod.artifacts, prod.report, prod.error, seconds, why)

    def save(self) -> tuple[Path, dict[str, Any]] | None:
        """Write the summary, and have `latest-fleet` point to it; None when no artifacts folder is known. Raises AlignError."""
        if self.root is None:
            return None
        summary = self.summary()
        path = write(self.root / self.name, summary)
        partial = self.root / f".{LATEST}.{self.name}"
        with suppress(OSError):
            partial.symlink_to(self.name)
            partial.replace(self.root / LATEST)
        return path, summary
