"""What the lanes work on: texts to embed, and what became of the rows they came from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from queue import SimpleQueue

from .quarantine import Quarantined
from .reader import Row
from .vectors import Vectors
from .writer import Embedded

# Characters that cost a model about what one more text costs by itself.
_TEXT = 256
# A job that so many services went away from may be what drives them away.
_SUSPECT = 3


@dataclass(frozen=True, slots=True)
class Settled:
    """What became of rows; `truncated` says by table and id which vectors stand for a text's beginning only."""

    embedded: Sequence[Embedded] = ()
    quarantined: Sequence[Quarantined] = ()
    truncated: Mapping[tuple[int, int], str] = field(default_factory=dict)
    job: bool = True  # whether this is what became of a job, not of rows that were never sent


@dataclass(slots=True, eq=False)
class Job:
    """One batch. `rows` are those that `texts` came from, in order; a question that somebody waits for has none, but `reply`.

    `attempts` counts the requests that these texts were in, `refusals` how often they were refused as they are, `outages` how
    often the service went away over them.
    """

    texts: Sequence[str]
    rows: Sequence[Row] = ()
    reply: SimpleQueue[Vectors | Exception] | None = None
    attempts: int = 0
    refusals: int = 0
    outages: int = 0

    @property
    def work(self) -> int:
        """How much there is to do, in characters."""
        return sum(map(len, self.texts)) + _TEXT * len(self.texts)

    @property
    def suspect(self) -> bool:
        """Whether its texts may be why the service goes away."""
        return self.outages >= _SUSPECT

    def halves(self) -> list[Job]:
        middle = len(self.rows) // 2
        return [self.part(range(middle)), self.part(range(middle, len(self.rows)))]

    def part(self, positions: Sequence[int]) -> Job:
        """A job of some of its rows. It was refused already, but for a row that comes alone: that has to be refused alone."""
        rows = [self.rows[n] for n in positions]
        texts = [self.texts[n] for n in positions]
        return Job(texts, rows, attempts=self.attempts, refusals=int(len(rows) > 1), outages=self.outages)
