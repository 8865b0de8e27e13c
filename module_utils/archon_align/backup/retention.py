"""Retention: which backups of a database stay, and the removal of the others."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from ..context import RUN_ID
from ..errors import AlignError
from ..findings import Finding
from . import manifest as manifests
from . import seal, stored

# A backup takes this name first, so that a removal that is interrupted leaves nothing that looks whole.
_DOOMED = ".backup.removed"


@dataclass(frozen=True, slots=True)
class Keep:
    """The last `last` verified backups stay, and those younger than `days` days; both 0 keeps everything."""

    last: int = 0
    days: int = 0

    def __post_init__(self) -> None:
        for name, number in (("archon_backup_keep_last", self.last), ("archon_backup_keep_days", self.days)):
            if number < 0:
                raise AlignError(
                    "A variable cannot be used.",
                    object_name=name,
                    expected="0 (no limit) or a positive number",
                    found=str(number),
                    remedy=f"Correct {name} in the inventory.",
                    code="bad_variable",
                )


@dataclass(frozen=True, slots=True)
class Backup:
    """One run's backup of one database."""

    run_id: str
    folder: Path
    database: tuple[str, ...]
    verified: bool
    bytes: int

    @property
    def made(self) -> datetime:
        """When its run began, by this machine's clock."""
        return datetime.strptime(self.run_id[:15], "%Y%m%d-%H%M%S").replace(tzinfo=UTC)


def identity(database: Mapping[str, Any]) -> tuple[str, ...]:
    """What tells a manifest's database from others: several may keep their backups under one root."""
    if database["system_identifier"]:
        return (str(database["system_identifier"]), str(database["oid"]))
    return (str(database["address"]), str(database["name"]))


def backups(root: Path, folder_name: str) -> list[Backup]:
    """The backups below `root` that are ours beyond doubt, newest first."""
    found = []
    for run in root.iterdir() if root.is_dir() else ():
        folder = run / folder_name
        if run.is_symlink() or folder.is_symlink() or not RUN_ID.fullmatch(run.name):
            continue
        content = stored.read(folder / manifests.NAME)
        try:
            if content is not None and content["run_id"] == run.name:
                size = sum(int(file["bytes"]) for file in content["files"].values())
                verified = content["verified"] is True
                found.append(Backup(run.name, folder, identity(content["database"]), verified, size))
        except (KeyError, TypeError, ValueError):
            continue
    return sorted(found, key=lambda backup: backup.run_id, reverse=True)


def doomed(found: Sequence[Backup], keep: Keep, *, now: datetime) -> list[Backup]:
    """Those of one database's backups, newest first and the running run's among them, that may go."""
    if not keep.last and not keep.days:
        return []
    going, verified = [], 0
    for backup in found:
        young = now - backup.made < timedelta(days=keep.days)
        # The newest verified one stays whatever the limits say.
        if verified >= max(keep.last, 1 if backup.verified else 0) and not young:
            going.append(backup)
        verified += backup.verified
    return going


def prune(
    root: Path, folder_name: str, keep: Keep, current: str, database: Mapping[str, Any], *, check: bool
) -> list[Finding]:
    """Remove what need not be kept besides the `current` run's verified backup; in check mode say what a run would remove.

    Restore points stay. What cannot be removed is told, and is no failure of the backup.
    """
    mine = identity(database)
    others = [item for item in backups(root, folder_name) if item.database == mine and item.run_id != current]
    this = Backup(current, root / current / folder_name, mine, verified=True, bytes=0)
    if not check:
        for leftover in root.glob(f"*/{_DOOMED}"):
            if RUN_ID.fullmatch(leftover.parent.name):
                with contextlib.suppress(OSError):
                    shutil.rmtree(leftover)
    return [_remove(backup, keep, check=check) for backup in doomed([this, *others], keep, now=datetime.now(UTC))]


def _remove(backup: Backup, keep: Keep, *, check: bool) -> Finding:
    def tell(code: str, severity: Any, message: str, remedy: str) -> Finding:
        return Finding(code, severity, str(backup.folder), message, remedy)

    size = f"{backup.bytes / 2**20:.1f} MiB"
    limits = f"the last {keep.last} and those younger than {keep.days} days are kept"
    if check:
        return tell(
            "backup_would_be_removed", "info", f"A run would remove this backup ({size}): {limits}.", "Nothing to do."
        )
    if seal.in_use(backup.folder / manifests.NAME):
        return tell(
            "backup_in_use", "info", "This backup is being restored from, so it was not removed.", "Nothing to do."
        )
    try:
        gone = backup.folder.rename(backup.folder.with_name(_DOOMED))
        shutil.rmtree(gone)
    except OSError as error:
        return tell(
            "backup_not_removed",
            "warning",
            f"This backup need not be kept and could not be removed: {error.strerror or error}.",
            "Remove it by hand, or correct the permissions of its folder.",
        )
    return tell("backup_removed", "info", f"This backup was removed ({size}): {limits}.", "Nothing to do.")
