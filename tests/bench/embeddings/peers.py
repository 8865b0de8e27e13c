"""Environments for what is measured beside ours: in a temporary folder, pinned, and never in the project's own."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from .figures import Unavailable, must
from .ours import ROOT


def environment(folder: Path, packages: Sequence[str]) -> Path:
    """The bin folder of an environment with `packages`, made the first time. Raises Unavailable."""
    if folder.exists():
        return folder / "bin"
    uv = next((ROOT / ".cache").glob("uv-*/bin/uv"), None)
    if uv is None:
        raise Unavailable("no uv in .cache: run make setup-dev")
    must([str(uv), "venv", "--quiet", "--python", sys.executable, str(folder)], "no environment could be made")
    python = str(folder / "bin" / "python")
    must([str(uv), "pip", "install", "--quiet", "--python", python, *packages], "it could not be installed")
    return folder / "bin"
