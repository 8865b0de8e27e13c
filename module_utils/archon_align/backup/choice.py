"""Which backup a person means by a run's id or a path."""

from __future__ import annotations

import contextlib
from pathlib import Path

from ..errors import AlignError
from .manifest import NAME as MANIFEST
from .taking import FOLDER


def find(root: Path, name: str) -> Path:
    """The folder of the backup that `name` is: a run id below `root`, or a path. Raises AlignError when there is none."""
    given = Path(name).expanduser()
    places = [place for base in (root / given, given) for place in (base / FOLDER, base)] if name.strip() else []
    for place in places:
        with contextlib.suppress(OSError):
            if (place / MANIFEST).is_file():
                return place.absolute()
    raise AlignError(
        "There is no such backup.",
        object_name=name or "restore_backup",
        expected=f"a run id below {root}, or the path of a folder with a {MANIFEST} that can be read",
        found=_why_not(places),
        remedy="See make restore-points for what there is, and pass one as restore_backup.",
        code="no_backup",
    )


def _why_not(places: list[Path]) -> str:
    for place in places:
        try:
            (place / MANIFEST).is_file()
        except OSError as error:
            return f"{place}: {error.strerror}"
    there = [str(place) for place in places if place.is_dir()]
    return f"no {MANIFEST} in {there[0]}" if there else "nothing of that name"
