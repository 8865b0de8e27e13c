"""The report's files in the run's folder, and the snapshots it is made from."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from ..context import Run
from ..errors import AlignError
from .markdown import markdown
from .protected import Observation

JSON_NAME = "report.json"
MARKDOWN_NAME = "report.md"


def _as_bytes(content: Mapping[str, Any]) -> bytes:
    return json.dumps(content, indent=2, sort_keys=True, ensure_ascii=False).encode() + b"\n"


def write(run: Run, report: Mapping[str, Any]) -> Path:
    """Write report.json and report.md; the path of report.json. Raises AlignError when the folder is not writable."""
    run.write(MARKDOWN_NAME, markdown(report, run.artifacts).encode())
    return run.write(JSON_NAME, _as_bytes(report))


def read(path: Path) -> dict[str, Any]:
    """A report.json that was written before. Raises OSError or ValueError."""
    content = json.loads(path.read_bytes())
    if not isinstance(content, dict):
        raise ValueError(f"{path} holds no JSON object")
    return content


def snapshot(run: Run, moment: Literal["before", "after"]) -> dict[str, Observation]:
    """The protected tables as recorded in snapshot-before.json or snapshot-after.json; empty when there is no such file.

    Raises AlignError when the file is there and cannot be read: a proof must not be skipped in silence.
    """
    path = run.artifacts / f"snapshot-{moment}.json"
    try:
        recorded = json.loads(path.read_bytes())
        return {str(table): Observation.of(look) for table, look in recorded["protected"].items()}
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise AlignError(
            "A snapshot of the protected tables cannot be read.",
            object_name=str(path),
            expected='{"protected": {table: {"rows", "fingerprint", "columns"}}} as JSON',
            found=f"{type(error).__name__}: {error}",
            remedy="Start a new run; do not edit files in the artifacts folder.",
            code="snapshot_unreadable",
        ) from error


def write_snapshot(run: Run, moment: Literal["before", "after"], content: Mapping[str, Any]) -> Path:
    """Write snapshot-<moment>.json."""
    return run.write(f"snapshot-{moment}.json", _as_bytes(content))
