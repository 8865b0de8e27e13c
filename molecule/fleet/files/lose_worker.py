"""Kill a container once its embedding service has been asked for a vector: lose_worker.py SERVICE CONTAINER."""

from __future__ import annotations

import json
import subprocess
import sys
import time
import urllib.request

SECONDS = 800


def at_work(service: str) -> bool:
    """Whether an embedding has been asked for."""
    with urllib.request.urlopen(f"{service}/_lab/requests", timeout=10) as answer:
        return any("embed" in str(seen["path"]) for seen in json.load(answer)["requests"])


def main(service: str, container: str) -> int:
    """1 when it was not asked in time."""
    until = time.monotonic() + SECONDS
    while time.monotonic() < until:
        if at_work(service):
            return subprocess.run(["podman", "kill", container], check=False, timeout=60).returncode
        time.sleep(0.2)
    return 1


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
