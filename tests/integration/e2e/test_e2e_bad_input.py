"""What a person gets wrong: one clear error, exit status not 0, nothing changed anywhere."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest
from psycopg.conninfo import make_conninfo

from tests.support.world import World

FIVE_PARTS = ("object:", "expected:", "found:", "remedy:")


@pytest.fixture(scope="module")
def before(world: World) -> dict[str, Any]:
    """Both databases as they are before the first test, and after each."""
    return world.photograph()


@pytest.fixture(autouse=True)
def _unchanged(world: World, before: dict[str, Any]) -> Iterator[None]:
    yield
    assert world.photograph() == before


def refused(world: World, *arguments: str, says: str) -> None:
    result = world.play(*arguments)
    assert result.returncode != 0
    assert re.search(says, result.stdout + result.stderr), result.stdout + result.stderr
    for part in FIVE_PARTS:
        assert part in result.stdout + result.stderr, part
    assert "Traceback" not in result.stdout + result.stderr
    world.wait_until_tidy()


def test_dev_and_prod_the_same_database(world: World) -> None:
    refused(world, "-e", f"archon_dev_dsn={world.dsn('prod')}", says="(?i)same database")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"passfile": "/nonexistent", "password": "wr0ng"}, "password authentication failed"),
        ({"dbname": "nowhere"}, 'database "nowhere" does not exist'),
    ],
    ids=["password", "database"],
)
def test_a_wrong_part_of_the_dsn(world: World, change: dict[str, str], says: str) -> None:
    dsn = make_conninfo(world.dsn("prod"), **change)
    refused(world, "-e", f'{{"archon_prod_dsn": "{dsn}"}}', says=says)


def test_no_dsn_at_all(world: World) -> None:
    refused(world, "-e", "archon_prod_dsn=''", says="DSN of PROD cannot be used")


# Of the whole run too: what phase 4 would refuse must not be met after phases 2 and 3 have changed something.
SCOPES = pytest.mark.parametrize("scope", [("--tags", "ollama"), ()], ids=["ollama", "whole run"])


@SCOPES
def test_embedding_service_down(world: World, scope: tuple[str, ...]) -> None:
    refused(world, *scope, "-e", "archon_embedding_base_url=http://127.0.0.1:1/v1", says="127.0.0.1:1")


def test_model_missing(world: World) -> None:
    refused(world, "-e", "archon_embedding_model=no-such-model", says="no-such-model")


def test_wrong_dimension(world: World) -> None:
    refused(world, "-e", "archon_embedding_dimensions=1024", says="1024")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ('{"archon_schema_names": []}', "archon_schema_names"),
        ("archon_connect_timeout=-1", "archon_connect_timeout"),
    ],
)
def test_a_variable_that_cannot_be_used(world: World, change: str, says: str) -> None:
    refused(world, "-e", change, says=says)


def test_artifacts_folder_not_writable(world: World) -> None:
    (world.artifacts / "file").write_text("in the way")
    refused(world, "-e", f"archon_artifacts_root={world.artifacts}/file/below", says="artifact")


def test_disk_too_full_for_the_backup(world: World) -> None:
    refused(world, "-e", "preflight_min_free_mb=1000000000", says="(?i)free")
