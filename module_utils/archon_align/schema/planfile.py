"""Plan files: plan.json bound to what it was made of, and the proof that a reviewed one is exactly the plan that would run.

A reviewed plan is never executed from the file. The plan is made anew and must equal it, so nothing that was edited into a
file, and nothing that was made of another state of the databases, can ever run.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any

import orjson

from .. import __version__
from ..database.session import Session
from ..errors import AlignError
from .model import Catalog, Composite, Kind

FORMAT = 1
SIDES = ("dev", "prod")
_SHOWN = 5


def digest(value: Any) -> str:
    """SHA-256, in hex, of `value` as JSON with sorted keys: the same in every process."""
    return hashlib.sha256(orjson.dumps(value, default=_plain, option=orjson.OPT_SORT_KEYS)).hexdigest()


def _plain(value: Any) -> Any:
    if isinstance(value, (set, frozenset)):
        return sorted(value)
    if isinstance(value, tuple):  # a named one
        return [*value]
    raise TypeError(f"{type(value).__name__} has no place in a plan file")


def object_digests(catalog: Catalog) -> dict[str, str]:
    """A short digest per object, comment and set of grants included, by the object's name."""
    beside = {key for key in (*catalog.comments, *catalog.grants) if key not in catalog.objects}
    parts: dict[str, list[Any]] = {}
    for key in sorted({*catalog.objects, *beside}):
        # Comments and grants of columns are told with their table.
        home = key.table if key.kind is Kind.COLUMN else key
        value = catalog.objects.get(key)
        # The order of columns says nothing, that of a composite type's attributes does.
        order = tuple(value.attributes) if isinstance(value, Composite) else ()
        told = (key, value, order, catalog.comments.get(key), catalog.grants.get(key), catalog.owners.get(key))
        parts.setdefault(str(home), []).append(told)
    found = {name: digest(told)[:16] for name, told in parts.items()}
    return found | {f"{one.kind} {one.name}": digest(one)[:16] for one in catalog.unmodelled}


@dataclass(frozen=True, slots=True)
class Source:
    """One database that a plan was made of: which it is, and what its structure was."""

    database: str
    system: str
    objects: Mapping[str, str]

    @property
    def fingerprint(self) -> str:
        """A digest of the whole structure."""
        return digest(self.objects)

    def as_json(self) -> dict[str, Any]:
        return {
            "database": self.database,
            "system": self.system,
            "fingerprint": self.fingerprint,
            "objects": dict(self.objects),
        }


def source_of(session: Session, catalog: Catalog) -> Source:
    """What binds a plan to this database. `system` is '' where the role may not read the cluster's identifier."""
    system = ""
    if session.value(
        "SELECT pg_catalog.has_function_privilege('pg_catalog.pg_control_system()'::pg_catalog.regprocedure, 'EXECUTE')"
    ):
        system = str(session.value("SELECT system_identifier FROM pg_catalog.pg_control_system()"))
    return Source(catalog.database, system, object_digests(catalog))


def bound(
    plans: Mapping[str, Mapping[str, Any]], sources: Mapping[str, Source], inputs: Mapping[str, Any]
) -> dict[str, Any]:
    """plan.json: the plans of both sides, with what they were made of and a digest over everything."""
    document = {
        "format": FORMAT,
        "inputs": {"version of archon-align": __version__, **inputs},
        "sources": {side: source.as_json() for side, source in sources.items()},
        **{side: dict(plan) for side, plan in plans.items()},
    }
    # As a reader will see it: JSON knows no tuples.
    document = orjson.loads(orjson.dumps(document))
    return {**document, "digest": digest(document)}


