"""Ways in which the lab's Portainer can be made to misbehave, and the log of what it was asked."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any

VERSION = "2.33.2"
_REMEMBERED = 2000


@dataclass(frozen=True)
class Faults:
    """What goes wrong. The default is a healthy Portainer of today.

    `path` is a regular expression that limits `status`, `hang`, `drip` and `malformed` to the paths it is found in; `first`
    limits them to that many requests, after which they are over. Services are named as the stack file does or in full.
    """

    version: str = VERSION  # 2.19.x knows no cookies and no CSRF tokens, and spells differently
    token_expired: bool = False  # every session is over
    api_key_revoked: bool = False
    status: int | None = None  # answer with this HTTP status, as a proxy in front of it would
    hang: bool = False  # accept the request and never answer
    drip: bool = False  # send the answer byte by byte, without end
    malformed: bool = False  # answer 200 with JSON that breaks off
    path: str = ""
    first: int | None = None
    stack_missing: str = ""  # this stack was not deployed by Portainer: it does not list it
    stack_twice: str = ""  # another environment has a stack of the same name
    not_pulled: tuple[str, ...] = ()  # images whose name contains one of these cannot be pulled any more
    never_ready: tuple[str, ...] = ()  # processes of these services start and never listen
    start_fails: tuple[str, ...] = ()  # processes of these services end at once with exit code 3

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any]) -> Faults:
        """Faults from a JSON object. Raises ValueError naming what is unknown or of the wrong kind."""
        known = {item.name for item in fields(cls)}
        if unknown := sorted(set(values) - known):
            raise ValueError(f"unknown faults {unknown}; known are {sorted(known)}")
        lists = {name: tuple(value) for name, value in values.items() if isinstance(value, list)}
        made = cls(**{**values, **lists})
        for item in fields(cls):
            value, default = getattr(made, item.name), item.default
            kind = int | None if default is None else type(default)
            if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
                raise ValueError(f"{item.name} must be {kind}")
        re.compile(made.path)
        return made

    @property
    def number(self) -> tuple[int, ...]:
        """The version as numbers, to compare."""
        return tuple(int(part) for part in re.findall(r"\d+", self.version))

    def spoils(self, path: str) -> bool:
        """Whether an answer to this path goes wrong."""
        wrong = self.status is not None or self.hang or self.drip or self.malformed
        return wrong and self.first != 0 and re.search(self.path, path) is not None

    def after_request(self) -> Faults:
        """The faults that remain after one more spoilt request."""
        return self if self.first is None else replace(self, first=max(0, self.first - 1))

    def concerns(self, names: tuple[str, ...], service: str) -> bool:
        """Whether a service with this full name is meant."""
        return any(service == name or service.endswith(f"_{name}") for name in names)


@dataclass
class Lab:
    """What belongs to the lab and not to Portainer: the faults in force and the requests seen."""

    faults: Faults = field(default_factory=Faults)
    requests: deque[dict[str, object]] = field(default_factory=lambda: deque(maxlen=_REMEMBERED))
