"""Which variables of a stack have to change so that a service gets the environment that is wanted. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import yaml

from ..errors import AlignError
from ..findings import Finding
from ..settings.wanted import shown

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,199}")
# The whole of a value: ${X}, ${X:-default}, ${X-default}, ${X:?message}, $X.
_REFERENCE = re.compile(r"\$(?:\{([A-Za-z_][A-Za-z0-9_]*)(?::?[-?][^{}]*)?\}|([A-Za-z_][A-Za-z0-9_]*))")
# Portainer writes all variables of a stack into this file.
_WHOLE_STACK = "stack.env"


@dataclass(frozen=True, slots=True)
class Change:
    """A variable of the stack that gives `key` of the service's environment another value; None: it was not there."""

    variable: str
    key: str
    before: str | None = field(repr=False)
    after: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class EnvironmentPlan:
    """What to change for one service, and what cannot be."""

    service: str
    changes: tuple[Change, ...] = ()
    findings: tuple[Finding, ...] = ()

    def diff(self) -> dict[str, str]:
        """Before and after, secrets hidden."""
        header = f"environment of {self.service}"
        return {
            "before_header": header,
            "after_header": header,
            "before": "".join(
                f"{one.variable}={shown(one.variable, one.before)}\n" for one in self.changes if one.before is not None
            ),
            "after": "".join(f"{one.variable}={shown(one.variable, one.after)}\n" for one in self.changes),
        }


def checked(extra: Mapping[str, object]) -> dict[str, str]:
    """archon_services_environment as text. Raises AlignError, never quoting a value."""
    found: dict[str, str] = {}
    for name, value in extra.items():
        plain = isinstance(value, str | int | float)
        text = ("true" if value else "false") if isinstance(value, bool) else str(value)
        if not isinstance(name, str) or not _NAME.fullmatch(name) or not plain or not text.isprintable():
            raise AlignError(
                "An environment variable cannot be used.",
                object_name=f"archon_services_environment: {name}",
                expected="a name of letters, digits and '_', and a value of one line of text, a number or a boolean",
                found=f"a value of type {type(value).__name__}" if not plain else "another name or value",
                remedy="Correct archon_services_environment.",
                code="bad_variable",
            )
        found[name] = text
    return found


def plan(
    file: str,
    variables: Mapping[str, str],
    *,
    service: str,
    name: str,
    environment: Mapping[str, str],
    wanted: Mapping[str, str],
) -> EnvironmentPlan:
    """The stack variables to change so that `service` (its key in the stack's `file`) runs with `wanted`; `name` is for people.

    Only variables that the file passes on to this service, and to nothing else, are changed; the others are findings.
    """
    try:
        content = yaml.safe_load(file)
        given = content["services"][service]
    except (yaml.YAMLError, KeyError, TypeError):
        unreadable = Finding(
            "stack_file_unreadable",
            "error",
            name,
            f"The stack's file has no service {service} that could be read, so its environment was left as it is.",
            "Look at the stack's file in Portainer.",
        )
        return EnvironmentPlan(name, findings=(unreadable,))
    changes: list[Change] = []
    findings: list[Finding] = []
    entries, whole = _entries(given), _gets_whole_stack(given)
    for key, value in wanted.items():
        if environment.get(key) == value:
            continue
        variable, problem = _variable(key, entries, whole=whole)
        own = 0 if entries.get(key) is None else 1
        if variable and sum(1 for text in _texts(content) for one in _references(text) if one == variable) > own:
            problem = f"the file uses ${{{variable}}} elsewhere, too, and more than {service} would change with it"
        if problem:
            findings.append(
                Finding(
                    "environment_not_passed",
                    "warning",
                    f"{name}: {key}",
                    f"The variable cannot be set for this service alone: {problem}. It is {shown(key, environment.get(key))} there; "
                    f"wanted is {shown(key, value)}.",
                    f"Write `{key}=${{{key}}}` into the service's environment in the stack's file, if Archon shall read it from there.",
                )
            )
        elif variable and variables.get(variable) != value:
            changes.append(Change(variable, key, variables.get(variable), value))
    return EnvironmentPlan(name, tuple(changes), tuple(findings))


def _entries(given: Mapping[str, Any]) -> dict[str, str | None]:
    """The service's environment as written: None for a bare key, which takes the variable of its name."""
    written = given.get("environment") or {}
    if isinstance(written, Mapping):
        return {str(key): None if value is None else str(value) for key, value in written.items()}
    entries: dict[str, str | None] = {}
    for item in written:
        key, equals, value = str(item).partition("=")
        entries[key] = value if equals else None
    return entries


def _gets_whole_stack(given: Mapping[str, Any]) -> bool:
    files = given.get("env_file") or []
    return _WHOLE_STACK in ([files] if isinstance(files, str) else files)


def _variable(key: str, entries: Mapping[str, str | None], *, whole: bool) -> tuple[str, str]:
    """The stack variable that decides `key`, or why there is none."""
    if key not in entries:
        return (key, "") if whole else ("", f"the file does not reference ${{{key}}} in this service's environment")
    value = entries[key]
    if value is None:
        return key, ""
    found = _REFERENCE.fullmatch(value)
    if found is None:
        return (
            "",
            "the file does not reference a variable for it"
            if "$" not in value
            else "the file makes it of several parts",
        )
    return found[1] or found[2], ""


def _texts(content: object) -> Iterator[str]:
    if isinstance(content, Mapping):
        for key, value in content.items():
            yield from _texts(key)
            yield from _texts(value)
    elif isinstance(content, list):
        for value in content:
            yield from _texts(value)
    elif isinstance(content, str):
        yield content


def _references(text: str) -> Iterator[str]:
    for found in _REFERENCE.finditer(text.replace("$$", "")):
        yield found[1] or found[2]
