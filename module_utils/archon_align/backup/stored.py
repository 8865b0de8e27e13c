"""The files of a backup as they lie on disk: named relative to its folder, known by size and SHA-256."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from ..errors import AlignError


def unusable(path: Path, expected: str, found: str) -> AlignError:
    """The AlignError for a backup that must not be restored."""
    return AlignError(
        "The backup cannot be relied on.",
        object_name=str(path),
        expected=expected,
        found=found,
        remedy="Use another run's backup.",
        code="backup_unusable",
    )


def facts(path: Path) -> dict[str, Any]:
    """Size in bytes and SHA-256 of a file."""
    with path.open("rb") as stream:
        return {"bytes": path.stat().st_size, "sha256": hashlib.file_digest(stream, "sha256").hexdigest()}


def inside(folder: Path, name: str) -> Path:
    """The file that a manifest calls `name`. Raises AlignError when that would be outside the folder."""
    path = PurePosixPath(name)
    if path.is_absolute() or not path.parts or ".." in path.parts:
        raise unusable(folder, "names of files inside the backup's folder", repr(name))
    return folder / path


def require(path: Path, expected: Mapping[str, Any]) -> None:
    """Raise AlignError, naming what is wrong, unless the file at `path` has the size and SHA-256 it is `expected` to have."""
    try:
        size = path.stat().st_size
        if size != expected["bytes"]:
            raise unusable(path, f"{expected['bytes']} bytes", f"{size} bytes")
        found = facts(path)
    except OSError as error:
        raise unusable(path, f"{expected['bytes']} bytes that can be read", error.strerror or str(error)) from error
    if found["sha256"] != expected["sha256"]:
        raise unusable(path, f"SHA-256 {expected['sha256']}", f"SHA-256 {found['sha256']}")


def read(path: Path) -> dict[str, Any] | None:
    """The manifest at `path`, proved or not, or None when it cannot be read as one."""
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return None
    return content if isinstance(content, dict) and isinstance(content.get("files"), dict) else None
