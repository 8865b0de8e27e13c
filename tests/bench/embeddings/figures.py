"""How figures are printed: one line each, with the target where there is one."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence


def say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def at_least(value: float, target: float, form: str = ".3f") -> str:
    return f"{value:{form}} (target ≥ {target:{form}}: {'met' if value >= target else 'missed'})"


def below(value: float, target: float, form: str = ".0f") -> str:
    return f"{value:{form}} (target < {target:{form}}: {'met' if value < target else 'missed'})"


class Unavailable(Exception):
    """Something to be measured beside ours cannot be had here; the text says why, on one line."""


def must(command: Sequence[str], what: str, seconds: float = 1200) -> None:
    """Run `command`; raises Unavailable with the last thing it said."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=seconds)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Unavailable(f"{what}: {error}") from error
    if done.returncode:
        said = [line.strip() for line in (done.stderr or done.stdout).splitlines() if line.strip()]
        raise Unavailable(f"{what}: {said[-1] if said else f'exit status {done.returncode}'}")
