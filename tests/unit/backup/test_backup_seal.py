"""Encryption at rest: nothing plain stays, and only the right key and whole files open a backup."""

from __future__ import annotations

import fcntl
import json
import os
import stat
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyrage
import pytest
from archon_align.backup import manifest as manifests
from archon_align.backup import seal, stored
from archon_align.context import Run
from archon_align.errors import AlignError

RUN = "20260101-000000-abcdef"
FILES = {"public.dump": b"PGDMP" * 1000, "tables/archon_tasks.jsonl": b'{"id": 1}\n', "empty": b""}


class Keys:
    """An age key pair whose private half lies in a file as age-keygen writes it."""

    def __init__(self, folder: Path, name: str = "key.txt") -> None:
        identity = pyrage.x25519.Identity.generate()
        self.public = str(identity.to_public())
        self.secret = str(identity)
        self.file = folder / name
        self.file.write_text(f"# created: today\n# public key: {self.public}\n{self.secret}\n")


@pytest.fixture
def keys(tmp_path: Path) -> Keys:
    return Keys(tmp_path)


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run(RUN, tmp_path / "artifacts" / RUN)


def make_backup(run: Run, *, verified: bool = True, **more: Any) -> Path:
    folder = run.artifacts / "backup"
    for name, content in FILES.items():
        run.write(f"backup/{name}", content)
    files = {name: stored.facts(folder / name) for name in FILES}
    content = {"format": manifests.FORMAT, "run_id": run.id, "files": files, "encryption": None, "verified": verified}
    run.write("backup/manifest.json", manifests.as_bytes({**content, **more}))
    return folder


def make_sealed(run: Run, keys: Keys, meanwhile: Callable[[], object] = lambda: None, *, verified: bool = True) -> Path:
    folder = run.artifacts / "backup"
    folder.mkdir(parents=True)
    with seal.sealing(run, folder, seal.recipients([keys.public])):
        make_backup(run, verified=verified)
        meanwhile()
    return folder


def fail(error: BaseException) -> Callable[[], None]:
    def failing() -> None:
        raise error

    return failing


