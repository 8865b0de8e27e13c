"""Compile requirements/*.in into locked files with hashes, for all platforms and without download addresses."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LAYERS = ("uv", "runtime", "lab", "dev", "collections", "peer")  # in the order in which they constrain each other


def main() -> int:
    binary = next((ROOT / ".cache").glob("uv-*/bin/uv"))
    for layer in LAYERS:
        result = subprocess.run(
            [str(binary), "pip", "compile", "--quiet", "--universal", "--generate-hashes", "--upgrade", "--no-annotate",
             "--no-emit-index-url", "--no-emit-find-links", "--python-version", "3.11" if layer == "uv" else "3.12",
             "--custom-compile-command", "make requirements", f"requirements/{layer}.in", "-o", f"requirements/{layer}.txt"],
            cwd=ROOT, check=False, timeout=600,
        )  # fmt: skip
        if result.returncode:
            return result.returncode
    return 0


if __name__ == "__main__":
    sys.exit(main())
