"""The marker that everything validation creates carries, and the journal in which it is written down before anything is created."""

from __future__ import annotations

import os
import secrets
from collections.abc import Mapping
from pathlib import Path

import orjson

from ...context import CHECK_SUFFIX, Run
from ...errors import AlignError

JOURNAL = "canary.jsonl"
# As Archon builds a source's id from the name of an uploaded file; what follows the last underscore is the time of the upload.
FILE_SUFFIX = ".txt"
# PostgreSQL's regular expressions: a title that is a marker and nothing else, the source of a file that is named by one.
_FORM = "archon-align-canary-[0-9]{8}-[0-9]{6}-[0-9a-f]{6}-[0-9a-f]{16}"
TITLE = f"^{_FORM}$"
SOURCE = f"^file_{_FORM}_txt(_[0-9]+)?$"


def new_marker(run: Run) -> str:
    """A marker that nobody else has: it names the run and ends with 64 random bits."""
    return f"archon-align-canary-{run.id.removesuffix(CHECK_SUFFIX)}-{secrets.token_hex(8)}"


class Journal:
    """`canary.jsonl` in the run's artifacts folder (0600): what is on the disk before the request that creates anything is sent."""

    def __init__(self, run: Run) -> None:
        self.path = run.artifacts / JOURNAL
        self.created = 0

    def announce(self, marker: str, what: str) -> None:
        """`what` (document, project, task) is going to be created under `marker`. Raises AlignError: then it must not be."""
        _append(self.path, {"line": "marker", "marker": marker, "what": what})

    def made(self, marker: str, table: str, key: str) -> None:
        """A row that was created under `marker`, once its id is known."""
        _append(self.path, {"line": "row", "marker": marker, "table": table, "id": key})
        self.created += 1

    def removed(self, counts: Mapping[str, int]) -> None:
        """So many rows per table were removed."""
        _append(self.path, {"line": "removed", "rows": dict(counts)})


def _append(path: Path, line: Mapping[str, object]) -> None:
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            os.write(descriptor, orjson.dumps(line) + b"\n")
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        raise AlignError(
            "What validation creates could not be written down, so nothing is created.",
            object_name=str(path),
            expected="a writable artifacts folder with room",
            found=error.strerror or str(error),
            remedy="Free space there or set archon_artifacts_root to another folder, and run again.",
            code="artifacts_not_writable",
        ) from error
