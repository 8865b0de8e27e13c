"""A backup's manifest: what it holds, of which database and moment, and whether it was proved."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from . import stored

NAME = "manifest.json"
FORMAT = 2


def checksums(folder: Path) -> dict[str, dict[str, Any]]:
    """Size in bytes and SHA-256 of every file below `folder` but the manifest, by path relative to it."""
    files = sorted(file for file in folder.rglob("*") if file.is_file() and file != folder / NAME)
    return {file.relative_to(folder).as_posix(): stored.facts(file) for file in files}


def as_bytes(content: Mapping[str, Any]) -> bytes:
    """JSON as it is written into the artifacts folder."""
    return json.dumps(content, indent=2, ensure_ascii=False).encode() + b"\n"


def verify_manifest(folder: Path) -> dict[str, Any]:
    """The manifest in a backup's folder, once every file in it has its size and checksum and the backup was proved.

    Raises AlignError otherwise.
    """
    path = folder / NAME
    try:
        manifest: dict[str, Any] = json.loads(path.read_bytes())
        verified = bool(manifest["verified"])
        written_as = int(manifest["format"])
        files = {
            name: {"bytes": int(file["bytes"]), "sha256": str(file["sha256"])}
            for name, file in dict(manifest["files"]).items()
        }
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise stored.unusable(path, f"a manifest of format {FORMAT}", f"{type(error).__name__}: {error}") from error
    if written_as != FORMAT:
        raise stored.unusable(path, f"a manifest of format {FORMAT}", f"format {written_as}")
    if not verified:
        reason = str(manifest.get("unverified_because", "not proved"))
        raise stored.unusable(path, "a backup that was proved by restoring it", reason)
    for name, expected in files.items():
        stored.require(stored.inside(folder, name), expected)
    return manifest
