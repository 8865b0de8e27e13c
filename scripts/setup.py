#!/usr/bin/env python3
"""Set up the project's private environment in .venv. Needs nothing but python3 >= 3.11 with pip or venv.

Usage: setup.py LAYER...   where a layer is one of runtime, lab, dev (the names of requirements/*.txt).

It installs uv privately, finds a Python >= 3.12 by itself, and installs the locked, hashed requirements.
Running it again is instant while nothing has changed.
"""

import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

if sys.version_info < (3, 11):
    sys.exit(
        f"setup: this Python is too old to set up archon-align\n  expected: python3 >= 3.11\n  found:    {sys.version.split()[0]}"
        "\n  remedy:   install one and run make PYTHON=/path/to/python3.11 ..."
    )

ROOT = Path(__file__).resolve().parent.parent
CACHE = ROOT / ".cache"
VENV = ROOT / ".venv"
STAMP = VENV / "archon-align.json"
COLLECTIONS = CACHE / "collections"
# What the container scenarios need of the package `ansible`, in which Galaxy's collections come by way of PyPI.
COLLECTION = "containers/podman"
LAYERS = ("runtime", "lab", "dev")
COMPILED = ("module_utils", "library", "lab")
# Newest first would meet interpreters that some wheels do not know yet.
WANTED = ("3.13", "3.12", "3.14")


class SetupFailed(Exception):
    """What failed, what was expected, what was found, what to do."""

    def __init__(self, what: str, expected: str, found: str, remedy: str) -> None:
        super().__init__(f"{what}\n  expected: {expected}\n  found:    {found}\n  remedy:   {remedy}")


def say(text: str) -> None:
    print(f"setup: {text}", flush=True)


def run(command: list[str], **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command, capture_output=True, text=True, timeout=1200, check=False, env={**os.environ, **environment}
    )


def tail(result: subprocess.CompletedProcess[str]) -> str:
    lines = [line.strip() for line in (result.stderr or result.stdout).splitlines() if line.strip()]
    return " | ".join(lines[-4:]) or f"exit status {result.returncode}"


def uv() -> str:
    """The private uv, installed from its hashed requirement file when it is missing or of another version."""
    requirement = ROOT / "requirements" / "uv.txt"
    home = CACHE / ("uv-" + hashlib.sha256(requirement.read_bytes()).hexdigest()[:12])
    binary = home / "bin" / "uv"
    if binary.exists():
        return str(binary)
    say("installing uv into .cache")
    CACHE.mkdir(exist_ok=True)
    partial = CACHE / f"uv-partial-{os.getpid()}"
    pip = [sys.executable, "-m", "pip"]
    if run([*pip, "--version"]).returncode:
        # Debian's python3 has venv or pip only when their packages are installed; either will do.
        made = run([sys.executable, "-m", "venv", str(CACHE / "bootstrap")])
        pip = [str(CACHE / "bootstrap" / "bin" / "python"), "-m", "pip"]
        if made.returncode or run([*pip, "--version"]).returncode:
            raise SetupFailed(
                "Neither pip nor venv works with this Python.",
                "python3 with pip or venv",
                tail(made),
                "Install python3-venv or python3-pip.",
            )
    result = run([*pip, "install", "--quiet", "--require-hashes", "--target", str(partial), "-r", str(requirement)])
    if result.returncode:
        shutil.rmtree(partial, ignore_errors=True)
        raise SetupFailed(
            "uv could not be installed.",
            "a package index that pip reaches",
            tail(result),
            "Check the network, proxy and index settings of pip (PIP_INDEX_URL, pip.conf) and run again.",
        )
    shutil.rmtree(home, ignore_errors=True)
    partial.rename(home)
    return str(binary)


def works(python: Path) -> bool:
    """Whether `python` starts and is one of the wanted versions."""
    try:
        result = subprocess.run(
            [str(python), "-c", "import sys, ssl, ctypes, sqlite3; print('%d.%d' % sys.version_info[:2])"],
            capture_output=True, text=True, timeout=20, check=False,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired):
        return False
    return result.returncode == 0 and result.stdout.strip() in WANTED


def find_python(uv_binary: str) -> str:
    """A working Python of a wanted version: on PATH, kept by pyenv even if not selected, or fetched by uv."""
    candidates = [Path(sys.executable)]
    for version in WANTED:
        found = shutil.which(f"python{version}")
        candidates += [Path(found)] if found else []
    found = shutil.which("python3")
    candidates += [Path(found)] if found else []
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    for version in WANTED:
        candidates += sorted(pyenv.glob(f"{version}*/bin/python"), reverse=True)
    for candidate in candidates:
        if works(candidate):
            return str(candidate)
    say("no Python >= 3.12 on this machine; asking uv for one")
    result = run([uv_binary, "python", "install", "--quiet", WANTED[0]], UV_PYTHON_INSTALL_DIR=str(CACHE / "python"))
    installed = sorted((CACHE / "python").glob("*/bin/python3")) if result.returncode == 0 else []
    if not installed:
        raise SetupFailed(
            "No suitable Python could be found or fetched.",
            f"a working Python {', '.join(sorted(WANTED))} on PATH or under pyenv, or uv able to download one",
            f"{len(candidates)} interpreters looked at; uv said: {tail(result)}",
            "Install python3.12 or newer (package manager, pyenv or python.org) and run again.",
        )
    return str(installed[0])


