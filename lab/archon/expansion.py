"""Template expansion, with the defect of its log lines: they raise TypeError whenever their level is enabled."""

from __future__ import annotations

import hashlib
import logging
import re
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from .rest import Rest, RestError, Row

logger = logging.getLogger("archon.templates")

DEFINITIONS = "archon_template_definitions"
COMPONENTS = "archon_template_components"
DEFAULT_TEMPLATE = "workflow_default"
_TASK = "{{USER_TASK}}"
_PLACEHOLDER = re.compile(r"\{\{([^}]+)\}\}")
_TEMPLATE_NAME = re.compile(r"[a-z0-9_-]+")
_COMPONENT_NAME = re.compile(r"(action|group|sequence)::[a-z0-9_]+")
_TEMPLATE_SECONDS, _COMPONENT_SECONDS, _EXPANSION_SECONDS = 1800.0, 900.0, 300.0
_MAX_KEPT = 1000


class ExpansionFailed(Exception):
    """A task keeps its own text."""


@dataclass(frozen=True)
class Expansion:
    """What a task's text became, and what is said of it."""

    text: str
    metadata: dict[str, Any]


class _Kept[T]:
    """Values by key, each for so many seconds."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._values: dict[object, tuple[float, T]] = {}

    def get(self, key: object) -> T | None:
        found = self._values.get(key)
        return found[1] if found is not None and time.monotonic() - found[0] < self._seconds else None

    def set(self, key: object, value: T) -> None:
        if len(self._values) >= _MAX_KEPT:
            self._values.clear()
        self._values[key] = (time.monotonic(), value)


def _log(level: int, message: str) -> None:
    """As Archon's code calls it: the standard logger takes no such keyword, and only looks at it when it logs."""
    if logger.isEnabledFor(level):
        raise TypeError("Logger._log() got an unexpected keyword argument 'template_name'")
    logger.log(level, message)


@dataclass
class Expander:
    """Expands task texts and remembers templates, components and expansions for a while."""

    rest: Rest
    _templates: _Kept[Row] = field(default_factory=lambda: _Kept[Row](_TEMPLATE_SECONDS))
    _components: _Kept[str] = field(default_factory=lambda: _Kept[str](_COMPONENT_SECONDS))
    _expansions: _Kept[str] = field(default_factory=lambda: _Kept[str](_EXPANSION_SECONDS))

    async def expand(self, text: str, template_name: str, project_id: str) -> Expansion:
        """Raises ExpansionFailed, sometimes although the template is there and right."""
        key = (template_name, hashlib.sha256(text.encode()).hexdigest(), project_id)
        try:
            known = self._expansions.get(key)
            if known is not None:
                _log(logging.DEBUG, "Expansion found in cache")
                return Expansion(known, {})
            template = await self._template(template_name)
            expanded, seconds = await self._expanded(template, text)
            self._expansions.set(key, expanded)
            _log(logging.INFO, "Template expanded")
        except TypeError as error:
            raise ExpansionFailed(f"Template expansion failed: {error}") from error
        data = template["template_data"]
        metadata = {
            "template_injection_enabled": True,
            "template_name": template_name,
            "template_id": template["id"],
            "user_task_position": data.get("user_task_position"),
            "estimated_duration": data.get("estimated_duration"),
            "required_tools": data.get("required_tools", []),
            "expansion_time_ms": int(seconds * 1000),
            "component_count": 0,
        }
        return Expansion(expanded, metadata)

    async def _template(self, name: str) -> Row:
        """Whatever goes wrong here is told as "not found"."""
        try:
            known = self._templates.get(name)
            if known is not None:
                _log(logging.DEBUG, "Template found in cache")
                return known
            rows = await self.rest.select(DEFINITIONS, ("name", "eq", name), ("is_active", "is", True), limit=1)
            if rows and _is_valid_template(rows[0]):
                self._templates.set(name, rows[0])
                _log(logging.INFO, "Template loaded")
                return rows[0]
        except (RestError, TypeError) as error:
            logger.error("Error getting template %s: %s", name, error)
        raise ExpansionFailed(f"Template '{name}' not found")

    async def _expanded(self, template: Row, text: str) -> tuple[str, float]:
        started = time.monotonic()
        data = template["template_data"]
        content = data.get("template_content") if isinstance(data, dict) else None
        if not content:
            raise ExpansionFailed(f"Template '{template['name']}' has no content")
        for name in dict.fromkeys(_PLACEHOLDER.findall(content)):
            if name == "USER_TASK":
                continue
            instructions = await self._component(name)
            if instructions is None:
                logger.warning("Component %s not found; its placeholder stays", name)
            else:
                content = content.replace("{{" + name + "}}", instructions)
        return content.replace(_TASK, text), time.monotonic() - started

    async def _component(self, name: str) -> str | None:
        known = self._components.get(name)
        if known is not None:
            return known
        try:
            rows = await self.rest.select(COMPONENTS, ("name", "eq", name), ("is_active", "is", True), limit=1)
        except RestError as error:
            logger.error("Error getting component %s: %s", name, error)
            return None
        if not rows or not _is_valid_component(rows[0]):
            return None
        self._components.set(name, rows[0]["instruction_text"])
        return str(rows[0]["instruction_text"])


def problems_of_template(row: Row) -> list[str]:
    """What the model of a template refuses, name, title and shape only: placeholders are not looked at."""
    checks: list[tuple[bool, str]] = [
        (
            _is(_TEMPLATE_NAME, row.get("name")),
            "name must contain only lowercase letters, digits, hyphens and underscores",
        ),
        (bool(row.get("title")), "title is required"),
        (
            row.get("template_type") in ("project", "task", "component"),
            "template_type must be project, task or component",
        ),
        (isinstance(row.get("template_data"), dict), "template_data must be an object"),
        *((_is_text(row, name), f"{name} must be a string") for name in ("category", "description")),
        (_is_list(row, "tags"), "tags must be a list of strings"),
    ]
    return [text for fits, text in checks if not fits]


def problems_of_component(row: Row) -> list[str]:
    """What the model of a component refuses."""
    lists, objects = ("required_tools", "tags", "validation_criteria"), ("input_requirements", "output_expectations")
    checks: list[tuple[bool, str]] = [
        (_is(_COMPONENT_NAME, str(row.get("name")).lower()), "name must be (action|group|sequence)::name"),
        (bool(row.get("instruction_text")), "instruction_text is required"),
        (row.get("priority", "medium") in ("low", "medium", "high", "critical"), "priority is unknown"),
        *((_is_text(row, name), f"{name} must be a string") for name in ("category", "description")),
        *((_is_list(row, name), f"{name} must be a list of strings") for name in lists),
        *((isinstance(row.get(name, {}), dict), f"{name} must be an object") for name in objects),
    ]
    return [text for fits, text in checks if not fits]


def _is_valid_template(row: Row) -> bool:
    return _logged("template", row, problems_of_template)


def _is_valid_component(row: Row) -> bool:
    return _logged("component", row, problems_of_component)


def _logged(what: str, row: Row, problems: Callable[[Row], list[str]]) -> bool:
    found = problems(row)
    if found:
        logger.error("Invalid %s %s: %s", what, row.get("name"), "; ".join(found))
    return not found


def _is(pattern: re.Pattern[str], value: object) -> bool:
    return isinstance(value, str) and pattern.fullmatch(value) is not None


def _is_text(row: Row, name: str) -> bool:
    return isinstance(row.get(name, ""), str)


def _is_list(row: Row, name: str) -> bool:
    value = row.get(name, [])
    return isinstance(value, list) and all(isinstance(one, str) for one in value)
