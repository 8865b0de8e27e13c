# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Running a module of the project's on the controller without a new Python: in a fork that has the core loaded already.

Most of a module's time goes into starting Python and loading the core and its libraries, once for each task. Loaded once by the
playbook's own process (`preload`, by the callback archon_preload), they are there in every process that it forks.
"""

from __future__ import annotations

import contextlib
import gc
import os
import selectors
import signal
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any, NoReturn, TextIO

PREFIX = "ansible.module_utils.archon_align."
# What the modules of nearly every run load. A module that needs more loads it itself, as ever.
LOADED = (
    *(
        "assess.phase",
        "backup.phase",
        "embedding.phase",
        "embedding.search_phase",
        "preflight.phase",
        "report.assemble",
    ),
    *("schema.phase", "services.phase", "settings.phase", "templates.phase", "validate.phase", "ansible_edge"),
)
_HANDLED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGPIPE, signal.SIGQUIT, signal.SIGCHLD)


def preload(core: Path, library: Path) -> None:
    """Load what the modules share, into this process and so into all that it forks from now on."""
    make_known(core, library)
    with _without_threads():
        for name in LOADED:
            # A library that is missing is the module's to tell.
            with contextlib.suppress(ImportError):
                import_module(PREFIX + name)
    # What is there now stays for good; collecting it in a fork would copy its memory.
    gc.freeze()


@contextlib.contextmanager
def _without_threads() -> Iterator[None]:
    """numpy's library for linear algebra would start threads, of which a fork has none."""
    name = "OPENBLAS_NUM_THREADS"
    before = os.environ.get(name)
    os.environ[name] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before


def make_known(core: Path, library: Path) -> None:
    """Let modules find the core under the name by which Ansible ships it, and themselves among Ansible's."""
    import ansible.module_utils
    import ansible.modules

    for package, folder in ((ansible.module_utils, core), (ansible.modules, library)):
        if str(folder) not in package.__path__:
            package.__path__.append(str(folder))


def run(name: str, params: bytes, profile: str, library: Path) -> tuple[int, bytes, bytes]:
    """Run the module in a fork of this process; its exit code, what it wrote and what it complained of."""
    outputs, errors = os.pipe(), os.pipe()
    sys.stdout.flush()
    sys.stderr.flush()
    child = os.fork()
    if child == 0:
        _become(outputs[1], errors[1])
        _execute(name, params, profile, library)
    os.close(outputs[1])
    os.close(errors[1])
    try:
        written, complained = _read(outputs[0], errors[0])
    finally:
        os.close(outputs[0])
        os.close(errors[0])
        status = os.waitpid(child, 0)[1]
    return os.waitstatus_to_exitcode(status), written, complained


def _read(*descriptors: int) -> tuple[bytes, bytes]:
    """All that comes until both have been closed."""
    parts: dict[int, list[bytes]] = {descriptor: [] for descriptor in descriptors}
    with selectors.DefaultSelector() as selector:
        for descriptor in descriptors:
            selector.register(descriptor, selectors.EVENT_READ)
        while selector.get_map():
            for key, _ in selector.select():
                part = os.read(key.fd, 1 << 16)
                if part:
                    parts[key.fd].append(part)
                else:
                    selector.unregister(key.fd)
    first, second = (b"".join(parts[descriptor]) for descriptor in descriptors)
    return first, second


def _become(output: int, errors: int) -> None:
    """What a program that was just started would find: its three streams, nothing else open, signals at their defaults."""
    for number in _HANDLED:
        signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.dup2(output, 1)
    os.dup2(errors, 2)
    os.closerange(3, os.sysconf("SC_OPEN_MAX"))
    sys.stdin, sys.stdout, sys.stderr = _stream(0, "r"), _stream(1, "w"), _stream(2, "w")
    sys.__stdin__, sys.__stdout__, sys.__stderr__ = sys.stdin, sys.stdout, sys.stderr


def _stream(descriptor: int, mode: str) -> TextIO:
    return open(descriptor, mode, encoding="utf-8", closefd=False, errors="surrogateescape")


def _execute(name: str, params: bytes, profile: str, library: Path) -> NoReturn:
    """Run the module as Ansible's wrapper does once it has unpacked one; this process ends with it."""
    code: Any = 1
    try:
        from ansible.module_utils import _internal
        from ansible.module_utils._internal._ansiballz import _loader

        # A module's warnings are part of its result; only in a process of the controller's would they be shown at once.
        _internal.is_controller = False
        _internal.import_controller_module = lambda _name: None
        sys.argv = [str(library / f"{name.rpartition('.')[2]}.py")]
        _loader.run_module(
            json_params=params, profile=profile, module_fqn=name, modlib_path=str(library), extensions={}
        )
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else 0 if ended.code is None else 1
    except BaseException as error:  # noqa: BLE001 - this process ends here, whatever it is
        sys.stderr.write(f"{type(error).__name__}: {error}\n")
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
