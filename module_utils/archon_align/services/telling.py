"""What the report says of the services: the section, and the findings about restarts that nobody made."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..context import Context
from ..errors import AlignError
from ..findings import Finding, Severity
from ..rollback.ledger import FOLDER
from ..rollback.words import command
from .effective import Effective
from .installation import SERVER, Found
from .reach import Tested

RESTART = "restart_archon_server"
SECTION = "services"


def section(
    *,
    backend: str,
    stack: str,
    services: Sequence[Found] = (),
    restarted: Sequence[str] = (),
    ready: Mapping[str, bool] | None = None,
    environment_changed: Mapping[str, Sequence[str]] | None = None,
    earlier: Sequence[Mapping[str, Any]] = (),
    used: Effective | None = None,
    tested: Sequence[Tested] = (),
) -> dict[str, Any]:
    """details["services"]: names and times, of the environment names only. What was done `earlier` in the run stays told."""
    before = {str(one.get("name")): one for one in earlier}
    changed = environment_changed or {}
    listed = [
        {
            "name": one.name,
            "role": one.role,
            "image": one.image,
            "running": one.running,
            "started_at": one.started_at.isoformat() if one.started_at else None,
            "restarted": one.key in restarted or bool(before.get(one.name, {}).get("restarted")),
            "ready": (ready or {}).get(one.key),
            "environment_changed": sorted(
                {*changed.get(one.key, ()), *before.get(one.name, {}).get("environment_changed", ())}
            ),
        }
        for one in services
    ]
    return {
        SECTION: {
            "backend": backend,
            "stack": stack,
            "services": listed,
            "effective": used.as_dict() if used else None,
            "reachability": [one.as_dict() for one in tested],
        }
    }


def unreached(error: AlignError, severity: Severity, *, consequence: str) -> Finding:
    """Portainer or the engine could not be used, and nothing had to be done there."""
    return Finding(
        f"services_{error.code}",
        severity,
        error.object_name,
        f"{error.what} Expected {error.expected}; found {error.found}. {consequence}",
        error.remedy,
    )


def not_running(services: Sequence[Found]) -> list[Finding]:
    """Services of Archon that should run and do not, and those that somebody has stopped on purpose."""
    told = []
    for one in services:
        if one.running or not one.role:
            continue
        if one.replicas == 0:
            told.append(
                Finding(
                    "service_scaled_to_zero",
                    "info",
                    one.name,
                    "The service is scaled to no replica, so it was left alone; it reads what is stored when it is started.",
                    "Scale it up when it shall run.",
                )
            )
        else:
            told.append(
                Finding(
                    "service_not_running",
                    "error" if one.role == SERVER else "warning",
                    one.name,
                    f"No task of the service runs: {one.problem or 'no reason is given'}.",
                    "Correct the cause, and restart the service.",
                )
            )
    return told


def restart_by_hand(where: str, why: str, *, check: bool) -> Finding:
    """Nobody restarts the server for the user, so the user has to."""
    return Finding(
        RESTART,
        "warning",
        where,
        f"archon-server {'will have to' if check else 'must'} be restarted by hand ({why}): settings are cached for the life of its "
        "process, and until then it works with a mixture of old and new.",
        "Restart PROD's archon-server and wait for /health to say ready (or set archon_portainer_url or archon_engine_url and "
        "archon_services_mode: restart). For EMBEDDING_PROVIDER the container's environment wins over the database: see that it "
        "says the same.",
    )


def undo_data(context: Context) -> str:
    """How what the data phase of this run committed is undone, '' when it committed nothing."""
    point = context.run.artifacts / FOLDER / "data.jsonl"
    return f"The settings are undone by: {command(f'{context.run.id}:data')}" if point.exists() else ""


def cannot_restart(error: AlignError, context: Context) -> AlignError:
    """The settings have been changed, and the service that has to be restarted for them cannot be reached."""
    return AlignError(
        f"The settings were changed, but archon-server cannot be restarted. {error.what}",
        object_name=error.object_name,
        expected=error.expected,
        found=error.found,
        remedy=" ".join(
            part
            for part in (error.remedy, "Run again (--tags services), or restart it by hand.", undo_data(context))
            if part
        ),
        code=error.code,
    )
