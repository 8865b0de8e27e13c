"""The container scenarios of molecule/: what they need, running them, and removing what they made.

Usage: scenarios.py system                  install podman, runc, mmdebstrap and ssh with the distribution's package manager (root)
       scenarios.py run [--optional] [NAME…]  build missing images, then molecule test; no name: all scenarios
       scenarios.py remove NUMBER FOLDER    remove the containers, networks and files of one set

With --optional a machine that cannot run them is told, with what it lacks, and that is no failure (make test). Several sets may live
side by side: ARCHON_SCENARIOS_INSTANCE, from 0 to 99, is the number of the set that is used.
"""

from __future__ import annotations

import json
import os
import resource
import shutil
import subprocess
import sys
import time
from pathlib import Path

import images
import psutil

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / ".cache" / "scenarios"
CONFIGURATION = FOLDER / "containers.conf"
LABEL = "archon-align-scenarios"
PACKAGES = ("podman", "runc", "mmdebstrap")
CLIENT = "openssh-client"  # for the scenario ssh alone, which says so where there is none
WRONG_USAGE = 64
_SECONDS = 3600


def lacking() -> str:
    """Why this machine cannot run the scenarios, '' if it can."""
    if sys.platform != "linux":
        return "they need Linux"
    if os.geteuid() != 0:
        return "they need root, for networks and servers of their own"
    if missing := [name for name in PACKAGES if shutil.which(name) is None]:
        return f"{', '.join(missing)} not found"
    configure()
    # No image is there yet: the machine's own files, under an overlay that is thrown away, with a network.
    probe = ["podman", "run", "--rm", "--rootfs", "/:O", shutil.which("true") or "/bin/true"]
    tried = subprocess.run(probe, capture_output=True, text=True, check=False, timeout=120)
    return "" if tried.returncode == 0 else f"podman cannot start a container: {' '.join(tried.stderr.split())[-300:]}"


def configure() -> None:
    """A containers.conf of the scenarios' own: no limit above what this machine grants, and a runtime that works on any cgroup."""
    limits = []
    for name, kind, wanted in (
        ("nofile", resource.RLIMIT_NOFILE, 16384),
        ("nproc", resource.RLIMIT_NPROC, 16384),
    ):
        hard = resource.getrlimit(kind)[1]
        given = wanted if hard == resource.RLIM_INFINITY else min(hard, wanted)
        limits.append(f'"{name}={given}:{given}"')
    FOLDER.mkdir(parents=True, exist_ok=True)
    CONFIGURATION.write_text(
        "[containers]\n"
        f"default_ulimits = [{', '.join(limits)}]\n"
        "[engine]\n"
        'runtime = "runc"\n'
        'cgroup_manager = "cgroupfs"\n'
        'events_logger = "file"\n'
    )
    os.environ["CONTAINERS_CONF"] = str(CONFIGURATION)


def system() -> int:
    """Install what the distribution has to give."""
    if not lacking() and shutil.which("ssh"):
        return 0
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        why = lacking()
        print(
            f"scenarios: {why or 'ssh not found'}\n  remedy: install {', '.join(PACKAGES)}, {CLIENT} and run as root",
            file=sys.stderr,
        )
        return 1 if why else 0
    print(f"scenarios: installing {', '.join(PACKAGES)}, {CLIENT}", flush=True)
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    for command in (["apt-get", "update", "-qq"], ["apt-get", "install", "-qq", "-y", *PACKAGES, CLIENT]):
        made = subprocess.run(command, capture_output=True, text=True, check=False, timeout=_SECONDS, env=environment)
        if made.returncode:
            print(made.stdout[-2000:], made.stderr[-2000:], sep="\n", file=sys.stderr)
            return 1
    if why := lacking():
        print(f"scenarios: {why}", file=sys.stderr)
        return 1
    return 0


def names() -> list[str]:
    """All scenarios there are, in the order in which molecule runs them."""
    return sorted(found.parent.name for found in (ROOT / "molecule").glob("*/molecule.yml"))


