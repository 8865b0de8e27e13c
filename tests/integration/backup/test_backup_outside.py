"""Schemas that lean on what their dump does not hold: other schemas, extensions that are not bundled, roles."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest
from archon_align.backup import phase
from archon_align.context import Context
from archon_align.embedded.server import EmbeddedServer
from archon_align.errors import AlignError

MakeContext = Callable[..., Context]

_CONTROL = "default_version = '1.0'\nrelocatable = true\n"
# Extensions that the bundled server lacks, made of SQL, in the way of pgcrypto, pg_trgm, citext and plv8.
_EXTENSIONS = {
    "likecrypto": """
        CREATE FUNCTION digest(data text, kind text DEFAULT 'sha256') RETURNS bytea LANGUAGE sql IMMUTABLE STRICT
          AS $$ SELECT convert_to(upper(data), 'UTF8') $$;
        CREATE FUNCTION salts(n int, OUT a text, OUT b text) RETURNS SETOF record LANGUAGE sql AS $$ SELECT 'x', 'y' $$;
    """,
    "liketrgm": """
        CREATE FUNCTION cmp(text, text) RETURNS int LANGUAGE sql IMMUTABLE AS $$ SELECT bttextcmp($1, $2) $$;
        CREATE OPERATOR CLASS odd_ops FOR TYPE text USING btree AS
          OPERATOR 1 <, OPERATOR 2 <=, OPERATOR 3 =, OPERATOR 4 >=, OPERATOR 5 >, FUNCTION 1 cmp(text, text);
    """,
    "likecitext": "CREATE DOMAIN cit AS text;",
}
_HOSTED = (Path(__file__).parent / "hosted.sql").read_text()


@pytest.fixture(scope="module")
def hosted() -> Iterator[EmbeddedServer]:
    """A server with extensions that the bundled one lacks."""
    # Not below pytest's folder: the server may run as a user who cannot enter that.
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        share = folder / "share" / "extension"
        share.mkdir(parents=True)
        for extension, script in _EXTENSIONS.items():
            (share / f"{extension}.control").write_text(_CONTROL)
            (share / f"{extension}--1.0.sql").write_text(script)
        settings = {"extension_control_path": f"{folder}/share:$system"}
        with EmbeddedServer(folder / "server", settings=settings) as server:
            with psycopg.connect(server.dsn(), autocommit=True) as admin:
                admin.execute(_HOSTED.encode())
            yield server


def test_a_hosted_database_is_proved(hosted: EmbeddedServer, make_context: MakeContext) -> None:
    context = make_context(hosted.dsn(), phase="backup")
    outcome = phase.run(context, phase.Options())
    assert outcome.details["backup"]["verified"] is True
    left_out = {finding.object: finding.message for finding in outcome.findings if finding.code == "left_out_of_proof"}
    assert set(left_out) == {
        "archon_projects_owner_fkey on public.archon_projects",
        "archon_projects_title_check on public.archon_projects",
        "public.odd",
    }
    assert "auth.users" in left_out["archon_projects_owner_fkey on public.archon_projects"]
    assert "extension liketrgm" in left_out["public.odd"]
    listed = (context.run.artifacts / "backup" / "restore.list").read_text()
    assert "archon_projects_owner_fkey" in listed
    assert "SCHEMA - public" not in listed.replace("COMMENT - SCHEMA public", "")


@pytest.mark.parametrize(
    ("definition", "needed", "by"),
    [
        ("CREATE EXTENSION likecitext SCHEMA extensions; CREATE TABLE public.t (a extensions.cit)", "likecitext", "t"),
        ("CREATE TABLE public.t (a auth.level)", "auth.level", "t"),
        ("CREATE VIEW public.t AS SELECT auth.grade() IS NULL AS a", "auth.grade()", "t"),
    ],
)
def test_what_cannot_be_proved_is_refused_by_name(
    hosted: EmbeddedServer, make_context: MakeContext, definition: str, needed: str, by: str
) -> None:
    with psycopg.connect(hosted.dsn(), autocommit=True) as admin:
        admin.execute("CREATE DATABASE copy TEMPLATE postgres")
        try:
            with psycopg.connect(hosted.dsn("copy"), autocommit=True) as copy:
                copy.execute(definition.encode())
            context = make_context(hosted.dsn("copy"), phase="backup")
            with pytest.raises(AlignError) as raised:
                phase.run(context, phase.Options())
        finally:
            admin.execute("DROP DATABASE copy WITH (FORCE)")
    assert raised.value.code == "backup_not_provable"
    assert needed in raised.value.found
    assert f"public.{by}" in raised.value.object_name
    assert not (context.run.artifacts / "backup" / "public.dump").exists()


def test_a_type_of_another_schema_is_dumped_with_that_schema(hosted: EmbeddedServer, make_context: MakeContext) -> None:
    with psycopg.connect(hosted.dsn(), autocommit=True) as admin:
        admin.execute("CREATE DATABASE two TEMPLATE postgres")
        try:
            context = make_context(hosted.dsn("two"), phase="backup", schemas=("public", "auth"))
            outcome = phase.run(context, phase.Options())
        finally:
            admin.execute("DROP DATABASE two WITH (FORCE)")
    assert outcome.details["backup"]["path"] == "backup/schemas.dump"
    left_out = {finding.object for finding in outcome.findings if finding.code == "left_out_of_proof"}
    assert left_out == {"archon_projects_title_check on public.archon_projects", "public.odd"}


def test_a_vector_index_over_many_rows_is_left_out(
    new_database: Callable[[str], str], make_context: MakeContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("archon_align.backup.proof.VECTOR_INDEX_ROWS", 50)
    prod = new_database(
        "CREATE TABLE long (v vector(2)); CREATE TABLE short (v vector(2));"
        " INSERT INTO long SELECT '[1,2]' FROM generate_series(1, 50); INSERT INTO short VALUES ('[1,2]');"
        " CREATE INDEX long_v ON long USING hnsw (v vector_l2_ops); CREATE INDEX ON short USING hnsw (v vector_l2_ops);"
    )
    outcome = phase.run(make_context(prod, phase="backup"), phase.Options())
    assert [finding.object for finding in outcome.findings if finding.code == "left_out_of_proof"] == ["public.long_v"]
