"""pg_restore's list of an archive, less what must not be restored."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping

from .outside import LeftOut

_ENTRY = re.compile(r"(?P<dump_id>\d+); (?P<catalogue>\d+) (?P<oid>\d+) (?P<rest>.*)", re.DOTALL)


def without(listing: str, left_out: Collection[LeftOut], schemas: Mapping[str, str] | None = None) -> str:
    """`listing` (of pg_restore --list) for --use-list, without what is left out and without the schemas themselves.

    A dump by schema creates the schema, even `public`, which every database has. `schemas` (owners by name) limits that to
    those that are there.
    """
    present = None if schemas is None else {f"SCHEMA - {name} {owner}" for name, owner in schemas.items()}
    ids = {(item.catalogue, item.oid) for item in left_out}
    comments = tuple(f"COMMENT {item.schema} {item.tag} " for item in left_out)
    kept = []
    for line in listing.splitlines():
        entry = _ENTRY.match(line)
        if entry is None:
            continue
        if (int(entry["catalogue"]), int(entry["oid"])) in ids or entry["rest"].startswith(comments):
            continue
        if entry["rest"].startswith("SCHEMA - ") and (present is None or entry["rest"] in present):
            continue
        kept.append(line)
    return "\n".join(kept) + "\n"