def load(path: Path) -> dict[str, Any]:
    """A reviewed plan.json. Raises AlignError when it cannot be read, is none, or was edited."""
    try:
        document = orjson.loads(path.read_bytes())
    except OSError as error:
        raise _unusable(path, "a readable file", error.strerror or str(error), "plan_unreadable") from error
    except orjson.JSONDecodeError as error:
        raise _unusable(path, "a plan.json that archon-align wrote", f"no JSON: {error}", "plan_unreadable") from error
    if not isinstance(document, dict) or document.get("format") != FORMAT or not set(SIDES) <= document.keys():
        raise _unusable(
            path, f"a plan.json of format {FORMAT}", "another kind of file, or of another version", "plan_unreadable"
        )
    told = document.pop("digest", None)
    if told != digest(document):
        raise _unusable(path, "the file as archon-align wrote it", "it was edited", "plan_edited")
    return {**document, "digest": told}


def require_same(reviewed: Mapping[str, Any], now: Mapping[str, Any], path: Path) -> None:
    """Raise AlignError unless `now`, the plan just made, is exactly the `reviewed` one."""
    for name in sorted({*reviewed["inputs"], *now["inputs"]}):
        one, other = reviewed["inputs"].get(name), now["inputs"].get(name)
        if one != other:
            found = f"it was made with {name} = {_text(one)}, this run has {_text(other)}"
            raise _unusable(path, "the same variables as when it was made", found, "plan_other_inputs")
    for side in SIDES:
        one, other = reviewed["sources"][side], now["sources"][side]
        if one["database"] != other["database"] or (
            one["system"] and other["system"] and one["system"] != other["system"]
        ):
            found = f"it was made for {side.upper()} {one['database']}, and this is {other['database']}" + (
                " on another server" if one["database"] == other["database"] else ""
            )
            raise _unusable(path, "a plan made for these databases", found, "plan_other_database")
    changed = [
        f"{side.upper()} {text}"
        for side in SIDES
        for text in _changed(reviewed["sources"][side]["objects"], now["sources"][side]["objects"])
    ]
    if changed:
        raise _unusable(path, "both databases as they were when it was made", _list(changed), "plan_outdated")
    for side in SIDES:
        one, other = (_statements(document[side]) for document in (reviewed, now))
        if one != other or reviewed[side]["refused"] != now[side]["refused"]:
            raise _unusable(path, "the very statements that it lists", _first_apart(side, one, other), "plan_differs")


def _statements(plan: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What was reviewed of each statement, those of stages included; estimated times may differ from day to day."""
    found = [*plan["statements"], *(one for stage in plan["stages"] for one in stage["statements"])]
    return [{name: value for name, value in one.items() if name != "seconds"} for one in found]


def _changed(reviewed: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    """What became of the objects of one side since."""
    found = []
    for name in sorted({*reviewed, *now}):
        if name not in now:
            found.append(f"{name} is gone")
        elif name not in reviewed:
            found.append(f"{name} is new")
        elif reviewed[name] != now[name]:
            found.append(f"{name} was changed")
    return found


def _first_apart(side: str, one: Sequence[Mapping[str, Any]], other: Sequence[Mapping[str, Any]]) -> str:
    for number, (here, there) in enumerate(zip_longest(one, other), 1):
        if here != there:
            shown = [repr(found["sql"]) if found else "nothing" for found in (here, there)]
            same = " with other hazards" if shown[0] == shown[1] else ""
            return (
                f"for {side.upper()}, statement {number} was {shown[0]} and would now be {shown[1]}{same}"
                " (the rows, or the version of archon-align, are others)"
            )
    return f"for {side.upper()}, something else is refused now than when it was made"


def _text(value: Any) -> str:
    return orjson.dumps(value).decode()


def _list(texts: Sequence[str]) -> str:
    more = f"; and {len(texts) - _SHOWN} more" if len(texts) > _SHOWN else ""
    return "; ".join(texts[:_SHOWN]) + more


def _unusable(path: Path, expected: str, found: str, code: str) -> AlignError:
    return AlignError(
        "The reviewed plan cannot be applied; nothing was changed.",
        object_name=str(path),
        expected=expected,
        found=found,
        remedy="Make a plan anew (a check writes plan.json), review it, and apply that one.",
        code=code,
    )
