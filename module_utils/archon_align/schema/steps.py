"""The steps of a plan and their order: each object is one node, provided after everything it needs."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from ..plan import Statement
from .model import Key, Kind

# Among objects that do not need each other: the order in which a person would write them.
_RANK = {
    Kind.SCHEMA: 0, Kind.EXTENSION: 1, Kind.ENUM: 2, Kind.DOMAIN: 2, Kind.COMPOSITE: 2, Kind.SEQUENCE: 3, Kind.TABLE: 4,
    Kind.COLUMN: 5, Kind.DEFAULT: 6, Kind.FUNCTION: 7, Kind.CONSTRAINT: 8, Kind.INDEX: 9, Kind.VIEW: 11, Kind.MATVIEW: 12,
    Kind.TRIGGER: 13, Kind.POLICY: 14, Kind.DOMAIN_CONSTRAINT: 3, Kind.COLLATION: 2, Kind.RANGE: 2, Kind.DICTIONARY: 2,
    Kind.CONFIGURATION: 2, Kind.AGGREGATE: 7, Kind.STATISTICS: 9, Kind.RULE: 15,
    # As soon as their functions are there: no expression that uses one is known to need it.
    Kind.OPERATOR: 1, Kind.CAST: 1,
}  # fmt: skip
FOREIGN_KEY_RANK = 10
LATE_RANK = 16


@dataclass(frozen=True, slots=True)
class Guard(Statement):
    """A query that must return no row when it is run, under the plan's locks; `reason` says what a row would mean."""

    reason: str = ""


@dataclass(slots=True)
class Node:
    """The statements that provide one object, and what it needs besides what the catalogue says."""

    key: Key
    statements: list[Statement] = field(default_factory=list)
    rank: int = -1

    @property
    def place(self) -> tuple[int, Key]:
        return (self.rank if self.rank >= 0 else _RANK[self.key.kind], self.key)


class CyclicNeed(Exception):
    """Objects that need each other, so that none can be first."""

    def __init__(self, keys: Iterable[Key]) -> None:
        self.keys = tuple(sorted(keys))
        super().__init__(", ".join(map(str, self.keys)))


def ordered(nodes: Mapping[Key, Node], needs: Callable[[Key], Iterable[Key]]) -> list[Node]:
    """Nodes so that each comes after all it needs; raises CyclicNeed."""
    waiting: dict[Key, int] = {}
    followers: dict[Key, list[Key]] = {}
    for key in nodes:
        needed = {other for other in needs(key) if other in nodes and other != key}
        waiting[key] = len(needed)
        for other in needed:
            followers.setdefault(other, []).append(key)
    ready = [nodes[key].place for key, count in waiting.items() if count == 0]
    heapq.heapify(ready)
    result = []
    while ready:
        _, key = heapq.heappop(ready)
        result.append(nodes[key])
        for follower in followers.get(key, ()):
            waiting[follower] -= 1
            if waiting[follower] == 0:
                heapq.heappush(ready, nodes[follower].place)
    if len(result) < len(nodes):
        raise CyclicNeed(nodes.keys() - {node.key for node in result})
    return result
