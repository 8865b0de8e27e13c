"""Which waves start, by what earlier ones have come to: the tasks that decide it, with PRODs that only pass or fail."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[3]
SERIAL = yaml.safe_load((ROOT / "playbooks" / "fleet.yml").read_text())[1]["serial"]
PLAY = [
    # By a play before it, as in the fleet itself, the hosts' variables are known to the play's keyword.
    {"hosts": "archon_prod", "gather_facts": False, "tasks": [{"ansible.builtin.meta": "noop"}]},
    {
        "hosts": "archon_prod",
        "gather_facts": False,
        "serial": SERIAL,
        "tasks": [
            {"ansible.builtin.import_tasks": str(ROOT / "playbooks" / "tasks" / "fleet_wave.yml")},
            {"ansible.builtin.debug": {"msg": "started {{ inventory_hostname }} in wave {{ archon_fleet_wave }}"}},
            {
                "block": [
                    {"ansible.builtin.assert": {"that": "inventory_hostname is not match('bad')", "quiet": True}},
                    {"ansible.builtin.set_fact": {"archon_fleet_passed": True}},
                ],
                "rescue": [{"ansible.builtin.debug": {"msg": "{{ ansible_failed_task.name }}"}}],
            },
        ],
    },
    {
        "hosts": "archon_prod",
        "gather_facts": False,
        "tasks": [{"ansible.builtin.debug": {"msg": "ended: {{ hostvars | dict2items | map(attribute='value') "
        "| map(attribute='archon_fleet_ended', default='') | select | unique | join }}."}}],
    },
]  # fmt: skip


def waves(
    folder: Path, names: str, *arguments: str, settings: dict[str, object] | None = None
) -> tuple[list[str], str]:
    """The PRODs of each wave that was started, and why no further one was."""
    hosts = {"archon_prod": {"hosts": dict.fromkeys(names.split()), "vars": settings or {}}}
    (folder / "hosts.yml").write_text(yaml.safe_dump(hosts, sort_keys=False))
    (folder / "play.yml").write_text(yaml.safe_dump(PLAY, sort_keys=False))
    done = subprocess.run(
        ["ansible-playbook", "-i", str(folder / "hosts.yml"), str(folder / "play.yml"), *arguments],
        cwd=ROOT,
        env=os.environ
        | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg")},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    began = [
        line.split("started ")[1].split()
        for line in done.stdout.splitlines()
        if "msg: started " in line and "{{" not in line
    ]
    numbers = [wave for *_, wave in began]
    found = [" ".join(sorted(one[0] for one in began if one[-1] == number)) for number in dict.fromkeys(numbers)]
    return found, done.stdout.split("ended: ")[1].split(".")[0]


def test_the_waves_are_the_inventorys_or_what_one_asks_for(tmp_path: Path) -> None:
    names = "a b c d e f g h"
    assert waves(tmp_path, names) == (["a", "b c", "d e f g h"], "")
    assert waves(tmp_path, names, settings={"archon_fleet_waves": [2, "50%"]}) == (["a b", "c d e f", "g h"], "")
    asked = ("-e", '{"archon_fleet_waves": [7]}')
    assert waves(tmp_path, names, *asked, settings={"archon_fleet_waves": [2]}) == (["a b c d e f g", "h"], "")
    assert waves(tmp_path, names, "--limit", "c,d") == (["c", "d"], "")


@pytest.mark.parametrize(
    ("names", "percentage", "expected", "why"),
    [
        ("bad-a b c", 100, ["bad-a"], "the canary bad-a did not pass"),
        ("a bad-b c d", 50, ["a", "bad-b", "c", "d"], ""),
        ("a bad-b c d", 49, ["a", "bad-b"], "1 of 2 PRODs did not pass, and archon_fleet_max_fail_percentage is 49"),
        ("a bad-b bad-c d", 50, ["a", "bad-b", "bad-c"], "2 of 3 PRODs did not pass"),
        ("a bad-b bad-c d", 100, ["a", "bad-b", "bad-c", "d"], ""),
    ],
)
def test_a_share_of_failures_ends_it_between_waves_and_a_canary_at_once(
    tmp_path: Path, names: str, percentage: int, expected: list[str], why: str
) -> None:
    settings = {"archon_fleet_waves": [1], "archon_fleet_max_fail_percentage": percentage}
    found, ended = waves(tmp_path, names, settings=settings)
    assert found == expected
    assert ended.startswith(why) if why else ended == ""
