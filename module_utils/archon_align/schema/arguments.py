"""The command line of `python -m archon_align.schema`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from .stages import LARGE_TABLE_BYTES, STAGE_TIMEOUT

USAGE = 64
_EPILOG = """\
A DSN is a libpq URI or key=value string. To keep a password out of the process list give env:NAME to read the DSN from an
environment variable, or a DSN without password and a passfile, PGPASSWORD, or service= as libpq knows them.

exit codes: 0 aligned, 2 differences (left), 3 a decision is needed and nothing was changed, 4 rolled back after a failure,
5 resumable: run again, 1 error, 64 wrong usage
"""


class WrongUsage(Exception):
    """The command line cannot be understood. The text says why."""


@dataclass(frozen=True, slots=True)
class Arguments:
    """What was asked for."""

    command: str
    current: str
    desired: str
    json: bool
    schemas: tuple[str, ...]
    all_schemas: bool
    decisions: Path | None
    include: tuple[str, ...]
    exclude: tuple[str, ...]
    protect: tuple[str, ...]
    plan: Path | None
    out: Path | None
    both: bool
    reverse: bool
    connect_timeout: float
    statement_timeout: float
    stage_timeout: float
    large_table_mb: int


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise WrongUsage(message)


def wants_json(given: Sequence[str]) -> bool:
    """Whether JSON was asked for, even by a command line that cannot be understood."""
    return "--json" in given


def parser() -> argparse.ArgumentParser:
    """One parser for both commands, so that options may stand before the command or after it."""
    made = _Parser(
        prog="python -m archon_align.schema",
        description="Compare the schemas of two PostgreSQL databases (14 to 18), or align one with the other without losing a stored value.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    made.add_argument(
        "command", choices=("diff", "apply"), help="diff only reads; apply changes the database of --current"
    )
    made.add_argument("--current", metavar="DSN", help="the database that is, or would be, changed (PROD)")
    made.add_argument("--desired", metavar="DSN", help="the model (DEV); it is only read")
    made.add_argument("--json", action="store_true", help="print one JSON object instead of text")
    made.add_argument("--schema", action="append", metavar="NAME", help="a schema to compare; may be repeated (public)")
    made.add_argument(
        "--all-schemas", action="store_true", help="every schema that either database has, but the system's"
    )
    made.add_argument(
        "--decisions", type=Path, metavar="FILE", help="decisions as YAML or JSON, see docs/phases/2-schema.md"
    )
    made.add_argument(
        "--include", action="append", metavar="KIND:PATTERN", help="align only what matches, like table:app_*"
    )
    made.add_argument("--exclude", action="append", metavar="KIND:PATTERN", help="leave alone what matches")
    made.add_argument(
        "--protect", action="append", metavar="TABLE", help="a table of which no stored row may be lost (every table)"
    )
    made.add_argument("--plan", type=Path, metavar="FILE", help="a reviewed plan.json: apply exactly that, or refuse")
    made.add_argument("--out", type=Path, metavar="FOLDER", help="write plan.sql and plan.json there")
    made.add_argument("--reverse", action="store_true", help="diff: what --desired lacks of --current instead")
    made.add_argument("--both", action="store_true", help="diff: both directions")
    made.add_argument("--connect-timeout", type=float, default=10.0, metavar="SECONDS", help="(10)")
    made.add_argument(
        "--statement-timeout", type=float, default=300.0, metavar="SECONDS", help="for a single statement (300)"
    )
    made.add_argument(
        "--stage-timeout",
        type=float,
        default=STAGE_TIMEOUT,
        metavar="SECONDS",
        help=f"for a statement of a stage, outside the transaction ({STAGE_TIMEOUT:g})",
    )
    made.add_argument(
        "--large-table-mb",
        type=int,
        default=LARGE_TABLE_BYTES >> 20,
        metavar="MIB",
        help=f"tables of this size get indexes and constraints in stages ({LARGE_TABLE_BYTES >> 20})",
    )
    return made


def parse(given: Sequence[str]) -> Arguments:
    """The arguments. Raises WrongUsage; exits with 0 after --help."""
    if not given:
        raise WrongUsage("no command")
    found = parser().parse_args(given)
    for name in ("current", "desired"):
        if getattr(found, name) is None:
            raise WrongUsage(f"--{name} is missing")
    if found.schema and found.all_schemas:
        raise WrongUsage("--schema and --all-schemas exclude each other")
    if found.command == "apply" and (found.reverse or found.both):
        raise WrongUsage(
            "--reverse and --both are for diff; to align the other database exchange --current and --desired"
        )
    if found.both and (found.reverse or found.plan or found.out):
        raise WrongUsage("--both goes with neither --reverse nor --plan nor --out, which are about one direction")
    return Arguments(
        command=found.command,
        current=found.current,
        desired=found.desired,
        json=found.json,
        schemas=tuple(dict.fromkeys(found.schema or ("public",))),
        all_schemas=found.all_schemas,
        decisions=found.decisions,
        include=tuple(found.include or ()),
        exclude=tuple(found.exclude or ()),
        protect=tuple(found.protect or ()),
        plan=found.plan,
        out=found.out,
        both=found.both,
        reverse=found.reverse,
        connect_timeout=found.connect_timeout,
        statement_timeout=found.statement_timeout,
        stage_timeout=found.stage_timeout,
        large_table_mb=found.large_table_mb,
    )


def usage_text() -> str:
    """The short usage, for people."""
    return parser().format_usage() + f"Try: {sys.executable} -m archon_align.schema --help\n"
