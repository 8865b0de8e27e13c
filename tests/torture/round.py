"""One round: a broken lab, users at work, a run with faults, a plain run, a check, and the judgement."""

from __future__ import annotations

import threading
import time
import traceback
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import psycopg

from lab import vectors

from . import oracle
from .faults import Draw, Fault, draw
from .scene import Missed, Playing, Site, Stopped
from .strikes import heal_service, under
from .users import PROJECTS, VICTIM, Ledger, TaskUser, Uploader, User

USERS = 3
BOUND = 10.0  # seconds that a user may wait for a lock of ours
DOCUMENTED = ("aligned", "changed", "resumable", "rolled_back", "failed")
# What a user may meet while the server is stopped, or its disk is full.
_DOWN = {"connection", "57P01", "57P02", "57P03", "08006", "08001", "08003", "08004"}
_FULL = {"53100", "58030", "XX000", "53200"}


@dataclass
class Struck:
    """A fault, whether its moment came, and what was done."""

    fault: Fault
    met: bool = False
    what: str = ""

    def __str__(self) -> str:
        return f"{self.fault}" + (f" ({self.what})" if self.met else " (moment not met)")


@dataclass
class Outcome:
    """What came of one round. An empty `complaints` means that it was survived."""

    seed: int
    struck: list[Struck] = field(default_factory=list)
    ended: str = ""
    seconds: float = 0.0
    plain_seconds: float = 0.0
    writes: int = 0
    unknown: int = 0
    user_errors: int = 0
    wait: float = 0.0
    complaints: list[str] = field(default_factory=list)
    kept: Path | None = None
    aligned: bool = False

    @property
    def survived(self) -> bool:
        return not self.complaints


def play_round(site: Site, seed: int) -> Outcome:
    """Raises Stopped when the harness is told to stop."""
    chosen = draw(seed)
    outcome = Outcome(seed, [Struck(fault) for fault in chosen.faults])
    try:
        _play(site, chosen, outcome)
    except Stopped:
        raise
    except Exception:  # noqa: BLE001 - a lab that breaks must not end the others, and is no survival
        outcome.complaints.append(f"harness: {traceback.format_exc()}")
    return outcome


def _play(site: Site, chosen: Draw, outcome: Outcome) -> None:
    ledger = Ledger()
    site.lab.reset()
    heal_service(site)
    before = oracle.Before(site, ledger)
    waits = oracle.Waits(site)
    crowd, uploader = _crowd(site, ledger, outcome.seed)
    began = time.monotonic()
    try:
        for thread in (waits, *crowd, uploader):
            thread.start()
        _faulted_run(site, chosen, outcome)
        _plain_run(site, uploader, outcome)
        _check(site, outcome)
    finally:
        for user in (*crowd, uploader):
            user.leave()
        for user in (*crowd, uploader):
            user.join(300)
        waits.finish()
    outcome.seconds = time.monotonic() - began
    outcome.writes, outcome.unknown, outcome.wait = ledger.acknowledged, ledger.unknown, waits.longest
    outcome.complaints += _users_were_served([*crowd, uploader], outcome)
    if waits.longest > BOUND:
        outcome.complaints.append(f"a user waited {waits.longest:.1f} s: {waits.who}")
    for complaints in (
        oracle.leftovers(site),
        oracle.rows_are_exact(site, ledger),
        oracle.alignment_is_complete(site, before) if outcome.aligned else [],
        before.dev_is_unchanged(site),
    ):
        outcome.complaints += oracle.shortened(complaints)


def _crowd(site: Site, ledger: Ledger, seed: int) -> tuple[list[User], Uploader]:
    def dsn() -> str:
        return site.dsn("prod")

    def embed(texts: list[str]) -> list[str]:
        return [str(vector.tolist()) for vector in vectors.load().embed(texts)[0]]

    projects = sorted(ledger.certain(PROJECTS))
    crowd: list[User] = [TaskUser(number, USERS, dsn, ledger, str(seed), projects) for number in range(USERS)]
    return crowd, Uploader(dsn, ledger, str(seed), embed)


