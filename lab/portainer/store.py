"""What the stand-in remembers in the lab's folder: stacks, ports, users, keys and its certificate."""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import Any

from ..state import HOST, PORTAINER
from .processes import Port

JSON = dict[str, Any]
SWARM_STACK, COMPOSE_STACK = 1, 2
ACTIVE, INACTIVE = 1, 2
ENVIRONMENT, DOWN_ENVIRONMENT = 1, 2
ADMIN_USER, READER = "admin", "reader"
_CERTIFICATE_DAYS = 3650


def folder_of(lab: Path) -> Path:
    """Where the stand-in keeps its files below a lab's folder."""
    return lab / PORTAINER


def _write_private(path: Path, text: str) -> None:
    partial = path.with_name(path.name + ".partial")
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(text)
    partial.replace(path)


def write_start(lab: Path, content: Mapping[str, Any]) -> None:
    """Say what a lab's Portainer begins with, and goes back to: `images` (name → `command` and `environment`), `ports` (name → preferred
    number or 0) and `stacks` ({name, file, env}), whose values may hold `@port:NAME@`."""
    folder = folder_of(lab)
    folder.mkdir(mode=0o700, exist_ok=True)
    _write_private(folder / "start.json", json.dumps(content, indent=2) + "\n")


def fingerprint(lab: Path) -> str:
    """SHA-256 of the certificate, in hex. Raises OSError before the first start."""
    import ssl

    return hashlib.sha256(ssl.PEM_cert_to_DER_cert((folder_of(lab) / "certificate.pem").read_text())).hexdigest()


@dataclass(frozen=True)
class Image:
    """What a container of this image runs (`{fd}` becomes the number of its socket), and what its process finds set."""

    command: list[str]
    environment: dict[str, str] = field(default_factory=dict)


@dataclass
class Stack:
    """One stack as Portainer keeps it. `repository` is what its git repository holds, for a git-backed one."""

    id: int
    name: str
    file: str
    env: list[JSON]
    type: int = SWARM_STACK
    environment: int = ENVIRONMENT
    status: int = ACTIVE
    created: int = 0
    updated: int = 0
    updated_by: str = ""
    git: JSON | None = None
    repository: str = ""
    auto_update: JSON | None = None

    def variables(self) -> dict[str, str]:
        return {str(pair.get("name", "")): str(pair.get("value", "")) for pair in self.env}


@dataclass
class User:
    """A person who may log in; `role` 1 is an administrator, 2 a standard user."""

    id: int
    name: str
    role: int
    keys: dict[str, str] = field(default_factory=dict)  # digest of the key → description


