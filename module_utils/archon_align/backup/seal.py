"""Encryption at rest: a backup sealed to public keys with age, and opened again with the private one.

A backup is sealed where it is staged: nothing plain is ever in its own folder. The library is loaded only when there is
something to encrypt.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from ..errors import AlignError
from . import manifest as manifests
from . import stored
from .leftovers import OPENED, mark

SUFFIX = ".age"
SCHEME = "age"
_SHOWN = ("age1", "ssh-ed25519 ", "ssh-rsa ")


@dataclass(frozen=True, slots=True)
class Recipient:
    """A public key as it was given, and what the library made of it."""

    text: str
    key: Any


@dataclass(frozen=True, slots=True)
class Opened:
    """A backup whose every file has its checksum: where its plain files are, and its manifest."""

    folder: Path
    manifest: dict[str, Any]


def _library() -> Any:
    try:
        import pyrage
    except ImportError as error:
        raise AlignError(
            "The library that encrypts backups is missing.",
            object_name="Python package pyrage",
            expected="the package of requirements/runtime.txt",
            found=str(error),
            remedy="Run make setup.",
            code="no_pyrage",
        ) from error
    return pyrage


def recipients(texts: Sequence[str]) -> tuple[Recipient, ...]:
    """The public keys that `texts` are. Raises AlignError for what is none; a private key is never shown."""
    if not texts:
        return ()
    library = _library()
    found = []
    for number, given in enumerate(texts, 1):
        text = " ".join(given.split())
        kind = library.ssh if text.startswith("ssh-") else library.x25519
        try:
            found.append(Recipient(text, kind.Recipient.from_str(text)))
        except (library.RecipientError, ValueError) as error:
            shown = (
                f"{text[:24]!r}: {error}" if text.startswith(_SHOWN) else "something else (not shown: it may be secret)"
            )
            raise AlignError(
                "A backup cannot be encrypted to this recipient, so none was taken.",
                object_name=f"archon_backup_recipients, entry {number}",
                expected="a public key: age1… (of age-keygen), ssh-ed25519 … or ssh-rsa …",
                found=shown,
                remedy="Correct the entry; the private key never belongs there.",
                code="bad_recipient",
            ) from error
    return tuple(found)


def seal(folder: Path, manifest: Mapping[str, Any], to: Sequence[Recipient]) -> dict[str, Any]:
    """Encrypt every file of the manifest and remove the plain ones; the manifest that says so, for the caller to write.

    Raises AlignError when that is impossible: then the folder must go, for there may be plain files in it.
    """
    library = _library()
    plain: dict[str, Any] = dict(manifest["files"])
    stored_as: dict[str, Any] = {}
    for name in plain:
        path, sealed = folder / name, folder / f"{name}{SUFFIX}"
        try:
            with path.open("rb") as source, _Sink(sealed) as sink:
                library.encrypt_io(source, sink, [item.key for item in to])
            path.unlink()
            stored_as[f"{name}{SUFFIX}"] = stored.facts(sealed)
        except (library.EncryptError, OSError) as error:
            raise AlignError(
                "The backup was made but could not be encrypted, so it was removed.",
                object_name=str(sealed),
                expected="every file of the backup encrypted to archon_backup_recipients",
                found=" ".join(str(error).split()),
                remedy="Free space there or correct the permissions of the folder, then run again.",
                code="not_sealed",
            ) from error
    return {
        **manifest,
        "files": stored_as,
        "encryption": {"scheme": SCHEME, "recipients": [item.text for item in to], "plain": plain},
    }


class _Sink:
    """A new file (0600) that is on disk at the end of the `with` block, or the block raises OSError.

    The library's own way of writing files loses the error when the last, small piece finds the disk full.
    """

    def __init__(self, path: Path) -> None:
        self._file = os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb", buffering=1 << 18)
        self._error: OSError | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        with self._file:
            if self._error is not None:
                raise self._error
            if kind is None:
                self._file.flush()
                os.fsync(self._file.fileno())

    def write(self, data: bytes) -> int:
        try:
            return self._file.write(data)
        except OSError as error:
            self._error = error
            raise

    def flush(self) -> None:
        self._file.flush()


@contextmanager
def opened(folder: Path, identity_file: Path | None) -> Iterator[Opened]:
    """A backup's plain files, every checksum of what is stored verified first; nobody prunes it meanwhile.

    An encrypted one is decrypted into a private temporary folder that is gone afterwards. Raises AlignError.
    """
    with _held(folder / manifests.NAME):
        manifest = manifests.verify_manifest(folder)
        encryption = manifest.get("encryption")
        if encryption is None:
            yield Opened(folder, manifest)
            return
        keys = _identities(folder, encryption, identity_file)
        _require_room(encryption["plain"])
        with tempfile.TemporaryDirectory(prefix=f"{OPENED}{mark()}-") as name:
            _decrypt(folder, Path(name), encryption["plain"], keys)
            yield Opened(Path(name), manifest)


@contextmanager
def _held(path: Path) -> Iterator[None]:
    """Hold a shared lock on a file; one that cannot be opened is told by whoever reads it."""
    try:
        held = os.open(path, os.O_RDONLY)
    except OSError:
        yield
        return
    try:
        fcntl.flock(held, fcntl.LOCK_SH)
        yield
    finally:
        os.close(held)


def in_use(path: Path) -> bool:
    """Whether somebody holds the file, as `opened` does."""
    try:
        looked = os.open(path, os.O_RDONLY)
    except OSError:
        return False
    try:
        fcntl.flock(looked, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(looked)
    return False


def _identities(folder: Path, encryption: Mapping[str, Any], identity_file: Path | None) -> list[Any]:
    def refuse(expected: str, found: str, code: str) -> AlignError:
        return AlignError(
            "The backup is encrypted and cannot be opened.",
            object_name=str(identity_file or folder),
            expected=expected,
            found=found,
            remedy="Pass the private key's file as restore_identity (an age identity, or an OpenSSH key without passphrase).",
            code=code,
        )

    wanted = f"the private key of one of {', '.join(str(item)[:40] for item in encryption['recipients'])}"
    if identity_file is None:
        raise refuse(wanted, "no key", "key_needed")
    library = _library()
    try:
        content = identity_file.read_bytes()
        if content.lstrip().startswith(b"-----BEGIN"):
            return [library.ssh.Identity.from_buffer(content)]
        lines = [line.strip() for line in content.decode().splitlines()]
        keys = [library.x25519.Identity.from_str(line) for line in lines if line and not line.startswith("#")]
    except OSError as error:
        raise refuse("a readable file", error.strerror or str(error), "bad_key") from error
    except (library.IdentityError, ValueError) as error:
        # The library's words name the kind of fault and never quote the key.
        raise refuse("an age identity (AGE-SECRET-KEY-…) or an OpenSSH private key", str(error), "bad_key") from error
    if not keys:
        raise refuse("an age identity (AGE-SECRET-KEY-…) or an OpenSSH private key", "a file without a key", "bad_key")
    return keys


def _require_room(plain: Mapping[str, Mapping[str, Any]]) -> None:
    needed = sum(int(file["bytes"]) for file in plain.values())
    free = shutil.disk_usage(tempfile.gettempdir()).free
    if free < needed:
        raise AlignError(
            "There is no room to decrypt the backup.",
            object_name=tempfile.gettempdir(),
            expected=f"{needed / 2**20:.0f} MiB free",
            found=f"{free / 2**20:.0f} MiB free",
            remedy="Free space there, or set TMPDIR to a private folder on another disk.",
            code="disk_full",
        )


def _decrypt(folder: Path, into: Path, plain: Mapping[str, Mapping[str, Any]], keys: Sequence[Any]) -> None:
    library = _library()
    for name, expected in plain.items():
        sealed, target = folder / f"{name}{SUFFIX}", stored.inside(into, name)
        try:
            target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            os.close(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
            library.decrypt_file(str(sealed), str(target), list(keys))
        except (library.DecryptError, OSError) as error:
            wrong = "No matching keys" in str(error)
            raise AlignError(
                "The key does not open the backup." if wrong else "An encrypted file of the backup could not be read.",
                object_name=str(sealed),
                expected="the private key of one of its recipients" if wrong else "what was encrypted, whole",
                found=" ".join(str(error).split()),
                remedy="Pass the private key's file that belongs to a recipient in the manifest."
                if wrong
                else "Use another run's backup.",
                code="wrong_key" if wrong else "backup_unusable",
            ) from error
        stored.require(target, expected)
