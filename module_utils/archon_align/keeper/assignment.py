"""What a keeper is told by its starter, over stdin: the DSN is secret and belongs in no argument list or environment."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import orjson

from ..context import Context, Run
from ..database.target import Target
from .playbook import ProcessName


@dataclass(frozen=True, slots=True)
class Assignment:
    """One run on one PROD. `connect_timeout` is in seconds."""

    run_id: str
    artifacts: str
    prod_dsn: str = field(repr=False)
    playbook: ProcessName
    protected_names: tuple[str, ...]
    connect_timeout: float

    def as_json(self) -> bytes:
        return orjson.dumps(self)

    @classmethod
    def from_json(cls, text: bytes) -> Assignment:
        fields = orjson.loads(text)
        playbook = ProcessName(**fields.pop("playbook"))
        return cls(playbook=playbook, protected_names=tuple(fields.pop("protected_names")), **fields)

    def context(self) -> Context:
        return Context(
            run=Run(self.run_id, Path(self.artifacts)),
            prod=Target("PROD", self.prod_dsn),
            dev=Target("DEV", ""),
            phase="keeper",
            protected_names=self.protected_names,
            connect_timeout=self.connect_timeout,
        )
