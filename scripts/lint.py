"""Run every linter and say which failed; exit status 1 if any did."""

from __future__ import annotations

import subprocess
import sys
import time

CHECKS = (
    ("ruff check", ["ruff", "check", "--quiet", "."]),
    ("ruff format", ["ruff", "format", "--check", "--quiet", "."]),
    ("mypy --strict", ["mypy", "module_utils/archon_align", "lab", "scripts", "molecule"]),
    ("yamllint", ["yamllint", "--strict", "."]),
    ("ansible-lint (production)", ["ansible-lint", "--offline", "--profile", "production", "-q"]),
)


def main() -> int:
    failed = []
    for name, command in CHECKS:
        started = time.monotonic()
        result = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
        verdict = "ok" if result.returncode == 0 else "FAILED"
        print(f"{name:28} {verdict:7} {time.monotonic() - started:5.1f} s", flush=True)
        if result.returncode:
            failed.append(name)
            print(result.stdout, result.stderr, sep="\n", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
