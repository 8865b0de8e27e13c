"""What a host sends is taken for what it may be: files, each inside the run's folder, or nothing at all."""

from __future__ import annotations

import io
import stat
import tarfile
from pathlib import Path

import pytest
from archon_align import spool
from archon_align.errors import AlignError


def archive(path: Path, *members: tarfile.TarInfo) -> Path:
    with tarfile.open(path, "w") as tar:
        for member in members:
            member.size = 4 if member.isreg() else 0
            tar.addfile(member, io.BytesIO(b"evil"))
    return path


def member(name: str, kind: bytes = tarfile.REGTYPE, link: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.mode = kind, link, 0o6777
    return info


@pytest.mark.parametrize(
    "odd",
    [
        member("../outside"),
        member("a/../../outside"),
        member("/tmp/outside"),  # noqa: S108 - never written
        member(".spool.json"),
        member("a/.hidden/b"),
        member("link", tarfile.SYMTYPE, "/etc/passwd"),
        member("hard", tarfile.LNKTYPE, "fine"),
        member("pipe", tarfile.FIFOTYPE),
        member("device", tarfile.CHRTYPE),
    ],
    ids=lambda odd: f"{odd.name}-{odd.type.decode()}",
)
def test_an_odd_member_leaves_nothing_written(tmp_path: Path, odd: tarfile.TarInfo) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    with pytest.raises(AlignError, match="cannot be brought in"):
        spool.unpack(archive(tmp_path / "a.tar", member("fine"), odd), folder)
    assert list(folder.iterdir()) == []
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.tar", "run"]


def test_no_link_that_lies_there_leads_outside(tmp_path: Path) -> None:
    folder, outside = tmp_path / "run", tmp_path / "outside"
    folder.mkdir()
    outside.mkdir()
    (folder / "restore-points").symlink_to(outside)
    with pytest.raises(AlignError, match="link"):
        spool.unpack(archive(tmp_path / "a.tar", member("restore-points/x.jsonl")), folder)
    assert list(outside.iterdir()) == []


def test_what_is_no_archive_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.tar").write_bytes(b"no archive" * 100)
    with pytest.raises(AlignError, match="cannot be brought in"):
        spool.unpack(tmp_path / "a.tar", tmp_path / "run")


def test_files_are_private_whatever_the_archive_says(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    assert spool.unpack(archive(tmp_path / "a.tar", member("a/b/c.jsonl")), folder) == ["a/b/c.jsonl"]
    assert stat.S_IMODE((folder / "a/b/c.jsonl").stat().st_mode) == 0o600
    assert {stat.S_IMODE((folder / name).stat().st_mode) for name in ("a", "a/b")} == {0o700}


def test_only_what_was_changed_is_brought_and_links_are_not_followed(tmp_path: Path) -> None:
    there = tmp_path / "spool"
    (there / "run").mkdir(parents=True)
    for name in ("same", "changed"):
        (there / "run" / name).write_text("before")
    spool.note(there, "prod")
    (there / "run/changed").write_text("after!")
    (there / "run/new").write_text("new")
    (there / "run/.new.123").write_text("half")
    (there / "run/link").symlink_to("/etc/passwd")
    assert sorted(spool.outcome(there, spool.files_below(there))) == ["run/changed", "run/new"]
