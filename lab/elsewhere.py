"""python -m lab.elsewhere: the lab's worlds on servers that are not the lab's own, such as a scenario's containers.

    python -m lab.elsewhere build {dev,prod} --embedding-base-url URL --password-file FILE
    python -m lab.elsewhere keys FILE
    python -m lab.elsewhere portainer FOLDER --engine unix:///path [--stack FILE]

`build` makes the start state on the PostgreSQL server that libpq's environment names (PGHOST, PGPORT, PGUSER of a superuser,
PGPASSFILE); the roles' password is in a file. `keys` writes the environment of an Archon with keys of its own, unless it is there.
`portainer` starts a Portainer before a real engine, on loopback, and prints as JSON where it is and where its key and certificate are.
It keeps and deploys the compose stack that a JSON file describes: `name`, `file` (the compose file's text) and `env`.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from dataclasses import asdict
from pathlib import Path

import psycopg
from archon_align.errors import AlignError

from . import databases, portainer_process
from .archon import keys
from .databases import DATABASE, STANDARD, VARIANTS
from .portainer.store import COMPOSE_STACK, write_start
from .world import WORLDS


def _build(options: argparse.Namespace) -> None:
    superuser = "dbname=postgres connect_timeout=30"
    databases.ensure_roles(superuser, options.password_file.read_text().strip())
    databases.rebuild(
        superuser, options.world, options.embedding_base_url, options.variant, options.database, hosted=options.hosted
    )


def _keys(options: argparse.Namespace) -> None:
    secret = keys.new_secret()
    lines = f"SUPABASE_JWT_SECRET={secret}\nSUPABASE_SERVICE_KEY={keys.service_key(secret)}\n"
    try:
        descriptor = os.open(options.file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        return
    with os.fdopen(descriptor, "w") as file:
        file.write(lines)


def _portainer(options: argparse.Namespace) -> None:
    options.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    stacks = [{**json.loads(options.stack.read_text()), "type": COMPOSE_STACK}] if options.stack else []
    write_start(options.folder, {"images": {}, "ports": {}, "stacks": stacks})
    record = portainer_process.start(options.folder, None, options.engine)
    portainer_process.tell(record, "POST", "up")
    json.dump(asdict(record), sys.stdout)


def main(arguments: list[str] | None = None) -> int:
    """The command line; 1 when a server or a file refuses."""
    parser = argparse.ArgumentParser(
        prog="python -m lab.elsewhere", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(required=True, metavar="command")
    build = commands.add_parser("build", help="roles, database and rows; an existing database is replaced at the end")
    build.add_argument("world", choices=WORLDS)
    build.add_argument("--embedding-base-url", required=True, help="as the settings of a healthy Archon name it")
    build.add_argument("--password-file", type=Path, required=True, help="file with the password of the lab's roles")
    build.add_argument("--database", default=DATABASE, help="its name (default: %(default)s)")
    build.add_argument("--variant", choices=VARIANTS, default=STANDARD, help="what PROD is like (default: %(default)s)")
    build.add_argument(
        "--hosted", action="store_true", help="extensions in a schema of their own, as Supabase has them"
    )
    build.set_defaults(work=_build)
    made = commands.add_parser("keys", help="the secret and the service key of one Archon, as environment")
    made.add_argument("file", type=Path)
    made.set_defaults(work=_keys)
    started = commands.add_parser("portainer", help="a Portainer before an engine that is not the lab's own")
    started.add_argument("folder", type=Path)
    started.add_argument("--engine", required=True, help="unix:///path of the engine")
    started.add_argument("--stack", type=Path, help="file with a compose stack that it keeps and deploys")
    started.set_defaults(work=_portainer)
    options = parser.parse_args(arguments)
    try:
        options.work(options)
    except (OSError, psycopg.Error, AlignError) as error:
        sys.stderr.write(f"{' '.join(str(error).split())}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
