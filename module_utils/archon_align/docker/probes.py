"""The fixed programs that may run in a container in check mode, too: they ask over HTTP, write nothing, and end by themselves."""

from __future__ import annotations

from collections.abc import Sequence

INTERPRETERS = ("python", "python3")
# It goes by the container's proxy variables, if there are any, as Archon's own client does.
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


def is_probe(argv: Sequence[str]) -> bool:
    """Whether a command is one of these programs, whatever its arguments."""
    return len(argv) >= 3 and argv[0] in INTERPRETERS and argv[1] == "-c" and argv[2] in (EMBED, HEALTH)
