"""Restarting one service and waiting until it is ready; one that does not come up is brought back to its former state."""

from __future__ import annotations

import time
from collections.abc import Mapping

from ..docker.engine import Engine
from ..errors import AlignError
from .installation import Found, Installation, Progress
from .readiness import PAUSE_SECONDS, Readiness

_LOG_LINES = 12
_LOG_SHOWN = 800
# Shorter values are words like `true` or `INFO`, whose replacement would only make a log unreadable.
_SECRET_LENGTH = 8


def restart(installation: Installation, found: Found, readiness: Readiness, *, seconds: float, undo: str = "") -> None:
    """Restart a service and wait, at most `seconds`, until it is ready.

    Raises AlignError with the task's own words when it does not come up, after its former state was restored. `undo` says how
    what it was restarted for is undone.
    """
    installation.restart(found)
    problem = replaced(installation, found, readiness, seconds=seconds)
    if problem:
        raise AlignError(
            "A service did not become ready after its restart.",
            object_name=found.name,
            expected=f"its new task running and /health ready within {seconds:g} s",
            found=f"{problem}; {restored(installation, found, readiness, seconds=seconds)}",
            remedy=" ".join(
                part for part in ("Look at the service's log and correct the cause, then run again.", undo) if part
            ),
            code="service_not_ready",
        )


def replaced(
    installation: Installation, found: Found, readiness: Readiness, *, seconds: float, rolling_back: bool = False
) -> str:
    """Wait until what `found` was is gone and what replaces it is ready; '' or the problem, with the end of its log."""
    engine = installation.engine
    deadline = time.monotonic() + seconds
    progress = Progress()
    said = "no new task was started"
    while not progress.problem:
        try:
            progress = installation.progress(found, rolling_back=rolling_back)
            said = "its new task does not run yet" if progress.container_id else said
            # It may run and end before it is ready: what became of it is looked at again then.
            if progress.done and not (said := readiness.ask(engine, progress.container_id, found.port)):
                return ""
        except AlignError as error:  # Portainer or the engine may be away for a moment, too
            said = f"{error.what} {error.found}"
        if time.monotonic() >= deadline:
            break
        if not progress.problem:
            time.sleep(PAUSE_SECONDS)
    problem = progress.problem or f"{said} after {seconds:g} s"
    log = _log(engine, progress.container_id, found.environment)
    return f"{problem}; its log ends: {log}" if log else problem


def restored(installation: Installation, found: Found, readiness: Readiness, *, seconds: float) -> str:
    """Bring back the former state of what was `found`, and say what became of that."""
    try:
        now = next((one for one in installation.services() if one.key == found.key), found)
        installation.roll_back(now)
    except AlignError as error:
        return f"it stays as it is: {error.what} {error.found}"
    problem = replaced(installation, now, readiness, seconds=seconds, rolling_back=True)
    return (
        f"its former state was restored, and is not ready either: {problem}"
        if problem
        else "its former state was restored and is ready"
    )


def _log(engine: Engine, container_id: str, environment: Mapping[str, str]) -> str:
    if not container_id:
        return ""
    try:
        lines = engine.logs(container_id, lines=_LOG_LINES)
    except AlignError:
        return ""
    return redacted(" | ".join(line.strip() for line in lines.splitlines() if line.strip()), environment)[-_LOG_SHOWN:]


def redacted(text: str, environment: Mapping[str, str]) -> str:
    """`text` without any value of the environment that is long enough to be a secret."""
    for value in sorted(environment.values(), key=len, reverse=True):
        if len(value) >= _SECRET_LENGTH:
            text = text.replace(value, "(not shown)")
    return text
