"""The callback archon_progress: one line in place on a terminal, paced lines elsewhere."""

from __future__ import annotations

import importlib.util
import io
import json
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

ROOT = Path(__file__).parents[3]
RUN_ID = "20260101-000000-abcdef"


@pytest.fixture(scope="module")
def plugin() -> ModuleType:
    spec = importlib.util.spec_from_file_location(
        "archon_progress", ROOT / "plugins" / "callback" / "archon_progress.py"
    )
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Screen(io.StringIO):
    """A terminal (or not): what was written, and what of it was flushed to somebody's eyes."""

    def __init__(self, *, terminal: bool = True) -> None:
        super().__init__()
        self.terminal = terminal
        self.flushed = ""

    def isatty(self) -> bool:
        return self.terminal

    def flush(self) -> None:
        self.flushed = self.getvalue()


@pytest.fixture
def new_screen(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Screen]:
    """Call within the test, as pytest changes the streams between its fixtures and itself."""

    def make(*, terminal: bool = True, kind: str = "xterm") -> Screen:
        screen = Screen(terminal=terminal)
        monkeypatch.setattr(sys, "stdout", screen)
        monkeypatch.setattr(sys, "stderr", Screen(terminal=False))
        monkeypatch.setenv("COLUMNS", "40")
        monkeypatch.setenv("TERM", kind)
        return screen

    return make


def test_a_line_is_rewritten_in_place_and_what_others_write_comes_below(
    plugin: ModuleType, new_screen: Callable[..., Screen]
) -> None:
    screen = new_screen()
    status = plugin.StatusLine(threading.RLock())
    status.show("  embeddings  100/200 rows")
    status.show("  embeddings  9/9")
    first = "  embeddings  100/200 rows"
    assert screen.flushed == f"\r{first}\r{'  embeddings  9/9':<{len(first)}}"
    sys.stdout.write("changed: [prod]\n")
    assert screen.getvalue().endswith(" \nchanged: [prod]\n")
    before = len(screen.getvalue())
    status.show("x" * 100)
    assert screen.getvalue()[before:] == "\r" + "x" * 39  # a longer one would wrap, and leave its first half behind
    status.close()
    assert sys.stdout is screen
    assert screen.getvalue().endswith("x\n")
    assert "\x1b" not in screen.getvalue()


def follow(plugin: ModuleType, folder: Path, texts: list[tuple[str, str]]) -> Any:
    """A callback that has begun to follow the run in `folder` and has taken in its events."""
    at = "2999-01-01T00:00:00.000Z"
    lines = [json.dumps({"at": at, "kind": "progress", "phase": phase, "text": text}) for phase, text in texts]
    (folder / "events.jsonl").write_text("\n".join(lines) + "\n")
    callback = plugin.CallbackModule()
    callback._display = SimpleNamespace(_lock=threading.RLock(), display=lambda text: sys.stdout.write(text + "\n"))
    callback._tails = {str(folder): plugin.Tail(folder / "events.jsonl")}
    for event in callback._tails[str(folder)].events():
        callback._take(str(folder), event)
    return callback


def test_in_a_pipe_each_phase_has_a_line_every_two_seconds_at_most_and_at_once(
    plugin: ModuleType, new_screen: Callable[..., Screen], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    screen = new_screen(terminal=False)
    now = [1000.0]
    monkeypatch.setattr(plugin.time, "monotonic", lambda: now[0])
    callback = follow(plugin, tmp_path, [("embeddings", "1/9 rows"), ("embeddings", "2/9 rows"), ("search", "index p")])
    callback._show()
    assert screen.flushed == "  embeddings  2/9 rows\n  search      index p\n"
    callback._take(str(tmp_path), {"at": "2999", "kind": "progress", "phase": "embeddings", "text": "3/9 rows"})
    now[0] += 1.9
    callback._show()
    assert "3/9" not in screen.getvalue()
    now[0] += 0.1
    callback._show()
    assert screen.flushed.endswith("  embeddings  3/9 rows\n")


def test_on_a_terminal_every_change_is_shown_in_place(
    plugin: ModuleType, new_screen: Callable[..., Screen], tmp_path: Path
) -> None:
    screen = new_screen()
    callback = follow(plugin, tmp_path, [("embeddings", "2/9 rows")])
    callback._show()
    assert screen.flushed == "\r  embeddings  2/9 rows"
    callback._stop()
    assert sys.stdout is screen
    assert screen.getvalue() == "\r  embeddings  2/9 rows\n"


def test_a_dumb_terminal_gets_lines(plugin: ModuleType, new_screen: Callable[..., Screen], tmp_path: Path) -> None:
    screen = new_screen(kind="dumb")
    callback = follow(plugin, tmp_path, [("embeddings", "2/9 rows")])
    callback._show()
    assert screen.flushed == "  embeddings  2/9 rows\n"


def test_several_runs_have_lines_that_say_whose_they_are(
    plugin: ModuleType, new_screen: Callable[..., Screen], tmp_path: Path
) -> None:
    screen = new_screen()
    one, other = tmp_path / RUN_ID, tmp_path / "20260101-000001-abcdef"
    one.mkdir()
    other.mkdir()
    callback = follow(plugin, one, [("embeddings", "2/9 rows")])
    callback._tails[str(other)] = plugin.Tail(other / "events.jsonl")
    callback._hosts = {str(one): "prod-a", str(other): "prod-b"}
    callback._show()
    assert screen.flushed == "  embeddings  2/9 rows (prod-a)\n"


def test_what_an_earlier_task_reached_is_not_shown_below_the_next(
    plugin: ModuleType, new_screen: Callable[..., Screen], tmp_path: Path
) -> None:
    screen = new_screen()
    callback = follow(plugin, tmp_path, [("embeddings", "2/9 rows")])
    callback.v2_playbook_on_task_start(None, is_conditional=False)
    callback._take(str(tmp_path), {"at": "2000", "kind": "progress", "phase": "embeddings", "text": "1/9 rows"})
    callback._show()
    assert screen.getvalue() == ""