def names(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def sealed(run: Run, keys: Keys) -> Path:
    return make_sealed(run, keys)


def test_what_is_sealed_opens_again_and_nothing_plain_stays(sealed: Path, keys: Keys) -> None:
    assert names(sealed) == {"manifest.json", *(f"{name}.age" for name in FILES)}
    assert {stat.S_IMODE(path.stat().st_mode) for path in sealed.rglob("*") if path.is_file()} == {0o600}
    assert not any(b"PGDMP" in path.read_bytes() for path in sealed.rglob("*.age"))
    manifest = json.loads((sealed / "manifest.json").read_text())
    assert manifest["encryption"]["recipients"] == [keys.public]
    assert set(manifest["files"]) == {f"{name}.age" for name in FILES}
    with seal.opened(sealed, keys.file) as backup:
        assert stat.S_IMODE(backup.folder.stat().st_mode) == 0o700
        assert {name: (backup.folder / name).read_bytes() for name in FILES} == FILES
        assert {stat.S_IMODE((backup.folder / name).stat().st_mode) for name in FILES} == {0o600}
    assert not backup.folder.exists()
    assert not list(sealed.parent.glob(".*"))


def test_without_recipients_everything_stays_as_it_was_made(run: Run) -> None:
    with seal.sealing(run, run.artifacts / "backup", seal.recipients([])):
        folder = make_backup(run)
    with seal.opened(folder, None) as backup:
        assert backup.folder == folder
        assert names(folder) == {"manifest.json", *FILES}


def test_the_library_is_loaded_only_to_encrypt() -> None:
    code = "import sys; from archon_align.backup import seal; assert seal.recipients([]) == (); print('pyrage' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"


@pytest.mark.parametrize("kind", ["ed25519", "rsa"])
def test_ssh_keys_serve_too(kind: str, run: Run, tmp_path: Path) -> None:
    key = tmp_path / "id"
    subprocess.run(["ssh-keygen", "-q", "-t", kind, "-N", "", "-f", key, "-C", "some one"], check=True)
    (run.artifacts / "backup").mkdir(parents=True)
    with seal.sealing(run, run.artifacts / "backup", seal.recipients([key.with_suffix(".pub").read_text()])):
        folder = make_backup(run)
    with seal.opened(folder, key) as backup:
        assert (backup.folder / "public.dump").read_bytes() == FILES["public.dump"]


@pytest.mark.parametrize(
    "given",
    ["", "age1nonsense", "ssh-ed25519 AAAA me", "AGE-SECRET-KEY-1QQQQQQ", "-----BEGIN OPENSSH PRIVATE KEY-----"],
)
def test_a_bad_recipient_is_refused_and_never_shown_when_it_may_be_secret(given: str, keys: Keys) -> None:
    with pytest.raises(AlignError) as raised:
        seal.recipients([keys.public, given])
    assert raised.value.code == "bad_recipient"
    assert "entry 2" in raised.value.object_name
    assert "QQQQ" not in str(raised.value)
    assert "BEGIN" not in str(raised.value)


def test_a_failed_proof_leaves_a_sealed_backup(run: Run, keys: Keys) -> None:
    folder = run.artifacts / "backup"
    error = AlignError("not proved", object_name="x", expected="", found="", remedy="")
    with pytest.raises(AlignError, match="not proved"):
        make_sealed(run, keys, fail(error), verified=False)
    assert names(folder) == {"manifest.json", *(f"{name}.age" for name in FILES)}
    assert json.loads((folder / "manifest.json").read_text())["verified"] is False


@pytest.mark.parametrize("trouble", [SystemExit, KeyboardInterrupt])
def test_an_interruption_leaves_nothing(trouble: type[BaseException], run: Run, keys: Keys) -> None:
    with pytest.raises(trouble):
        make_sealed(run, keys, fail(trouble()))
    assert names(run.artifacts / "backup") == set()


def test_what_cannot_be_sealed_is_removed_and_told(run: Run, keys: Keys) -> None:
    folder = run.artifacts / "backup"
    with pytest.raises(AlignError) as raised:
        make_sealed(run, keys, lambda: (folder / "empty.age").symlink_to("/dev/full"))
    assert raised.value.code == "not_sealed"
    assert raised.value.object_name == str(folder / "empty.age")
    assert "No space left" in raised.value.found
    assert names(folder) == set()


def test_a_killed_run_leaves_plain_files_only_until_the_next(run: Run, keys: Keys) -> None:
    folder = run.artifacts / "backup"
    child = os.fork()
    if child == 0:
        make_sealed(run, keys, lambda: os.kill(os.getpid(), 9))
    os.waitpid(child, 0)
    assert names(folder) == {"manifest.json", *FILES}
    root = run.artifacts.parent
    assert seal.sweep(root, "backup", RUN) == [], "the running run's own is its own affair"
    mark = next(run.artifacts.glob(".*"))
    with mark.open() as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        assert seal.sweep(root, "backup", "another") == [], "a run that is alive keeps its mark locked"
    (finding,) = seal.sweep(root, "backup", "another")
    assert (finding.code, finding.object) == ("plain_removed", str(folder))
    assert names(folder) == set()
    assert seal.sweep(root, "backup", "another") == []


def spoil(change: Callable[[Path], object]) -> Callable[[Path], Path]:
    def spoiled(folder: Path) -> Path:
        file = folder / "public.dump.age"
        change(file)
        return file

    return spoiled


def flipped(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[-20] ^= 1
    file.write_bytes(content)


@pytest.mark.parametrize(
    ("change", "found"),
    [
        (Path.unlink, "No such file|no such file"),
        (lambda file: file.write_bytes(file.read_bytes()[:-1]), "bytes"),
        (flipped, "SHA-256|another content"),
        (lambda file: file.chmod(0), "Permission denied|PermissionError"),
    ],
    ids=["missing", "truncated", "corrupted", "unreadable"],
)
def test_a_file_that_is_not_as_written_is_named(
    sealed: Path, keys: Keys, change: Callable[[Path], object], found: str
) -> None:
    file = spoil(change)(sealed)
    if file.exists() and os.access(file, os.R_OK) and not file.stat().st_mode & 0o400:
        pytest.skip("root reads everything")
    with pytest.raises(AlignError) as raised, seal.opened(sealed, keys.file):
        pass
    assert raised.value.code == "backup_unusable"
    assert raised.value.object_name == str(file)
    assert any(word in raised.value.found for word in found.split("|"))


def test_a_forged_manifest_does_not_pass_for_the_backup(sealed: Path, keys: Keys) -> None:
    """Who can write the folder can make the checksums fit; what was encrypted still has to be whole."""
    flipped(sealed / "public.dump.age")
    manifest = json.loads((sealed / "manifest.json").read_text())
    manifest["files"]["public.dump.age"] = stored.facts(sealed / "public.dump.age")
    (sealed / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(AlignError) as raised, seal.opened(sealed, keys.file):
        pass
    assert (raised.value.code, raised.value.object_name) == ("backup_unusable", str(sealed / "public.dump.age"))


@pytest.mark.parametrize("name", ["../../outside", "/etc/passwd", "a/../../b"])
def test_names_outside_the_folder_are_refused(name: str, sealed: Path, keys: Keys) -> None:
    manifest = json.loads((sealed / "manifest.json").read_text())
    manifest["encryption"]["plain"][name] = {"bytes": 0, "sha256": ""}
    (sealed / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(AlignError) as raised, seal.opened(sealed, keys.file):
        pass
    assert name in raised.value.found


def test_a_wrong_key_a_missing_key_and_no_key(sealed: Path, keys: Keys, tmp_path: Path) -> None:
    junk, empty = tmp_path / "junk", tmp_path / "empty"
    junk.write_text("AGE-SECRET-KEY-1QQQQ\n")
    empty.write_text("# nothing\n")
    for file, code in (
        (Keys(tmp_path, "other").file, "wrong_key"),
        (None, "key_needed"),
        (tmp_path / "nowhere", "bad_key"),
        (junk, "bad_key"),
        (empty, "bad_key"),
        (sealed / "public.dump.age", "bad_key"),
    ):
        with pytest.raises(AlignError) as raised, seal.opened(sealed, file):
            pass
        assert raised.value.code == code
        assert "QQQQ" not in str(raised.value)


def test_what_a_killed_restore_had_decrypted_goes_with_the_next(
    sealed: Path, keys: Keys, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    left = tmp_path / "archon-align-opened-left"
    left.mkdir()
    (left / "public.dump").write_bytes(b"plain")
    with seal.opened(sealed, keys.file) as backup:
        assert not left.exists()
        with seal.opened(sealed, keys.file):
            assert backup.folder.exists(), "another restore's is in use"


def test_no_room_to_decrypt_is_told_before(sealed: Path, keys: Keys, monkeypatch: pytest.MonkeyPatch) -> None:
    manifest = json.loads((sealed / "manifest.json").read_text())
    manifest["encryption"]["plain"]["public.dump"]["bytes"] = 2**62
    (sealed / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(AlignError) as raised, seal.opened(sealed, keys.file):
        pass
    assert raised.value.code == "disk_full"


def test_an_unproved_backup_does_not_open(run: Run) -> None:
    with pytest.raises(AlignError) as raised, seal.opened(make_backup(run, verified=False), None):
        pass
    assert raised.value.code == "backup_unusable"
