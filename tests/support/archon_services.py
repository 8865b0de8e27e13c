"""A PROD whose archon-server is a small web server behind the lab's Portainer, with a database of settings and an embedding service."""

from __future__ import annotations

import http.server
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tests.support.portainer import IMAGE

SERVER_IMAGE = "registry.example/archon/archon-server:latest"
STACK_SECRET = "eyJhbGciOi.secret-of-the-stack.x7Qz"
SERVICE = "archon-prod_archon-server"

# Ready at /health once it listens; ends at once with a key that is wrong, as Archon does, and writes the key to its log.
PROGRAM = """
import http.server, json, os, socket, sys
handed = socket.socket(fileno=int(sys.argv[1]))
if os.environ.get("EXTRA_KEY") == "a-wrong-key":
    print("Invalid API key", os.environ["SUPABASE_SERVICE_KEY"], file=sys.stderr)
    sys.exit(3)
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        body = json.dumps({"status": "healthy", "service": "archon-backend", "ready": True}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def log_message(self, *_):
        pass
server = http.server.HTTPServer(("", 0), Handler, bind_and_activate=False)
server.socket = handed
handed.listen()
server.serve_forever()
"""

FILE = """
version: "3.8"
services:
  archon-server:
    image: registry.example/archon/archon-server:latest
    environment:
      - SUPABASE_SERVICE_KEY=${SUPABASE_SERVICE_KEY}
      - EMBEDDING_PROVIDER=${EMBEDDING_PROVIDER:-ollama}
      - EMBEDDING_BASE_URL=${EMBEDDING_BASE_URL}
      - EMBEDDING_MODEL=nomic-embed-text
      - LOG_LEVEL=${LOG_LEVEL:-INFO}
      - EXTRA_KEY=${EXTRA_KEY:-}
    ports: ["${WEB_PORT}:${WEB_PORT}"]
    healthcheck:
      test: ["CMD", "curl", "-f", "http://localhost:${WEB_PORT}/health"]
      interval: 100ms
      retries: 3
      start_period: 60s
    stop_grace_period: 2s
    deploy:
      restart_policy: {condition: on-failure, delay: 100ms, max_attempts: 2}
      update_config: {monitor: 300ms}
  other:
    image: registry.example/web:latest
    environment: ["LOG_LEVEL=${LOG_LEVEL:-INFO}"]
    deploy:
      update_config: {monitor: 100ms}
"""

STACK: dict[str, Any] = {
    "name": "archon-prod",
    "file": FILE,
    "env": {
        "WEB_PORT": "@port:web@",
        "SUPABASE_SERVICE_KEY": STACK_SECRET,
        "EMBEDDING_PROVIDER": "openai",
        "EMBEDDING_BASE_URL": "http://elsewhere:11434/v1",
        "UNUSED": "kept as it is",
    },
}
IMAGES = {SERVER_IMAGE: {"command": ["python", "-c", PROGRAM, "{fd}"]}, IMAGE: {"command": ["sleep", "100000"]}}

SETTINGS = """
CREATE TABLE archon_settings (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(), key varchar(255) NOT NULL UNIQUE, value text, encrypted_value text,
    is_encrypted boolean DEFAULT false, category varchar(100), description text,
    created_at timestamptz DEFAULT now(), updated_at timestamptz DEFAULT now());
CREATE FUNCTION touch() RETURNS trigger LANGUAGE plpgsql AS
    $$ BEGIN NEW.updated_at = clock_timestamp(); RETURN NEW; END $$;
CREATE TRIGGER touched BEFORE UPDATE ON archon_settings FOR EACH ROW EXECUTE FUNCTION touch();
INSERT INTO archon_settings (key, value, category, updated_at) VALUES
    ('EMBEDDING_PROVIDER', 'ollama', 'rag_strategy', '2020-01-01'),
    ('EMBEDDING_MODEL', 'nomic-embed-text', 'rag_strategy', '2020-01-01'),
    ('EMBEDDING_DIMENSIONS', '768', 'rag_strategy', '2020-01-01'),
    ('EMBEDDING_FALLBACK_PROVIDERS', 'ollama', 'rag_strategy', '2020-01-01'),
    ('OPENAI_API_KEY', 'sk-plain-text-secret-1234567890', 'api_keys', '2020-01-01');
"""


@contextmanager
def embedding_stub() -> Iterator[str]:
    """The base URL of a service that gives three numbers for whatever it is asked."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            body = json.dumps({"data": [{"index": 0, "embedding": [0.1, 0.2, 0.3]}]}).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/v1"
    finally:
        server.shutdown()
        server.server_close()
