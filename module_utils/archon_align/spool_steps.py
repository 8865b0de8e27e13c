"""What archon_spool does on the host that a module runs on: one run's folder, step by step.

`put` and `open` receive an archive in pieces, then the module runs, `take` sends back what it wrote, and `drop` clears up.
Nothing is dropped or written over that has not been taken.
"""

from __future__ import annotations

import base64
import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from . import spool
from .context import RUN_ID

PIECE = 4 << 20  # bytes of the archive in one step
# How the files looked when they were taken.
_TAKEN = ".taken.json"
_SUFFIX = ".spool"


@dataclass(frozen=True, slots=True)
class Spool:
    """A run's folder below `root`. Its name is no run's id: below the same root a worker keeps its restore points in such a folder."""

    root: Path
    run_id: str

    @property
    def folder(self) -> Path:
        return self.root / f"{self.run_id}{_SUFFIX}"

    def put(self, offset: int, data: str) -> dict[str, object]:
        """Receive a piece of the archive; `waiting` instead where an earlier module's files still lie here."""
        if not offset and (self.folder / spool.NOTE).exists():
            return {"waiting": True}
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        flags = os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | (0 if offset else os.O_TRUNC)
        with os.fdopen(os.open(self.folder / spool.INCOMING, flags, 0o600), "wb") as stream:
            stream.seek(offset)
            stream.write(base64.b64decode(data))
        return {"waiting": False}

    def open(self, offset: int, data: str, prod: str) -> dict[str, object]:
        """Receive the last piece and unpack the archive; the folder's path."""
        if self.put(offset, data)["waiting"]:
            return {"waiting": True}
        spool.unpack(self.folder / spool.INCOMING, self.folder)
        (self.folder / spool.INCOMING).unlink()
        spool.note(self.folder, prod)
        return {"waiting": False, "folder": str(self.folder)}

    def take(self, offset: int) -> dict[str, object]:
        """A piece of the archive of what was written here; `busy` instead while a module is at work."""
        archive = self.folder / spool.OUTGOING
        if not offset:
            if spool.is_held(self.folder):
                return {"busy": True}
            looks = self._looks()
            spool.pack(archive, spool.outcome(self.folder, looks))
            (self.folder / _TAKEN).write_text(json.dumps(looks), encoding="utf-8")
        with archive.open("rb") as stream:
            stream.seek(offset)
            data = stream.read(PIECE)
        return {"busy": False, "data": base64.b64encode(data).decode(), "size": archive.stat().st_size}

    def drop(self) -> dict[str, object]:
        """Remove the folder; `busy` instead where a module is at work or has written since the files were taken."""
        try:
            taken = json.loads((self.folder / _TAKEN).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            taken = None
        if spool.is_held(self.folder) or taken != self._looks():
            return {"busy": True}
        shutil.rmtree(self.folder)
        return {"busy": False}

    def runs(self) -> dict[str, object]:
        """The runs that have a folder below `root`, each with its PROD host."""
        found = sorted(self.root.glob(f"*{_SUFFIX}"))
        runs = {one.name.removesuffix(_SUFFIX): spool.read_note(one).get("prod", "") for one in found}
        return {"runs": {name: prod for name, prod in runs.items() if RUN_ID.fullmatch(name)}}

    def _looks(self) -> dict[str, list[int]]:
        """Each file's inode, size and time: what changes with it, without reading all of it again."""
        looks = {}
        for name in spool.files_below(self.folder):
            found = (self.folder / name).lstat()
            looks[name] = [found.st_ino, found.st_size, found.st_mtime_ns]
        return looks
