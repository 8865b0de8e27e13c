"""python -m lab up|reset|down|remove|status"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import NoReturn

from archon_align.errors import AlignError

from .databases import ADMIN, STANDARD, VARIANTS
from .world import DEFAULT_FOLDER, Lab

WRONG_USAGE = 64
_HINTS = {
    STANDARD: "PROD is broken as the plan found it",
    "two-shapes": "some of PROD's tables have another shape; align with make align ARGS='-e @docs/examples/decisions-two-shapes.yml'",
    "force-rls": f"PROD's row-level security is forced on its owner, too; align as {ADMIN} with make align ARGS='-e archon_lab_admin=true'",
}


class _Arguments(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.print_usage(sys.stderr)
        self.exit(WRONG_USAGE, f"{self.prog}: {message}\n")


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")


def _show(lab: Lab) -> None:
    status = lab.status()
    for world in status.worlds:
        _say(f"{world.name.upper():9} {world.condition}")
        if world.uri:
            _say(f"{'':9} {world.uri}")
    _say(f"{'EMBEDDING':9} {status.embedding_base_url or 'not running'}")
    if status.portainer is not None or status.archons:
        _say(f"{'PORTAINER':9} {status.portainer.url if status.portainer else 'not running'}")
    if status.portainer is not None:
        _say(f"{'':9} API key in {status.portainer.api_key_file}, certificate in {status.portainer.ca_file}")
    for archon in status.archons:
        _say(f"{'ARCHON':9} {archon.name}: {archon.condition}")
        _say(f"{'':9} {archon.record.url}, MCP at {archon.record.mcp_url}")
    _say(f"{'VARIANT':9} {status.variant}: {_HINTS[status.variant]}")
    if not status.embedding_base_url or not all(world.uri for world in status.worlds):
        _say("Start it with: make lab-up")


def main(arguments: list[str] | None = None) -> int:
    """The command line; returns the exit code: 0 done, 1 an error was told, 64 wrong usage."""
    parser = _Arguments(
        prog="python -m lab",
        description="The embedded lab: DEV, PROD, an embedding service, and Portainer with two Archons.",
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="command", parser_class=_Arguments)
    for name, purpose in (
        ("up", "start what does not run, build what is not there"),
        ("reset", "bring both databases back to the start state"),
        ("down", "stop everything; the databases keep their contents"),
        ("remove", "stop everything and remove all data of the lab"),
        ("status", "what runs, and how to connect"),
    ):
        command = commands.add_parser(name, help=purpose, description=purpose)
        command.add_argument(
            "--folder",
            type=Path,
            default=Path(os.environ.get("ARCHON_LAB_FOLDER") or DEFAULT_FOLDER),
            help="where the lab lives (default: ARCHON_LAB_FOLDER, which inventory/lab reads too, or .lab in the repository)",
        )
        if name in ("up", "reset"):
            command.add_argument(
                "--archon",
                action=argparse.BooleanOptionalAction,
                help="with Portainer and the Archons (default: as the last time, with them at the first)",
            )
        if name == "reset":
            command.add_argument(
                "--variant", choices=VARIANTS, default=STANDARD, help="what PROD is like (default: %(default)s)"
            )
    options = parser.parse_args(arguments)
    lab = Lab(options.folder, archon=getattr(options, "archon", None))
    try:
        actions = {"up": lab.up, "down": lab.down, "remove": lab.remove}
        if options.command == "reset":
            lab.reset(options.variant)
        elif options.command in actions:
            actions[options.command]()
        if options.command in ("down", "remove"):
            _say("The lab is down." if options.command == "down" else "The lab is removed.")
        else:
            _show(lab)
    except AlignError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    except KeyboardInterrupt:
        sys.stderr.write("Interrupted; run the command again to finish.\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
