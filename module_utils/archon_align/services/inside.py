"""Small fixed programs that run in a container: they take arguments, no shell is involved, and no secret is given to them."""

from __future__ import annotations

import json
from typing import Any

from ..docker.engine import Engine
from ..docker.probes import EMBED, HEALTH, INTERPRETERS

__all__ = ["EMBED", "HEALTH", "run"]

_NOT_FOUND = (126, 127)


def run(engine: Engine, container_id: str, program: str, *arguments: str, timeout: float) -> dict[str, Any]:
    """What the program prints, as JSON; {"error": …} when it could not be run. Raises AlignError when the engine refuses."""
    found = ""
    for interpreter in INTERPRETERS:
        ended = engine.execute(container_id, [interpreter, "-c", program, *arguments], timeout)
        found = (ended.stderr or ended.stdout).strip()
        if ended.exit_code in _NOT_FOUND:
            continue
        try:
            told = json.loads(ended.stdout)
        except ValueError:
            break
        if isinstance(told, dict):
            return told
        break
    return {"error": f"the test could not be run in the container: {' '.join(found.split())[:200] or 'no output'}"}
