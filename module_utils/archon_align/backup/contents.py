"""pg_restore's list of an archive, less what must not be restored."""

from __future__ import annotations

import re
from collections.abc import Collection

from .outside import LeftOut

_ENTRY = re.compile(r"(?P<dump_id>\d+); (?P<catalogue>\d+) (?P<oid>\d+) (?P<rest>.*)", re.DOTALL)


def without(listing: str, left_out: Collection[LeftOut]) -> str:
    """`listing` (of pg_restore --list) for --use-list, without the schemas themselves and what is left out.

    A dump by schema creates the schema, even `public`, which every database has.
    """
    ids = {(item.catalogue, item.oid) for item in left_out}
    comments = tuple(f"COMMENT {item.schema} {item.tag} " for item in left_out)
    kept = []
    for line in listing.splitlines():
        entry = _ENTRY.match(line)
        if entry is None:
            continue
        if (int(entry["catalogue"]), int(entry["oid"])) in ids or entry["rest"].startswith(("SCHEMA - ", *comments)):
            continue
        kept.append(line)
    return "\n".join(kept) + "\n"
