"""The parts of a backup that need no database."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from archon_align.backup import manifest, space, tools
from archon_align.backup.contents import without
from archon_align.backup.dump import quoted_pattern
from archon_align.backup.inventory import counts, differences
from archon_align.backup.outside import LeftOut
from archon_align.errors import AlignError
from hypothesis import given
from hypothesis import strategies as st

LISTING = """;
; Archive created at 2026-01-01 00:00:00 UTC
5; 2615 2200 SCHEMA - public pg_database_owner
2920; 0 0 COMMENT - SCHEMA public owner
221; 1259 16734 TABLE public archon_projects owner
2721; 2606 16778 FK CONSTRAINT public archon_projects archon_projects_owner_fkey owner
2722; 0 0 COMMENT public CONSTRAINT archon_projects_owner_fkey ON archon_projects owner
2723; 1259 16800 INDEX public odd owner
2724; 0 0 COMMENT public INDEX odd owner
2725; 0 0 COMMENT public INDEX odd_one owner
2726; 2606 16800 CONSTRAINT public archon_projects same_number_in_another_catalogue owner
"""


def test_left_out_entries_go_with_their_comments_and_nothing_else_goes() -> None:
    fk = "CONSTRAINT archon_projects_owner_fkey ON archon_projects"
    kept = without(
        LISTING,
        [
            LeftOut("table constraint", "x", "why", "public", fk, 2606, 16778),
            LeftOut("index", "public.odd", "why", "public", "INDEX odd", 1259, 16800),
        ],
    )
    assert [line.split(";")[0] for line in kept.splitlines()] == ["2920", "221", "2725", "2726"]


@given(st.text(min_size=1).filter(lambda text: "\x00" not in text))
def test_a_schema_pattern_is_one_quoted_name(name: str) -> None:
    pattern = quoted_pattern(name)
    assert (pattern[0], pattern[-1]) == ('"', '"')
    assert pattern[1:-1].replace('""', "").count('"') == 0
    assert pattern[1:-1].replace('""', '"') == name


@given(st.text(alphabet=st.characters(blacklist_characters="\n\r\x00"), min_size=1))
def test_a_passfile_line_gives_the_password_back(password: str) -> None:
    fields, current, escaped = [], "", False
    for character in tools._passfile_line(password).removesuffix("\n"):
        if escaped or character not in "\\:":
            current, escaped = current + character, False
        elif character == "\\":
            escaped = True
        else:
            fields.append(current)
            current = ""
    assert [*fields, current] == ["*", "*", "*", "*", password]


def test_children_do_not_inherit_the_password(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGPASSWORD", "secret")
    monkeypatch.setenv("PGSSLROOTCERT", "/etc/ca.pem")
    environment = tools.environment({"A": "b"})
    assert "secret" not in environment.values()
    assert (environment["A"], environment["PGSSLROOTCERT"], environment["LC_ALL"]) == ("b", "/etc/ca.pem", "C")


@pytest.mark.parametrize(("version", "major"), [("18.4", 18), ("19beta1", 19), ("20devel", 20), ("9.6.24", 9)])
def test_major_versions(version: str, major: int) -> None:
    assert tools.Tool(Path("pg_dump"), version).major == major


def test_the_telling_line_of_a_tools_output() -> None:
    said = "pg_dump: detail: Query was: LOCK\npg_dump: error: query failed: ERROR:  permission denied for table x\nmore"
    assert tools.first_error(said) == "pg_dump: error: query failed: ERROR:  permission denied for table x"
    assert tools.first_error("") == "no message"


def test_differences_name_what_is_missing_or_other_and_ignore_what_is_besides() -> None:
    expected = {("table", "a"): "owner", ("table", "b"): "owner", ("index", "c"): "btree"}
    found = {("table", "a"): "owner", ("table", "b"): "other", ("view", "d"): ""}
    assert differences(expected, found) == ["index c: missing", "table b: 'owner' became 'other'"]
    assert counts(expected) == {"index": 1, "table": 2}


@pytest.fixture
def backup(tmp_path: Path) -> Path:
    dump = tmp_path / "public.dump"
    dump.write_bytes(b"the dump")
    content = {"format": manifest.FORMAT, "verified": True, "files": manifest.checksums(tmp_path)}
    (tmp_path / manifest.NAME).write_bytes(manifest.as_bytes(content))
    return tmp_path


def test_a_whole_backup_is_accepted(backup: Path) -> None:
    assert manifest.verify_manifest(backup)["files"]["public.dump"]["bytes"] == 8


@pytest.mark.parametrize(
    ("harm", "found"),
    [
        (lambda folder: (folder / "public.dump").write_bytes(b"THE dump"), "SHA-256"),
        (lambda folder: (folder / "public.dump").write_bytes(b"the dum"), "7 bytes"),
        (lambda folder: (folder / "public.dump").unlink(), "No such file"),
        (lambda folder: (folder / manifest.NAME).unlink(), "FileNotFoundError"),
        (lambda folder: (folder / manifest.NAME).write_text("{"), "JSONDecodeError"),
        (lambda folder: (folder / manifest.NAME).write_text("[]"), "TypeError"),
        (lambda folder: _edit(folder, verified=False, unverified_because="rows differ"), "rows differ"),
        (lambda folder: _edit(folder, format=99), "format 99"),
        (lambda folder: _edit(folder, files={"../public.dump": {"bytes": 8, "sha256": ""}}), "../public.dump"),
    ],
)
def test_a_harmed_backup_is_refused(backup: Path, harm: object, found: str) -> None:
    harm(backup)  # type: ignore[operator]
    with pytest.raises(AlignError) as raised:
        manifest.verify_manifest(backup)
    assert raised.value.code == "backup_unusable"
    assert found in raised.value.found


def _edit(folder: Path, **changes: object) -> None:
    path = folder / manifest.NAME
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


@pytest.mark.parametrize(("free_mib", "enough"), [(3000, True), (300, False)])
def test_dump_and_proof_share_a_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, free_mib: int, enough: bool
) -> None:
    monkeypatch.setattr(space.shutil, "disk_usage", lambda _: type("Usage", (), {"free": free_mib * 2**20}))
    sizes = {"dump": 160 * 2**20, "table_bytes": 100 * 2**20, "index_bytes": 50 * 2**20, "min_free_mb": 200}
    if enough:
        space.require_space(tmp_path / "not" / "yet", tmp_path, **sizes)
        return
    with pytest.raises(AlignError) as raised:
        space.require_space(tmp_path / "not" / "yet", tmp_path, **sizes)
    # 160 for the dump, 180 + 100 + 100 for the server, 200 to spare
    assert raised.value.expected.startswith("740 MiB free")
    assert raised.value.found == "300 MiB free"
