"""A running Archon as its users see it: HTTP, Socket.IO and MCP."""
