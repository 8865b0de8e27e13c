"""Statements whose rows come from files of a restore point."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from psycopg import sql

from ..context import Context
from ..database.session import Session
from ..errors import AlignError
from ..plan import Statement
from .ledger import FOLDER


@dataclass(frozen=True, slots=True)
class Load(Statement):
    """A COPY FROM STDIN whose rows come from the file `path`."""

    path: str = ""

    def blocks(self) -> Iterator[bytes]:
        """What the COPY is given. Raises OSError."""
        with Path(self.path).open("rb") as stream:
            while block := stream.read(1 << 20):
                yield block


def load(session: Session, statement: Load) -> None:
    """Run the COPY. Raises AlignError when the file cannot be read."""
    try:
        with session.copying(sql.SQL(statement.sql)) as into:
            for block in statement.blocks():
                into.write(block)
    except OSError as error:
        raise unusable(statement.path, error.strerror or str(error)) from error


def beside(context: Context, run_id: str, file: str) -> Path:
    """The file that the run `run_id` wrote beside its ledgers. Raises AlignError when it is gone."""
    folders = [run / FOLDER for run in (context.run.artifacts.parent / run_id, context.run.artifacts)]
    path = next((path for folder in folders if (path := folder / file).is_file()), None)
    if path is None:
        raise unusable(file, f"not in {folders[0]}")
    return path


def plain_name(told: object) -> str:
    """The name of a file as a ledger tells it. Raises ValueError when it is a path."""
    file = str(told)
    if "/" in file or file.startswith("."):
        raise ValueError("the name of a file, not a path")
    return file


def unusable(name: str, found: str) -> AlignError:
    """The error that a file of a restore point is not what the run wrote."""
    return AlignError(
        "The old vectors of a restore point cannot be used; nothing was changed.",
        object_name=name,
        expected="the file as the run wrote it",
        found=found,
        remedy="Use another restore point, or the verified backup of the run. Do not edit files in the artifacts folder.",
        code="restore_point_unreadable",
    )
