"""Archon's MCP tools that read, each compared with what SQL says."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from psycopg import sql

from ...application.mcp import READING, Answer, Call, Conversation, converse
from ...database.target import Table
from ...preservation.fingerprint import columns_of
from .model import TOOLS, Check, Verdict, by_data, in_archon, not_reachable, works
from .stored import EXAMPLES, PAGES, counts, knowledge, samples
from .world import World

_PAGE = 100
# '' when the answer is what it should be.
type Judge = Callable[[Mapping[str, Any]], str]
_SEARCHING = ("perform_rag_query", "search_code_examples")
_COMMANDS = ("shell", "command", "exec", "bash", "ssh")


@dataclass(frozen=True, slots=True)
class Expected:
    """A call and how its answer is judged."""

    call: Call
    judge: Judge


def check_tools(world: World, search: Verdict) -> Check:
    """Initialize, list the tools, call those that read. `search` is the verdict on search over HTTP, by which that through MCP is
    judged. Raises AlignError."""
    if not world.options.mcp_url:
        return not_reachable(TOOLS, "No address is known: set archon_prod_mcp_url.")
    expected = _expected(world)
    talk = converse(
        world.options.mcp_url,
        [one.call for one in expected],
        trust=world.options.trust,
        patience=world.options.mcp_timeout,
    )
    problems = _problems(expected, talk)
    # Users go on working while the tools are called.
    if any(one.call.tool not in _SEARCHING for one, _ in problems):
        expected = _expected(world)
        talk = converse(
            world.options.mcp_url,
            [one.call for one in expected],
            trust=world.options.trust,
            patience=world.options.mcp_timeout,
        )
        problems = _problems(expected, talk)
    return _judged(talk, problems, search)


def _problems(expected: Sequence[Expected], talk: Conversation) -> list[tuple[Answer, str]]:
    judges = {str(one.call): one.judge for one in expected}
    return [
        (answer, words)
        for answer in talk.answers
        if (words := answer.problem or judges[str(answer.call)](answer.content))
    ]


def _judged(talk: Conversation, problems: Sequence[tuple[Answer, str]], search: Verdict) -> Check:
    asked = ", ".join(dict.fromkeys(str(answer.call) for answer in talk.answers))
    risky = [name for name in talk.tools if any(word in name.lower() for word in _COMMANDS)]
    besides = f" It has tools that run commands, which were not called: {', '.join(risky)}." if risky else ""
    if not talk.tools or not talk.answers:
        return in_archon(
            TOOLS,
            "mcp_tools_missing",
            f"The server lists {len(talk.tools)} tools, and not one of those that read.{besides}",
        )
    if not problems:
        return works(TOOLS, f"{len(talk.tools)} tools; {asked}: all answered what SQL says.{besides}")
    words = "; ".join(f"{answer.call}: {problem}" for answer, problem in problems)
    if search is Verdict.BROKEN_BY_DATA and all(answer.call.tool in _SEARCHING for answer, _ in problems):
        return by_data(TOOLS, f"{words}: as over HTTP, see the check of search.{besides}", mendable=False)
    return in_archon(TOOLS, "mcp_tools_differ", f"{words}.{besides}")


def _expected(world: World) -> list[Expected]:
    found = counts(world.session)
    schema = world.session.context.schemas[0]
    tasks, projects = found["tasks"], found["projects"]
    pages, examples = knowledge(world.session, PAGES), knowledge(world.session, EXAMPLES)
    sources = world.session.value(
        sql.SQL("SELECT pg_catalog.count(*) FROM {}").format(Table(schema, "archon_sources").identifier)
    )
    calls = [
        Expected(Call("health_check"), _healthy),
        Expected(Call("session_info"), lambda content: "" if content else "an empty answer"),
        Expected(Call("get_available_sources"), _length("sources", {sources})),
        Expected(
            Call("manage_project", {"action": "list"}),
            lambda content: _same(
                {str(one.get("id")): one.get("title") for one in content.get("projects") or ()}, projects
            ),
        ),
        Expected(
            Call("manage_task", {"action": "list", "per_page": _PAGE}),
            _total({tasks["open"], tasks["open_only_false"]}),
        ),
    ]
    for tool, known in zip(_SEARCHING, (pages, examples), strict=True):
        if known.embedded:
            calls += [
                Expected(Call(tool, {"query": text, "match_count": 5}), _some("results"))
                for text in samples(world.session, known)
            ]
    if projects:
        key, title = next(iter(projects.items()))
        calls.append(Expected(Call("manage_project", {"action": "get", "project_id": key}), _titled("project", title)))
        features = world.session.value(
            sql.SQL("SELECT pg_catalog.jsonb_array_length(CASE pg_catalog.jsonb_typeof(features) WHEN 'array' THEN features ELSE '[]' END)"
            " FROM {} WHERE id::text = %s").format(Table(schema, "archon_projects").identifier), (key,)
        ) if "features" in columns_of(world.session, Table(schema, "archon_projects")) else None  # fmt: skip
        if features is not None:
            calls.append(Expected(Call("get_project_features", {"project_id": key}), _length("features", {features})))
    task = world.session.row(
        sql.SQL("SELECT id::text AS id, title FROM {} WHERE archived IS NOT TRUE ORDER BY id LIMIT 1").format(
            Table(schema, "archon_tasks").identifier
        )
    )
    if task is not None:
        calls.append(
            Expected(Call("manage_task", {"action": "get", "task_id": task["id"]}), _titled("task", task["title"]))
        )
    for tool, table, member in (
        ("manage_template_components", "archon_template_components", "components"),
        ("manage_template_injection", "archon_template_definitions", "templates"),
    ):
        columns = columns_of(world.session, Table(schema, table))
        if "is_active" in columns:
            row = world.session.row(
                sql.SQL(
                    "SELECT pg_catalog.count(*) AS total, pg_catalog.count(*) FILTER (WHERE is_active) AS active FROM {}"
                ).format(Table(schema, table).identifier)
            )
            assert row is not None
            numbers = {min(row["total"], _PAGE), min(row["active"], _PAGE)}
            calls.append(Expected(Call(tool, {"action": "list", "per_page": _PAGE}), _length(member, numbers)))
    assert {one.call.tool for one in calls} <= READING.keys()
    return calls


def _healthy(content: Mapping[str, Any]) -> str:
    health = content.get("health") or {}
    # Agents are another service, which nothing here needs.
    return (
        ""
        if health.get("api_service", True)
        else "it does not reach archon-server (ARCHON_SERVER_HOST, ARCHON_SERVER_PORT)"
    )


def _length(member: str, numbers: set[int]) -> Judge:
    def judge(content: Mapping[str, Any]) -> str:
        found = len(content.get(member) or ())
        return "" if found in numbers else f"{found} {member} instead of {' or '.join(map(str, sorted(numbers)))}"

    return judge


def _total(numbers: set[int]) -> Judge:
    def judge(content: Mapping[str, Any]) -> str:
        found = content.get("total_count", (content.get("pagination") or {}).get("total"))
        return "" if found in numbers else f"{found} open tasks instead of {' or '.join(map(str, sorted(numbers)))}"

    return judge


def _some(member: str) -> Judge:
    return lambda content: "" if content.get(member) else f"success, and no {member}"


def _titled(member: str, title: str) -> Judge:
    return lambda content: (
        "" if (content.get(member) or {}).get("title") == title else f"not the {member} that was asked for"
    )


def _same(found: Mapping[str, Any], expected: Mapping[str, Any]) -> str:
    return "" if found == expected else f"{len(found)} projects, not the {len(expected)} of the table with their titles"
