"""`python -m archon_align.rollback list --artifacts <folder> [--json]`: the restore points of all runs, newest last."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from .listing import rows, table

USAGE = 64


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.exit(USAGE, f"{self.format_usage()}{self.prog}: error: {message}\n")


def main(given: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    parser = _Parser(prog="python -m archon_align.rollback", description=__doc__)
    listing = parser.add_subparsers(dest="command", required=True, parser_class=_Parser).add_parser(
        "list", help="print the restore points; no database is asked"
    )
    listing.add_argument("--artifacts", type=Path, required=True, help="where the runs' folders are")
    listing.add_argument("--json", action="store_true", help="print one JSON object")
    asked = parser.parse_args(given)
    root = asked.artifacts.absolute()
    if asked.json:
        points, odd = rows(root)
        sys.stdout.write(json.dumps({"restore_points": points, "not_usable": odd}, indent=2) + "\n")
    else:
        encoding = sys.stdout.encoding or "utf-8"
        sys.stdout.write(table(root).encode(encoding, "replace").decode(encoding))
    return 0


if __name__ == "__main__":
    sys.exit(main())
