"""Set-up says clearly what a machine lacks, and leaves nothing half-made that the next try would trip over."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    for name in ("scripts", "requirements"):
        shutil.copytree(ROOT / name, tmp_path / name)
    return tmp_path


def run(clone: Path, *layers: str, **environment: str) -> subprocess.CompletedProcess[str]:
    base = {key: value for key, value in os.environ.items() if not key.startswith(("PIP_", "UV_"))}
    return subprocess.run(
        [sys.executable, "scripts/setup.py", *layers],
        cwd=clone,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
        env=base | environment,
    )


def test_unreachable_index_names_the_remedy(clone: Path) -> None:
    unreachable = {
        "PIP_INDEX_URL": "http://127.0.0.1:9/simple",
        "PIP_CONFIG_FILE": os.devnull,
        "PIP_RETRIES": "0",
        "PIP_NO_CACHE_DIR": "1",
    }
    result = run(clone, "runtime", **unreachable)
    assert result.returncode == 1
    assert "uv could not be installed" in result.stderr
    assert "remedy:" in result.stderr
    assert "Traceback" not in result.stderr
    assert not (clone / ".venv").exists()


def test_no_suitable_python_names_the_remedy(clone: Path, tmp_path: Path) -> None:
    cache = next((ROOT / ".cache").glob("uv-*"))
    (clone / ".cache").mkdir()
    (clone / ".cache" / cache.name).symlink_to(cache)
    script = clone / "scripts" / "setup.py"
    script.write_text(script.read_text().replace('WANTED = ("3.13", "3.12", "3.14")', 'WANTED = ("3.99",)'))
    result = run(clone, "runtime", UV_OFFLINE="1")
    assert result.returncode == 1
    assert "No suitable Python could be found or fetched" in result.stderr
    assert "Install python3.12" in result.stderr
    assert "Traceback" not in result.stderr


def test_wrong_usage(clone: Path) -> None:
    assert run(clone, "nonsense").returncode == 64
