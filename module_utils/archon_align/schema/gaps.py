"""What PROD's rows lack for DEV's columns, told once per table, with the decisions that would help. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from ..findings import Finding
from . import snippets
from .draft import Draft
from .evidence import HELD, Answer
from .model import Column, Table


def refuse(draft: Draft) -> None:
    """One refusal for each table in whose rows nothing says what DEV's new columns hold."""
    for key in sorted(draft.gaps):
        gaps = draft.gaps[key]
        old, new = draft.current.table(key), draft.desired.table(key)
        assert old is not None
        assert new is not None
        besides = snippets.columns_only_in(old, new)
        if besides:
            _refuse_shape(draft, old, new, gaps, besides)
        else:
            for column, answer in gaps:
                remedy = snippets.deciding("Say what the rows that exist get", snippets.backfill(column.key))
                draft.refuse("rows_in_the_way", column.key, f"{answer.reason}: {answer.text}", remedy)


def _refuse_shape(draft: Draft, old: Table, new: Table, gaps: list[tuple[Column, Answer]], besides: list[str]) -> None:
    needed = [column for column, _ in gaps]
    names = ", ".join(column.key.part for column in needed)
    message = (
        f"its rows have another shape: DEV's {names} must not be NULL and has no default ({gaps[0][1].text});"
        f" PROD has besides: {', '.join(besides)}"
    )
    written, told = snippets.shape(new, old, needed)
    ways = [written]
    pairs = snippets.likely_renames(draft.desired, draft.current)
    renamed = [(key, column.key.part) for key, column in pairs.items() if column in needed]
    if len(renamed) == len(needed):
        ways = [snippets.renames(renamed), *ways]
    what = f"Say where DEV's columns come from ({told}), as expressions over PROD's columns"
    draft.refuse("rows_in_the_way", new.key, message, snippets.deciding(what, *ways))


def possible_renames(draft: Draft) -> Iterator[Finding]:
    """Columns with values that only PROD has, beside new columns of the same type: nothing is lost, but is it meant?"""
    for key, new in snippets.likely_renames(draft.desired, draft.current).items():
        if key.table not in draft.gaps and draft.evidence.against(key, HELD) is not None:
            yield Finding(
                "possible_rename",
                "warning",
                str(key),
                f"only PROD has it, with values in it, while {new.key.part} of the same type is new and stays without them",
                f"If they are the same, write before you align:\n{snippets.rename(key, new.key.part)}",
            )


def note(draft: Draft, column: Column, answer: Answer) -> None:
    """Remember that nothing says what a new column holds in the rows that exist."""
    draft.gaps.setdefault(column.key.table, []).append((column, answer))
