"""Files of a run on their way between the controller and the host that a module runs on: packed, told apart, unpacked safely.

Only the standard library: this runs on a host before it is known what is installed there.
The steps that archon_spool takes with it are in spool_steps.py.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import stat
import tarfile
from collections.abc import Iterable, Mapping
from pathlib import Path, PurePosixPath

from .errors import AlignError

# What a spool notes of itself. No run's file begins so: Run.write's unfinished ones do, and they are not brought in either.
NOTE = ".spool.json"
OUTGOING = ".outgoing.tar"
INCOMING = ".incoming.tar"


def files_below(folder: Path) -> list[str]:
    """The finished regular files below a folder, by their path in it. Links are not followed."""
    found = []
    for parent, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            path = Path(parent, name)
            if not name.startswith(".") and stat.S_ISREG(path.lstat().st_mode):
                found.append(path.relative_to(folder).as_posix())
    return found


def digest(path: Path) -> str:
    """A file's SHA-256."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def pack(archive: Path, files: Mapping[str, Path]) -> None:
    """Write the files, by the names that they are to have, into an archive (0600)."""
    descriptor = os.open(archive, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
    with os.fdopen(descriptor, "wb") as stream, tarfile.open(fileobj=stream, mode="w") as tar:
        for name, path in sorted(files.items()):
            with path.open("rb") as content:
                member = tarfile.TarInfo(name)
                member.size = os.fstat(content.fileno()).st_size
                tar.addfile(member, content)


def unpack(archive: Path, folder: Path) -> list[str]:
    """Put an archive's files below the folder (0600, folders 0700), over those that are there; their names.

    Raises AlignError, before anything is written, for whatever is no plain file with a path inside the folder.
    """
    try:
        with tarfile.open(archive, mode="r:") as tar:
            members = tar.getmembers()
            for member in members:
                _require_harmless(member, folder)
            for member in members:
                content = tar.extractfile(member)
                assert content is not None
                target = folder / member.name
                for parent in reversed(PurePosixPath(member.name).parents):
                    # `parents=True` would make the folders between as the umask has it.
                    (folder / parent).mkdir(mode=0o700, exist_ok=True)
                partial = target.with_name(f".{target.name}.{os.getpid()}")
                with os.fdopen(
                    os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600), "wb"
                ) as stream:
                    shutil.copyfileobj(content, stream)
                partial.replace(target)
    except (tarfile.TarError, EOFError) as error:
        raise _odd(str(archive), str(error)) from error
    return [member.name for member in members]


def _require_harmless(member: tarfile.TarInfo, folder: Path) -> None:
    path = PurePosixPath(member.name)
    if not member.isreg() or path.is_absolute() or not path.parts or any(part.startswith(".") for part in path.parts):
        raise _odd(member.name, "no plain file inside the folder")
    for number in range(1, len(path.parts) + 1):
        there = folder.joinpath(*path.parts[:number])
        if there.is_symlink():
            raise _odd(member.name, f"a link at {there}")


def _odd(name: str, found: str) -> AlignError:
    return AlignError(
        "Files from a host cannot be brought in.",
        object_name=name,
        expected="an archive of plain files, each inside the run's folder",
        found=found,
        remedy="Look at the folder that archon_spool_dir names on that host; nothing was removed there.",
        code="spool_unusable",
    )


def note(spool: Path, prod: str) -> None:
    """Write down for which PROD host a spool is and what it holds before the module has run."""
    sent = {name: digest(spool / name) for name in files_below(spool)}
    (spool / NOTE).write_text(json.dumps({"prod": prod, "sent": sent}), encoding="utf-8")


def read_note(spool: Path) -> dict[str, object]:
    """What `note` wrote; empty where a transfer was cut short before that, and then nothing has run there either."""
    try:
        found = json.loads((spool / NOTE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def hold(spool: Path) -> None:
    """Have this process, until it ends, seen as at work in a spool. Does nothing where there is none."""
    try:
        descriptor = os.open(spool / NOTE, os.O_RDONLY | os.O_NOFOLLOW)
    except OSError:
        return
    # Never closed: the lock is to live as long as the process and whatever it forks.
    fcntl.flock(descriptor, fcntl.LOCK_SH)


def is_held(spool: Path) -> bool:
    """Whether a module is at work in a spool: one can outlive its playbook."""
    try:
        descriptor = os.open(spool / NOTE, os.O_RDONLY | os.O_NOFOLLOW)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def outcome(spool: Path, names: Iterable[str]) -> dict[str, Path]:
    """Of the files in a spool those that the module has written or changed."""
    sent = read_note(spool).get("sent")
    if not isinstance(sent, dict):
        return {}
    return {name: spool / name for name in names if sent.get(name) != digest(spool / name)}
