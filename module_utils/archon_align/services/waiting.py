"""Waiting for a restart that a person makes: without an engine it is seen only by /health refusing and answering again."""

from __future__ import annotations

import time

from ..findings import Finding
from .readiness import PAUSE_SECONDS, Readiness


def wait_for_restart(readiness: Readiness, asked: Finding, *, seconds: float) -> list[Finding]:
    """Wait, at most `seconds`, until archon-server was away and is ready again; the findings, `asked` where it was not seen.

    A server that does not listen has not started, so the first `ready` after a refusal comes from a new process. A restart
    between two looks cannot be told from none; then it says so.
    """
    if not readiness.url:
        return [
            asked,
            _unseen(
                "There is no archon_prod_url to ask, so nobody waited.", "Set archon_prod_url to have it waited for."
            ),
        ]
    deadline = time.monotonic() + seconds
    away = False
    while time.monotonic() < deadline:
        not_ready = readiness.by_http()
        if away and not not_ready:
            return [
                Finding(
                    "restarted_by_hand",
                    "info",
                    "archon-server",
                    "It was away and is ready again: it has read what is stored.",
                    "Nothing to do.",
                )
            ]
        away = away or "not listening" in not_ready
        time.sleep(PAUSE_SECONDS)
    state = "It went away and is not ready yet" if away else "It was not seen to be away"
    return [
        asked,
        _unseen(f"{state} within {seconds:g} s, so that it has read what is stored is not proved.", asked.remedy),
    ]


def _unseen(message: str, remedy: str) -> Finding:
    return Finding("restart_not_seen", "warning", "archon-server", message, remedy)
