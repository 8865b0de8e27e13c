"""What the database will hold once this run's earlier phases have been carried out, for check mode. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from ..settings.store import SETTINGS
from ..settings.wanted import FOUND_BY_KEY, SETTINGS_CATEGORY
from .effective import Setting
from .stored import TEMPLATES, Changed, Stored

_TABLES = {"data": (SETTINGS,), "templates": TEMPLATES}


def tables_of(phases: Sequence[str], schema: str) -> tuple[str, ...]:
    """The tables that archon-server keeps in memory and these phases write."""
    return tuple(f"{schema}.{table}" for phase in phases for table in _TABLES.get(phase, ()))


def foresee(stored: Stored, settings: Mapping[str, str], changed_here: Sequence[str]) -> Stored:
    """`stored` with the settings that the data phase stores, and with the changes of this run as if they were made now."""
    rows = {row.key: row for row in stored.settings}
    different = False
    for key, value in settings.items():
        row = rows.get(key)
        category = row.category if row is not None and key in FOUND_BY_KEY else SETTINGS_CATEGORY
        if row is not None and (row.encrypted or (row.value == value and row.category == category)):
            continue
        rows[key] = Setting(key, category, value, updated_at=stored.now)
        different = True

    def at_end(one: Changed) -> Changed:
        is_settings = one.table.endswith(f".{SETTINGS}")
        touched = different if is_settings else one.table in changed_here
        return replace(one, at=stored.now) if touched else one

    return replace(stored, settings=tuple(rows.values()), changed=tuple(map(at_end, stored.changed)))
