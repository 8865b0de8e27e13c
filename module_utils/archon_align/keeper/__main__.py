"""`python -m archon_align.keeper`: an assignment on stdin, one line of JSON on stdout, then the keeper's quiet life."""

from __future__ import annotations

import os
import signal
import sys
import traceback

import orjson

from ..errors import AlignError
from .assignment import Assignment
from .keeper import Keeper


def _report(message: dict[str, object]) -> None:
    """The one line the starter waits for; afterwards stdout is the log, so that no pipe keeps anybody waiting."""
    os.write(1, orjson.dumps(message) + b"\n")
    os.dup2(2, 1)


def _log(error: BaseException) -> None:
    # The exception's text is left out: nobody can promise what a library quotes in it.
    frames = "".join(traceback.format_tb(error.__traceback__))
    os.write(2, f"{type(error).__name__}\n{frames}".encode())


def main() -> int:
    os.umask(0o077)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    keeper = Keeper(Assignment.from_json(sys.stdin.buffer.read()))
    sys.stdin.close()
    try:
        findings = keeper.begin()
    except AlignError as error:
        _report({"error": error.as_dict()})
        return 1
    except Exception as error:  # noqa: BLE001 - the starter must hear of it, whatever it is
        _log(error)
        _report({"unexpected": type(error).__name__})
        return 1
    _report({"ready": True, "findings": [finding.as_dict() for finding in findings]})
    try:
        keeper.watch()
    except Exception as error:  # noqa: BLE001 - without the lock nobody can write, so dying is the safe side
        _log(error)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
