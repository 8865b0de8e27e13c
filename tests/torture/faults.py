"""What can go wrong, and when: every choice of a round comes from its seed."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Literal

# Where in a run a fault can fall: a task, by what its banner contains, or a transaction that has written, by phase.
MARKS = {
    "start": "[preflight : Start the run]",
    "preflight": "[preflight : Check what the run needs]",
    "service": "[embeddings : The embedding service answers",
    "backup": "[backup : Back up",
    "assess": "[assess : Document",
    "schema": "[schema : Bring",
    "data": "[data : Store",
    "embeddings": "[embeddings : Rebuild",
    "search": "[embeddings : See to",
    "templates": "[templates : Move",
    "validate": "[validate : Judge",
}
_TASKS = tuple(MARKS)
_WRITING = ("schema", "data", "embeddings", "search", "templates")
_EMBEDDING = ("service", "data", "embeddings", "search")
_BEFORE_A_WRITE = ("assess", "schema", "data", "embeddings", "search")
LONGEST_DELAY = 2.5


@dataclass(frozen=True)
class Moment:
    """`delay` seconds after a task begins, or after the first write of a phase's transaction."""

    kind: Literal["task", "transaction"]
    where: str
    delay: float

    def __str__(self) -> str:
        return f"{'in ' if self.kind == 'transaction' else ''}{self.where}+{self.delay:.2f}"


@dataclass(frozen=True)
class Kind:
    """One kind of fault: the tasks in which it makes sense, whether it may fall into an open transaction, and how many
    seconds it lasts (0: it is over at once)."""

    tasks: tuple[str, ...] = _TASKS
    transactions: bool = True
    shortest: float = 0.0
    longest: float = 0.0


@dataclass(frozen=True)
class Fault:
    """One fault of a round. `choice`, from 0 to 1, decides whatever else there is to decide about it."""

    kind: str
    moment: Moment
    seconds: float
    choice: float

    def __str__(self) -> str:
        return f"{self.kind} @ {self.moment}" + (f" for {self.seconds:.1f} s" if self.seconds else "")


_SERVICE = Kind(_EMBEDDING, transactions=False, shortest=0.5, longest=12.0)
KINDS = {
    "kill playbook": Kind(),
    "stop prod": Kind(shortest=0.1, longest=8.0),
    "kill module": Kind(),
    "service killed": _SERVICE,
    "lock exclusive": Kind(_BEFORE_A_WRITE, transactions=False, shortest=1.0, longest=25.0),
    "terminate prod": Kind(),
    "disk artifacts": Kind(longest=30.0, shortest=5.0, transactions=False),
    "kill keeper": Kind(_TASKS[1:]),
    "service 500": _SERVICE,
    "stop dev": Kind(shortest=0.1, longest=8.0),
    "kill worker": Kind(),
    "lock shared": Kind(_BEFORE_A_WRITE, transactions=False, shortest=1.0, longest=25.0),
    "service hangs": _SERVICE,
    "disk server": Kind(_BEFORE_A_WRITE, shortest=1.0, longest=10.0),
    "terminate dev": Kind(("preflight", "assess", "schema", "data", "templates", "validate"), transactions=False),
    "service garbage": _SERVICE,
    "interrupt playbook": Kind(),
    "service dimension": _SERVICE,
    "service 503": _SERVICE,
    "service nan": _SERVICE,
}


@dataclass(frozen=True)
class Draw:
    """What a seed stands for. With `settled`, the next run waits until the keeper of the faulted one is done."""

    seed: int
    faults: tuple[Fault, ...]
    settled: bool


def draw(seed: int) -> Draw:
    """The choices of one round. Neighbouring seeds go through all kinds; every third round combines two faults."""
    rng = random.Random(seed)  # noqa: S311 - it must be repeatable
    names = list(KINDS)
    chosen = [names[seed % len(names)]]
    if rng.random() < 1 / 3:
        chosen.append(rng.choice([name for name in names if name != chosen[0]]))
    return Draw(seed, tuple(_fault(rng, name) for name in chosen), settled=rng.random() < 0.5)


def _fault(rng: random.Random, name: str) -> Fault:
    kind = KINDS[name]
    if kind.transactions and rng.random() < 0.5:
        moment = Moment("transaction", rng.choice(_WRITING), rng.uniform(0, 0.3))
    else:
        moment = Moment("task", rng.choice(kind.tasks), rng.uniform(0, LONGEST_DELAY))
    return Fault(name, moment, rng.uniform(kind.shortest, kind.longest), rng.random())
