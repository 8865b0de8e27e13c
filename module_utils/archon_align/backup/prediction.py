"""How large a backup will be and how long it will take, by the last one of the same database."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from . import manifest as manifests
from . import stored
from .retention import identity

# The next backup may hold other things than the last; a fifth more is allowed for.
_MARGIN = 1.2


@dataclass(frozen=True, slots=True)
class Prediction:
    """The bytes of all files and the seconds of dump and proof, as the backup of `run_id` took them, scaled."""

    run_id: str
    bytes: int
    seconds: float

    @property
    def room(self) -> int:
        """The bytes to have ready."""
        return int(self.bytes * _MARGIN)

    def as_dict(self) -> dict[str, Any]:
        return {"by": self.run_id, "bytes": self.bytes, "seconds": round(self.seconds, 1)}


def predict(root: Path, folder: str, database: Mapping[str, Any], table_bytes: int) -> Prediction | None:
    """By the newest verified backup of `database` in the runs' folders below `root`, or None when there is none.

    Size and time grow as `table_bytes` have grown since.
    """
    newest: tuple[str, Prediction] | None = None
    for path in root.glob(f"*/{folder}/{manifests.NAME}"):
        content = stored.read(path)
        try:
            if content is None or not content["verified"] or identity(content["database"]) != identity(database):
                continue
            before = int(content["table_bytes"])
            if before <= 0:
                continue
            growth = table_bytes / before
            size = sum(int(file["bytes"]) for file in content["files"].values())
            seconds = sum(float(value) for value in content["seconds"].values())
            made = str(content["snapshot_at"])
            found = Prediction(str(content["run_id"]), int(size * growth), seconds * growth)
        except (KeyError, TypeError, ValueError, AttributeError):
            continue
        if newest is None or made > newest[0]:
            newest = (made, found)
    return newest[1] if newest else None
