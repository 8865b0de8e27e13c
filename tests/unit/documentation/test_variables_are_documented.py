"""docs/configuration.md and the contract of what all roles share name the same variables."""

from __future__ import annotations

import re
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[3]


def test_every_shared_variable_is_in_the_configuration_and_the_other_way_round() -> None:
    contract = yaml.safe_load((ROOT / "roles/archon/meta/argument_specs.yml").read_text())
    promised = set(contract["argument_specs"]["main"]["options"])
    text = (ROOT / "docs/configuration.md").read_text().partition("\n## Variables\n")[2].partition("\n## ")[0]
    told = {
        name for row in re.findall(r"^\|([^|]+)\|", text, re.MULTILINE) for name in re.findall(r"`(archon_\w+)`", row)
    }
    assert promised - told == set()
    # Those of a host, and of a fleet's playbook.
    assert told - promised == {
        "archon_dsn",
        "archon_prod_dsn",
        "archon_fleet_waves",
        "archon_fleet_max_fail_percentage",
    }
