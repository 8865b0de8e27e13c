"""The change of vectors is undone: the old ones are back in their place by id, from their copy or from the restore point's file."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from archon_align.database.session import open_session
from archon_align.embedded.server import EmbeddedServer
from archon_align.embedding import kept
from archon_align.errors import AlignError
from archon_align.rollback.ledger import Ledger
from test_embedding_dimensions import COPY, PAGES, World
from test_embedding_dimensions import world as world  # the fixture

from tests.integration.rollback.structure_worlds import undone


def dump(world: World, server: EmbeddedServer) -> str:
    command = [server.bin / "pg_dump", "-s", "-n", "public", "--restrict-key=oracle", world.prod]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def sorted_lines(text: str) -> list[str]:
    """The old column is at the table's end now: the order of columns does not count."""
    return sorted(line.strip().rstrip(",") for line in text.splitlines())


def align(world: World) -> None:
    for outcome in (world.schema(), world.rebuild(), world.search()):
        assert outcome.status == "changed", outcome.error


def remove_copies(world: World) -> None:
    context = world.context(phase="validate")
    with open_session(context, context.prod) as session:
        kept.remove(session, kept.find(session), Ledger(context))


@pytest.mark.parametrize("validated", [False, True])
def test_old_vectors_come_back(world: World, server: EmbeddedServer, validated: bool) -> None:
    before, old, others = dump(world, server), world.old(), world.others()
    align(world)
    assert world.columns()["embedding"] == "vector(768)"
    if validated:
        remove_copies(world)
        assert world.value(f"SELECT to_regclass('{COPY}')") is None
    world.rows(f"UPDATE {PAGES} SET metadata = '{{}}' WHERE id = (SELECT max(id) FROM {PAGES} WHERE id % 3 = 0)")
    world.rows("UPDATE archon_code_examples SET embedding = NULL")  # as undoing the entries of kind `vectors` does

    done = undone(world.context(phase="rollback"))

    assert world.old() == old
    assert len([one for one in zip(world.others(), others, strict=True) if one[0] != one[1]]) <= 1
    assert sorted_lines(dump(world, server)) == sorted_lines(before)
    assert [*done.kept] == [f"vectors of public.{PAGES}"]
    assert done.kept[f"vectors of public.{PAGES}"].why.startswith("1 rows that users wrote since")
    assert world.value(f"SELECT to_regclass('{COPY}')") is None
    assert undone(world.context(phase="rollback")).statements == ()


def test_a_file_that_was_changed_is_refused_before_anything_is(world: World, server: EmbeddedServer) -> None:
    align(world)
    remove_copies(world)
    (path,) = (Path(world.context().run.artifacts) / "restore-points").glob("*.vectors")
    assert path.stat().st_mode & 0o777 == 0o600
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    picture = dump(world, server)

    with pytest.raises(AlignError) as caught:
        undone(world.context(phase="rollback"))

    assert caught.value.code == "restore_point_unreadable"
    assert dump(world, server) == picture
