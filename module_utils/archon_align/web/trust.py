"""Whom TLS is to trust: the system's authorities, a CA file, one pinned certificate, or, said explicitly, anybody."""

from __future__ import annotations

import hashlib
import os
import re
import ssl
from dataclasses import dataclass
from pathlib import Path

from ..errors import AlignError

# As it is, or as openssl and others print it.
_SHA256 = re.compile(r"(?:sha-?256)?(?: fingerprint)?[:=/ ]*((?:[0-9a-f]{2}[: ]?){31}[0-9a-f]{2})", re.IGNORECASE)


class Untrusted(AlignError):
    """The certificate is not the one that was asked for, or none that is trusted."""


@dataclass(frozen=True, slots=True)
class Trust:
    """At most one of the three. `fingerprint` is the SHA-256 of the server's certificate (DER), in hex with or without colons."""

    ca_file: str = ""
    fingerprint: str = ""
    insecure: bool = False

    def __post_init__(self) -> None:
        given = [name for name in ("ca_file", "fingerprint", "insecure") if getattr(self, name)]
        if len(given) > 1:
            raise _unusable("Only one way to trust a server can be used.", " and ".join(given), "one of them")
        if self.fingerprint and not self.pin:
            raise _unusable(
                "A certificate's fingerprint is malformed.", repr(self.fingerprint), "64 hexadecimal digits (SHA-256)"
            )

    @property
    def pin(self) -> str:
        """The fingerprint as 64 lower-case hexadecimal digits, '' without one."""
        found = _SHA256.fullmatch(self.fingerprint.strip())
        return re.sub("[: ]", "", found[1]).lower() if found else ""

    def context(self) -> ssl.SSLContext:
        """A client's context; with a fingerprint its sockets refuse any other certificate before a byte is sent.

        Raises AlignError for a CA file that cannot be used.
        """
        if self.fingerprint:
            pinned = _Pinned(ssl.PROTOCOL_TLS_CLIENT)
            pinned.check_hostname = False
            pinned.verify_mode = ssl.CERT_NONE
            pinned.pin = self.pin
            return pinned
        if self.insecure:
            open_to_all = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            open_to_all.check_hostname = False
            open_to_all.verify_mode = ssl.CERT_NONE
            return open_to_all
        context = ssl.create_default_context()
        # Self-signed certificates of small servers lack extensions that a strict check of Python 3.13 wants.
        context.verify_flags &= ~ssl.VERIFY_X509_STRICT
        if self.ca_file:
            try:
                context.load_verify_locations(cafile=str(Path(os.path.expandvars(self.ca_file)).expanduser()))
            except (OSError, ssl.SSLError) as error:
                raise _unusable(
                    "A CA file cannot be used.",
                    f"{self.ca_file}: {error.strerror or type(error).__name__}",
                    "a readable file of PEM certificates",
                ) from error
        return context


class _Pinned(ssl.SSLContext):
    """Every connection made with it is checked right after the handshake, which carries nothing of ours yet."""

    pin = ""

    def wrap_socket(self, *args: object, **kwargs: object) -> ssl.SSLSocket:
        made = super().wrap_socket(*args, **kwargs)  # type: ignore[arg-type]
        found = hashlib.sha256(made.getpeercert(binary_form=True) or b"").hexdigest()
        if found != self.pin:
            made.close()
            raise ssl.SSLCertVerificationError(f"certificate fingerprint is {found}, not {self.pin}")
        return made


def _unusable(what: str, found: str, expected: str) -> AlignError:
    return AlignError(
        what,
        object_name="TLS",
        expected=expected,
        found=found,
        remedy="Give a CA file or the SHA-256 fingerprint of the server's certificate "
        "(openssl x509 -noout -fingerprint -sha256), or, knowing what it means, say insecure.",
        code="bad_variable",
    )
