"""Run every linter, the slowest beside the others, and say which failed; exit status 1 if any did."""

from __future__ import annotations

import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor, as_completed

CHECKS = (
    ("ansible-lint (production)", ["ansible-lint", "--offline", "--profile", "production", "-q"]),
    ("ruff check", ["ruff", "check", "--quiet", "."]),
    ("ruff format", ["ruff", "format", "--check", "--quiet", "."]),
    ("mypy --strict", ["mypy", "module_utils/archon_align", "lab", "scripts", "molecule"]),
    ("yamllint", ["yamllint", "--strict", "."]),
)
_AT_A_TIME = 2
_SECONDS = 600


def _run(name: str, command: list[str]) -> tuple[bool, str]:
    """Whether it passed, and what to tell of it."""
    started = time.monotonic()
    result = subprocess.run(command, capture_output=True, text=True, timeout=_SECONDS, check=False)
    passed = result.returncode == 0
    line = f"{name:28} {'ok' if passed else 'FAILED':7} {time.monotonic() - started:5.1f} s"
    return passed, line if passed else f"{line}\n{result.stdout}\n{result.stderr}"


def main() -> int:
    passed = True
    with ThreadPoolExecutor(_AT_A_TIME) as pool:
        for done in as_completed([pool.submit(_run, *check) for check in CHECKS]):
            good, told = done.result()
            passed &= good
            print(told, flush=True)
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
