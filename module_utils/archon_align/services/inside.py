"""Small fixed programs that run in a container: they take arguments, no shell is involved, and no secret is given to them."""

from __future__ import annotations

import json
from typing import Any

from ..docker.engine import Engine

# Without the container's proxy: services within a network are reached directly by Archon's own client, too, unless it has one.
EMBED = """\
import json, sys, time, urllib.error, urllib.request
url, model, dimensions, seconds = sys.argv[1:5]
body = {"model": model, "input": ["test"]}
if dimensions: body["dimensions"] = int(dimensions)
told = {"status": 0, "dimension": 0, "error": ""}
begun = time.monotonic()
try:
    asked = urllib.request.Request(url + "/embeddings", json.dumps(body).encode(), {"Content-Type": "application/json"})
    with urllib.request.urlopen(asked, timeout=float(seconds)) as answer:
        told["status"] = answer.status
        vector = json.loads(answer.read(4 << 20))["data"][0]["embedding"]
        told["dimension"] = len(vector)
except urllib.error.HTTPError as error:
    told["status"] = error.code
    told["error"] = error.read(300).decode("utf-8", "replace")
except Exception as error:
    told["error"] = type(error).__name__ + ": " + str(getattr(error, "reason", error))
told["seconds"] = round(time.monotonic() - begun, 3)
print(json.dumps(told))
"""
HEALTH = """\
import json, sys, urllib.request
try:
    with urllib.request.urlopen("http://127.0.0.1:" + sys.argv[1] + "/health", timeout=5) as answer:
        print(json.dumps({"ready": json.load(answer).get("ready") is True}))
except Exception as error:
    print(json.dumps({"ready": False, "error": type(error).__name__ + ": " + str(error)}))
"""
_INTERPRETERS = ("python", "python3")
_NOT_FOUND = (126, 127)


def run(engine: Engine, container_id: str, program: str, *arguments: str, timeout: float) -> dict[str, Any]:
    """What the program prints, as JSON; {"error": …} when it could not be run. Raises AlignError when the engine refuses."""
    found = ""
    for interpreter in _INTERPRETERS:
        ended = engine.execute(container_id, [interpreter, "-c", program, *arguments], timeout)
        found = (ended.stderr or ended.stdout).strip()
        if ended.exit_code in _NOT_FOUND:
            continue
        try:
            told = json.loads(ended.stdout)
        except ValueError:
            break
        if isinstance(told, dict):
            return told
        break
    return {"error": f"the test could not be run in the container: {' '.join(found.split())[:200] or 'no output'}"}
