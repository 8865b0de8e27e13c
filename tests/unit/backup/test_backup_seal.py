"""Encryption at rest: nothing plain stays, and only the right key and whole files open a backup."""

from __future__ import annotations

import contextlib
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
from archon_align.backup.choice import find
from archon_align.backup.leftovers import remove_leftovers
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


def make_backup(run: Run, **more: Any) -> tuple[Path, dict[str, Any]]:
    folder = run.artifacts / "backup"
    for name, content in FILES.items():
        run.write(f"backup/{name}", content)
    files = {name: stored.facts(folder / name) for name in FILES}
    content = {"format": manifests.FORMAT, "run_id": run.id, "files": files, "encryption": None, "verified": True}
    run.write("backup/manifest.json", manifests.as_bytes({**content, **more}))
    return folder, content


def make_sealed(run: Run, *to: str) -> Path:
    folder, content = make_backup(run)
    run.write("backup/manifest.json", manifests.as_bytes(seal.seal(folder, content, seal.recipients(to))))
    return folder


def names(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def sealed(run: Run, keys: Keys) -> Path:
    return make_sealed(run, keys.public)


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


def test_a_plain_backup_opens_where_it_lies(run: Run) -> None:
    folder, _ = make_backup(run)
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
    folder = make_sealed(run, key.with_suffix(".pub").read_text())
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


def test_each_recipient_opens_it(run: Run, keys: Keys, tmp_path: Path) -> None:
    other = Keys(tmp_path, "other")
    folder = make_sealed(run, keys.public, other.public)
    for file in (keys.file, other.file):
        with seal.opened(folder, file) as backup:
            assert (backup.folder / "public.dump").read_bytes() == FILES["public.dump"]


def test_a_full_disk_is_told_also_when_only_the_last_bytes_meet_it(run: Run, keys: Keys) -> None:
    folder, content = make_backup(run)
    (folder / "empty.age").symlink_to("/dev/full")
    with pytest.raises(AlignError) as raised:
        seal.seal(folder, content, seal.recipients([keys.public]))
    assert raised.value.code == "not_sealed"
    assert raised.value.object_name == str(folder / "empty.age")
    assert "No space left" in raised.value.found


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
        (Path.unlink, "No such file"),
        (lambda file: file.write_bytes(file.read_bytes()[:-1]), "bytes"),
        (flipped, "SHA-256"),
    ],
    ids=["missing", "truncated", "corrupted"],
)
def test_a_file_that_is_not_as_written_is_named(
    sealed: Path, keys: Keys, change: Callable[[Path], object], found: str
) -> None:
    file = spoil(change)(sealed)
    with pytest.raises(AlignError) as raised, seal.opened(sealed, keys.file):
        pass
    assert raised.value.code == "backup_unusable"
    assert raised.value.object_name == str(file)
    assert found in raised.value.found


def refusal(work: Callable[[], object]) -> AlignError:
    with pytest.raises(AlignError) as raised:
        work()
    return raised.value


def unprivileged(work: Callable[[], AlignError]) -> tuple[str, str]:
    """Code and object of the refusal that `work` returns, as somebody who may not read everything."""
    source, sink = os.pipe()
    child = os.fork()
    if child == 0:
        if os.geteuid() == 0:
            os.seteuid(65534)
        error = work()
        os.write(sink, json.dumps([error.code, error.object_name]).encode())
        os._exit(0)
    os.close(sink)
    os.waitpid(child, 0)
    with os.fdopen(source) as answer:
        code, name = json.load(answer)
    return code, name


def test_what_may_not_be_read_is_named(keys: Keys) -> None:
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        folder = make_sealed(Run(RUN, Path(name) / RUN), keys.public)
        for path in (folder.parent, folder, folder / "manifest.json"):
            path.chmod(0o755)

        def look() -> AlignError:
            return refusal(lambda: seal.opened(folder, None).__enter__())

        first = folder / "public.dump.age"
        first.chmod(0)
        assert unprivileged(look) == ("backup_unusable", str(first))
        folder.chmod(0)
        assert unprivileged(look) == ("backup_unusable", str(folder / "manifest.json"))
        found = unprivileged(lambda: refusal(lambda: find(Path(name), RUN)))
        folder.chmod(0o700)
        assert found == ("no_backup", RUN)


def test_a_forged_manifest_does_not_pass_for_the_backup(sealed: Path, keys: Keys) -> None:
    """Who can write the folder can make the checksums fit; what was encrypted still has to be whole."""
    flipped(sealed / "public.dump.age")
    manifest = json.loads((sealed / "manifest.json").read_text())
    manifest["files"]["public.dump.age"] = stored.facts(sealed / "public.dump.age")
    (sealed / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(AlignError) as raised, seal.opened(sealed, keys.file):
        pass
    assert (raised.value.code, raised.value.object_name) == ("backup_unusable", str(sealed / "public.dump.age"))


def test_what_was_decrypted_is_what_was_proved(sealed: Path, keys: Keys) -> None:
    manifest = json.loads((sealed / "manifest.json").read_text())
    manifest["encryption"]["plain"]["public.dump"]["sha256"] = "0" * 64
    (sealed / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(AlignError) as raised, seal.opened(sealed, keys.file):
        pass
    assert (raised.value.code, raised.value.object_name.endswith("/public.dump")) == ("backup_unusable", True)


def test_an_error_that_the_library_keeps_to_itself_is_told(tmp_path: Path) -> None:
    """Room may be there again when the file is closed: what could not be written is missing all the same."""

    class Full:
        def write(self, _: bytes) -> int:
            raise OSError(28, "No space left on device")

    def encrypt(sink: seal._Sink) -> None:
        with sink:
            file, sink._file = sink._file, Full()  # type: ignore[assignment]
            with contextlib.suppress(OSError):
                sink.write(b"the last bytes")
            sink._file = file

    with pytest.raises(OSError, match="No space left"):
        encrypt(seal._Sink(tmp_path / "file"))


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
    child = os.fork()
    if child == 0:
        with seal.opened(sealed, keys.file):
            os.kill(os.getpid(), 9)
    os.waitpid(child, 0)
    (left,) = tmp_path.glob("archon-align-opened-*")
    with seal.opened(sealed, keys.file) as backup:
        remove_leftovers(tmp_path)
        assert not left.exists()
        assert backup.folder.exists(), "another restore's is in use"


def test_no_room_to_decrypt_is_told_before(sealed: Path, keys: Keys, monkeypatch: pytest.MonkeyPatch) -> None:
    manifest = json.loads((sealed / "manifest.json").read_text())
    manifest["encryption"]["plain"]["public.dump"]["bytes"] = 2**62
    (sealed / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(AlignError) as raised, seal.opened(sealed, keys.file):
        pass
    assert raised.value.code == "disk_full"


def test_an_unproved_backup_does_not_open(run: Run) -> None:
    folder, _ = make_backup(run, verified=False)
    with pytest.raises(AlignError) as raised, seal.opened(folder, None):
        pass
    assert raised.value.code == "backup_unusable"
