"""Service keys as Supabase makes them (a JWT signed with the project's secret), and what Archon encrypts with them."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import re
import secrets

_SHAPE = re.compile(r"[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]*")
_SALT = b"static_salt_for_credentials"
_ITERATIONS = 100_000


class InvalidKey(Exception):
    """The key has not the shape of a JWT, or the gateway refuses it."""

    def __init__(self) -> None:
        super().__init__("Invalid API key")


def new_secret() -> str:
    """A secret of one project, to sign and verify its keys."""
    return secrets.token_urlsafe(32)


def service_key(secret: str, role: str = "service_role") -> str:
    """The key of `role` in the project with this secret."""
    parts = ({"alg": "HS256", "typ": "JWT"}, {"iss": "supabase", "ref": "lab", "role": role})
    signed = ".".join(_encode(json.dumps(part, separators=(",", ":")).encode()) for part in parts)
    return f"{signed}.{_signature(signed, secret)}"


def role_of(key: str, secret: str) -> str:
    """The role that a key stands for. Raises InvalidKey."""
    if not _SHAPE.fullmatch(key):
        raise InvalidKey
    signed, _, signature = key.rpartition(".")
    if not hmac.compare_digest(signature, _signature(signed, secret)):
        raise InvalidKey
    payload = signed.partition(".")[2]
    return str(json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))["role"])


def encrypt(value: str, key: str) -> str:
    """A setting's `encrypted_value`, readable with the same service key only."""
    from cryptography.fernet import Fernet

    return base64.b64encode(Fernet(_fernet_key(key)).encrypt(value.encode())).decode()


def decrypt(encrypted: str, key: str) -> str:
    """What `encrypt` was given. Raises ValueError when it was made with another key or by something else."""
    from cryptography.fernet import Fernet, InvalidToken

    try:
        return Fernet(_fernet_key(key)).decrypt(base64.b64decode(encrypted)).decode()
    except InvalidToken as error:
        raise ValueError("the value was not encrypted with this service key") from error


def _fernet_key(key: str) -> bytes:
    return base64.urlsafe_b64encode(hashlib.pbkdf2_hmac("sha256", key.encode(), _SALT, _ITERATIONS))


def _signature(signed: str, secret: str) -> str:
    return _encode(hmac.new(secret.encode(), signed.encode(), hashlib.sha256).digest())


def _encode(content: bytes) -> str:
    return base64.urlsafe_b64encode(content).decode().rstrip("=")
