"""A backup's manifest: what it holds, of which database and moment, and whether it was proved."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ..errors import AlignError

NAME = "manifest.json"
FORMAT = 1


def checksums(files: Iterable[Path]) -> dict[str, dict[str, Any]]:
    """Size in bytes and SHA-256 of each file, by its name."""
    return {file.name: {"bytes": file.stat().st_size, "sha256": _sha256(file)} for file in files}


def _sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


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
        files: dict[str, dict[str, Any]] = dict(manifest["files"])
        verified = bool(manifest["verified"]) and manifest["format"] == FORMAT
        expected = {name: (int(file["bytes"]), str(file["sha256"])) for name, file in files.items()}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise _unusable(path, f"a manifest of format {FORMAT}", f"{type(error).__name__}: {error}") from error
    if not verified:
        raise _unusable(
            path, "a backup that was proved by restoring it", str(manifest.get("unverified_because", "not proved"))
        )
    for name, (size, digest) in expected.items():
        file = folder / Path(name).name
        if not file.is_file():
            raise _unusable(file, f"{size} bytes", "no such file")
        if file.stat().st_size != size:
            raise _unusable(file, f"{size} bytes", f"{file.stat().st_size} bytes")
        if _sha256(file) != digest:
            raise _unusable(file, f"SHA-256 {digest}", "another content")
    return manifest


def _unusable(path: Path, expected: str, found: str) -> AlignError:
    return AlignError(
        "The backup cannot be relied on.",
        object_name=str(path),
        expected=expected,
        found=found,
        remedy="Use another run's backup.",
        code="backup_unusable",
    )
