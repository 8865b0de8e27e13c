"""Portable text: deparsed SQL in which an extension's objects are known by extension, not by the schema it happens to live in."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Any

from pglast import ast, parse_sql
from pglast.parser import ParseError

# Private-use characters cannot occur in what PostgreSQL deparses unless somebody put them into an identifier on purpose.
_OPEN, _CLOSE = "\ue000", "\ue001"
_MARK = re.compile(f"{_OPEN}([^{_CLOSE}]*){_CLOSE}")
# Fields of a parse tree that say where something stood in the text.
_POSITIONS = ("location", "list_start", "list_end", "stmt_len")
_IDENTIFIER = r'(?:"(?:[^"]|"")+"|[^\W\d][\w$]*)'
# String literals and comments are skipped whole; then schema-qualified names, and operators as OPERATOR(schema.op).
_TOKENS = re.compile(
    r"(?P<skip>'(?:[^']|'')*'|--[^\n]*|/\*.*?\*/)"
    rf"|(?<![\w$\".])(?P<schema>{_IDENTIFIER})\.(?P<name>{_IDENTIFIER}|[-+*/<>=~!@#%^&|`?]+)",
    re.DOTALL,
)


def _bare(identifier: str) -> str:
    return identifier[1:-1].replace('""', '"') if identifier.startswith('"') else identifier


class Portable:
    """Turns one database's deparsed text into portable text.

    `members` are (schema, name, extension) of the objects that belong to extensions; `own` are (schema, name) of the user's
    own functions and types, which win where an extension has an object of the same name.
    """

    def __init__(self, members: Iterable[tuple[str, str, str]], own: Iterable[tuple[str, str]] = ()) -> None:
        taken = set(own)
        self._members = {
            (schema, name): extension
            for schema, name, extension in members
            if schema != "pg_catalog" and (schema, name) not in taken
        }
        # Most text names no such schema: asked first, as it stands inside quotes or outside.
        hints = {schema.replace('"', '""') for schema, _ in self._members}
        self._hint = re.compile("|".join(map(re.escape, sorted(hints)))) if hints else None
        self._known: dict[str, str] = {}

    def __call__(self, text: str) -> str:
        # The same few types and defaults occur thousands of times: looked at once, and kept once.
        known = self._known.get(text)
        if known is None:
            found = self._hint is not None and self._hint.search(text)
            known = self._known[text] = _TOKENS.sub(self._replace, text) if found else text
        return known

    def optional(self, text: str | None) -> str | None:
        return None if text is None else self(text)

    def _replace(self, match: re.Match[str]) -> str:
        if match["skip"] is not None:
            return match[0]
        extension = self._members.get((_bare(match["schema"]), _bare(match["name"])))
        return match[0] if extension is None else f"{_OPEN}{extension}{_CLOSE}.{match['name']}"


def rendered(text: str, schemas: Mapping[str, str], quote: Any) -> str:
    """Portable text as SQL for a database in which each extension lives in `schemas[extension]`."""
    return _MARK.sub(lambda match: str(quote(schemas.get(match[1], match[1]))), text) if _OPEN in text else text


def extensions_in(text: str) -> set[str]:
    """The extensions that portable text needs."""
    return set(_MARK.findall(text))


def same_meaning(one: str, other: str, *, same_version: bool) -> bool:
    """Are two portable texts (a query, or an expression) the same? Between server versions deparsing differs: then the parse
    trees are compared, without the table prefix that a query on a single relation does not need."""
    if one == other:
        return True
    return not same_version and (tree := _tree(one)) is not None and tree == _tree(other)


@lru_cache(maxsize=4096)
def _tree(text: str) -> str | None:
    text = _MARK.sub(lambda match: '"' + match[1].replace('"', '""') + '"', text)
    for candidate in (text, f"SELECT {text}"):
        try:
            statements = parse_sql(candidate)
        except ParseError:
            continue
        return repr([_plain(raw.stmt, None) for raw in statements])
    return None


def _single_relation(node: ast.SelectStmt) -> str | None:
    sources = node.fromClause or ()
    if len(sources) != 1 or not isinstance(sources[0], (ast.RangeVar, ast.RangeSubselect, ast.RangeFunction)):
        return None
    source = sources[0]
    if source.alias is not None:
        return str(source.alias.aliasname)
    return str(source.relname) if isinstance(source, ast.RangeVar) else None


def _plain(node: Any, prefix: str | None) -> Any:
    """A comparable form of a parse tree without positions."""
    if isinstance(node, ast.SelectStmt):
        prefix = _single_relation(node) or prefix
    if isinstance(node, ast.ColumnRef):
        names = [getattr(part, "sval", "*") for part in node.fields or ()]
        return ("column", *(names[1:] if len(names) == 2 and names[0] == prefix else names))
    if isinstance(node, ast.ResTarget) and node.name is not None and isinstance(node.val, ast.ColumnRef):
        last = getattr((node.val.fields or (None,))[-1], "sval", "*")
        # `t.id AS id` and `id` name the same output column.
        return ("target", node.name if node.name != last else None, _plain(node.val, prefix))
    if isinstance(node, ast.ResTarget):
        return ("target", node.name, _plain(node.val, prefix))
    if isinstance(node, ast.Node):
        return (
            type(node).__name__,
            *((name, _plain(getattr(node, name), prefix)) for name in node if not name.endswith(_POSITIONS)),
        )
    if isinstance(node, (tuple, list)):
        return tuple(_plain(item, prefix) for item in node)
    return str(node)
