"""The lab's Archon: stand-ins for archon-server and archon-mcp, configured as the real containers, by environment variables
and the database alone.

    python -m lab.archon.server --fd N | --port N     HTTP and Socket.IO (container port 8181)
    python -m lab.archon.mcp    --fd N | --port N     MCP by streamable HTTP at /mcp (container port 8051)

`--fd` is an inherited socket, bound and *not yet listening*: the process listens when its start-up is complete, so that
connections are refused until then. `--port` binds 127.0.0.1, or `--host`, itself. SIGTERM ends both within two seconds. They write what they
log to stderr. A start that fails ends with exit code 3, wrong usage with 64.

Environment of the server, as in Archon's stack files:

* SUPABASE_URL: libpq URI of the database, without a password (`?passfile=…`). Sessions become the role that the key names.
* SUPABASE_SERVICE_KEY: the key, JWT-shaped. One that has not that shape is refused without asking; one with a wrong signature
  is refused by the gateway; both end the start with "Invalid API key" and exit code 3.
* LOG_LEVEL (INFO), TEMPLATE_INJECTION_ENABLED, EMBEDDING_PROVIDER, EMBEDDING_BASE_URL, EMBEDDING_MODEL, LLM_PROVIDER,
  OPENAI_API_KEY, USE_*, ARCHON_MCP_HOST, ARCHON_MCP_PORT, … each with Archon's precedence over or under the database.
  EMBEDDING_DIMENSIONS and EMBEDDING_FALLBACK_PROVIDERS may be set; as in Archon, nothing reads them.

Environment of the MCP server: ARCHON_SERVER_HOST (archon-server), ARCHON_SERVER_PORT, LOG_LEVEL, PROJECTS_ENABLED (true).
API_SERVICE_URL and AGENTS_SERVICE_URL may be set; nothing reads them. It needs no key and no database.

Environment of the lab alone, which no stack file has (the lab puts it into the image, not into the service):

* SUPABASE_JWT_SECRET: what Supabase's gateway verifies keys with. Required by the server. `keys.new_secret()` makes one,
  `keys.service_key(secret)` the key that fits; one secret per lab and side.
* LAB_ARCHON_SETTINGS_TTL (300), LAB_ARCHON_UPLOAD_DELAY (1), LAB_ARCHON_STATEMENT_TIMEOUT (8): seconds, for tests.

Never contacts anything but loopback addresses: a provider elsewhere fails as one that cannot be reached.
"""
