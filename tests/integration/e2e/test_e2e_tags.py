"""Every tag and every phase playbook works as typed, alone, on the broken lab."""

from __future__ import annotations

import pytest

from tests.support.world import World


def test_a_phase_that_needs_an_earlier_one_says_so(world: World) -> None:
    """Before the schema was (below)."""
    result = world.play("--tags", "embeddings")
    assert result.returncode != 0
    assert "schema" in result.stdout
    assert world.value("prod", "SELECT count(*) FROM archon_crawled_pages WHERE embedding IS NULL") == 93


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--tags", "ollama"], {"embedding_service"}),
        (["--tags", "backup"], {"backup"}),
        (["--tags", "schema"], {"backup", "schema"}),
        (["--tags", "report"], {"validate"}),
    ],
    ids=lambda value: value[-1] if isinstance(value, list) else "",
)
def test_a_tag_runs_its_part(world: World, arguments: list[str], expected: set[str]) -> None:
    result = world.play(*arguments)
    assert result.returncode == 0, result.stdout + result.stderr
    assert {phase["name"] for phase in world.report["phases"]} - {"preflight"} == expected
    # Only the tag `schema` changes anything: `ollama` is the reachability check alone.
    changed = {phase["name"] for phase in world.report["phases"] if phase["changed"]}
    assert changed == ({"schema"} if "schema" in arguments else set())


@pytest.mark.parametrize("phase", ["data", "embeddings", "templates", "validate"])
def test_a_phase_playbook_runs_alone(world: World, phase: str) -> None:
    """After the schema (above), each further phase by its own playbook."""
    result = world.play(playbook=f"playbooks/{phase}.yml")
    assert result.returncode == 0, result.stdout + result.stderr
    world.wait_until_tidy()


def test_a_limit_that_leaves_out_prod_names_the_one_to_use(world: World) -> None:
    result = world.play("--limit", "archon_dev")
    assert result.returncode != 0
    assert "--limit" in result.stdout
    assert "archon_prod" in result.stdout
