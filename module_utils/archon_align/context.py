"""What every phase is given: the run, the two databases, and what is protected."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

from .database.target import Table, Target
from .errors import AlignError

PROTECTED_TABLES = ("archon_projects", "archon_tasks", "archon_document_versions", "archon_project_sources")
CHECK_SUFFIX = "-check"
RUN_ID = re.compile(r"[0-9]{8}-[0-9]{6}-[0-9a-f]{6}(-check)?")
APPLICATION_NAME_BYTES = 63
# PostgreSQL keeps its timeouts as milliseconds in 31 bits.
_MOST_SECONDS = 2_147_483


@dataclass(frozen=True, slots=True)
class Run:
    """One invocation. `id` is `YYYYMMDD-HHMMSS-xxxxxx` in UTC, with the suffix `-check` in check mode."""

    id: str
    artifacts: Path

    def __post_init__(self) -> None:
        if not RUN_ID.fullmatch(self.id):
            raise AlignError(
                "The run id is malformed.",
                object_name="run_id",
                expected="YYYYMMDD-HHMMSS-xxxxxx[-check]",
                found=repr(self.id),
                remedy="Pass the run_id that the archon_run module returned.",
            )

    @property
    def check(self) -> bool:
        return self.id.endswith(CHECK_SUFFIX)

    def application_name(self, phase: str, progress: str = "") -> str:
        """`align <phase> <run id> <progress>`, cut to the 63 bytes PostgreSQL keeps."""
        name = f"align {phase} {self.id} {progress}".rstrip()
        return name.encode()[:APPLICATION_NAME_BYTES].decode(errors="ignore")

    def write(self, name: str, content: bytes) -> Path:
        """Write one artifact (0600, folders 0700) so that a reader never sees half of it."""
        path = self.artifacts / name
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            partial = path.with_name(f".{path.name}.{os.getpid()}")
            with os.fdopen(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as stream:
                stream.write(content)
            partial.replace(path)
        except OSError as error:
            raise AlignError(
                "An artifact could not be written.",
                object_name=str(path),
                expected="a writable artifacts folder",
                found=error.strerror or str(error),
                remedy="Free space there or set archon_artifacts_dir to another folder.",
                code="artifacts_not_writable",
            ) from error
        return path


def _unusable(variable: str, expected: str, found: str) -> AlignError:
    return AlignError(
        "A variable cannot be used.",
        object_name=variable,
        expected=expected,
        found=found,
        remedy=f"Correct {variable} in the inventory.",
        code="bad_variable",
    )


@dataclass(frozen=True, slots=True)
class Context:
    """One phase of one run against one PROD (and the DEV it is aligned with).

    `watched` tables are protected without having been named: proved like the others by a transaction that involves them,
    and by any other shown not to have been touched.
    """

    run: Run
    prod: Target
    dev: Target
    phase: str
    schemas: tuple[str, ...] = ("public",)
    protected_names: tuple[str, ...] = PROTECTED_TABLES
    connect_timeout: float = 10.0
    statement_timeout: float = 300.0
    lock_timeout: float = 0.5
    lock_attempts: int = 60
    watched: tuple[Table, ...] = ()

    def __post_init__(self) -> None:
        if not self.schemas or not all(self.schemas):
            raise _unusable("archon_schema_names", "the names of one schema or more", repr(list(self.schemas)))
        for name, seconds in (
            ("archon_connect_timeout", self.connect_timeout),
            ("archon_statement_timeout", self.statement_timeout),
        ):
            if not 0 < seconds <= _MOST_SECONDS:
                raise _unusable(name, f"seconds, more than 0 and at most {_MOST_SECONDS}", f"{seconds:g}")

    @property
    def check(self) -> bool:
        return self.run.check

    @property
    def protected(self) -> tuple[Table, ...]:
        """The protected tables in the one fixed order in which everybody locks them."""
        return tuple(
            sorted(
                Table(self.schemas[0], name) if "." not in name else Table(*name.split(".", 1))
                for name in self.protected_names
            )
        )