def _faulted_run(site: Site, chosen: Draw, outcome: Outcome) -> None:
    playing = Playing(site, site.folder / f"{chosen.seed}-faulted.log")
    injectors = [
        threading.Thread(target=_inject, args=(playing, struck, outcome), daemon=True) for struck in outcome.struck
    ]
    for injector in injectors:
        injector.start()
    try:
        code, _ = playing.finish()
    finally:
        playing.over.set()
        for injector in injectors:
            injector.join()
        with suppress(psycopg.Error):
            heal_service(site)
    said = oracle.report_says(site)
    outcome.ended = f"exit {code} {said}".strip()
    if code is None:
        outcome.complaints.append("the faulted run hung")
    elif code == 0 and said not in DOCUMENTED:
        outcome.complaints.append(f"the faulted run ended well and its report says {said!r}")
    _no_traceback(playing, "faulted", outcome)
    keeper_lives = not any(struck.met and struck.fault.kind == "kill keeper" for struck in outcome.struck)
    if chosen.settled and keeper_lives:
        outcome.complaints += [f"the keeper left {left}" for left in oracle.shortened(oracle.sessions_left(site))]


def _inject(playing: Playing, struck: Struck, outcome: Outcome) -> None:
    try:
        playing.await_moment(struck.fault.moment)
        with under(playing, struck.fault) as what:
            struck.met, struck.what = True, what
            playing.pause(struck.fault.seconds)
    except (Missed, psycopg.OperationalError):
        return
    except Exception as error:  # noqa: BLE001 - a harness that fails must not look like a run that was survived
        outcome.complaints.append(f"harness: {struck.fault}: {type(error).__name__}: {error}")


def _plain_run(site: Site, uploader: Uploader, outcome: Outcome) -> None:
    playing = Playing(site, site.folder / f"{outcome.seed}-plain.log")
    watcher = threading.Thread(target=_only_vectors_from, args=(playing, uploader), daemon=True)
    watcher.start()
    code, outcome.plain_seconds = playing.finish()
    watcher.join()
    said = oracle.report_says(site)
    outcome.aligned = code == 0 and said in ("aligned", "changed")
    if not outcome.aligned:
        outcome.complaints.append(f"the plain run ended with exit {code} {said}")
    _no_traceback(playing, "plain", outcome)


def _only_vectors_from(playing: Playing, uploader: Uploader) -> None:
    """Pages without a vector come until the schema phase of the last run, since later ones may be left for the next run; none
    at all from its last look at the vector index."""
    with suppress(Missed):
        playing.await_mark("schema")
        uploader.nulls.clear()
        playing.await_mark("search")
    uploader.leave()


def _check(site: Site, outcome: Outcome) -> None:
    playing = Playing(site, site.folder / f"{outcome.seed}-check.log", "--check")
    code, _ = playing.finish()
    said = oracle.report_says(site)
    if code != 0 or said != "aligned":
        outcome.complaints.append(f"--check ended with exit {code} {said}")


def _no_traceback(playing: Playing, name: str, outcome: Outcome) -> None:
    if "Traceback (most recent call last)" in playing.output:
        outcome.complaints.append(f"the {name} run printed a traceback")


def _users_were_served(crowd: list[User], outcome: Outcome) -> list[str]:
    """Users meet no error but those of a server that a fault has stopped or filled."""
    kinds = {struck.fault.kind for struck in outcome.struck if struck.met}
    allowed = set()
    if kinds & {"stop prod", "disk server"}:
        allowed |= _DOWN
    if "disk server" in kinds:
        allowed |= _FULL
    wrong = []
    for user in crowd:
        outcome.user_errors += len(user.errors)
        if user.broken:
            wrong.append(f"harness: {user.name} broke down: {user.broken}")
        if user.is_alive():
            wrong.append(f"{user.name} is stuck")
        for state, words in user.errors:
            if state in VICTIM:
                wrong.append(f"{user.name} was the victim: {state} {words[:200]}")
            elif state not in allowed and not (state == "22000" and user.name == "uploader"):
                wrong.append(f"{user.name} met {state} {words[:200]}")
    return oracle.shortened(wrong)