def fingerprint() -> str:
    digest = hashlib.sha256(str(ROOT).encode())
    for layer in LAYERS:
        digest.update((ROOT / "requirements" / f"{layer}.txt").read_bytes())
    return digest.hexdigest()


def installed_layers() -> set[str]:
    """The layers that .venv holds in their present versions; empty when it must be made anew."""
    try:
        stamp = json.loads(STAMP.read_text())
        return (
            set(stamp["layers"]) if stamp["fingerprint"] == fingerprint() and (VENV / "bin/python").exists() else set()
        )
    except (OSError, ValueError, KeyError, TypeError):
        return set()


def set_up(wanted: set[str]) -> None:
    present = installed_layers()
    if wanted <= present:
        return
    uv_binary = uv()
    if not (VENV / "bin" / "python").exists() or not works(VENV / "bin" / "python"):
        python = find_python(uv_binary)
        say(f"making .venv with {python}")
        made = run([uv_binary, "venv", "--quiet", "--clear", "--python", python, str(VENV)])
        if made.returncode:
            raise SetupFailed(
                "The environment .venv could not be made.",
                "a writable project folder",
                tail(made),
                "Free it or its disk and run again.",
            )
    layers = [layer for layer in LAYERS if layer in wanted | present]
    say(f"installing {' + '.join(layers)} requirements (locked, hashed)")
    STAMP.unlink(missing_ok=True)
    files = (str(ROOT / "requirements" / f"{layer}.txt") for layer in layers)
    sync = [uv_binary, "pip", "sync", "--quiet", "--require-hashes", "--compile-bytecode"]
    sync += ["--python", str(VENV / "bin" / "python"), *files]
    result = run(sync)
    if result.returncode and "certificate" in result.stderr:
        # A company's own certificate authority is known to the system, not to uv.
        result = run(sync, UV_SYSTEM_CERTS="1")
    if result.returncode:
        raise SetupFailed(
            "The Python packages could not be installed.",
            "a package index that uv reaches, holding the locked versions",
            tail(result),
            "Check the network, proxy and index settings of uv (UV_INDEX_URL, uv.toml) and run again.",
        )
    # The core is importable in the project's environment, straight from the tree.
    site = next((VENV / "lib").glob("python3.*/site-packages"))
    (site / "archon_align.pth").write_text(f"{ROOT / 'module_utils'}\n")
    STAMP.write_text(json.dumps({"layers": layers, "fingerprint": fingerprint()}))
    say("done")


def set_up_collection(python: Path) -> None:
    """The one collection that lint and the scenarios need, where ansible.cfg looks for it."""
    requirement = ROOT / "requirements" / "collections.txt"
    stamp = COLLECTIONS / "archon-align.txt"
    wanted = hashlib.sha256(requirement.read_bytes()).hexdigest()
    if stamp.exists() and stamp.read_text() == wanted:
        return
    say(f"installing the collection {COLLECTION.replace('/', '.')} from the PyPI package ansible")
    partial = CACHE / f"collections-partial-{os.getpid()}"
    command = [uv(), "pip", "install", "--quiet", "--no-deps", "--require-hashes", "--python", str(python)]
    result = run([*command, "--target", str(partial), "-r", str(requirement)])
    if result.returncode:
        shutil.rmtree(partial, ignore_errors=True)
        raise SetupFailed(
            "The collection could not be installed.",
            "a package index that uv reaches, holding the locked version of ansible",
            tail(result),
            "Check the network, proxy and index settings of uv (UV_INDEX_URL, uv.toml) and run again.",
        )
    shutil.rmtree(COLLECTIONS, ignore_errors=True)
    place = COLLECTIONS / "ansible_collections" / COLLECTION
    place.parent.mkdir(parents=True)
    (partial / "ansible_collections" / COLLECTION).rename(place)
    shutil.rmtree(partial)
    stamp.write_text(wanted)


def compile_tree() -> None:
    """Python keeps what it has compiled, unless PYTHONDONTWRITEBYTECODE forbids it; then every task would compile the core anew.

    Quick when nothing has changed; where the folder cannot be written, things are only slower.
    """
    run([str(VENV / "bin" / "python"), "-m", "compileall", "-q", *(str(ROOT / name) for name in COMPILED)])


def main() -> int:
    wanted = set(sys.argv[1:])
    if not wanted or not wanted <= set(LAYERS):
        print(__doc__, file=sys.stderr)
        return 64
    try:
        set_up(wanted)
        if "dev" in wanted:
            set_up_collection(VENV / "bin" / "python")
        compile_tree()
    except SetupFailed as error:
        print(f"setup: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        print(
            f"setup: a file could not be written: {error}\n  remedy:   free the disk or the folder, then run again.",
            file=sys.stderr,
        )
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
