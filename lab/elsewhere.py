"""python -m lab.elsewhere {dev,prod}: the lab's start state on a PostgreSQL server that is not the lab's own.

The server is named by libpq's environment (PGHOST, PGPORT, PGUSER of a superuser, PGPASSFILE), the roles' password is in the file
that --password-file names. With it a scenario on containers begins with the same worlds as the embedded lab.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import psycopg

from . import databases
from .databases import DATABASE, STANDARD, VARIANTS
from .world import WORLDS


def main(arguments: list[str] | None = None) -> int:
    """Roles, database and rows; an existing database is replaced once the new one is complete. 1 when the server refuses."""
    parser = argparse.ArgumentParser(prog="python -m lab.elsewhere", description=__doc__)
    parser.add_argument("world", choices=WORLDS)
    parser.add_argument("--embedding-base-url", required=True, help="as the settings of a healthy Archon name it")
    parser.add_argument("--password-file", type=Path, required=True, help="file with the password of the lab's roles")
    parser.add_argument("--database", default=DATABASE, help="its name (default: %(default)s)")
    parser.add_argument(
        "--variant", choices=VARIANTS, default=STANDARD, help="what PROD is like (default: %(default)s)"
    )
    options = parser.parse_args(arguments)
    superuser = "dbname=postgres connect_timeout=30"
    try:
        databases.ensure_roles(superuser, options.password_file.read_text().strip())
        databases.rebuild(superuser, options.world, options.embedding_base_url, options.variant, options.database)
    except (OSError, psycopg.Error) as error:
        sys.stderr.write(f"{options.world} could not be built: {' '.join(str(error).split())}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