def _images(chosen: list[str]) -> set[str]:
    """The images that the containers of these scenarios are of."""
    inventories = [path for name in chosen for path in (ROOT / "molecule" / name / "inventory").rglob("*.yml")]
    kinds = "".join(path.read_text() for path in inventories)
    return {image.name for image in images.IMAGES if image.name == "host" or f"scenario_kind: {image.name}" in kinds}


def run(wanted: list[str], *, optional: bool) -> int:
    """Run scenarios one after the other, with the images they need."""
    if unknown := set(wanted) - set(names()):
        print(
            f"scenarios: no such scenario: {', '.join(sorted(unknown))}; there are {', '.join(names())}",
            file=sys.stderr,
        )
        return WRONG_USAGE
    if why := lacking() or images.unobtainable(needed := _images(wanted or names())):
        print(f"scenarios: NOT RUN: {', '.join(wanted or names())}: {why}")
        print(
            f"  remedy: as root on a machine with {', '.join(PACKAGES)} (make molecule-setup installs them) and a Debian mirror: make molecule"
        )
        return 0 if optional else 1
    instance = os.environ.setdefault("ARCHON_SCENARIOS_INSTANCE", "0")
    folder = FOLDER / instance
    remove(instance, folder)
    try:
        images.ensure(needed)
    except subprocess.CalledProcessError as error:
        print(
            f"scenarios: an image could not be built: {error.cmd[0]} failed with exit code {error.returncode}",
            file=sys.stderr,
        )
        return 1
    references = {image.name: image.reference for image in images.IMAGES}
    (FOLDER / "images.json").write_text(json.dumps(references) + "\n")
    folder.mkdir(mode=0o700, parents=True)
    chosen = [part for name in wanted for part in ("--scenario-name", name)] or ["--all"]
    started = time.monotonic()
    environment = {
        **os.environ,
        "PATH": f"{ROOT / '.venv' / 'bin'}{os.pathsep}{os.environ.get('PATH', '')}",
        "MOLECULE_EPHEMERAL_DIRECTORY": str(folder),
        "PY_COLORS": "0",
        "NO_COLOR": "1",
    }
    try:
        done = subprocess.run(
            ["molecule", "test", "--command-borders", *chosen] if sys.stdout.isatty() else ["molecule", "test", *chosen],
            cwd=ROOT, env=environment, check=False, timeout=_SECONDS,
        )  # fmt: skip
    finally:
        remove(instance, folder)
    print(
        f"scenarios: {', '.join(wanted or names())}: {'passed' if done.returncode == 0 else 'FAILED'} in {time.monotonic() - started:.0f} s"
    )
    return done.returncode


def _podman(*arguments: str) -> list[str]:
    """The words of podman's answer; what it does not find is no failure."""
    done = subprocess.run(["podman", *arguments], capture_output=True, text=True, check=False, timeout=300)
    return done.stdout.split()


def remove(instance: str, folder: Path) -> None:
    """Remove what a set of containers consists of, and what it has left; a second time is harmless."""
    prefix = f"archon-align-{instance}"
    for process in psutil.process_iter(["cmdline"]):
        if (
            (command := process.info["cmdline"])
            and ("podman" in command[0] or "lab.portainer" in command)
            and any(str(folder) in part for part in command)
        ):
            process.kill()
    if found := _podman("ps", "--all", "--quiet", "--filter", f"label={LABEL}={instance}"):
        _podman("rm", "--force", "--time", "0", "--volumes", *found)
    for name in _podman("network", "ls", "--format", "{{.Name}}"):
        if name == prefix or name.startswith(f"{prefix}-"):
            _podman("network", "rm", "--force", name)
    shutil.rmtree(folder, ignore_errors=True)


def main() -> int:
    """The command line; 1 when something failed or is lacking, 64 for wrong usage, else molecule's own exit code."""
    match sys.argv[1:]:
        case ["system"]:
            return system()
        case ["run", "--optional", *wanted]:
            return run(wanted, optional=True)
        case ["run", *wanted]:
            return run(wanted, optional=False)
        case ["remove", instance, folder]:
            configure()
            remove(instance, Path(folder))
            return 0
    print(__doc__, file=sys.stderr)
    return WRONG_USAGE


if __name__ == "__main__":
    sys.exit(main())
