"""Ask an Archon by MCP, with the official SDK alone: mcp_query.py URL QUERY prints the tools' names and what the query finds."""

from __future__ import annotations

import asyncio
import sys

from mcp import ClientSession
from mcp.client.streamable_http import streamable_http_client


async def main(url: str, query: str) -> None:
    """Raises whatever the SDK raises; the exit code is then 1."""
    async with streamable_http_client(url) as (receive, send, *_), ClientSession(receive, send) as session:
        await session.initialize()
        tools = await session.list_tools()
        sys.stdout.write(" ".join(tool.name for tool in tools.tools) + "\n")
        answer = await session.call_tool("perform_rag_query", {"query": query, "match_count": 5})
        sys.stdout.write("\n".join(getattr(part, "text", "") for part in answer.content) + "\n")


if __name__ == "__main__":
    asyncio.run(asyncio.wait_for(main(*sys.argv[1:]), timeout=60))
