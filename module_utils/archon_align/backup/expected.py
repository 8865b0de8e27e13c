"""What a restore must bring back, read from the files of a backup: the proof's own expectations."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..database.target import Table
from ..preservation.fingerprint import Fingerprint
from . import stored
from .inventory import Inventory
from .record import OBJECTS_NAME, SURROUNDINGS_NAME
from .surroundings import Surroundings


@dataclass(frozen=True, slots=True)
class Restorable:
    """Every row's fingerprint and every object of the dumped schemas, what they need, and the server they were on.

    `fingerprints` are over the columns that a dump carries.
    """

    encoding: str
    major: int
    fingerprints: tuple[Fingerprint, ...]
    objects: Inventory
    surroundings: Surroundings

    @property
    def schemas(self) -> Mapping[str, str]:
        return self.surroundings.schemas


def expected(folder: Path, manifest: Mapping[str, Any]) -> Restorable:
    """What the backup in `folder`, with that manifest, must bring back. Raises AlignError when it does not say so."""
    try:
        objects = json.loads((folder / OBJECTS_NAME).read_bytes())
        return Restorable(
            encoding=str(manifest["database"]["encoding"]),
            major=int(re.split(r"\D", manifest["database"]["server_version"], maxsplit=1)[0]),
            fingerprints=tuple(
                Fingerprint(
                    Table(item["schema"], item["name"]),
                    tuple(item["columns_stored"]),
                    int(item["rows"]),
                    str(item["fingerprint_stored"]),
                )
                for item in manifest["tables"]
            ),
            objects={(str(kind), str(name)): str(detail) for kind, name, detail in objects},
            surroundings=Surroundings.of_json(json.loads((folder / SURROUNDINGS_NAME).read_bytes())),
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise stored.unusable(folder, "what a restore must bring back", f"{type(error).__name__}: {error}") from error
