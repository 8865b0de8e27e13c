"""What the command answers: one JSON object, or the same for people."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from difflib import unified_diff
from typing import Any

from ..findings import Finding
from .compare import MISSING, UNMODELLED, Comparison, Difference
from .decisions import VARIABLE
from .grouped import Entry, grouped
from .model import readable
from .planning import Made
from .text import statement_json

# How the command calls what the inventory calls otherwise.
_OPTIONS = {
    "archon_schema_include": "--include",
    "archon_schema_exclude": "--exclude",
    "archon_schema_decisions": "--decisions",
    "archon_schema_names": "--schema",
    "archon_artifacts_dir": "--out",
    "archon_schema_stage_timeout": "--stage-timeout",
    "archon_connect_timeout": "--connect-timeout",
    "archon_statement_timeout": "--statement-timeout",
}
# What is followed by a colon is a snippet for the file of --decisions, which takes it as it stands.
_VARIABLE = re.compile(f"(?:{'|'.join(_OPTIONS)})(?!:)")
_SNIPPET = f"{VARIABLE}:"


def for_command(text: str) -> str:
    """Advice that names inventory variables, for somebody who has none."""
    if _SNIPPET in text:
        text = text.replace(" in the inventory", " in a file for --decisions")
    return _VARIABLE.sub(lambda match: _OPTIONS[match[0]], text)


@dataclass(frozen=True, slots=True)
class Side:
    """One database, as it may be shown. `role` is the option that names it."""

    role: str
    where: str
    version: int

    def as_json(self) -> dict[str, Any]:
        return {"option": self.role, "database": self.where, "server_version_num": self.version}


@dataclass(frozen=True, slots=True)
class Direction:
    """One direction of a comparison: what PROD lacks of DEV, and the plan. `notes` are the command's own findings."""

    prod: Side
    dev: Side
    made: Made
    notes: tuple[Finding, ...] = ()

    @property
    def besides(self) -> list[dict[str, str]]:
        """What DEV is known to have otherwise although nothing here can change it: to say "no differences" would be false."""
        named = {str(one.key) for one in self.made.plan.comparison.differences}
        return [
            {"kind": UNMODELLED, "name": found.object, "aspect": UNMODELLED, "desired": "", "current": found.message}
            for found in self.made.findings
            if found.code == UNMODELLED
            and found.severity != "info"
            and found.object not in named
            and not self.made.choices.scope.include
        ]

    @property
    def differences(self) -> list[dict[str, str]]:
        """Each difference within the scope; last, what differs of kinds that are only told of."""
        return differences_json(self.made.plan.comparison) + self.besides

    @property
    def findings(self) -> tuple[Finding, ...]:
        """Everything a person should know besides what is refused."""
        return (*self.notes, *self.made.findings)

    def as_json(self) -> dict[str, Any]:
        comparison = self.made.plan.comparison
        return {
            "prod": self.prod.as_json(),
            "dev": self.dev.as_json(),
            "differences": self.differences,
            "only_in_prod": list(comparison.only_in_prod),
            "out_of_scope": [str(found) for found in self.made.outside],
            "findings": [_finding(found) for found in (*self.made.refused, *self.findings)],
            "refused": [_finding(found) for found in self.made.refused],
            "statements": [statement_json(one) for one in self.made.plan.every],
        }


def _finding(found: Finding) -> dict[str, str]:
    return {**found.as_dict(), "remedy": for_command(found.remedy)}


def differences_json(comparison: Comparison) -> list[dict[str, str]]:
    """The differences as objects with kind, name, aspect, desired and current."""
    return [_difference(found) for found in comparison.differences]


def _difference(found: Difference) -> dict[str, str]:
    missing = found.aspect == MISSING
    return {
        "kind": str(found.key.kind),
        "name": found.key.qualified,
        "aspect": found.aspect,
        "desired": "exists" if missing else readable(found.desired),
        "current": "missing" if missing else readable(found.current),
    }


# -- for people --------------------------------------------------------------------------------------------------------

_COLOURS = {"error": "31", "warning": "33", "good": "32", "title": "1", "faint": "2"}


