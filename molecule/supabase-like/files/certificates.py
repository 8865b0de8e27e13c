"""A private CA and what it certifies: certificates.py FOLDER NAME=ADDRESS… writes ca.pem, NAME.pem and NAME.key, and the
certificate of a CA that has certified none of them, other-ca.pem. No CA's key is kept."""

from __future__ import annotations

import os
import sys
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

Key = ec.EllipticCurvePrivateKey


def _certificate(name: str, key: Key, issuer: str, issuer_key: Key, address: str | None = None) -> bytes:
    """A certificate for an address, or without one that of a CA."""
    now = datetime.now(UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
        .issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, issuer)]))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=2))
        .add_extension(x509.BasicConstraints(ca=address is None, path_length=None), critical=True)
    )
    if address is not None:
        names = x509.SubjectAlternativeName([x509.IPAddress(ip_address(address))])
        builder = builder.add_extension(names, critical=False)
    return builder.sign(issuer_key, hashes.SHA256()).public_bytes(Encoding.PEM)


def _key() -> Key:
    return ec.generate_private_key(ec.SECP256R1())


def main(folder: Path, wanted: list[str]) -> None:
    """Raises OSError when the folder cannot be written."""
    os.umask(0o077)
    folder.mkdir(exist_ok=True)
    authority, ours, theirs = _key(), "The scenario's CA", "Another CA"
    (folder / "ca.pem").write_bytes(_certificate(ours, authority, ours, authority))
    other = _key()
    (folder / "other-ca.pem").write_bytes(_certificate(theirs, other, theirs, other))
    for name, address in (one.split("=") for one in wanted):
        key = _key()
        (folder / f"{name}.key").write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        (folder / f"{name}.pem").write_bytes(_certificate(name, key, ours, authority, address))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
