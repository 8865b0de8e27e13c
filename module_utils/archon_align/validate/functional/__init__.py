"""What a running Archon does, seen to happen: upload, search, code examples, projects and tasks, MCP tools, template expansion."""