class Page:
    """Lines of text, in colours where a terminal shows them. What databases hold may not steer the terminal."""

    def __init__(self, *, colours: bool) -> None:
        self.colours = colours
        self.lines: list[str] = []

    def add(self, text: str = "", style: str = "") -> None:
        shown = "".join(letter if letter.isprintable() or letter in "\t\n" else "�" for letter in text)
        self.lines.append(f"\033[{_COLOURS[style]}m{shown}\033[0m" if self.colours and style else shown)

    @property
    def text(self) -> str:
        return "\n".join(self.lines) + "\n"


def tell(page: Page, direction: Direction) -> None:
    """One direction: the differences by kind, what only PROD has, what must be decided, what should be known, the plan."""
    page.add(f"PROD  {direction.prod.where}  ({direction.prod.role})", "title")
    page.add(f"DEV   {direction.dev.where}  ({direction.dev.role}), the model", "title")
    page.add()
    comparison = direction.made.plan.comparison
    tell_differences(page, comparison, direction.besides, "that DEV has and PROD lacks or has otherwise")
    only = comparison.only_in_prod
    if only:
        page.add()
        page.add(f"{len(only)} only in PROD; they stay", "title")
        for name in only:
            page.add(f"  {name}")
    if direction.made.refused:
        page.add()
        page.add(f"{len(direction.made.refused)} to be decided; until then nothing is changed", "error")
        _tell_findings(page, direction.made.refused)
    if direction.findings:
        page.add()
        page.add(f"{len(direction.findings)} to know", "title")
        _tell_findings(page, sorted(direction.findings, key=lambda found: _SEVERITIES.index(found.severity)))
    _tell_plan(page, direction)


_SEVERITIES = ("error", "warning", "info")


def tell_differences(page: Page, comparison: Comparison, besides: Sequence[Mapping[str, str]], what: str) -> None:
    """The differences, grouped by table and kind; last, those `besides` them of kinds that are only told of."""
    number = len(comparison.differences) + len(besides)
    if not number:
        page.add("no differences", "good")
        return
    page.add(f"{counted(number, 'difference')} {what}", "title")
    for group in grouped(comparison):
        page.add(f"  {group.heading}{' (new)' if group.missing else ''}")
        for entry in group.entries:
            _tell_entry(page, entry)
    for found in besides:
        page.add(f"    {found['name']}: {found['current']}")


def _tell_entry(page: Page, entry: Entry) -> None:
    if entry.new is not None:
        page.add(f"    + {entry.name}{f': {entry.new}' if entry.new else ''}")
    for aspect, before, after in entry.changes:
        name = f"{entry.name}: {aspect}" if entry.name else aspect
        if len(before) == len(after) == 1:
            page.add(f"    ~ {name}: {before[0]} → {after[0]}")
            continue
        page.add(f"    ~ {name}")
        for line in list(unified_diff(before, after, n=2, lineterm=""))[2:]:
            page.add(f"        {line}", "faint" if line.startswith("@@") else "")


def _tell_findings(page: Page, findings: Iterable[Finding]) -> None:
    for found in findings:
        page.add(f"  {found.severity} {found.code}: {found.object}", found.severity if found.severity != "info" else "")
        for line in found.message.splitlines():
            page.add(f"    {line}")
        for number, line in enumerate(for_command(found.remedy).splitlines()):
            page.add(f"    {'→ ' if number == 0 else '  '}{line}", "faint")


def _tell_plan(page: Page, direction: Direction) -> None:
    statements = direction.made.plan.every
    if not statements:
        return
    page.add()
    page.add(f"{counted(len(statements), 'statement')} would align PROD", "title")
    width = len(str(len(statements)))
    for number, one in enumerate(statements, 1):
        notes = [*one.hazards, *([f"about {one.seconds:.1f} s"] if (one.seconds or 0) >= 0.1 else [])]
        page.add(f"  {number:>{width}}. {one.summary}{f'  [{", ".join(notes)}]' if notes else ''}")


def counted(number: int, thing: str) -> str:
    """`1 difference`, `2 differences`."""
    return f"{number} {thing}{'' if number == 1 else 's'}"