class Store:
    """Everything is written at once and in one step; secrets are readable by their owner alone."""

    def __init__(self, lab: Path) -> None:
        self.folder = folder_of(lab)
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        (self.folder / "logs").mkdir(exist_ok=True)
        for log in (self.folder / "logs").glob("*.log"):
            log.unlink()  # of containers that ended with the last process
        self._file = self.folder / "store.json"
        self.ports: dict[str, Port] = {}
        self.images: dict[str, Image] = {}
        self.stacks: list[Stack] = []
        self._start: JSON = {}
        self.users = [User(1, ADMIN_USER, 1), User(2, READER, 2)]
        content = self._read(self._file)
        self.secret = bytes.fromhex(content.get("secret") or secrets.token_hex(32))
        self.swarm_id: str = content.get("swarm_id") or secrets.token_hex(13)[:25]
        for user in self.users:
            user.keys = dict(content.get("keys", {}).get(user.name, {}))
        self._passwords = {user.name: self._secret_file(f"{user.name}-password", 18) for user in self.users}
        key = self._secret_file("api-key", 24, "ptr_")
        self.users[0].keys.setdefault(digest(key), "archon-align")
        self._ensure_certificate()
        if content:
            self._load(content)
        else:
            self.begin()
        self.save()

    @property
    def node_id(self) -> str:
        """The id of the Swarm's one node."""
        return self.swarm_id[::-1]

    @property
    def certificate(self) -> tuple[Path, Path]:
        """The files of certificate and key."""
        return self.folder / "certificate.pem", self.folder / "key.pem"

    def begin(self) -> None:
        """Go back to what the lab said to begin with; ports, users and keys stay."""
        start = self._read_start()
        now = int(time.time())
        self.stacks = [
            Stack(
                number,
                given["name"],
                given["file"],
                [{"name": name, "value": self._with_ports(value)} for name, value in given.get("env", {}).items()],
                given.get("type", SWARM_STACK),
                status=given.get("status", ACTIVE),
                created=now,
            )
            for number, given in enumerate(start.get("stacks", []), 1)
        ]

    def follow(self) -> set[str]:
        """Take over what the lab begins with now, an address that moved for instance, wherever nobody has changed it;
        returns the names of the stacks that it concerns."""
        changed = set()
        before = {given["name"]: given for given in self._start.get("stacks", [])}
        for given in self._read_start().get("stacks", []):
            for stack in self.stacks:
                old = before.get(stack.name)
                if stack.name != given["name"] or old is None:
                    continue
                if stack.file == old["file"] != given["file"]:
                    stack.file = given["file"]
                    changed.add(stack.name)
                for pair in stack.env:
                    name = pair.get("name", "")
                    was, now = (self._with_ports(start.get("env", {}).get(name, "")) for start in (old, given))
                    if name in given.get("env", {}) and pair.get("value") == was != now:
                        pair["value"] = now
                        changed.add(stack.name)
        return changed

    def _read_start(self) -> JSON:
        self._start = self._read(self.folder / "start.json")
        self.images = {name: Image(**given) for name, given in self._start.get("images", {}).items()}
        self._claim({**self._start.get("ports", {}), **{name: port.number for name, port in self.ports.items()}})
        return self._start

    def user(self, number: int) -> User | None:
        return next((user for user in self.users if user.id == number), None)

    def log_in(self, name: str, password: str) -> User | None:
        for user in self.users:
            if user.name == name.lower() and secrets.compare_digest(
                self._passwords[user.name].encode(), password.encode()
            ):
                return user
        return None

    def save(self) -> None:
        """Write everything that must outlive the process."""
        content = {
            "secret": self.secret.hex(),
            "swarm_id": self.swarm_id,
            "keys": {user.name: user.keys for user in self.users},
            "start": self._start,
            "ports": {name: port.number for name, port in self.ports.items()},
            "stacks": [vars(stack) for stack in self.stacks],
        }
        _write_private(self._file, json.dumps(content, indent=2) + "\n")

    @staticmethod
    def _read(path: Path) -> JSON:
        try:
            content = json.loads(path.read_text())
        except (OSError, ValueError):
            return {}
        return content if isinstance(content, dict) else {}

    def _load(self, content: JSON) -> None:
        self._start = content.get("start", {})
        before: dict[str, int] = content.get("ports", {})
        self._claim(before)
        self.stacks = [Stack(**stack) for stack in content.get("stacks", [])]
        moved = {
            str(before[name]): str(port.number) for name, port in self.ports.items() if before[name] != port.number
        }
        for stack in self.stacks:
            for pair in stack.env:
                pair["value"] = moved.get(pair.get("value", ""), pair.get("value", ""))

    def _claim(self, wanted: Mapping[str, int]) -> None:
        for name, number in wanted.items():
            if name not in self.ports:
                try:
                    self.ports[name] = Port(int(number))
                except OSError:
                    self.ports[name] = Port()

    def _with_ports(self, value: str) -> str:
        for name, port in self.ports.items():
            value = value.replace(f"@port:{name}@", str(port.number))
        return value

    def _secret_file(self, name: str, size: int, prefix: str = "") -> str:
        path = self.folder / name
        with suppress(OSError):
            if found := path.read_text().strip():
                return found
        made = prefix + secrets.token_urlsafe(size)
        _write_private(path, made + "\n")
        return made

    def _ensure_certificate(self) -> None:
        if all(path.exists() for path in self.certificate):
            return
        # Half a second of imports that only the first start needs.
        from cryptography import x509
        from cryptography.hazmat.primitives import hashes, serialization
        from cryptography.hazmat.primitives.asymmetric import ec
        from cryptography.x509.oid import NameOID

        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
        now = datetime.now(UTC)
        names = x509.SubjectAlternativeName([x509.DNSName("localhost"), x509.IPAddress(ip_address(HOST))])
        made = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(days=1))
            .not_valid_after(now + timedelta(days=_CERTIFICATE_DAYS))
            .add_extension(names, critical=False)
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .sign(key, hashes.SHA256())
        )
        certificate, private = self.certificate
        no_password = serialization.NoEncryption()
        text = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, no_password).decode()
        _write_private(private, text)
        _write_private(certificate, made.public_bytes(serialization.Encoding.PEM).decode())


def digest(key: str) -> str:
    """What is stored instead of an API key."""
    return hashlib.sha256(key.encode()).hexdigest()
