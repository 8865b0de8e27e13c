"""events.jsonl: what happened in a run, one JSON object per line, for whoever watches."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from pathlib import Path

import orjson

EVENTS_FILE = "events.jsonl"


def now() -> str:
    """The time in UTC, ISO 8601 with milliseconds."""
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


class EventLog:
    """Appends events to a run's events.jsonl (mode 0600)."""

    def __init__(self, artifacts: Path) -> None:
        self._path = artifacts / EVENTS_FILE

    def exists(self) -> bool:
        """Whether the run's artifacts folder is still there."""
        return self._path.parent.is_dir()

    def write(self, kind: str, **fields: object) -> None:
        """Append one event. A full disk loses the event, not the run."""
        line = orjson.dumps({"at": now(), "kind": kind, **fields}) + b"\n"
        try:
            descriptor = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        except OSError:
            return
        try:
            os.write(descriptor, line)
        except OSError:
            return
        finally:
            os.close(descriptor)
