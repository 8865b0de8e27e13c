"""Archon's MCP tools, by the official SDK: only those that read, each call and the whole within a limit of time.

An MCP server of Archon's hangs for good when it meets a request without a session while it starts. So nothing is ever probed
there: one `initialize`, once, and no GET at all, not even the SDK's own stream for what a server sends unasked.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import orjson

from ..errors import AlignError
from ..web.trust import Trust
from ..web.wire import NotAllowed, Server, Unreachable

ANSWER_BYTES = 16 << 20
_NAME = "Archon's MCP server"
# Tools that only read, each with the actions that do; without actions the tool has none.
READING: Mapping[str, frozenset[str]] = {
    "health_check": frozenset(),
    "session_info": frozenset(),
    "get_available_sources": frozenset(),
    "perform_rag_query": frozenset(),
    "search_code_examples": frozenset(),
    "get_project_features": frozenset(),
    "manage_project": frozenset({"list", "get"}),
    "manage_task": frozenset({"list", "get"}),
    "manage_document": frozenset({"list", "get"}),
    "manage_versions": frozenset({"list", "get"}),
    "manage_template_components": frozenset({"list", "get"}),
    "manage_template_injection": frozenset({"list", "get"}),
}


@dataclass(frozen=True, slots=True)
class Call:
    """One call of a tool that reads. Raises NotAllowed for any other."""

    tool: str
    arguments: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        actions = READING.get(self.tool)
        if actions is None or (self.arguments.get("action") not in actions if actions else "action" in self.arguments):
            raise NotAllowed(
                "Only MCP tools that read are called.",
                object_name=f"{_NAME}: {self}",
                expected="a tool and an action on the list of those",
                found="another",
                remedy="If it only reads, this is an error of archon-align.",
                code="not_allowed_in_check_mode",
            )

    def __str__(self) -> str:
        action = self.arguments.get("action")
        return f"{self.tool} {action}" if action else self.tool


@dataclass(frozen=True, slots=True)
class Answer:
    """What a tool answered: the JSON object in its text. `problem` is '' when that says success."""

    call: Call
    content: Mapping[str, Any] = field(default_factory=dict)
    problem: str = ""


@dataclass(frozen=True, slots=True)
class Conversation:
    """One session: the names of the tools that the server has, and its answers, in the order of the calls."""

    tools: tuple[str, ...]
    answers: tuple[Answer, ...]


def converse(
    url: str, calls: Sequence[Call], *, trust: Trust | None = None, patience: float = 20.0, seconds: float = 35.0
) -> Conversation:
    """Initialize, list the tools, and make those of `calls` whose tool the server has.

    `patience` bounds the beginning, `seconds` each call. Raises Unreachable when no session came about.
    """
    import anyio

    server = Server(_NAME, url, trust=trust or Trust())
    # The SDK logs what it raises anyway.
    logging.getLogger("mcp").addHandler(logging.NullHandler())
    return anyio.run(_converse, server, tuple(calls), patience, seconds)


async def _converse(server: Server, calls: tuple[Call, ...], patience: float, seconds: float) -> Conversation:
    import anyio
    from mcp import Client, MCPError
    from mcp.client.streamable_http import streamable_http_client

    answers: list[Answer] = []
    tools: tuple[str, ...] = ()
    begun = False
    try:
        async with _http(server, patience, seconds) as http:
            transport = streamable_http_client(server.base_url, http_client=http, max_sse_event_size=ANSWER_BYTES)
            with anyio.fail_after(patience) as limit:
                async with Client(transport, mode="legacy", cache=None) as client:
                    limit.deadline = anyio.current_time() + seconds
                    tools = await _tools(client)
                    begun = True
                    # From here on each call has a limit of its own.
                    limit.deadline = anyio.current_time() + (seconds + 1) * len(calls) + patience
                    for call in calls:
                        if call.tool in tools:
                            answers += [await _answer(client, call, seconds)]
                    limit.deadline = anyio.current_time() + patience
    except (TimeoutError, MCPError, OSError, RuntimeError, ExceptionGroup) as error:
        if begun:
            # Every call has its answer; only the farewell failed.
            return Conversation(tools, tuple(answers))
        raise _no_session(server, error, patience) from None
    return Conversation(tools, tuple(answers))


def _http(server: Server, patience: float, seconds: float) -> Any:
    import httpx2

    class OnlyPosts(httpx2.AsyncClient):
        """Sends what the conversation needs: calls, and the end of the session."""

        async def send(self, request: httpx2.Request, **kwargs: Any) -> httpx2.Response:
            if request.method == "GET":
                return httpx2.Response(405, request=request)
            return await super().send(request, **kwargs)

    loopback = urlsplit(server.base_url).hostname in ("127.0.0.1", "::1", "localhost")
    secure = server.base_url.startswith("https")
    return OnlyPosts(
        timeout=httpx2.Timeout(patience, read=seconds),
        verify=server.trust.context() if secure else False,
        trust_env=not loopback,
    )


async def _tools(client: Any) -> tuple[str, ...]:
    names: list[str] = []
    cursor = None
    while True:
        page = await client.list_tools(cursor=cursor)
        names += [tool.name for tool in page.tools]
        cursor = page.next_cursor
        if not cursor or len(names) > 1000:
            return tuple(names)


async def _answer(client: Any, call: Call, seconds: float) -> Answer:
    import anyio
    from mcp import MCPError

    try:
        with anyio.fail_after(seconds):
            result = await client.call_tool(call.tool, dict(call.arguments))
    except TimeoutError:
        return Answer(call, problem=f"no answer within {seconds:g} s")
    except MCPError as error:
        return Answer(call, problem=_plain(error.message))
    except RuntimeError as error:  # an answer that is not what the tool's own schema says
        return Answer(call, problem=_plain(str(error)))
    text = "".join(getattr(part, "text", "") for part in result.content)
    if result.is_error:
        return Answer(call, problem=_plain(text) or "the tool failed without a word")
    try:
        content = orjson.loads(text)
    except orjson.JSONDecodeError:
        return Answer(call, problem=f"an answer that is not JSON: {_plain(text)}")
    if not isinstance(content, dict):
        return Answer(call, problem="an answer that is not a JSON object")
    if content.get("success") is False:
        return Answer(call, content, _plain(str(content.get("error") or "success is false, without an error")))
    return Answer(call, content)


def _plain(text: str) -> str:
    return " ".join(text.split())[:300]


def _no_session(server: Server, error: BaseException, patience: float) -> AlignError:
    cause = error
    while isinstance(cause, ExceptionGroup):
        cause = cause.exceptions[0]
    hung = isinstance(cause, TimeoutError)
    words = _plain(str(getattr(cause, "message", "") or cause)) or type(cause).__name__
    return Unreachable(
        f"{_NAME} does not answer.",
        object_name=_NAME,
        expected=f"a session by streamable HTTP at {server.shown}",
        found=f"no answer to initialize within {patience:g} s: it is down or hangs" if hung else words,
        remedy="See that archon-mcp runs and that its address ends in /mcp; one that hangs must be restarted.",
        code="timeout" if hung else "unreachable",
    )
