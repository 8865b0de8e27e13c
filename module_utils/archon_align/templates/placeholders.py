"""Whether every placeholder of every active template resolves, as Archon's expansion would look it up."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from ..errors import AlignError
from ..findings import Finding
from .model import Row

USER_TASK = "USER_TASK"
_PLACEHOLDER = re.compile(r"\{\{([^{}]+)\}\}")


@dataclass(frozen=True, slots=True)
class Checked:
    """`count`: placeholders looked up, each once per template, `{{USER_TASK}}` not counted."""

    count: int
    findings: tuple[Finding, ...]


def content_of(row: Row) -> str | None:
    """The template's text, or None when it has none that Archon could expand."""
    try:
        data = json.loads(row.values.get("template_data") or "null")
    except ValueError:
        return None
    content = data.get("template_content") if isinstance(data, dict) else None
    return content if isinstance(content, str) and content else None


def broken(templates: Mapping[str, Row], components: Mapping[str, Row]) -> dict[str, list[str]]:
    """The placeholders of each active template that no active component's name equals."""
    usable = {name for name, row in components.items() if row.active}
    found = {}
    for name, row in sorted(templates.items()):
        if row.active:
            missing = [wanted for wanted in names_in(content_of(row) or "") if wanted not in usable]
            if missing:
                found[name] = missing
    return found


def names_in(content: str) -> list[str]:
    """The names of a text's placeholders but `USER_TASK`, each once, in order."""
    return [name for name in dict.fromkeys(_PLACEHOLDER.findall(content)) if name != USER_TASK]


def check(
    templates: Mapping[str, Row],
    components: Mapping[str, Row],
    *,
    table: str,
    from_dev: Collection[str],
    broken_before: Collection[str],
    kept: Collection[str] = (),
) -> Checked:
    """Look up every placeholder. `kept` are the components that stay as somebody has edited them in PROD.

    Raises AlignError when a template that comes from DEV names a component nobody has.
    """
    lost = broken(templates, components)
    ours = {name: missing for name, missing in lost.items() if name in from_dev and not set(missing) <= set(kept)}
    if ours:
        raise AlignError(
            "A template names a component that nobody has.",
            object_name=f"{table}: {', '.join(ours)}",
            expected="an active component of exactly the placeholder's name",
            found="; ".join(
                f"template {name} names {', '.join(_described(wanted, components) for wanted in missing)}"
                for name, missing in ours.items()
            ),
            remedy="Add or activate the component in DEV, or correct the template there, and run again; no template was changed.",
            code="placeholder_unresolved",
        )
    findings = []
    for name, missing in lost.items():
        cause = (
            "because of what was edited there"
            if name in from_dev
            else "already"
            if name in broken_before
            else "now that its components are as DEV has them"
        )
        findings.append(
            Finding(
                "template_broken_in_prod",
                "error",
                f"{table}: {name}",
                f"A template {'of DEV' if name in from_dev else 'of PROD'} names {', '.join(_described(wanted, components) for wanted in missing)}: "
                f"broken {cause}. Archon leaves such a placeholder in the text and reports success.",
                "Add or activate the component in PROD, or correct or deactivate the template there.",
            )
        )
    count = 0
    for name, row in sorted(templates.items()):
        if row.active:
            content = content_of(row)
            count += len(names_in(content or ""))
            findings.extend(_shape(f"{table}: {name}", content))
    return Checked(count, tuple(findings))


def _described(name: str, components: Mapping[str, Row]) -> str:
    return f"{{{{{name}}}}} (inactive)" if name in components else f"{{{{{name}}}}}"


def _shape(where: str, content: str | None) -> list[Finding]:
    if content is None:
        return [
            Finding(
                "template_without_content",
                "warning",
                where,
                "The active template has no template_data.template_content, so every expansion of it fails.",
                "Write its content in DEV, or deactivate it.",
            )
        ]
    times = content.count(f"{{{{{USER_TASK}}}}}")
    if times == 1:
        return []
    return [
        Finding(
            "user_task_count",
            "warning",
            where,
            f"The template holds {{{{{USER_TASK}}}}} {times} times instead of once, so the task's text is "
            f"{'lost' if times == 0 else 'repeated'} in the expansion.",
            "Correct the template in DEV.",
        )
    ]
