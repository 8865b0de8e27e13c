"""Functions of Archon's that cannot work, told with what they should be; a decision corrects them in both databases. Pure.

Archon's guard against circular dependencies between components has a query without a destination, so that every insert and every
update of a dependency fails, and its search would not find a cycle either.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterator
from dataclasses import replace
from typing import Any

from pglast import parse_plpgsql
from pglast.parser import ParseError

from ..findings import Finding
from .model import Catalog, Function, Key, Kind

GUARD = "check_component_circular_dependency"
KNOWN = (GUARD,)
_BODY = re.compile(r"(?<=AS \$function\$).*(?=\$function\$)", re.DOTALL)
_CORRECTED = """
BEGIN
    -- The row itself does not count: an update may turn it round.
    IF EXISTS (
        WITH RECURSIVE reachable (component) AS (
            SELECT NEW.depends_on_component_id
            UNION
            SELECT d.depends_on_component_id
            FROM archon_component_dependencies AS d JOIN reachable AS r ON d.component_id = r.component
            WHERE d.id IS DISTINCT FROM NEW.id
        )
        SELECT 1 FROM reachable WHERE component = NEW.component_id
    ) THEN
        RAISE EXCEPTION 'circular dependency: component % would depend on itself', NEW.component_id;
    END IF;
    RETURN NEW;
END
"""


def with_corrections(catalog: Catalog, wanted: Collection[str]) -> Catalog:
    """`catalog` with those of the `wanted` functions corrected that are broken in it."""
    corrected = {
        one.key: replace(one, definition=_corrected(one)) for one in _broken(catalog) if one.key.name in wanted
    }
    return replace(catalog, objects={**catalog.objects, **corrected}) if corrected else catalog


def findings(dev: Catalog, prod: Catalog) -> list[Finding]:
    """What is told of broken functions, once for both databases."""
    there: dict[Key, list[str]] = {}
    texts: dict[Key, str] = {}
    for name, catalog in (("DEV", dev), ("PROD", prod)):
        for one in _broken(catalog):
            there.setdefault(one.key, []).append(name)
            texts[one.key] = _corrected(one)
    return [
        Finding(
            "dependency_trigger_broken",
            "warning",
            f"{' and '.join(names)}: {key}",
            "This trigger function of Archon's has a query without a destination, so every insert into and every update of "
            "archon_component_dependencies fails. The alignment carries it over as it is.",
            f"With archon_schema_decisions: {{corrections: [{key.name}]}} both databases get the corrected one: {texts[key].strip()}",
        )
        for key, names in there.items()
    ]


def _broken(catalog: Catalog) -> Iterator[Function]:
    for key in (Key(Kind.FUNCTION, schema, name) for schema in catalog.schemas for name in KNOWN):
        found = catalog.objects.get(key)
        if isinstance(found, Function) and _BODY.search(found.definition) and _lacks_destination(found.definition):
            yield found


def _corrected(function: Function) -> str:
    return _BODY.sub(lambda _: _CORRECTED, function.definition, count=1)


def _lacks_destination(definition: str) -> bool:
    """Whether one of its statements is a SELECT whose result goes nowhere, which PL/pgSQL refuses when it comes to it."""
    try:
        tree = parse_plpgsql(definition)
    except (ParseError, json.JSONDecodeError):
        return False
    return any(_goes_nowhere(statement) for statement in _statements(tree))


def _statements(tree: Any) -> Iterator[dict[str, Any]]:
    if isinstance(tree, dict):
        if isinstance(found := tree.get("PLpgSQL_stmt_execsql"), dict):
            yield found
        for value in tree.values():
            yield from _statements(value)
    elif isinstance(tree, list):
        for value in tree:
            yield from _statements(value)


def _goes_nowhere(statement: dict[str, Any]) -> bool:
    text = str(((statement.get("sqlstmt") or {}).get("PLpgSQL_expr") or {}).get("query", ""))
    reads = re.match(r"\s*(?:WITH\b.*\)\s*)?SELECT\b", text, re.DOTALL | re.IGNORECASE)
    return bool(reads) and not statement.get("into")
