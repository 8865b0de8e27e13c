"""Kill a container once its embedding service has been asked for a vector: lose_worker.py SERVICE CONTAINER."""

from __future__ import annotations

import subprocess
import sys
import time

import httpx

SECONDS = 800


def at_work(service: str) -> bool:
    """Whether an embedding has been asked for."""
    seen = httpx.get(f"{service}/_lab/requests", timeout=10, trust_env=False).json()["requests"]
    return any("embed" in str(request["path"]) for request in seen)


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
