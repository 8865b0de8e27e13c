# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

"""The callback archon_progress: what a run is doing right now, while its tasks are still at work."""

from __future__ import annotations

import atexit
import json
import os
import shutil
import sys
import threading
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TextIO

from ansible.plugins.callback import CallbackBase

DOCUMENTATION = r"""
name: archon_progress
type: aggregate
short_description: Show the progress of a run of archon-align while its tasks are at work
description:
  - Follows the C(events.jsonl) that the run's keeper writes, from the moment M(archon_run) has started the run, and shows what
    each phase says of itself, such as C(embeddings  45,120/93,000 rows, 812 rows/s, 59 s left, 2 of 3 endpoints).
  - On a terminal that is one line, rewritten in place; whatever else is printed comes below it. Elsewhere, and while several
    runs are at work, it is a line for each phase at most every two seconds, with the PROD's name if there are several. Neither uses colours.
  - Warns at once when the run lock on PROD is lost.
requirements:
  - enable it as C(callbacks_enabled = archon_progress) in ansible.cfg
"""

EVENTS_FILE = "events.jsonl"
POLL_SECONDS = 0.25
QUIET_SECONDS = 2.0


class Tail:
    """The lines appended to a file since the last look; half a line is left for the next one."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._offset = 0

    def events(self) -> list[dict[str, Any]]:
        try:
            with self._path.open("rb") as stream:
                stream.seek(self._offset)
                text = stream.read()
        except OSError:
            return []
        whole = text[: text.rfind(b"\n") + 1]
        self._offset += len(whole)
        found = []
        for line in whole.splitlines():
            try:
                event = json.loads(line)
            except ValueError:
                continue
            if isinstance(event, dict):
                found.append(event)
        return found


class StatusLine:
    """One line that is rewritten in place, on a terminal that others write to as well.

    Everybody writes under the display's lock, and what others write goes through `Below`, which ends this line first.
    """

    def __init__(self, lock: Any) -> None:
        self._lock = lock
        self._out: TextIO = sys.stdout
        self._err: TextIO = sys.stderr
        self._line = ""
        sys.stdout = Below(self._out, self)  # type: ignore[assignment]  # as far as anybody uses it
        if self._err.isatty():
            sys.stderr = Below(self._err, self)  # type: ignore[assignment]

    def show(self, text: str) -> None:
        line = text[: shutil.get_terminal_size().columns - 1]
        with self._lock:
            self._out.write("\r" + line.ljust(len(self._line)))
            self._out.flush()
            self._line = line

    def end(self) -> None:
        """Leave the line as it is; what comes next comes below it."""
        if self._line:
            self._line = ""
            self._out.write("\n")
            self._out.flush()

    def close(self) -> None:
        """Give the streams back."""
        with self._lock:
            self.end()
            sys.stdout, sys.stderr = self._out, self._err


class Below:
    """A stream of the terminal that has a status line."""

    def __init__(self, stream: TextIO, status: StatusLine) -> None:
        self._stream = stream
        self._status = status

    def write(self, text: str) -> int:
        self._status.end()
        return self._stream.write(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


class CallbackModule(CallbackBase):  # type: ignore[misc]  # ansible-core has no type information
    """Follows every run that is started, until the playbook is over."""

    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "aggregate"
    CALLBACK_NAME = "archon_progress"
    CALLBACK_NEEDS_ENABLED = True

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._over = threading.Event()
        self._tails: dict[str, Tail] = {}
        self._hosts: dict[str, str] = {}
        self._ended: set[str] = set()
        self._thread: threading.Thread | None = None
        self._waiting: dict[tuple[str, str], str] = {}
        self._shown_at: dict[tuple[str, str], float] = {}
        self._task_began = ""
        self._in_place = sys.stdout.isatty() and os.environ.get("TERM", "dumb") != "dumb"
        self._status: StatusLine | None = None

    def v2_runner_on_ok(self, result: Any) -> None:
        found = result.result
        if str(result.task.action).rpartition(".")[2] != "archon_run" or not isinstance(found, dict):
            return
        folder = found.get("artifacts_dir")
        if not isinstance(folder, str) or folder in self._tails:
            return
        self._hosts[folder] = result.host.get_name()
        # A new dictionary, because the thread may be going through the old one.
        self._tails = {**self._tails, folder: Tail(Path(folder) / EVENTS_FILE)}
        if self._thread is None:
            self._thread = threading.Thread(target=self._follow, name="archon_progress", daemon=True)
            self._thread.start()
            # An interrupted playbook has no stats. This comes before what archon_report then tells, being registered later.
            atexit.register(self._stop)

    def v2_playbook_on_task_start(self, task: Any, is_conditional: bool) -> None:  # noqa: ARG002 - Ansible's signature
        # What an earlier task had last reached would only puzzle below the next one's name.
        self._task_began = datetime.now(UTC).isoformat(timespec="milliseconds")
        self._waiting.clear()

    def v2_playbook_on_stats(self, stats: Any) -> None:  # noqa: ARG002 - Ansible passes it by name
        self._stop()

    def _stop(self) -> None:
        self._over.set()
        if self._thread is not None:
            self._thread.join(timeout=2 * POLL_SECONDS)
        if self._status is not None:
            self._status.close()
            self._status = None

    def _follow(self) -> None:
        """The thread's work. Showing progress must never break a run, so an error only ends the showing."""
        try:
            while True:
                last_look = self._over.wait(POLL_SECONDS)
                for run, tail in self._tails.items():
                    if run in self._ended:
                        continue
                    for event in tail.events():
                        self._take(run, event)
                if last_look:
                    return
                self._show()
        except Exception as error:  # noqa: BLE001 - see above
            self._display.warning(f"archon_progress: {type(error).__name__}: {error}")

    def _take(self, run: str, event: dict[str, Any]) -> None:
        kind = event.get("kind")
        if kind == "progress" and str(event.get("at")) >= self._task_began:
            self._waiting[run, str(event.get("phase"))] = str(event.get("text"))
        elif kind == "run_ended":
            self._ended.add(run)  # a fleet has many that ended long ago
        elif kind == "lock_lost":
            self._display.warning(
                f"archon-align: the run lock on PROD was lost ({event.get('reason')}); nothing is written without it."
            )

    def _show(self) -> None:
        """Show what has been said since the last look; a line that comes too soon after the last of its phase waits for the next."""
        if self._in_place and len(self._tails) == 1:
            for (_, phase), text in list(self._waiting.items()):
                self._status = self._status or StatusLine(self._display._lock)
                self._status.show(_line(phase, text))
            self._waiting.clear()
            return
        now = time.monotonic()
        for key, text in list(self._waiting.items()):
            if now - self._shown_at.get(key, 0.0) >= QUIET_SECONDS:
                run, phase = key
                self._display.display(_line(phase, text) + (f" ({self._hosts[run]})" if len(self._tails) > 1 else ""))
                self._shown_at[key] = now
                self._waiting.pop(key, None)
        # Where it is no terminal Python keeps what is written until there is more of it.
        with self._display._lock:
            sys.stdout.flush()


def _line(phase: str, text: str) -> str:
    return f"  {phase:<11} {text}"
