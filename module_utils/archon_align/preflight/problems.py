"""Several things wrong at once, told at once."""

from __future__ import annotations

from collections.abc import Sequence

from ..errors import AlignError


class PreflightFailed(AlignError):
    """What must be put right before a run can begin; the first problem leads, because it may cause the others."""

    def __init__(self, problems: Sequence[AlignError]) -> None:
        first = problems[0]
        super().__init__(
            first.what,
            object_name=first.object_name,
            expected=first.expected,
            found=first.found,
            remedy=first.remedy,
            code=first.code,
        )
        self.problems = tuple(problems)

    def __str__(self) -> str:
        if len(self.problems) == 1:
            return str(self.problems[0])
        told = "\n".join(f"{number}. {problem}" for number, problem in enumerate(self.problems, 1))
        return f"Preflight found {len(self.problems)} problems; nothing was changed.\n{told}"
